//! Registries of others that are Go modules, built by `prepare.sh`: measured beside ours for information, without a target.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::{Process, fill_in, free_port, program};
use crate::cpu;
use crate::client::exchange::Request;
use crate::client::wire::Place;

const DISTRIBUTION: &str = include_str!("../../baselines/distribution-3.yml");

/// Which registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As it comes: it writes no line for a request, and does not sync what it stores.
    Olareg,
    /// The third major of distribution, with its access log.
    Distribution3,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Olareg, Self::Distribution3];

    /// As reports say it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Olareg => "olareg",
            Self::Distribution3 => "distribution 3",
        }
    }
}

/// A running one, without users. What it stored goes with it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    // Before the folder: it has to have ended when that goes.
    pub(crate) process: Process,
    pub(crate) place: Place,
    _dir: TempDir,
}

impl Peer {
    /// Starts it on an empty store in a new folder below `scratch`.
    pub(crate) fn start(kind: Kind, scratch: &Path) -> Result<Self> {
        let dir = tempfile::tempdir_in(scratch).context("the folder of a registry can't be made")?;
        let root = dir.path().join("store");
        fs::create_dir(&root).with_context(|| format!("create {}", root.display()))?;
        let port = free_port()?;
        let (program, arguments) = command(kind, dir.path(), &root, port)?;
        let process = Process::start(&program, arguments, cpu::SERVER_CORE, &dir.path().join("output.log"))?;
        let mut started = Self { kind, process, place: Place::local(port, None), _dir: dir };
        started.process.until_ok(&started.place, &Request::get("/v2/", None))?;
        Ok(started)
    }
}

fn command(kind: Kind, dir: &Path, root: &Path, port: u16) -> Result<(PathBuf, Vec<String>)> {
    let (port, root) = (port.to_string(), root.display().to_string());
    match kind {
        Kind::Olareg => {
            let arguments = ["serve", "--addr", "127.0.0.1", "--port", &port, "--dir", &root].map(str::to_owned);
            Ok((program("olareg")?, arguments.to_vec()))
        }
        Kind::Distribution3 => {
            let file = dir.join("config.yml");
            fill_in(DISTRIBUTION, &[("ROOT", &root), ("PORT", &port)], &file)?;
            let registry = program("distribution-3")?.display().to_string();
            // It would look for a collector of traces.
            let arguments = ["OTEL_TRACES_EXPORTER=none".to_owned(), registry, "serve".to_owned()];
            let arguments = arguments.into_iter().chain([file.display().to_string()]).collect();
            Ok((program("env")?, arguments))
        }
    }
}
