//! Servers that are measured, ours and theirs, as child processes: started on free ports of the loopback from the
//! configurations in `loadtests/baselines`, and ended with us.

pub(crate) mod masters;
pub(crate) mod nginx;
pub(crate) mod ours;
pub(crate) mod peer;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::{self, Place, Request};
use crate::cpu;
use crate::proc::Memory;

/// Wait for a server to become ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// Wait for a server to end before it is killed.
const FAREWELL: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A running process with all that it started. Ended when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` on a core, or on all; what it prints goes to `log`.
    pub(crate) fn start<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(
        program: &Path,
        arguments: I,
        core: Option<usize>,
        log: &Path,
    ) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("create {}", log.display()))?;
        // With setpriv the kernel ends the process should we be killed.
        let setpriv = Path::new("/usr/bin/setpriv");
        let mut command = if setpriv.exists() {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = cpu::on(core, || command.spawn()).with_context(|| format!("start {}", program.display()))?;
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, child, log: log.to_owned() })
    }

    /// The program's.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The process and its children.
    pub(crate) fn pids(&self) -> Vec<u32> {
        cpu::family(self.child.id())
    }

    /// Memory of the process and its children.
    pub(crate) fn memory(&self) -> Result<Memory> {
        Memory::of_all(&self.pids())
    }

    /// Asks until the answer is 200.
    pub(crate) fn until_ok(&mut self, place: &Place, request: &Request) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let refused = match client::ask(place, request) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended with {status}:\n{}", self.last_words());
            }
            if Instant::now() > end {
                return Err(refused.context(format!("no 200 within {PATIENCE:?}:\n{}", self.last_words())));
            }
            crate::interrupt::check()?;
            thread::sleep(LOOK_EVERY);
        }
    }

    pub(crate) fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pids = self.pids();
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let end = Instant::now() + FAREWELL;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(LOOK_EVERY);
        }
        // The children first: what has lost its parent would never end.
        for pid in pids.into_iter().rev() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// A program by name: where `prepare.sh` builds registries, in `PATH`, and where Debian keeps servers.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from));
    // This program is in target/release, they are in target/tools/bin.
    let ourselves = std::env::current_exe().ok();
    let built = ourselves.as_deref().and_then(|file| Some(file.parent()?.parent()?.join("tools/bin")));
    built
        .into_iter()
        .chain(directories)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is not installed; `make bench` gets it where it can be had"))
}

/// Writes a configuration: each `@NAME@` of the template is replaced.
pub(crate) fn fill_in(template: &str, values: &[(&str, &str)], file: &Path) -> Result<()> {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    // `@` stands nowhere else in them.
    ensure!(!text.contains('@'), "a name without a value in {}:\n{text}", file.display());
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}
