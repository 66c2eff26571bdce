//! What a small request waits for while large downloads saturate the server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::blobs::transport;
use super::contest::{self, Contest};
use super::slices::{Asking, Side, Slices};
use super::stored::{Stored, TAG};
use super::{Bench, Row};
use crate::compare::{Comparison, Latency, Measure, Sample, median};
use crate::cpu;
use crate::client::driver::{Driver, Load, Tally, histogram, nanoseconds};
use crate::client::exchange::Request;
use crate::report::{Report, Unit};
use crate::client::wire::Place;
use crate::baseline::Process;
use crate::baseline::ours::{Ours, basic};

/// Requests fall due so often, each second.
const RATE: f64 = 200.0;
/// Connections for them: more than are ever busy unless the server stalls.
const CONNECTIONS: usize = 8;
/// Sides take turns so often; each turn has a schedule of its own.
const SLICE: Duration = Duration::from_millis(500);
/// Each side is measured at least so long in a round: of 400 answers four are slower than the p99.
const LEAST: Duration = Duration::from_secs(2);
/// Rounds for one of a load: a burst of the machine's neighbours makes the p99 of its round many times as long, on
/// whichever side it hits.
pub(super) const TURNS: u32 = 3;
/// Downloads are under way so long before the first small request of a turn.
const LEAD: Duration = Duration::from_millis(300);
/// Downloads look so often whether the turn is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Requests of a turn are waited for so long after its end; what was not answered then counts as having taken so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// p99 while downloads run, plain and TLS.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    for tls in [false, true] {
        one(bench, report, row, tls)?;
    }
    Ok(())
}

fn one(bench: &Bench<'_>, report: &mut Report, row: Row, tls: bool) -> Result<()> {
    let (ours, nginx) = (bench.ours(row, tls)?, bench.nginx(row, tls)?);
    let authorization = basic();
    let blob = Request::get(&bench.stored.blob_path(), Some(&authorization));
    let manifest = Request::get(&Stored::tag_path(), Some(&authorization));
    let by_digest = Request::get(&bench.stored.manifest_path(), Some(&authorization));
    let (large, small) = (Request::get("/blob", None), Request::get("/manifest", None));
    let alone = format!("the same without downloads, {}", transport(tls));
    let beside = format!("manifest GET, {RATE} a second, during 8 downloads, {}", transport(tls));
    let contest = Contest {
        row,
        measure: Measure::P99Milliseconds,
        baseline: "nginx",
        ours: vec![
            contest::Ours {
                name: beside,
                side: side(bench, &ours.process, &ours.place, Some(&blob), &manifest),
                against: 0,
                limit: Some(1.0),
            },
            contest::Ours {
                name: alone,
                side: side(bench, &ours.process, &ours.place, None, &by_digest),
                against: 1,
                limit: None,
            },
        ],
        theirs: vec![
            side(bench, &nginx.process, &nginx.place, Some(&large), &small),
            side(bench, &nginx.process, &nginx.place, None, &small),
        ],
        beside: Vec::new(),
    };
    let slices = Slices::cut(bench.seconds().max(LEAST), SLICE);
    let comparisons = contest.measured(bench.rounds() * TURNS, slices, report)?;
    if let Some(comparison) = comparisons.first() {
        facts(report, comparison, transport(tls));
    }
    comparisons.into_iter().for_each(|comparison| report.compare(comparison));
    if !bench.options.access_log_off {
        inside(report, ours, transport(tls))?;
    }
    Ok(())
}

fn side<'a>(
    bench: &'a Bench<'_>,
    process: &Process,
    place: &'a Place,
    large: Option<&'a Request>,
    small: &'a Request,
) -> Side<'a> {
    let make = move || asking(bench, place, large, small);
    if large.is_some() { Side::fresh(process.pids(), make) } else { Side::kept(process.pids(), make) }
}

/// Small requests, perhaps beside large ones.
fn asking<'a>(bench: &Bench<'_>, place: &Place, large: Option<&Request>, small: &Request) -> Result<Asking<'a>> {
    let load = |request: &Request, connections, rate| Load {
        place: place.clone(),
        requests: vec![request.clone()],
        connections,
        rate,
        copying: bench.options.copy,
    };
    let mut downloads = large.map(|large| Driver::connect(load(large, 8, None))).transpose()?;
    let mut asking = Driver::connect(load(small, CONNECTIONS, Some(RATE)))?.patient_for(PATIENCE);
    Ok(Box::new(move |length| turn(&mut downloads, &mut asking, length)))
}

/// The answers to small requests and the bytes of the large ones.
fn turn(downloads: &mut Option<Driver>, asking: &mut Driver, length: Duration) -> Result<Tally> {
    asking.renew()?;
    let before = match downloads {
        Some(driver) => driver.run(LEAD)?.bytes,
        None => 0,
    };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let downloading = scope.spawn(|| {
            let mut bytes = before;
            while let Some(driver) = downloads.as_mut().filter(|_| !done.load(Ordering::Relaxed)) {
                bytes += driver.run(LOOK_EVERY)?.bytes;
            }
            anyhow::Ok(bytes)
        });
        let asked = scope.spawn(|| {
            cpu::hurry();
            asking.run(length)
        });
        let tally = asked.join();
        done.store(true, Ordering::Relaxed);
        let bytes = downloading.join().ok().context("the downloading panicked")??;
        let tally = tally.ok().context("the asking panicked")??;
        Ok(Tally { bytes, ..tally })
    })
}

fn facts(report: &mut Report, comparison: &Comparison, transport: &str) {
    let rate = |side: &[Sample]| {
        median(&side.iter().map(|sample| sample.bytes as f64 / 1e6 / sample.spent.wall).collect::<Vec<_>>())
    };
    let name = format!("downloads beside the manifest GETs, {transport}");
    report.fact(name, rate(&comparison.ours), Unit::MegabytesPerSecond);
    report.fact("the same, nginx", rate(&comparison.theirs), Unit::MegabytesPerSecond);
}

/// The time between a request read and its answer handed to the kernel, as our access log has it. Ends the server.
fn inside(report: &mut Report, ours: Ours, transport: &str) -> Result<()> {
    #[derive(Deserialize)]
    struct Line {
        seconds: f64,
    }
    let path = ours.log.clone();
    // The log is whole once the server has ended.
    drop(ours);
    let log = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let mut seconds = histogram()?;
    // By tag is asked only while downloads run.
    let by_tag = format!("\"reference\":\"{TAG}\"");
    for line in log.lines().filter(|line| line.contains(&by_tag)) {
        let line: Line = serde_json::from_str(line).context("a line of the access log")?;
        seconds.saturating_record(nanoseconds(Duration::from_secs_f64(line.seconds)));
    }
    ensure!(!seconds.is_empty(), "the access log has no manifest GET");
    let inside = Latency::of(&seconds);
    report.fact(format!("inside the server, the same manifest GETs, p50, {transport}"), inside.p50, Unit::Milliseconds);
    report.fact(format!("inside the server, p99, {transport}"), inside.p99, Unit::Milliseconds);
    report.fact(format!("inside the server, maximum, {transport}"), inside.max, Unit::Milliseconds);
    Ok(())
}
