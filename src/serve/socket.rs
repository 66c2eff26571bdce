//! A TCP socket whose writes fail when the peer takes no byte for the stall time. It stands below TLS, so that what
//! counts as movement is what the network took, not what a buffer took. Tokens for a part of a file are sent from the
//! file.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::admission::Guest;
use super::file_io::{FileSender, poll_send_before_file};
use super::peer::Stream;
use super::send_queue::{MIN_QUANTUM_BYTES, QUANTUM_BYTES, SendQueue, Slot, UNQUEUED_BYTES};
use super::stall::Stall;
use crate::sys::sendfile_token;

/// The socket of one connection.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    stall: Stall,
    files: FileSender,
    slot: Slot,
    /// Bytes that may be written before the next quantum.
    allowance: usize,
    /// Told when the peer takes a byte.
    told: Option<Arc<Stream>>,
    /// Charged with what comes in.
    guest: Option<Arc<Guest>>,
}

impl Socket {
    /// Takes `tcp` over. Its large answers are sent by the quanta of `queue`.
    pub(super) fn new(tcp: TcpStream, stall_timeout: Duration, queue: &SendQueue) -> Self {
        let files = FileSender::default();
        let (slot, stall) = (queue.slot(), Stall::new(stall_timeout));
        Self { tcp, stall, files, slot, allowance: UNQUEUED_BYTES, told: None, guest: None }
    }

    /// Tells `stream` when the peer takes a byte.
    pub(super) fn tell(mut self, stream: Arc<Stream>) -> Self {
        self.told = Some(stream);
        self
    }

    /// Charges `guest` with what comes in.
    pub(super) fn charged_to(self, guest: Arc<Guest>) -> Self {
        Self { guest: Some(guest), ..self }
    }

    /// Charges nobody from now on: what comes in is discarded.
    pub(super) fn charge_nobody(&mut self) {
        self.guest = None;
    }

    /// Copies the first bytes that came in, which stay to be read; answers their number, 0 at the end of the stream.
    pub(super) async fn peek(&self, first: &mut [u8]) -> io::Result<usize> {
        self.tcp.peek(first).await
    }

    /// Writes some of `bufs`. Beyond the allowance that takes a quantum of the queue.
    fn poll_write_queued(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Some(empty) = bufs.iter().position(|buf| !buf.is_empty()) else { return Poll::Ready(Ok(0)) };
        let bufs = &bufs[empty..];
        // A file is sent by a call of its own, and so are the bytes before it.
        let file = bufs.iter().position(|buf| sendfile_token::is_token(buf));
        let now = &bufs[..file.map_or(bufs.len(), |file| file.max(1))];
        let wanted: usize = now.iter().map(|buf| buf.len()).sum();
        let quantum = if wanted <= self.allowance && !self.slot.is_queued() {
            None
        } else {
            let Poll::Ready(ready) = self.tcp.poll_write_ready(cx) else {
                // A quantum must not be held, nor assigned, while the peer is waited for.
                self.slot.leave();
                return self.poll_stalled(cx);
            };
            ready?;
            Some(ready!(self.slot.poll_quantum(cx)))
        };
        let Poll::Ready(result) = self.poll_write_parts(cx, now, file) else { return self.poll_stalled(cx) };
        let written = result?;
        self.stall.moved();
        if let Some(stream) = &self.told {
            stream.moved();
        }
        if let Some(quantum) = quantum {
            // Small pieces share one quantum: its least is accounted for at once, and the rest is allowance.
            self.allowance = MIN_QUANTUM_BYTES.max(written);
            self.slot.end(quantum, self.allowance);
        }
        self.allowance = self.allowance.saturating_sub(written);
        Poll::Ready(Ok(written))
    }

    /// Fails once the peer has taken nothing for the stall time. To be polled while it takes nothing.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.allowance = UNQUEUED_BYTES;
        self.stall.poll_stalled(cx).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the peer reads nothing")))
    }

    /// Writes ordinary bytes, or sends the file that the first buffer is a token for. `file`: the first token's index.
    fn poll_write_parts(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
        file: Option<usize>,
    ) -> Poll<io::Result<usize>> {
        if let Some(part) = sendfile_token::file_part_of(&bufs[0]) {
            return self.files.poll_send(&self.tcp, cx, &part, bufs[0].len(), QUANTUM_BYTES);
        }
        self.files.end(&self.tcp)?;
        match (bufs.len(), file) {
            (1, Some(_)) => poll_send_before_file(&self.tcp, cx, &bufs[0]),
            // `send` costs less than `writev` with one part.
            (1, None) => Pin::new(&mut self.tcp).poll_write(cx, &bufs[0]),
            _ => Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.tcp).poll_read(cx, buf);
        if read.is_pending() {
            self.allowance = UNQUEUED_BYTES;
        } else if let Some(guest) = &self.guest
            && !guest.has_read(buf.filled().len() - before)
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "its place is needed")));
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // One buffer gets the same care as several: a token must never reach the system as bytes.
        self.poll_write_queued(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_queued(cx, bufs)
    }

    // Without this hyper copies every body into one buffer.
    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.slot.leave();
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use futures_util::poll;
    use rustix::net::sockopt::tcp_cork;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::serve::file_io::LEAST_CORKED;
    use crate::serve::file_io::tests::pair;

    #[tokio::test]
    async fn a_queued_quantum_is_taken_although_less_is_written_now() {
        let queue = SendQueue::new(1);
        let mut others = queue.slot();
        let sending = poll_fn(|cx| others.poll_quantum(cx)).await;
        let (ours, _theirs) = pair().await;
        let mut socket = Socket::new(ours, Duration::from_secs(60), &queue);
        socket.write_all(&[1; UNQUEUED_BYTES]).await.unwrap();
        assert!(poll!(pin!(socket.write(b"more"))).is_pending());
        let mut nothing = [0];
        assert!(poll!(pin!(socket.read(&mut nothing))).is_pending(), "what follows is small again");
        drop(sending);
        socket.write_all(b"more").await.unwrap();
        drop(poll_fn(|cx| others.poll_quantum(cx)).await);
    }

    #[tokio::test]
    async fn the_head_in_front_of_a_file_needs_no_quantum() {
        let queue = SendQueue::new(1);
        let mut others = queue.slot();
        let _sending = poll_fn(|cx| others.poll_quantum(cx)).await;
        let (ours, _theirs) = pair().await;
        let mut socket = Socket::new(ours, Duration::from_secs(60), &queue);
        let file = tempfile::tempfile().unwrap();
        file.set_len(LEAST_CORKED as u64).unwrap();
        let part = sendfile_token::unwatched(&Arc::new(file), 0, LEAST_CORKED, LEAST_CORKED as u64).unwrap();
        socket.write_all(b"from here on it is known to be writable").await.unwrap();
        let both = [IoSlice::new(b"head"), IoSlice::new(&part)];
        assert!(matches!(poll!(pin!(socket.write_vectored(&both))), Poll::Ready(Ok(4))));
        assert!(poll!(pin!(socket.write(&part))).is_pending(), "the quantum is another's");
    }

    #[tokio::test]
    async fn a_quantum_holds_for_small_pieces_too() {
        const PIECE: usize = 16 * 1024;
        let queue = SendQueue::new(1);
        let mut others = queue.slot();
        let (ours, mut theirs) = pair().await;
        let mut socket = Socket::new(ours, Duration::from_secs(60), &queue);
        // One byte more than goes without a quantum.
        let mut sent = socket.write(&[1; UNQUEUED_BYTES + 1]).await.unwrap();
        let mut got = vec![0; UNQUEUED_BYTES + 1];
        theirs.read_exact(&mut got[..sent]).await.unwrap();
        let _sending = poll_fn(|cx| others.poll_quantum(cx)).await;
        while sent + PIECE <= MIN_QUANTUM_BYTES {
            let written = poll!(pin!(socket.write(&[1; PIECE])));
            let Poll::Ready(Ok(written)) = written else { panic!("a quantum was asked for after {sent} bytes") };
            theirs.read_exact(&mut got[..written]).await.unwrap();
            sent += written;
        }
        assert!(poll!(pin!(socket.write(&[1; PIECE]))).is_pending(), "the quantum is another's");
    }

    #[tokio::test]
    async fn other_bytes_let_go_what_the_parts_of_a_file_kept_back() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(LEAST_CORKED as u64 + 1).unwrap();
        let part = sendfile_token::unwatched(&Arc::new(file), 0, LEAST_CORKED, LEAST_CORKED as u64 + 1).unwrap();
        let (ours, mut theirs) = pair().await;
        let mut socket = Socket::new(ours, Duration::from_secs(60), &SendQueue::new(1));
        let mut got = vec![1; LEAST_CORKED + 5];
        let writing = async {
            socket.write_all(&part).await.unwrap();
            assert!(tcp_cork(&socket.tcp).unwrap(), "more of the file may follow");
            socket.write_all(b"other").await.unwrap();
            assert!(!tcp_cork(&socket.tcp).unwrap());
        };
        let (read, ()) = tokio::join!(theirs.read_exact(&mut got), writing);
        read.unwrap();
        assert!(got[..LEAST_CORKED].iter().all(|byte| *byte == 0) && got.ends_with(b"other"));
    }
}
