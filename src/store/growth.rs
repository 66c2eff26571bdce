//! The end of a file that grows: where it is, the hash of what lies before it, and room for what comes.
//!
//! A long file gets its room on the disk ahead of its bytes. Otherwise the file system looks for room at every page, which
//! is a fifth of what writing costs. The file's length is not changed by that; what was taken too much is given back by
//! cutting the file to its length when it is whole. Until then, also over a restart, it is the file's.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;
use rustix::fs::{FallocateFlags, fallocate};

use super::StoreError;
use crate::oci::Hasher;

/// Room is taken in steps of so many bytes.
const ROOM_BYTES: u64 = 2 << 20;

/// A file that ends before this gets its room as it is written.
const LONG_BYTES: u64 = 1 << 20;

/// Where a file ends, and the hash of its bytes up to there.
#[derive(Debug)]
pub(super) struct Growth {
    hasher: Hasher,
    end: u64,
    /// Room was asked for up to here.
    room: u64,
}

impl Growth {
    /// `hasher` has seen the first `end` bytes.
    pub(super) const fn new(hasher: Hasher, end: u64) -> Self {
        Self { hasher, end, room: end }
    }

    pub(super) const fn end(&self) -> u64 {
        self.end
    }

    pub(super) const fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// Writes all of it to `file` and hashes it, or leaves everything as it was.
    pub(super) fn append(&mut self, file: &File, path: &Path, content: &[Bytes]) -> Result<(), StoreError> {
        let length: u64 = content.iter().map(|piece| piece.len() as u64).sum();
        self.make_room(file, self.end + length);
        let mut at = self.end;
        for piece in content {
            if let Err(error) = file.write_all_at(piece, at) {
                // Bytes behind the end would be taken for content by the next start; without them their room is free.
                let _ = file.set_len(self.end);
                self.room = self.end;
                return Err(StoreError::io("write", path)(error));
            }
            at += piece.len() as u64;
        }
        for piece in content {
            self.hasher.update(piece);
        }
        self.end = at;
        Ok(())
    }

    fn make_room(&mut self, file: &File, end: u64) {
        if end < LONG_BYTES || end <= self.room {
            return;
        }
        let (from, to) = (self.room.max(self.end), end + ROOM_BYTES);
        // A file system that can't do it, or has no room left, tells whoever writes.
        let _ = fallocate(file, FallocateFlags::KEEP_SIZE, from, to - from);
        self.room = to;
    }

    /// Gives back the room behind the end, and bytes there that an append which broke off has left.
    pub(super) fn cut(&mut self, file: &File, path: &Path) -> Result<(), StoreError> {
        file.set_len(self.end).map_err(StoreError::io("cut", path))?;
        self.room = self.end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    /// A block of the file system at most, besides the bytes.
    const BLOCK: u64 = 64 << 10;

    fn taken(file: &File) -> u64 {
        file.metadata().unwrap().blocks() * 512
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_file_is_what_was_appended_and_takes_no_more_than_that_in_the_end(
            lengths in proptest::collection::vec(0_usize..700_000, 0..12)
        ) {
            let file = tempfile::tempfile().unwrap();
            let mut growth = Growth::new(Hasher::new(Algorithm::Sha256), 0);
            let mut all = Vec::new();
            for (number, length) in lengths.into_iter().enumerate() {
                let piece: Vec<u8> = (0..length).map(|at| (at * 31 + number) as u8).collect();
                let (first, second) = piece.split_at(length / 3);
                growth.append(&file, Path::new("it"), &[first.to_vec().into(), second.to_vec().into()]).unwrap();
                all.extend_from_slice(&piece);
                prop_assert_eq!(file.metadata().unwrap().len(), all.len() as u64);
                prop_assert_eq!(growth.end(), all.len() as u64);
                prop_assert!(taken(&file) <= all.len() as u64 + length as u64 + ROOM_BYTES + BLOCK);
            }
            growth.cut(&file, Path::new("it")).unwrap();
            prop_assert!(taken(&file) <= all.len() as u64 + BLOCK);
            let mut back = vec![0; all.len()];
            file.read_exact_at(&mut back, 0).unwrap();
            prop_assert!(back == all);
            prop_assert_eq!(growth.hasher().clone().finish(), Algorithm::Sha256.digest(&all));
        }
    }

    #[test]
    fn a_long_file_has_room_ahead_of_its_end() {
        let file = tempfile::tempfile().unwrap();
        let mut growth = Growth::new(Hasher::new(Algorithm::Sha256), 0);
        let piece = Bytes::from(vec![7; 600_000]);
        growth.append(&file, Path::new("it"), std::slice::from_ref(&piece)).unwrap();
        assert!(taken(&file) <= 600_000 + BLOCK, "a short one has none");
        growth.append(&file, Path::new("it"), &[piece]).unwrap();
        assert!(taken(&file) >= 1_200_000 + ROOM_BYTES);
        assert_eq!(file.metadata().unwrap().len(), 1_200_000);
    }

    #[test]
    fn what_can_not_be_written_changes_nothing() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let unwritable = File::open(path.path()).unwrap();
        let mut growth = Growth::new(Hasher::new(Algorithm::Sha256), 0);
        let error = growth.append(&unwritable, path.path(), &[Bytes::from_static(b"content")]).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
        assert_eq!(growth.end(), 0);
        assert_eq!(growth.hasher().clone().finish(), Algorithm::Sha256.digest(b""));
        growth.append(path.as_file(), path.path(), &[Bytes::from_static(b"content")]).unwrap();
        assert_eq!(std::fs::read(path.path()).unwrap(), b"content");
    }
}
