//! What is deleted at one master and there at another: the later one counts, whichever is asked.

use super::*;

const MIB: usize = 1 << 20;

/// Masters that take so little that one of them can be filled.
const SMALL: &str = "store: { dir: $DIR, maxBytes: 6MiB, reserveBytes: 0 }";

fn image(seed: u64, bytes: usize) -> Image {
    Image::of_layers(
        b"{}".to_vec(),
        vec![blob(seed, bytes)],
        &serde_json::json!({ "annotations": { "n": seed.to_string() } }),
    )
}

async fn push(masters: &Masters, master: usize, tag: &str, image: &Image) {
    masters.client(master, "rw").push_image(NAME, tag, image).await;
}

async fn delete(masters: &Masters, master: usize, reference: &str) -> u16 {
    masters.client(master, "rw").delete(&manifest_path(NAME, reference)).await.status().as_u16()
}

/// By the own store of a master.
async fn own_status(masters: &Masters, master: usize, reference: &str) -> u16 {
    status(&masters.client(master, "mirror-puller"), &manifest_path(NAME, reference)).await
}

/// Blobs until there is room for no byte.
async fn fill(masters: &Masters, master: usize) {
    let client = masters.client(master, "rw");
    let (mut bytes, mut seed) = (2 * MIB, 1000);
    while bytes > 0 {
        let content = blob(seed, bytes);
        let path = format!("/v2/{NAME}/blobs/uploads/?digest={}", digest(&content));
        let answer = client.request(Method::POST, &path).body(content).send().await.unwrap();
        match answer.status().as_u16() {
            201 => seed += 1,
            507 => bytes /= 2,
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn what_only_another_master_has_is_deleted_at_whichever_is_asked() {
    let masters = Masters::start_with(2, SMALL).await;
    fill(&masters, 1).await;
    let (tagged, named) = (image(1, MIB), image(2, MIB));
    push(&masters, 0, "v1", &tagged).await;
    push(&masters, 0, "v2", &named).await;
    assert_eq!((own_status(&masters, 1, "v1").await, own_status(&masters, 1, &named.digest()).await), (404, 404));
    assert_eq!(delete(&masters, 1, "v1").await, 202);
    assert_eq!(delete(&masters, 1, &named.digest()).await, 202);
    within(async { while own_status(&masters, 0, "v1").await != 404 {} }).await;
    within(async { while own_status(&masters, 0, &named.digest()).await != 404 {} }).await;
    within(async { while own_status(&masters, 0, "v2").await != 404 {} }).await;
    assert_eq!(own_status(&masters, 0, &tagged.digest()).await, 200, "a tag alone went");
    // What is nowhere any more, or never was, is not there to be deleted.
    for reference in ["v1", "v2", &named.digest(), "never", &digest(b"never")] {
        assert_eq!(delete(&masters, 1, reference).await, 404, "{reference}");
    }
    // One hop: who wants one master's own word gets it.
    let request = masters.client(1, "rw").request(Method::DELETE, &manifest_path(NAME, &tagged.digest()));
    assert_eq!(request.header("d8-hop", "1").send().await.unwrap().status(), 404);
    masters.end();
}

#[tokio::test]
async fn what_was_deleted_here_and_pushed_again_elsewhere_is_answered() {
    let masters = Masters::start_with(2, SMALL).await;
    let image = image(1, MIB);
    push(&masters, 0, "v1", &image).await;
    masters.until_same(&[0, 1]).await;
    assert_eq!(delete(&masters, 0, &image.digest()).await, 202);
    masters.until_same(&[0, 1]).await;
    assert_eq!(status(&masters.client(1, "ro"), &manifest_path(NAME, &image.digest())).await, 404);
    // It has no room to take it.
    fill(&masters, 1).await;
    push(&masters, 0, "v1", &image).await;
    assert_eq!(status(&masters.client(1, "ro"), &manifest_path(NAME, &image.digest())).await, 200);
    masters.end();
}

#[tokio::test]
async fn an_index_comes_with_an_image_that_was_deleted_here_and_pushed_again_there() {
    let masters = Masters::start(2).await;
    let child = image(1, 10_000);
    push(&masters, 0, "child", &child).await;
    masters.until_same(&[0, 1]).await;
    masters.part(&[&[0], &[1]]).await;
    assert_eq!(delete(&masters, 1, &child.digest()).await, 202);
    push(&masters, 0, "child", &child).await;
    let index = testkit::index(&[child.descriptor()]).to_string();
    let media_type = "application/vnd.oci.image.index.v1+json";
    let put = masters.client(0, "rw").put(&manifest_path(NAME, "all"), media_type, index.clone()).await;
    assert_eq!(put.status(), 201);
    masters.heal().await;
    let client = masters.authority.client(Some(&masters.identity(0)));
    let path = format!("{}/-/peer/v2/{NAME}/records/take/all", masters.base(1));
    let words = client.post(path).header("d8-hop", "1").send().await.unwrap().text().await.unwrap();
    assert!(words.ends_with("\ndone\n"), "{words}");
    assert_eq!(own_status(&masters, 1, "all").await, 200);
    pulled(&masters.client(1, "mirror-puller"), &child).await;
    masters.end();
}
