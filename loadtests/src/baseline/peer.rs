//! Registries of others: Debian's distribution, and Go modules that `prepare.sh` builds. All without users.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::{Process, fill_in, free_port, program};
use crate::client::{Place, Request};
use crate::cpu;

const DISTRIBUTION: &str = include_str!("../../baselines/distribution.yml");

/// Which registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Debian's distribution, with its access log.
    Distribution,
    /// As it comes: it writes no line for a request, and does not sync what it stores.
    Olareg,
    /// The third major of distribution, with its access log.
    Distribution3,
}

impl Kind {
    /// Registries that are measured beside ours for information, without a target.
    pub(crate) const BESIDE: [Self; 2] = [Self::Olareg, Self::Distribution3];

    /// As reports say it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Distribution => "distribution",
            Self::Olareg => "olareg",
            Self::Distribution3 => "distribution 3",
        }
    }
}

/// A running registry.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) process: Process,
    pub(crate) place: Place,
}

impl Peer {
    /// Starts a registry on an empty store below `dir`; as a cache of the loopback's port `upstream`, where distribution
    /// is asked for that.
    pub(crate) fn start(kind: Kind, dir: &Path, upstream: Option<u16>) -> Result<Self> {
        let root = dir.join("store");
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        let port = free_port()?;
        let (program, arguments) = command(kind, dir, port, upstream)?;
        let process = Process::start(&program, arguments, Some(cpu::SERVER_CORE), &dir.join("output.log"))?;
        let mut started = Self { kind, process, place: Place::local(port, None) };
        started.process.until_ok(&started.place, &Request::get("/v2/", None))?;
        Ok(started)
    }
}

fn command(kind: Kind, dir: &Path, port: u16, upstream: Option<u16>) -> Result<(PathBuf, Vec<String>)> {
    let (port, root) = (port.to_string(), dir.join("store").display().to_string());
    if kind == Kind::Olareg {
        let arguments = ["serve", "--addr", "127.0.0.1", "--port", &port, "--dir", &root].map(str::to_owned);
        return Ok((program("olareg")?, arguments.to_vec()));
    }
    let proxy = upstream.map(|port| format!("proxy:\n  remoteurl: http://127.0.0.1:{port}")).unwrap_or_default();
    let file = dir.join("config.yml");
    fill_in(DISTRIBUTION, &[("ROOT", &root), ("PORT", &port), ("PROXY", &proxy)], &file)?;
    let serve = ["serve".to_owned(), file.display().to_string()];
    if kind == Kind::Distribution {
        return Ok((program("docker-registry")?, serve.to_vec()));
    }
    // The third major would look for a collector of traces.
    let registry = program("distribution-3")?.display().to_string();
    let arguments = ["OTEL_TRACES_EXPORTER=none".to_owned(), registry].into_iter().chain(serve);
    Ok((program("env")?, arguments.collect()))
}
