//! `scrub`: has a running server read all that it stores.

use std::io::{self, Write as _};

use serde_json::Value;

use super::admin::{ask, json};
use super::{EXIT_FAILED, Failure, StoreArguments};

/// Flags of `scrub`.
#[derive(Clone, Debug, clap::Args)]
pub struct ScrubArguments {
    /// Print JSON: what `/status` shows of the scrub and of damaged contents.
    #[arg(long)]
    pub json: bool,
    /// Where the server's store is.
    #[command(flatten)]
    pub store: StoreArguments,
}

pub(super) fn run(arguments: &ScrubArguments) -> Result<(), Failure> {
    let found = |status: &Value| status["scrub"]["foundSinceStart"].as_u64().unwrap_or(0);
    let status = |arguments: &ScrubArguments| json(&ask(&arguments.store, "GET", "/status")?);
    let before = found(&status(arguments)?);
    let run = json(&ask(&arguments.store, "POST", "/jobs/scrub/run")?)?;
    let after = status(arguments)?;
    let mut out = io::stdout().lock();
    if arguments.json {
        let shown = serde_json::json!({ "run": run, "scrub": after["scrub"], "damaged": after["store"]["damaged"] });
        writeln!(out, "{shown:#}")?;
    } else {
        show(&after, run["result"] == "ok", &mut out)?;
    }
    out.flush()?;
    let failed = |message| Err(Failure { exit: EXIT_FAILED, message });
    match (run["result"].as_str(), found(&after).saturating_sub(before)) {
        (Some("ok"), 0) => Ok(()),
        (Some("ok"), found) => failed(format!(
            "{found} contents are damaged or can't be read, or directories of them: see the server's log"
        )),
        _ => failed(run["error"].as_str().unwrap_or("the scrub failed").to_owned()),
    }
}

fn show(status: &Value, is_through: bool, out: &mut impl io::Write) -> io::Result<()> {
    for content in status["store"]["damaged"].as_array().into_iter().flatten() {
        let images: Vec<&str> = content["images"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let needed = if images.is_empty() { "no image".to_owned() } else { images.join(" ") };
        writeln!(out, "damaged {}: needed by {needed}", content["digest"].as_str().unwrap_or_default())?;
    }
    writeln!(out, "{}", if is_through { "every content was read" } else { "not every content was read" })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_run_that_failed_is_not_said_to_have_read_everything() {
        let status = json!({ "store": { "damaged": [{ "digest": "sha256:00", "images": ["a:v1"] }] } });
        let said = |is_through| {
            let mut out = Vec::new();
            show(&status, is_through, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(said(true), "damaged sha256:00: needed by a:v1\nevery content was read\n");
        assert_eq!(said(false), "damaged sha256:00: needed by a:v1\nnot every content was read\n");
    }
}
