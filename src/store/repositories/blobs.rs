//! Blobs of repositories: read, mounted, deleted. Each is opened under the repository's name and compared with the list of
//! damaged contents and with the length that descriptors give; a small one is hashed once and then answered from memory.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::manifests::Manifests;
use super::memory::Memory;
use crate::fs::stat;
use crate::oci::{Digest, RepoName};
use crate::store::contents::blob::Blob;
use crate::store::contents::changes::blocking;
use crate::store::contents::damage::list::{Condemned, Verdict};
use crate::store::contents::files::Contents;
use crate::store::contents::fills::PartialBlob;
use crate::store::contents::open::{Lookup, open_content};
use crate::store::error::StoreError;
use crate::store::layout::{Layout, Membership};
use crate::telemetry::DamageCause;

/// Longest blob that is kept in memory, in bytes.
const SMALL: u64 = 16 * 1024;

/// Longest wait of a reader while a blob is hashed whose length is not its descriptor's. Then it gets the bytes that are there:
/// its own check of the digest fails, if the descriptor was right.
const EXAMINATION: Duration = Duration::from_secs(15);

/// A blob as it is read.
#[derive(Debug)]
pub enum StoredContent {
    /// A small one (image configurations): to open its file for every reader costs more than to keep its bytes.
    Memory(Bytes),
    /// Any other.
    File(Blob),
}

/// The blobs of repositories.
#[derive(Clone, Debug)]
pub(in crate::store) struct Blobs {
    pub(in crate::store) contents: Arc<Contents>,
    pub(in crate::store) memory: Arc<Memory>,
    /// Asked for what has to stay because a blob is asked for.
    pub(in crate::store) manifests: Arc<Manifests>,
}

impl Blobs {
    /// A blob of a repository: small ones from memory, others opened.
    ///
    /// # Errors
    /// [`StoreError::BlobUnknown`] if it is not the repository's, or is damaged; of the disk.
    pub(in crate::store) async fn content(&self, repo: &RepoName, digest: Digest) -> Result<StoredContent, StoreError> {
        let memory = &self.memory;
        self.save(repo, digest).await?;
        if let Some(bytes) = memory.blob(repo, &digest) {
            return Ok(StoredContent::Memory(bytes));
        }
        let read_at = memory.stable_deletions(repo);
        let blob = self.open(repo, digest).await?;
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
    pub(in crate::store) async fn open(&self, repo: &RepoName, digest: Digest) -> Result<Blob, StoreError> {
        self.save(repo, digest).await?;
        let (blob, is_odd) = self.open_blob(repo, digest).await?;
        if is_odd { self.examined(repo, digest, blob).await } else { Ok(blob) }
    }

    /// Takes a blob that is about to be answered off the list of suspects.
    async fn save(&self, repo: &RepoName, digest: Digest) -> Result<(), StoreError> {
        if !self.manifests.ledger.may_list(repo, &digest) {
            return Ok(());
        }
        let (manifests, repo) = (Arc::clone(&self.manifests), repo.clone());
        blocking(move || {
            manifests.save(&repo, &digest);
            Ok(())
        })
        .await
    }

    /// The path of a blob's name in a repository.
    fn name(&self, repo: &RepoName, digest: &Digest) -> PathBuf {
        self.contents.layout.member(repo, Membership::Blob, digest)
    }

    /// Notes that a stored blob could not be read while it was sent.
    pub(in crate::store) fn note_unreadable(
        &self,
        repo: &RepoName,
        digest: &Digest,
        blob: &Blob,
        error: &std::io::Error,
    ) {
        self.contents.suspect(digest, blob, &self.name(repo, digest), error);
    }

    /// Makes a blob of `from` (or, without it, of any repository) one of `to`, durably; `false`: the source has none.
    /// Blocking.
    pub(in crate::store) fn mount(
        &self,
        from: Option<&RepoName>,
        to: &RepoName,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        let _touch = self.manifests.ledger.touch(to)?;
        self.manifests.save(to, digest);
        let _adding = self.memory.adding(to);
        let from = from.map(|from| self.name(from, digest));
        self.contents.mount(from.as_deref(), &self.name(to, digest), digest)
    }

    /// Takes a blob out of a repository, durably; the bytes go when no repository has them. `false`: it has none. Blocking.
    pub(in crate::store) fn delete(&self, repo: &RepoName, digest: &Digest) -> Result<bool, StoreError> {
        let name = self.name(repo, digest);
        if stat(&name)?.is_none() {
            return Ok(false);
        }
        let _touch = self.manifests.ledger.touch(repo)?;
        let _deleting = self.memory.deleting(repo);
        self.contents.remove(&name, digest)
    }

    /// Makes a verified content a blob of `repositories`, durably. The rest of it waits for its turn on the disk unless `hurry` is
    /// cancelled. Dropped meanwhile, the fill stays and can be taken up; later it runs to its end.
    ///
    /// # Errors
    /// Of the disk; the fill is gone then, unless the repositories could not be noted as changed.
    pub(in crate::store) async fn commit(
        &self,
        partial: PartialBlob,
        repositories: Vec<RepoName>,
        hurry: &CancellationToken,
    ) -> Result<(), StoreError> {
        let (blobs, digest) = (self.clone(), partial.digest());
        let under = move |commit: &dyn Fn(&[PathBuf]) -> Result<(), StoreError>| {
            let touch = |repo| blobs.manifests.ledger.touch(repo);
            let _touches = repositories.iter().map(touch).collect::<Result<Vec<_>, _>>()?;
            for repo in &repositories {
                blobs.manifests.save(repo, &digest);
            }
            let _adding: Vec<_> = repositories.iter().map(|repo| blobs.memory.adding(repo)).collect();
            commit(&repositories.iter().map(|repo| blobs.name(repo, &digest)).collect::<Vec<_>>())
        };
        partial.commit_under(under, hurry).await
    }

    /// The open blob, and whether its length is another than a descriptor says.
    async fn open_blob(&self, repo: &RepoName, digest: Digest) -> Result<(Blob, bool), StoreError> {
        let path = || self.name(repo, &digest);
        let file = match self.contents.open_now(&Layout::member_beneath(repo, Membership::Blob, &digest)) {
            Lookup::Found(file) => Some(file),
            Lookup::Absent => None,
            Lookup::Unknown => {
                let path = path();
                blocking(move || open_content(&path)).await?
            }
        };
        let mut file = file.ok_or(StoreError::BlobUnknown)?;
        let look = |file: &File| file.metadata().map_err(|error| StoreError::io("stat", &path())(error));
        let mut facts = look(&file)?;
        if self.contents.damage.is_listed(&digest, facts.ino()) {
            let (contents, path) = (Arc::clone(&self.contents), path());
            let mended = blocking(move || open_mended(&contents, &path, &digest)).await?;
            file = mended.ok_or(StoreError::BlobUnknown)?;
            facts = look(&file)?;
        }
        if !facts.is_file() {
            return Err(StoreError::damaged(&path(), "not a file"));
        }
        let is_odd = self.contents.damage.is_length_odd(&digest, &facts);
        Ok((Blob::whole(file, facts.len()), is_odd))
    }

    /// Hashes a blob whose length is odd: one at a time, and once for all who wait.
    async fn examined(&self, repo: &RepoName, digest: Digest, blob: Blob) -> Result<Blob, StoreError> {
        let path = self.name(repo, &digest);
        let (contents, examinee) = (Arc::clone(&self.contents), blob.unleased());
        let examination = async move {
            let turn = contents.damage.turn().await;
            blocking(move || {
                let verdict = contents.examine_odd(&digest, &examinee, &path);
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
        let (contents, path) = (Arc::clone(&self.contents), self.name(repo, &digest));
        blocking(move || match blob.read() {
            Ok(bytes) => Ok((bytes, blob)),
            Err(error) => {
                contents.suspect(&digest, &blob, &path, &error);
                Err(StoreError::io("read", &path)(error))
            }
        })
        .await
    }

    /// Puts a small blob whose bytes are wrong on the list; the answer is its reader's error.
    async fn condemned(&self, repo: &RepoName, digest: Digest, blob: Blob) -> StoreError {
        let (contents, path) = (Arc::clone(&self.contents), self.name(repo, &digest));
        let condemned = blocking(move || {
            let facts = blob.file().metadata().map_err(StoreError::io("stat", &path))?;
            match contents.condemn(&digest, &facts, &path, DamageCause::Hash) {
                Condemned::Listed | Condemned::Gone => Err(StoreError::BlobUnknown),
                Condemned::DiskFault => Err(StoreError::damaged(&path, "the stored blob is not what its digest says")),
            }
        });
        condemned.await.map_or_else(|error| error, |never: std::convert::Infallible| match never {})
    }
}

/// Opens a blob whose name leads to a damaged file, if there is a whole one. Blocking.
fn open_mended(contents: &Contents, name: &Path, digest: &Digest) -> Result<Option<File>, StoreError> {
    if !contents.relink(name, digest)? {
        return Ok(None);
    }
    Ok(open_content(name)?.filter(|file| !contents.damage.is_listed_file(digest, file)))
}
