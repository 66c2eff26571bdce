//! Asks each server `GET /` again and again.
//!
//! Over HTTPS the certificate's chain, names and dates are NOT verified: nothing that is sent is secret, the answer's status
//! is all that is used, and who could forge it could as well drop the packets. Clients' TLS passes through untouched and
//! is verified by them. What is proven is that the server has the key of the certificate it shows.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::backend::Backend;
use super::dial;
use crate::jobs::{Job, JobError, Run, Schedule};
use crate::values::Target;

/// Pause between two checks of a server.
const EVERY: Duration = Duration::from_secs(2);
/// Longest check.
const LIMIT: Duration = Duration::from_secs(2);
/// Failures in a row after which a server is down; one success makes it up.
const FAILURES: u32 = 2;
/// Most bytes that are read of an answer.
const MAX_ANSWER: u64 = 16 * 1024;

/// A check failed.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("health check: {0}")]
    Io(#[from] io::Error),
    #[error("health check: no answer within 2 s")]
    Timeout,
    #[error("health check: the answer is no HTTP")]
    NotHttp,
    #[error("health check: status {0}")]
    Status(u16),
}

/// Makes health checks. Clones share the TLS set-up.
#[derive(Clone)]
pub(super) struct Prober {
    tls: TlsConnector,
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prober").finish_non_exhaustive()
    }
}

impl Prober {
    /// # Errors
    /// An error of rustls about its own defaults.
    pub(super) fn new() -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    async fn probe(&self, target: &Target) -> Result<(), ProbeError> {
        let status = tokio::time::timeout(LIMIT, self.status(target)).await.map_err(|_| ProbeError::Timeout)??;
        if (200..400).contains(&status) { Ok(()) } else { Err(ProbeError::Status(status)) }
    }

    async fn status(&self, target: &Target) -> Result<u16, ProbeError> {
        let stream = dial::connect(target).await?;
        if !target.tls() {
            return ask(stream, target).await;
        }
        let name = ServerName::try_from(target.host().to_owned()).map_err(io::Error::other)?;
        ask(self.tls.connect(name, stream).await?, target).await
    }
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, target: &Target) -> Result<u16, ProbeError> {
    let host = if target.host().contains(':') { format!("[{}]", target.host()) } else { target.host().to_owned() };
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {host}:{}\r\nUser-Agent: d8-registry-node-proxy\r\nConnection: close\r\n\r\n",
        target.port()
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    // To its end, or the server would log a client that went away. A close without TLS's own goodbye is an end too.
    let read = stream.take(MAX_ANSWER).read_to_end(&mut answer).await;
    match (status_of(&answer), read) {
        (Some(status), _) => Ok(status),
        (None, Err(error)) => Err(error.into()),
        (None, Ok(_)) => Err(ProbeError::NotHttp),
    }
}

fn status_of(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.")?;
    let digits = std::str::from_utf8(rest.get(2..5)?).ok()?;
    (rest.get(1) == Some(&b' ')).then(|| digits.parse().ok()).flatten()
}

/// Checks a server until it leaves the list.
#[derive(Debug)]
pub(super) struct CheckHealth {
    backend: Arc<Backend>,
    prober: Prober,
    /// In a row.
    failures: u32,
}

impl CheckHealth {
    pub(super) const fn new(backend: Arc<Backend>, prober: Prober) -> Self {
        Self { backend, prober, failures: 0 }
    }
}

impl Job for CheckHealth {
    const NAME: &'static str = "health";

    fn schedule(&self) -> Schedule {
        Schedule::every(EVERY)
    }

    /// A server that is not well is no failure of the check.
    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        let probe = self.prober.probe(self.backend.target());
        let Some(probed) = run.stop().run_until_cancelled(probe).await else { return Ok(()) };
        match probed {
            Ok(()) => {
                self.failures = 0;
                self.backend.up();
            }
            Err(error) => {
                self.failures += 1;
                if self.failures >= FAILURES {
                    self.backend.down(&error);
                }
            }
        }
        Ok(())
    }
}

/// Takes every certificate whose key the server has.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_from_http_and_nothing_else() {
        assert_eq!(status_of(b"HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(status_of(b"HTTP/1.0 503\r\n"), Some(503));
        for answer in
            [&b""[..], b"HTTP/1.1", b"HTTP/1.1 20", b"HTTP/1.1 abc", b"\x15\x03\x01\x00\x02", b"HTTP/2.0 200 OK"]
        {
            assert_eq!(status_of(answer), None);
        }
    }
}
