//! Load scenarios for d8-registry, and for the registries it is measured against.
//!
//! A scenario starts what it measures, prints a table, writes JSON and a page with plots, and ends with exit code 1 if a
//! target is missed. The pieces (`seed`, `tags`, `idle`) and the scenarios of [`soak`] work against any server. A map:
//!
//! - [`rows`]: ours beside nginx, distribution, olareg and a bare loop ([`bare_loop`]), row by row, in turns;
//!   [`results`]: all rows and scenarios into `RESULTS.md`
//! - [`baseline`]: the servers that are compared, as pinned child processes; their configurations are in `baselines/`
//! - [`client::wire`], [`client::exchange`], [`client::driver`]: the client: a connection, HTTP/1.1 on it, many of them in a closed or open loop
//! - [`compare`], [`growth`]: ratios and targets; [`report`], [`html`], [`plot`]: results as table, JSON, page and plots
//! - [`cpu`], [`proc`]: what the kernel says of processes and of the machine; [`certificates`]: TLS of all sides
//! - [`registry`]: one that runs already, ours or another; against it [`soak`], [`slow_readers`], [`cold_any`]
//! - [`rows::scale`]: how costs grow, of servers of ours or of any registry
//! - [`rows::large_store`], [`cold_storm`] with [`limited`]: a large store; many clients before a cold Proxy on a narrow line
//! - [`seed`], [`tags`]: a store's folder filled without a server; latency of tag pages
//! - [`server`], [`client`]: a child process and a connection for the scenarios that need no baseline

mod bare_loop;
mod certificates;
mod client;
mod cold_any;
mod cold_storm;
mod compare;
mod cpu;
mod growth;
mod rows;
mod html;
mod interrupt;
mod limited;
mod soak;
mod memory;
mod plot;
mod proc;
mod registry;
mod report;
mod results;
mod seed;
mod server;
mod slow_readers;
mod tags;
mod baseline;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use soak::Scenario;
use report::{Output, Report, Unit};

/// Load scenarios for d8-registry.
#[derive(Parser)]
#[command(version, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    output: Output,
}

#[derive(Subcommand)]
enum Command {
    /// Fill a store's folder with images, as pushes would, without a server.
    Seed(seed::SeedOptions),
    /// Remove a folder that `seed` made.
    Unseed {
        /// The folder.
        #[arg(long)]
        dir: PathBuf,
    },
    /// Measure how long a page of tags takes, over repositories that `seed` made.
    Tags(tags::TagsOptions),
    /// Show the memory of a running process.
    Idle {
        /// The process.
        #[arg(long)]
        pid: u32,
    },
    /// Start time, tag pages, rebuild speed and idle memory of a store with many tags, against their targets.
    StoreScale(rows::large_store::StoreScaleOptions),
    /// Many clients ask a cold Proxy for one blob: upstream GETs and the time of the last client, against a single one's.
    /// With --url: many clients pull an image at once from any registry.
    ColdStorm(cold_storm::ColdStormOptions),
    /// Our server against nginx, distribution and a bare loop, row by row, in turns.
    HotPaths(rows::HotPathsOptions),
    /// All layers of an image, again and again, from any registry.
    PullStorm(soak::LoadOptions),
    /// Its manifest, GET and HEAD, by tag and by digest, from any registry.
    Manifests(soak::LoadOptions),
    /// A new connection for each GET of a manifest, to any registry.
    Handshakes(soak::LoadOptions),
    /// New blobs to any registry.
    Push(soak::LoadOptions),
    /// Manifests and layers from any registry.
    Mixed(soak::LoadOptions),
    /// The same for long, with the server's memory over the time.
    Soak(soak::LoadOptions),
    /// Many clients that read the largest blob of an image slowly, from any registry.
    SlowReaders(slow_readers::SlowReadersOptions),
    /// How the cost of an operation grows with blobs, tags, connections and sizes; with --url, of any registry.
    Scale(rows::scale::ScaleOptions),
    /// All scenarios with targets, one after the other: what `make bench` runs.
    Table(results::TableOptions),
    /// The floor of a push, for `hot-paths --row push`.
    #[command(hide = true)]
    BareLoop(bare_loop::BareLoopOptions),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtests: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `false`: everything ran and a target was missed.
fn run(arguments: Arguments) -> Result<bool> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime can't be started")?;
    let report = match arguments.command {
        Command::Seed(options) => {
            seed::seed(&options, &AtomicBool::new(false))?;
            return Ok(true);
        }
        Command::Unseed { dir } => {
            seed::unseed(&dir)?;
            return Ok(true);
        }
        Command::Tags(options) => runtime.block_on(tags::run(&options))?,
        Command::Idle { pid } => {
            let memory = proc::Memory::of(pid)?;
            let mut report = Report::new("idle");
            memory.add_to(&mut report, "");
            report.fact("threads", proc::threads(pid)? as f64, Unit::Count);
            report
        }
        Command::StoreScale(options) => runtime.block_on(rows::large_store::run(&options))?,
        Command::PullStorm(options) => soak::run(Scenario::PullStorm, &options)?,
        Command::Manifests(options) => soak::run(Scenario::Manifests, &options)?,
        Command::Handshakes(options) => soak::run(Scenario::Handshakes, &options)?,
        Command::Push(options) => soak::run(Scenario::Push, &options)?,
        Command::Mixed(options) => soak::run(Scenario::Mixed, &options)?,
        Command::Soak(options) => soak::run(Scenario::Soak, &options)?,
        Command::SlowReaders(options) => slow_readers::run(&options)?,
        Command::Scale(options) => {
            let _watching = runtime.spawn(interrupt::watch());
            rows::scale::run(&options)?
        }
        Command::HotPaths(options) => {
            let _watching = runtime.spawn(interrupt::watch());
            rows::run(&options)?
        }
        Command::Table(options) => {
            let _watching = runtime.spawn(interrupt::watch());
            let reports = results::run(&options, runtime.handle())?;
            arguments.output.write(&reports)?;
            return Ok(reports.iter().all(Report::passed));
        }
        Command::BareLoop(options) => {
            bare_loop::run(&options)?;
            return Ok(true);
        }
        Command::ColdStorm(options) => runtime.block_on(cold_storm::run(&options))?,
    };
    let passed = report.passed();
    arguments.output.write(&[report])?;
    Ok(passed)
}
