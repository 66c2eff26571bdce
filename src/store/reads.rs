//! Reads of blobs: each is opened under the repository's name, compared with the list of damaged contents and with the length
//! that descriptors give; a small one is hashed once and then answered from memory.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::contents::{Contents, Looked, SMALL};
use super::damage::{Condemned, Verdict};
use super::layout::Membership;
use super::{Blob, Inner, Store, StoreError, StoredContent, blocking};
use crate::oci::{Digest, RepoName};
use crate::telemetry::{DamageCause, DamageSample};

/// Longest wait of a reader while a blob is hashed whose length is not its descriptor's. Then it gets the bytes that are there:
/// its own check of the digest fails, if the descriptor was right.
const EXAMINATION: Duration = Duration::from_secs(15);

impl Store {
    /// A blob of a repository: small ones from memory, others opened.
    ///
    /// # Errors
    /// [`StoreError::BlobUnknown`] if it is not the repository's, or is damaged; of the disk.
    pub async fn blob_content(&self, repo: &RepoName, digest: Digest) -> Result<StoredContent, StoreError> {
        let memory = &self.0.memory;
        if let Some(bytes) = memory.blob(repo, &digest) {
            return Ok(StoredContent::Memory(bytes));
        }
        let read_at = memory.stable_deletions(repo);
        let blob = self.blob(repo, digest).await?;
        if blob.length() > SMALL {
            return Ok(StoredContent::File(blob));
        }
        let (bytes, blob) = match blob.read_now() {
            Some(bytes) => (bytes, blob),
            None => self.read_from_disk(repo, digest, blob).await?,
        };
        // Hashed before it is kept: from then on memory answers for it, and nothing looks at the file.
        if digest.algorithm().digest(&bytes) != digest {
            return Err(self.condemned(repo, digest, blob).await);
        }
        memory.keep_blob(repo, &digest, bytes.clone(), read_at);
        Ok(StoredContent::Memory(bytes))
    }

    /// Opens a blob of a repository. One whose length is not that of its descriptor is hashed first, for up to 15 s.
    ///
    /// # Errors
    /// [`StoreError::BlobUnknown`] if it is not the repository's, or is damaged; of the disk.
    pub async fn blob(&self, repo: &RepoName, digest: Digest) -> Result<Blob, StoreError> {
        let (blob, is_odd) = self.open_blob(repo, digest).await?;
        if is_odd { self.examined(repo, digest, blob).await } else { Ok(blob) }
    }

    /// Notes that the file of a stored blob could not be read while it was sent. Waits for nothing; the file is read again
    /// 10 s later. It is let go then if no name of the store leads to it any more.
    pub fn note_unreadable(&self, repo: &RepoName, digest: &Digest, file: &File, error: &std::io::Error) {
        let path = self.0.layout.member(repo, Membership::Blob, digest);
        self.0.ops().suspect(digest, file, &path, error);
    }

    /// What is known of damage.
    #[must_use]
    pub fn damage(&self) -> DamageSample {
        self.0.damage.sample()
    }

    /// The open blob, and whether its length is another than a descriptor says.
    async fn open_blob(&self, repo: &RepoName, digest: Digest) -> Result<(Blob, bool), StoreError> {
        let file = match self.0.contents.open_now(repo, Membership::Blob, &digest) {
            Looked::Found(file) => Some(file),
            Looked::Absent => None,
            Looked::Unknown => {
                let (store, repo) = (Arc::clone(&self.0), repo.clone());
                blocking(move || Contents::open(&store.layout, &repo, Membership::Blob, &digest)).await?
            }
        };
        let mut file = file.ok_or(StoreError::BlobUnknown)?;
        let path = || self.0.layout.member(repo, Membership::Blob, &digest);
        let look = |file: &File| file.metadata().map_err(|error| StoreError::io("stat", &path())(error));
        let mut facts = look(&file)?;
        if self.0.damage.is_listed(&digest, facts.ino()) {
            let (store, repo) = (Arc::clone(&self.0), repo.clone());
            let mended = blocking(move || store.open_mended(&repo, digest)).await?;
            file = mended.ok_or(StoreError::BlobUnknown)?;
            facts = look(&file)?;
        }
        if !facts.is_file() {
            return Err(StoreError::damaged(&path(), "not a file"));
        }
        let is_odd = self.0.damage.is_length_odd(&digest, &facts);
        Ok((Blob::whole(file, facts.len()), is_odd))
    }

    /// Hashes a blob whose length is odd: one at a time, and once for all who wait.
    async fn examined(&self, repo: &RepoName, digest: Digest, blob: Blob) -> Result<Blob, StoreError> {
        let path = self.0.layout.member(repo, Membership::Blob, &digest);
        let (store, examinee) = (Arc::clone(&self.0), blob.unleased());
        let examination = async move {
            let turn = store.damage.turn().await;
            blocking(move || {
                let verdict = store.examine_odd(&digest, &examinee, &path);
                drop(turn);
                Ok((verdict, path))
            })
            .await
        };
        let Ok(outcome) = tokio::time::timeout(EXAMINATION, examination).await else { return Ok(blob) };
        match outcome? {
            (Verdict::Sound | Verdict::Unread, _) => Ok(blob),
            (Verdict::DiskFault, path) => {
                Err(StoreError::damaged(&path, "the stored blob is not what its digest says"))
            }
            (Verdict::Absent, _) => self.open_blob(repo, digest).await.map(|(blob, _)| blob),
        }
    }

    /// The bytes of a small blob, after a wait for the disk.
    async fn read_from_disk(&self, repo: &RepoName, digest: Digest, blob: Blob) -> Result<(Bytes, Blob), StoreError> {
        let (store, repo) = (Arc::clone(&self.0), repo.clone());
        blocking(move || match blob.read() {
            Ok(bytes) => Ok((bytes, blob)),
            Err(error) => {
                let path = store.layout.member(&repo, Membership::Blob, &digest);
                store.ops().suspect(&digest, blob.file(), &path, &error);
                Err(StoreError::io("read", &path)(error))
            }
        })
        .await
    }

    /// Puts a small blob whose bytes are wrong on the list; the answer is its reader's error.
    async fn condemned(&self, repo: &RepoName, digest: Digest, blob: Blob) -> StoreError {
        let (store, repo) = (Arc::clone(&self.0), repo.clone());
        let condemned = blocking(move || {
            let path = store.layout.member(&repo, Membership::Blob, &digest);
            let facts = blob.file().metadata().map_err(StoreError::io("stat", &path))?;
            match store.ops().condemn(&digest, &facts, &path, DamageCause::Hash) {
                Condemned::Listed | Condemned::Gone => Err(StoreError::BlobUnknown),
                Condemned::DiskFault => Err(StoreError::damaged(&path, "the stored blob is not what its digest says")),
            }
        });
        condemned.await.map_or_else(|error| error, |never: std::convert::Infallible| match never {})
    }
}

impl Inner {
    /// Opens a blob whose name leads to a damaged file, if there is a whole one. Blocking.
    fn open_mended(&self, repo: &RepoName, digest: Digest) -> Result<Option<File>, StoreError> {
        if !self.mend(repo, Membership::Blob, &digest)? {
            return Ok(None);
        }
        let file = Contents::open(&self.layout, repo, Membership::Blob, &digest)?;
        Ok(file.filter(|file| !self.damage.is_listed_file(&digest, file)))
    }

    /// Whether the repository has the manifest only as a damaged file. Blocking.
    pub(super) fn is_damaged_manifest(&self, repo: &RepoName, digest: &Digest) -> Result<bool, StoreError> {
        if !self.damage.has(digest) {
            return Ok(false);
        }
        Ok(!self.mend(repo, Membership::Manifest, digest)?)
    }
}
