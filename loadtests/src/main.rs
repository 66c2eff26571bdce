//! Load scenarios for d8-registry, and for the registries it is measured against.
//!
//! A scenario starts what it measures, prints Markdown, writes JSON, and ends with exit code 1 if a target is missed. A map:
//!
//! - [`rows`]: what `make bench` runs and `RESULTS.md` shows: ours beside nginx, distribution, olareg and a bare loop
//!   ([`bare_loop`]), and how costs grow, row by row
//! - [`soak`]: a long load on a [`registry`] that runs already, ours or another
//! - [`engine`]: sides measured by turns; [`compare`], [`growth`]: ratios, standard errors, targets
//! - [`client`]: a connection, HTTP/1.1 on it, many of them in a closed or open loop
//! - [`baseline`]: the servers that are compared, as child processes; their configurations are in `baselines/`
//! - [`report`], [`markdown`]: results
//! - [`cpu`], [`proc`], [`memory`]: time and memory of processes and of the machine; [`certificates`]: TLS of all sides
//! - [`seed`]: a store's directory filled without a server

mod bare_loop;
mod baseline;
mod certificates;
mod client;
mod compare;
mod cpu;
mod engine;
mod growth;
mod interrupt;
mod markdown;
mod memory;
mod proc;
mod registry;
mod report;
mod rows;
mod seed;
mod soak;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use report::{Output, Report};

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
    /// Our server against nginx, distribution and a bare loop, and how its costs grow, row by row: what `make bench` runs.
    Rows(rows::RowsOptions),
    /// Manifests and layers of an image, from any registry, with its memory over the time.
    Soak(soak::SoakOptions),
    /// Fill a store's directory with images, as pushes would, without a server.
    Seed(seed::SeedOptions),
    /// The floor of a push, for `rows --row push`.
    #[command(hide = true)]
    BareLoop(bare_loop::BareLoopOptions),
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("loadtests: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `false`: everything ran and a target was missed.
fn run(arguments: &Arguments) -> Result<bool> {
    if let Command::BareLoop(options) = &arguments.command {
        bare_loop::run(options)?;
        return Ok(true);
    }
    interrupt::watch()?;
    let reports = match &arguments.command {
        Command::Rows(options) => rows::run(options)?,
        Command::Soak(options) => vec![soak::run(options)?],
        Command::Seed(options) => {
            seed::seed(options, interrupt::flag())?;
            return Ok(true);
        }
        Command::BareLoop(_) => Vec::new(),
    };
    arguments.output.write(&reports)?;
    Ok(reports.iter().all(Report::passed))
}
