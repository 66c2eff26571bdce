//! Bytes straight from the upstream.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Frame, SizeHint};

use crate::fetch::{Feed, Gather, Proof};
use crate::upstream::UpstreamError;

/// A chunk of this size goes on by itself, smaller ones wait for others that have come too.
pub(in crate::api) const LARGE_CHUNK: usize = 64 * 1024;

/// So many bytes are gathered at most, and a chunk.
pub(in crate::api) const GATHERED_BYTES: usize = 256 * 1024;

/// Bytes before a blob's end that are held back until its digest is right. More than a client may take for the whole: an
/// archive's end, a compressed stream's checksum.
pub(in crate::api) const TAIL_BYTES: u64 = 64 * 1024;

/// A body from the upstream, or a part of it. A break is a body error: the client never takes the rest for complete. With a
/// proof the last 64 KiB wait for it, and wrong bytes are a break.
pub(super) struct RelayBody<S = Box<Feed>, E = UpstreamError> {
    feed: S,
    gather: Gather<E>,
    /// What was gathered and is not looked at yet.
    batch: VecDeque<Bytes>,
    /// Bytes before those that are wanted.
    skip: u64,
    /// Wanted bytes that are still to come, if their number is known.
    left: Option<u64>,
    proof: Option<Proof>,
    /// Wanted bytes that have come and are not sent yet, and their number.
    held: VecDeque<Bytes>,
    held_bytes: u64,
    /// Nothing more is to come, and what is held is right.
    ended: bool,
}

impl<S, E> RelayBody<S, E> {
    /// Without the first `skip` bytes of `feed`; of the others `left`, or all.
    pub(super) const fn new(feed: S, skip: u64, left: Option<u64>) -> Self {
        Self {
            feed,
            gather: Gather::new(GATHERED_BYTES, LARGE_CHUNK),
            batch: VecDeque::new(),
            skip,
            left,
            proof: None,
            held: VecDeque::new(),
            held_bytes: 0,
            ended: matches!(left, Some(0)),
        }
    }

    /// With a proof that has seen all that lies before `feed`; its content ends with what is wanted of it.
    pub(super) fn proven_by(mut self, proof: Option<Proof>) -> Self {
        // Also of nothing: empty content has a digest.
        self.ended = self.ended && proof.is_none();
        self.proof = proof;
        self
    }

    /// Looks at a chunk and keeps the wanted part of it.
    fn take(&mut self, mut chunk: Bytes) {
        let skipped = usize::try_from(self.skip).map_or(chunk.len(), |skip| skip.min(chunk.len()));
        let mut wanted = chunk.split_off(skipped);
        self.skip -= skipped as u64;
        if let Some(left) = &mut self.left {
            wanted.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= wanted.len() as u64;
        }
        if let Some(proof) = &mut self.proof {
            proof.update(&chunk);
            proof.update(&wanted);
        }
        if !wanted.is_empty() {
            self.held_bytes += wanted.len() as u64;
            self.held.push_back(wanted);
        }
    }

    /// What may be sent of what is held: all of it once it is right, or all but what may be the blob's last 64 KiB.
    fn release(&mut self) -> Option<Bytes> {
        let free = if self.ended || self.proof.is_none() {
            self.held_bytes
        } else {
            self.held_bytes.saturating_add(self.left.unwrap_or(0)).saturating_sub(TAIL_BYTES).min(self.held_bytes)
        };
        let front = self.held.front_mut().filter(|_| free > 0)?;
        let piece = match usize::try_from(free) {
            Ok(free) if free < front.len() => front.split_to(free),
            _ => self.held.pop_front()?,
        };
        self.held_bytes -= piece.len() as u64;
        Some(piece)
    }

    /// All that is wanted has come.
    fn finish(&mut self) -> io::Result<()> {
        self.ended = true;
        self.proof.take().map_or(Ok(()), Proof::check).map_err(io::Error::other)
    }

    /// Nothing of what is held goes out any more.
    fn break_off(&mut self, error: io::Error) -> io::Error {
        self.batch.clear();
        self.held.clear();
        (self.held_bytes, self.left, self.proof, self.ended) = (0, Some(0), None, true);
        error
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
        loop {
            if let Some(piece) = me.release() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if me.ended {
                return Poll::Ready(None);
            }
            let outcome = if me.left == Some(0) {
                me.finish()
            } else if let Some(chunk) = me.batch.pop_front() {
                me.take(chunk);
                // Told with the last bytes, not after them.
                if me.left == Some(0) { me.finish() } else { Ok(()) }
            } else {
                match ready!(me.gather.poll_batch(Pin::new(&mut me.feed), context)) {
                    Some(Ok(batch)) => {
                        me.batch = batch.into();
                        Ok(())
                    }
                    Some(Err(error)) => Err(io::Error::other(error)),
                    None if me.left.is_some() || me.skip > 0 => Err(too_short()),
                    None => me.finish(),
                }
            };
            if let Err(error) = outcome {
                return Poll::Ready(Some(Err(me.break_off(error))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.held.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + self.held_bytes))
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
