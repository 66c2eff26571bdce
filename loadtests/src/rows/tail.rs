//! Latency of a small request while large downloads saturate the server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::stored::{Stored, TAG};
use super::{Bench, Row, transport};
use crate::baseline::Process;
use crate::baseline::ours::{Ours, basic};
use crate::client::{Driver, Load, Place, Request, Tally, histogram, nanoseconds};
use crate::compare::{Comparison, Latency, Measure, Sample, median};
use crate::cpu;
use crate::engine::{Asking, Contest, Plan, Side};
use crate::report::Report;

/// Requests that fall due in a second.
const RATE: f64 = 200.0;
/// Connections for them: more than are ever busy unless the server stalls.
const CONNECTIONS: usize = 8;
/// Large downloads beside them.
const DOWNLOADS: usize = 8;
/// Length of a slice; each has a schedule of its own.
const SLICE: Duration = Duration::from_secs(1);
/// Slices that are one sample: of 400 answers four are slower than the p99.
const GROUP: u32 = 2;
/// Rounds, plain and over TLS, where the sides differ by a hundred times. A burst of the machine's neighbours makes the p99
/// of its sample many times as long, on whichever side it hits.
const ROUNDS: [u32; 2] = [20, 8];
/// Rounds to one in which the sides are measured without downloads, for information.
const ALONE_EVERY: u32 = 4;
/// Time that downloads are under way before the first small request of a slice.
const LEAD: Duration = Duration::from_millis(300);
/// Pause between two looks of the downloads whether the slice is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Wait for requests after the end of a slice; one that was not answered by then counts with the time it has waited.
const PATIENCE: Duration = Duration::from_secs(2);
/// Times of nginx's p99, plain and over TLS.
const LIMITS: [f64; 2] = [1.0, 1.0];

/// p99 while downloads run.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row, tls: bool) -> Result<()> {
    let (ours, nginx) = (bench.ours(row, tls)?, bench.nginx(row, tls)?);
    let authorization = basic();
    let blob = Request::get(&Stored::blob_path(&bench.stored.blob), Some(&authorization));
    let manifest = Request::get(&Stored::tag_path(), Some(&authorization));
    let by_digest = Request::get(&bench.stored.manifest_path(), Some(&authorization));
    let (large, small) = (Request::get("/blob", None), Request::get("/manifest", None));
    let mut contest = Contest::new(row.name());
    let mut pair = |name: String, limit, every, [our, their]: [(Option<&Request>, &Request); 2]| {
        let sides = (
            contest.side(side(bench, &ours.process, &ours.place, our).every(every)),
            contest.side(side(bench, &nginx.process, &nginx.place, their).every(every)),
        );
        contest.pair(name, Measure::P99Milliseconds, sides, "nginx", limit);
    };
    let name = format!("manifest GET, {RATE} a second, during {DOWNLOADS} downloads, {}", transport(tls));
    pair(name, Some(LIMITS[usize::from(tls)]), 1, [(Some(&blob), &manifest), (Some(&large), &small)]);
    let name = format!("the same without downloads, {}", transport(tls));
    pair(name, None, ALONE_EVERY, [(None, &by_digest), (None, &small)]);
    let plan = Plan { group: GROUP, ..bench.plan(ROUNDS[usize::from(tls)], SLICE) };
    let comparisons = contest.measured(plan, report)?;
    if let Some(comparison) = comparisons.first() {
        facts(report, comparison, transport(tls));
    }
    report.comparisons.extend(comparisons);
    if bench.options.access_log_off { Ok(()) } else { inside(report, ours, transport(tls)) }
}

/// Small requests, perhaps beside large ones.
fn side(
    bench: &Bench<'_>,
    process: &Process,
    place: &Place,
    (large, small): (Option<&Request>, &Request),
) -> Side<'static> {
    let small = Load { rate: Some(RATE), ..bench.load(place, small, CONNECTIONS) };
    let large = large.map(|large| bench.load(place, large, DOWNLOADS));
    // Anew for each slice: a server closes connections on which nothing is asked for some seconds.
    Side::fresh(process.pids(), move || {
        let mut downloads = large.clone().map(Driver::connect).transpose()?;
        let mut asking = Driver::connect(small.clone())?.patient_for(PATIENCE);
        let ask: Asking<'static> = Box::new(move |length| slice(&mut downloads, &mut asking, length));
        Ok(ask)
    })
}

/// The answers to small requests and the bytes of the large ones.
fn slice(downloads: &mut Option<Driver>, asking: &mut Driver, length: Duration) -> Result<Tally> {
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
    report.fact(name, rate(&comparison.ours), "MB/s");
    report.fact("the same, nginx", rate(&comparison.theirs), "MB/s");
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
    report.fact(format!("inside the server, the same manifest GETs, p50, {transport}"), inside.p50, "ms");
    report.fact(format!("inside the server, p99, {transport}"), inside.p99, "ms");
    report.fact(format!("inside the server, maximum, {transport}"), inside.max, "ms");
    Ok(())
}
