//! A small writer of the tree that CNCF distribution keeps its images in (`docker/registry/v2`).

use std::io;
use std::path::{Path, PathBuf};

use crate::digest;

/// A tree that is being written. Nothing is synced.
#[derive(Debug)]
pub struct Tree {
    v2: PathBuf,
}

impl Tree {
    /// The tree below `root`, distribution's root directory.
    ///
    /// # Errors
    /// Of the disk.
    pub fn new(root: &Path) -> io::Result<Self> {
        let v2 = root.join("docker/registry/v2");
        std::fs::create_dir_all(v2.join("repositories"))?;
        std::fs::create_dir_all(v2.join("blobs/sha256"))?;
        Ok(Self { v2 })
    }

    /// The path of a content's bytes.
    #[must_use]
    pub fn data(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.v2.join("blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    /// The path of a repository.
    #[must_use]
    pub fn repository(&self, name: &str) -> PathBuf {
        self.v2.join("repositories").join(name)
    }

    /// Writes a content; its digest.
    ///
    /// # Errors
    /// Of the disk.
    pub fn content(&self, bytes: &[u8]) -> io::Result<String> {
        let digest = digest(bytes);
        write(&self.data(&digest), bytes)?;
        Ok(digest)
    }

    /// Makes a content a blob of a repository.
    ///
    /// # Errors
    /// Of the disk.
    pub fn layer(&self, repository: &str, digest: &str) -> io::Result<()> {
        let hex = digest.trim_start_matches("sha256:");
        write(&self.repository(repository).join("_layers/sha256").join(hex).join("link"), digest.as_bytes())
    }

    /// Makes a content a manifest of a repository.
    ///
    /// # Errors
    /// Of the disk.
    pub fn revision(&self, repository: &str, digest: &str) -> io::Result<()> {
        write(&self.revision_link(repository, digest), digest.as_bytes())
    }

    /// The path of the link that makes a content a manifest; without it the manifest is deleted.
    #[must_use]
    pub fn revision_link(&self, repository: &str, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.repository(repository).join("_manifests/revisions/sha256").join(hex).join("link")
    }

    /// Has a tag lead to a manifest.
    ///
    /// # Errors
    /// Of the disk.
    pub fn tag(&self, repository: &str, tag: &str, digest: &str) -> io::Result<()> {
        let hex = digest.trim_start_matches("sha256:");
        let folder = self.repository(repository).join("_manifests/tags").join(tag);
        write(&folder.join("index/sha256").join(hex).join("link"), digest.as_bytes())?;
        write(&folder.join("current/link"), digest.as_bytes())
    }

    /// Leaves an upload behind that was not finished.
    ///
    /// # Errors
    /// Of the disk.
    pub fn upload(&self, repository: &str, name: &str) -> io::Result<()> {
        write(&self.repository(repository).join("_uploads").join(name).join("data"), b"half of")
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, bytes)
}
