//! Asks servers for their state: `GET /-/state` on the registry's port, with the controller's own certificate.
//!
//! The certificate is verified by the cluster's authority alone, for the address that is asked; who shows it is a server of
//! ours. Files are read anew for each look, as they are renewed under the same names.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use crate::switch::{Server, ServerModeFile, ServerState, Target};
use crate::telemetry::with_causes;
use crate::values::Secret;

/// For the connection, the handshake and the answer together.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of an answer.
const MAX_ANSWER: usize = 64 * 1024;

/// The controller's certificate, its key, and the authority of the servers, all in PEM.
#[derive(Clone, Debug)]
pub enum Identity {
    /// In files.
    Files {
        /// The certificate, then its chain.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// Authorities.
        ca: PathBuf,
    },
    /// As they were read from a Secret.
    Texts {
        /// The certificate, then its chain.
        cert: Secret,
        /// The key.
        key: Secret,
        /// Authorities.
        ca: Secret,
    },
}

/// Why a server said nothing. Each is a sentence for the conditions.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    #[error("{what} can't be read: {error}")]
    Pem { what: String, error: String },
    #[error("TLS can't be set up")]
    Tls(#[from] tokio_rustls::rustls::Error),
    #[error("no connection to {address}")]
    Connection {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("{0} gave no answer within 5 s")]
    Late(String),
    #[error("{address} gave no HTTP answer")]
    Http {
        address: String,
        #[source]
        source: hyper::Error,
    },
    #[error("{address} does not know /-/state, or does not take the controller's certificate (status {status})")]
    Status { address: String, status: u16 },
    #[error("the state of {address} can't be read: {error}")]
    Answer { address: String, error: String },
}

/// Asks servers.
pub(super) struct StateClient(TlsConnector);

impl StateClient {
    /// Reads the files. Blocking.
    ///
    /// # Errors
    /// [`StateError::Pem`], [`StateError::Tls`].
    pub(super) fn new(identity: &Identity) -> Result<Self, StateError> {
        let [cert, key, ca] = match identity {
            Identity::Files { cert, key, ca } => [Pem::of_file(cert)?, Pem::of_file(key)?, Pem::of_file(ca)?],
            Identity::Texts { cert, key, ca } => {
                [Pem::of_text("tls.crt", cert), Pem::of_text("tls.key", key), Pem::of_text("ca.crt", ca)]
            }
        };
        let mut roots = RootCertStore::empty();
        for certificate in ca.certificates()? {
            roots.add(certificate)?;
        }
        let private = PrivateKeyDer::from_pem_slice(&key.bytes).map_err(|error| key.wrong(&error))?;
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(cert.certificates()?, private)?;
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// What the server at this address says, or why it says nothing. Safe to drop.
    pub(super) async fn ask(&self, address: IpAddr, port: u16) -> Server {
        let name = std::net::SocketAddr::new(address, port).to_string();
        match tokio::time::timeout(PATIENCE, self.state(address, port, &name)).await {
            Ok(Ok(state)) => Server::Answered(state),
            Ok(Err(error)) => Server::Silent(with_causes(&error)),
            Err(_) => Server::Silent(StateError::Late(name).to_string()),
        }
    }

    async fn state(&self, address: IpAddr, port: u16, name: &str) -> Result<ServerState, StateError> {
        let io = |source| StateError::Connection { address: name.to_owned(), source };
        let http = |source| StateError::Http { address: name.to_owned(), source };
        let answer = |error: String| StateError::Answer { address: name.to_owned(), error };
        let stream = TcpStream::connect((address, port)).await.map_err(io)?;
        let stream = self.0.connect(ServerName::from(address), stream).await.map_err(io)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let request = Request::get("/-/state").header(HOST, name).body(Empty::<Bytes>::new());
        let request = request.map_err(|error| answer(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(http)?;
            let status = response.status().as_u16();
            if status != 200 {
                return Err(StateError::Status { address: name.to_owned(), status });
            }
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            Ok(body.map_err(|error| answer(error.to_string()))?.to_bytes())
        };
        // The connection moves as long as it is polled, and goes with this future.
        tokio::pin!(exchange, connection);
        let bytes = tokio::select! {
            bytes = &mut exchange => bytes?,
            ended = &mut connection => {
                ended.map_err(http)?;
                exchange.await?
            }
        };
        parse(&bytes).map_err(answer)
    }
}

impl std::fmt::Debug for StateClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateClient").finish_non_exhaustive()
    }
}

/// A text in PEM, and where it is from.
struct Pem {
    what: String,
    bytes: Zeroizing<Vec<u8>>,
}

impl Pem {
    fn of_file(path: &Path) -> Result<Self, StateError> {
        let what = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => Ok(Self { what, bytes: bytes.into() }),
            Err(error) => Err(StateError::Pem { what, error: error.to_string() }),
        }
    }

    fn of_text(key: &str, text: &Secret) -> Self {
        Self { what: format!("key {key} of the Secret"), bytes: text.expose().as_bytes().to_vec().into() }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, StateError> {
        let found = CertificateDer::pem_slice_iter(&self.bytes).collect::<Result<Vec<_>, _>>();
        let found = found.map_err(|error| self.wrong(&error))?;
        if found.is_empty() { Err(self.wrong(&"it has no certificate")) } else { Ok(found) }
    }

    fn wrong(&self, error: &dyn std::fmt::Display) -> StateError {
        StateError::Pem { what: self.what.clone(), error: error.to_string() }
    }
}

/// The answer, as far as a switch asks for it. Further fields are passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    started: u64,
    ready: bool,
    #[serde(default)]
    not_ready: Vec<String>,
    /// An older server says nothing of them.
    #[serde(default)]
    users: Option<BTreeMap<String, String>>,
    mode_file: Option<AnswerModeFile>,
    in_force: String,
    #[serde(default)]
    previous_answers: u64,
}

#[derive(Deserialize)]
struct AnswerModeFile {
    hash: Option<String>,
    generation: Option<u64>,
    error: Option<String>,
}

fn parse(bytes: &[u8]) -> Result<ServerState, String> {
    let answer: Answer = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let in_force = Target::ALL.into_iter().find(|target| target.as_str() == answer.in_force);
    Ok(ServerState {
        started: answer.started,
        ready: answer.ready,
        not_ready: answer.not_ready,
        users: answer.users,
        mode_file: answer.mode_file.map(|file| ServerModeFile {
            hash: file.hash.unwrap_or_default(),
            generation: file.generation.unwrap_or_default(),
            error: file.error,
        }),
        in_force: in_force.ok_or_else(|| format!("mode {:?} is not known", answer.in_force))?,
        previous_answers: answer.previous_answers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_and_what_is_new_in_it_is_passed_over() {
        let text = br#"{"version":"0.1.0","started":1764400000,"node":"master-0","ready":false,"notReady":["no room"],"users":{"ro":"cd"},
            "modeFile":{"hash":"ab","generation":12,"error":null},"inForce":"Proxy","coming":{"mode":"Local","phase":"filling"},
            "previous":["Direct"],"previousAnswers":17,"upstream":{"host":"h","outcome":"ok","message":""},"more":1}"#;
        let wanted = ServerState {
            started: 1_764_400_000,
            ready: false,
            not_ready: vec!["no room".to_owned()],
            users: Some(BTreeMap::from([("ro".to_owned(), "cd".to_owned())])),
            mode_file: Some(ServerModeFile { hash: "ab".to_owned(), generation: 12, error: None }),
            in_force: Target::Proxy,
            previous_answers: 17,
        };
        assert_eq!(parse(text), Ok(wanted));
        let keys = br#"{"started":1,"ready":true,"modeFile":null,"inForce":"Unmanaged"}"#;
        let parsed = parse(keys).unwrap();
        assert_eq!((parsed.mode_file, parsed.users), (None, None));
        for wrong in [&b"<html>"[..], br#"{"started":1,"ready":true,"inForce":"Other"}"#, br#"{"ready":true}"#] {
            assert!(parse(wrong).is_err());
        }
    }
}
