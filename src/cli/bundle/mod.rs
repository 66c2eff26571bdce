//! `bundle`: files in which images were carried in, looked at, verified, imported and made.

mod import;
mod inspect;
mod module_source;
mod pull;
mod push;
mod verify;

use std::io;
use std::path::PathBuf;

use clap::Subcommand;

pub use self::import::BundleImportArguments;
pub use self::pull::BundlePullArguments;
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
    /// Read all of a bundle once and compare it with its digests, and with the GOST sums beside its files; ends with 1 if something is
    /// wrong.
    #[command(after_help = "Example:\n  d8-registry bundle verify /mnt/usb/bundle")]
    Verify(BundleArguments),
    /// Take the images of a bundle into a store of mode Local, or with --to into any registry, from its files as they are: only what is
    /// missing comes, all of it hashed, tags last. A running server is asked to do it over the socket in its data directory, as root or
    /// as its user; else the store is taken by this process.
    #[command(
        after_help = "Run again after it was killed, it goes on. What is not whole is named and gets no tag; ends with 1 then.\n\
        As `d8 mirror push` does it, tags move, and modules get the tags by which Deckhouse finds them.\n\nExamples:\n  \
        d8-registry bundle import /mnt/usb/bundle --data-dir /var/lib/d8-registry\n  \
        What would come?\n    d8-registry bundle import /mnt/usb/bundle --dry-run --data-dir /var/lib/d8-registry\n  \
        Into any registry\n    d8-registry bundle import /mnt/usb/bundle --to https://registry.example:5000/deckhouse/ee \\\n      \
        --username rw --password-file password --ca-file ca.crt --module-source module_source.yml"
    )]
    Import(BundleImportArguments),
    /// Make a bundle of a registry's images, as `d8 mirror pull` does: the platform, its installer, the security databases, modules,
    /// packages and plugins.
    /// HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR count.
    #[command(
        after_help = "Run again after it was killed, it goes on, and leaves the same files. An archive gets its name when it is whole; beside\n\
        the archives are SHA256SUMS and deckhousereleases.yaml with the releases that were taken.\n\nExamples:\n  \
        d8-registry bundle pull --source registry.deckhouse.ru/deckhouse/ee --license-file key --out /mnt/usb/bundle\n  \
        How large is one release?\n    d8-registry bundle pull --source registry.deckhouse.ru/deckhouse/ee --license-file key \\\n      \
        --release v1.70.1 --out /mnt/usb/bundle --dry-run\n  \
        Some releases, in files that fit a FAT disk:\n    d8-registry bundle pull --source registry.deckhouse.ru/deckhouse/ee \\\n      \
        --license-file key --releases v1.69.3..v1.71.2 --chunk-size 4000MB --out /mnt/usb/bundle\n  \
        Two modules alone:\n    d8-registry bundle pull --source registry.deckhouse.ru/deckhouse/ee --license-file key --no-platform \\\n      \
        --no-installer --no-security --no-packages --include-module console --include-module 'prompp@>=1.2.0 <=1.4.0' --out modules"
    )]
    Pull(Box<BundlePullArguments>),
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
        BundleCommand::Import(arguments) => match &arguments.to {
            Some(address) => push::run(arguments, address.expose()),
            None => import::run(arguments),
        },
        BundleCommand::Pull(arguments) => pull::run(arguments),
    }
}

fn open(paths: &[PathBuf]) -> Result<Bundle, Failure> {
    // A signal ends this process.
    bundle::open(paths, bundle::MOST_BYTES, &|| false).map_err(|error| failure(&error))
}

fn failure(error: &BundleError) -> Failure {
    match error {
        // What was named is none.
        BundleError::Read { .. } | BundleError::Nothing(_) => Failure::usage(with_causes(error)),
        BundleError::TooMuch(_) | BundleError::Stopped => Failure::failed(error),
    }
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

/// What the command ends with, for findings of which so many are damage.
fn verdict(damage: u64) -> Result<(), Failure> {
    if damage == 0 {
        return Ok(());
    }
    Err(Failure {
        exit: EXIT_FAILED,
        message: format!("the bundle is damaged or not all there: {damage} problems, see above"),
    })
}
