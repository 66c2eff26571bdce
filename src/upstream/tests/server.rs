//! A server that answers as it is told, and remembers what it was asked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::super::Scheme;

/// What was asked.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// Path and query as they stood in the first line.
    pub(super) target: String,
    headers: HashMap<String, String>,
    /// All of its body, where a length was told.
    pub(super) body: Vec<u8>,
}

impl Request {
    /// A header, `""` if it is missing.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(super) fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.target.split('?').next() == Some(path)
    }
}

/// What to answer.
pub(super) enum Reply {
    /// A whole answer; a length is added.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// These bytes and the end of the connection.
    Raw(Vec<u8>),
    /// These bytes and then nothing.
    Stall(Vec<u8>),
    /// After a `CONNECT`: a tunnel to this address.
    Tunnel(SocketAddr),
}

impl Reply {
    pub(super) fn ok(body: &[u8]) -> Self {
        Self::Answer(200, Vec::new(), body.to_vec())
    }

    pub(super) fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), Vec::new())
    }

    pub(super) fn with(status: u16, name: &'static str, value: impl Into<String>) -> Self {
        Self::Answer(status, vec![(name, value.into())], Vec::new())
    }

    pub(super) fn json(status: u16, body: &str) -> Self {
        Self::Answer(status, vec![("content-type", "application/json".to_owned())], body.as_bytes().to_vec())
    }
}

type Handler = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// The server; ends with its runtime.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) scheme: Scheme,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(super) async fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(Arc::new(handler), None).await
    }

    pub(super) async fn start_tls(
        acceptor: TlsAcceptor,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Arc::new(handler), Some(acceptor)).await
    }

    async fn listen(handler: Handler, acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let scheme = if acceptor.is_some() { Scheme::Https } else { Scheme::Http };
        let (tasks, all) = (TaskTracker::new(), Arc::clone(&seen));
        tasks.clone().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, seen, acceptor) = (Arc::clone(&handler), Arc::clone(&all), acceptor.clone());
                tasks.spawn(async move {
                    match acceptor {
                        None => serve(stream, &handler, &seen).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, &handler, &seen).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, scheme, seen }
    }

    /// `127.0.0.1:port`, or `localhost:port` over TLS.
    pub(super) fn host(&self) -> String {
        match self.scheme {
            Scheme::Http => self.address.to_string(),
            Scheme::Https => format!("localhost:{}", self.address.port()),
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme.in_url(), self.host())
    }

    pub(super) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// How many requests had this method and path.
    pub(super) fn count(&self, method: &str, path: &str) -> usize {
        self.seen().iter().filter(|request| request.is(method, path)).count()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, handler: &Handler, seen: &Mutex<Vec<Request>>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        seen.lock().unwrap().push(request.clone());
        let written = match handler(&request) {
            Reply::Answer(status, headers, body) => {
                let mut head = format!("HTTP/1.1 {status} -\r\n");
                if !headers.iter().any(|(name, _)| matches!(*name, "content-length" | "transfer-encoding")) {
                    head.push_str(&format!("content-length: {}\r\n", body.len()));
                }
                for (name, value) in headers {
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                head.push_str("\r\n");
                let body = if request.method == "HEAD" { Vec::new() } else { body };
                stream.write_all(&[head.as_bytes(), &body].concat()).await
            }
            Reply::Raw(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                return;
            }
            Reply::Stall(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.flush().await;
                // Until the client leaves.
                let _ = stream.read(&mut [0; 1]).await;
                return;
            }
            Reply::Tunnel(target) => {
                let mut target = tokio::net::TcpStream::connect(target).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 -\r\n\r\n").await.unwrap();
                stream.flush().await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut target).await;
                return;
            }
        };
        if written.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { method, target, headers, body })
}
