//! A range of a file as a body.
//!
//! A plain connection sends the file itself (`sys::sendfile_token`). Else, and always under TLS, it is read into buffers: pages
//! that are in memory on the spot (`preadv2` with `RWF_NOWAIT`), and by a blocking thread where a read would wait for the
//! disk, so a cold file never holds up the runtime.
//!
//! No file is mapped: a mapped page that can't be read any more ends the process (SIGBUS). What can't be read ends the
//! answer that it is part of.

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
use super::reading::Reading;
use crate::serve::BodyTransport;
use crate::store::Lease;
use crate::sys::sendfile_token::{self, FileWatch, MAX_BYTES};

/// Less than this is read and written together with the answer's head: one system call instead of two.
const LEAST_SENT: usize = 32 * 1024;

/// Bytes of a file. A file that turns out shorter is a body error: the connection breaks, the client never takes the
/// rest for complete.
pub(super) struct FileBody {
    file: Arc<File>,
    offset: u64,
    end: u64,
    transport: BodyTransport,
    /// A read on a blocking thread. Dropped with the body: the read ends by itself and is thrown away.
    waiting: Option<JoinHandle<io::Result<Bytes>>>,
    /// Keeps the content from eviction.
    _lease: Option<Lease>,
    /// Hears that the file can't be read.
    reading: Option<Arc<Reading>>,
}

impl FileBody {
    /// The bytes from `offset` up to `end`.
    /// `transport`: how the connection takes it.
    pub(super) const fn new(file: Arc<File>, offset: u64, end: u64, transport: BodyTransport) -> Self {
        Self { file, offset, end, transport, waiting: None, _lease: None, reading: None }
    }

    /// Holds `lease` as long as it is read.
    pub(super) fn held_by(mut self, lease: Option<Lease>) -> Self {
        self._lease = lease;
        self
    }

    /// Has `reading` told that the file can't be read.
    pub(super) fn watched_by(mut self, reading: Option<Arc<Reading>>) -> Self {
        self.reading = reading;
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
        let operation = crate::telemetry::disk_operation();
        tokio::task::spawn_blocking(move || {
            let _operation = operation;
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

    /// A token for the next part of the file; `None`: it is short, or no token is free.
    fn token(&self) -> Option<Bytes> {
        let left = self.end - self.offset;
        let length = usize::try_from(left).map_or(MAX_BYTES, |left| left.min(MAX_BYTES));
        if length < LEAST_SENT {
            return None;
        }
        let watch = self.reading.clone().map(|reading| reading as Arc<dyn FileWatch>);
        sendfile_token::token_for(&self.file, self.offset, length, length as u64 == left, watch)
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let at_once = match self.transport {
            BodyTransport::Sendfile if self.waiting.is_none() => self.token(),
            BodyTransport::Sendfile | BodyTransport::Copy => None,
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
        let bytes = match ready!(self.poll_read(context)) {
            Ok(bytes) => bytes,
            Err(error) => {
                if let Some(reading) = &self.reading {
                    reading.failed(&self.file, &error);
                }
                return Poll::Ready(Some(Err(error)));
            }
        };
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
        FileBody::new(Arc::new(file), start, end, BodyTransport::Copy)
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

    #[tokio::test]
    async fn a_file_cut_while_it_is_read_breaks_the_body_where_it_ends() {
        const LENGTH: u64 = BUFFER_BYTES as u64 * 4;
        let file = stored(&vec![7; LENGTH as usize]);
        let mut body = file_body(file.try_clone().unwrap(), 0, LENGTH);
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        file.set_len(LENGTH / 2).unwrap();
        assert!(first.iter().all(|byte| *byte == 7), "what was read is kept");
        let mut came = first.len() as u64;
        let error = loop {
            match body.frame().await.unwrap() {
                Ok(frame) => came += frame.into_data().unwrap().len() as u64,
                Err(error) => break error,
            }
        };
        assert_eq!((came, error.kind()), (LENGTH / 2, io::ErrorKind::UnexpectedEof));
    }

    /// What a process reads where it has no memory is EIO, as what a disk can't read is.
    #[tokio::test]
    async fn what_the_disk_cannot_read_breaks_the_body() {
        let error = file_body(File::open("/proc/self/mem").unwrap(), 0, 1000).collect().await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
    }
}
