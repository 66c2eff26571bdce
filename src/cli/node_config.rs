//! `node-config`: says what was done, or what is in the way.

use std::io::{self, Write};
use std::path::PathBuf;

use super::Failure;
use crate::node_config::{self, NodeConfig, NodeConfigError, Outcome};
use crate::telemetry::with_causes;

/// Flags of `node-config`.
#[derive(Clone, Debug, clap::Args)]
pub struct NodeConfigArguments {
    /// The folder below which the node's files are.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// What is wanted (YAML).
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Only look for what is in the way: registry settings in containerd's own configuration, extensions that it lacks, files
    /// of others.
    #[arg(long, conflicts_with = "dry_run")]
    pub check: bool,
    /// Only show what would change, without secrets.
    #[arg(long)]
    pub dry_run: bool,
}

/// Results go to stdout: the version, the diff, or the findings. What was done on the way goes to stderr.
pub(super) fn run(arguments: &NodeConfigArguments) -> Result<(), Failure> {
    let wanted = NodeConfig::load(&arguments.config)?;
    let mut out = io::stdout();
    if arguments.check {
        let outcome = node_config::check(&arguments.root, &wanted)?;
        notes(&outcome)?;
        findings(&mut out, &outcome)?;
        return end(&outcome);
    }
    if arguments.dry_run {
        let (outcome, diff) = node_config::preview(&arguments.root, &wanted)?;
        out.write_all(diff.as_bytes())?;
        notes(&outcome)?;
        findings(&mut io::stderr(), &outcome)?;
        writeln!(io::stderr(), "version {}", outcome.version)?;
        return end(&outcome);
    }
    let outcome = node_config::apply(&arguments.root, &wanted)?;
    notes(&outcome)?;
    findings(&mut out, &outcome)?;
    if outcome.findings.is_empty() {
        writeln!(out, "{}", outcome.version)?;
    }
    end(&outcome)
}

fn notes(outcome: &Outcome) -> io::Result<()> {
    let mut err = io::stderr();
    outcome.notes.iter().try_for_each(|note| writeln!(err, "{note}"))
}

fn findings(to: &mut impl Write, outcome: &Outcome) -> io::Result<()> {
    outcome.findings.iter().try_for_each(|finding| writeln!(to, "{finding}"))
}

fn end(outcome: &Outcome) -> Result<(), Failure> {
    let message = match outcome.findings.len() {
        0 => return Ok(()),
        1 => "one finding".to_owned(),
        count => format!("{count} findings"),
    };
    Err(Failure { exit: super::EXIT_FAILED, message: format!("{message}, nothing was written") })
}

impl From<NodeConfigError> for Failure {
    fn from(error: NodeConfigError) -> Self {
        if error.is_usage() { Self::usage(with_causes(&error)) } else { Self::failed(&error) }
    }
}
