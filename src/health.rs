//! Health and metrics of a program beside the server, on an address of its own: `/healthz`, `/readyz` and `/metrics`, plain
//! HTTP, for the kubelet and Prometheus. Whoever asks here asks little and seldom.

mod program;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;

pub use self::program::{End, StartError, Threads};
use crate::serve::{self, ConnectionLimits, Listener, Server};
use crate::telemetry::{Metrics, Samples, with_causes};

const LIMITS: ConnectionLimits = ConnectionLimits {
    max_connections: 64,
    handshake_timeout: Duration::from_secs(10),
    first_head_timeout: Duration::from_secs(10),
    header_timeout: Duration::from_secs(100),
    stall_timeout: Duration::from_secs(10),
    max_header_bytes: 16 * 1024,
    max_streams: 16,
    accelerate: false,
    linger_time: Duration::from_secs(1),
};
/// Longest wait for an answer that is on its way when the process ends.
const LAST_ANSWER: Duration = Duration::from_secs(1);

/// What a program says of itself. None of it may block.
pub trait Health: Send + Sync + 'static {
    /// What a living process says. A restart would mend nothing that is said here.
    fn alive(&self) -> String;

    /// What a ready one says.
    ///
    /// # Errors
    /// Why it is not ready.
    fn ready(&self) -> Result<String, String>;

    /// Its metrics.
    fn samples(&self) -> Samples;
}

/// The server of it.
#[derive(Debug)]
pub struct HealthServer(Server);

impl Default for HealthServer {
    fn default() -> Self {
        Self(Server::new(LIMITS))
    }
}

impl HealthServer {
    /// Answers on these addresses, until the end. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`StartError::Bind`].
    pub fn start(addresses: &[SocketAddr], health: &Arc<impl Health>) -> Result<Self, StartError> {
        let server = Self::default();
        for listener in serve::bind(addresses)? {
            tracing::info!(address = %listener.address(), "metrics and health");
            server.listen(listener, Arc::clone(health));
        }
        Ok(server)
    }

    /// Answers on one more listener, until the end. Must be called inside a tokio runtime.
    pub fn listen(&self, listener: Listener, health: Arc<impl Health>) {
        let service = tower::service_fn(move |request: Request<_>| {
            let answer = answer(request.method(), request.uri().path(), &*health);
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        self.0.listen(listener, None, service, None);
    }

    /// Ends it, within 1 s.
    pub async fn end(&self) {
        self.0.drain(LAST_ANSWER).await;
    }
}

fn answer(method: &Method, path: &str, health: &impl Health) -> Response<Full<Bytes>> {
    let known = matches!(path, "/healthz" | "/readyz" | "/metrics");
    if known && !matches!(*method, Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match path {
        "/healthz" => text(StatusCode::OK, &health.alive()),
        "/readyz" => match health.ready() {
            Ok(said) => text(StatusCode::OK, &said),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        "/metrics" => match Metrics::render_only(health.samples()) {
            Ok(samples) => answer_of(StatusCode::OK, Metrics::CONTENT_TYPE, samples),
            Err(error) => {
                tracing::error!(error = with_causes(&error), "can't render the metrics");
                text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be rendered")
            }
        },
        _ => text(StatusCode::NOT_FOUND, "/healthz, /readyz or /metrics"),
    }
}

fn text(status: StatusCode, line: &str) -> Response<Full<Bytes>> {
    answer_of(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

fn answer_of(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
