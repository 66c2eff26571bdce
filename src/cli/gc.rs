//! `gc`: has a store collected by its server, or without one by this process.

use std::io::{self, Write as _};
use std::path::Path;

use serde_json::Value;

use super::admin::ask_if_there;
use super::store::Configured;
use super::{Failure, StoreArguments};
use crate::config;
use crate::oci::Digest;
use crate::retention;
use crate::server::options::retention_of;
use crate::store::{CollectionOptions, FoundPins};

/// Flags of `gc`.
#[derive(Clone, Debug, clap::Args)]
pub struct GcArguments {
    /// Say what would go now, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Say why each repository that has this content keeps it, and change nothing.
    #[arg(long, value_name = "DIGEST", conflicts_with = "dry_run")]
    pub why: Option<Digest>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Where the store is. The section gc of the configuration file counts where no server runs.
    #[command(flatten)]
    pub store: StoreArguments,
}

pub(super) fn run(arguments: &GcArguments) -> Result<(), Failure> {
    let folder = arguments.store.dir()?;
    let asked = match arguments.why {
        Some(digest) => ask_if_there(&folder, "GET", &format!("/gc/why/{digest}"))?,
        None if arguments.dry_run => ask_if_there(&folder, "GET", "/gc/look")?,
        None => ask_if_there(&folder, "POST", "/gc")?,
    };
    let answer = match asked {
        Some(text) => serde_json::from_str(&text).map_err(|error| Failure::failed(&error))?,
        None => by_hand(&folder, arguments)?,
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{answer:#}")?;
    } else if arguments.why.is_some() {
        reasons(&answer, &mut out)?;
    } else {
        report(&answer, &mut out)?;
    }
    Ok(out.flush()?)
}

/// The answer of a store that no server has.
fn by_hand(folder: &Path, arguments: &GcArguments) -> Result<Value, Failure> {
    let (settings, rules) = config::gc_settings(arguments.store.config.as_deref())?;
    let config::GcSettings { schedule, grace, untagged_after } = settings;
    let options = CollectionOptions { schedule, grace, untagged_after };
    let pins = FoundPins::read(config::pins_file(arguments.store.config.as_deref())?.as_deref());
    let configured = Configured::read(&arguments.store)?;
    let is_held = |kept: Option<&[u8]>| configured.holds_collection(kept);
    let answer = match arguments.why {
        Some(digest) => {
            let rules = retention_of(rules);
            serde_json::to_value(retention::why_stopped(folder, options, rules, pins, digest, is_held)?)
        }
        None => {
            let rules = retention_of(rules);
            let (rules, collected) = retention::run_stopped(folder, options, rules, pins, arguments.dry_run, is_held)?;
            serde_json::to_value(collected).and_then(|mut answer| {
                answer["retention"] = serde_json::to_value(rules)?;
                Ok(answer)
            })
        }
    };
    answer.map_err(|error| Failure::failed(&error))
}

fn reasons(answer: &Value, out: &mut impl io::Write) -> io::Result<()> {
    let reasons = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    if reasons.is_empty() {
        return writeln!(out, "no repository has it");
    }
    for reason in reasons {
        let text = |key: &str| reason[key].as_str().unwrap_or_default();
        let stays = if reason["stays"] == true { "stays" } else { "goes" };
        writeln!(out, "{} {} {stays}: {}", text("repository"), text("kind"), text("because"))?;
    }
    Ok(())
}

fn report(answer: &Value, out: &mut impl io::Write) -> io::Result<()> {
    if answer["held"] == true {
        return writeln!(out, "nothing is collected now: another mode than Local is in force, is coming or not over");
    }
    if let Some(why) = answer["pinsUnusable"].as_str() {
        writeln!(out, "nothing is removed until store.pins can be used: {why}")?;
    }
    masters(answer, out)?;
    tags(&answer["retention"], out)?;
    let dry = answer["dryRun"] == true;
    let counts = |key: &str| {
        let found = &answer[key];
        format!("{} blobs and {} manifests, {} bytes", found["blobs"], found["manifests"], found["bytes"])
    };
    for (key, goes, stays) in [("removed", "goes", "gone"), ("suspected", "suspect", "suspect")] {
        for content in answer[key]["named"].as_array().into_iter().flatten() {
            let text = |key: &str| content[key].as_str().unwrap_or_default();
            let what = if dry { goes } else { stays };
            writeln!(out, "{what} {} {} {} {}", text("repository"), text("kind"), text("digest"), content["bytes"])?;
        }
    }
    for left in answer["leftAlone"].as_array().into_iter().flatten() {
        let text = |key: &str| left[key].as_str().unwrap_or_default();
        writeln!(out, "left alone {}: {}", text("repository"), text("reason"))?;
    }
    if answer["busy"].as_u64().is_some_and(|busy| busy > 0) {
        writeln!(out, "{} repositories were written to meanwhile and are left to the next run", answer["busy"])?;
    }
    let (removed, suspected) = if dry { ("would go now", "would be suspects") } else { ("removed", "new suspects") };
    writeln!(out, "{removed}: {}", counts("removed"))?;
    writeln!(out, "{suspected}: {}", counts("suspected"))
}

/// What stays for other masters.
fn masters(answer: &Value, out: &mut impl io::Write) -> io::Result<()> {
    let retention = &answer["retention"];
    let away = [answer, retention].into_iter().find_map(|report| report["mastersAway"].as_str());
    if let Some(why) = away {
        writeln!(out, "no manifest and no tag goes until all masters can be asked: {why}")?;
    }
    if answer["keptByMasters"].as_u64().is_some_and(|kept| kept > 0) {
        writeln!(out, "{} manifests and tags stay because another master needs them", answer["keptByMasters"])?;
    }
    Ok(())
}

/// The tags that go or went, and what is left alone.
pub(super) fn tags(answer: &Value, out: &mut impl io::Write) -> io::Result<()> {
    let what = if answer["dryRun"] == true { "goes" } else { "gone" };
    for going in named(answer, "goingNamed") {
        let because = text(going, "because");
        writeln!(
            out,
            "{what} {}:{} {} ({because})",
            text(going, "repository"),
            text(going, "tag"),
            text(going, "digest")
        )?;
    }
    let estimate = &answer["estimate"];
    if answer["dryRun"] == true && answer["going"].as_u64().is_some_and(|going| going > 0) && estimate.is_object() {
        writeln!(
            out,
            "with these tags about {} blobs and {} manifests, {} bytes, would go behind the grace (an estimate)",
            estimate["blobs"], estimate["manifests"], estimate["bytes"]
        )?;
    }
    if answer["waiting"].as_u64().is_some_and(|waiting| waiting > 0) {
        writeln!(out, "{} more tags wait for a later run: too many manifests would go at a time", answer["waiting"])?;
    }
    for left in named(answer, "leftAlone") {
        writeln!(out, "no rule removes anything of {}: {}", text(left, "repository"), text(left, "reason"))?;
    }
    Ok(())
}

pub(super) fn named<'a>(answer: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    answer[key].as_array().into_iter().flatten()
}

pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
