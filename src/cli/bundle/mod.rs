//! `bundle`: files in which images were carried in, looked at and verified.

mod inspect;
mod verify;

use std::io;
use std::path::PathBuf;

use clap::Subcommand;

use super::{EXIT_FAILED, Failure};
use crate::bundle::{self, Bundle, BundleError, Finding};
use crate::telemetry::with_causes;

/// What is done with a bundle.
#[derive(Clone, Debug, Subcommand)]
pub enum BundleCommand {
    /// Say what a bundle holds and what it lacks: releases, modules, tags, bytes, chunks that are missing, what no tag reaches. Reads
    /// headers and manifests alone; ends with 1 if something is wrong.
    #[command(after_help = "Examples:\n  d8-registry bundle inspect /mnt/usb/bundle\n  \
        d8-registry bundle inspect --json platform.tar module-console.tar.0000.chunk")]
    Inspect(BundleArguments),
    /// Read all of a bundle once and compare it with its digests; ends with 1 if something is wrong.
    #[command(after_help = "Example:\n  d8-registry bundle verify /mnt/usb/bundle")]
    Verify(BundleArguments),
}

/// The files of a bundle, and how the answer is told.
#[derive(Clone, Debug, clap::Args)]
pub struct BundleArguments {
    /// Directories with *.tar, *.tar.NNNN.chunk or OCI layouts, or such files one by one; of a chunk all that lie beside it are
    /// taken.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(command: &BundleCommand) -> Result<(), Failure> {
    match command {
        BundleCommand::Inspect(arguments) => inspect::run(arguments),
        BundleCommand::Verify(arguments) => verify::run(arguments),
    }
}

fn open(paths: &[PathBuf]) -> Result<Bundle, Failure> {
    bundle::open(paths, bundle::MOST_BYTES).map_err(|error| match &error {
        // What was named is none.
        BundleError::Read { .. } | BundleError::Nothing(_) => Failure::usage(with_causes(&error)),
        BundleError::TooMuch(_) => Failure::failed(&error),
    })
}

fn show(findings: &[Finding], more: u64, out: &mut impl io::Write) -> io::Result<()> {
    for finding in findings {
        let word = if finding.damage { "problem" } else { "note" };
        writeln!(out, "{word} {}: {}", finding.place, finding.says)?;
    }
    if more > 0 {
        writeln!(out, "{more} more are not named")?;
    }
    Ok(())
}

/// What the command ends with.
fn verdict(whole: bool, findings: &[Finding]) -> Result<(), Failure> {
    if whole {
        return Ok(());
    }
    let count = findings.iter().filter(|finding| finding.damage).count();
    Err(Failure {
        exit: EXIT_FAILED,
        message: format!("the bundle is damaged or not all there: {count} problems, see above"),
    })
}
