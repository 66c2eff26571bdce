//! Distribution, as Debian packages it: as a pull-through cache and as a store.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Process, fill_in, free_port, program};
use crate::cpu;
use crate::client::exchange::Request;
use crate::client::wire::Place;

const CACHE: &str = include_str!("../../baselines/distribution-cache.yml");
const STORE: &str = include_str!("../../baselines/distribution-store.yml");

/// A running distribution.
#[derive(Debug)]
pub(crate) struct Distribution {
    pub(crate) process: Process,
    pub(crate) place: Place,
}

impl Distribution {
    /// A store, or a cache of the registry at the loopback's port `upstream`; all that it writes is in `dir`.
    pub(crate) fn start(dir: &Path, upstream: Option<u16>) -> Result<Self> {
        let root = dir.join("store");
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        let port = free_port()?;
        let (port_text, root) = (port.to_string(), root.display().to_string());
        let upstream_text = upstream.map(|port| port.to_string()).unwrap_or_default();
        let values = [("ROOT", root.as_str()), ("PORT", &port_text), ("UPSTREAM", &upstream_text)];
        let file = dir.join("config.yml");
        fill_in(if upstream.is_some() { CACHE } else { STORE }, &values, &file)?;
        let arguments = ["serve".into(), file.into_os_string()];
        let log = dir.join("output.log");
        let process = Process::start(&program("docker-registry")?, arguments, cpu::SERVER_CORE, &log)?;
        let mut started = Self { process, place: Place::local(port, None) };
        started.process.until_ok(&started.place, &Request::get("/v2/", None))?;
        Ok(started)
    }
}
