//! The note beside an upload's bytes: whose it is, and the hash at some offset.

use std::path::Path;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::fs::{Disk, is_absence};
use crate::oci::{Algorithm, Hasher, HasherState, RepoName, UploadId};
use crate::store::error::StoreError;
use crate::store::layout::Layout;

#[derive(Debug)]
pub(super) struct State {
    pub(super) repo: RepoName,
    pub(super) algorithm: Algorithm,
    /// The hash, and how many bytes it has seen; `None` if it can't be read.
    pub(super) hash: Option<(u64, Hasher)>,
}

#[derive(Serialize, Deserialize)]
struct Raw {
    repository: String,
    algorithm: String,
    /// The boot in which the hash was noted.
    boot: String,
    hashed: u64,
    hash: String,
}

impl State {
    pub(super) fn of(repo: &RepoName, hashed: u64, hasher: &Hasher) -> Self {
        Self { repo: repo.clone(), algorithm: hasher.algorithm(), hash: Some((hashed, hasher.clone())) }
    }

    /// Writes it for the upload `id`. A killed server leaves the one before or this one; not synced: a note that a crash
    /// of the machine loses costs the upload.
    pub(super) fn write(&self, layout: &Layout, disk: &Disk, id: UploadId) -> Result<(), StoreError> {
        let (hashed, hash) = self
            .hash
            .as_ref()
            .map_or((0, String::new()), |(hashed, hasher)| (*hashed, STANDARD_NO_PAD.encode(hasher.state().bytes)));
        let raw = Raw {
            repository: self.repo.to_string(),
            algorithm: self.algorithm.to_string(),
            boot: boot().to_owned(),
            hashed,
            hash,
        };
        let text = serde_json::to_vec(&raw).map_err(|error| StoreError::Bug(error.to_string()))?;
        Ok(disk.replace_unsynced(layout.upload_state_in_making(id), &layout.upload_state(id), &text)?)
    }

    /// Reads it; `None` if there is none that can be read: nobody knows whose upload it was.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, StoreError> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if is_absence(&error) => return Ok(None),
            Err(error) => return Err(StoreError::io("read", path)(error)),
        };
        let Ok(raw) = serde_json::from_slice::<Raw>(&text) else { return Ok(None) };
        let (Ok(repo), Ok(algorithm)) = (raw.repository.parse(), raw.algorithm.parse::<Algorithm>()) else {
            return Ok(None);
        };
        // Neither the note nor the bytes are synced: after a crash of the machine there may be a note of bytes that were
        // lost, and the hash would vouch for them. Then they are hashed again.
        let noted = Some(raw.hash).filter(|_| raw.boot == boot()).and_then(|hash| STANDARD_NO_PAD.decode(hash).ok());
        let hasher = noted.and_then(|bytes| Hasher::resume(&HasherState { algorithm, bytes }));
        Ok(Some(Self { repo, algorithm, hash: hasher.map(|hasher| (raw.hashed, hasher)) }))
    }
}

/// Names the time since the machine started; where the system has no name for it, the life of this process.
fn boot() -> &'static str {
    static BOOT: OnceLock<String> = OnceLock::new();
    BOOT.get_or_init(|| match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(text) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => crate::oci::UploadId::random().to_string(),
    })
}
