//! `verify`: what is wrong with a store, told by its server, or without one by this process.

use std::io::{self, Write as _};
use std::path::Path;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::admin::{ask_if_there, json};
use super::{EXIT_FAILED, Failure, StoreArguments};
use crate::config;
use crate::oci::RepoName;
use crate::store::{self, VerifyOptions};
use crate::values::MissingReferences;

/// Flags of `verify`.
#[derive(Clone, Debug, clap::Args)]
pub struct VerifyArguments {
    /// Look at this repository alone.
    #[arg(long, value_name = "REPOSITORY", value_parser = stored_name)]
    pub repository: Option<RepoName>,
    /// Believe the bytes of blobs, unless their length is not that of a descriptor.
    #[arg(long)]
    pub quick: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Where the store is. The key manifests.missingReferences of the configuration file counts where no server runs.
    #[command(flatten)]
    pub store: StoreArguments,
}

fn stored_name(text: &str) -> Result<RepoName, String> {
    RepoName::parse_stored(text).map_err(|error| error.to_string())
}

pub(super) fn run(arguments: &VerifyArguments) -> Result<(), Failure> {
    let folder = arguments.store.dir()?;
    let repository = arguments.repository.as_ref().map_or_else(String::new, |repo| format!("&repository={repo}"));
    let asked = ask_if_there(&folder, "GET", &format!("/verify?quick={}{repository}", arguments.quick))?;
    let report = match asked {
        Some(text) => json(&text)?,
        None => by_hand(&folder, arguments)?,
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{report:#}")?;
    } else {
        show(&report, &mut out)?;
    }
    out.flush()?;
    if report["whole"] == true {
        return Ok(());
    }
    Err(Failure { exit: EXIT_FAILED, message: format!("{} things are wrong", count(&report)) })
}

/// The report of a store that no server has.
fn by_hand(folder: &Path, arguments: &VerifyArguments) -> Result<Value, Failure> {
    let settings = config::manifest_settings(arguments.store.config.as_deref())?;
    let options = VerifyOptions {
        quick: arguments.quick,
        repository: arguments.repository.clone(),
        allow_missing: settings.missing_references == MissingReferences::Allow,
    };
    let report = store::verify_stopped(folder, options, &CancellationToken::new())?;
    serde_json::to_value(report).map_err(|error| Failure::failed(&error))
}

fn count(report: &Value) -> u64 {
    let named = report["findings"].as_array().map_or(0, |findings| findings.len() as u64);
    named + report["more"].as_u64().unwrap_or(0)
}

fn show(report: &Value, out: &mut impl io::Write) -> io::Result<()> {
    for finding in report["findings"].as_array().into_iter().flatten() {
        let text = |key: &str| finding[key].as_str().unwrap_or_default();
        writeln!(out, "{} {}: {}", text("problem"), text("path"), text("what"))?;
        let images: Vec<&str> = finding["breaks"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !images.is_empty() {
            let more = finding["breaksMore"].as_u64().filter(|more| *more > 0);
            let more = more.map_or_else(String::new, |more| format!(" and {more} more"));
            writeln!(out, "  breaks {}{more}", images.join(" "))?;
        }
        writeln!(out, "  {}", text("how"))?;
    }
    for (problem, more) in report["moreOf"].as_object().into_iter().flatten() {
        writeln!(out, "{problem}: {more} more are not named")?;
    }
    for note in report["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        writeln!(out, "note: {note}")?;
    }
    let number = |key: &str| report[key].as_u64().unwrap_or(0);
    writeln!(
        out,
        "looked at {} contents, {} manifests and {} tags in {} repositories, {} bytes were hashed: {}",
        number("contents"),
        number("manifests"),
        number("tags"),
        number("repositories"),
        number("hashedBytes"),
        if report["whole"] == true {
            "nothing is wrong".to_owned()
        } else {
            format!("{} things are wrong", count(report))
        }
    )
}
