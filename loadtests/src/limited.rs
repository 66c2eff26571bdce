//! An upstream behind a narrow line: it holds one blob at a time and sends it at a given rate, over all connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What goes out between two looks at the clock.
const PIECE: usize = 64 * 1024;
/// How late a timer may be without making the line slower.
const LATE: Duration = Duration::from_millis(50);

/// The blob that is held.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) digest: String,
    pub(crate) content: Bytes,
}

#[derive(Debug)]
struct Line {
    bytes_per_second: f64,
    held: Mutex<Held>,
    gets: AtomicU32,
    /// When the line is free again.
    free: Mutex<Instant>,
}

/// The upstream. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Limited {
    line: Arc<Line>,
    address: SocketAddr,
    _accepting: JoinSet<()>,
}

impl Limited {
    /// Listens on a free port of the loopback.
    pub(crate) async fn start(bytes_per_second: f64, held: Held) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
        let address = listener.local_addr()?;
        let line = Arc::new(Line {
            bytes_per_second,
            held: Mutex::new(held),
            gets: AtomicU32::new(0),
            free: Mutex::new(Instant::now()),
        });
        let mut accepting = JoinSet::new();
        let shared = Arc::clone(&line);
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let line = Arc::clone(&shared);
                connections.spawn(async move {
                    // The client's end of it is what is measured.
                    let _ = serve(stream, &line).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { line, address, _accepting: accepting })
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Holds another blob, and counts from nought.
    pub(crate) fn hold(&self, held: Held) {
        *self.line.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        self.line.gets.store(0, Ordering::Relaxed);
    }

    /// GETs of the blob that is held.
    pub(crate) fn gets(&self) -> u32 {
        self.line.gets.load(Ordering::Relaxed)
    }
}

impl Line {
    /// Takes the line for so many bytes; when they are through.
    fn take(&self, bytes: usize) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // Timers are late; what they lost in the last moment is made up for, a pause is not.
        let now = Instant::now();
        let begin = (*free).max(now.checked_sub(LATE).unwrap_or(now));
        *free = begin + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        *free
    }
}

async fn serve(mut stream: TcpStream, line: &Line) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut unread = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut unread).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&unread[..end]).into_owned();
        unread.drain(..end);
        answer(&mut stream, line, &head).await?;
    }
}

async fn answer(stream: &mut TcpStream, line: &Line, head: &str) -> Result<()> {
    let held = line.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !path.ends_with(&format!("/blobs/{}", held.digest)) {
        let status = if path == "/v2/" { "200 OK" } else { "404 Not Found" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
        if method != "HEAD" {
            stream.write_all(b"{}").await?;
        }
        return Ok(());
    }
    let total = held.content.len();
    let range = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let from = value.trim().strip_prefix("bytes=")?.split_once('-')?.0;
        if name.eq_ignore_ascii_case("range") { from.parse::<usize>().ok() } else { None }
    });
    let from = range.unwrap_or(0).min(total);
    let status = match range {
        Some(_) => format!("206 Partial Content\r\ncontent-range: bytes {from}-{}/{total}", total - 1),
        None => "200 OK".to_owned(),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/octet-stream\r\ndocker-content-digest: {}\r\naccept-ranges: \
         bytes\r\ncontent-length: {}\r\n\r\n",
        held.digest,
        total - from
    );
    stream.write_all(answer.as_bytes()).await?;
    if method == "HEAD" {
        return Ok(());
    }
    line.gets.fetch_add(1, Ordering::Relaxed);
    for piece in held.content[from..].chunks(PIECE) {
        tokio::time::sleep_until(line.take(piece.len())).await;
        stream.write_all(piece).await?;
    }
    Ok(())
}
