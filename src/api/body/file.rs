//! A range of a blob, or of a file that is being filled, as a body.
//!
//! A plain connection sends the file itself (`sys::sendfile_token`). Any other connection, and always one under TLS, gets bytes
//! from buffers: pages in memory are read on the spot (`preadv2` with `RWF_NOWAIT`), the others by a blocking thread, so a
//! cold file never holds up the runtime.
//!
//! No file is mapped: a mapped page that can't be read any more ends the process (SIGBUS). A read that fails ends its answer
//! alone.

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
use crate::oci::ByteRange;
use crate::serve::BodyTransport;
use crate::store::Blob;
use crate::sys::sendfile_token::{self, FileWatch, MAX_BYTES};

/// Shortest part, in bytes, that is sent from the file. Less is read and written together with the answer's head: one system
/// call instead of two.
const LEAST_SENT: usize = 32 * 1024;

/// Behind the last byte that a file can have.
const LAST_END: u64 = i64::MAX as u64;

/// Bytes of a file. A content that turns out shorter than its range is a body error: the connection breaks, and the client
/// never takes the rest for complete.
///
/// All offsets are the file's.
pub(super) struct FileBody {
    file: Arc<File>,
    /// Of the content's first byte.
    base: u64,
    /// Of the next byte.
    at: u64,
    /// Behind the last byte that is to be sent.
    end: u64,
    /// Behind the content's last byte: other contents may follow it in the file, and nothing is read from here on.
    limit: u64,
    transport: BodyTransport,
    /// A read on a blocking thread. Dropped with the body: the read ends by itself and its bytes are thrown away.
    waiting: Option<JoinHandle<io::Result<Bytes>>>,
    /// Holds the blob's lease.
    _held: Option<Blob>,
    /// Hears that the file can't be read.
    reading: Option<Arc<Reading>>,
}

impl FileBody {
    /// The bytes of `range` of `blob`, whose lease the caller holds. `transport`: how the connection takes files.
    pub(super) fn of(blob: &Blob, range: ByteRange, transport: BodyTransport) -> Self {
        let extent = blob.extent();
        // Behind the limit the body breaks: a sum that is too large must not wrap round to a neighbour's bytes.
        let at = extent.start.saturating_add(range.start());
        let end = extent.start.saturating_add(range.end());
        Self { base: extent.start, at, end, limit: extent.end, ..Self::growing(Arc::clone(blob.file()), 0, transport) }
    }

    /// The bytes from `start` on of a file that is being filled and holds one content alone. None of them can be read before
    /// [`FileBody::extend`].
    pub(super) const fn growing(file: Arc<File>, start: u64, transport: BodyTransport) -> Self {
        Self {
            file,
            base: 0,
            at: start,
            end: start,
            limit: LAST_END,
            transport,
            waiting: None,
            _held: None,
            reading: None,
        }
    }

    /// Holds `blob` until it is dropped.
    pub(super) fn holding(mut self, blob: Blob) -> Self {
        self._held = Some(blob);
        self
    }

    /// Has `reading` told that the file can't be read.
    pub(super) fn watched_by(mut self, reading: Option<Arc<Reading>>) -> Self {
        if let Some(reading) = &reading {
            reading.lies_at(self.base..self.limit);
        }
        self.reading = reading;
        self
    }

    /// Offset of the next byte within the content.
    pub(super) const fn offset(&self) -> u64 {
        self.at - self.base
    }

    /// More of a file that is being filled can be read now: up to `end`.
    pub(super) fn extend(&mut self, end: u64) {
        self.end = self.end.max(end);
    }

    /// Bytes of the next piece, at most `most`.
    ///
    /// # Errors
    /// The content has ended, and the range has not.
    fn next_piece(&self, most: usize) -> io::Result<usize> {
        let left = self.end.min(self.limit).saturating_sub(self.at);
        if left == 0 {
            return Err(cut_short());
        }
        Ok(usize::try_from(left).map_or(most, |left| left.min(most)))
    }

    /// Reads without waiting; `None` if the bytes are not in memory.
    fn read_now(&self) -> io::Result<Option<Bytes>> {
        let want = self.next_piece(BUFFER_BYTES)?;
        let mut buffer = Buffer::take();
        let slice = &mut buffer.space()[..want];
        match preadv2(&self.file, &mut [IoSliceMut::new(slice)], self.at, ReadWriteFlags::NOWAIT) {
            Ok(0) => Err(cut_short()),
            Ok(count) => Ok(Some(buffer.freeze(count))),
            // Not every file system and kernel has the flag.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads on a blocking thread.
    fn read_later(&self) -> io::Result<JoinHandle<io::Result<Bytes>>> {
        let (file, offset, want) = (Arc::clone(&self.file), self.at, self.next_piece(BUFFER_BYTES)?);
        let operation = crate::telemetry::disk_operation();
        Ok(tokio::task::spawn_blocking(move || {
            let _operation = operation;
            // Advice only: reading goes on without it. It holds for the open file, so no end is given.
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
        }))
    }

    /// A token for the next part of the file; `None`: it is short, or no token is free.
    fn token(&self) -> Option<Bytes> {
        let length = self.next_piece(MAX_BYTES).ok().filter(|length| *length >= LEAST_SENT)?;
        let watch = self.reading.clone().map(|reading| reading as Arc<dyn FileWatch>);
        sendfile_token::token_for(&self.file, self.at, length, self.end.min(self.limit), watch)
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
            self.waiting = Some(self.read_later()?);
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
        self.at += bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the stored file is shorter than it was when it was opened")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use proptest::prelude::*;

    use super::*;
    use crate::oci::RangeSpec;
    use crate::sys::sendfile_token::file_part_of;

    /// The bytes from `start` up to `end` of a blob that the file holds alone and that has `end` bytes.
    fn file_body(file: File, start: u64, end: u64) -> FileBody {
        of(&Blob::whole(file, end), start, end, BodyTransport::Copy)
    }

    fn of(blob: &Blob, start: u64, end: u64, transport: BodyTransport) -> FileBody {
        FileBody::of(
            blob,
            RangeSpec::Closed { first: start, last: end - 1 }.resolve(u64::MAX).unwrap().unwrap(),
            transport,
        )
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
        assert_eq!(body.read_later().unwrap().await.unwrap().unwrap(), "2345678");
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

    /// A read where a process has no memory fails with EIO, as that of a bad disk does.
    #[tokio::test]
    async fn what_the_disk_cannot_read_breaks_the_body() {
        let error = file_body(File::open("/proc/self/mem").unwrap(), 0, 1000).collect().await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
    }

    /// The bytes that leave, of a token those of its part of the file, and the error that ended them.
    fn leaves(mut body: FileBody, runtime: &tokio::runtime::Runtime) -> (Vec<u8>, Option<io::ErrorKind>) {
        let mut left = Vec::new();
        loop {
            match runtime.block_on(body.frame()).map(|frame| frame.map(|frame| frame.into_data().unwrap())) {
                None => return (left, None),
                Some(Err(error)) => return (left, Some(error.kind())),
                Some(Ok(bytes)) => match file_part_of(&bytes) {
                    None => left.extend_from_slice(&bytes),
                    Some(part) => {
                        let mut sent = vec![0; bytes.len()];
                        std::os::unix::fs::FileExt::read_exact_at(&*part.file, &mut sent, part.offset).unwrap();
                        left.extend_from_slice(&sent);
                    }
                },
            }
        }
    }

    proptest! {
        /// Also where the range was resolved against another length than the blob's.
        #[test]
        fn nothing_but_the_blobs_own_bytes_ever_leaves(
            before in 0_usize..70_000,
            length in 1_usize..200_000,
            behind in 0_usize..70_000,
            a in 0_u64..210_000,
            b in 0_u64..210_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let content: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let mut all = vec![255; before];
            all.extend_from_slice(&content);
            all.resize(before + length + behind, 255);
            let blob = Blob::part_of(Arc::new(stored(&all)), before as u64, length as u64).unwrap();
            let (start, end) = (a.min(b), a.max(b) + 1);
            let there = &content[(start as usize).min(length)..(end as usize).min(length)];
            let broken = (end > length as u64).then_some(io::ErrorKind::UnexpectedEof);
            for transport in [BodyTransport::Copy, BodyTransport::Sendfile] {
                let body = of(&blob, start, end, transport);
                prop_assert_eq!(http_body::Body::size_hint(&body).exact(), Some(end - start));
                let (left, ended) = leaves(body, &runtime);
                prop_assert!(left == there, "{:?}: {} bytes instead of {}", transport, left.len(), there.len());
                prop_assert_eq!(ended, broken);
            }
        }
    }
}
