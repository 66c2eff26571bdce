//! Release sets and rules on a real store, pushed as `d8 mirror push` pushes them.

mod endings;
mod given_up;
mod random;
mod retained;
mod sets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use testkit::Image;
use testkit::layer::{Tar, gzip};
use tokio_util::sync::CancellationToken;

use super::keeper::Way;
use super::*;
use crate::clock::{self, Timestamp};
use crate::jobs::Progress;
use crate::oci::{Digest, Manifest, Reference, RepoName, Tag};
use crate::store::{
    CollectedContents as Contents, CollectionReport, Estimate, FoundPins, Store, StoreOptions, StoredManifest, TagsLook,
};
use crate::values::Pins;

/// A day of grace, and the time for answers on their way.
const BEHIND_THE_GRACE: Duration = Duration::from_secs(86_400 + 600);

const ROOT: &str = "system/deckhouse";

fn quick_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn repo(name: &str) -> RepoName {
    name.parse().unwrap()
}

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

fn digest(image: &Image) -> Digest {
    image.digest().parse().unwrap()
}

fn hex(image: &Image) -> String {
    digest(image).hex()
}

/// A store with retention.
struct Kept {
    dir: PathBuf,
    store: Store,
    retention: Retention,
}

impl Kept {
    fn open(dir: &Path, keep: Option<u32>) -> Self {
        let store = Store::open(&StoreOptions::at(dir)).unwrap();
        let retention = Retention::new(store.clone());
        retention.set_options(RetentionOptions { keep_releases: keep, rules: Vec::new() });
        let kept = Self { dir: dir.to_path_buf(), store, retention };
        kept.pin(&["v0.0.1"], &[]);
        kept
    }

    fn pin(&self, releases: &[&str], images: &[Digest]) {
        let releases = releases.iter().map(|release| release.parse().unwrap()).collect();
        let pins = Pins { written_at: clock::now(), releases, images: images.iter().copied().collect() };
        self.store.set_pins(FoundPins::Read(Arc::new(pins)));
    }

    async fn push(&self, name: &str, image: &Image, tags: &[&str]) {
        let repo = repo(name);
        for blob in image.blobs() {
            let mut session = self.store.begin_upload(&repo, None, Some(blob.len() as u64)).await.unwrap();
            session.append(vec![Bytes::copy_from_slice(blob)]).await.unwrap();
            session.finish(testkit::digest(blob).parse().unwrap()).await.unwrap();
        }
        let bytes = Bytes::copy_from_slice(image.manifest());
        let manifest = Arc::new(Manifest::parse(None, &bytes).unwrap());
        let stored = StoredManifest { digest: digest(image), bytes, manifest };
        self.store.put_manifest(&repo, stored, tags.iter().map(|name| tag(name)).collect()).await.unwrap();
    }

    /// A release with these images, as a push makes it: its images by their hex digits, then what names it.
    async fn push_release(&self, release: &str, images: &[Image]) {
        for image in images {
            self.push(ROOT, image, &[&hex(image)]).await;
        }
        self.push(ROOT, &platform(release), &[release]).await;
        self.push(&format!("{ROOT}/install"), &install(release, images), &[release]).await;
        self.push(&format!("{ROOT}/install-standalone"), &standalone(release), &[release]).await;
        self.push(&format!("{ROOT}/release-channel"), &channel(release), &[release]).await;
    }

    /// A verdict that is not carried out: what it was found on, and what goes by it.
    async fn verdict(&self, name: &str, way: Way) -> (Vec<TagsLook>, Vec<(RepoName, Tag)>) {
        let (judged, _) = self
            .retention
            .judge(&repo(name), way, &Arc::new(self.retention.options()), &CancellationToken::new())
            .await;
        let judged = judged.unwrap().unwrap();
        (judged.looks, judged.verdict.going.into_iter().map(|(repo, tag, _)| (repo, tag)).collect())
    }

    /// As if the tag had been pushed so many seconds after the beginning of 1970.
    fn set_pushed(&self, name: &str, tag: &str, seconds: u64) {
        let at = self.dir.join(format!("repositories/{name}/_tags/{tag}"));
        let pushed = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
        std::fs::File::options().write(true).open(at).unwrap().set_modified(pushed).unwrap();
    }

    async fn run(&self) -> (RetentionReport, CollectionReport) {
        let stop = CancellationToken::new();
        let rules = self.retention.run(&stop).await.unwrap();
        (rules, self.store.collect(&stop, &Progress::default()).await.unwrap())
    }

    /// A run, the grace, and a run that removes what the first one found.
    async fn run_twice(&self) -> (RetentionReport, CollectionReport) {
        let (rules, _) = self.run().await;
        self.store.let_run_for(BEHIND_THE_GRACE);
        (rules, self.run().await.1)
    }

    async fn has(&self, name: &str, image: &Image) -> bool {
        let found = self.store.stored_manifest(&repo(name), digest(image)).unwrap();
        let blob = |blob: &Vec<u8>| {
            let digest: Digest = testkit::digest(blob).parse().unwrap();
            self.store.stored_blob(&repo(name), &digest).unwrap().is_some()
        };
        found.is_some() && image.blobs().iter().all(blob)
    }

    /// Whether nothing of it is there but what others share.
    fn lacks(&self, name: &str, image: &Image) -> bool {
        self.store.stored_manifest(&repo(name), digest(image)).unwrap().is_none()
    }

    fn tags(&self, name: &str) -> BTreeSet<String> {
        let tags = std::fs::read_dir(self.dir.join(format!("repositories/{name}/_tags"))).into_iter().flatten();
        tags.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn seed(text: &str, salt: u64) -> u64 {
    text.bytes().fold(salt, |seed, byte| seed.wrapping_mul(131).wrapping_add(u64::from(byte)))
}

fn platform(release: &str) -> Image {
    Image::of(seed(release, 1))
}

fn standalone(release: &str) -> Image {
    Image::of(seed(release, 2))
}

fn layer(path: &str, content: &str) -> Vec<u8> {
    gzip(&Tar::new().file(path, content).finish()).unwrap()
}

fn install(release: &str, images: &[Image]) -> Image {
    let named: serde_json::Map<String, serde_json::Value> =
        images.iter().enumerate().map(|(place, image)| (format!("image{place}"), image.digest().into())).collect();
    let list = layer("deckhouse/candi/images_digests.json", &json!({ "common": named }).to_string());
    Image::of_layers(release.as_bytes().to_vec(), vec![list], &json!({}))
}

/// The version of a module, whose image names these.
fn module(version: &str, images: &[&Image]) -> Image {
    let named: serde_json::Map<String, serde_json::Value> =
        images.iter().enumerate().map(|(place, image)| (format!("image{place}"), image.digest().into())).collect();
    let list = layer("images_digests.json", &serde_json::Value::Object(named).to_string());
    Image::of_layers(version.as_bytes().to_vec(), vec![list], &json!({}))
}

fn channel(release: &str) -> Image {
    let version = layer("version.json", &json!({ "version": release }).to_string());
    Image::of_layers(release.as_bytes().to_vec(), vec![version], &json!({}))
}

/// As go-containerregistry makes one.
fn random_image(number: u64) -> Image {
    let config = format!(
        r#"{{"history":[{{"author":"random.Image","created_by":"random","comment":"this is a random history 0 of 1 {number}"}}],"rootfs":{{"type":"layers"}}}}"#
    );
    Image::of_layers(config.into_bytes(), vec![testkit::noise(number, 2048)], &json!({}))
}
