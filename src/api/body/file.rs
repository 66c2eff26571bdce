//! A range of a file as a body.
//!
//! A plain connection sends the file itself (`sys::stand_in`); one that encrypts gets it as mapped memory
//! (`sys::mapping`). Else pages that are in memory are read on the spot (`preadv2` with `RWF_NOWAIT`); a read that would
//! wait for the disk goes to a blocking thread, so a cold file never holds up the runtime.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};
use tokio::task::JoinHandle;

use super::buffer::{BUFFER_BYTES, Buffer};
use crate::api::peer::FileWay;
use crate::store::Lease;
use crate::sys::mapping::Mapping;
use crate::sys::stand_in::{MAX_BYTES, stand_in};

/// Bytes of a mapped file that are handed on at once.
const MAPPED_BYTES: u64 = 128 * 1024;

/// Less than this is read and written together with the answer's head: one system call instead of two.
const LEAST_SENT: usize = 32 * 1024;

/// Bytes of a file. A file that turns out shorter is a body error: the connection breaks, the client never takes the
/// rest for complete.
pub(super) struct FileBody {
    file: Arc<File>,
    offset: u64,
    end: u64,
    way: FileWay,
    /// The file as memory, from the first read on.
    mapping: Option<Arc<Mapping>>,
    /// A read on a blocking thread. Dropped with the body: the read ends by itself and is thrown away.
    waiting: Option<JoinHandle<io::Result<Bytes>>>,
    /// Keeps the content from eviction.
    _lease: Option<Lease>,
}

impl FileBody {
    /// The bytes from `offset` up to `end`.
    /// `way`: how the connection takes it.
    pub(super) const fn new(file: Arc<File>, offset: u64, end: u64, way: FileWay) -> Self {
        Self { file, offset, end, way, mapping: None, waiting: None, _lease: None }
    }

    /// Holds `lease` as long as it is read.
    pub(super) fn held_by(mut self, lease: Option<Lease>) -> Self {
        self._lease = lease;
        self
    }

    /// Offset of the next byte.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// More of the file can be read now: up to `end`.
    pub(super) fn extend(&mut self, end: u64) {
        self.end = self.end.max(end);
    }

    fn want(&self) -> usize {
        usize::try_from(self.end - self.offset).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES))
    }

    /// Reads without waiting; `None` if the bytes are not in memory.
    fn read_now(&self) -> io::Result<Option<Bytes>> {
        let want = self.want();
        let mut buffer = Buffer::take();
        let slice = &mut buffer.space()[..want];
        match preadv2(&self.file, &mut [IoSliceMut::new(slice)], self.offset, ReadWriteFlags::NOWAIT) {
            Ok(0) => Err(cut_short()),
            Ok(count) => Ok(Some(buffer.freeze(count))),
            // Not every file system and kernel has the flag.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn read_later(&self) -> JoinHandle<io::Result<Bytes>> {
        let (file, offset, want) = (Arc::clone(&self.file), self.offset, self.want());
        tokio::task::spawn_blocking(move || {
            // Advice only: reading goes on without it.
            let _ = fadvise(&*file, offset, None, Advice::Sequential);
            let mut buffer = Buffer::take();
            loop {
                match pread(&*file, &mut buffer.space()[..want], offset) {
                    Ok(0) => return Err(cut_short()),
                    Ok(count) => return Ok(buffer.freeze(count)),
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        })
    }

    /// Bytes that stand for the next part of the file.
    fn stand_in(&self) -> Option<Bytes> {
        let left = self.end - self.offset;
        let length = usize::try_from(left).map_or(MAX_BYTES, |left| left.min(MAX_BYTES));
        if length >= LEAST_SENT { stand_in(&self.file, self.offset, length, length as u64 == left) } else { None }
    }

    /// The next part of the file as memory, if it is in memory: touching a page that is not would hold up the runtime.
    fn mapped(&mut self) -> Option<Bytes> {
        if self.end - self.offset < LEAST_SENT as u64 {
            return None;
        }
        if self.mapping.is_none() {
            self.mapping = Mapping::of(&self.file);
            if self.mapping.is_none() {
                self.way = FileWay::Read;
            }
        }
        let end = self.end.min(self.offset + MAPPED_BYTES);
        // Pages between two that are there were read with them.
        let there = |offset| {
            let mut byte = [0];
            preadv2(&self.file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT).is_ok_and(|n| n == 1)
        };
        if !there(self.offset) || !there(end - 1) {
            return None;
        }
        self.mapping.as_ref()?.bytes(self.offset, end)
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let at_once = match self.way {
            FileWay::StandIn if self.waiting.is_none() => self.stand_in(),
            FileWay::Map if self.waiting.is_none() => self.mapped(),
            _ => None,
        };
        if let Some(bytes) = at_once {
            return Poll::Ready(Ok(bytes));
        }
        if self.waiting.is_none() {
            if let Some(bytes) = self.read_now()? {
                return Poll::Ready(Ok(bytes));
            }
            self.waiting = Some(self.read_later());
        }
        let Some(reading) = self.waiting.as_mut() else {
            return Poll::Ready(Err(io::Error::other("no read is waited for")));
        };
        let outcome = ready!(Pin::new(reading).poll(context));
        self.waiting = None;
        Poll::Ready(outcome.unwrap_or_else(|error| Err(io::Error::other(error))))
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let bytes = ready!(self.poll_read(context))?;
        self.offset += bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.offset == self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.offset)
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the stored file is shorter than it was when it was opened")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn file_body(file: File, start: u64, end: u64) -> FileBody {
        FileBody::new(Arc::new(file), start, end, FileWay::Read)
    }

    fn stored(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, content).unwrap();
        file
    }

    #[tokio::test]
    async fn yields_exactly_the_range() {
        let content: Vec<u8> = (0..BUFFER_BYTES * 2 + 3).map(|i| (i % 251) as u8).collect();
        let size = content.len() as u64;
        for (first, last) in [(0, size - 1), (0, 0), (size - 1, size - 1), (5, BUFFER_BYTES as u64 + 7)] {
            let body = file_body(stored(&content), first, last + 1).collect().await.unwrap().to_bytes();
            assert_eq!(body, content[first as usize..=last as usize]);
        }
    }

    #[tokio::test]
    async fn the_blocking_read_gives_the_same_bytes() {
        let body = file_body(stored(b"0123456789"), 2, 9);
        assert_eq!(body.read_later().await.unwrap().unwrap(), "2345678");
    }

    #[tokio::test]
    async fn a_file_cut_short_breaks_the_body() {
        let body = file_body(stored(b"short"), 0, 6);
        assert!(body.collect().await.is_err());
    }
}
