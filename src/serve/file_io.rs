//! Parts of files sent to a plain socket by the kernel: no byte passes through this process.
//!
//! Sending a part that is not in memory would block the runtime's thread while the disk is read. So the kernel is asked
//! first, and a cold part is read in by a blocking thread.

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

use crate::sys::sendfile_token::FilePart;

/// Bytes of one read that brings a part into memory.
const WARM_BYTES: usize = 64 * 1024;

/// Sends parts of files over one socket, one after the other.
#[derive(Debug, Default)]
pub(super) struct FileSender {
    /// The read that brings a part into memory. Dropped with the connection, it ends by itself.
    warming: Option<JoinHandle<io::Result<()>>>,
    /// The range last found in memory, or brought there: asked for once, not for every piece that the socket takes.
    warm: Option<Warm>,
    /// A part of the answer was cold.
    was_cold: bool,
    /// The socket keeps back bytes that fill no packet (TCP_CORK).
    corked: bool,
}

/// A range of a file that is in memory.
#[derive(Debug)]
struct Warm {
    file: usize,
    from: u64,
    until: u64,
}

impl Warm {
    fn has(&self, file: usize, offset: u64) -> bool {
        self.file == file && (self.from..=self.until).contains(&offset)
    }

    /// Bytes from `offset` on.
    fn behind(&self, offset: u64) -> usize {
        usize::try_from(self.until - offset).unwrap_or(usize::MAX)
    }
}

/// Most bytes brought into memory, or asked for, at once.
const PART_BYTES: usize = 2 << 20;

/// Bytes asked for together in an answer that goes on that far. To ask reads a byte of a page that is in no core's cache,
/// which takes as long as sending 20 KiB.
const LOOK_AHEAD_BYTES: u64 = 8 << 20;

/// Fewest bytes for which the socket is corked: fewer leave in too few packets to be worth two more system calls.
pub(super) const LEAST_CORKED: usize = 256 * 1024;

impl FileSender {
    /// Sends some of the `length` bytes of `part`, at most `most`; answers their number.
    pub(super) fn poll_send(
        &mut self,
        tcp: &TcpStream,
        cx: &mut Context<'_>,
        part: &FilePart,
        length: usize,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let warm = match ready!(self.poll_warm(cx, part, length)) {
            Ok(warm) => warm,
            Err(error) => return Poll::Ready(Err(unreadable(part, error))),
        };
        if length >= LEAST_CORKED && !self.corked {
            self.cork(tcp, true)?;
        }
        let (mut offset, wanted) = (part.offset, length.min(most).min(warm));
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
                Err(error) if is_of_file(&error) => return Poll::Ready(Err(unreadable(part, error))),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                _ if sent == 0 => {}
                _ => {
                    if offset == part.end {
                        self.uncork(tcp)?;
                    }
                    return Poll::Ready(Ok(sent));
                }
            }
        }
    }

    /// Ends the file: other bytes follow, as at the beginning of every answer. Lets go the bytes kept back, and forgets what
    /// is known of the file.
    pub(super) fn end(&mut self, tcp: &TcpStream) -> io::Result<()> {
        (self.warm, self.was_cold) = (None, false);
        self.uncork(tcp)
    }

    /// Lets go the bytes kept back: nothing follows at once.
    fn uncork(&mut self, tcp: &TcpStream) -> io::Result<()> {
        if self.corked { self.cork(tcp, false) } else { Ok(()) }
    }

    /// Corks or uncorks the socket. The kernel sends a file in pieces of 64 KiB, and without a cork each acknowledgement
    /// between two pieces lets the rest of the first one go as a packet of its own: over loopback half as many packets again.
    fn cork(&mut self, tcp: &TcpStream, corked: bool) -> io::Result<()> {
        set_tcp_cork(tcp, corked)?;
        self.corked = corked;
        Ok(())
    }

    /// Waits until sending won't wait for the disk; answers the number of bytes for which that holds.
    fn poll_warm(&mut self, cx: &mut Context<'_>, part: &FilePart, whole: usize) -> Poll<io::Result<usize>> {
        let length = whole.min(PART_BYTES);
        let (file, end) = (Arc::as_ptr(&part.file).addr(), part.offset + length as u64);
        let before = self.warm.as_ref().filter(|warm| warm.has(file, part.offset));
        if let Some(warm) = before.filter(|warm| warm.has(file, end)) {
            return Poll::Ready(Ok(warm.behind(part.offset)));
        }
        let (goes_on, mut until) = (before.is_some(), end);
        if self.warming.is_none() {
            // Never behind the answer's end: the file may go on with another content, and what is in memory of that one
            // says nothing of this one.
            let left = part.end.saturating_sub(part.offset);
            let ahead = if self.was_cold { 0 } else { left.min(LOOK_AHEAD_BYTES) };
            match warm_until(part, length, goes_on, ahead)? {
                Some(found) => until = found,
                None => {
                    self.was_cold = true;
                    let part = part.clone();
                    let operation = crate::telemetry::disk_operation();
                    self.warming = Some(tokio::task::spawn_blocking(move || {
                        let warmed = warm(&part, length);
                        drop(operation);
                        warmed
                    }));
                }
            }
        }
        if let Some(warming) = &mut self.warming {
            let outcome = ready!(Pin::new(warming).poll(cx));
            self.warming = None;
            outcome.map_err(io::Error::other)??;
        }
        let warm = Warm { file, from: part.offset, until };
        let behind = warm.behind(part.offset);
        self.warm = Some(warm);
        Poll::Ready(Ok(behind))
    }
}

/// The offset up to which the file is in memory, if that is the end of the part at least. Only the first page is asked for
/// (unless the part `goes_on` where a warm one ended) and the last, or the one `ahead` of the beginning: pages between were
/// read with them. That is not so where several clients read a cold file at several places, so an answer of which a part
/// was cold asks for nothing ahead.
fn warm_until(part: &FilePart, length: usize, goes_on: bool, ahead: u64) -> io::Result<Option<u64>> {
    if !goes_on && is_warm(part, part.offset)? == Look::Cold {
        return Ok(None);
    }
    let (far, end) = (part.offset + ahead, part.offset + length as u64);
    if far > end && is_warm(part, far - 1)? == Look::Warm {
        return Ok(Some(far));
    }
    match is_warm(part, end.max(part.offset + 1) - 1)? {
        Look::Warm => Ok(Some(end)),
        Look::Cold => Ok(None),
        Look::Nothing => Err(cut_short()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Warm,
    Cold,
    /// The file ends before.
    Nothing,
}

/// Whether that byte of the file is in memory.
fn is_warm(part: &FilePart, offset: u64) -> io::Result<Look> {
    let mut byte = [0];
    match preadv2(&*part.file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT) {
        Ok(0) => Ok(Look::Nothing),
        Ok(_) => Ok(Look::Warm),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Look::Cold),
        // A file system that can't tell, one in memory for example: there is nothing to wait for, or no way to know.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(Look::Warm),
        Err(error) => Err(error.into()),
    }
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

/// Tells the file's watch of the error, and passes it on.
fn unreadable(part: &FilePart, error: io::Error) -> io::Error {
    if let Some(watch) = &part.watch {
        watch.failed(&part.file, &error);
    }
    error
}

/// Whether an error of `sendfile` is the file's, and not the socket's.
fn is_of_file(error: &io::Error) -> bool {
    let of_disks = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NODATA, Errno::NXIO, Errno::STALE, Errno::REMOTEIO];
    match error.raw_os_error() {
        Some(errno) => of_disks.contains(&Errno::from_raw_os_error(errno)),
        None => error.kind() == io::ErrorKind::UnexpectedEof,
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
                    let part =
                        FilePart { file: Arc::clone(&file), offset: at as u64, end: content.len() as u64, watch: None };
                    let most = LEAST_CORKED / 3;
                    let sent = poll_fn(|cx| sender.poll_send(&ours, cx, &part, end - at, most)).await.unwrap();
                    assert!(sent <= most, "a quantum is longer than it may be");
                    at += sent;
                }
                assert_eq!(tcp_cork(&ours).unwrap(), !last);
            }
        };
        let (got, ()) = tokio::join!(reading, sending);
        assert!(got == content, "other bytes came out");
    }

    #[test]
    fn a_look_at_what_is_in_memory_holds_for_much_and_never_for_more_than_is_there() {
        const LENGTH: usize = 2 << 20;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; 5 * LENGTH]).unwrap();
        let part = |offset| FilePart { file: Arc::new(file.try_clone().unwrap()), offset, end: u64::MAX, watch: None };
        if is_warm(&part(0), 5 * LENGTH as u64).unwrap() == Look::Warm {
            // This file system can't say.
            return;
        }
        let until = |offset: usize, ahead| warm_until(&part(offset as u64), LENGTH, false, ahead).unwrap();
        assert_eq!(until(0, LOOK_AHEAD_BYTES), Some(LOOK_AHEAD_BYTES));
        assert_eq!(until(0, 0), Some(LENGTH as u64));
        assert_eq!(until(4 * LENGTH, LOOK_AHEAD_BYTES), Some(5 * LENGTH as u64), "the file ends before more");
        warm_until(&part(LENGTH as u64 * 4 + 1), LENGTH, false, 0).unwrap_err();

        rustix::fs::fsync(&file).unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        // A file system in memory keeps it. A look at what is cold lets it be read ahead, so one look has to do.
        if until(0, LOOK_AHEAD_BYTES).is_none() {
            warm(&part(0), LENGTH).unwrap();
            assert!(until(0, LOOK_AHEAD_BYTES).is_some_and(|until| until >= LENGTH as u64));
        }
    }

    #[tokio::test]
    async fn nobody_looks_past_the_end_of_an_answer_or_ahead_where_some_of_it_was_cold() {
        const ENTIRE: usize = LOOK_AHEAD_BYTES as usize + PART_BYTES;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![7; ENTIRE]).unwrap();
        let file = Arc::new(file);
        let warm = async |sender: &mut FileSender, (offset, length, end)| {
            let part = FilePart { file: Arc::clone(&file), offset, end, watch: None };
            poll_fn(|cx| sender.poll_warm(cx, &part, length)).await.unwrap()
        };
        let some = (0, PART_BYTES, ENTIRE as u64);
        assert_eq!(warm(&mut FileSender::default(), some).await, LOOK_AHEAD_BYTES as usize);
        let end = (PART_BYTES as u64, ENTIRE - PART_BYTES, ENTIRE as u64);
        assert_eq!(warm(&mut FileSender::default(), end).await, ENTIRE - PART_BYTES);
        assert_eq!(warm(&mut FileSender::default(), (0, PART_BYTES, PART_BYTES as u64)).await, PART_BYTES);
        // More parts follow, and then the file goes on with what is not the answer's.
        assert_eq!(warm(&mut FileSender::default(), (0, PART_BYTES, 3 * PART_BYTES as u64)).await, 3 * PART_BYTES);
        let mut sender = FileSender { was_cold: true, ..FileSender::default() };
        assert_eq!(warm(&mut sender, (0, 4 * PART_BYTES, ENTIRE as u64)).await, PART_BYTES);
        // Which says nothing of the next answer.
        sender.end(&pair().await.0).unwrap();
        assert_eq!(warm(&mut sender, some).await, LOOK_AHEAD_BYTES as usize);
        assert_eq!(
            warm(&mut sender, (PART_BYTES as u64, PART_BYTES, ENTIRE as u64)).await,
            LOOK_AHEAD_BYTES as usize - PART_BYTES
        );
    }

    #[tokio::test]
    async fn what_was_warm_is_looked_at_again_in_the_next_answer() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 2000]).unwrap();
        let (ours, _theirs) = pair().await;
        let mut sender = FileSender::default();
        let part = FilePart { file: Arc::new(file), offset: 0, end: 1500, watch: None };
        let sent = poll_fn(|cx| sender.poll_send(&ours, cx, &part, 1000, 1000)).await.unwrap();
        assert_eq!(sent, 1000);
        let address = Arc::as_ptr(&part.file).addr();
        let is_warm = |sender: &FileSender, at| sender.warm.as_ref().is_some_and(|warm| warm.has(address, at));
        assert!(is_warm(&sender, 0) && is_warm(&sender, 1500) && !is_warm(&sender, 1501));
        // The rest leaves as ordinary bytes.
        sender.end(&ours).unwrap();
        assert!(!is_warm(&sender, 0));
    }
}
