//! Reading stored bytes again to hash them. All of it blocks.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::blob::hash_file;
use crate::oci::{Digest, Hasher};
use crate::store::error::StoreError;

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// Feeds `hasher` with the bytes `from..to` of the file at `path`.
///
/// # Errors
/// Of the disk; also if the file ends before `to`.
pub(in crate::store) fn hash_range(
    file: &File,
    path: &Path,
    hasher: &mut Hasher,
    from: u64,
    to: u64,
) -> Result<(), StoreError> {
    let mut buffer = vec![0; READ_BYTES.min(usize::try_from(to - from).unwrap_or(READ_BYTES))];
    let mut at = from;
    while at < to {
        let want = usize::try_from(to - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        file.read_exact_at(&mut buffer[..want], at).map_err(StoreError::io("read", path))?;
        hasher.update(&buffer[..want]);
        at += want as u64;
        crate::telemetry::disk_moved();
    }
    Ok(())
}

/// Whether the file at `path` is the digest's.
pub(in crate::store) fn is_sound(path: &Path, digest: &Digest) -> Result<bool, StoreError> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    Ok(hash_file(&file, digest.algorithm()).map_err(StoreError::io("read", path))? == *digest)
}
