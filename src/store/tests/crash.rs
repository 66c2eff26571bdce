//! Left half-way at each durable step: what was acknowledged is there, the rest can be done again, nothing is left over.
//! The points are compiled in by the feature `failpoints`; `make torture` runs this.

use fail::FailScenario;
use serde_json::json;

use super::*;

const POINTS: &[&str] = &[
    "store::upload::before_sync",
    "store::content::before_rename",
    "store::content::after_rename",
    "store::content::before_link",
    "store::content::after_link",
    "store::tag::before_rename",
    "store::tag::after_rename",
];

fn image(config: &[u8]) -> StoredManifest {
    let text = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": [],
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(config), "size": config.len() },
    });
    let bytes = Bytes::from(text.to_string());
    let manifest = Arc::new(Manifest::parse(None, &bytes).unwrap());
    StoredManifest { digest: sha256(&bytes), bytes, manifest }
}

async fn push_image(store: &Store, config: &[u8], tag: &str) -> Result<(), StoreError> {
    push_as(store, &repo("a"), config, sha256(config)).await?;
    store.put_manifest(&repo("a"), image(config), vec![tag.parse().unwrap()]).await
}

#[tokio::test]
async fn a_push_that_ends_at_any_step_can_be_done_again() {
    let scenario = FailScenario::setup();
    for point in POINTS {
        let dir = tempfile::tempdir().unwrap();
        let first = store(dir.path());
        push_image(&first, b"before", "kept").await.unwrap();
        fail::cfg(*point, "panic").unwrap();
        let ended = push_image(&first, b"after", "new").await;
        fail::remove(*point);
        assert!(matches!(ended, Err(StoreError::Bug(_))), "{point}: {ended:?}");
        drop(first);

        let second = store(dir.path());
        second.0.count(&CancellationToken::new()).unwrap();
        let kept = second.manifest(&repo("a"), &Reference::Tag("kept".parse().unwrap())).await.unwrap();
        assert_eq!(second.missing_references(&repo("a"), &kept).await.unwrap(), [], "{point}");
        push_image(&second, b"after", "new").await.unwrap();
        second.0.reap(Timestamp::from_millis(u64::MAX)).unwrap();
        assert_tidy(&second);
    }
    scenario.teardown();
}
