//! HTTP/1.1 by hand, so that every byte and every end of a connection can be what the test wants.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::Shared;
use super::answer::{Answer, Cut, Framing};

/// A request that came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Its method.
    pub(crate) method: String,
    /// Its path, as sent.
    pub(crate) path: String,
    /// What followed the `?`.
    pub(crate) query: String,
    /// By lower-case name.
    headers: Vec<(String, String)>,
}

impl Seen {
    /// A header, if it was sent.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|(header, value)| (header == name).then_some(value.as_str()))
    }

    fn parse(head: &str) -> Self {
        let mut lines = head.lines();
        let mut words = lines.next().unwrap().split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        // A client of a forward proxy sends the whole URL.
        let target = match target.strip_prefix("http://") {
            Some(url) => &url[url.find('/').unwrap()..],
            None => target,
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self { method: method.to_owned(), path: path.to_owned(), query: query.to_owned(), headers }
    }
}

/// A connection, with or without TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// The connection has ended, by whichever side.
struct Ended;

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Answers the requests of one connection until it ends.
pub(super) async fn serve(mut stream: Box<dyn Stream>, shared: Arc<Shared>) {
    let mut unread = Vec::new();
    while let Ok(seen) = request(&mut stream, &mut unread).await {
        shared.note(seen.clone());
        let answer = shared.answer(&seen);
        if send(&mut stream, &mut unread, answer, seen.method == "HEAD", &shared).await.is_err() {
            shared.ended.send_modify(|ended| *ended += 1);
            break;
        }
    }
}

async fn request(stream: &mut Box<dyn Stream>, unread: &mut Vec<u8>) -> Result<Seen, Ended> {
    loop {
        if let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = unread.drain(..end + 4).collect();
            return Ok(Seen::parse(&String::from_utf8(head).unwrap()));
        }
        read_more(stream, unread).await?;
    }
}

async fn read_more(stream: &mut Box<dyn Stream>, unread: &mut Vec<u8>) -> Result<(), Ended> {
    if stream.read_buf(unread).await? == 0 { Err(Ended) } else { Ok(()) }
}

/// Waits for the gate, or for the client to go away.
async fn pass(gate: &super::Gate, stream: &mut Box<dyn Stream>, unread: &mut Vec<u8>) -> Result<(), Ended> {
    let mut passing = std::pin::pin!(gate.pass());
    loop {
        tokio::select! {
            () = &mut passing => return Ok(()),
            more = read_more(stream, unread) => more?,
        }
    }
}

async fn send(
    stream: &mut Box<dyn Stream>,
    unread: &mut Vec<u8>,
    answer: Answer,
    head_only: bool,
    shared: &Shared,
) -> Result<(), Ended> {
    if answer.silent {
        pass(&super::Gate::new(), stream, unread).await?;
    }
    if let Some(gate) = &answer.before_head {
        pass(gate, stream, unread).await?;
    }
    stream.write_all(head(&answer).as_bytes()).await?;
    stream.flush().await?;
    if !head_only {
        body(stream, unread, &answer, shared).await?;
    }
    match answer.framing {
        Framing::Declared(_) | Framing::Close if !head_only => {
            stream.shutdown().await?;
            Err(Ended)
        }
        _ => Ok(()),
    }
}

fn head(answer: &Answer) -> String {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&match answer.framing {
        Framing::Length => format!("content-length: {}\r\n\r\n", answer.body.len()),
        Framing::Declared(length) => format!("content-length: {length}\r\n\r\n"),
        Framing::Chunked => "transfer-encoding: chunked\r\n\r\n".to_owned(),
        Framing::Close => "connection: close\r\n\r\n".to_owned(),
    });
    head
}

async fn body(
    stream: &mut Box<dyn Stream>,
    unread: &mut Vec<u8>,
    answer: &Answer,
    shared: &Shared,
) -> Result<(), Ended> {
    let end = answer.cut.map_or(answer.body.len(), |(at, _)| at.min(answer.body.len()));
    let mut holds = answer.holds.iter().peekable();
    let mut at = 0;
    loop {
        while let Some((_, gate)) = holds.next_if(|(hold, _)| *hold <= at) {
            stream.flush().await?;
            pass(gate, stream, unread).await?;
        }
        if at >= end {
            break;
        }
        let stop = holds.peek().map_or(end, |(hold, _)| *hold).min(end).min(at + answer.piece);
        let piece = &answer.body[at..stop];
        if answer.framing == Framing::Chunked {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            stream.write_all(piece).await?;
            stream.write_all(b"\r\n").await?;
        } else {
            stream.write_all(piece).await?;
        }
        stream.flush().await?;
        shared.sent.fetch_add(piece.len(), Ordering::Relaxed);
        at = stop;
    }
    match answer.cut {
        Some((_, Cut::Fin)) => {
            stream.shutdown().await?;
            Err(Ended)
        }
        Some((_, Cut::Rst)) => {
            socket2::SockRef::from(stream.tcp()).set_linger(Some(Duration::ZERO))?;
            Err(Ended)
        }
        None if answer.framing == Framing::Chunked => Ok(stream.write_all(b"0\r\n\r\n").await?),
        None => Ok(()),
    }
}
