//! A store that `loadtests seed` filled is the one that pushes of the same content give, byte for byte and link for link.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use d8_registry::oci::{Digest, Manifest};
use reqwest::Method;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Client, Registry, Setup, header};

// A program has no parts that others can use, so its file is read here once more.
#[path = "../../loadtests/src/seed.rs"]
#[expect(dead_code, reason = "the other parts are what the program itself needs")]
mod filling;

use filling::SeedOptions;

/// Names of files that a server keeps for itself beside the content.
const NOT_CONTENT: [&str; 5] = ["index", "index.stamp", "keys", "scrub", "usage"];

/// A file or a folder as all who may look see it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    /// Of a file: its bytes, and the first of its names by order. Those who share it are one inode.
    file: Option<(Vec<u8>, PathBuf)>,
    links: u64,
}

type Tree = BTreeMap<PathBuf, Seen>;

fn look(root: &Path) -> Tree {
    fn below(folder: &Path, paths: &mut BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, paths);
            }
            paths.insert(path);
        }
    }
    let (mut paths, mut first, mut tree) = (BTreeSet::new(), BTreeMap::new(), Tree::new());
    below(root, &mut paths);
    for path in paths {
        let name = path.strip_prefix(root).unwrap().to_owned();
        if NOT_CONTENT.iter().any(|not| name.starts_with(not)) {
            continue;
        }
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let first = first.entry(metadata.ino()).or_insert_with(|| name.clone()).clone();
        let file = metadata.is_file().then(|| (std::fs::read(&path).unwrap(), first));
        let (mode, owner) = (metadata.mode(), (metadata.uid(), metadata.gid()));
        tree.insert(name, Seen { mode, owner, file, links: metadata.nlink() });
    }
    tree
}

/// All that a registry tells of what it holds: each address that was asked with the answer.
type Told = BTreeMap<String, (Option<String>, Option<String>, Vec<u8>)>;

/// Asks again while the index is being built, which a 503 says.
async fn ask(client: &Client, path: &str, told: &mut Told) -> Vec<u8> {
    loop {
        let answer = client.get(path).await;
        if answer.status() == 503 {
            header(&answer, "retry-after");
            continue;
        }
        assert_eq!(answer.status(), 200, "{path}");
        let word = |name| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (kind, digest) = (word("content-type"), word("docker-content-digest"));
        let body = answer.bytes().await.unwrap().to_vec();
        told.insert(path.to_owned(), (kind, digest, body.clone()));
        return body;
    }
}

fn words(json: &[u8], key: &str) -> Vec<String> {
    let body: Value = serde_json::from_slice(json).unwrap();
    body[key].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

/// A tagged manifest, with the digests of what it names.
struct Tagged {
    repository: String,
    tag: String,
    manifest: Vec<u8>,
    blobs: Vec<Digest>,
}

async fn all_told(client: &Client) -> (Told, Vec<Tagged>) {
    let (mut told, mut images) = (Told::new(), Vec::new());
    for repository in words(&ask(client, "/v2/_catalog", &mut told).await, "repositories") {
        for tag in words(&ask(client, &format!("/v2/{repository}/tags/list"), &mut told).await, "tags") {
            let manifest = ask(client, &format!("/v2/{repository}/manifests/{tag}"), &mut told).await;
            let parsed = Manifest::parse(None, &manifest).unwrap();
            let blobs: Vec<Digest> = parsed.required_blobs().map(|blob| blob.digest).collect();
            let digest = d8_registry::oci::Algorithm::Sha256.digest(&manifest);
            ask(client, &format!("/v2/{repository}/manifests/{digest}"), &mut told).await;
            ask(client, &format!("/v2/{repository}/referrers/{digest}"), &mut told).await;
            for blob in &blobs {
                ask(client, &format!("/v2/{repository}/blobs/{blob}"), &mut told).await;
            }
            images.push(Tagged { repository: repository.clone(), tag, manifest, blobs });
        }
    }
    (told, images)
}

/// As clients push: each blob by PATCH and PUT, then the manifest by its tag.
async fn push(client: &Client, image: &Tagged, told: &Told) {
    for digest in &image.blobs {
        let content = &told[&format!("/v2/{}/blobs/{digest}", image.repository)].2;
        let location = client.begin(&image.repository).await;
        let patched = client.request(Method::PATCH, &location).body(content.clone()).send().await.unwrap();
        assert_eq!(patched.status(), 202);
        let location = header(&patched, "location");
        let mark = if location.contains('?') { '&' } else { '?' };
        let put = client.request(Method::PUT, &format!("{location}{mark}digest={digest}")).send().await.unwrap();
        assert_eq!(put.status(), 201);
    }
    let path = format!("/v2/{}/manifests/{}", image.repository, image.tag);
    let kind = told[&path].0.clone().unwrap();
    assert_eq!(client.put(&path, &kind, image.manifest.clone()).await.status(), 201);
}

fn assert_same<V: PartialEq + std::fmt::Debug>(what: &str, left: &BTreeMap<PathBuf, V>, right: &BTreeMap<PathBuf, V>) {
    let names: BTreeSet<&PathBuf> = left.keys().chain(right.keys()).collect();
    let differ: Vec<_> = names.into_iter().filter(|name| left.get(*name) != right.get(*name)).collect();
    assert!(differ.is_empty(), "{what}: {differ:#?}");
}

#[tokio::test]
async fn a_seeded_store_is_what_pushes_give() {
    let folder = Arc::new(TempDir::new().unwrap());
    // Uneven: the repositories have 3, 3 and 2 tags.
    let options = SeedOptions { dir: folder.path().join("data"), repositories: 3, tags: 8, blobs: 2, blob_size: 5000 };
    filling::seed(&options, &AtomicBool::new(false)).unwrap();
    let seeded_tree = look(&options.dir);

    let seeded = Registry::start_in(folder, &Setup::open());
    let (told, images) = all_told(&seeded.client()).await;
    assert_eq!(images.len(), 8);
    let pushed = Registry::start(&Setup::open());
    for image in &images {
        push(&pushed.client(), image, &told).await;
    }
    let (told_of_pushed, _) = all_told(&pushed.client()).await;
    assert_eq!(told.keys().collect::<Vec<_>>(), told_of_pushed.keys().collect::<Vec<_>>());
    for (path, answer) in &told {
        assert!(told_of_pushed[path] == *answer, "{path} is answered in another way");
    }

    // Looked at when the server has ended: nothing is under way any more.
    let (seeded_folder, pushed_folder) = (seeded.folder(), pushed.folder());
    seeded.stop();
    pushed.stop();
    let pushed_tree = look(&pushed_folder.path().join("data"));
    assert_same("as seeded, and pushed", &seeded_tree, &pushed_tree);
    assert_same("seeded and served, and pushed", &look(&seeded_folder.path().join("data")), &pushed_tree);
    let contents = pushed_tree.iter().filter(|(name, seen)| name.starts_with("blobs") && seen.file.is_some());
    assert_eq!(contents.count(), 3 + 3 * 2 + 8, "configurations, layers and manifests");
    let linked = pushed_tree.iter().filter(|(name, _)| name.starts_with("repositories"));
    let with_content =
        linked.filter(|(_, seen)| seen.file.as_ref().is_some_and(|(_, first)| first.starts_with("blobs")));
    assert_eq!(with_content.count(), 3 + 3 * 2 + 8, "each is one inode with its content");
}
