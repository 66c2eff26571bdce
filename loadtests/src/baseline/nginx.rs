//! nginx, one worker: as a file server, in front of another server, and as the upstream of others.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::ClientConfig;

use super::{Process, fill_in, free_port, program};
use crate::certificates::Certificate;
use crate::client::{Place, Request};
use crate::cpu;

const FILES: &str = include_str!("../../baselines/nginx-files.conf");
const PROXY: &str = include_str!("../../baselines/nginx-proxy.conf");
const UPSTREAM: &str = include_str!("../../baselines/nginx-upstream.conf");

/// Which of the configurations.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role<'a> {
    /// Serves the files of a directory.
    Files(&'a Path),
    /// Passes to an upstream, with TLS if the upstream has a certificate.
    Proxy(&'a Upstream),
    /// A registry's blobs as files below a directory, each answer at a rate in bytes a second; runs on the clients' core.
    Upstream(&'a Path, Option<u32>),
}

/// A running nginx.
#[derive(Debug)]
pub(crate) struct Nginx {
    pub(crate) process: Process,
    pub(crate) place: Place,
    port: u16,
    dir: PathBuf,
}

/// Server that requests are passed on to.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    pub(crate) port: u16,
    pub(crate) certificate: Option<Certificate>,
}

/// Listener and log of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listening<'a> {
    pub(crate) certificate: Option<&'a Certificate>,
    /// The side of those who ask whether it is ready.
    pub(crate) client: Option<&'a Arc<ClientConfig>>,
    pub(crate) access_log: bool,
}

impl Nginx {
    /// Starts it with all that it writes in `dir`, and waits until `ready` is answered with 200.
    pub(crate) fn start(dir: &Path, role: Role<'_>, listening: Listening<'_>, ready: &Request) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let port = free_port()?;
        let text = |path: &Path| path.display().to_string();
        let tls = listening.certificate.map_or(String::new(), |certificate| {
            format!(
                "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.3;",
                certificate.cert_file.display(),
                certificate.key_file.display()
            )
        });
        let listen = format!("127.0.0.1:{port}{}", if tls.is_empty() { "" } else { " ssl" });
        let log =
            if listening.access_log { format!("{} combined", dir.join("access.log").display()) } else { "off".into() };
        // The worker reads what only we may read.
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let dir_text = text(dir);
        let mut values =
            vec![("DIR", dir_text.as_str()), ("USER", user), ("LISTEN", &listen), ("TLS", &tls), ("ACCESS", &log)];
        let (mut root, mut limit, mut server, mut pass, mut trust) = Default::default();
        let (template, core) = match role {
            Role::Files(directory) => (FILES, {
                root = text(directory);
                cpu::SERVER_CORE
            }),
            Role::Upstream(directory, rate) => (UPSTREAM, {
                root = text(directory);
                limit = rate.map_or(String::new(), |rate| format!("limit_rate {rate};"));
                cpu::CLIENT_CORE
            }),
            Role::Proxy(upstream) => {
                (server, pass, trust) = proxy(upstream);
                (PROXY, cpu::SERVER_CORE)
            }
        };
        let more: [(&str, &String); 5] =
            [("ROOT", &root), ("LIMIT", &limit), ("UPSTREAM", &server), ("PASS", &pass), ("TRUST", &trust)];
        values.extend(more.iter().map(|(name, value)| (*name, value.as_str())));
        let file = dir.join("nginx.conf");
        fill_in(template, &values, &file)?;
        let arguments = ["-p", &dir_text, "-e", &text(&dir.join("error.log")), "-c", &text(&file)].map(str::to_owned);
        let process = Process::start(&program("nginx")?, arguments, Some(core), &dir.join("output.log"))?;
        let place = Place::local(port, listening.client.cloned());
        let mut started = Self { process, place, port, dir: dir.to_owned() };
        started.process.until_ok(&started.place, ready)?;
        Ok(started)
    }

    /// As an upstream of others.
    pub(crate) fn as_upstream(&self, certificate: Option<&Certificate>) -> Upstream {
        Upstream { port: self.port, certificate: certificate.cloned() }
    }

    /// Number of GETs in the access log whose path ends with `path_end`.
    pub(crate) fn gets(&self, path_end: &str) -> Result<usize> {
        let log = fs::read_to_string(self.dir.join("access.log")).context("read nginx's access log")?;
        let wanted = format!("{path_end} HTTP/");
        Ok(log.lines().filter(|line| line.contains("\"GET ") && line.contains(&wanted)).count())
    }
}

fn proxy(upstream: &Upstream) -> (String, String, String) {
    let server = format!("127.0.0.1:{}", upstream.port);
    match &upstream.certificate {
        None => (server, "http://upstream".into(), String::new()),
        Some(certificate) => {
            let trust = format!(
                "proxy_ssl_protocols TLSv1.3; proxy_ssl_verify on; proxy_ssl_name localhost; \
                 proxy_ssl_trusted_certificate {};",
                certificate.cert_file.display()
            );
            (server, "https://upstream".into(), trust)
        }
    }
}
