//! Writing an upload: appending, sending to the disk, ending.

use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use fail::fail_point;

use super::state::State;
use super::table::Uploads;
use super::upload::{Hold, Upload};
use crate::fs::Temporary;
use crate::oci::Digest;
use crate::store::contents::files::Contents;
use crate::store::contents::pace::Turn;
use crate::store::error::StoreError;

/// Bytes after which the hash is noted beside the data: a restart hashes no more than these again.
const NOTE_EVERY: u64 = 16 << 20;

impl Upload {
    /// Appends content: charged, written and hashed, or nothing of it is. Blocking.
    pub(in crate::store) fn append(&self, contents: &Contents, content: &[Bytes]) -> Result<(), StoreError> {
        let length = content.iter().map(|piece| piece.len() as u64).sum();
        let mut writer = self.writer();
        contents.capacity.charge_upload(length)?;
        let path = contents.layout.upload_data(self.id);
        if let Err(error) = writer.append(&path, content) {
            contents.capacity.refund_upload(length);
            return Err(error);
        }
        let end = writer.offset();
        self.offset.store(end, Ordering::Release);
        if end - writer.noted >= NOTE_EVERY {
            State::of(&self.repo, end, writer.growth.hasher()).write(&contents.layout, &contents.disk, self.id)?;
            writer.noted = end;
        }
        Ok(())
    }
}

impl Uploads {
    /// Sends a part of a held upload to the disk in its turn. If that fails, bytes are lost and the upload is gone.
    /// Blocking.
    pub(in crate::store) fn write_back(
        &self,
        contents: &Contents,
        (upload, hold): (&Upload, &Hold),
        turn: Turn,
        part: Range<u64>,
    ) -> Result<(), StoreError> {
        let path = contents.layout.upload_data(upload.id);
        let mut writer = upload.writer();
        let file = writer.file(&path)?;
        let to = part.end;
        let failed = match turn.write_back(file, part) {
            Ok(()) => {
                upload.on_disk.store(to, Ordering::Release);
                return Ok(());
            }
            Err(error) => StoreError::io("write", &path)(error),
        };
        // Should the folder stay, nobody takes up bytes that are in memory only.
        let _ = file.set_len(0);
        drop(writer);
        // The system tells such an error once: a sync might say yes to bytes that never reached the disk.
        self.end(contents, upload, hold);
        Err(failed)
    }

    /// Ends a held upload: verifies the digest, syncs, and hands the file and its length to `keep`, which makes it a content.
    /// Blocking.
    ///
    /// # Errors
    /// [`StoreError::DigestMismatch`], of `keep`, or of the disk: the upload is gone then. It stays only if the disk failed
    /// before the digest was known to be right, without losing bytes.
    pub(in crate::store) fn finish(
        &self,
        contents: &Contents,
        (upload, hold): (&Upload, &Hold),
        expected: &Digest,
        keep: impl FnOnce(Temporary, u64) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let path = contents.layout.upload_data(upload.id);
        let mut writer = upload.writer();
        let actual = writer.digest(&path, expected)?;
        if actual != *expected {
            drop(writer);
            self.end(contents, upload, hold);
            return Err(StoreError::DigestMismatch { expected: Box::new(*expected), actual: Box::new(actual) });
        }
        let size = writer.offset();
        writer.cut(&path)?;
        fail_point!("store::upload::before_sync");
        let synced = contents.disk.sync(writer.file(&path)?, &path).map_err(StoreError::from);
        let stored = synced.and_then(|()| keep(Temporary::adopt(path), size));
        drop(writer);
        // Also if it failed: the file may be a stored content by now, which nobody may write to, and a sync that failed
        // once says nothing true the second time.
        self.end(contents, upload, hold);
        stored
    }
}
