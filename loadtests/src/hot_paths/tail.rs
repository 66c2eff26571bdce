//! What a small request waits for while large downloads saturate the server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::blobs::transport;
use super::contest::{in_turns, new};
use super::handshakes::side;
use super::stored::{Stored, TAG};
use super::{Bench, Row};
use crate::compare::{Comparison, Latency, Measure, Sample, median};
use crate::cpu::{self, Meter};
use crate::drive::{Driver, Load, histogram, nanoseconds};
use crate::exchange::Request;
use crate::report::{Report, Unit};
use crate::wire::Place;
use crate::yardstick::ours::{Ours, basic};

/// Requests fall due so often, each second.
const RATE: f64 = 200.0;
/// Connections for them: more than are ever busy unless the server stalls.
const CONNECTIONS: usize = 8;
const SLICE: Duration = Duration::from_millis(200);

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
    let name = format!("manifest GET, {RATE} a second, during 8 downloads, {}", transport(tls));
    let mut comparison = new(row, &name, Measure::P99Milliseconds, "nginx", Some(1.0));
    let mut idle =
        new(row, &format!("the same without downloads, {}", transport(tls)), Measure::P99Milliseconds, "nginx", None);
    in_turns(bench.rounds(), |_, is_ours| {
        let (place, pids, large, alone, beside) = if is_ours {
            (&ours.place, ours.process.pids(), &blob, &by_digest, &manifest)
        } else {
            (&nginx.place, nginx.process.pids(), &large, &small, &small)
        };
        side(&mut idle, is_ours).push(measure(bench, place, &pids, None, alone)?);
        side(&mut comparison, is_ours).push(measure(bench, place, &pids, Some(large), beside)?);
        Ok(())
    })?;
    facts(report, &comparison, transport(tls));
    report.compare(comparison);
    report.compare(idle);
    if !bench.options.access_log_off {
        inside(report, ours, transport(tls))?;
    }
    Ok(())
}

/// The small requests beside the large ones; the figure is the p99 of the small ones.
fn measure(bench: &Bench<'_>, place: &Place, pids: &[u32], large: Option<&Request>, small: &Request) -> Result<Sample> {
    let load = |request: &Request, connections, rate| Load {
        place: place.clone(),
        requests: vec![request.clone()],
        connections,
        rate,
        copying: bench.options.copy,
    };
    let done = AtomicBool::new(false);
    let mut downloads = large.map(|large| Driver::connect(load(large, 8, None))).transpose()?;
    let mut asking = Driver::connect(load(small, CONNECTIONS, Some(RATE)))?;
    if let Some(driver) = &mut downloads {
        driver.run(SLICE)?;
    }
    thread::scope(|scope| {
        let downloading = scope.spawn(|| {
            let mut bytes = 0;
            while let Some(driver) = downloads.as_mut().filter(|_| !done.load(Ordering::Relaxed)) {
                bytes += driver.run(SLICE)?.bytes;
            }
            anyhow::Ok(bytes)
        });
        let meter = Meter::start(pids);
        let asked = scope.spawn(|| {
            cpu::hurry();
            asking.run(bench.seconds())
        });
        let tally = asked.join();
        let spent = meter.and_then(|meter| meter.read());
        done.store(true, Ordering::Relaxed);
        let bytes = downloading.join().ok().context("the downloading panicked")??;
        let tally = tally.ok().context("the asking panicked")??;
        let latency = Latency::of(&tally.latency);
        Ok(Sample { figure: latency.p99, spent: spent?, answers: tally.answers, bytes, latency: Some(latency) })
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
