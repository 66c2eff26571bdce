//! The HTTP edge: requests parsed into our types, answers rendered.
//!
//! A request's way, unless `fast` answers it ahead of all this: [`Edge`] → `dispatch` (below) → `Route::parse` →
//! authentication → right → limit → one handler (`blobs`, `manifests`, `uploads`, `tags`, `referrers`, `token`; `elsewhere` for
//! an upload that lies at another master) → the mode → an answer → `exchange`, which counts and logs when the answer's last byte is gone.

mod access;
mod accounting;
mod blobs;
mod body;
mod call;
mod conditions;
mod content;
mod copies;
mod elsewhere;
mod error;
mod exception;
mod exchange;
mod fast;
mod headers;
mod large;
mod limits;
mod manifests;
pub mod memory;
mod peers;
mod referrers;
mod route;
mod state;
mod tags;
mod token;
mod upload_name;
mod uploads;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT};
use http::{HeaderValue, Method, Request, StatusCode, Version};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;
use tower::Service;

pub use copies::CopyRules;
pub use exception::Exception;
pub use fast::FastPath;
pub use large::{PUSHED_MANIFEST_BYTES, RELAYED_MANIFEST_BYTES};
pub use limits::{GateSizes, OPEN_UPLOADS, most_at_once};
#[cfg(feature = "bench")]
pub use route::is_route;
pub use state::{ComingState, ModeFileState, ServerState, StateSource, UpstreamState};

use self::access::Base;
use self::body::{CountedBody, Reading, ResponseBody};
use self::call::{Call, Elsewhere, Entrance, query_values};
use self::error::ApiError;
use self::exchange::{Exchange, Outcome};
use self::large::LargeManifests;
use self::limits::{Gate, Gates, Pool};
use self::route::Route;
use crate::auth::{Action, Authenticator};
use crate::comparison::Comparison;
use crate::mode::{Audience, Mode, ModeError, Transition};
use crate::oci::{ErrorCode, RepoName, UploadId};
use crate::replicas::Replicas;
use crate::serve::Peer;
use crate::telemetry::{AccessLog, Metrics};

/// What is read away of a body that was not wanted, so that the connection can be used again.
const READ_AWAY_BYTES: u64 = 64 * 1024;
const READ_AWAY_TIME: Duration = Duration::from_secs(5);

/// What may change while the server runs and is not the mode's or the users'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Longest manifest in bytes.
    pub manifest_max_bytes: usize,
    /// Limits on what goes on at once.
    pub gates: GateSizes,
    /// How many masters have to have a push.
    pub copies: CopyRules,
}

/// The registry behind the edge. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    modes: ArcSwap<Transition>,
    auth: Authenticator,
    settings: ArcSwap<Settings>,
    gates: ArcSwap<Gates>,
    /// Who tells the controller of this server.
    state: OnceLock<StateSource>,
    /// Who the other masters are.
    replicas: OnceLock<Replicas>,
    /// What is said here and by them.
    comparison: OnceLock<Comparison>,
    /// Places of open uploads.
    uploads: Pool,
    large: LargeManifests,
    metrics: Metrics,
    access_log: AccessLog,
    /// Cancelled when the server has begun to shut down.
    draining: CancellationToken,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("mode", &self.0.modes.load().in_force().as_str()).finish_non_exhaustive()
    }
}

impl App {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        mode: Mode,
        auth: Authenticator,
        settings: Settings,
        metrics: Metrics,
        access_log: AccessLog,
        draining: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            modes: ArcSwap::from_pointee(Transition::settled(mode)),
            state: OnceLock::new(),
            replicas: OnceLock::new(),
            comparison: OnceLock::new(),
            auth,
            gates: ArcSwap::from_pointee(Gates::new(settings.gates)),
            settings: ArcSwap::from_pointee(settings),
            uploads: limits::open_uploads(),
            large: LargeManifests::default(),
            metrics,
            access_log,
            draining,
        }))
    }

    /// Puts other modes into force, all in one step; requests in flight end in those they began with.
    pub fn set_modes(&self, modes: Transition) {
        self.0.modes.store(Arc::new(modes));
    }

    /// Has `GET /-/state` answered by `source`, to the controller alone. Until then nobody gets an answer there.
    pub fn tell_state(&self, source: StateSource) {
        let _ = self.0.state.set(source);
    }

    /// Has other masters answered, those that `replicas` knows, and told of what is said here. Until then nobody gets an answer
    /// there.
    pub fn answer_masters(&self, replicas: Replicas, comparison: Comparison) {
        let _ = self.0.replicas.set(replicas);
        let _ = self.0.comparison.set(comparison);
    }

    /// Puts changed settings into force for requests to come.
    pub fn set_settings(&self, settings: Settings) {
        let before = self.0.settings.swap(Arc::new(settings));
        if before.gates != settings.gates {
            self.0.gates.store(Arc::new(Gates::new(settings.gates)));
        }
    }
}

/// The registry's service. Paths of the distribution API have names with slashes, so nothing is left for a router to
/// do: `Route` reads the path.
#[derive(Clone, Debug)]
pub struct Edge(App);

impl Edge {
    /// Serves `app`.
    #[must_use]
    pub const fn new(app: App) -> Self {
        Self(app)
    }
}

impl<B> Service<Request<B>> for Edge
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = http::Response<AnswerBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let app = self.0.clone();
        let (parts, body) = request.into_parts();
        // A body that is not there is not boxed: most requests have none.
        let body = if body.is_end_stream() { Body::empty() } else { Body::new(body) };
        Box::pin(async move { Ok(dispatch(app, parts, body).await) })
    }
}

/// The body of an answer. Dropped before its end, the answer counts as cut short.
pub struct AnswerBody(ResponseBody<Exchange>);

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerBody").finish_non_exhaustive()
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// Answers, whatever happens: a panic is a fault of ours and not the end of the connection.
async fn dispatch(app: App, parts: http::request::Parts, body: Body) -> http::Response<AnswerBody> {
    let peer = parts.extensions.get::<Peer>().cloned().unwrap_or_else(Peer::unknown);
    let (mut body, progress) = CountedBody::new(body, Arc::clone(&peer.stream));
    let for_master = peers::path_of(&app, &parts, &peer).map(Route::parse);
    let is_masters = for_master.is_some();
    let route = for_master.unwrap_or_else(|| Route::parse(parts.uri.path()));
    let mut exchange = Exchange::begin(&app, &parts, &peer, route.as_ref().ok(), Arc::clone(&progress));

    let answered = if is_masters {
        AssertUnwindSafe(peers::answer(&app, &parts, &peer, route, &mut body, &mut exchange)).catch_unwind().await
    } else {
        AssertUnwindSafe(answer(&app, &parts, &peer, route, &mut body, &mut exchange)).catch_unwind().await
    };
    let mut response = exchange.settle(answered.unwrap_or_else(|_| Err(ApiError::panicked())));
    if !progress.ended() {
        // Who was too slow already has had its time.
        if response.status() != StatusCode::REQUEST_TIMEOUT {
            read_away(&mut body, &parts.headers).await;
        }
        // What is left can't be read past: the connection ends after this answer, in an orderly way (serve/lingering_close.rs).
        if !progress.ended() && parts.version <= Version::HTTP_11 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    let is_api = is_masters || parts.uri.path() == "/v2" || parts.uri.path().starts_with("/v2/");
    decorate(&mut response, is_api, parts.uri.query(), &exchange);
    let head = parts.method == Method::HEAD;
    let reading = response.extensions_mut().remove::<Arc<Reading>>();
    let response = if head { head_of(response) } else { response };
    response.map(|body| AnswerBody(ResponseBody::new(body, head, peer.stream, exchange).made_of(reading)))
}

/// Lets the request in, or says why not, and runs its handler.
async fn answer(
    app: &App,
    parts: &http::request::Parts,
    peer: &Peer,
    route: Result<Route, ApiError>,
    body: &mut CountedBody,
    exchange: &mut Exchange,
) -> Outcome {
    if let Some(source) = app.0.state.get().filter(|_| peer.controller && parts.uri.path() == state::PATH) {
        exchange.let_in();
        return state::answer(source, &parts.method).await;
    }
    let base = Base::of(parts, peer)?;
    let auth = &app.0.auth;
    let modes = app.0.modes.load_full();
    match &route {
        // What is not the API's tells nobody anything, so it needs no sign-in.
        Err(error) if !parts.uri.path().starts_with("/v2/") && error.code() == ErrorCode::Unsupported => {
            return route.map(|_| Response::default());
        }
        _ if modes.is_idle() => return Err(ModeError::Unmanaged.into()),
        Ok(Route::Root) => return root(app, &parts.method),
        Ok(Route::Token) => {
            access::action(&Route::Token, &parts.method)?;
            let from = exchange.address();
            let answer = token::answer(auth, &parts.method, &parts.headers, parts.uri.query(), body, from).await;
            if let Some(who) = &answer.who {
                exchange.identified(who, modes.first(Audience::of(auth.role(who))));
            }
            if let Some(failure) = answer.failure {
                exchange.refused(failure, answer.named);
            }
            return answer.response;
        }
        Ok(_) | Err(_) => {}
    }
    let action = route.as_ref().ok().map(|route| access::action(route, &parts.method));
    let authorization = parts.headers.get(http::header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let who = match auth.authenticate(authorization, exchange.address()).await {
        Ok(who) => who,
        Err(failure) => {
            let named = auth.named_in(authorization);
            exchange.refused(failure, named.clone());
            let wanted = action.and_then(|action| action.ok().flatten());
            let repo = route.as_ref().ok().and_then(Route::repository);
            let source = route.as_ref().ok().and_then(|route| access::mount_source(route, parts.uri.query()));
            let wanted = wanted.map(|action| access::scope(action, repo, source.as_ref()));
            let refusal = access::challenge(auth, &base, failure, wanted.as_deref());
            return Err(access::in_log(refusal, failure, named.as_deref()));
        }
    };
    let view = modes.view(Audience::of(auth.role(&who)));
    exchange.identified(&who, view.first());
    let route = route?;
    let is_hop = peers::is_hop(&parts.headers)?;
    let view = if is_hop { view.alone() } else { view };
    if view.is_idle() {
        return Err(ModeError::Unmanaged.into());
    }
    if let Some(action) = access::action(&route, &parts.method)? {
        if matches!(action, Action::Push | Action::Delete) {
            view.writable().map_err(|error| ApiError::from(error).allow(access::reads_of(&route)))?;
        }
        let source = access::mount_source(&route, parts.uri.query());
        access::authorize(auth, &who, action, route.repository(), source.as_ref()).map_err(|lacking| {
            exchange.forbidden(&lacking);
            access::forbidden(auth, &base, lacking)
        })?;
        exchange.let_in();
    }
    let replicas = app.0.replicas.get();
    let elsewhere = replicas.filter(|_| !is_hop).map(|replicas| Elsewhere {
        replicas,
        address: exchange.address(),
        id: exchange.id().clone(),
    });
    let call = Call {
        method: &parts.method,
        headers: &parts.headers,
        raw_query: parts.uri.query(),
        view,
        settings: app.0.settings.load_full(),
        auth,
        who,
        metrics: &app.0.metrics,
        body_transport: peer.body_transport,
        large: &app.0.large,
        uploads: &app.0.uploads,
        comparison: app.0.comparison.get(),
        entrance: Entrance::new(app.0.gates.load_full(), exchange.holder(), Arc::clone(&peer.stream)),
        elsewhere,
        own_master: replicas.and_then(Replicas::own_id),
        is_masters: false,
    };
    call.entrance.enter(gate(&route, &parts.method)).await?;
    let outcome = handle(&call, body, &route).await;
    exchange.hold(call.entrance.leave());
    outcome
}

/// One handler for each route and method; `access::action` has let nothing else through.
async fn handle(call: &Call<'_>, body: &mut CountedBody, route: &Route) -> Outcome {
    let method = call.method;
    match route {
        Route::Root | Route::Token | Route::Base => {
            Ok(manifests::json_response("application/json", &serde_json::json!({})))
        }
        Route::Catalog => tags::catalog(call).await,
        Route::Tags(repo) => tags::list(call, repo).await,
        Route::Referrers(repo, subject) => referrers::list(call, repo, *subject).await,
        Route::Blob(repo, digest) if method == Method::DELETE => blobs::delete(call, repo, *digest).await,
        Route::Blob(repo, digest) => blobs::read(call, repo, *digest).await,
        Route::Manifest(repo, reference) if method == Method::PUT => manifests::put(call, body, repo, reference).await,
        Route::Manifest(repo, reference) if method == Method::DELETE => manifests::delete(call, repo, reference).await,
        Route::Manifest(repo, reference) => manifests::read(call, repo, reference).await,
        Route::Uploads(repo) => uploads::begin(call, body, repo).await,
        Route::Upload(repo, name) => {
            match call.elsewhere.as_ref().and_then(|way| way.master_of(*name).zip(Some(way))) {
                Some((master, way)) => elsewhere::pass_on(call, way, body, (repo, *name), &master).await,
                None => handle_upload(call, body, repo, name.id).await,
            }
        }
    }
}

/// An upload that lies here, or nowhere.
async fn handle_upload(call: &Call<'_>, body: &mut CountedBody, repo: &RepoName, id: UploadId) -> Outcome {
    match *call.method {
        Method::PATCH => uploads::append(call, body, repo, id).await,
        Method::PUT => uploads::finish(call, body, repo, id).await,
        Method::DELETE => uploads::cancel(call, repo, id).await,
        _ => uploads::ask(call, repo, id).await,
    }
}

/// Which limit a request counts against before its handler runs. Reads of manifests and blobs ask for their place
/// themselves, once memory has not answered.
fn gate(route: &Route, method: &Method) -> Gate {
    match route {
        Route::Catalog | Route::Tags(_) | Route::Referrers(..) => Gate::Listing,
        Route::Manifest(..) if method == Method::PUT => Gate::Upload,
        Route::Uploads(_) => Gate::Upload,
        Route::Upload(..) if method == Method::PATCH || method == Method::PUT => Gate::Upload,
        Route::Root | Route::Base | Route::Token => Gate::Free,
        Route::Blob(..) | Route::Manifest(..) | Route::Upload(..) => Gate::Free,
    }
}

/// `GET /`: what balancers ask. 200 when ready, 503 while draining.
fn root(app: &App, method: &Method) -> Outcome {
    access::action(&Route::Root, method)?;
    if app.0.draining.is_cancelled() {
        return Err(ApiError::new(ErrorCode::Unavailable, "shutting down").retry_after(5));
    }
    Ok(Response::new(Body::empty()))
}

/// Reads the little that is left of a body nobody wanted. A client that waits for `100 Continue` has sent none.
async fn read_away(body: &mut CountedBody, headers: &http::HeaderMap) {
    let little = body.size_hint().upper().is_some_and(|left| left <= READ_AWAY_BYTES);
    if little && !headers.contains_key(EXPECT) {
        let rest = async { while let Some(Ok(_)) = body.frame().await {} };
        // Out of time: the connection is closed instead.
        let _ = tokio::time::timeout(READ_AWAY_TIME, rest).await;
    }
}

/// The answer to a HEAD: what GET would say of its body, and no body (RFC 9110, 9.3.2). HTTP/2 lets nothing else through.
fn head_of(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|_| !body.is_end_stream()) {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    Response::from_parts(head, Body::empty())
}

/// Headers that every answer of the API carries.
fn decorate(response: &mut Response, is_api: bool, query: Option<&str>, exchange: &Exchange) {
    let headers = response.headers_mut();
    if is_api {
        headers::of_api(headers, namespace(query).as_ref());
    }
    headers::of_request(headers, headers::Value::Ready(exchange.id()));
}

/// The `ns` of a query, with which a client tells a mirror whose content it wants, to be said back in `OCI-Namespace`.
fn namespace(query: Option<&str>) -> Option<HeaderValue> {
    let query = query.filter(|query| query.contains("ns="));
    let namespace = query.and_then(|_| query_values(query, "ns").next()).filter(|namespace| namespace.len() <= 255)?;
    let authority = http::uri::Authority::try_from(namespace.as_bytes()).ok()?;
    Some(headers::text(authority.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_head_has_the_length_and_not_the_body() {
        let refused = ApiError::new(ErrorCode::ManifestUnknown, "no such manifest").into_response();
        let length = refused.body().size_hint().exact().unwrap();
        let head = head_of(refused);
        assert!(head.body().is_end_stream() && length > 0);
        assert_eq!(head.headers()[CONTENT_LENGTH], length.to_string());
        let known = Response::builder().header(CONTENT_LENGTH, 7).body(Body::empty()).unwrap();
        assert_eq!(head_of(known).headers()[CONTENT_LENGTH], "7");
        assert!(!head_of(Response::new(Body::empty())).headers().contains_key(CONTENT_LENGTH));
    }
}
