//! Files laid end to end and read as one: a tar, the chunks of one, or the files of a directory. What was read is counted.
//!
//! A file is opened when it is read. All streams of a bundle share [`OpenFiles`], so that a bundle of a thousand chunks takes
//! a few descriptors.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Advice, fadvise};

use crate::fs::Folder;

/// Most files of a bundle that are kept open at once: those that were read last.
const MOST_OPEN: usize = 16;

/// The files of a bundle that are open.
#[derive(Debug, Default)]
pub(super) struct OpenFiles {
    streams: AtomicUsize,
    /// The one that was read last is the last.
    opened: Mutex<VecDeque<Opened>>,
}

#[derive(Debug)]
struct Opened {
    stream: usize,
    part: usize,
    file: Arc<File>,
}

impl OpenFiles {
    /// The file of a part, open or opened now. Blocking.
    fn get(&self, stream: usize, part: usize, open: impl FnOnce() -> io::Result<File>) -> io::Result<Arc<File>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let found = opened.iter().position(|opened| opened.stream == stream && opened.part == part);
        let opening = match found.and_then(|index| opened.remove(index)) {
            Some(found) => found,
            None => Opened { stream, part, file: Arc::new(open()?) },
        };
        if opened.len() >= MOST_OPEN {
            opened.pop_front();
        }
        let file = Arc::clone(&opening.file);
        opened.push_back(opening);
        Ok(file)
    }
}

/// Files laid end to end.
#[derive(Debug)]
pub struct Stream {
    /// What the archive is called, or the directory.
    pub(super) name: String,
    folder: Arc<Folder>,
    parts: Vec<Part>,
    length: u64,
    number: usize,
    files: Arc<OpenFiles>,
    read: AtomicU64,
}

/// A file of a stream.
#[derive(Debug)]
pub(super) struct Part {
    /// Its path below the directory.
    pub(super) below: String,
    /// Where it begins in the stream.
    pub(super) start: u64,
    pub(super) length: u64,
}

/// A part of a file.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The file.
    pub file: Arc<File>,
    /// Its first byte that counts.
    pub at: u64,
    /// Bytes.
    pub length: u64,
}

impl Stream {
    pub(super) fn new(name: String, folder: Arc<Folder>, files: &Arc<OpenFiles>) -> Self {
        let number = files.streams.fetch_add(1, Ordering::Relaxed);
        let (parts, read) = (Vec::new(), AtomicU64::new(0));
        Self { name, folder, parts, length: 0, number, files: Arc::clone(files), read }
    }

    /// Lays another file at the end. Where it begins.
    pub(super) fn push(&mut self, below: String, length: u64) -> u64 {
        let start = self.length;
        self.parts.push(Part { below, start, length });
        self.length += length;
        start
    }

    /// What the archive is called, or the directory.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Its bytes.
    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    pub(super) const fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// Bytes that were read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// The part that has the byte at `at`; those without bytes have none.
    pub(super) fn part_at(&self, at: u64) -> Option<usize> {
        let behind = self.parts.partition_point(|part| part.start + part.length <= at);
        (behind < self.parts.len()).then_some(behind)
    }

    /// A place in words: the file, and the byte in it.
    pub(super) fn place(&self, at: u64) -> (String, u64) {
        match self.part_at(at).or_else(|| self.parts.len().checked_sub(1)).and_then(|index| self.parts.get(index)) {
            Some(part) => (part.below.clone(), at.saturating_sub(part.start)),
            None => (self.name.clone(), at),
        }
    }

    fn open(&self, index: usize) -> io::Result<Arc<File>> {
        self.files.get(self.number, index, || {
            let below = self.parts.get(index).map(|part| part.below.as_str()).unwrap_or_default();
            let file = self.folder.file(below)?.ok_or(io::ErrorKind::NotFound)?;
            // Headers lie far apart: what is read ahead of one is not wanted.
            let _ = fadvise(&file, 0, None, Advice::Random);
            Ok(file)
        })
    }

    /// Fills `buffer` from `at` on, across the borders of files; fewer bytes at the end. Blocking.
    pub(super) fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let from = at + done as u64;
            let Some(index) = self.part_at(from) else { break };
            let part = &self.parts[index];
            let inside = from - part.start;
            let most = usize::try_from(part.length - inside).unwrap_or(usize::MAX).min(buffer.len() - done);
            let file = self.open(index)?;
            file.read_exact_at(&mut buffer[done..done + most], inside)?;
            self.read.fetch_add(most as u64, Ordering::Relaxed);
            done += most;
        }
        Ok(done)
    }

    /// The parts of files that have `length` bytes from `at` on, in their order, each opened when its turn comes; nothing is read
    /// ahead. Blocking.
    pub fn pieces(&self, at: u64, length: u64) -> impl Iterator<Item = io::Result<Piece>> + '_ {
        self.cut(at, length, |index, _| self.open(index))
    }

    /// The first of them, its file opened anew and read ahead as any file is. Blocking.
    ///
    /// # Errors
    /// Of the disk, or `UnexpectedEof` behind the last byte.
    pub fn first_piece(&self, at: u64, length: u64) -> io::Result<Piece> {
        let open = |_, part: &Part| Ok(Arc::new(self.folder.file(&part.below)?.ok_or(io::ErrorKind::NotFound)?));
        self.cut(at, length, open).next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))
    }

    fn cut<'a>(
        &'a self,
        at: u64,
        length: u64,
        open: impl Fn(usize, &Part) -> io::Result<Arc<File>> + 'a,
    ) -> impl Iterator<Item = io::Result<Piece>> + 'a {
        let (mut from, end) = (at, at.saturating_add(length));
        std::iter::from_fn(move || {
            if from >= end {
                return None;
            }
            let piece = self.part_at(from).ok_or(io::Error::from(io::ErrorKind::UnexpectedEof)).and_then(|index| {
                let part = &self.parts[index];
                let length = (part.start + part.length).min(end) - from;
                Ok(Piece { file: open(index, part)?, at: from - part.start, length })
            });
            // Behind one that can't be opened there is nothing more.
            from = piece.as_ref().map_or(end, |piece| from + piece.length);
            Some(piece)
        })
    }
}
