//! The latency of a small request beside a collection that marks, against without.
//!
//! Before each slice, of either side, one tag of every repository is deleted and pushed again: a collection has all of them to mark.
//! Nothing is removed, as the grace of what is found is a day; removal takes one turn of the server's pace for each file.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{BLOBS, FILE_BYTES, Shape, Told};
use crate::baseline::ours::{Ours, basic};
use crate::client::{Driver, Load, Place, Request, Wire, fetch};
use crate::compare::Measure;
use crate::engine::{Asking, Contest, Plan, Side};
use crate::memory;
use crate::report::Report;
use crate::rows::{Bench, Row, large_store};
use crate::seed;

/// What is stored: marking one of its repositories takes 0.1 to 0.2 s.
const SHAPE: Shape = Shape { repositories: 7, images: 2000, large: 2000 };
/// Times of the p99 without a collection.
const LIMIT: f64 = 2.0;
/// Slices of each side.
const ROUNDS: u32 = 15;
const SLICE: Duration = Duration::from_secs(1);
/// Requests that fall due in a second, and connections for them.
const RATE: f64 = 200.0;
const CONNECTIONS: usize = 8;

/// p99 beside a collection and without.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let dir = bench.dir(&row.name())?;
    let images = (f64::from(SHAPE.images) * bench.options.times.min(1.0)).ceil() as u32;
    let shape = Shape { images, large: images, ..SHAPE };
    let files = shape.files();
    let memory = memory::directory_for(files, files * FILE_BYTES).filter(|_| bench.options.scratch.is_none());
    let place = tempfile::Builder::new().prefix("collection-").tempdir_in(memory.unwrap_or(&dir));
    let place = place.context("the directory for the store can't be made")?;
    let store = place.path().join("store");
    shape.fill(&store)?;
    large_store::rebuild(&bench.options.server, &store)?;
    let ours = Ours::start(&bench.setup(&store, &dir.join("ours")))?;
    let asked = format!("/v2/{}/manifests/{}", seed::repository(0), seed::tag(1));
    let load = Load { rate: Some(RATE), ..bench.load(&ours.place, &Request::get(&asked, Some(&basic())), CONNECTIONS) };
    let mut contest = Contest::new(row.name());
    let side = |collects: bool| {
        let (load, store, place) = (load.clone(), store.as_path(), ours.place.clone());
        Side::fresh(ours.process.pids(), move || {
            change(&place, shape)?;
            if !collects {
                // What the other side is to find is found here, outside of the slice: both begin alike.
                ended(collect(bench, store)?, shape)?;
            }
            let mut asking = Driver::connect(load.clone())?;
            let ask: Asking<'_> = Box::new(move |length| {
                asking.renew()?;
                let collecting = collects.then(|| collect(bench, store)).transpose()?;
                let tally = asking.run(length);
                collecting.map_or(Ok(()), |collecting| ended(collecting, shape))?;
                tally
            });
            Ok(ask)
        })
    };
    let sides = (contest.side(side(true)), contest.side(side(false)));
    let stored = format!("{} repositories of {images} manifests with {BLOBS} blobs each", shape.repositories + 1);
    let name = format!("manifest GET, {RATE} a second, beside a collection that marks {stored}");
    contest.pair(name, Measure::P99Milliseconds, sides, "without it", Some(LIMIT));
    contest.run(Plan { group: 2, ..bench.plan(ROUNDS, SLICE) }, report)?;
    drop(ours);
    seed::remove(&store)
}

/// Deletes a tag of each repository and pushes it again.
fn change(place: &Place, shape: Shape) -> Result<()> {
    let mut wire = Wire::connect(place)?;
    for number in 0..=shape.repositories {
        let path = format!("/v2/{}/manifests/{}", seed::repository(number), seed::tag(0));
        let got = fetch(&mut wire, &Request::get(&path, Some(&basic())), &[])?;
        ensure!(got.status == 200, "GET {path}: {}", got.status);
        let deleted = fetch(&mut wire, &Request::new("DELETE", &path, Some(&basic()), ""), &[])?;
        ensure!(deleted.status == 202, "DELETE {path}: {}", deleted.status);
        let kind = got.answer.header("content-type").context("an image has a media type")?;
        let more = format!("content-type: {kind}\r\ncontent-length: {}\r\n", got.body.len());
        let put = fetch(&mut wire, &Request::new("PUT", &path, Some(&basic()), &more), &got.body)?;
        ensure!(put.status == 201, "PUT {path}: {}", put.status);
    }
    Ok(())
}

fn collect(bench: &Bench<'_>, store: &Path) -> Result<Child> {
    let mut command = Command::new(&bench.options.server);
    let command = command.args(["gc", "--json", "--data-dir"]).arg(store).stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().context("order a collection")
}

/// Waits for a collection, which marked everything.
fn ended(collecting: Child, shape: Shape) -> Result<()> {
    let output = collecting.wait_with_output().context("wait for the collection")?;
    ensure!(output.status.success(), "the collection ended with {}", output.status);
    let told: Told = serde_json::from_slice(&output.stdout).context("what gc says")?;
    ensure!(told.marked == u64::from(shape.repositories + 1), "{told:?}: not all repositories were marked");
    Ok(())
}
