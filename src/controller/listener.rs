//! The controller's own address: `/metrics`, `/healthz` and `/readyz`, without TLS, for the kubelet and Prometheus.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;

use super::figures::Shown;
use crate::serve::{ConnectionLimits, Listener, Server};
use crate::telemetry::{Metrics, with_causes};

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

/// The server of it.
#[derive(Debug)]
pub(super) struct StatusServer(Server);

impl StatusServer {
    /// One without listeners.
    pub(super) fn new() -> Self {
        Self(Server::new(LIMITS))
    }

    /// Answers on one more listener, until the end. Must be called inside a tokio runtime.
    pub(super) fn listen(&self, listener: Listener, shown: Arc<Shown>) {
        let service = tower::service_fn(move |request: Request<_>| {
            let answer = answer(request.method(), request.uri().path(), &shown);
            std::future::ready(Ok::<_, Infallible>(answer))
        });
        self.0.listen(listener, None, service, None);
    }

    /// Ends it.
    pub(super) async fn end(&self) {
        self.0.drain(LAST_ANSWER).await;
    }
}

fn answer(method: &Method, path: &str, shown: &Shown) -> Response<Full<Bytes>> {
    let known = matches!(path, "/healthz" | "/readyz" | "/metrics");
    if known && !matches!(*method, Method::GET | Method::HEAD) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n".to_owned());
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match path {
        // One that stands by is ready too: it takes over within seconds. With the API server away a restart mends nothing.
        "/healthz" | "/readyz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/metrics" => match Metrics::render_only(shown.samples()) {
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

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
