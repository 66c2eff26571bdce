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
}

impl FileSender {
    /// Sends some of the `length` bytes of `part`; says how many.
    pub(super) fn poll_send(
        &mut self,
        tcp: &TcpStream,
        cx: &mut Context<'_>,
        part: &FilePart,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_warm(cx, part, length))?;
        loop {
            ready!(tcp.poll_write_ready(cx))?;
            let mut offset = part.offset;
            let send = || Ok(sendfile(tcp, &*part.file, Some(&mut offset), length)?);
            match tcp.try_io(Interest::WRITABLE, send) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Ok(0) => return Poll::Ready(Err(cut_short())),
                sent => return Poll::Ready(sent),
            }
        }
    }

    /// Waits until sending won't wait for the disk.
    fn poll_warm(&mut self, cx: &mut Context<'_>, part: &FilePart, length: usize) -> Poll<io::Result<()>> {
        let this = (Arc::as_ptr(&part.file).addr(), part.offset + length as u64);
        if self.warm == Some(this) {
            return Poll::Ready(Ok(()));
        }
        if self.warming.is_none() && !is_warm(part, length)? {
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

/// Whether the first and the last page of the part are in memory; those between were read with them.
fn is_warm(part: &FilePart, length: usize) -> io::Result<bool> {
    let last = part.offset + (length.max(1) - 1) as u64;
    for offset in [last, part.offset] {
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
