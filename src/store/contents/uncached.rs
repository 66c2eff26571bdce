//! Reading a content from the disk and not from memory, leaving the page cache as it is. All of it blocks.
//!
//! What is read to find rot has to come from the disk, and must not push out what clients read. So a file is read with
//! `O_DIRECT` (open(2)). Where the file system takes no such read, a piece that is in memory is taken from there, and one that
//! is not is dropped from memory again (`POSIX_FADV_DONTNEED`, posix_fadvise(2)).

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{Advice, OFlags, fadvise, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::oci::{Digest, Hasher};

/// Bytes that are read at once.
pub(in crate::store) const PIECE_BYTES: usize = 1 << 20;

/// `O_DIRECT` wants addresses, offsets and lengths that are multiples of the disk's block: 512 bytes to 4 KiB.
const ALIGNMENT: usize = 4096;

/// Memory for one piece, at an address that `O_DIRECT` takes. For one file behind the other.
#[derive(Debug)]
pub(in crate::store) struct Buffer {
    memory: Vec<u8>,
    begin: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        let memory = vec![0; PIECE_BYTES + ALIGNMENT];
        let begin = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { memory, begin }
    }
}

impl Buffer {
    fn piece(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..self.begin + PIECE_BYTES]
    }
}

/// A file that is read from its beginning to its end and hashed.
#[derive(Debug)]
pub(in crate::store) struct Reading {
    file: File,
    digest: Digest,
    hasher: Hasher,
    at: u64,
    is_direct: bool,
}

impl Reading {
    /// Of the content that `file`, which is open for reading and at its beginning, is said to be.
    pub(in crate::store) fn begin(file: File, digest: Digest) -> Self {
        let is_direct = set_direct(&file, true).is_ok();
        if !is_direct {
            // Nothing is read ahead that would have to be dropped.
            let _ = fadvise(&file, 0, None, Advice::Random);
        }
        Self { file, digest, hasher: Hasher::new(digest.algorithm()), at: 0, is_direct }
    }

    /// The digest that the file is said to be of.
    pub(in crate::store) const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The file.
    pub(in crate::store) const fn file(&self) -> &File {
        &self.file
    }

    /// Reads and hashes the next piece; says how many bytes it had. 0: the file has ended.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) fn piece(&mut self, buffer: &mut Buffer) -> io::Result<usize> {
        let piece = buffer.piece();
        let read = loop {
            let read = if self.is_direct {
                self.file.read_at(piece, self.at)
            } else {
                read_beside(&self.file, self.at, piece)
            };
            match read {
                Ok(read) => break read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The disk's blocks are larger, or the file system takes the flag and not the read. A part of a block is left
                // behind the end of a file, where nothing more is to be read.
                Err(error) if self.is_direct && error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    set_direct(&self.file, false)?;
                    self.is_direct = false;
                }
                Err(error) => return Err(error),
            }
        };
        self.hasher.update(&piece[..read]);
        self.at += read as u64;
        crate::telemetry::disk_moved();
        Ok(read)
    }

    /// The file, for reading as any other, and the digest of all that was read.
    pub(in crate::store) fn finish(self) -> (File, Digest) {
        if self.is_direct {
            let _ = set_direct(&self.file, false);
        }
        (self.file, self.hasher.finish())
    }
}

/// Reads a piece from `at` on through the page cache, and leaves it there only if it was there.
///
/// # Errors
/// Of the disk.
pub(in crate::store) fn read_beside(file: &File, at: u64, piece: &mut [u8]) -> io::Result<usize> {
    match preadv2(file, &mut [IoSliceMut::new(piece)], at, ReadWriteFlags::NOWAIT) {
        Ok(read) if read > 0 => return Ok(read),
        // Not in memory, the end, or a file system that can't tell.
        _ => {}
    }
    let read = file.read_at(piece, at)?;
    // Without a length it would be all that is behind.
    if let Some(length) = NonZeroU64::new(read as u64) {
        let _ = fadvise(file, at, Some(length), Advice::DontNeed);
    }
    crate::telemetry::disk_moved();
    Ok(read)
}

fn set_direct(file: &File, wanted: bool) -> rustix::io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, wanted);
    fcntl_setfl(file, flags)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fs::Disk;
    use crate::oci::Algorithm;
    use crate::store::contents::open::open_content;

    fn hashed(path: &Path, is_direct: bool) -> Digest {
        let file = open_content(path).unwrap().unwrap();
        let mut reading = Reading::begin(file, Algorithm::Sha256.digest(b""));
        if !is_direct {
            set_direct(reading.file(), false).unwrap();
            reading.is_direct = false;
        }
        let mut buffer = Buffer::default();
        while reading.piece(&mut buffer).unwrap() > 0 {}
        reading.finish().1
    }

    #[test]
    fn every_length_is_hashed_to_its_end_whatever_the_file_system_takes() {
        let lengths = [0, 1, 511, 4096, 4097, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES + 513];
        // In memory, and on a disk where there is one.
        for folder in [tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()), tempfile::tempdir()] {
            let path = folder.as_ref().unwrap().path().join("content");
            for length in lengths {
                let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
                std::fs::write(&path, &bytes).unwrap();
                for is_direct in [true, false] {
                    assert_eq!(hashed(&path, is_direct), Algorithm::Sha256.digest(&bytes), "{length} {is_direct}");
                }
            }
        }
    }

    const TRIES: u32 = 20;

    /// Whether the first byte is in memory; `None`: the file system can't tell. The look has it read.
    fn is_cached(file: &File) -> Option<bool> {
        match preadv2(file, &mut [IoSliceMut::new(&mut [0])], 0, ReadWriteFlags::NOWAIT) {
            Ok(read) => Some(read > 0),
            Err(Errno::AGAIN) => Some(false),
            Err(_) => None,
        }
    }

    #[test]
    fn what_was_not_in_memory_is_not_there_afterwards_and_what_was_still_is() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, vec![7; 3 * PIECE_BYTES]).unwrap();
            let file = File::open(&path).unwrap();
            // A page that is not on the disk can't be dropped.
            Disk::default().sync(&file, &path).unwrap();
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            (path, file)
        };
        // A look at a page that is not there has it read: each file is looked at once before it is read.
        if is_cached(&made("looked at").1) != Some(false) {
            eprintln!("this file system keeps its pages or can't tell: nothing is tested");
            return;
        }
        for is_direct in [true, false] {
            // On a busy machine the kernel keeps a page now and then that it was told to drop.
            let is_left = |number: u32| {
                let (path, file) = made(&format!("{is_direct} {number}"));
                hashed(&path, is_direct);
                is_cached(&file) != Some(false)
            };
            assert!(!(0..TRIES).all(is_left), "{is_direct}");
            let (path, file) = made(if is_direct { "direct" } else { "beside" });
            file.read_at(&mut [0; 4096], 0).unwrap();
            hashed(&path, is_direct);
            assert_eq!(is_cached(&file), Some(true), "{is_direct}");
        }
    }
}
