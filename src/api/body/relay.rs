//! Bytes straight from the upstream.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Frame, SizeHint};

use crate::fetch::{Feed, Gather};
use crate::upstream::UpstreamError;

/// A chunk of this size goes on by itself, smaller ones wait for others that have come too.
const LARGE_CHUNK: usize = 64 * 1024;

/// So many bytes are gathered at most, and a chunk.
const GATHERED_BYTES: usize = 256 * 1024;

/// A body from the upstream, or a part of it. A break is a body error: the client never takes the rest for complete.
pub(super) struct RelayBody<S = Box<Feed>, E = UpstreamError> {
    feed: S,
    gather: Gather<E>,
    /// What was gathered and is not sent yet.
    batch: VecDeque<Bytes>,
    /// Bytes before those that are wanted.
    skip: u64,
    /// Bytes still to be sent, if their number is known.
    left: Option<u64>,
}

impl<S, E> RelayBody<S, E> {
    /// Without the first `skip` bytes of `feed`; of the others `left`, or all.
    pub(super) const fn new(feed: S, skip: u64, left: Option<u64>) -> Self {
        Self { feed, gather: Gather::new(GATHERED_BYTES, LARGE_CHUNK), batch: VecDeque::new(), skip, left }
    }

    /// The wanted part of a chunk.
    fn cut(&mut self, mut chunk: Bytes) -> Bytes {
        let skipped = usize::try_from(self.skip).map_or(chunk.len(), |skip| skip.min(chunk.len()));
        let mut wanted = chunk.split_off(skipped);
        self.skip -= skipped as u64;
        if let Some(left) = &mut self.left {
            wanted.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= wanted.len() as u64;
        }
        wanted
    }
}

impl<S, E> http_body::Body for RelayBody<S, E>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::error::Error + Send + Sync + Unpin + 'static,
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let me = &mut *self;
        while me.left != Some(0) {
            if let Some(chunk) = me.batch.pop_front() {
                let wanted = me.cut(chunk);
                if !wanted.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(wanted))));
                }
                continue;
            }
            let error = match ready!(me.gather.poll_batch(Pin::new(&mut me.feed), context)) {
                Some(Ok(batch)) => {
                    me.batch = batch.into();
                    continue;
                }
                Some(Err(error)) => Some(io::Error::other(error)),
                None if me.left.is_some() || me.skip > 0 => Some(too_short()),
                None => None,
            };
            me.left = Some(0);
            return Poll::Ready(error.map(Err));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

pub(super) fn too_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the content is shorter than the upstream said")
}

#[cfg(test)]
mod tests {
    use futures_util::stream::{self, StreamExt as _};
    use http_body::Body as _;
    use http_body_util::BodyExt as _;
    use proptest::prelude::*;
    use tokio::sync::mpsc;
    use tokio_util::task::TaskTracker;

    use super::*;

    fn relay(
        chunks: Vec<Result<Bytes, io::Error>>,
        skip: u64,
        left: Option<u64>,
    ) -> RelayBody<impl Stream<Item = Result<Bytes, io::Error>> + Unpin, io::Error> {
        RelayBody::new(stream::iter(chunks), skip, left)
    }

    async fn read<S>(mut body: RelayBody<S, io::Error>) -> (Vec<u8>, bool)
    where
        S: Stream<Item = Result<Bytes, io::Error>> + Unpin,
    {
        let mut all = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => all.extend_from_slice(&frame.into_data().unwrap()),
                Err(_) => {
                    assert!(body.frame().await.is_none(), "something follows the break");
                    return (all, false);
                }
            }
        }
        assert!(body.is_end_stream());
        (all, true)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_wanted_part_comes_out_whole_or_a_break_is_told(
            lengths in proptest::collection::vec(0_usize..100_000, 0..8),
            skip in 0_u64..200_000,
            left in proptest::option::of(0_u64..300_000),
            breaks in any::<bool>(),
        ) {
            let mut all = Vec::new();
            let mut chunks = Vec::new();
            for (number, length) in lengths.into_iter().enumerate() {
                let chunk: Vec<u8> = (0..length).map(|at| (at * 7 + number) as u8).collect();
                all.extend_from_slice(&chunk);
                chunks.push(Ok(chunk.into()));
            }
            if breaks {
                chunks.push(Err(io::ErrorKind::ConnectionReset.into()));
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (got, whole) = runtime.block_on(read(relay(chunks, skip, left)));
            let there = &all[usize::try_from(skip).unwrap().min(all.len())..];
            let wanted = &there[..usize::try_from(left.unwrap_or(u64::MAX)).unwrap_or(usize::MAX).min(there.len())];
            prop_assert!(got == wanted);
            let is_whole = match left {
                Some(left) => wanted.len() as u64 == left,
                None => !breaks && all.len() as u64 >= skip,
            };
            prop_assert_eq!(whole, is_whole);
        }
    }

    /// A body whose chunks of 16 KiB another task hands over one at a time.
    fn handed_over(chunks: usize) -> RelayBody<impl Stream<Item = Result<Bytes, io::Error>> + Unpin, io::Error> {
        let (sender, receiver) = mpsc::channel(1);
        TaskTracker::new().spawn(async move {
            for _ in 0..chunks {
                let _ = sender.send(Bytes::from(vec![1; 16 * 1024])).await;
            }
        });
        let chunks = stream::unfold(receiver, |mut receiver| async { Some((Ok(receiver.recv().await?), receiver)) });
        RelayBody::new(chunks.boxed(), 0, None)
    }

    #[tokio::test]
    async fn small_chunks_leave_together() {
        let mut body = handed_over(64);
        let (mut frames, mut flushes, mut unflushed) = (0, 0, 0);
        while let Some(frame) = std::future::poll_fn(|context| match Pin::new(&mut body).poll_frame(context) {
            Poll::Pending => {
                // hyper sends what it was given when no more comes.
                flushes += usize::from(std::mem::take(&mut unflushed) > 0);
                Poll::Pending
            }
            ready => ready,
        })
        .await
        {
            frame.unwrap();
            frames += 1;
            unflushed += 1;
        }
        assert_eq!(frames, 64);
        assert!(flushes < 64 / 4, "{flushes} flushes");
    }
}
