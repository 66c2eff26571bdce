//! `snapshot`: what the repositories hold is kept and given back, by the server of a store, or without one by this process.

use std::io::{self, Write as _};
use std::path::Path;

use clap::Subcommand;
use serde_json::Value;

use super::admin::ask_if_there;
use super::{EXIT_FAILED, Failure, StoreArguments};
use crate::store::{Restoring, SnapshotError, SnapshotName, with_stopped_snapshots};

/// What can be done with snapshots.
#[derive(Clone, Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Take a snapshot. Pushes and pulls go on meanwhile.
    #[command(after_help = "Example:\n  d8-registry snapshot create before-v1.71 --data-dir /var/lib/d8-registry")]
    Create {
        /// Its name: letters, digits, . _ and -
        #[arg(value_name = "NAME")]
        name: SnapshotName,
        /// How it is said.
        #[command(flatten)]
        how: How,
    },
    /// List the snapshots, with the bytes that the removal of each would free.
    #[command(after_help = "Example:\n  d8-registry snapshot list --json --data-dir /var/lib/d8-registry")]
    List(How),
    /// Remove a snapshot; the bytes that nothing else has are free then.
    #[command(after_help = "Example:\n  d8-registry snapshot rm before-v1.71 --data-dir /var/lib/d8-registry")]
    Rm {
        /// Its name.
        #[arg(value_name = "NAME")]
        name: SnapshotName,
        /// How it is said.
        #[command(flatten)]
        how: How,
    },
    /// Give repositories back what they had: contents, manifests, and each tag leads where it led. What came since stays. Ends with
    /// 1 if something can't be given back.
    #[command(
        after_help = "Example:\n  d8-registry snapshot restore before-v1.71 --dry-run --data-dir /var/lib/d8-registry"
    )]
    Restore {
        /// Its name.
        #[arg(value_name = "NAME")]
        name: SnapshotName,
        /// Say what would be done, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Remove tags that the snapshot does not have. Contents go by collection alone.
        #[arg(long)]
        exact: bool,
        /// How it is said.
        #[command(flatten)]
        how: How,
    },
}

/// Where the store is, and how the answer is printed.
#[derive(Clone, Debug, clap::Args)]
pub struct How {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Where the store is.
    #[command(flatten)]
    pub store: StoreArguments,
}

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        Self::failed(&error)
    }
}

pub(super) fn run(command: &SnapshotCommand) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Create { name, how } => {
            let answer = ask(how, "POST", &format!("/snapshots/{name}"), |folder| {
                with_stopped_snapshots(folder, async |store| store.create_snapshot(name.clone()).await)
            })?;
            print(how, &answer, |out| created(name, &answer, out))
        }
        SnapshotCommand::List(how) => {
            let answer = ask(how, "GET", "/snapshots", |folder| {
                with_stopped_snapshots(folder, async |store| store.list_snapshots().await)
            })?;
            print(how, &answer, |out| listed(&answer, out))
        }
        SnapshotCommand::Rm { name, how } => {
            let answer = ask(how, "DELETE", &format!("/snapshots/{name}"), |folder| {
                with_stopped_snapshots(folder, async |store| store.remove_snapshot(name.clone()).await)
            })?;
            print(how, &answer, |out| writeln!(out, "{name} is removed: {} bytes are free", answer["freedBytes"]))
        }
        SnapshotCommand::Restore { name, dry_run, exact, how } => {
            let method = if *dry_run { "GET" } else { "POST" };
            let restoring = Restoring { dry_run: *dry_run, exact: *exact };
            let path = format!("/snapshots/{name}/restore{}", if *exact { "/exact" } else { "" });
            let answer = ask(how, method, &path, |folder| {
                with_stopped_snapshots(folder, async |store| store.restore_snapshot(name.clone(), restoring).await)
            })?;
            print(how, &answer, |out| restored(&answer, out))?;
            match answer["missing"].as_u64() {
                Some(0) => Ok(()),
                _ => Err(Failure {
                    exit: EXIT_FAILED,
                    message: format!("{} contents and tags of {name} can't be given back", answer["missing"]),
                }),
            }
        }
    }
}

/// The answer of the server, or without one of this process.
fn ask<T: serde::Serialize>(
    how: &How,
    method: &str,
    path: &str,
    by_hand: impl FnOnce(&Path) -> Result<T, SnapshotError>,
) -> Result<Value, Failure> {
    let folder = how.store.dir()?;
    let answer = match ask_if_there(&folder, method, path)? {
        Some(text) => serde_json::from_str(&text),
        None => serde_json::to_value(by_hand(&folder)?),
    };
    answer.map_err(|error| Failure::failed(&error))
}

fn print(
    how: &How,
    answer: &Value,
    say: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if how.json {
        writeln!(out, "{answer:#}")?;
    } else {
        say(&mut out)?;
    }
    Ok(out.flush()?)
}

fn created(name: &SnapshotName, answer: &Value, out: &mut impl io::Write) -> io::Result<()> {
    let [repositories, tags, contents, bytes] = ["repositories", "tags", "contents", "bytes"].map(|key| &answer[key]);
    writeln!(out, "{name}: {repositories} repositories, {tags} tags, {contents} contents, {bytes} bytes")?;
    lacking(answer, out)
}

/// What a snapshot does not keep.
fn lacking(summary: &Value, out: &mut impl io::Write) -> io::Result<()> {
    for (key, what) in [
        ("damaged", "contents are damaged: their bytes are not kept"),
        ("leftOut", "tags or other entries could not be read or lead to nothing, and are not in it"),
    ] {
        if summary[key].as_u64().is_some_and(|count| count > 0) {
            writeln!(out, "  {} {what}", summary[key])?;
        }
    }
    Ok(())
}

fn listed(answer: &Value, out: &mut impl io::Write) -> io::Result<()> {
    for snapshot in answer.as_array().into_iter().flatten() {
        let name = snapshot["name"].as_str().unwrap_or_default();
        let free = &snapshot["onlyHereBytes"];
        match snapshot["taken"].as_u64() {
            Some(taken) => {
                let [tags, contents, bytes] = ["tags", "contents", "bytes"].map(|key| &snapshot[key]);
                let age = crate::clock::now().as_secs().saturating_sub(taken);
                writeln!(
                    out,
                    "{name}: taken {age} s ago, {tags} tags, {contents} contents, {bytes} bytes; its removal frees {free} bytes"
                )?;
                lacking(snapshot, out)?;
            }
            None => writeln!(out, "{name}: not whole, it is being made or removed; {free} bytes")?,
        }
    }
    Ok(())
}

fn restored(answer: &Value, out: &mut impl io::Write) -> io::Result<()> {
    for missing in answer["missingNamed"].as_array().into_iter().flatten() {
        let text = |key: &str| missing[key].as_str().unwrap_or_default();
        writeln!(out, "missing {} {} {}", text("repository"), text("kind"), text("name"))?;
    }
    let would = if answer["dryRun"] == true { "would be given back" } else { "given back" };
    writeln!(
        out,
        "{would}: {} blobs, {} manifests, {} tags; {} tags moved back, {} newer tags removed, {} newer tags stay",
        answer["blobs"],
        answer["manifests"],
        answer["tagsAdded"],
        answer["tagsMoved"],
        answer["tagsRemoved"],
        answer["tagsNewer"],
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_says_what_a_snapshot_lacks() {
        let taken = |damaged: u64, left_out: u64| {
            let (name, zero) = ("s", 0);
            let summary = json!([{ "name": name, "taken": zero, "tags": 2, "contents": 3, "bytes": 4, "damaged": damaged,
                "leftOut": left_out, "onlyHereBytes": zero }]);
            let mut out = Vec::new();
            listed(&summary, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(taken(0, 0).lines().count(), 1);
        let text = taken(5, 6);
        assert!(
            text.contains("\n  5 contents are damaged")
                && text.ends_with("6 tags or other entries could not be read or lead to nothing, and are not in it\n"),
            "{text}"
        );
    }
}
