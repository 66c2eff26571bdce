//! What other masters are answered: blobs and manifests by digest, read from the own store of mode Local, whichever mode is in
//! force, and what their clients ask of an upload that began here, or delete: a blob. `/-/peer` and behind it the paths of clients,
//! and those of `records`.
//!
//! Only a server that showed the peers' certificate, with an address of the list that is in force now, has these paths; to
//! everybody else they name nothing. No user, no right and no token plays a part: who may write, the master judged that its client
//! asked. A master answers of what is in its own store and asks nobody: the header `d8-hop` says that the question has made its one
//! hop, and stands in every one.

mod records;

use std::net::IpAddr;
use std::sync::Arc;

use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, Method};

use super::App;
use super::access;
use super::body::CountedBody;
use super::call::{Call, Entrance};
use super::error::ApiError;
use super::exception::Exception;
use super::exchange::{Exchange, Outcome};
use super::route::Route;
use super::{blobs, manifests};
use crate::auth::Identity;
use crate::oci::{ErrorCode, Reference};
use crate::replicas::Replicas;
use crate::serve::Peer;
use crate::upstream::{HOP, ONE_HOP, PEER_PREFIX};

/// The path behind the prefix, if whoever asks is a master.
pub(super) fn path_of<'a>(app: &App, parts: &'a Parts, peer: &Peer) -> Option<&'a str> {
    let path = parts
        .uri
        .path()
        .strip_prefix(PEER_PREFIX)
        .filter(|path| path.starts_with("/v2/") || path.starts_with("/records"))?;
    let replicas = app.0.replicas.get()?;
    peer.master.as_deref().is_some_and(|addresses| replicas.has_address(addresses)).then_some(path)
}

/// Whether the question is about the own store alone.
///
/// # Errors
/// 400: the header has another value than `1`, or is there twice.
pub(super) fn is_hop(headers: &HeaderMap) -> Result<bool, ApiError> {
    let mut values = headers.get_all(HOP).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if *value == ONE_HOP => Ok(true),
        (Some(_), _) => Err(wrong_hop()),
    }
}

fn wrong_hop() -> ApiError {
    ApiError::exception(Exception::WrongHop, "d8-hop is 1: a question between masters makes one hop")
}

/// Answers a master.
pub(super) async fn answer(
    app: &App,
    parts: &Parts,
    peer: &Peer,
    route: Result<Route, ApiError>,
    body: &mut CountedBody,
    exchange: &mut Exchange,
) -> Outcome {
    exchange.let_in();
    if !is_hop(&parts.headers)? {
        return Err(wrong_hop());
    }
    let question = parts.uri.path().strip_prefix(PEER_PREFIX).and_then(records::Question::parse);
    if let Some(question) = question {
        return records::answer(app, &parts.method, peer, question).await;
    }
    let route = route?;
    let is_read = parts.method == Method::GET || parts.method == Method::HEAD;
    match &route {
        Route::Blob(..) | Route::Manifest(_, Reference::Digest(_)) if is_read => {}
        Route::Blob(repo, digest) if parts.method == Method::DELETE => {
            let local = app.0.modes.load().local().ok_or_else(rests)?;
            blobs::delete_own(&local, repo, *digest).await?;
            return Ok(blobs::accepted());
        }
        Route::Blob(..) => return Err(ApiError::method_not_allowed("GET, HEAD, DELETE")),
        Route::Manifest(_, Reference::Digest(_)) => return Err(ApiError::method_not_allowed("GET, HEAD")),
        Route::Upload(..) => {
            access::action(&route, &parts.method)?;
            exchange.speaks_for(client_of(peer, &parts.headers), &parts.headers);
        }
        _ => return Err(no_path()),
    }
    let view = app.0.modes.load().own_store().ok_or_else(rests)?;
    let call = Call {
        method: &parts.method,
        headers: &parts.headers,
        // Of a question about an upload alone.
        raw_query: parts.uri.query().filter(|_| matches!(route, Route::Upload(..))),
        view,
        settings: app.0.settings.load_full(),
        auth: &app.0.auth,
        who: Identity::anonymous(),
        metrics: &app.0.metrics,
        body_transport: peer.body_transport,
        large: &app.0.large,
        uploads: &app.0.uploads,
        comparison: None,
        entrance: Entrance::new(app.0.gates.load_full(), exchange.holder(), Arc::clone(&peer.stream)),
        elsewhere: None,
        own_master: app.0.replicas.get().and_then(Replicas::own_id),
        is_masters: true,
    };
    call.entrance.enter(super::gate(&route, call.method)).await?;
    let outcome = carry_out(&call, &route, body).await;
    exchange.hold(call.entrance.leave());
    outcome
}

/// The client that a master speaks for: the address that stands in its header, as from a trusted proxy.
fn client_of(peer: &Peer, headers: &HeaderMap) -> IpAddr {
    access::client_address(&Peer { trusted_proxy: true, ..peer.clone() }, headers)
}

fn no_path() -> ApiError {
    ApiError::exception(Exception::NoPath, "masters ask each other for contents by digest and for uploads")
}

/// The store of Local is nobody's now.
fn rests() -> ApiError {
    ApiError::new(ErrorCode::NameUnknown, "mode Local is neither in force nor coming nor before")
}

async fn carry_out(call: &Call<'_>, route: &Route, body: &mut CountedBody) -> Result<Response, ApiError> {
    match route {
        Route::Blob(repo, digest) => blobs::read(call, repo, *digest).await,
        Route::Manifest(repo, reference) => manifests::read(call, repo, reference).await,
        Route::Upload(repo, name) => super::handle_upload(call, body, repo, name.id).await,
        _ => Err(no_path()),
    }
}
