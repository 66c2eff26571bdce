//! Requests of clients that another master carries out: sent on once, with the body while it comes, and answered as they are.
//!
//! A write is never tried again, as a body is there once.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::{mpsc, oneshot};

use super::Upstream;
use super::body::UpstreamBody;
use super::endpoint::API_VERSION;
use super::error::UpstreamError;
use super::face::{HOP, ONE_HOP};
use super::transport::{Outgoing, OutgoingBody};

/// Longest wait for the head of the answer behind the last byte of the body, while the host is up: the end of an upload writes
/// and syncs what is left of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

/// A request to be sent on.
#[derive(Debug)]
pub struct Forwarded {
    /// Its method.
    pub method: Method,
    /// Path and query, as clients have them.
    pub target: String,
    /// All headers but those of the way there. Without a length the body goes in chunks.
    pub headers: HeaderMap,
    /// Its body, if it has one.
    pub body: Option<ForwardedBody>,
}

/// The answer to a request that was sent on.
#[derive(Debug)]
pub struct ForwardedAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: UpstreamBody,
}

/// A body that is sent while it comes.
#[derive(Debug)]
pub struct ForwardedBody {
    pieces: mpsc::Receiver<Piece>,
    sent: oneshot::Sender<()>,
    all_sent: oneshot::Receiver<()>,
}

/// Gives a [`ForwardedBody`] its bytes. Dropped before [`BodySender::end`] it breaks the body: the other side never takes what
/// came until then for the whole.
#[derive(Debug)]
pub struct BodySender(mpsc::Sender<Piece>);

/// Nobody takes the body any more: the answer is there, or none will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotTaken;

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    End,
}

/// A body, and the way to fill it. It holds one piece at a time; more wait with who gives them.
#[must_use]
pub fn forwarded_body() -> (BodySender, ForwardedBody) {
    let (sender, pieces) = mpsc::channel(1);
    let (sent, all_sent) = oneshot::channel();
    (BodySender(sender), ForwardedBody { pieces, sent, all_sent })
}

impl BodySender {
    /// Gives the next piece, once the one before was taken. Safe to drop: then it is not given.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub async fn send(&self, bytes: Bytes) -> Result<(), NotTaken> {
        self.0.send(Piece::Bytes(bytes)).await.map_err(|_| NotTaken)
    }

    /// Says that all was given.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub async fn end(self) -> Result<(), NotTaken> {
        self.0.send(Piece::End).await.map_err(|_| NotTaken)
    }
}

impl ForwardedBody {
    pub(super) fn outgoing(self) -> OutgoingBody {
        let Self { pieces, sent, all_sent } = self;
        let stream = stream::unfold(Some((pieces, sent)), async |state| {
            let (mut pieces, sent) = state?;
            match pieces.recv().await {
                Some(Piece::Bytes(bytes)) => Some((Ok(bytes), Some((pieces, sent)))),
                Some(Piece::End) => {
                    // Nobody may wait for it any more.
                    let _ = sent.send(());
                    None
                }
                None => Some((Err(io::Error::from(io::ErrorKind::UnexpectedEof)), None)),
            }
        });
        OutgoingBody { stream: reqwest::Body::wrap_stream(stream), sent: all_sent }
    }
}

impl ForwardedAnswer {
    /// Whether a registry gave it: a server that does not know the way, or does not know us, answers without its protocol's name.
    #[must_use]
    pub fn is_registrys(&self) -> bool {
        self.headers.contains_key(API_VERSION)
    }
}

impl Upstream {
    /// Sends a request on to the upstream itself, once. The answer's head is waited for while the body is sent, and behind it for
    /// 10 minutes as long as the host is up. Safe to drop: ends the request, and what was sent of the body is no whole one.
    ///
    /// # Errors
    /// [`UpstreamError`]: no answer came.
    pub async fn forward(&self, request: Forwarded) -> Result<ForwardedAnswer, UpstreamError> {
        let Forwarded { method, target, mut headers, body } = request;
        let none = || UpstreamError::invalid(self.host(), "has no endpoint");
        let endpoint = self.0.endpoints.first().ok_or_else(none)?;
        let face = &self.0.shared.face;
        let url = endpoint.url(&format!("{}{target}", face.prefix()))?;
        if face.is_own_store() {
            headers.insert(HOP, ONE_HOP);
        }
        let outgoing = Outgoing { method, url, headers, bulk: true, patient: true, body: None };
        let body = body.map(ForwardedBody::outgoing);
        let response = Box::pin(endpoint.transport.forward(outgoing, body, PATIENCE)).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(ForwardedAnswer { status, headers, body: endpoint.body(response, self.host()) })
    }
}
