//! The directory tree, drawn once; every path of the store is built here and nowhere else.
//!
//! ```text
//! <dir>/VERSION                       layout version, "1.0\n"
//! <dir>/.d8-registry                  marker: this folder is a store (also the lock that keeps a second server out)
//! <dir>/usage                         bytes of blobs/, written at a clean stop, removed before the first change
//! <dir>/blobs/<alg>/<2 hex>/<hex>     every content once, manifests too; the 256 folders exist from the start
//! <dir>/repositories/<name…>/_blobs/<alg>/<hex>      membership of a blob: a hard link to the content
//! <dir>/repositories/<name…>/_manifests/<alg>/<hex>  membership of a manifest: a hard link to the content
//! <dir>/repositories/<name…>/_tags/<tag>             a file with the digest and a newline
//! <dir>/repositories/<name…>/_lists/<list>           a list that an upstream gave whole
//! <dir>/repositories/~<upstream>/<child…>/           what mode Proxy learnt of a repository of an upstream
//! <dir>/uploads/<uuid>/{data,state}   an upload in progress
//! <dir>/fills/<alg>/<hex>             a content on its way in from an upstream
//! <dir>/takeover/<alg>/<hex>          a file of another registry's tree, moved here and not yet a content; see `contents/intake`
//! <dir>/damaged/<alg>/<hex>.<any>     the list of damaged contents: further names of them; made with the first
//! <dir>/gc/{suspects,dirty,running-time,untagged,given-up}    what collection knows; made with the first collection, can be deleted
//! <dir>/records/<hex>                 what was last said of each tag and manifest of a repository, whose name's SHA-256 that is
//! <dir>/records/writer                the number of this store, by chance; made when it has other masters beside it
//! <dir>/records/heard                 a moment of another master that was ahead of the wall, or one soon behind it; can be deleted
//! <dir>/snapshots/<name>/blobs/<alg>/<2 hex>/<hex>   what a snapshot keeps: a hard link to the content
//! <dir>/snapshots/<name>/{list,snapshot.json}        which repository had what, and a summary with the list's digest
//! <dir>/snapshots/.<name>/            a snapshot in making or on its way out; goes at the next start
//! <dir>/scrub                         how far the scrub is; can be deleted
//! <dir>/tmp/                          files that have no name yet; emptied at start
//! <dir>/index/<number>/               the index; can be deleted
//! <dir>/index.stamp                   which index was closed well; removed before the first change
//! <dir>/index.bad/                    the last index that could not be read; can be deleted
//! <dir>/mode.yaml                     the last mode file that was in force, 0600: it holds passwords
//! <dir>/keys/                         signing key made by the server, 0700
//! <dir>/admin.sock                    socket of a running server (`admin` makes it); a file without meaning otherwise
//! ```
//!
//! A component of a repository's name never begins with `_` or `.`, so the folders of a repository and
//! its sub-repositories can't collide. A content whose link count is 1, less the links that snapshots have, is in no
//! repository.

use std::path::{Path, PathBuf};

use super::stored::{ListKind, SnapshotName};
use crate::oci::{Algorithm, Digest, RepoName, Tag, UploadId};

/// How a content belongs to a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Membership {
    /// As a blob.
    Blob,
    /// As a manifest.
    Manifest,
}

impl Membership {
    const fn folder(self) -> &'static str {
        match self {
            Self::Blob => "_blobs",
            Self::Manifest => "_manifests",
        }
    }

    /// Its word, for files and people.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Manifest => "manifest",
        }
    }

    /// What has that word.
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        [Self::Blob, Self::Manifest].into_iter().find(|kind| kind.word() == word)
    }
}

/// A directory of `snapshots/`: a snapshot that is whole, or one in making or on its way out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SnapshotFolder {
    /// Whose it is.
    pub(crate) name: SnapshotName,
    /// Whether it is all there.
    pub(crate) is_whole: bool,
}

impl SnapshotFolder {
    /// Reads the name of a directory; `None`: it is none of ours.
    pub(super) fn of_file_name(text: &str) -> Option<Self> {
        let (name, is_whole) = text.strip_prefix('.').map_or((text, true), |name| (name, false));
        Some(Self { name: name.parse().ok()?, is_whole })
    }

    /// The name of the directory.
    pub(super) fn file_name(&self) -> String {
        if self.is_whole { self.name.to_string() } else { format!(".{}", self.name) }
    }
}

/// Names in the data folder, also those that stand there for a moment only, and the file system's own.
const NAMES: [&str; 24] = [
    "VERSION",
    ".d8-registry",
    ".d8-registry.new",
    ".laying-out",
    "usage",
    "blobs",
    "repositories",
    "uploads",
    "fills",
    "damaged",
    "gc",
    "records",
    "scrub",
    "snapshots",
    "takeover",
    "tmp",
    "index",
    "index.stamp",
    "index.bad",
    "mode.yaml",
    ".mode.yaml.new",
    "keys",
    "admin.sock",
    "lost+found",
];

/// Builds the paths under one data folder. Touches nothing.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn version(&self) -> PathBuf {
        self.root.join("VERSION")
    }

    pub(super) fn marker(&self) -> PathBuf {
        self.root.join(".d8-registry")
    }

    /// Stands in an otherwise empty folder while it is being laid out, so that a killed start can go on.
    pub(super) fn marker_in_making(&self) -> PathBuf {
        self.root.join(".d8-registry.new")
    }

    /// Under which name that is written.
    pub(super) fn laying_out(&self) -> PathBuf {
        self.root.join(".laying-out")
    }

    pub(super) fn usage(&self) -> PathBuf {
        self.root.join("usage")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(super) fn blobs_of(&self, algorithm: Algorithm) -> PathBuf {
        self.blobs().join(algorithm.as_str())
    }

    /// The folder of the contents whose digest begins with `first`.
    pub(super) fn content_folder(&self, algorithm: Algorithm, first: u8) -> PathBuf {
        self.blobs_of(algorithm).join(format!("{first:02x}"))
    }

    pub(super) fn content(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let mut path = self.blobs_of(digest.algorithm());
        path.push(&hex[..2]);
        path.push(hex);
        path
    }

    pub(crate) fn repositories(&self) -> PathBuf {
        self.root.join("repositories")
    }

    pub(crate) fn repository(&self, repo: &RepoName) -> PathBuf {
        self.repositories().join(repo.as_str())
    }

    pub(crate) fn members(&self, repo: &RepoName, kind: Membership, algorithm: Algorithm) -> PathBuf {
        let mut path = self.repository(repo);
        path.push(kind.folder());
        path.push(algorithm.as_str());
        path
    }

    pub(crate) fn member(&self, repo: &RepoName, kind: Membership, digest: &Digest) -> PathBuf {
        self.members(repo, kind, digest.algorithm()).join(digest.hex())
    }

    /// As [`Self::member`], relative to the data folder, for opening beneath its descriptor.
    pub(super) fn member_beneath(repo: &RepoName, kind: Membership, digest: &Digest) -> String {
        format!("repositories/{repo}/{}/{}/{}", kind.folder(), digest.algorithm(), digest.hex())
    }

    pub(crate) fn tags(&self, repo: &RepoName) -> PathBuf {
        self.repository(repo).join("_tags")
    }

    pub(crate) fn tag(&self, repo: &RepoName, tag: &Tag) -> PathBuf {
        self.tags(repo).join(tag.as_str())
    }

    pub(super) fn lists(&self, repo: &RepoName) -> PathBuf {
        self.repository(repo).join("_lists")
    }

    pub(super) fn list(&self, repo: &RepoName, kind: ListKind) -> PathBuf {
        self.lists(repo).join(kind.file_name())
    }

    pub(super) fn fills_of(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("fills").join(algorithm.as_str())
    }

    pub(super) fn fill(&self, digest: &Digest) -> PathBuf {
        self.fills_of(digest.algorithm()).join(digest.hex())
    }

    /// The directory of files that were moved out of another registry's tree.
    pub(super) fn moved_of(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("takeover").join(algorithm.as_str())
    }

    /// A file that was moved out of another registry's tree and is not a content yet.
    pub(super) fn moved(&self, digest: &Digest) -> PathBuf {
        self.moved_of(digest.algorithm()).join(digest.hex())
    }

    /// The folder of damaged contents.
    pub(super) fn damaged_of(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("damaged").join(algorithm.as_str())
    }

    /// A name on the list of damaged contents.
    pub(super) fn damaged(&self, digest: &Digest, suffix: &str) -> PathBuf {
        self.damaged_of(digest.algorithm()).join(format!("{}.{suffix}", digest.hex()))
    }

    pub(super) fn uploads(&self) -> PathBuf {
        self.root.join("uploads")
    }

    pub(super) fn upload(&self, id: UploadId) -> PathBuf {
        self.uploads().join(id.to_string())
    }

    pub(super) fn upload_data(&self, id: UploadId) -> PathBuf {
        self.upload(id).join("data")
    }

    pub(super) fn upload_state(&self, id: UploadId) -> PathBuf {
        self.upload(id).join("state")
    }

    /// The file in which the state is written before it takes its place.
    pub(super) fn upload_state_in_making(&self, id: UploadId) -> PathBuf {
        self.upload(id).join("state.new")
    }

    /// The folder of what collection knows.
    pub(super) fn collection(&self) -> PathBuf {
        self.root.join("gc")
    }

    pub(super) fn suspects(&self) -> PathBuf {
        self.collection().join("suspects")
    }

    /// Manifests that retention gave up.
    pub(super) fn given_up(&self) -> PathBuf {
        self.collection().join("given-up")
    }

    pub(super) fn dirty(&self) -> PathBuf {
        self.collection().join("dirty")
    }

    /// There while untagged manifests are judged.
    pub(super) fn untagged_judged(&self) -> PathBuf {
        self.collection().join("untagged")
    }

    pub(super) fn running_time(&self) -> PathBuf {
        self.collection().join("running-time")
    }

    /// The folder of records.
    pub(super) fn records(&self) -> PathBuf {
        self.root.join("records")
    }

    /// The records of a repository.
    pub(super) fn records_of(&self, repo: &RepoName) -> PathBuf {
        self.records().join(Algorithm::Sha256.digest(repo.as_str().as_bytes()).hex())
    }

    /// The number of this store as a writer of records.
    pub(super) fn records_writer(&self) -> PathBuf {
        self.records().join("writer")
    }

    /// The latest moment of another master that was heard of while it was ahead of the wall.
    pub(super) fn records_heard(&self) -> PathBuf {
        self.records().join("heard")
    }

    /// How far the scrub is.
    pub(super) fn scrub(&self) -> PathBuf {
        self.root.join("scrub")
    }

    /// The folder of snapshots; made with the first.
    pub(super) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(super) fn snapshot(&self, folder: &SnapshotFolder) -> PathBuf {
        self.snapshots().join(folder.file_name())
    }

    /// Which repository had what when the snapshot was made.
    pub(super) fn snapshot_list(&self, folder: &SnapshotFolder) -> PathBuf {
        self.snapshot(folder).join("list")
    }

    /// The summary of a snapshot.
    pub(super) fn snapshot_summary(&self, folder: &SnapshotFolder) -> PathBuf {
        self.snapshot(folder).join("snapshot.json")
    }

    /// The folder of a snapshot's links to contents whose digest begins with `first`.
    pub(super) fn snapshot_contents(&self, folder: &SnapshotFolder, algorithm: Algorithm, first: u8) -> PathBuf {
        let mut path = self.snapshot(folder);
        path.push("blobs");
        path.push(algorithm.as_str());
        path.push(format!("{first:02x}"));
        path
    }

    /// A snapshot's link to a content.
    pub(super) fn snapshot_content(&self, folder: &SnapshotFolder, digest: &Digest) -> PathBuf {
        self.snapshot_contents(folder, digest.algorithm(), digest.as_bytes()[0]).join(digest.hex())
    }

    pub(super) fn temporaries(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// A new name under `tmp/`.
    pub(super) fn temporary(&self) -> PathBuf {
        self.temporaries().join(UploadId::random().to_string())
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// Names the index that was closed well; beside the index, so that a copy put back in its place is noticed.
    pub(super) fn index_stamp(&self) -> PathBuf {
        self.root.join("index.stamp")
    }

    /// The last index that could not be read, kept for whoever wants to know why.
    pub(super) fn index_bad(&self) -> PathBuf {
        self.root.join("index.bad")
    }

    /// The last mode file that was in force.
    pub(super) fn mode_file(&self) -> PathBuf {
        self.root.join("mode.yaml")
    }

    pub(super) fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// Whether something of that name in the data folder is the store's, or the file system's. Another registry's store
    /// ([`Layout::foreign`]) is neither.
    pub(super) fn is_known(name: &str) -> bool {
        NAMES.contains(&name)
    }

    /// Whether a repository's folder has a folder of that name.
    pub(super) fn is_part_of_a_repository(name: &str) -> bool {
        [Membership::Blob.folder(), Membership::Manifest.folder(), "_tags", "_lists"].contains(&name)
    }

    /// The store of another registry (CNCF distribution, and Deckhouse's earlier registry).
    pub(super) fn foreign(&self) -> PathBuf {
        self.root.join("docker/registry/v2")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_name_in_the_data_folder_is_known() {
        let layout = Layout::new(Path::new("/data"));
        let paths = [
            layout.version(),
            layout.records(),
            layout.marker(),
            layout.marker_in_making(),
            layout.laying_out(),
            layout.usage(),
            layout.blobs(),
            layout.repositories(),
            layout.uploads(),
            layout.fills_of(Algorithm::Sha256),
            layout.damaged_of(Algorithm::Sha256),
            layout.collection(),
            layout.scrub(),
            layout.snapshots(),
            layout.moved_of(Algorithm::Sha256),
            layout.temporaries(),
            layout.index(),
            layout.index_stamp(),
            layout.index_bad(),
            layout.mode_file(),
            layout.keys(),
        ];
        for path in paths {
            let name = path.strip_prefix("/data").unwrap().components().next().unwrap();
            assert!(Layout::is_known(name.as_os_str().to_str().unwrap()), "{path:?}");
        }
        assert!(!Layout::is_known("docker") && !Layout::is_known("blobs2"));
    }

    proptest! {
        #[test]
        fn paths_of_different_things_differ_and_stay_beneath(
            names in proptest::collection::vec("[a-z0-9]{1,3}(/[a-z0-9]{1,3}){0,3}", 2),
            raws in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 64), 2),
        ) {
            let layout = Layout::new(Path::new("/data"));
            let mut seen = std::collections::HashMap::new();
            for name in &names {
                let repo: RepoName = name.parse().unwrap();
                for raw in &raws {
                    for algorithm in Algorithm::ALL {
                        let digest = Digest::from_bytes(algorithm, &raw[..algorithm.digest_len()]).unwrap();
                        for kind in [Membership::Blob, Membership::Manifest] {
                            let path = layout.member(&repo, kind, &digest);
                            prop_assert!(path.starts_with("/data/repositories"));
                            prop_assert_eq!(
                                &Path::new("/data").join(Layout::member_beneath(&repo, kind, &digest)), &path);
                            let key = (repo.clone(), kind, digest);
                            let first = seen.entry(path).or_insert_with(|| key.clone());
                            prop_assert_eq!(&*first, &key);
                        }
                    }
                }
            }
        }
    }
}
