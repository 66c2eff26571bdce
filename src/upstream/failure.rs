//! The meaning of a failed exchange. The HTTP client's own error hides its cause and shows the address, signature and all,
//! so its chain is read and its text is never used whole.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::StatusCode;

use super::address::AddressRefused;
use super::circuit::Fault;
use super::dns::LookupFailed;
use super::error::{Facts, UpstreamError};
use super::tls;
use crate::telemetry::UpstreamCause;

/// Why a proxy does not let us through.
const PROXY_LOGIN: &str = "the proxy wants another user name or password";

/// An error before the head of an answer. `host` is asked, over `proxy` if there is one.
pub(super) fn before_answer(
    host: &str,
    proxy: Option<&str>,
    error: &reqwest::Error,
    connect_limit: Duration,
) -> (UpstreamError, Fault) {
    let way = proxy.map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
    let chain = Chain::of(error);
    if let Some(refused) = chain.find::<AddressRefused>() {
        let error = UpstreamError::refused(host, format!("is not gone to: {refused}"));
        return (error, Fault::Other);
    }
    let unreachable = |what: String| Facts::new(UpstreamCause::Unreachable, host, what);
    if let Some(error) = chain.tls() {
        let facts = unreachable(format!("can't be trusted{way}: {}", tls::words(error)));
        return (facts.into(), Fault::Other);
    }
    if let Some(failed) = chain.find::<LookupFailed>() {
        return (unreachable(format!("can't be reached{way}: {failed}")).again().into(), Fault::Connect);
    }
    if error.is_timeout() {
        let what = format!("can't be reached{way}: no connection within {}", seconds(connect_limit));
        return (Facts::new(UpstreamCause::Timeout, host, what).into(), Fault::Slow);
    }
    let reason = chain.reason();
    if error.is_connect() {
        let facts = unreachable(format!("can't be reached{way}: {reason}"));
        // The same password is not refused less the next time, and many a proxy locks who tries too often.
        let facts = if reason == PROXY_LOGIN { Facts { proxy_refused: true, ..facts } } else { facts.again() };
        return (facts.into(), Fault::Connect);
    }
    if chain.find::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
        // It may be what an answer before it left on the connection: a new one has nothing of it.
        let facts = Facts::new(UpstreamCause::Invalid, host, format!("did not answer in HTTP{way}: {reason}"));
        return (facts.again().into(), Fault::Other);
    }
    (unreachable(format!("broke the connection{way} before it answered: {reason}")).again().into(), Fault::Other)
}

/// An error inside a body.
pub(super) fn in_body(host: &str, error: &reqwest::Error) -> UpstreamError {
    let reason = Chain::of(error).reason();
    Facts::new(UpstreamCause::Unreachable, host, format!("cut its answer short: {reason}")).again().into()
}

/// The class of a status that is no success.
pub(super) fn cause_of(status: StatusCode) -> UpstreamCause {
    match status.as_u16() {
        401 => UpstreamCause::Unauthorized,
        403 => UpstreamCause::Forbidden,
        404 => UpstreamCause::NotFound,
        408 => UpstreamCause::Timeout,
        // Only a proxy answers so.
        407 => UpstreamCause::Unreachable,
        429 => UpstreamCause::RateLimited,
        500.. => UpstreamCause::ServerError,
        _ => UpstreamCause::Invalid,
    }
}

/// A duration for a sentence.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// An error and its causes, outermost first.
struct Chain<'a>(Vec<&'a (dyn Error + 'static)>);

impl<'a> Chain<'a> {
    fn of(error: &'a (dyn Error + 'static)) -> Self {
        let mut all = Vec::new();
        let mut next = Some(error);
        while let Some(error) = next {
            all.push(error);
            // An I/O error made from another hides it: its source is the other's source.
            let hidden = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            next = match hidden {
                Some(inner) => Some(inner as &(dyn Error + 'static)),
                None => error.source(),
            };
        }
        Self(all)
    }

    fn find<E: Error + 'static>(&self) -> Option<&'a E> {
        self.0.iter().find_map(|error| error.downcast_ref::<E>())
    }

    fn tls(&self) -> Option<&'a rustls::Error> {
        self.find::<rustls::Error>()
    }

    /// The innermost cause, in words.
    fn reason(&self) -> String {
        // The outer ones only pass the inner one on.
        let io = self.0.iter().filter_map(|error| error.downcast_ref::<io::Error>());
        if let Some(words) = io.filter_map(io_words).next_back() {
            return words.to_owned();
        }
        if self.find::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message) {
            return "it was closed".to_owned();
        }
        let innermost = self.0.last().map(ToString::to_string).unwrap_or_default();
        match innermost.as_str() {
            "tunnel error: proxy authorization required" => PROXY_LOGIN.to_owned(),
            "tunnel error: unsuccessful" => "the proxy refuses to connect to it".to_owned(),
            // The client's own text shows the whole address.
            text if text.contains("://") => "the request failed".to_owned(),
            text => text.to_owned(),
        }
    }
}

fn io_words(error: &io::Error) -> Option<&'static str> {
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => "the connection was refused",
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "the connection was reset",
        io::ErrorKind::HostUnreachable => "no route to the host",
        io::ErrorKind::NetworkUnreachable => "the network is unreachable",
        io::ErrorKind::UnexpectedEof if error.to_string().contains("tls handshake") => {
            "the connection was closed during the TLS handshake"
        }
        io::ErrorKind::UnexpectedEof => "the connection was closed",
        io::ErrorKind::TimedOut => "the connection timed out",
        _ => return None,
    })
}
