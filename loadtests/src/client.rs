//! One connection to a registry, kept alive: what a client of the field does, and nothing that costs the
//! measuring process more than it must.

pub(crate) mod driver;
pub(crate) mod exchange;
pub(crate) mod wire;

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// An answer may take so long; a server that takes longer is down for our purposes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A registry and who asks it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    authority: String,
    authorization: Option<HeaderValue>,
}

impl Target {
    /// From `http://host:port` and `user:password`.
    pub(crate) fn new(url: &Uri, user: Option<&str>) -> Result<Self> {
        ensure!(url.scheme_str() == Some("http"), "the URL has to begin with http://, TLS is not measured yet");
        let authority = url.authority().context("the URL has no host")?;
        let port = authority.port_u16().unwrap_or(80);
        let authorization = user.map(|user| {
            let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(user));
            HeaderValue::from_str(&text).map(|mut value| {
                value.set_sensitive(true);
                value
            })
        });
        Ok(Self { authority: format!("{}:{port}", authority.host()), authorization: authorization.transpose()? })
    }

    /// A server on this machine, without users.
    pub(crate) fn local(port: u16) -> Self {
        Self { authority: format!("127.0.0.1:{port}"), authorization: None }
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A connection. Requests follow each other; a connection that the server closed is opened again.
#[derive(Debug)]
pub(crate) struct Client {
    target: Target,
    sender: SendRequest<Empty<Bytes>>,
    /// Drives the connection; ends with the client.
    driver: JoinSet<()>,
}

impl Client {
    /// Connects.
    pub(crate) async fn connect(target: &Target) -> Result<Self> {
        let mut driver = JoinSet::new();
        let sender = open(target, &mut driver).await?;
        Ok(Self { target: target.clone(), sender, driver })
    }

    /// Asks for `path`, which may have a query.
    pub(crate) async fn fetch(&mut self, path: &str) -> Result<Answer> {
        if self.sender.is_closed() {
            self.driver.abort_all();
            self.sender = open(&self.target, &mut self.driver).await?;
        }
        let mut request = Request::get(path).header(HOST, self.target.authority.as_str());
        if let Some(authorization) = &self.target.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::new()).with_context(|| format!("no request can be made for {path}"))?;
        let exchange = async {
            self.sender.ready().await?;
            let (head, body) = self.sender.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            anyhow::Ok(Answer { status: head.status, headers: head.headers, body })
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(answer) => answer.with_context(|| format!("GET {path}")),
            Err(_) => bail!("GET {path}: no answer within {PATIENCE:?}"),
        }
    }

    /// Asks for `path` and gives each piece of the body to `take` as it comes, until that says `false`: then the
    /// connection is dropped where it stands. Anything but 200 is an error. The patience is for each piece.
    pub(crate) async fn stream_ok(&mut self, path: &str, mut take: impl FnMut(&[u8]) -> Result<bool>) -> Result<()> {
        let request = Request::get(path).header(HOST, self.target.authority.as_str()).body(Empty::new())?;
        let patiently = || format!("GET {path}: nothing within {PATIENCE:?}");
        self.sender.ready().await?;
        let answer =
            tokio::time::timeout(PATIENCE, self.sender.send_request(request)).await.with_context(patiently)??;
        ensure!(answer.status() == StatusCode::OK, "GET {path}: {}", answer.status());
        let mut body = answer.into_body();
        while let Some(frame) = tokio::time::timeout(PATIENCE, body.frame()).await.with_context(patiently)? {
            let frame = frame.with_context(|| format!("GET {path}: the body broke"))?;
            if let Some(piece) = frame.data_ref()
                && !take(piece)?
            {
                self.driver.abort_all();
                break;
            }
        }
        Ok(())
    }

    /// As [`Self::fetch`]; anything but 200 is an error.
    pub(crate) async fn fetch_ok(&mut self, path: &str) -> Result<Answer> {
        let answer = self.fetch(path).await?;
        ensure!(
            answer.status == StatusCode::OK,
            "GET {path}: {} {}",
            answer.status,
            String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)])
        );
        Ok(answer)
    }
}

async fn open(target: &Target, driver: &mut JoinSet<()>) -> Result<SendRequest<Empty<Bytes>>> {
    let stream =
        TcpStream::connect(&target.authority).await.with_context(|| format!("connect to {}", target.authority))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    driver.spawn(async move {
        // Its failure reaches whoever waits for an answer.
        let _ = connection.await;
    });
    Ok(sender)
}
