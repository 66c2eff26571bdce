//! Over real sockets. Small deadlines stand where a default is minutes; nothing here waits for time to pass.

mod bounds;
mod drain;
mod early;
mod ends;
mod guests;
mod handshake;
mod refused;
mod tls;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::early::tests::Canned;
use super::*;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Small enough that a test which runs into one ends, and no test runs into one by accident.
const LIMITS: ConnectionLimits = ConnectionLimits {
    max_connections: 100,
    handshake_timeout: Duration::from_secs(60),
    first_head_timeout: Duration::from_secs(60),
    header_timeout: Duration::from_secs(60),
    stall_timeout: Duration::from_secs(60),
    max_header_bytes: 16 * 1024,
    max_streams: 10,
    accelerate: true,
    linger_time: Duration::from_secs(60),
};
/// Length of an answer, a multiple of 64 KiB.
const LOTS: usize = 3 << 20;
const SOON: Duration = Duration::from_millis(50);

/// What the service under test does, by path.
#[derive(Clone)]
struct App {
    events: mpsc::UnboundedSender<&'static str>,
    gate: Arc<Semaphore>,
}

/// A server on loopback and what its service reports.
struct Running {
    server: Server,
    address: SocketAddr,
    events: mpsc::UnboundedReceiver<&'static str>,
    gate: Arc<Semaphore>,
}

impl Running {
    fn start(limits: ConnectionLimits, tls: Option<Arc<Tls>>) -> Self {
        Self::start_with(limits, tls, None)
    }

    fn start_with(limits: ConnectionLimits, tls: Option<Arc<Tls>>, early: Option<Canned>) -> Self {
        let (events, received) = mpsc::unbounded_channel();
        let gate = Arc::new(Semaphore::new(0));
        let app = App { events, gate: Arc::clone(&gate) };
        let server = Server::new(limits);
        let [listener] = bind(&[SocketAddr::from(([127, 0, 0, 1], 0))]).unwrap().try_into().unwrap();
        let address = listener.address();
        server.listen(
            listener,
            tls,
            tower::service_fn(move |request| {
                let app = app.clone();
                async move { Ok::<_, Infallible>(app.answer(request).await) }
            }),
            early.map(|canned| Arc::new(canned) as Arc<dyn EarlyAnswer>),
        );
        Self { server, address, events: received, gate }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn event(&mut self) -> &'static str {
        self.events.recv().await.unwrap()
    }
}

impl App {
    async fn answer(&self, request: Request<RequestBody>) -> Answer {
        match request.uri().path() {
            "/sign-in" => {
                request.extensions().get::<Peer>().unwrap().standing.signed_in();
                answer(StatusCode::OK, "signed in")
            }
            "/let-in" => {
                let _until_answered = request.extensions().get::<Peer>().unwrap().standing.let_in();
                self.events.send("waiting").unwrap();
                self.gate.acquire().await.unwrap().forget();
                answer(StatusCode::OK, "waited")
            }
            "/refuse" => answer(StatusCode::UNAUTHORIZED, "refused"),
            "/length" => {
                let _until_answered = request.extensions().get::<Peer>().unwrap().standing.let_in();
                match request.into_body().collect().await {
                    Ok(body) => answer(StatusCode::OK, &body.to_bytes().len().to_string()),
                    Err(RequestBodyError::Stalled(_)) => answer(StatusCode::REQUEST_TIMEOUT, "stalled"),
                    Err(RequestBodyError::Broken(_)) => answer(StatusCode::BAD_REQUEST, "broken"),
                }
            }
            "/pieces" => {
                let (lengths, end) = pieces(request.into_body()).await;
                let (total, longest) = (lengths.iter().sum::<usize>(), lengths.iter().max().unwrap());
                let text = format!("{end}: {total}, longest {longest}");
                // Whoever broke the connection does not get an answer.
                self.events.send(text.clone().leak()).unwrap();
                answer(StatusCode::OK, &text)
            }
            "/peer" => {
                let peer = request.extensions().get::<Peer>().unwrap();
                answer(StatusCode::OK, &format!("{} {} {}", peer.address.ip(), peer.tls, peer.trusted_proxy))
            }
            "/controller" => {
                let peer = request.extensions().get::<Peer>().unwrap();
                answer(StatusCode::OK, &format!("{} {}", peer.controller, peer.trusted_proxy))
            }
            "/wait" => {
                self.events.send("waiting").unwrap();
                self.gate.acquire().await.unwrap().forget();
                answer(StatusCode::OK, "waited")
            }
            "/download" => {
                let body = Download { app: self.clone(), left: 3, asked: false };
                Response::new(body.boxed_unsync())
            }
            "/lots" => {
                let frame = |_| Ok(Frame::data(Bytes::from_static(&[7; 64 * 1024])));
                let frames = (0..LOTS / (64 * 1024)).map(frame);
                Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
            }
            "/cut" => {
                let (stream, gate) =
                    (Arc::clone(&request.extensions().get::<Peer>().unwrap().stream), Arc::clone(&self.gate));
                tokio_util::task::TaskTracker::new().spawn(async move {
                    gate.acquire().await.unwrap().forget();
                    stream.cut();
                });
                Response::new(Flood(self.events.clone()).boxed_unsync())
            }
            "/flood" => Response::new(Flood(self.events.clone()).boxed_unsync()),
            "/panic" => panic!("as asked"),
            path => answer(StatusCode::OK, path),
        }
    }
}

/// The lengths in which a body came, and how it ended.
async fn pieces(mut body: RequestBody) -> (Vec<usize>, &'static str) {
    let mut lengths = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => lengths.extend(frame.data_ref().map(Bytes::len)),
            Err(_) => return (lengths, "broken"),
        }
    }
    (lengths, "whole")
}

fn answer(status: StatusCode, text: &str) -> Answer {
    Response::builder().status(status).body(Full::new(Bytes::copy_from_slice(text.as_bytes())).boxed_unsync()).unwrap()
}

/// An endless body that tells when it is dropped.
struct Flood(mpsc::UnboundedSender<&'static str>);

impl Body for Flood {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[7; 64 * 1024])))))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.send("flood dropped");
    }
}

/// Three pieces, each after the gate opened for it.
struct Download {
    app: App,
    left: u32,
    asked: bool,
}

impl Body for Download {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if !std::mem::replace(&mut self.asked, true) {
            self.app.events.send("downloading").unwrap();
        }
        match self.app.gate.try_acquire() {
            Ok(permit) => permit.forget(),
            Err(_) => {
                // A test's way to be asked again; a real body has a waker.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"piece")))))
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

/// One request without a body on a connection that goes on; the body of the answer.
async fn get(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), path: &str) -> String {
    send(stream, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    read_answer(stream).await
}

/// Reads one answer with a Content-Length; its body.
async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    String::from_utf8(body).unwrap()
}

/// Everything until the orderly end: over TCP a reset, over TLS a missing `close_notify` panics.
async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    String::from_utf8(all).unwrap()
}

/// The same, and then the client ends too: until then the server reads away what it may still send.
async fn read_and_leave(mut stream: impl AsyncRead + Unpin) -> String {
    read_to_end(&mut stream).await
}

/// A certificate and its key.
struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

/// A certificate authority.
struct Authority(Issuer<'static, KeyPair>, rcgen::Certificate);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self(Issuer::new(params, key), certificate)
    }

    fn issue(&self, common_name: &str, alternatives: &[&str]) -> Identity {
        let alternatives: Vec<String> = alternatives.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(alternatives).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        Identity { certificate: params.signed_by(&key, &self.0).unwrap(), key }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.1.der().clone()).unwrap();
        roots
    }
}

impl Identity {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.der().clone()]
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

/// The files of a [`Tls`], and the authority its certificates are under.
struct TlsFiles {
    folder: tempfile::TempDir,
    authority: Authority,
    options: TlsOptions,
}

impl TlsFiles {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| -> PathBuf { folder.path().join(name) };
        let options = TlsOptions {
            cert_file: path("tls.crt"),
            key_file: path("tls.key"),
            client_ca_file: None,
            trusted_proxy_names: vec!["proxy".to_owned()],
            controller_ca_file: None,
            peer_ca_file: None,
        };
        let files = Self { folder, authority: Authority::new("server ca"), options };
        files.write(&files.authority.issue("registry", &["localhost"]));
        files
    }

    fn write(&self, identity: &Identity) {
        std::fs::write(&self.options.cert_file, identity.certificate.pem()).unwrap();
        std::fs::write(&self.options.key_file, identity.key.serialize_pem()).unwrap();
    }

    fn ask_for_clients_of(&mut self, authority: &Authority) {
        let path = self.folder.path().join("client-ca.crt");
        std::fs::write(&path, authority.1.pem()).unwrap();
        self.options.client_ca_file = Some(path);
    }

    fn trust_controllers_of(&mut self, authority: &Authority) {
        let path = self.folder.path().join("controller-ca.crt");
        std::fs::write(&path, authority.1.pem()).unwrap();
        self.options.controller_ca_file = Some(path);
    }

    fn load(&self) -> Arc<Tls> {
        Arc::new(Tls::load(&self.options).unwrap())
    }

    fn client(&self, identity: Option<&Identity>) -> Arc<ClientConfig> {
        self.client_of(&rustls::version::TLS13, identity)
    }

    fn client_of(
        &self,
        version: &'static rustls::SupportedProtocolVersion,
        identity: Option<&Identity>,
    ) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.authority.roots());
        let mut config = match identity {
            Some(identity) => builder.with_client_auth_cert(identity.chain(), identity.private_key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

async fn connect_tls(running: &Running, config: &Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, running.connect().await).await.unwrap()
}
