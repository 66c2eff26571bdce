//! A client that sees how a connection ends.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::within;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// FIN.
    Orderly,
    /// RST.
    Reset,
}

/// One GET, its answer read as far as the test says. The body is as on the wire: chunks stay chunks.
pub(crate) struct Raw {
    stream: TcpStream,
    head: String,
    body: Vec<u8>,
}

impl Raw {
    /// Sends a GET with more header lines (each ended by CRLF) and reads the answer's head.
    pub(crate) async fn get(address: &str, path: &str, headers: &str) -> Self {
        let stream = within(TcpStream::connect(address)).await.unwrap();
        let mut raw = Self { stream, head: String::new(), body: Vec::new() };
        raw.ask(path, headers).await;
        raw
    }

    /// Sends a further GET, once the body of the answer before was read, and reads the answer's head.
    pub(crate) async fn ask(&mut self, path: &str, headers: &str) {
        within(async {
            let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
            self.stream.write_all(request.as_bytes()).await.unwrap();
            let mut read = Vec::new();
            loop {
                if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                    self.body = read.split_off(end + 4);
                    self.head = String::from_utf8(read).unwrap();
                    return;
                }
                assert!(self.stream.read_buf(&mut read).await.unwrap() > 0, "no answer: {read:?}");
            }
        })
        .await;
    }

    /// The answer's status.
    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// A header of the answer.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (header, value) = line.split_once(':')?;
            header.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }

    /// Reads until `count` bytes of the body are there.
    pub(crate) async fn read(&mut self, count: usize) {
        within(async {
            while self.body.len() < count {
                assert!(self.stream.read_buf(&mut self.body).await.unwrap() > 0, "ended at {}", self.body.len());
            }
        })
        .await;
    }

    /// What was read of the body.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Reads to the end of the connection.
    pub(crate) async fn end(&mut self) -> End {
        within(async {
            loop {
                match self.stream.read_buf(&mut self.body).await {
                    Ok(0) => return End::Orderly,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => return End::Reset,
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
    }
}
