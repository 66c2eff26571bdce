//! Chunks of a body that have come, taken together.
//!
//! A connection to an upstream is run by a task of its own and hands over one chunk at a time, with TLS one of 16 KiB. Taken
//! one by one each would be a system call, a packet or a change of threads. So chunks are gathered as long as letting
//! that task run brings another; nothing waits for bytes that have not arrived.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;

/// Chunks of a batch at most: an upstream that sends single bytes must not fill memory with what surrounds them.
const MOST_CHUNKS: usize = 64;

type Yield = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Gathers batches from a stream of chunks, which is given to each call and always has to be the same.
///
/// Safe to leave at any point: what was gathered is in the next batch.
pub struct Gather<E> {
    /// Bytes from which a batch is enough.
    bytes: usize,
    /// A chunk of at least this many bytes waits for no other.
    alone: usize,
    gathered: Vec<Bytes>,
    yielding: Option<Yield>,
    /// The end, or why the stream broke off; told after what came before it.
    end: Option<Option<E>>,
}

impl<E> Gather<E> {
    /// A batch is over with its chunk that brings it to `bytes`, with one of at least `alone` bytes, and with the 64th.
    #[must_use]
    pub const fn new(bytes: usize, alone: usize) -> Self {
        Self { bytes, alone, gathered: Vec::new(), yielding: None, end: None }
    }

    /// The next batch, never without a chunk; `None`: the stream has ended. An error comes after all that was before it,
    /// once, and is followed by the end.
    pub fn poll_batch<S>(
        &mut self,
        mut chunks: Pin<&mut S>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Vec<Bytes>, E>>>
    where
        S: Stream<Item = Result<Bytes, E>>,
    {
        // Whether the upstream's connection has run since the last chunk.
        let mut asked = false;
        while self.end.is_none() && !self.is_enough() {
            if let Some(yielding) = &mut self.yielding {
                ready!(yielding.as_mut().poll(context));
                self.yielding = None;
                asked = true;
            }
            match chunks.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(chunk))) => {
                    self.gathered.push(chunk);
                    asked = false;
                }
                Poll::Ready(Some(Err(error))) => self.end = Some(Some(error)),
                Poll::Ready(None) => self.end = Some(None),
                Poll::Pending if self.gathered.is_empty() => return Poll::Pending,
                Poll::Pending if asked => break,
                Poll::Pending => self.yielding = Some(Box::pin(tokio::task::yield_now())),
            }
        }
        if !self.gathered.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.gathered))));
        }
        Poll::Ready(self.end.as_mut().and_then(Option::take).map(Err))
    }

    fn is_enough(&self) -> bool {
        self.gathered.len() >= MOST_CHUNKS
            || self.gathered.last().is_some_and(|chunk| chunk.len() >= self.alone)
            || self.gathered.iter().map(Bytes::len).sum::<usize>() >= self.bytes
    }
}

impl<E> fmt::Debug for Gather<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather").field("chunks", &self.gathered.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io;

    use futures_util::StreamExt as _;
    use futures_util::stream::{self, BoxStream};
    use tokio::sync::mpsc;
    use tokio_util::task::TaskTracker;

    use super::*;

    type Chunks = BoxStream<'static, io::Result<Bytes>>;

    async fn next(gather: &mut Gather<io::Error>, chunks: &mut Chunks) -> Option<io::Result<Vec<Bytes>>> {
        poll_fn(|context| gather.poll_batch(Pin::new(&mut *chunks), context)).await
    }

    fn received(receiver: mpsc::Receiver<Bytes>) -> Chunks {
        stream::unfold(receiver, |mut receiver| async { Some((Ok(receiver.recv().await?), receiver)) }).boxed()
    }

    /// `chunks` chunks of `length` bytes that another task hands over one at a time.
    fn handed_over(chunks: usize, length: usize) -> Chunks {
        let (sender, receiver) = mpsc::channel(1);
        TaskTracker::new().spawn(async move {
            for _ in 0..chunks {
                let _ = sender.send(Bytes::from(vec![1; length])).await;
            }
        });
        received(receiver)
    }

    async fn batches(mut chunks: Chunks, mut gather: Gather<io::Error>) -> Vec<usize> {
        let mut lengths = Vec::new();
        while let Some(batch) = next(&mut gather, &mut chunks).await {
            lengths.push(batch.unwrap().len());
        }
        lengths
    }

    #[tokio::test]
    async fn chunks_that_are_handed_over_one_at_a_time_come_together() {
        let lengths = batches(handed_over(60, 16 << 10), Gather::new(256 << 10, 64 << 10)).await;
        assert_eq!(lengths.iter().sum::<usize>(), 60);
        assert!(lengths.len() <= 8, "{lengths:?}");
        assert!(lengths.iter().all(|chunks| *chunks <= 16), "{lengths:?}");
    }

    #[tokio::test]
    async fn single_bytes_are_bounded_by_their_number() {
        let lengths = batches(handed_over(1000, 1), Gather::new(1 << 20, usize::MAX)).await;
        assert_eq!(lengths.iter().sum::<usize>(), 1000);
        assert!(lengths.iter().all(|chunks| *chunks <= MOST_CHUNKS), "{lengths:?}");
    }

    #[tokio::test]
    async fn a_large_chunk_waits_for_no_other() {
        let lengths = batches(handed_over(5, 64 << 10), Gather::new(1 << 20, 64 << 10)).await;
        assert_eq!(lengths, [1; 5]);
    }

    #[tokio::test]
    async fn a_chunk_does_not_wait_for_one_that_has_not_come() {
        let (sender, receiver) = mpsc::channel(1);
        let (mut gather, mut chunks) = (Gather::new(1 << 20, usize::MAX), received(receiver));
        for piece in [&b"first"[..], b"second"] {
            sender.send(Bytes::from_static(piece)).await.unwrap();
            assert_eq!(next(&mut gather, &mut chunks).await.unwrap().unwrap(), [piece]);
        }
        drop(sender);
        assert!(next(&mut gather, &mut chunks).await.is_none());
    }

    #[tokio::test]
    async fn a_break_comes_after_what_was_before_it_and_once() {
        let broken = Err(io::ErrorKind::ConnectionReset.into());
        let mut chunks = stream::iter([Ok(Bytes::from_static(b"before")), broken]).boxed();
        let mut gather = Gather::new(1 << 20, usize::MAX);
        assert_eq!(next(&mut gather, &mut chunks).await.unwrap().unwrap(), [&b"before"[..]]);
        assert!(next(&mut gather, &mut chunks).await.unwrap().is_err());
        assert!(next(&mut gather, &mut chunks).await.is_none());
    }
}
