//! Damage on the disk, as clients, the log and the admin listener see it: Proxy mends itself, Local says what is to be done
//! and is mended by a push.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{ALIAS, Client, Image, REPO, Registry, Setup, Upstream, blob, cache, digest};

/// What a disk does to a file, whose names are all one.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Flipped,
    Cut,
    Extended,
    Zeroed,
    Emptied,
}

const HARMS: [Harm; 5] = [Harm::Flipped, Harm::Cut, Harm::Extended, Harm::Zeroed, Harm::Emptied];

impl Harm {
    fn strike(self, path: &Path) {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len();
        match self {
            Self::Flipped => {
                let mut byte = [0];
                file.read_exact_at(&mut byte, length / 2).unwrap();
                file.write_all_at(&[byte[0] ^ 1], length / 2).unwrap();
            }
            Self::Cut => file.set_len(length / 2).unwrap(),
            Self::Extended => file.set_len(length + 100).unwrap(),
            Self::Zeroed => file.write_all_at(&vec![0; usize::try_from(length).unwrap()], 0).unwrap(),
            Self::Emptied => file.set_len(0).unwrap(),
        }
    }
}

fn content(data: &Path, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    data.join("blobs/sha256").join(&hex[..2]).join(hex)
}

/// The only file of that name below the repositories.
fn named(folder: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(folder).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { named(&path, name) } else { (path.file_name().unwrap() == name).then_some(path) }
    })
}

async fn fetched(client: &Client, path: &str) -> (u16, Vec<u8>) {
    let response = client.get(path).await;
    (response.status().as_u16(), response.bytes().await.unwrap().to_vec())
}

fn damaged(lines: &[Value]) -> Vec<&Value> {
    lines.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.contains("is damaged"))).collect()
}

#[tokio::test]
async fn a_cache_fetches_again_what_its_disk_damaged() {
    for harm in HARMS {
        let upstream = Upstream::start();
        let image = Image::of(1);
        for tag in ["v1", "v2"] {
            upstream.put_image(REPO, tag, &image);
        }
        let setup = Setup::proxy(&upstream).config("proxy: { tagTtl: 1h }");
        let registry = Registry::start(&setup);
        let (layer, config) = (image.blobs().last().unwrap(), &image.blobs()[0]);
        let mut wanted = vec![
            (format!("/v2/{ALIAS}/manifests/v1"), image.manifest().to_vec()),
            (format!("/v2/{ALIAS}/manifests/v2"), image.manifest().to_vec()),
            (format!("/v2/{ALIAS}/manifests/{}", image.digest()), image.manifest().to_vec()),
        ];
        wanted.extend([config, layer].map(|blob| (format!("/v2/{ALIAS}/blobs/{}", digest(blob)), blob.clone())));
        for (path, bytes) in &wanted {
            assert!(fetched(&registry.client(), path).await == (200, bytes.clone()), "{path}");
        }
        // Everything is written down and at rest.
        let (folder, data) = (registry.folder(), registry.data());
        registry.stop();

        let repositories = data.join("repositories");
        let mut struck = 1;
        Harm::Emptied.strike(&named(&repositories, "v2").unwrap());
        for name in [image.digest(), digest(config), digest(layer)] {
            let is_seen = name == image.digest()
                || std::fs::metadata(content(&data, &name)).unwrap().len() <= 16 << 10
                || !matches!(harm, Harm::Flipped | Harm::Zeroed);
            if is_seen {
                struck += 1;
                harm.strike(&content(&data, &name));
            }
        }
        let registry = Registry::start_in(folder, &setup);
        for again in 0..2 {
            for (path, bytes) in &wanted {
                let response = registry.client().get(path).await;
                let outcome = cache(&response);
                assert_eq!(response.status(), 200, "{harm:?} {path}");
                assert!(response.bytes().await.unwrap() == *bytes, "{harm:?} {path}");
                assert!(again == 0 || ["hit", "joined"].contains(&&*outcome), "{harm:?} {path}: {outcome}");
            }
        }
        registry.until_metric("d8_registry_damaged_contents", 0.0).await;
        let found: f64 = {
            let (hash, tag) =
                ["hash", "tag"].map(|cause| format!("d8_registry_damage_found_total{{cause=\"{cause}\"}}")).into();
            registry.metric(&hash).await + registry.metric(&tag).await
        };
        assert!(found >= f64::from(struck), "{harm:?}: {found} of {struck}");
        let lines = registry.stop();
        let told = damaged(&lines);
        assert!(
            told.iter().any(|line| line["path"].as_str().is_some_and(|path| path.contains("_manifests"))),
            "{told:?}"
        );
        assert!(
            told.iter().any(|line| line["error"].as_str().is_some_and(|error| error.contains("_tags/v2"))),
            "{told:?}"
        );
    }
}

#[tokio::test]
async fn a_push_mends_a_local_for_all_its_repositories() {
    for harm in HARMS {
        let registry = Registry::start(&Setup::open());
        let (client, image) = (registry.client(), Image::of(2));
        let large = blob(7, 300_000);
        for repo in ["a", "b/c"] {
            client.push_image(repo, "v1", &image).await;
            client.push_blob(repo, &large).await;
        }
        let config = &image.blobs()[0];
        let at = |repo: &str, bytes: &[u8]| format!("/v2/{repo}/blobs/{}", digest(bytes));
        // In memory, and right there: damage of the file is told by who looks at it.
        assert_eq!(client.get(&at("b/c", config)).await.status(), 200);
        for bytes in [config, &large] {
            harm.strike(&content(&registry.data(), &digest(bytes)));
        }
        let (folder, setup) = (registry.folder(), Setup::open());
        registry.stop();
        let registry = Registry::start_in(folder, &setup);
        let client = registry.client();
        // A client that asks first hears that it is not there.
        for repo in ["a", "b/c"] {
            assert_eq!(client.head(&at(repo, config)).await.status(), 404, "{harm:?}");
            assert_eq!(client.get(&format!("/v2/{repo}/manifests/v1")).await.status(), 404, "{harm:?}");
        }
        let status = registry.admin().get("/status").await.json::<Value>().await.unwrap();
        assert_eq!(status["store"]["damagedContents"], 1, "{harm:?}");
        for bytes in [config, &large] {
            client.push_blob("a", bytes).await;
            for repo in ["a", "b/c"] {
                for _again in 0..2 {
                    assert!(fetched(&client, &at(repo, bytes)).await == (200, bytes.clone()), "{harm:?} {repo}");
                    let head = client.head(&at(repo, bytes)).await;
                    assert_eq!(head.headers()["content-length"], bytes.len().to_string(), "{harm:?} {repo}");
                }
                assert_eq!(client.get(&format!("/v2/{repo}/manifests/v1")).await.status(), 200, "{harm:?}");
            }
        }
        registry.until_metric("d8_registry_damaged_contents", 0.0).await;
        assert_eq!(registry.admin().get("/readyz").await.status(), 200);
        let lines = registry.stop();
        assert!(damaged(&lines).iter().all(|line| line["path"].is_string() && line["digest"].is_string()));
        assert_eq!(damaged(&lines).len(), 2, "{harm:?}: once each");
    }
}

#[tokio::test]
async fn memory_does_not_outlive_a_file_that_was_pushed_again() {
    let registry = Registry::start(&Setup::open());
    let (client, small) = (registry.client(), blob(3, 5000));
    client.push_blob("r", &small).await;
    let path = format!("/v2/r/blobs/{}", digest(&small));
    for harm in HARMS {
        harm.strike(&content(&registry.data(), &digest(&small)));
        // From the file, or from before it was damaged, never what it holds now.
        let (status, bytes) = fetched(&client, &path).await;
        assert!(status == 404 || bytes == small, "{harm:?}: {status}");
        client.push_blob("r", &small).await;
        assert!(fetched(&client, &path).await == (200, small.clone()), "{harm:?}");
        let head = client.head(&path).await;
        assert_eq!(head.headers()["content-length"], "5000", "{harm:?}");
    }
    registry.stop();
}

#[tokio::test]
async fn a_failing_disk_is_not_ready_and_says_so() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let blobs: Vec<Vec<u8>> = (0..18).map(|seed| blob(seed, 3000)).collect();
    for bytes in &blobs {
        client.push_blob("r", bytes).await;
        Harm::Flipped.strike(&content(&registry.data(), &digest(bytes)));
    }
    let mut answers = Vec::new();
    for bytes in &blobs {
        answers.push(client.get(&format!("/v2/r/blobs/{}", digest(bytes))).await.status().as_u16());
    }
    assert_eq!(answers, [[404; 16].as_slice(), &[500; 2]].concat());
    let ready = registry.admin().get("/readyz").await;
    assert_eq!(ready.status(), 503);
    assert!(ready.text().await.unwrap().contains("the disk is at fault"));
    assert_eq!(registry.admin().get("/healthz").await.status(), 200);
    registry.until_metric("d8_registry_disk_fault", 1.0).await;
    registry.stop();
}
