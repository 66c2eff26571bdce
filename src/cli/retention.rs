//! `retention`: says which tags the rules of retention would remove, and what stays by which.

use std::io::{self, Write as _};

use clap::Subcommand;
use serde_json::Value;

use super::admin::ask_if_there;
use super::gc::{named, tags, text};
use super::store::Configured;
use super::{Failure, StoreArguments};
use crate::config;
use crate::retention;
use crate::server::options::retention_of;
use crate::store::FoundPins;

/// What can be asked of retention.
#[derive(Clone, Debug, Subcommand)]
pub enum RetentionCommand {
    /// Say which tags would go now and why, and what stays by which rule; changes nothing.
    #[command(after_help = "Example:\n  d8-registry retention preview --data-dir /var/lib/d8-registry")]
    Preview(PreviewArguments),
}

/// Flags of `retention preview`.
#[derive(Clone, Debug, clap::Args)]
pub struct PreviewArguments {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Where the store is. The section retention and the key store.pins of the configuration file count where no server runs.
    #[command(flatten)]
    pub store: StoreArguments,
}

pub(super) fn run(command: &RetentionCommand) -> Result<(), Failure> {
    let RetentionCommand::Preview(arguments) = command;
    let folder = arguments.store.dir()?;
    let answer: Value = match ask_if_there(&folder, "GET", "/retention/preview")? {
        Some(text) => serde_json::from_str(&text).map_err(|error| Failure::failed(&error))?,
        None => {
            let file = arguments.store.config.as_deref();
            let (_, rules) = config::gc_settings(file)?;
            let pins = FoundPins::read(config::pins_file(file)?.as_deref());
            let configured = Configured::read(&arguments.store)?;
            let is_held = |kept: Option<&[u8]>| configured.holds_collection(kept);
            let report = retention::preview_stopped(&folder, retention_of(rules), pins, is_held)?;
            serde_json::to_value(report).map_err(|error| Failure::failed(&error))?
        }
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{answer:#}")?;
    } else {
        preview(&answer, &mut out)?;
    }
    Ok(out.flush()?)
}

fn preview(answer: &Value, out: &mut impl io::Write) -> io::Result<()> {
    for staying in named(answer, "stayingNamed") {
        writeln!(out, "stays {}:{} ({})", text(staying, "repository"), text(staying, "tag"), text(staying, "because"))?;
    }
    if answer["held"] == true {
        writeln!(out, "nothing goes now: another mode than Local is in force, is coming or not over")?;
    }
    if let Some(why) = answer["pinsUnusable"].as_str() {
        writeln!(out, "nothing goes until store.pins can be used: {why}")?;
    }
    tags(answer, out)?;
    writeln!(out, "would go: {} tags; {} tags and sets stay", answer["going"], answer["staying"])
}
