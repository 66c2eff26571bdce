//! Who is let in: where the request came from, who sends it, and the challenge if that is not enough.

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, WWW_AUTHENTICATE};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::call::query_values;
use super::error::ApiError;
use super::exception::Exception;
use super::route::Route;
use crate::auth::{Action, AuthFailure, Authenticator, Forbidden, Identity, needed_scope};
use crate::oci::{ErrorCode, RepoName};
use crate::serve::Peer;

pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The address as the client wrote it: the base of the token service's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Base {
    https: bool,
    /// `None`: the client did not say, as balancers that probe by HTTP/1.0.
    authority: Option<Authority>,
}

impl Base {
    /// Reads scheme and host; `X-Forwarded-*` counts only from a trusted proxy. An empty host is one that the client has
    /// no name for, and HTTP/1.0 need not send any (RFC 9112, 3.2).
    ///
    /// # Errors
    /// 400 if there has to be a host and is none, or it is no authority.
    pub(super) fn of(parts: &Parts, peer: &Peer) -> Result<Self, ApiError> {
        let (uri, headers) = (&parts.uri, &parts.headers);
        // Each proxy on the way adds to the list: the first entry is what the client used.
        let trusted = |name: HeaderName| entries(headers, &name).next().filter(|_| peer.trusted_proxy);
        let https = match trusted(FORWARDED_PROTO) {
            Some(proto) => proto.eq_ignore_ascii_case("https"),
            None => peer.tls,
        };
        let named = |host: &HeaderValue| match host.as_bytes() {
            b"" => Some(None),
            host => authority(host).map(Some),
        };
        let authority = match (trusted(FORWARDED_HOST), uri.authority(), headers.get(HOST)) {
            (Some(forwarded), _, _) => authority(forwarded.as_bytes()).map(Some),
            (None, Some(authority), _) => Some(authority.clone()).filter(is_plain).map(Some),
            (None, None, Some(host)) => named(host),
            (None, None, None) => (parts.version < Version::HTTP_11).then_some(None),
        };
        authority.map(|authority| Self { https, authority }).ok_or_else(no_host)
    }

    /// `https://host:port`, if the client said it.
    fn url(&self) -> Option<String> {
        let authority = self.authority.as_ref()?;
        Some(format!("{}://{authority}", if self.https { "https" } else { "http" }))
    }

    /// The challenge for `scope` to a client that asked here.
    ///
    /// # Errors
    /// 400 if it would have to name the token service and nobody said under which name the client knows us.
    fn challenge(
        &self,
        auth: &Authenticator,
        scope: Option<&str>,
        error: Option<&str>,
    ) -> Result<HeaderValue, ApiError> {
        let url = match self.url() {
            Some(url) => url,
            None if auth.tokens_enabled() => return Err(no_host()),
            // By Basic, which names nothing.
            None => String::new(),
        };
        Ok(header(&auth.challenge(&url, scope, error)))
    }
}

fn no_host() -> ApiError {
    ApiError::exception(Exception::NoHost, "the Host header is missing or no valid authority")
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
    let unauthorized = |message: String, scope: &str, error| match base.challenge(auth, Some(scope), error) {
        Ok(challenge) => ApiError::new(ErrorCode::Unauthorized, message).with_header(WWW_AUTHENTICATE, challenge),
        Err(unknown) => unknown,
    };
    match forbidden {
        Forbidden::Scope(scope) => {
            unauthorized(format!("the token lacks the scope {scope}"), &scope, Some("insufficient_scope"))
        }
        Forbidden::NeedsCredentials(scope) => unauthorized("authentication required".into(), &scope, None),
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
    match base.challenge(auth, scope, error) {
        Ok(challenge) => refuse_sign_in(failure).with_header(WWW_AUTHENTICATE, challenge),
        Err(unknown) => unknown,
    }
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
    super::headers::text(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(trusted_proxy: bool) -> Peer {
        Peer {
            address: "192.0.2.1:5000".parse().unwrap(),
            tls: false,
            trusted_proxy,
            controller: false,
            master: None,
            body_transport: crate::serve::BodyTransport::Copy,
            stream: std::sync::Arc::default(),
            standing: crate::serve::Standing::default(),
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), header(value))).collect()
    }

    fn parts(version: Version, pairs: &[(&'static str, &str)]) -> Parts {
        let (mut parts, ()) = http::Request::get("/v2/").version(version).body(()).unwrap().into_parts();
        parts.headers = headers(pairs);
        parts
    }

    fn url(parts: &Parts, trusted_proxy: bool) -> Option<String> {
        Base::of(parts, &peer(trusted_proxy)).unwrap().url()
    }

    #[test]
    fn forwarded_headers_count_only_from_a_trusted_proxy() {
        let forwarded = parts(
            Version::HTTP_11,
            &[
                ("host", "inner:5001"),
                ("x-forwarded-host", "registry.example.com"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-for", "203.0.113.9, 198.51.100.7"),
            ],
        );
        assert_eq!(url(&forwarded, true).unwrap(), "https://registry.example.com");
        assert_eq!(url(&forwarded, false).unwrap(), "http://inner:5001");
        assert_eq!(client_address(&peer(true), &forwarded.headers).to_string(), "198.51.100.7");
        assert_eq!(client_address(&peer(false), &forwarded.headers).to_string(), "192.0.2.1");
    }

    #[test]
    fn forwarded_lists_are_read_in_all_their_fields() {
        for (fields, base, client) in [
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
            let mut parts = parts(Version::HTTP_11, &[("host", "inner:5001")]);
            for (name, value) in fields {
                parts.headers.append(*name, header(value));
            }
            assert_eq!(url(&parts, true).unwrap(), base);
            assert_eq!(client_address(&peer(true), &parts.headers).to_string(), client);
        }
    }

    #[test]
    fn a_host_that_is_no_authority_is_400() {
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            for host in ["a b", "user@host", "host\"x", "a/b", "[::1", ":80"] {
                let refused = Base::of(&parts(version, &[("host", host)]), &peer(false));
                assert_eq!(refused.unwrap_err().status(), 400, "{host}");
            }
            for host in ["registry.d8-system.svc:5001", "[::1]:5001", "127.0.0.1"] {
                assert_eq!(url(&parts(version, &[("host", host)]), false).unwrap(), format!("http://{host}"));
            }
        }
    }

    #[test]
    fn only_http_1_0_may_leave_the_host_out_and_anybody_may_send_an_empty_one() {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            assert_eq!(Base::of(&parts(version, &[]), &peer(false)).unwrap_err().status(), 400);
        }
        assert_eq!(url(&parts(Version::HTTP_10, &[]), false), None);
        for version in [Version::HTTP_10, Version::HTTP_11] {
            assert_eq!(url(&parts(version, &[("host", "")]), false), None);
            assert_eq!(url(&parts(version, &[("host", ""), ("x-forwarded-host", "h")]), true).unwrap(), "http://h");
        }
    }
}
