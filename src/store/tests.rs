//! The store as its users see it, on real folders. One law holds after every test: [`assert_tidy`].

mod blobs;
mod cached;
mod collection;
#[cfg(feature = "failpoints")]
mod crash;
mod damage;
mod directory;
mod faults;
mod held;
mod manifests;
mod mode_data;
mod records;
mod snapshots;
mod uploads;
mod verify;
mod walks;

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use testkit::media_type::{CONFIG, LAYER};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::face::Parts;
use super::layout::{Layout, Membership};
use super::repositories::walk::{Members, Repositories, SkippedEntries, Tags};
use super::*;
use crate::clock::Timestamp;
use crate::fs::Disk;
use crate::jobs::Runner;
use crate::oci::{Algorithm, Digest, Manifest, Reference, RepoName, Tag, UploadId};

/// Opens (and lays out) a store in `dir` that refuses nothing.
pub(crate) fn store(dir: &Path) -> Store {
    Store::open(&StoreOptions::at(dir)).unwrap()
}

/// A folder in memory where there is one, for tests of many cases: it syncs at once.
pub(crate) fn quick_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn limits(store: &Store, max_bytes: Option<u64>, reserve: Reserve) {
    store.set_limits(StoreLimits { max_bytes, reserve, ..StoreLimits::UNBOUNDED });
}

/// Opens a store in `dir` with a budget.
fn store_of(dir: &Path, max_bytes: u64) -> Store {
    let limits = StoreLimits { max_bytes: Some(max_bytes), ..StoreLimits::UNBOUNDED };
    Store::open(&StoreOptions { limits, ..StoreOptions::at(dir) }).unwrap()
}

fn repo(name: &str) -> RepoName {
    name.parse().unwrap()
}

fn sha256(content: &[u8]) -> Digest {
    Algorithm::Sha256.digest(content)
}

async fn push(store: &Store, repo: &RepoName, content: &[u8]) -> Digest {
    let digest = sha256(content);
    push_as(store, repo, content, digest).await.unwrap();
    digest
}

async fn push_as(store: &Store, repo: &RepoName, content: &[u8], digest: Digest) -> Result<(), StoreError> {
    let mut session = store.begin_upload(repo, None, Some(content.len() as u64)).await?;
    session.append(vec![Bytes::copy_from_slice(content)]).await?;
    session.finish(digest).await
}

async fn read(store: &Store, repo: &RepoName, digest: Digest) -> Option<Vec<u8>> {
    match store.blob(repo, digest).await {
        Ok(blob) => Some(content_of(&blob)),
        Err(StoreError::BlobUnknown) => None,
        Err(error) => panic!("{error}"),
    }
}

fn content_of(blob: &Blob) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let mut content = vec![0; usize::try_from(blob.length()).unwrap()];
    blob.file().read_exact_at(&mut content, blob.extent().start).unwrap();
    content
}

fn manifest(json: &serde_json::Value) -> StoredManifest {
    let bytes = Bytes::from(serde_json::to_vec(json).unwrap());
    let manifest = Arc::new(Manifest::parse(None, &bytes).unwrap());
    StoredManifest { digest: sha256(&bytes), bytes, manifest }
}

/// An index without children, with these annotations.
fn annotated(annotations: &serde_json::Value) -> StoredManifest {
    manifest(&testkit::with(testkit::index(&[]), &json!({"annotations": annotations})))
}

/// One that differs from others by its number, which its annotation `number` has.
fn numbered(number: u64) -> StoredManifest {
    annotated(&json!({"number": number.to_string()}))
}

/// The manifest of an image of these blobs.
fn image(config: &[u8], layers: &[&[u8]]) -> StoredManifest {
    let layers: Vec<_> = layers.iter().map(|layer| testkit::descriptor(LAYER, layer)).collect();
    manifest(&testkit::image(&testkit::descriptor(CONFIG, config), &layers))
}

fn files_in(folder: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// No temporary file, no upload without bytes and note, every content is what its name says and belongs to
/// someone, every membership has a content, every tag a manifest, and the use is the sum of what is there.
pub(crate) fn assert_tidy(store: &Store) {
    let parts = &store.0;
    assert_eq!(files_in(&parts.contents.layout.temporaries()), Vec::<std::path::PathBuf>::new());
    assert_eq!(damaged_names(store), Vec::<std::path::PathBuf>::new());
    assert_eq!(store.damage().contents, 0, "the list has an entry");
    let mut used = 0;
    for upload in files_in(&parts.contents.layout.uploads()) {
        let id = upload.file_name().unwrap().to_str().unwrap().parse().unwrap();
        assert!(parts.contents.layout.upload_state(id).is_file(), "{upload:?} is left");
        used += std::fs::metadata(parts.contents.layout.upload_data(id)).unwrap().len()
            + super::contents::capacity::FOOTPRINT;
    }
    used += super::contents::fills::bytes_on_disk(&parts.contents.layout).unwrap();
    let mut links = HashMap::new();
    for algorithm in Algorithm::ALL {
        for first in 0..=u8::MAX {
            for path in files_in(&parts.contents.layout.content_folder(algorithm, first)) {
                let content = std::fs::read(&path).unwrap();
                used += content.len() as u64;
                let digest = algorithm.digest(&content);
                assert_eq!(path, parts.contents.layout.content(&digest));
                links.insert(digest, std::fs::metadata(&path).unwrap().nlink() - 1);
            }
        }
    }
    used += held_by_snapshots(store, &mut links);
    let skipped = SkippedEntries::default();
    for repo in Repositories::new(&parts.contents.layout, &skipped) {
        for digest in Members::manifests(&parts.contents.layout, &repo, &skipped) {
            *links.get_mut(&digest).unwrap() -= 1;
        }
        for algorithm in Algorithm::ALL {
            let blobs = parts.contents.layout.members(&repo, Membership::Blob, algorithm);
            for path in if blobs.exists() { files_in(&blobs) } else { Vec::new() } {
                let digest = Digest::from_hex(algorithm, path.file_name().unwrap().to_str().unwrap()).unwrap();
                *links.get_mut(&digest).unwrap() -= 1;
            }
        }
        for tag in Tags::new(&parts.contents.layout, &repo, &skipped) {
            let target = std::fs::read_to_string(parts.contents.layout.tag(&repo, &tag)).unwrap();
            let manifest =
                parts.contents.layout.member(&repo, Membership::Manifest, &target.trim_end().parse().unwrap());
            assert!(manifest.is_file(), "{repo}:{tag} points at nothing");
        }
    }
    assert_eq!(skipped.count(), 0);
    assert!(links.values().all(|&left| left == 0), "links that nobody has: {links:?}");
    let nobody = files_of_nobody(parts);
    assert_eq!(nobody, Vec::<std::path::PathBuf>::new(), "contents that no repository has");
    if let Some(counted) = store.usage().used {
        assert_eq!(counted - parts.contents.capacity.index_bytes(), used);
    }
}

/// Takes the links of snapshots off, each of which has to lead to what its name says; the bytes that are in `blobs/` no more.
fn held_by_snapshots(store: &Store, links: &mut HashMap<Digest, u64>) -> u64 {
    let contents = &store.0.contents;
    let (mut held, mut seen) = (0, std::collections::HashSet::new());
    for folder in contents.snapshots.all() {
        contents
            .each_link(&folder, |digest, path| {
                let (facts, place) = (std::fs::metadata(path).unwrap(), contents.layout.content(digest));
                assert_eq!(digest.algorithm().digest(&std::fs::read(path).unwrap()), *digest, "{path:?}");
                if std::fs::metadata(place).is_ok_and(|place| place.ino() == facts.ino()) {
                    *links.get_mut(digest).unwrap() -= 1;
                } else if seen.insert(facts.ino()) {
                    held += facts.len();
                }
                Ok::<(), StoreError>(())
            })
            .unwrap();
    }
    if store.usage().used.is_some() {
        assert_eq!(store.usage().held, Some(held), "what snapshots hold");
    }
    held
}

/// The list of damaged contents as it stands on the disk.
fn damaged_names(store: &Store) -> Vec<std::path::PathBuf> {
    let folders = Algorithm::ALL.into_iter().map(|algorithm| store.0.contents.layout.damaged_of(algorithm));
    folders.filter(|folder| folder.is_dir()).flat_map(|folder| files_in(&folder)).collect()
}

fn files_of_nobody(parts: &Parts) -> Vec<std::path::PathBuf> {
    let folders = Algorithm::ALL
        .into_iter()
        .flat_map(|algorithm| (0..=u8::MAX).map(move |first| (algorithm, first)))
        .map(|(algorithm, first)| (algorithm, parts.contents.layout.content_folder(algorithm, first)));
    let files =
        folders.flat_map(|(algorithm, folder)| files_in(&folder).into_iter().map(move |path| (algorithm, path)));
    let is_nobodys = |(algorithm, path): &(Algorithm, std::path::PathBuf)| {
        let digest = Digest::from_hex(*algorithm, path.file_name().unwrap().to_str().unwrap()).unwrap();
        !parts.contents.is_linked(&digest, &std::fs::metadata(path).unwrap()).unwrap()
    };
    files.filter(is_nobodys).map(|(_, path)| path).collect()
}

impl Store {
    /// As the job does after an unclean stop.
    #[cfg(feature = "failpoints")]
    pub(crate) fn count_for_tests(
        &self,
        stop: &CancellationToken,
        progress: &crate::jobs::Progress,
    ) -> Result<(), StoreError> {
        self.0.contents.count(stop, progress)
    }
}
