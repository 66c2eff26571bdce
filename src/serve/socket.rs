//! A TCP socket whose writes fail when the peer takes no byte for the stall time. It stands below TLS, so that what
//! counts as movement is what the network took, not what a buffer took. Bytes that stand for a part of a file are sent
//! from the file.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::file_io::{FileSender, poll_send_before_file};
use super::stall::Stall;
use crate::sys::stand_in;

/// The socket of one connection.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    stall: Stall,
    files: FileSender,
    /// Bytes written without a pause.
    in_a_row: usize,
}

/// A connection that has written so much without once having to wait lets others go first: a client that reads as fast
/// as we write would otherwise keep a thread for as long as its answer lasts.
const TURN_BYTES: usize = 1 << 20;

impl Socket {
    /// Watches `tcp`.
    pub(super) fn new(tcp: TcpStream, stall_timeout: Duration) -> Self {
        Self { tcp, stall: Stall::new(stall_timeout), files: FileSender::default(), in_a_row: 0 }
    }

    /// Ready while it is this connection's turn; else it is woken again behind the others.
    fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.in_a_row < TURN_BYTES {
            return Poll::Ready(());
        }
        self.in_a_row = 0;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes ordinary bytes, or sends the file that the first bytes stand for.
    fn poll_write_parts(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Some(first) = bufs.iter().position(|buf| !buf.is_empty()) else { return Poll::Ready(Ok(0)) };
        if let Some(part) = stand_in::behind(&bufs[first]) {
            return self.files.poll_send(&self.tcp, cx, &part, bufs[first].len(), TURN_BYTES);
        }
        self.files.uncork(&self.tcp)?;
        match bufs.iter().position(|buf| stand_in::is_stand_in(buf)) {
            None => Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs),
            Some(file) if file == first + 1 => poll_send_before_file(&self.tcp, cx, &bufs[first]),
            Some(file) => Pin::new(&mut self.tcp).poll_write_vectored(cx, &bufs[..file]),
        }
    }

    fn written(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(written)) => {
                self.stall.moved();
                self.in_a_row += written;
                Poll::Ready(Ok(written))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.in_a_row = 0;
                self.stall
                    .poll_stalled(cx)
                    .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the peer reads nothing")))
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(cx));
        // Whoever writes one buffer gets the same care: a stand-in must never reach the system as bytes.
        let result = self.poll_write_parts(cx, &[IoSlice::new(buf)]);
        self.written(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_turn(cx));
        let result = self.poll_write_parts(cx, bufs);
        self.written(cx, result)
    }

    // Without this hyper copies every body into one buffer.
    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustix::net::sockopt::tcp_cork;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::serve::file_io::LEAST_CORKED;
    use crate::serve::file_io::tests::pair;

    #[tokio::test]
    async fn other_bytes_let_go_what_the_parts_of_a_file_kept_back() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(LEAST_CORKED as u64 + 1).unwrap();
        let part = stand_in::stand_in(&Arc::new(file), 0, LEAST_CORKED, false).unwrap();
        let (ours, mut theirs) = pair().await;
        let mut socket = Socket::new(ours, Duration::from_secs(60));
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
