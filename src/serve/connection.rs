//! One connection from its first byte to its last: handshake, protocol, requests, orderly end.
//!
//! The protocol is chosen by ALPN, never guessed from bytes: a guess would wait for ever on a silent client.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

use super::ConnectionLimits;
use super::admission::Guest;
use super::body::{Http1ResponseBody, RequestBody, Rest};
use super::early::EarlyAnswer;
use super::handshake;
use super::http1_state::{AHEAD_BYTES, AHEAD_TLS_BYTES, Http1State};
use super::lingering_close::{Discard, LingeringClose};
use super::peer::{BodyTransport, Peer, Standing, Stream, Watch};
use super::receiving::{MOST_BYTES, Receiving};
use super::requests::{HeadTimes, Requests};
use super::send_queue::SendQueue;
use super::socket::Socket;
use super::stop::Stop;
use super::streams::{StreamBody, Streams, TICKS, Verdict};
use super::tls::Tls;
use super::transport::Transport;

/// Bytes of hyper's buffer per connection; a request's head lies in it whole.
const H1_BUFFER: usize = MOST_BYTES;
/// The same behind TLS. To decipher more at once would keep the worker from everything else.
pub(super) const H1_TLS_BUFFER: usize = 256 * 1024;
/// Window of one upload, in bytes. That of a connection is larger: one paused upload must not stop the others.
pub(super) const H2_STREAM_WINDOW: u32 = 1024 * 1024;
const H2_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Most bytes queued per download; one frame of its body may come on top. A slow reader costs this memory.
pub(super) const H2_SEND_BUFFER: usize = 128 * 1024;
const H2_PING_INTERVAL: Duration = Duration::from_secs(30);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// All that serving one connection takes.
pub(super) struct Context<S> {
    pub(super) service: S,
    /// Answers ahead of the service.
    pub(super) early: Option<Arc<dyn EarlyAnswer>>,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) limits: ConnectionLimits,
    /// Decides which large answer is sent next.
    pub(super) send_queue: SendQueue,
    /// The sum of the bodies that come in.
    pub(super) receiving: Receiving,
    /// Finish what runs, then close.
    pub(super) stop: Stop,
    /// Close now.
    pub(super) abort: CancellationToken,
    /// Runs the streams of HTTP/2 connections.
    pub(super) streams: TaskTracker,
    /// The connection among the others.
    pub(super) guest: Arc<Guest>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By the client, or by us when nothing ran on it.
    Orderly,
    /// By [`Context::abort`].
    Cut,
}

/// Serves one connection to its end.
pub(super) async fn serve<S, B>(tcp: TcpStream, address: SocketAddr, context: Context<S>) -> Ended
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let (guest, stream) = (Arc::clone(&context.guest), Arc::new(Stream::default()));
    let socket = Socket::new(tcp, context.limits.stall_timeout, &context.send_queue);
    let socket = socket.tell(Arc::clone(&stream)).charged_to(Arc::clone(&guest));
    let standing = Standing::new(Arc::clone(&guest) as Arc<dyn Watch>);
    let Some(tls) = context.tls.clone() else {
        let peer = Peer {
            address,
            tls: false,
            trusted_proxy: false,
            controller: false,
            master: None,
            body_transport: if context.limits.accelerate { BodyTransport::Sendfile } else { BodyTransport::Copy },
            stream,
            standing,
        };
        return Box::pin(serve_http1(Transport::Plain(socket), peer, context)).await;
    };
    let accepted = tokio::select! {
        accepted = handshake::shake(&tls, socket, address, &context.limits) => accepted,
        () = context.stop.heard() => None,
    };
    let Some(accepted) = accepted else { return Ended::Orderly };
    let peer = Peer {
        address,
        tls: true,
        trusted_proxy: accepted.trusted_proxy,
        controller: accepted.controller,
        master: accepted.master,
        body_transport: BodyTransport::Copy,
        stream,
        standing,
    };
    guest.shook_hands(accepted.http2, accepted.certificate_bytes);
    let transport = Transport::Tls(Box::new(accepted.stream));
    if accepted.http2 {
        Box::pin(serve_http2(transport, peer, context)).await
    } else {
        Box::pin(serve_http1(transport, peer, context)).await
    }
}

async fn serve_http1<S, B>(transport: Transport, peer: Peer, context: Context<S>) -> Ended
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let Context { service, early, limits, receiving, stop, abort, guest, .. } = context;
    let (address, stream) = (peer.address, Arc::clone(&peer.stream));
    let (buffer, ahead) = if peer.tls { (H1_TLS_BUFFER, AHEAD_TLS_BYTES) } else { (H1_BUFFER, AHEAD_BYTES) };
    let state = Arc::new(Http1State::new(ahead));
    let early = early.filter(|_| limits.accelerate);
    let early = early.and_then(|early| early.on_connection(&peer, limits.max_header_bytes));
    let lingering = LingeringClose::new(transport, Arc::clone(&state), limits.linger_time);
    // Its timer is armed for the first head, so a later head with less time would be noticed late.
    let first = limits.first_head_timeout.min(limits.header_timeout);
    let times = HeadTimes { first, next: limits.header_timeout };
    let requests = Requests::new(lingering, Arc::clone(&state), times, early, receiving.clone(), Arc::clone(&guest));
    let io = TokioIo::new(requests);
    let requests_state = Arc::clone(&state);
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, state, peer) = (service.clone(), Arc::clone(&requests_state), peer.clone());
        let has_body = !hyper::body::Body::is_end_stream(request.body());
        let number = state.begin(has_body);
        guest.begin();
        let received = has_body.then(|| receiving.begin());
        async move {
            let _until_answered = received;
            let rest = Rest::Http1(Arc::clone(&state));
            let mut request = request.map(|body| RequestBody::new(body, limits.stall_timeout, rest));
            request.extensions_mut().insert(peer);
            let Ok(mut response) = service.oneshot(request).await;
            if state.is_body_open() {
                // The next request begins behind the rest of this body, which nobody reads.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response.map(|body| Http1ResponseBody { body, state, number }))
        }
    });
    let mut connection = http1::Builder::new()
        // `Requests` has the clock.
        .header_read_timeout(None)
        // A client that shuts its sending side after a whole request waits for the response; in the middle of a body it is
        // gone.
        .half_close(true)
        .max_header_size(limits.max_header_bytes)
        .max_buf_size(buffer.max(limits.max_header_bytes))
        .serve_connection(io, answer);
    // The stop is polled first: a response that is ready at the same moment then tells the client to send no more.
    let ended = tokio::select! {
        biased;
        () = stop.heard() => None,
        ended = &mut connection => Some(ended),
        () = poll_fn(|cx| stream.poll_cut(cx)) => return Ended::Orderly,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            state.end();
            Pin::new(&mut connection).graceful_shutdown();
            tokio::select! {
                biased;
                ended = &mut connection => ended,
                () = poll_fn(|cx| stream.poll_cut(cx)) => return Ended::Orderly,
                // All answers may be out, and only the client's end be waited for.
                () = abort.cancelled() => return if state.is_between() { Ended::Orderly } else { Ended::Cut },
            }
        }
    };
    if ended.as_ref().is_err_and(hyper::Error::is_parse) && state.is_between() {
        // hyper has no response to this input, HTTP/2's preface for one, and does not close in order: the end of an earlier
        // response would be lost.
        let mut io = connection.into_parts().io.into_inner();
        tokio::select! {
            _ = io.shutdown() => {}
            () = abort.cancelled() => {}
        }
    }
    closed(address, ended)
}

async fn serve_http2<S, B>(transport: Transport, peer: Peer, context: Context<S>) -> Ended
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let Context { service, limits, stop, abort, streams: tracker, guest, .. } = context;
    let address = peer.address;
    let streams = Arc::new(Streams::new(Arc::clone(&guest)));
    let watched = Arc::clone(&streams);
    let discard = Discard { tasks: tracker.clone(), time: limits.linger_time, guest };
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, mut peer, active) = (service.clone(), peer.clone(), watched.begin(head_bytes(&request)));
        let rest = Rest::Discard(discard.clone());
        async move {
            peer.stream = STREAM.try_with(Arc::clone).unwrap_or_default();
            let mut request = request.map(|body| RequestBody::new(body, limits.stall_timeout, rest));
            request.extensions_mut().insert(peer);
            let Ok(response) = service.oneshot(request).await;
            Ok::<_, Infallible>(response.map(|body| StreamBody::new(body, active)))
        }
    });
    let mut connection = pin!(
        http2::Builder::new(OnTracker(tracker))
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_streams)
            .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_send_buf_size(H2_SEND_BUFFER)
            .keep_alive_interval(H2_PING_INTERVAL)
            .keep_alive_timeout(H2_PING_TIMEOUT)
            .serve_connection(TokioIo::new(transport), answer)
    );
    let mut pace = Pace::new(&limits);
    let mut first_head = pin!(tokio::time::sleep(limits.first_head_timeout));
    let mut waits_for_first = true;
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return closed(address, ended),
            () = stop.heard(), if !stopping => {
                stopping = true;
                // Nothing was asked on it, and the client's preface may not even be in: hyper would wait for that.
                if streams.begun() == 0 {
                    return Ended::Orderly;
                }
                connection.as_mut().graceful_shutdown();
            }
            () = abort.cancelled(), if stopping => return Ended::Cut,
            () = first_head.as_mut(), if waits_for_first => {
                waits_for_first = false;
                if streams.begun() == 0 {
                    tracing::debug!(%address, "no request came in time on an HTTP/2 connection");
                    return Ended::Orderly;
                }
            }
            _ = pace.ticks.tick() => match pace.judge(&streams) {
                Judgement::GoOn => {}
                Judgement::Retire => connection.as_mut().graceful_shutdown(),
                Judgement::Close => {
                    tracing::debug!(%address, "an HTTP/2 connection stands still and is cut");
                    return Ended::Orderly;
                }
            },
        }
    }
}

/// Bytes of a request's head, as HTTP/2 counts them (RFC 9113, 10.5.1), less its 32 for each field.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let target = uri.path_and_query().map_or(0, |target| target.as_str().len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    target + authority + fields.sum::<usize>()
}

/// The slow clock of an HTTP/2 connection. hyper's HTTP/2 has no header timeout, and no time limit for a body that the
/// client does not read.
struct Pace {
    ticks: tokio::time::Interval,
    idle_limit: u32,
    idle_ticks: u32,
    begun: u32,
}

enum Judgement {
    GoOn,
    /// No new streams on this connection.
    Retire,
    Close,
}

impl Pace {
    fn new(limits: &ConnectionLimits) -> Self {
        let period = (limits.stall_timeout / TICKS).max(Duration::from_millis(1));
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let idle_limit = limits.header_timeout.as_millis().div_ceil(period.as_millis().max(1));
        Self { ticks, idle_limit: u32::try_from(idle_limit).unwrap_or(u32::MAX), idle_ticks: 0, begun: 0 }
    }

    fn judge(&mut self, streams: &Streams) -> Judgement {
        let verdict = streams.tick(self.begun);
        self.begun = streams.begun();
        if verdict != Verdict::Idle {
            self.idle_ticks = 0;
        }
        match verdict {
            Verdict::Moving => Judgement::GoOn,
            Verdict::SomeStalled => Judgement::Retire,
            Verdict::AllStalled => Judgement::Close,
            Verdict::Idle => {
                self.idle_ticks = self.idle_ticks.saturating_add(1);
                if self.idle_ticks < self.idle_limit {
                    Judgement::GoOn
                } else if self.idle_ticks == self.idle_limit {
                    Judgement::Retire
                } else {
                    // The client was told, and has had a tick's time to go.
                    Judgement::Close
                }
            }
        }
    }
}

fn closed(address: SocketAddr, ended: Result<(), hyper::Error>) -> Ended {
    if let Err(error) = ended {
        tracing::debug!(%address, error = &error as &(dyn StdError + 'static), "a connection broke");
    }
    Ended::Orderly
}

tokio::task_local! {
    /// The HTTP/2 stream that a task serves.
    static STREAM: Arc<Stream>;
}

/// Runs the streams of an HTTP/2 connection on a tracker, which a drain waits for.
#[derive(Clone)]
struct OnTracker(TaskTracker);

impl<F> hyper::rt::Executor<F> for OnTracker
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let stream = Arc::new(Stream::default());
        let cut = Arc::clone(&stream);
        self.0.spawn(STREAM.scope(stream, async move {
            tokio::select! {
                biased;
                _ = future => {}
                // Dropped, it resets its stream.
                () = poll_fn(|cx| cut.poll_cut(cx)) => {}
            }
        }));
    }
}
