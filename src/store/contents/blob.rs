//! A stored content as it is read: a part of an open file.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::{ReadWriteFlags, preadv2};

use super::uses::Lease;
use crate::oci::{Algorithm, Digest, Hasher};

/// Bytes read at once where a content is hashed.
const READ_BYTES: usize = 256 << 10;

/// An open, immutable content: `length` bytes of a file, from `offset` on.
///
/// The file may hold other contents before and behind it, as a tar does. A reader takes its bytes from [`Blob::extent`] and
/// from nowhere else.
///
/// The open file keeps the bytes: a content can be read to its end even if it is deleted meanwhile. The lease keeps eviction
/// from choosing it, which would free nothing as long as somebody reads.
#[derive(Debug)]
pub struct Blob {
    file: Arc<File>,
    offset: u64,
    length: u64,
    /// `None`: nothing evicts it. What else has to be held for a reader, as a pin on a shared file, belongs here.
    _lease: Option<Lease>,
}

impl Blob {
    /// The first `length` bytes of a file of its own.
    #[must_use]
    pub fn whole(file: File, length: u64) -> Self {
        Self { file: Arc::new(file), offset: 0, length, _lease: None }
    }

    /// `length` bytes of a file that others share, from `offset` on. `None`: they would end behind the last byte that a file
    /// can have, 2^63 - 2.
    #[must_use]
    pub fn part_of(file: Arc<File>, offset: u64, length: u64) -> Option<Self> {
        let end = offset.checked_add(length)?;
        i64::try_from(end).is_ok().then_some(Self { file, offset, length, _lease: None })
    }

    /// The same bytes, with `lease` held until the answer is dropped.
    #[must_use]
    pub fn leased(&self, lease: Lease) -> Self {
        Self { _lease: Some(lease), ..self.unleased() }
    }

    /// The same bytes, without the lease.
    pub(in crate::store) fn unleased(&self) -> Self {
        Self { file: Arc::clone(&self.file), offset: self.offset, length: self.length, _lease: None }
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The file that it lies in, open for reading.
    #[must_use]
    pub const fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Its place in the file: offsets of the first byte and behind the last one.
    #[must_use]
    pub const fn extent(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.length)
    }

    /// All of its bytes, if they can be had without waiting for the disk.
    pub(in crate::store) fn read_now(&self) -> Option<Bytes> {
        let length = usize::try_from(self.length).ok()?;
        let mut bytes = vec![0; length];
        let read =
            preadv2(&*self.file, &mut [IoSliceMut::new(&mut bytes)], self.offset, ReadWriteFlags::NOWAIT).ok()?;
        (read == length).then(|| Bytes::from(bytes))
    }

    /// All of its bytes; none of them if the file was cut while it was open: what it holds is not the content then, and
    /// hashing says so. Blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) fn read(&self) -> io::Result<Bytes> {
        let length = usize::try_from(self.length).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        match self.file.read_exact_at(&mut bytes, self.offset) {
            Ok(()) => Ok(bytes.into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Bytes::new()),
            Err(error) => Err(error),
        }
    }

    /// The digest of its bytes. Blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) fn hash(&self, algorithm: Algorithm) -> io::Result<Digest> {
        hash(&self.file, self.extent(), algorithm)
    }
}

/// The digest of a whole file. Blocking.
///
/// # Errors
/// Of the disk.
pub(in crate::store) fn hash_file(file: &File, algorithm: Algorithm) -> io::Result<Digest> {
    hash(file, 0..u64::MAX, algorithm)
}

/// The digest of what `file` holds of `part`: less of it where the file ends before.
fn hash(file: &File, part: Range<u64>, algorithm: Algorithm) -> io::Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; READ_BYTES];
    let mut at = part.start;
    while at < part.end {
        let most = usize::try_from(part.end - at).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        match file.read_at(&mut buffer[..most], at) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                at += read as u64;
                crate::telemetry::disk_moved();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    proptest! {
        #[test]
        fn a_part_is_its_own_bytes_and_no_neighbours(
            around in proptest::collection::vec(any::<u8>(), 0..200),
            first in 0_usize..220,
            length in 0_usize..220,
        ) {
            let file = file(&around);
            let blob = Blob::part_of(Arc::clone(&file), first as u64, length as u64).unwrap();
            prop_assert_eq!(blob.extent(), first as u64..(first + length) as u64);
            let (from, to) = (first.min(around.len()), (first + length).min(around.len()));
            let inside = &around[from..to];
            prop_assert_eq!(blob.hash(Algorithm::Sha256).unwrap(), Algorithm::Sha256.digest(inside));
            // A part that the file does not have whole is not read at all.
            let whole = if inside.len() == length { inside } else { &[] };
            prop_assert_eq!(&blob.read().unwrap()[..], whole);
            if let Some(bytes) = blob.read_now() {
                prop_assert_eq!(&bytes[..], inside);
                prop_assert_eq!(bytes.len(), length);
            }
        }
    }

    #[test]
    fn a_part_ends_where_a_file_can() {
        let last = i64::MAX as u64;
        assert!(Blob::part_of(file(b""), last, 0).is_some());
        assert!(Blob::part_of(file(b""), 1, last - 1).is_some());
        for (offset, length) in [(last, 1), (1, last), (u64::MAX, 1), (1, u64::MAX)] {
            assert!(Blob::part_of(file(b""), offset, length).is_none(), "{offset} {length}");
        }
    }

    #[test]
    fn a_whole_file_is_hashed_to_its_end() {
        let content: Vec<u8> = (0..READ_BYTES * 2 + 5).map(|at| (at % 251) as u8).collect();
        assert_eq!(hash_file(&file(&content), Algorithm::Sha256).unwrap(), Algorithm::Sha256.digest(&content));
    }
}
