//! A TLS connection before its first request: a handshake, or a client that does not speak TLS.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{AlertDescription, Error as TlsFault};
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, timeout_at};

use super::ConnectionLimits;
use super::handshake_failures::Failure;
use super::http1_state::{AHEAD_BYTES, Http1State};
use super::lingering_close::LingeringClose;
use super::socket::Socket;
use super::tls::{Accepted, Tls};
use super::transport::Transport;
use crate::telemetry::TlsFailureReason;

/// The response to a request without TLS, in words that clients show.
const NOT_WITHOUT_TLS: &str = "this port speaks HTTPS, and the request came without TLS: use https://\n";

/// Shakes hands within [`ConnectionLimits::handshake_timeout`]. `None`: it came to nothing, which is counted and told; who
/// sent text instead of TLS has a 400 that can be read. Safe to drop.
pub(super) async fn shake(
    tls: &Tls,
    socket: Socket,
    address: SocketAddr,
    limits: &ConnectionLimits,
) -> Option<Accepted> {
    let deadline = Instant::now() + limits.handshake_timeout;
    let mut first = [0; 5];
    let came = match timeout_at(deadline, socket.peek(&mut first)).await {
        Ok(Ok(came)) => &first[..came],
        Ok(Err(error)) => {
            tls.failures().note(address, &Failure { reason: reason(&error), error, silent: true });
            return None;
        }
        Err(_) => {
            tls.failures().note(address, &Failure { silent: true, ..too_slow() });
            return None;
        }
    };
    let failure = match came.first() {
        None => {
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the client sent nothing");
            Failure { reason: TlsFailureReason::Closed, error, silent: true }
        }
        // No record of TLS begins so (RFC 8446, 5.1), but every request without TLS.
        Some(b'!'..=b'~' | b'\r' | b'\n') => {
            let error = io::Error::new(io::ErrorKind::InvalidData, "a request without TLS");
            tls.failures().note(address, &Failure { reason: TlsFailureReason::Http, error, silent: false });
            // Out of time, or gone: it was worth a try.
            let _ = timeout_at(deadline, refuse(socket, came == b"HEAD ", limits)).await;
            return None;
        }
        Some(_) => match timeout_at(deadline, tls.accept(socket)).await {
            Ok(Ok(accepted)) => return Some(accepted),
            Ok(Err(error)) => Failure { reason: reason(&error), error, silent: false },
            Err(_) => too_slow(),
        },
    };
    tls.failures().note(address, &failure);
    None
}

fn too_slow() -> Failure {
    let error = io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long");
    Failure { reason: TlsFailureReason::Timeout, error, silent: false }
}

/// Says in HTTP that it has to be HTTPS, and ends the connection so that this arrives.
async fn refuse(socket: Socket, is_head: bool, limits: &ConnectionLimits) -> io::Result<()> {
    let mut io =
        LingeringClose::new(Transport::Plain(socket), Arc::new(Http1State::new(AHEAD_BYTES)), limits.linger_time);
    let mut answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        NOT_WITHOUT_TLS.len()
    );
    if !is_head {
        answer.push_str(NOT_WITHOUT_TLS);
    }
    io.write_all(answer.as_bytes()).await?;
    io.shutdown().await
}

/// Whose doing it was, and what.
fn reason(error: &io::Error) -> TlsFailureReason {
    let fault = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsFault>());
    match fault.or_else(|| error.source().and_then(|source| source.downcast_ref())) {
        Some(TlsFault::AlertReceived(alert)) => of_alert(*alert),
        Some(TlsFault::PeerIncompatible(_) | TlsFault::NoApplicationProtocol) => TlsFailureReason::Incompatible,
        Some(TlsFault::InvalidMessage(_)) => TlsFailureReason::NotTls,
        Some(TlsFault::InvalidCertificate(_) | TlsFault::NoCertificatesPresented) => {
            TlsFailureReason::ClientCertificate
        }
        Some(_) => TlsFailureReason::Other,
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected => TlsFailureReason::Closed,
            io::ErrorKind::TimedOut => TlsFailureReason::Timeout,
            _ => TlsFailureReason::Other,
        },
    }
}

/// The client's complaint (RFC 8446, 6.2).
fn of_alert(alert: AlertDescription) -> TlsFailureReason {
    match alert {
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::UnrecognisedName
        // A signature that does not fit: an authority of the same name with another key.
        | AlertDescription::DecryptError => TlsFailureReason::CertificateRefused,
        AlertDescription::ProtocolVersion
        | AlertDescription::HandshakeFailure
        | AlertDescription::InsufficientSecurity
        | AlertDescription::InappropriateFallback
        | AlertDescription::NoApplicationProtocol
        | AlertDescription::MissingExtension
        | AlertDescription::UnsupportedExtension => TlsFailureReason::Incompatible,
        AlertDescription::CloseNotify | AlertDescription::UserCanceled => TlsFailureReason::Closed,
        _ => TlsFailureReason::Other,
    }
}
