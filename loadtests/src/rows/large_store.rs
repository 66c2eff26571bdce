//! The scenario of a large store: 100,000 tags in 1,000 repositories, against the targets of mode Local.
//!
//! What is measured, in this order, each with a server of its own:
//! 1. idle memory on an empty store;
//! 2. `index rebuild` of the seeded store: tags and manifests per second, the process's start included;
//! 3. on the rebuilt store: from the start of the process to the first 200 of a pull and of a tag list, latency of tag
//!    pages under load, and memory before and after that load.
//!
//! Everything lives in a folder that is removed at the end, after an interrupt too.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use tokio::process::Command;

use crate::proc::Memory;
use crate::report::{Report, Target, Unit};
use crate::seed::{self, SeedOptions};
use crate::server::{Server, unless_interrupted};
use crate::tags::{self, TagLoad};

/// From the start of the process to the first pull that is answered.
const START_MS: f64 = 1000.0;
/// A page of 100 tags, 99 of 100 times.
const PAGE_MS: f64 = 5.0;
/// Tags and manifests that a rebuild reads in a second.
const REBUILD_PER_SECOND: f64 = 20_000.0;
/// Own memory of an idle server on an empty store.
const EMPTY_MIB: f64 = 15.0;
/// Own memory of an idle server on the seeded store.
const SEEDED_MIB: f64 = 32.0;

/// A server is called idle so long after its last request.
const SETTLE: Duration = Duration::from_secs(3);

/// What to run it with.
#[derive(Args, Clone, Debug)]
pub(crate) struct StoreScaleOptions {
    /// The server: a release build of d8-registry.
    #[arg(long, value_name = "PROGRAM")]
    server: PathBuf,
    /// Tags, over all repositories.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    tags: u32,
    /// Repositories.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    repositories: u32,
    /// Tag pages to ask for.
    #[arg(long, default_value_t = 20_000)]
    requests: u32,
    /// Connections that ask side by side.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// Where the stores are made (default: the folder for temporary files).
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

impl StoreScaleOptions {
    /// As without arguments.
    pub(crate) fn new(server: PathBuf, scratch: Option<PathBuf>) -> Self {
        Self { server, tags: 100_000, repositories: 1000, requests: 20_000, connections: 4, scratch }
    }
}

/// Runs it.
pub(crate) async fn run(options: &StoreScaleOptions) -> Result<Report> {
    let scratch = match &options.scratch {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let scratch = scratch.context("the folder for the stores can't be made")?;
    let mut report = Report::new("store-scale");
    let wanted = SeedOptions {
        dir: scratch.path().join("seeded"),
        repositories: options.repositories,
        tags: options.tags,
        blobs: 1,
        blob_size: 1024,
    };
    unless_interrupted(empty(options, scratch.path(), &mut report)).await?;
    fill(&wanted).await?;
    unless_interrupted(seeded(options, &wanted, scratch.path(), &mut report)).await?;
    scratch.close().context("the folder of the stores can't be removed")?;
    Ok(report)
}

async fn empty(options: &StoreScaleOptions, scratch: &Path, report: &mut Report) -> Result<()> {
    let dir = scratch.join("empty");
    let mut server = Server::start(&options.server, &dir, &scratch.join("empty.log"))?;
    server.ready().await?;
    server.first_ok("/v2/_catalog").await?;
    tokio::time::sleep(SETTLE).await;
    Memory::of(server.pid()?)?.judge(report, ", idle, empty store", EMPTY_MIB);
    server.stop().await
}

/// Seeds the store on a thread of its own, and waits for that thread whatever happens: only then can the folder go.
async fn fill(wanted: &SeedOptions) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let (wanted, told) = (wanted.clone(), Arc::clone(&stop));
    let mut seeding = tokio::task::spawn_blocking(move || seed::seed(&wanted, &told));
    tokio::select! {
        result = &mut seeding => return result.context("the seeding panicked")?,
        _ = tokio::signal::ctrl_c() => stop.store(true, Ordering::Relaxed),
    }
    seeding.await.context("the seeding panicked")?
}

async fn seeded(options: &StoreScaleOptions, wanted: &SeedOptions, scratch: &Path, report: &mut Report) -> Result<()> {
    let dir = &wanted.dir;
    report.fact("tags", f64::from(options.tags), Unit::Count);
    report.fact("repositories", f64::from(options.repositories), Unit::Count);
    let took = rebuild(&options.server, dir).await?;
    let speed = wanted.objects() as f64 / took.as_secs_f64();
    report.judge("index rebuild, tags and manifests", speed, Unit::PerSecond, Target::AtLeast(REBUILD_PER_SECOND));

    let mut server = Server::start(&options.server, dir, &scratch.join("seeded.log"))?;
    let name = seed::repository(0);
    let pull = server.first_ok(&format!("/v2/{name}/manifests/{}", seed::tag(0))).await?;
    report.judge("start to first pull", milliseconds(pull), Unit::Milliseconds, Target::Below(START_MS));
    let list = server.first_ok(&format!("/v2/{name}/tags/list?n=1")).await?;
    report.judge("start to first tag list", milliseconds(list), Unit::Milliseconds, Target::Below(START_MS));
    tokio::time::sleep(SETTLE).await;
    Memory::of(server.pid()?)?.judge(report, ", idle after start", SEEDED_MIB);

    let load = TagLoad {
        repositories: options.repositories,
        page: 100,
        requests: options.requests,
        connections: options.connections,
    };
    let pages = tags::measure(&server.target(), load).await?;
    report.fact("tags listed", pages.tags as f64, Unit::Count);
    report.fact("tag pages per second", pages.rate(), Unit::PerSecond);
    report.fact("tag page of 100, p50", pages.quantile(0.5), Unit::Milliseconds);
    report.judge("tag page of 100, p99", pages.quantile(0.99), Unit::Milliseconds, Target::Below(PAGE_MS));
    report.fact("tag page of 100, max", pages.quantile(1.0), Unit::Milliseconds);
    tokio::time::sleep(SETTLE).await;
    Memory::of(server.pid()?)?.judge(report, ", idle after the load", SEEDED_MIB);
    server.stop().await
}

/// Rebuilds the index with the server's own command; how long the process took.
async fn rebuild(program: &Path, dir: &Path) -> Result<Duration> {
    let started = Instant::now();
    let output = Command::new(program)
        .args(["index", "rebuild", "--data-dir"])
        .arg(dir)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("run {} index rebuild", program.display()))?;
    let took = started.elapsed();
    ensure!(
        output.status.success(),
        "index rebuild ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(took)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
