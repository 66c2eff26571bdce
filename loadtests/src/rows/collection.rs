//! Collection of a store of Local with a million blobs and 100,000 manifests, while its server runs, by `d8-registry gc`. Server
//! and client have all cores.
//!
//! Each image has ten blobs of its own, so everything is reached. Measured in this order on one server:
//! 1. the first run, which marks every repository;
//! 2. a run with nothing to do, and the server's memory in it;
//! 3. a run behind a delete in a repository of 2,000 manifests, which marks that one.
//!
//! The times are those of the command, its start included.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use testkit::{descriptor_of, media_type};

use super::{Bench, Row};
use crate::baseline::ours::{Ours, Setup, basic};
use crate::client::{Request, ask};
use crate::cpu;
use crate::interrupt;
use crate::proc::peak_while;
use crate::report::{Report, Target};
use crate::seed::{self, Filler, NAME};

/// Repositories, and manifests of each; of the last one [`LARGE`].
const REPOSITORIES: u32 = 981;
const IMAGES: u32 = 100;
const LARGE: u32 = 2000;
/// Blobs of an image.
const BLOBS: u32 = 10;
/// Limits: of a run with nothing to do, in s and MiB, and of the marking of the large repository, in s.
const QUIET_S: f64 = 5.0;
const QUIET_MIB: f64 = 32.0;
const MARKED_S: f64 = 1.0;

/// What a run of `gc --json` says of itself.
#[derive(Debug, Deserialize)]
struct Told {
    marked: u64,
    suspected: Sum,
}

#[derive(Debug, Deserialize)]
struct Sum {
    blobs: u64,
    manifests: u64,
}

/// Runs it with all cores for the command too.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let dir = bench.dir(&row.name())?;
    cpu::on(None, || measured(&bench.options.server, report, &dir))
}

fn measured(program: &Path, report: &mut Report, dir: &Path) -> Result<()> {
    let store = dir.join("store");
    let (manifests, blobs) = fill(&store)?;
    let when = format!(", {blobs} blobs and {manifests} manifests");
    let server = Ours::start(&Setup { all_cores: true, ..Setup::local(program, &store, &dir.join("server")) })?;
    let pids = server.process.pids();

    let (first, took) = collect(program, &store)?;
    ensure!(first.marked == u64::from(REPOSITORIES + 1), "{first:?}: all repositories are marked at first");
    ensure!(first.suspected.blobs + first.suspected.manifests == 0, "{first:?}: everything is reached");
    report.fact(format!("first collection{when}"), took.as_secs_f64(), "s");

    let (quiet, peak) = peak_while(&pids, || collect(program, &store));
    let (quiet, took) = quiet?;
    ensure!(quiet.marked == 0, "{quiet:?}: nothing has changed");
    report.judge(format!("collection with nothing to do{when}"), took.as_secs_f64(), "s", Target::Below(QUIET_S));
    peak?.judge(report, " in it", QUIET_MIB);

    let path = format!("/v2/{}/manifests/{}", seed::repository(REPOSITORIES), seed::tag(0));
    let deleted = ask(&server.place, &Request::new("DELETE", &path, Some(&basic()), ""))?;
    ensure!(deleted.status == 202, "{path}: {}", deleted.answer.text());
    let (one, took) = collect(program, &store)?;
    ensure!(one.marked == 1, "{one:?}: one repository has changed");
    let what = format!("collection that marks a repository of {LARGE} manifests");
    report.judge(what, took.as_secs_f64(), "s", Target::Below(MARKED_S));
    drop(server);
    seed::remove(&store)
}

/// Fills the store; how many manifests and blobs it has.
fn fill(store: &Path) -> Result<(u64, u64)> {
    let mut filler = Filler::init(store)?;
    let (mut manifests, mut blobs) = (0, 0);
    for number in 0..=REPOSITORIES {
        let repository = seed::repository(number);
        let config = br#"{"architecture":"amd64","os":"linux"}"#;
        let config = descriptor_of(media_type::CONFIG, filler.blob(&repository, config)?, config.len());
        for image in 0..if number == REPOSITORIES { LARGE } else { IMAGES } {
            interrupt::check()?;
            let mut layers = Vec::new();
            for blob in 0..BLOBS {
                let content = seed::content(number, image * BLOBS + blob, 64);
                let digest = filler.blob(&repository, &content)?;
                layers.push(descriptor_of(media_type::LAYER_GZIP, digest, content.len()));
                blobs += 1;
            }
            let tag = seed::tag(image);
            let name = format!("{repository}:{tag}");
            filler.manifest(&repository, seed::image(&config, &layers, NAME, &name).as_bytes(), &tag)?;
            manifests += 1;
        }
    }
    filler.finish()?;
    Ok((manifests, blobs))
}

/// Has the server of the store collect; what it says, and the time of the command.
fn collect(program: &Path, store: &Path) -> Result<(Told, Duration)> {
    let started = Instant::now();
    let mut command = Command::new(program);
    let output = command.args(["gc", "--json", "--data-dir"]).arg(store).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("run {} gc", program.display()))?;
    let took = started.elapsed();
    ensure!(output.status.success(), "gc: {}", String::from_utf8_lossy(&output.stderr));
    Ok((serde_json::from_slice(&output.stdout).context("what gc says")?, took))
}
