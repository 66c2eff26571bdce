//! Filling a store's tree without a server: the same tree that pushes give, synced once at the end.
//!
//! For load tests and first fillings. Writes no index: the next start finds none and builds it, or
//! [`super::rebuild_index`] does. Never used while a server has the folder open.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::durable::{self, Disk, Temporary};
use super::layout::{Layout, Membership};
use super::opening;
use crate::oci::{Algorithm, Digest, InvalidManifest, Manifest, RepoName, Tag};

/// Writes content into a store that no server has open. One value per folder at a time; blocking.
///
/// Dropped before [`BulkWriter::finish`]: what was written is there, but a crash may lose any part of it.
#[derive(Debug)]
pub struct BulkWriter {
    layout: Layout,
    disk: Disk,
    /// The lock on the folder.
    held: File,
    /// Folders that exist, so that they are asked for once.
    folders: HashSet<PathBuf>,
}

/// Something can't be written in bulk.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The disk, or the folder is not a store of ours.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It would be refused when pushed.
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    /// The repository lacks what the manifest names.
    #[error("{repo} has no {missing}, which the manifest names")]
    Missing {
        /// Where.
        repo: RepoName,
        /// What.
        missing: Digest,
    },
}

impl BulkWriter {
    /// Opens the store in `dir`, which has been laid out.
    ///
    /// # Errors
    /// [`StoreError::Layout`] if it has not, or if a server has it open; [`StoreError`] of the disk.
    pub fn open(dir: &Path) -> Result<Self, BulkError> {
        let layout = Layout::new(dir);
        let held = opening::hold(&layout)?;
        let disk = Disk::default();
        // Neither the index nor the sum of sizes will be true after this.
        for stale in [layout.index_stamp(), layout.usage()] {
            disk.unlink(&stale)?;
        }
        disk.sync_folder_of(&layout.usage())?;
        Ok(Self { layout, disk, held, folders: HashSet::new() })
    }

    /// Makes `content` a blob of `repo`.
    ///
    /// # Errors
    /// [`StoreError`] of the disk.
    pub fn blob(&mut self, repo: &RepoName, content: &[u8]) -> Result<Digest, BulkError> {
        Ok(self.add(repo, Membership::Blob, content)?)
    }

    /// Makes `bytes` a manifest of `repo` and moves `tags` to it. What it names must be there already.
    ///
    /// # Errors
    /// [`BulkError::Manifest`] and [`BulkError::Missing`] as a push would be refused; [`StoreError`] of the disk.
    pub fn manifest(&mut self, repo: &RepoName, bytes: &[u8], tags: &[Tag]) -> Result<Digest, BulkError> {
        let manifest = Manifest::parse(None, bytes)?;
        let blobs = manifest.required_blobs().map(|blob| (Membership::Blob, blob.digest));
        let children = manifest.manifests.iter().map(|child| (Membership::Manifest, child.digest));
        for (kind, missing) in blobs.chain(children) {
            if !self.layout.member(repo, kind, &missing).exists() {
                return Err(BulkError::Missing { repo: repo.clone(), missing });
            }
        }
        let digest = self.add(repo, Membership::Manifest, bytes)?;
        for tag in tags {
            self.make_folder(self.layout.tags(repo))?;
            let path = self.layout.tag(repo, tag);
            self.write(&path, format!("{digest}\n").as_bytes())?;
        }
        Ok(digest)
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// [`StoreError::Io`]: nothing can be said of what was written.
    pub fn finish(self) -> Result<(), BulkError> {
        Ok(self.disk.sync_file_system(&self.held, self.layout.root())?)
    }

    fn add(&mut self, repo: &RepoName, kind: Membership, content: &[u8]) -> Result<Digest, StoreError> {
        let digest = Algorithm::Sha256.digest(content);
        let (stored, member) = (self.layout.content(&digest), self.layout.member(repo, kind, &digest));
        if !stored.exists() {
            self.write(&stored, content)?;
        }
        self.make_folder(self.layout.members(repo, kind, digest.algorithm()))?;
        match self.disk.link(&stored, &member) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(StoreError::io("link", &member)(error)),
            _ => Ok(digest),
        }
    }

    /// Whole or not at all, as long as the machine does not crash: then [`Self::finish`] is needed.
    fn write(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        let temporary = self.layout.temporary();
        let mut file = durable::create(&temporary)?;
        let staged = Temporary::adopt(temporary);
        file.write_all(content).map_err(StoreError::io("write", path))?;
        self.disk.rename(staged, path)
    }

    fn make_folder(&mut self, folder: PathBuf) -> Result<(), StoreError> {
        if !self.folders.contains(&folder) {
            self.disk.make_folder_unsynced(&folder)?;
            self.folders.insert(folder);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{Reserve, Store, StoreOptions, StoredManifest};
    use super::*;

    fn laid_out() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        assert!(Store::init(dir.path()).unwrap());
        let layout = Layout::new(dir.path());
        (dir, layout)
    }

    fn image(config: Digest) -> Vec<u8> {
        format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{config}","size":2}},"layers":[]}}"#)
            .into_bytes()
    }

    #[test]
    fn content_is_stored_once_and_linked_where_it_belongs() {
        let (dir, layout) = laid_out();
        let repos: [RepoName; 2] = ["a".parse().unwrap(), "a/b".parse().unwrap()];
        let mut writer = BulkWriter::open(dir.path()).unwrap();
        let mut manifest = None;
        for repo in &repos {
            let config = writer.blob(repo, b"{}").unwrap();
            manifest = Some(writer.manifest(repo, &image(config), &["t".parse().unwrap()]).unwrap());
            assert_eq!(std::fs::read(layout.member(repo, Membership::Blob, &config)).unwrap(), b"{}");
        }
        writer.finish().unwrap();
        let digest = manifest.unwrap();
        let content = std::fs::metadata(layout.content(&digest)).unwrap();
        assert_eq!(content.nlink(), 3);
        for repo in &repos {
            let member = std::fs::metadata(layout.member(repo, Membership::Manifest, &digest)).unwrap();
            assert_eq!(member.ino(), content.ino());
            let tag = std::fs::read_to_string(layout.tag(repo, &"t".parse().unwrap())).unwrap();
            assert_eq!(tag, format!("{digest}\n"));
        }
    }

    /// What a client could ever see of a tree: every file below `folder` with its mode, its names and its bytes.
    fn visible(folder: &Path, root: &Path, found: &mut BTreeMap<PathBuf, (u32, u64, Vec<u8>)>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            let name = path.strip_prefix(root).unwrap().to_owned();
            if metadata.is_dir() {
                found.insert(name, (metadata.mode(), 0, Vec::new()));
                visible(&path, root, found);
            } else {
                found.insert(name, (metadata.mode(), metadata.nlink(), std::fs::read(&path).unwrap()));
            }
        }
    }

    async fn push(store: &Store, repo: &RepoName, content: &[u8]) -> Digest {
        let digest = Algorithm::Sha256.digest(content);
        let mut upload = store.begin_upload(repo, None, None).await.unwrap();
        upload.append(vec![bytes::Bytes::copy_from_slice(content)]).await.unwrap();
        upload.finish(digest).await.unwrap();
        digest
    }

    #[tokio::test]
    async fn the_tree_is_the_one_that_pushes_give() {
        let ((bulk_dir, bulk), (pushed_dir, pushed)) = (laid_out(), laid_out());
        let options = StoreOptions {
            dir: pushed_dir.path().to_owned(),
            max_bytes: None,
            reserve: Reserve::Bytes(0),
            must_exist: true,
            upload_idle: Duration::from_secs(60),
            write_rate: None,
        };
        let store = Store::open(&options).unwrap();
        let mut writer = BulkWriter::open(bulk_dir.path()).unwrap();
        for name in ["a", "a/b"] {
            let repo: RepoName = name.parse().unwrap();
            let tags: [Tag; 2] = ["one".parse().unwrap(), "two".parse().unwrap()];
            let config = push(&store, &repo, b"{}").await;
            let bytes = image(config);
            let manifest = Arc::new(Manifest::parse(None, &bytes).unwrap());
            let digest = Algorithm::Sha256.digest(&bytes);
            let stored = StoredManifest { digest, bytes: bytes.clone().into(), manifest };
            store.put_manifest(&repo, stored, tags.to_vec()).await.unwrap();
            assert_eq!(writer.blob(&repo, b"{}").unwrap(), config);
            assert_eq!(writer.manifest(&repo, &bytes, &tags).unwrap(), digest);
        }
        writer.finish().unwrap();
        let mut trees = [(); 2].map(|()| BTreeMap::new());
        for (tree, layout) in trees.iter_mut().zip([&bulk, &pushed]) {
            for folder in [layout.blobs(), layout.repositories(), layout.temporaries()] {
                visible(&folder, layout.root(), tree);
            }
        }
        assert_eq!(trees[0], trees[1]);
        assert!(trees[0].contains_key(Path::new("repositories/a/b/_tags/two")));
    }

    #[test]
    fn what_a_push_would_not_do_is_refused() {
        let (dir, layout) = laid_out();
        let mut writer = BulkWriter::open(dir.path()).unwrap();
        let repo: RepoName = "a".parse().unwrap();
        let missing = Algorithm::Sha256.digest(b"missing");
        let refused = writer.manifest(&repo, &image(missing), &[]);
        assert!(matches!(refused, Err(BulkError::Missing { missing: named, .. }) if named == missing));
        assert!(matches!(writer.manifest(&repo, b"{", &[]), Err(BulkError::Manifest(_))));
        assert_eq!(std::fs::read_dir(layout.repositories()).unwrap().count(), 0);
        assert!(matches!(BulkWriter::open(dir.path()), Err(BulkError::Store(StoreError::Layout(_)))));
    }

    #[test]
    fn an_index_from_before_is_not_believed_afterwards() {
        let (dir, layout) = laid_out();
        std::fs::write(layout.index_stamp(), "1 1 x").unwrap();
        BulkWriter::open(dir.path()).unwrap().finish().unwrap();
        assert!(!layout.index_stamp().exists());
    }
}
