//! The end of a file that grows: where it is, and the hash of all bytes before it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;

use crate::fs::Preallocation;
use crate::oci::Hasher;
use crate::store::error::StoreError;

/// The end of a file, and the hash of its bytes up to there.
#[derive(Debug)]
pub(in crate::store) struct Growth {
    hasher: Hasher,
    end: u64,
    space: Preallocation,
}

impl Growth {
    /// `hasher` has seen the first `end` bytes.
    pub(in crate::store) const fn new(hasher: Hasher, end: u64) -> Self {
        Self { hasher, end, space: Preallocation::up_to(end) }
    }

    pub(in crate::store) const fn end(&self) -> u64 {
        self.end
    }

    pub(in crate::store) const fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// Writes all of it to `file` and hashes it, or leaves everything as it was.
    pub(in crate::store) fn append(&mut self, file: &File, path: &Path, content: &[Bytes]) -> Result<(), StoreError> {
        let length: u64 = content.iter().map(|piece| piece.len() as u64).sum();
        self.space.make_room(file, self.end, self.end + length);
        let mut at = self.end;
        for piece in content {
            if let Err(error) = file.write_all_at(piece, at) {
                // Bytes behind the end would be taken for content by the next start; without them their room is free.
                let _ = self.space.cut(file, path, self.end);
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

    /// Gives back the space behind the end, and bytes there that an append which broke off has left.
    pub(in crate::store) fn cut(&mut self, file: &File, path: &Path) -> Result<(), StoreError> {
        Ok(self.space.cut(file, path, self.end)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use proptest::prelude::*;

    use super::*;
    use crate::fs::STEP_BYTES;
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
                prop_assert!(taken(&file) <= all.len() as u64 + length as u64 + STEP_BYTES + BLOCK);
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
        assert!(taken(&file) >= 1_200_000 + STEP_BYTES);
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
