//! d8-registry, users on, metrics on; on one core with one worker thread, unless all cores are asked for.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use rustls::ClientConfig;
use serde::Deserialize;

use super::masters::Master;
use super::nginx::Upstream;
use super::{Process, free_port};
use crate::certificates::Certificate;
use crate::client::{self, Place, Request};
use crate::cpu;

/// The user and the password of those who measure.
const USER: &str = "loadtests";
const PASSWORD: &str = "loadtests-password";

/// A server to start.
#[derive(Clone, Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) program: &'a Path,
    /// Directory of the store; laid out already or empty.
    pub(crate) store: &'a Path,
    /// Directory for configuration and log.
    pub(crate) dir: &'a Path,
    pub(crate) certificate: Option<&'a Certificate>,
    pub(crate) client: Option<&'a Arc<ClientConfig>>,
    /// Clients are asked for a certificate, as where a controller runs.
    pub(crate) asks_for_certificates: bool,
    pub(crate) access_log: bool,
    /// Direct or Proxy, in front of an upstream.
    pub(crate) upstream: Option<(&'a str, &'a Upstream)>,
    /// `limits.writeBytesPerSecond`.
    pub(crate) write_limit: Option<&'a str>,
    /// As many workers as there are cores, on all of them.
    pub(crate) all_cores: bool,
    /// One of several masters that know each other, on an address of its own; beside it neither `certificate` nor `client`.
    pub(crate) master: Option<&'a Master>,
}

impl<'a> Setup<'a> {
    /// Local, plain, with an access log, on one core.
    pub(crate) fn local(program: &'a Path, store: &'a Path, dir: &'a Path) -> Self {
        #[rustfmt::skip]
        let setup = Self {
            program, store, dir, certificate: None, client: None, asks_for_certificates: false, access_log: true,
            upstream: None, write_limit: None, all_cores: false, master: None,
        };
        setup
    }
}

/// A running d8-registry.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) process: Process,
    pub(crate) place: Place,
    pub(crate) log: PathBuf,
    /// Start of the process.
    pub(crate) begun: Instant,
    /// Time from there until it said that it is ready.
    pub(crate) start: Duration,
}

impl Ours {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(setup: &Setup<'_>) -> Result<Self> {
        fs::create_dir_all(setup.dir).with_context(|| format!("create {}", setup.dir.display()))?;
        let admin = free_port()?;
        let port = setup.master.map_or_else(free_port, |master| Ok(master.address.port()))?;
        let file = setup.dir.join("config.yaml");
        fs::write(&file, configuration(setup, port, admin)?).with_context(|| format!("write {}", file.display()))?;
        let log = setup.dir.join("access.log");
        let arguments = ["serve".as_ref(), "--config".as_ref(), file.as_os_str()];
        let begun = Instant::now();
        let core =
            if setup.master.is_some_and(|master| master.is_beside) { cpu::CLIENT_CORE } else { cpu::SERVER_CORE };
        let process = Process::start(setup.program, arguments, (!setup.all_cores).then_some(core), &log)?;
        let place = match setup.master {
            Some(master) => master.place.clone(),
            None => Place::local(port, setup.client.cloned()),
        };
        let mut started = Self { process, place, log, begun, start: Duration::ZERO };
        started.process.until_ok(&Place::local(admin, None), &Request::get("/readyz", None))?;
        started.start = begun.elapsed();
        // The first check of the password takes longer than all others.
        started.process.until_ok(&started.place, &Request::get("/v2/", Some(&basic())))?;
        Ok(started)
    }

    /// A token for pulls from `repository`, as the value of the header.
    pub(crate) fn bearer(&self, repository: &str) -> Result<String> {
        #[derive(Deserialize)]
        struct Token {
            token: String,
        }
        let path = format!("/auth/token?service=registry&scope=repository:{repository}:pull");
        let reply = client::ask(&self.place, &Request::get(&path, Some(&basic())))?;
        let token: Token = serde_json::from_slice(&reply.body).context("the token service's answer")?;
        Ok(format!("Bearer {}", token.token))
    }
}

/// Name and password as the value of the header.
pub(crate) fn basic() -> String {
    let text = format!("{USER}:{PASSWORD}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
}

fn configuration(setup: &Setup<'_>, port: u16, admin: u16) -> Result<String> {
    let listen = setup.master.map_or_else(|| format!("127.0.0.1:{port}"), |master| master.address.to_string());
    let mut text = format!(
        "listen: '{listen}'\nadminListen: '127.0.0.1:{admin}'\nstore: {{ dir: '{}', reserveBytes: 0 }}\n\
         limits: {{ {}pulls: 4096, listings: 4096{} }}\nlog: {{ format: json, access: {} }}\n\
         auth: {{ users: [{{ name: {USER}, role: rw, passwordHash: '{}' }}] }}\n",
        setup.store.display(),
        if setup.all_cores { "" } else { "workerThreads: 1, " },
        setup.write_limit.map_or(String::new(), |limit| format!(", writeBytesPerSecond: {limit}")),
        if setup.access_log { "all" } else { "'off'" },
        hash(setup.program)?
    );
    if let Some(certificate) = setup.certificate {
        let (cert, key) = (certificate.cert_file.display(), certificate.key_file.display());
        let asks = if setup.asks_for_certificates { format!(", controllerCAFile: '{cert}'") } else { String::new() };
        text.push_str(&format!("tls: {{ certFile: '{cert}', keyFile: '{key}'{asks} }}\n"));
    }
    if let Some(master) = setup.master {
        text.push_str(&master.keys());
    }
    if let Some((mode, upstream)) = setup.upstream {
        let (scheme, trust) = match &upstream.certificate {
            None => ("HTTP", String::new()),
            Some(certificate) => ("HTTPS", format!(", caFile: '{}'", certificate.cert_file.display())),
        };
        text.push_str(&format!(
            "mode: {mode}\nupstream: {{ imagesRepo: '127.0.0.1:{}/system/deckhouse', scheme: {scheme}{trust} }}\n",
            upstream.port
        ));
    }
    Ok(text)
}

/// The password's hash at the least cost, made by the server's own command.
fn hash(program: &Path) -> Result<String> {
    let mut child = Command::new(program)
        .args(["hash-password", "--cost", "4"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    child.stdin.take().context("no pipe")?.write_all(PASSWORD.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "hash-password ended with {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
