//! Health and metrics of the balancer, over an address of their own: plain HTTP, for the kubelet and Prometheus.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio_util::sync::CancellationToken;

use super::pool::Pool;
use super::port::Port;
use crate::serve::{ConnectionLimits, Listener, Server};
use crate::telemetry::families::{NODE_PROXY_BACKEND_UP, NODE_PROXY_CONNECTIONS, NODE_PROXY_LISTENING};
use crate::telemetry::{Metrics, Samples, with_causes};

/// Whoever asks here asks little and seldom.
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

/// What is asked for. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Status {
    /// The addresses of clients.
    pub(super) ports: Arc<[Arc<Port>]>,
    pub(super) pool: Arc<Pool>,
    /// Cancelled when the process ends.
    pub(super) stop: CancellationToken,
}

/// The server of it.
#[derive(Debug)]
pub(super) struct StatusServer(Server);

impl StatusServer {
    /// One without listeners.
    pub(super) fn new() -> Self {
        Self(Server::new(LIMITS))
    }

    /// Answers on one more listener, until the end. Must be called inside a tokio runtime.
    pub(super) fn listen(&self, listener: Listener, status: Status) {
        let service = tower::service_fn(move |request: Request<_>| {
            let answer = status.answer(request.method(), request.uri().path());
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        self.0.listen(listener, None, service, None);
    }

    /// Ends it.
    pub(super) async fn end(&self) {
        self.0.drain(LAST_ANSWER).await;
    }
}

impl Status {
    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let known = matches!(path, "/healthz" | "/readyz" | "/metrics");
        if known && !matches!(*method, Method::GET | Method::HEAD) {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n".to_owned());
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let waiting = self.waiting();
        match path {
            // Another one on the port is no fault of this process: nothing would be better after a restart.
            "/healthz" => {
                text(StatusCode::OK, format!("ok{}\n", waiting.map(|why| format!(", {why}")).unwrap_or_default()))
            }
            "/readyz" if self.stop.is_cancelled() => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned()),
            "/readyz" => match waiting {
                None => text(StatusCode::OK, "ok\n".to_owned()),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            "/metrics" => match Metrics::render_only(self.samples()) {
                Ok(samples) => {
                    let mut answer = text(StatusCode::OK, samples);
                    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(Metrics::CONTENT_TYPE));
                    answer
                }
                Err(error) => {
                    tracing::error!(error = with_causes(&error), "can't render the metrics");
                    text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be rendered\n".to_owned())
                }
            },
            _ => text(StatusCode::NOT_FOUND, "/healthz, /readyz or /metrics\n".to_owned()),
        }
    }

    /// Which addresses another process holds, as a sentence.
    fn waiting(&self) -> Option<String> {
        let others = self.ports.iter().filter(|port| !port.is_held());
        let others: Vec<String> = others.map(|port| port.address().to_string()).collect();
        (!others.is_empty()).then(|| format!("waiting beside another process that holds {}", others.join(", ")))
    }

    fn samples(&self) -> Samples {
        let mut samples = Samples::default();
        for port in &*self.ports {
            samples.add(&NODE_PROXY_LISTENING, &[&port.address().to_string()], u64::from(port.is_held()));
        }
        for backend in self.pool.backends() {
            let name = backend.target().to_string();
            samples.add(&NODE_PROXY_BACKEND_UP, &[&name], u64::from(!backend.is_down()));
            samples.add(&NODE_PROXY_CONNECTIONS, &[&name], backend.connections() as u64);
        }
        samples
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers: &mut HeaderMap = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
