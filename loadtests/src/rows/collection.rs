//! Collection of a store of Local with a million blobs and 100,000 manifests, while its server runs, by `d8-registry gc`. Server
//! and client have all cores.
//!
//! Each image has ten blobs of its own, so everything is reached. The store lies in memory where that has room for it: none of
//! what is measured reads the disk, and one that is told of each freed block (`discard`) takes half an hour to remove a million
//! files. With `--scratch` it lies there.
//!
//! Measured in this order on one server:
//! 1. the first run, which marks every repository;
//! 2. a run with nothing to do, and the server's memory in it;
//! 3. a run behind a delete in a repository of 2,000 manifests, which marks that one.
//!
//! The times are those of the command, its start included.

pub(super) mod beside;

use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use tempfile::TempDir;
use testkit::{descriptor_of, media_type};

use super::{Bench, Row, large_store};
use crate::baseline::ours::{Ours, Setup, basic};
use crate::client::{Request, Wire, fetch};
use crate::cpu;
use crate::interrupt;
use crate::memory;
use crate::proc::peak_while;
use crate::report::{Report, Target};
use crate::seed::{self, Filler, NAME};

/// What is stored.
const SHAPE: Shape = Shape { repositories: 981, images: 100, large: 2000 };
/// Blobs of an image.
const BLOBS: u32 = 10;
/// About what a file of one block takes in memory, with its inode and its names.
const FILE_BYTES: u64 = 6 << 10;
/// Limits: of a run with nothing to do, in s and MiB, and of the marking of the large repository, in s.
const QUIET_S: f64 = 5.0;
const QUIET_MIB: f64 = 32.0;
const MARKED_S: f64 = 1.0;

/// How large a store is.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Repositories; there is one more, the large one.
    repositories: u32,
    /// Manifests of each.
    images: u32,
    /// Manifests of the large one.
    large: u32,
}

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

/// Runs it with all cores for the command too. `--times` below 1 makes the store so much smaller.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let dir = bench.dir(&row.name())?;
    let repositories = f64::from(SHAPE.repositories) * bench.options.times.min(1.0);
    let shape = Shape { repositories: repositories.ceil() as u32, ..SHAPE };
    let files = shape.files();
    let memory = memory::directory_for(files, files * FILE_BYTES).filter(|_| bench.options.scratch.is_none());
    let place = tempfile::Builder::new().prefix("collection-").tempdir_in(memory.unwrap_or(&dir));
    let place = place.context("the directory for the store can't be made")?;
    let whose = if memory.is_some() { ", in memory" } else { "" };
    cpu::on(None, || measured(&bench.options.server, report, &dir, &place, (shape, whose)))
}

fn measured(
    program: &Path,
    report: &mut Report,
    dir: &Path,
    place: &TempDir,
    (shape, whose): (Shape, &str),
) -> Result<()> {
    let store = place.path().join("store");
    let begun = Instant::now();
    let (manifests, blobs) = shape.fill(&store)?;
    eprintln!("collection: the store was filled in {:.0} s", begun.elapsed().as_secs_f64());
    // Built by the server, the index would be in the figure of its memory.
    large_store::rebuild(program, &store)?;
    let when = format!(", {blobs} blobs and {manifests} manifests{whose}");
    let server = Ours::start(&Setup { all_cores: true, ..Setup::local(program, &store, &dir.join("server")) })?;
    let pids = server.process.pids();

    let (first, took) = collect(program, &store)?;
    ensure!(first.marked == u64::from(shape.repositories + 1), "{first:?}: all repositories are marked at first");
    ensure!(first.suspected.blobs + first.suspected.manifests == 0, "{first:?}: everything is reached");
    report.fact(format!("first collection{when}"), took.as_secs_f64(), "s");

    let (quiet, peak) = peak_while(&pids, || collect(program, &store));
    let (quiet, took) = quiet?;
    ensure!(quiet.marked == 0, "{quiet:?}: nothing has changed");
    report.judge(format!("collection with nothing to do{when}"), took.as_secs_f64(), "s", Target::Below(QUIET_S));
    peak?.judge(report, " in it", QUIET_MIB);

    let path = format!("/v2/{}/manifests/{}", seed::repository(shape.repositories), seed::tag(0));
    let delete = Request::new("DELETE", &path, Some(&basic()), "");
    let deleted = fetch(&mut Wire::connect(&server.place)?, &delete, &[])?;
    ensure!(deleted.status == 202, "{path}: {}", deleted.answer.text());
    let (one, took) = collect(program, &store)?;
    ensure!(one.marked == 1, "{one:?}: one repository has changed");
    let what = format!("collection that marks a repository of {} manifests{whose}", shape.large);
    report.judge(what, took.as_secs_f64(), "s", Target::Below(MARKED_S));
    drop(server);
    seed::remove(&store)
}

impl Shape {
    /// Files that it has: contents and tags. Further names of contents are none.
    fn files(self) -> u64 {
        let images = u64::from(self.repositories) * u64::from(self.images) + u64::from(self.large);
        images * (u64::from(BLOBS) + 2) + 1
    }

    /// Fills a store, on all cores; how many manifests and blobs it has.
    fn fill(self, store: &Path) -> Result<(u64, u64)> {
        let filler = Filler::init(store)?;
        let next = AtomicU32::new(0);
        let fill = || -> Result<(u64, u64)> {
            let (mut filler, mut manifests) = (filler.clone(), 0);
            loop {
                // The large one first: it takes the longest.
                let Some(number) = self.repositories.checked_sub(next.fetch_add(1, Ordering::Relaxed)) else {
                    return Ok((manifests, manifests * u64::from(BLOBS)));
                };
                let images = if number == self.repositories { self.large } else { self.images };
                fill(&mut filler, number, images)?;
                manifests += u64::from(images);
            }
        };
        let filled = thread::scope(|scope| {
            let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
            let running: Vec<_> = (0..cores).map(|_| scope.spawn(fill)).collect();
            running.into_iter().map(|one| one.join().ok().context("the filling panicked")?).collect::<Result<Vec<_>>>()
        })?;
        filler.finish()?;
        Ok(filled.iter().fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1)))
    }
}

/// Fills a repository with images.
fn fill(filler: &mut Filler, number: u32, images: u32) -> Result<()> {
    let repository = seed::repository(number);
    let config = br#"{"architecture":"amd64","os":"linux"}"#;
    let config = descriptor_of(media_type::CONFIG, filler.blob(&repository, config)?, config.len());
    for image in 0..images {
        interrupt::check()?;
        let mut layers = Vec::new();
        for blob in 0..BLOBS {
            let content = seed::content(number, image * BLOBS + blob, 64);
            let digest = filler.blob(&repository, &content)?;
            layers.push(descriptor_of(media_type::LAYER_GZIP, digest, content.len()));
        }
        let tag = seed::tag(image);
        let name = format!("{repository}:{tag}");
        filler.manifest(&repository, seed::image(&config, &layers, NAME, &name).as_bytes(), &tag)?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> u64 {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
    }

    #[test]
    fn a_store_that_many_fill_has_what_its_shape_says() {
        let dir = tempfile::tempdir().unwrap();
        let (store, shape) = (dir.path().join("store"), Shape { repositories: 5, images: 2, large: 7 });
        assert_eq!(shape.fill(&store).unwrap(), (17, 170));
        let tags = 17;
        assert_eq!(files(&store.join("blobs")) + tags, shape.files());
        // A configuration in each of six repositories; a manifest with its tag, and ten blobs.
        assert_eq!(files(&store.join("repositories")), 6 + 17 * 12);
        assert!((SHAPE.files() - 1) / 12 * u64::from(BLOBS) >= 1_000_000);
    }
}
