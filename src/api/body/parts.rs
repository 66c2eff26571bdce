//! Several ranges of stored bytes in one body (`multipart/byteranges`, RFC 9110, 14.6).

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::file::FileBody;
use super::reading::Reading;
use crate::oci::ByteRange;
use crate::serve::BodyTransport;
use crate::store::Blob;

/// Ranges of a content, and the text between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::api) struct Parts {
    /// Each range, behind its delimiter and header.
    parts: VecDeque<(Bytes, ByteRange)>,
    end: Bytes,
    boundary: String,
}

impl Parts {
    /// `ranges` of content of `size` bytes and a media type. `boundary` must not be in the content, so nobody may foresee it.
    pub(in crate::api) fn new(ranges: Vec<ByteRange>, size: u64, media_type: &str, boundary: String) -> Self {
        let mut delimiter = "--";
        let parts = ranges.into_iter().map(|range| {
            let range_text = range.content_range(size);
            let head =
                format!("{delimiter}{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: {range_text}\r\n\r\n");
            delimiter = "\r\n--";
            (Bytes::from(head), range)
        });
        let parts = parts.collect();
        Self { parts, end: format!("\r\n--{boundary}--\r\n").into(), boundary }
    }

    /// The answer's `Content-Type`.
    pub(in crate::api) fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// Bytes of the whole body.
    pub(in crate::api) fn length(&self) -> u64 {
        let parts = self.parts.iter().map(|(head, range)| head.len() as u64 + range.len());
        parts.sum::<u64>() + self.end.len() as u64
    }
}

/// The content that the ranges are of.
pub(super) enum Stored {
    Memory(Bytes),
    File {
        blob: Blob,
        transport: BodyTransport,
        /// Hears that the file can't be read.
        reading: Option<Arc<Reading>>,
    },
}

/// The body.
pub(super) struct PartsBody {
    stored: Stored,
    parts: VecDeque<(Bytes, ByteRange)>,
    /// The range that is sent now.
    now: Option<FileBody>,
    /// Its head was sent, it was not begun.
    next: Option<ByteRange>,
    end: Option<Bytes>,
    left: u64,
}

impl PartsBody {
    pub(super) fn new(stored: Stored, parts: Parts) -> Self {
        let left = parts.length();
        Self { stored, parts: parts.parts, now: None, next: None, end: Some(parts.end), left }
    }

    /// The next bytes that are no file's.
    fn next_bytes(&mut self) -> Option<Bytes> {
        if let Some(range) = self.next.take() {
            match &self.stored {
                Stored::Memory(bytes) => {
                    let at = |offset| usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                    return Some(bytes.slice(at(range.start())..at(range.end())));
                }
                Stored::File { blob, transport, reading } => {
                    self.now = Some(FileBody::of(blob, range, *transport).watched_by(reading.clone()));
                    return None;
                }
            }
        }
        match self.parts.pop_front() {
            Some((head, range)) => {
                self.next = Some(range);
                Some(head)
            }
            None => self.end.take(),
        }
    }
}

impl http_body::Body for PartsBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        while self.left > 0 {
            if let Some(now) = &mut self.now {
                if !now.is_end_stream() {
                    let frame = std::task::ready!(Pin::new(now).poll_frame(context));
                    if let Some(Ok(frame)) = &frame {
                        self.left -= frame.data_ref().map_or(0, |data| data.len() as u64);
                    }
                    return Poll::Ready(frame);
                }
                self.now = None;
            }
            if let Some(bytes) = self.next_bytes() {
                self.left -= bytes.len() as u64;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::oci::RangeSet;

    #[tokio::test]
    async fn memory_and_file_give_the_same_and_what_was_said() {
        let content: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        // Among other bytes, at an odd place.
        for bytes in [&[255; 4097][..], &content, &[255; 70_000]] {
            io::Write::write_all(&mut file, bytes).unwrap();
        }
        let file = Arc::new(file);
        let blob = || Blob::part_of(Arc::clone(&file), 4097, 200_000).unwrap();
        for asked in ["bytes=0-0,5-9", "bytes=150000-,0-99999", "bytes=-1,3-4,70000-140000"] {
            let ranges = RangeSet::parse(asked).unwrap().resolve(200_000).unwrap();
            let parts = Parts::new(ranges.clone(), 200_000, "a/b", "B".into());
            let mut expected = Vec::new();
            for (number, range) in ranges.iter().enumerate() {
                let line = if number == 0 { "" } else { "\r\n" };
                let range_text = range.content_range(200_000);
                expected
                    .extend(format!("{line}--B\r\nContent-Type: a/b\r\nContent-Range: {range_text}\r\n\r\n").bytes());
                expected.extend(&content[range.start() as usize..range.end() as usize]);
            }
            expected.extend(b"\r\n--B--\r\n");
            assert_eq!(parts.length(), expected.len() as u64);
            let sources = [
                Stored::Memory(content.clone().into()),
                Stored::File { blob: blob(), transport: BodyTransport::Copy, reading: None },
            ];
            for stored in sources {
                let body = PartsBody::new(stored, parts.clone());
                assert_eq!(body.size_hint().exact(), Some(expected.len() as u64));
                assert!(body.collect().await.unwrap().to_bytes() == expected, "{asked}");
            }
        }
    }
}
