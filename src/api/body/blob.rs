//! The body of a blob, wherever its bytes are.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http_body::{Frame, SizeHint};
use tokio::task::JoinHandle;

use super::file::FileBody;
use super::parts::{Parts, PartsBody, Stored};
use super::reading::Reading;
use super::relay::{RelayBody, too_short};
use crate::fetch::{Beyond, FillError, FillReader, Relayed};
use crate::mode::{BlobContent, FileParts};
use crate::oci::ByteRange;
use crate::serve::BodyTransport;
use crate::store::Blob;

/// The bytes of `range` of a blob of `size` bytes, or all of them where nobody knows how many there are. `transport`: how
/// the connection takes files. `reading`: hears that a file can't be read.
pub(in crate::api) fn blob_body(
    content: BlobContent,
    size: Option<u64>,
    range: Option<ByteRange>,
    transport: BodyTransport,
    reading: &Arc<Reading>,
) -> Body {
    let start = range.map_or(0, ByteRange::start);
    match content {
        BlobContent::None => Body::empty(),
        BlobContent::Memory(bytes) => {
            let end = range.map_or(bytes.len() as u64, ByteRange::end);
            let index = |offset| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            Body::from(bytes.slice(index(start)..index(end)))
        }
        BlobContent::File(blob) => {
            let range = range.unwrap_or(ByteRange::whole(blob.length()));
            let body = FileBody::of(&blob, range, transport).holding(blob);
            Body::new(body.watched_by(Some(Arc::clone(reading))))
        }
        BlobContent::Files(files) => {
            let range = range.unwrap_or_else(|| ByteRange::whole(files.length()));
            Body::new(FilesBody::new(files, range, transport, Arc::clone(reading)))
        }
        BlobContent::Filling(reader) => {
            let end = range.map(ByteRange::end);
            // A body without a known length is framed in chunks, which nobody may put a token into.
            let transport = if end.is_some() { transport } else { BodyTransport::Copy };
            Body::new(GrowingBody::new(reader, start, end, transport, Arc::clone(reading)))
        }
        BlobContent::Relay { feed, offset, proof } => {
            let body = RelayBody::new(feed, start.saturating_sub(offset), range.map(ByteRange::len));
            Body::new(body.proven_by(proof.filter(|_| reaches_end(range.map(ByteRange::end), size))))
        }
    }
}

/// Several ranges of a blob whose bytes are stored. A body of others breaks: nobody asks for one.
pub(in crate::api) fn parts_body(
    content: BlobContent,
    parts: Parts,
    transport: BodyTransport,
    reading: &Arc<Reading>,
) -> Body {
    let stored = match content {
        BlobContent::Memory(bytes) => Stored::Memory(bytes),
        BlobContent::File(blob) => Stored::File { blob, transport, reading: Some(Arc::clone(reading)) },
        BlobContent::None | BlobContent::Files(_) | BlobContent::Filling(_) | BlobContent::Relay { .. } => {
            return Body::from_stream(stream::iter([Err::<Bytes, _>(too_short())]));
        }
    };
    Body::new(PartsBody::new(stored, parts))
}

/// Whether what is read up to `end` ends with the blob's last byte.
fn reaches_end(end: Option<u64>, size: Option<u64>) -> bool {
    end.is_none() || end == size
}

/// A range of bytes that lie in several files, of which one is open at a time.
struct FilesBody {
    files: FileParts,
    /// Offset in the blob behind what was opened so far.
    at: u64,
    /// Behind the last byte that is wanted.
    end: u64,
    /// What is sent of the open file.
    now: Option<FileBody>,
    opening: Option<JoinHandle<io::Result<Blob>>>,
    transport: BodyTransport,
    reading: Arc<Reading>,
}

impl FilesBody {
    fn new(files: FileParts, range: ByteRange, transport: BodyTransport, reading: Arc<Reading>) -> Self {
        Self { files, at: range.start(), end: range.end(), now: None, opening: None, transport, reading }
    }

    /// Opens the file that has the next byte.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let opening = self.opening.get_or_insert_with(|| {
            let (files, at) = (self.files.clone(), self.at);
            let operation = crate::telemetry::disk_operation();
            tokio::task::spawn_blocking(move || {
                let _operation = operation;
                files.part_at(at)
            })
        });
        let opened = ready!(Pin::new(opening).poll(context)).unwrap_or_else(|error| Err(io::Error::other(error)));
        self.opening = None;
        let blob = opened.inspect_err(|error| self.reading.unopened(error))?;
        let length = blob.length().min(self.end - self.at);
        let part = FileBody::of(&blob, ByteRange::whole(length), self.transport).holding(blob);
        self.now = Some(part.watched_by(Some(Arc::clone(&self.reading))));
        self.at += length;
        Poll::Ready(Ok(()))
    }
}

impl http_body::Body for FilesBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if let Some(now) = self.now.as_mut().filter(|now| !now.is_end_stream()) {
                return Pin::new(now).poll_frame(context);
            }
            self.now = None;
            if self.at >= self.end {
                return Poll::Ready(None);
            }
            if let Err(error) = ready!(self.poll_open(context)) {
                // Nothing comes behind a broken body.
                self.at = self.end;
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.at >= self.end && self.now.as_ref().is_none_or(FileBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let now = self.now.as_ref().and_then(|now| now.size_hint().exact()).unwrap_or(0);
        SizeHint::with_exact(now + self.end.saturating_sub(self.at))
    }
}

type Waiting = Pin<Box<dyn Future<Output = (FillReader, Result<Beyond, FillError>)> + Send>>;

/// Bytes of a file that is being filled: those that are there are read as from any file, the others are waited for.
struct GrowingBody {
    /// The bytes that can be read now.
    window: FileBody,
    /// Offset behind the last byte that is wanted; `None`: the content's end, wherever that is.
    end: Option<u64>,
    supply: Supply,
}

/// What gives the bytes behind the window.
enum Supply {
    /// The fill, which has not been asked for more.
    Reader(FillReader),
    /// The fill, which is waited for.
    Waiting(Waiting),
    /// The upstream itself: the fill has failed.
    Relay(Box<RelayBody>),
    /// Nothing: the end was reached.
    Ended,
}

impl GrowingBody {
    fn new(reader: FillReader, start: u64, end: Option<u64>, transport: BodyTransport, reading: Arc<Reading>) -> Self {
        Self {
            window: FileBody::growing(reader.file(), start, transport).watched_by(Some(reading)),
            end,
            supply: Supply::Reader(reader),
        }
    }

    /// Waits for what lies behind the window.
    fn poll_beyond(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (offset, end) = (self.window.offset(), self.end);
        if let Supply::Reader(_) = &self.supply
            && let Supply::Reader(mut reader) = std::mem::replace(&mut self.supply, Supply::Ended)
        {
            self.supply = Supply::Waiting(Box::pin(async move {
                let beyond = reader.beyond(offset, end).await;
                (reader, beyond)
            }));
        }
        let Supply::Waiting(waiting) = &mut self.supply else { return Poll::Ready(Ok(())) };
        let (reader, beyond) = ready!(waiting.as_mut().poll(context));
        match beyond {
            Ok(Beyond::Upto(ready)) => {
                self.window.extend(self.end.map_or(ready, |end| end.min(ready)));
                self.supply = Supply::Reader(reader);
            }
            Ok(Beyond::End) if self.end.is_some() => return Poll::Ready(Err(too_short())),
            Ok(Beyond::End) => self.supply = Supply::Ended,
            Ok(Beyond::Relay(relayed)) => {
                let Relayed { feed, proof, length } = *relayed;
                let left = self.end.map(|end| end.saturating_sub(offset));
                let body = RelayBody::new(Box::new(feed), 0, left);
                let proof = proof.filter(|_| reaches_end(self.end, length));
                self.supply = Supply::Relay(Box::new(body.proven_by(proof)));
            }
            Err(error) => return Poll::Ready(Err(io::Error::other(error))),
        }
        Poll::Ready(Ok(()))
    }
}

impl http_body::Body for GrowingBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if !self.window.is_end_stream() {
                return Pin::new(&mut self.window).poll_frame(context);
            }
            if self.is_end_stream() {
                return Poll::Ready(None);
            }
            if let Supply::Relay(relay) = &mut self.supply {
                return Pin::new(relay).poll_frame(context);
            }
            ready!(self.poll_beyond(context))?;
        }
    }

    fn is_end_stream(&self) -> bool {
        self.window.is_end_stream()
            && match &self.supply {
                Supply::Relay(relay) => relay.is_end_stream(),
                Supply::Ended => true,
                Supply::Reader(_) | Supply::Waiting(_) => self.end == Some(self.window.offset()),
            }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.supply, self.end) {
            (Supply::Relay(relay), _) if self.window.is_end_stream() => relay.size_hint(),
            (_, Some(end)) => SizeHint::with_exact(end - self.window.offset()),
            (_, None) => SizeHint::default(),
        }
    }
}
