//! A server as a child process: started on free ports of the loopback, asked to end, and never left behind.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::client::{Client, Target};

/// A server that isn't ready by then won't be.
const PATIENCE: Duration = Duration::from_secs(120);

/// Pause between two looks at a server that starts; start times are as exact as this.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A running server. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    port: u16,
    admin_port: u16,
    started: Instant,
    log: PathBuf,
}

impl Server {
    /// Starts `program` on the store in `dir`; does not wait until it listens. Its log goes to `log`.
    pub(crate) fn start(program: &Path, dir: &Path, log: &Path) -> Result<Self> {
        Self::start_with(program, dir, log, None)
    }

    /// The same with a configuration file.
    pub(crate) fn start_with(program: &Path, dir: &Path, log: &Path, config: Option<&Path>) -> Result<Self> {
        let (port, admin_port) = (free_port()?, free_port()?);
        let output = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let started = Instant::now();
        let child = Command::new(program)
            .arg("serve")
            .args(config.map(|_| "--config"))
            .args(config)
            .arg("--data-dir")
            .arg(dir)
            .args(["--listen", &format!("127.0.0.1:{port}"), "--admin-listen", &format!("127.0.0.1:{admin_port}")])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Self { child, port, admin_port, started, log: log.to_owned() })
    }

    /// Where clients connect.
    pub(crate) fn target(&self) -> Target {
        Target::local(self.port)
    }

    /// The process.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().context("the server has ended")
    }

    /// Asks for `path` until the answer is 200; how long after the start that was.
    pub(crate) async fn first_ok(&mut self, path: &str) -> Result<Duration> {
        self.until_ok(&self.target(), path).await
    }

    /// Waits until the server says that it is ready; how long after the start that was.
    pub(crate) async fn ready(&mut self) -> Result<Duration> {
        self.until_ok(&Target::local(self.admin_port), "/readyz").await
    }

    async fn until_ok(&mut self, target: &Target, path: &str) -> Result<Duration> {
        loop {
            let asked = async { Client::connect(target).await?.fetch_ok(path).await };
            let refused = match asked.await {
                Ok(_) => return Ok(self.started.elapsed()),
                Err(error) => error,
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended with {status}:\n{}", self.last_words());
            }
            if self.started.elapsed() > PATIENCE {
                return Err(refused.context(format!("no 200 within {PATIENCE:?}:\n{}", self.last_words())));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Asks the server to end and waits for it.
    pub(crate) async fn stop(mut self) -> Result<()> {
        let pid = self.pid()?.try_into().ok().and_then(Pid::from_raw).context("no such process number")?;
        kill_process(pid, Signal::TERM).context("the server can't be asked to end")?;
        let status = tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .context("the server does not end when asked to")?
            .context("the server's end can't be waited for")?;
        if !status.success() {
            bail!("the server ended with {status}:\n{}", self.last_words());
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Gives `work` up at an interrupt; the servers it started end with it.
pub(crate) async fn unless_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.port())
}
