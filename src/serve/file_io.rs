//! A file's part on its way to a plain socket: the kernel moves it, no byte passes through this process.
//!
//! A part that is not in memory would hold up the runtime's thread while the disk is read, so the kernel is asked first,
//! and a cold part is read in by a blocking thread.

use std::future::Future as _;
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::fs::{Advice, fadvise, sendfile};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};
use rustix::net::sockopt::set_tcp_cork;
use rustix::net::{SendFlags, send};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::sys::stand_in::FilePart;

/// Bytes that are read at once to bring a part into memory.
const WARM_BYTES: usize = 64 * 1024;

/// Sends parts of files over one socket, one after the other.
#[derive(Debug, Default)]
pub(super) struct FileSender {
    /// A part that is being brought into memory. Dropped with the connection: the read ends by itself.
    warming: Option<JoinHandle<io::Result<()>>>,
    /// File and end of the part that was last found, or brought, in memory: a part is looked at once, not at every piece
    /// of it that the socket takes.
    warm: Option<(usize, u64)>,
    /// The socket keeps back what fills no packet (TCP_CORK).
    corked: bool,
}

/// Less than this leaves in so few packets that it is not worth two more system calls.
pub(super) const LEAST_CORKED: usize = 256 * 1024;

impl FileSender {
    /// Sends some of the `length` bytes of `part`, no more than `most`; says how many.
    pub(super) fn poll_send(
        &mut self,
        tcp: &TcpStream,
        cx: &mut Context<'_>,
        part: &FilePart,
        length: usize,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_warm(cx, part, length))?;
        if length >= LEAST_CORKED && !self.corked {
            self.cork(tcp, true)?;
        }
        let (mut offset, wanted) = (part.offset, length.min(most));
        loop {
            ready!(tcp.poll_write_ready(cx))?;
            let mut sent = 0;
            // Until the socket says that it is full: only that makes the runtime wait for it.
            let result = tcp.try_io(Interest::WRITABLE, || {
                while sent < wanted {
                    match sendfile(tcp, &*part.file, Some(&mut offset), wanted - sent) {
                        Ok(0) => return Err(cut_short()),
                        Ok(more) => sent += more,
                        Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(())
            });
            match result {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                _ if sent == 0 => {}
                _ => {
                    if part.last && sent == length {
                        self.uncork(tcp)?;
                    }
                    return Poll::Ready(Ok(sent));
                }
            }
        }
    }

    /// Lets go what is kept back: nothing follows at once, or something else than a file.
    pub(super) fn uncork(&mut self, tcp: &TcpStream) -> io::Result<()> {
        if self.corked { self.cork(tcp, false) } else { Ok(()) }
    }

    /// The kernel sends a file in pieces of 64 KiB, and every acknowledgement that comes between two of them lets the
    /// rest of the last one go as a packet of its own: over loopback half as many packets again.
    fn cork(&mut self, tcp: &TcpStream, corked: bool) -> io::Result<()> {
        set_tcp_cork(tcp, corked)?;
        self.corked = corked;
        Ok(())
    }

    /// Waits until sending won't wait for the disk.
    fn poll_warm(&mut self, cx: &mut Context<'_>, part: &FilePart, length: usize) -> Poll<io::Result<()>> {
        let this = (Arc::as_ptr(&part.file).addr(), part.offset + length as u64);
        if self.warm == Some(this) {
            return Poll::Ready(Ok(()));
        }
        // A part that goes on where a warm one ended lies between that one's last page and its own.
        let goes_on = self.warm == Some((this.0, part.offset));
        if self.warming.is_none() && !is_warm(part, length, goes_on)? {
            let part = part.clone();
            self.warming = Some(tokio::task::spawn_blocking(move || warm(&part, length)));
        }
        if let Some(warming) = &mut self.warming {
            let outcome = ready!(Pin::new(warming).poll(cx));
            self.warming = None;
            outcome.map_err(io::Error::other)??;
        }
        self.warm = Some(this);
        Poll::Ready(Ok(()))
    }
}

/// Whether the first (unless `goes_on`) and the last page of the part are in memory; those between were read with them.
fn is_warm(part: &FilePart, length: usize, goes_on: bool) -> io::Result<bool> {
    let last = part.offset + (length.max(1) - 1) as u64;
    let offsets = [last, part.offset];
    for &offset in if goes_on { &offsets[..1] } else { &offsets } {
        let mut byte = [0];
        match preadv2(&*part.file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT) {
            Ok(0) => return Err(cut_short()),
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            // A file system that can't say, as one in memory: there is nothing to wait for, or no way to know.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Reads the part in; blocking.
fn warm(part: &FilePart, length: usize) -> io::Result<()> {
    // Advice only: reading goes on without it.
    let _ = fadvise(&*part.file, part.offset, std::num::NonZeroU64::new(length as u64), Advice::WillNeed);
    let mut scratch = vec![0; WARM_BYTES.min(length)];
    let (mut offset, end) = (part.offset, part.offset + length as u64);
    while offset < end {
        let want = usize::try_from(end - offset).map_or(scratch.len(), |left| left.min(scratch.len()));
        match pread(&*part.file, &mut scratch[..want], offset) {
            Ok(0) => return Err(cut_short()),
            Ok(count) => offset += count as u64,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Sends ordinary bytes that a part of a file follows, so that both leave in one packet.
pub(super) fn poll_send_before_file(tcp: &TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        let send = || Ok(send(tcp, bytes, SendFlags::MORE | SendFlags::NOSIGNAL)?);
        match tcp.try_io(Interest::WRITABLE, send) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            sent => return Poll::Ready(sent),
        }
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the stored file is shorter than it was when it was opened")
}

#[cfg(test)]
pub(super) mod tests {
    use std::future::poll_fn;
    use std::io::Write as _;

    use rustix::net::sockopt::tcp_cork;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    pub(in crate::serve) async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ours, theirs) = tokio::join!(listener.accept(), TcpStream::connect(listener.local_addr().unwrap()));
        (ours.unwrap().0, theirs.unwrap())
    }

    #[tokio::test]
    async fn a_socket_keeps_bytes_back_only_between_the_parts_of_an_answer() {
        let content: Vec<u8> = (0..LEAST_CORKED * 2 + 77).map(|i| (i % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let file = Arc::new(file);
        let (ours, mut theirs) = pair().await;
        let reading = async {
            let mut got = vec![0; content.len()];
            theirs.read_exact(&mut got).await.unwrap();
            got
        };
        let sending = async {
            let mut sender = FileSender::default();
            for (begin, end) in [(0, LEAST_CORKED), (LEAST_CORKED, content.len())] {
                let (mut at, last) = (begin, end == content.len());
                while at < end {
                    let part = FilePart { file: Arc::clone(&file), offset: at as u64, last };
                    let most = LEAST_CORKED / 3;
                    let sent = poll_fn(|cx| sender.poll_send(&ours, cx, &part, end - at, most)).await.unwrap();
                    assert!(sent <= most, "a turn is longer than it may be");
                    at += sent;
                }
                assert_eq!(tcp_cork(&ours).unwrap(), !last);
            }
        };
        let (got, ()) = tokio::join!(reading, sending);
        assert!(got == content, "other bytes came out");
    }
}
