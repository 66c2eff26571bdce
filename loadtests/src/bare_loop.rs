//! The floor of a push: receive, SHA-256 (the server's own library), write, fsync, in one bare loop and a process of its
//! own. A client sends the length (8 bytes, big endian) and the content, and gets the digest and a newline once the
//! content is durable.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use d8_registry::oci::{Algorithm, Hasher};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Bytes that are received, hashed and written in one go.
const PIECE: usize = 256 * 1024;

/// Address and directory of the loop.
#[derive(Args, Clone, Debug)]
pub(crate) struct BareLoopOptions {
    /// Port of the loopback.
    #[arg(long)]
    port: u16,
    /// Directory that contents are written to; each is removed after its answer.
    #[arg(long)]
    dir: PathBuf,
    /// Certificate, for TLS.
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    key: Option<PathBuf>,
}

/// Serves one connection after the other, until it is ended from outside.
pub(crate) fn run(options: &BareLoopOptions) -> Result<()> {
    let tls = match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => Some(tls(cert, key)?),
        _ => None,
    };
    let listener = TcpListener::bind(("127.0.0.1", options.port)).context("the port is taken")?;
    let mut piece = vec![0; PIECE];
    loop {
        let (stream, _) = listener.accept().context("accept")?;
        // One that only looked whether we are there, or broke off, is no reason to end.
        let result = match &tls {
            None => serve(stream, &options.dir, &mut piece),
            Some(config) => ServerConnection::new(Arc::clone(config))
                .map_err(Into::into)
                .and_then(|connection| serve(StreamOwned::new(connection, stream), &options.dir, &mut piece)),
        };
        if let Err(error) = result {
            eprintln!("{error:#}");
        }
    }
}

fn tls(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let certificates = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(certificates, PrivateKeyDer::from_pem_file(key)?)?;
    Ok(Arc::new(config))
}

fn serve<S: Read + Write + Socket>(mut stream: S, dir: &Path, piece: &mut [u8]) -> Result<()> {
    stream.socket().set_nodelay(true)?;
    let mut length = [0; 8];
    stream.read_exact(&mut length).context("no length")?;
    let mut left = u64::from_be_bytes(length);
    let path = dir.join("content");
    let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = stream.read(&mut piece[..most])?;
        anyhow::ensure!(count > 0, "the client broke off");
        hasher.update(&piece[..count]);
        file.write_all(&piece[..count])?;
        left -= count as u64;
    }
    rustix::fs::fsync(&file)?;
    stream.write_all(format!("{}\n", hasher.finish()).as_bytes())?;
    fs::remove_file(&path)?;
    Ok(())
}

/// The socket below a stream.
trait Socket {
    fn socket(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Socket for StreamOwned<ServerConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        &self.sock
    }
}
