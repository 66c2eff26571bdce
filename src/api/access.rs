//! Who is let in: where the request came from, who sends it, and the challenge if that is not enough.

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, WWW_AUTHENTICATE};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use super::call::query_values;
use super::error::ApiError;
use super::peer::Peer;
use super::route::Route;
use crate::auth::{Action, AuthFailure, Authenticator, Forbidden, Identity, needed_scope};
use crate::oci::{ErrorCode, RepoName};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The address as the client wrote it: the base of the token service's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    https: bool,
    authority: Authority,
}

impl Base {
    /// Reads scheme and host; `X-Forwarded-*` counts only from a trusted proxy.
    ///
    /// # Errors
    /// 400 if there is no host or it is no authority.
    pub(super) fn of(peer: &Peer, uri: &Uri, headers: &HeaderMap) -> Result<Self, ApiError> {
        // Each proxy on the way adds to the list: the first entry is what the client used.
        let trusted = |name: HeaderName| entries(headers, &name).next().filter(|_| peer.trusted_proxy);
        let https = match trusted(FORWARDED_PROTO) {
            Some(proto) => proto.eq_ignore_ascii_case("https"),
            None => peer.tls,
        };
        let authority = match (trusted(FORWARDED_HOST), uri.authority(), headers.get(HOST)) {
            (Some(forwarded), _, _) => authority(forwarded.as_bytes()),
            (None, Some(authority), _) => Some(authority.clone()).filter(is_plain),
            (None, None, Some(host)) => authority(host.as_bytes()),
            (None, None, None) => None,
        };
        match authority {
            Some(authority) => Ok(Self { https, authority }),
            None => Err(ApiError::new(ErrorCode::Unsupported, "the Host header is missing or no valid authority")
                .with_status(http::StatusCode::BAD_REQUEST)),
        }
    }

    /// `https://host:port`.
    pub(super) fn url(&self) -> String {
        format!("{}://{}", if self.https { "https" } else { "http" }, self.authority)
    }
}

/// A host with or without a port.
pub(super) fn authority(host: &[u8]) -> Option<Authority> {
    Authority::try_from(host).ok().filter(is_plain)
}

/// User information in front of an @ has no business here and could hide the real host from a reader.
fn is_plain(authority: &Authority) -> bool {
    !authority.as_str().contains('@') && !authority.host().is_empty()
}

/// The entries of a list in all fields of its name (RFC 9110, 5.3).
fn entries<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let fields = headers.get_all(name).iter().filter_map(|field| field.to_str().ok());
    fields.flat_map(|field| field.split(',')).map(str::trim).filter(|entry| !entry.is_empty())
}

/// The client's address: the peer's, or the one that a trusted proxy says it speaks for.
pub(super) fn client_address(peer: &Peer, headers: &HeaderMap) -> IpAddr {
    let forwarded = || {
        // The last entry is the one that the trusted proxy itself wrote; those before it are the client's word.
        let entry = entries(headers, &FORWARDED_FOR).last()?;
        let socket = || entry.parse::<SocketAddr>().map(|socket| socket.ip());
        entry.trim_matches(['[', ']']).parse().or_else(|_| socket()).ok()
    };
    peer.trusted_proxy.then(forwarded).flatten().unwrap_or_else(|| peer.address.ip())
}

/// What a method does to a route. `Ok(None)`: any identity will do.
///
/// # Errors
/// 405 with `Allow`.
pub(super) fn action(route: &Route, method: &Method) -> Result<Option<Action>, ApiError> {
    let read = *method == Method::GET || *method == Method::HEAD;
    match route {
        Route::Root | Route::Base if read => Ok(None),
        Route::Root | Route::Base => Err(ApiError::method_not_allowed("GET, HEAD")),
        Route::Token if *method == Method::GET || *method == Method::POST => Ok(None),
        Route::Token => Err(ApiError::method_not_allowed("GET, POST")),
        Route::Catalog if read => Ok(Some(Action::Catalog)),
        Route::Tags(_) | Route::Referrers(..) if read => Ok(Some(Action::Pull)),
        Route::Catalog | Route::Tags(_) | Route::Referrers(..) => Err(ApiError::method_not_allowed("GET, HEAD")),
        Route::Blob(..) if read => Ok(Some(Action::Pull)),
        Route::Blob(..) if *method == Method::DELETE => Ok(Some(Action::Delete)),
        Route::Blob(..) => Err(ApiError::method_not_allowed("GET, HEAD, DELETE")),
        Route::Manifest(..) if read => Ok(Some(Action::Pull)),
        Route::Manifest(..) if *method == Method::PUT => Ok(Some(Action::Push)),
        Route::Manifest(..) if *method == Method::DELETE => Ok(Some(Action::Delete)),
        Route::Manifest(..) => Err(ApiError::method_not_allowed("GET, HEAD, PUT, DELETE")),
        Route::Uploads(_) if *method == Method::POST => Ok(Some(Action::Push)),
        Route::Uploads(_) => Err(ApiError::method_not_allowed("POST")),
        Route::Upload(..) if matches!(*method, Method::GET | Method::PATCH | Method::PUT | Method::DELETE) => {
            Ok(Some(Action::Push))
        }
        Route::Upload(..) => Err(ApiError::method_not_allowed("GET, PATCH, PUT, DELETE")),
    }
}

/// The methods that a route answers where nothing is written: the `Allow` of a refused write.
pub(super) const fn reads_of(route: &Route) -> &'static str {
    match route {
        // An empty list: no method at all (RFC 9110, 10.2.1).
        Route::Uploads(_) | Route::Upload(..) => "",
        _ => "GET, HEAD",
    }
}

/// The answer to somebody who was made out and lacks the right: 401 with the scope needed, or 403.
pub(super) fn forbidden(auth: &Authenticator, base: &Base, forbidden: Forbidden) -> ApiError {
    let challenge = |scope: &str, error| header(&auth.challenge(&base.url(), Some(scope), error));
    match forbidden {
        Forbidden::Scope(scope) => ApiError::new(ErrorCode::Unauthorized, format!("the token lacks the scope {scope}"))
            .with_header(WWW_AUTHENTICATE, challenge(&scope, Some("insufficient_scope"))),
        Forbidden::NeedsCredentials(scope) => ApiError::new(ErrorCode::Unauthorized, "authentication required")
            .with_header(WWW_AUTHENTICATE, challenge(&scope, None)),
        Forbidden::Right(limits) => ApiError::new(ErrorCode::Denied, limits),
    }
}

/// The repository that a push wants to take a blob from (`?mount=…&from=…`).
pub(super) fn mount_source(route: &Route, query: Option<&str>) -> Option<RepoName> {
    let Route::Uploads(_) = route else { return None };
    query_values(query, "mount").next()?;
    query_values(query, "from").next()?.parse().ok()
}

/// The scope that a token needs for `action`, and for pulling from `source`, without which it would be no good for the mount.
pub(super) fn scope(action: Action, repo: Option<&RepoName>, source: Option<&RepoName>) -> String {
    let scope = needed_scope(action, repo);
    match source {
        Some(source) => format!("{scope} {}", needed_scope(Action::Pull, Some(source))),
        None => scope,
    }
}

/// Whether the identity may do it. A token that is not good for the repository is refused with the scope of a mount's
/// source too: the client fetches one for both. One that is good for the repository alone is not refused for the source's
/// sake: it uploads instead of mounting.
///
/// # Errors
/// [`Forbidden`].
pub(super) fn authorize(
    auth: &Authenticator,
    who: &Identity,
    action: Action,
    repo: Option<&RepoName>,
    source: Option<&RepoName>,
) -> Result<(), Forbidden> {
    auth.authorize(who, action, repo).map_err(|lacking| match lacking {
        Forbidden::Scope(_) => Forbidden::Scope(scope(action, repo, source)),
        Forbidden::NeedsCredentials(_) => Forbidden::NeedsCredentials(scope(action, repo, source)),
        Forbidden::Right(_) => lacking,
    })
}

/// The answer to missing or wrong credentials, with the challenge for `scope`.
pub(super) fn challenge(auth: &Authenticator, base: &Base, failure: AuthFailure, scope: Option<&str>) -> ApiError {
    let error = (failure == AuthFailure::BadToken).then_some("invalid_token");
    let value = auth.challenge(&base.url(), scope, error);
    refuse_sign_in(failure).with_header(WWW_AUTHENTICATE, header(&value))
}

/// The refusal itself, without a challenge.
pub(super) fn refuse_sign_in(failure: AuthFailure) -> ApiError {
    let unauthorized = |message: &'static str| ApiError::new(ErrorCode::Unauthorized, message);
    match failure {
        AuthFailure::Missing => unauthorized("authentication required"),
        AuthFailure::Malformed => unauthorized("the Authorization header can't be read"),
        AuthFailure::WrongPassword => unauthorized("unknown user or wrong password"),
        AuthFailure::BadToken => unauthorized("the token is not valid here or has expired"),
        AuthFailure::TokenShown => unauthorized("a token buys no other token; sign in with user and password"),
        AuthFailure::TooMany => {
            ApiError::new(ErrorCode::TooManyRequests, "too many passwords are being checked").retry_after(5)
        }
    }
}

/// The refusal with what the log says of it: the user, if it is one of ours. The answer never does, it would tell who
/// there is.
pub(super) fn in_log(refusal: ApiError, failure: AuthFailure, named: Option<&str>) -> ApiError {
    let Some(name) = named else { return refusal };
    match failure {
        AuthFailure::WrongPassword => refusal.said_in_log(format!("wrong password of user {name}")),
        AuthFailure::BadToken => refusal.said_in_log(format!("a token of user {name} that does not hold any more")),
        AuthFailure::TokenShown => refusal.said_in_log(format!("a token of user {name} where a password is needed")),
        AuthFailure::TooMany => {
            refusal.said_in_log(format!("too many passwords are being checked, one of them of user {name}"))
        }
        AuthFailure::Missing | AuthFailure::Malformed => refusal,
    }
}

fn header(value: &str) -> HeaderValue {
    super::content::text(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(trusted_proxy: bool) -> Peer {
        Peer {
            address: "192.0.2.1:5000".parse().unwrap(),
            tls: false,
            trusted_proxy,
            file_way: super::super::peer::FileWay::Read,
            stream: std::sync::Arc::default(),
            standing: super::super::peer::Standing::default(),
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), header(value))).collect()
    }

    #[test]
    fn forwarded_headers_count_only_from_a_trusted_proxy() {
        let uri = Uri::from_static("/v2/");
        let forwarded = headers(&[
            ("host", "inner:5001"),
            ("x-forwarded-host", "registry.example.com"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "203.0.113.9, 198.51.100.7"),
        ]);
        let url = |trusted| Base::of(&peer(trusted), &uri, &forwarded).unwrap().url();
        assert_eq!(url(true), "https://registry.example.com");
        assert_eq!(url(false), "http://inner:5001");
        assert_eq!(client_address(&peer(true), &forwarded).to_string(), "198.51.100.7");
        assert_eq!(client_address(&peer(false), &forwarded).to_string(), "192.0.2.1");
    }

    #[test]
    fn forwarded_lists_are_read_in_all_their_fields() {
        let uri = Uri::from_static("/v2/");
        for (fields, url, client) in [
            (
                &[
                    ("x-forwarded-proto", "https, http"),
                    ("x-forwarded-host", "registry.example.com, inner:5001"),
                    ("x-forwarded-for", "203.0.113.9"),
                    ("x-forwarded-for", "198.51.100.7:4711"),
                ][..],
                "https://registry.example.com",
                "198.51.100.7",
            ),
            (
                &[
                    ("x-forwarded-proto", "https"),
                    ("x-forwarded-proto", "http"),
                    ("x-forwarded-host", "a.example"),
                    ("x-forwarded-host", "b.example"),
                    ("x-forwarded-for", "203.0.113.9, [2001:db8::1]:443"),
                    ("x-forwarded-for", ""),
                ],
                "https://a.example",
                "2001:db8::1",
            ),
            (
                &[("x-forwarded-proto", "http"), ("x-forwarded-for", "[2001:db8::2]")],
                "http://inner:5001",
                "2001:db8::2",
            ),
        ] {
            let mut map: HeaderMap = headers(&[("host", "inner:5001")]);
            for (name, value) in fields {
                map.append(*name, header(value));
            }
            assert_eq!(Base::of(&peer(true), &uri, &map).unwrap().url(), url);
            assert_eq!(client_address(&peer(true), &map).to_string(), client);
        }
    }

    #[test]
    fn a_host_that_is_no_authority_is_400() {
        let uri = Uri::from_static("/v2/");
        for host in ["", "a b", "user@host", "host\"x", "a/b", "[::1"] {
            let refused = Base::of(&peer(false), &uri, &headers(&[("host", host)]));
            assert_eq!(refused.unwrap_err().status(), 400, "{host}");
        }
        for host in ["registry.d8-system.svc:5001", "[::1]:5001", "127.0.0.1"] {
            assert!(Base::of(&peer(false), &uri, &headers(&[("host", host)])).is_ok(), "{host}");
        }
    }
}
