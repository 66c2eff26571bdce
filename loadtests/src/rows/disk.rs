//! Latency of small durable appends, as etcd makes them, on the disk that fills and pushes are written to.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;

use super::cold::{empty, place_upstream, pull_at_once};
use super::{Bench, MAPPED, Row};
use crate::baseline::Process;
use crate::baseline::ours::{Ours, Setup, basic};
use crate::baseline::peer::{Kind, Peer};
use crate::client::upload::Fresh;
use crate::client::{Place, Request, Tally, Wire, histogram, nanoseconds, push};
use crate::compare::{Measure, Sum};
use crate::cpu::{self, Meter};
use crate::engine::{Contest, Side};
use crate::report::Report;

const FILLS: u64 = 8;
const PUSHES: u64 = 4;
/// Measurements of each side.
const ROUNDS: u32 = 4;
/// Bytes of an append: as etcd appends to its log.
const APPEND: usize = 2048;
const EVERY: Duration = Duration::from_millis(5);
/// Times of distribution's latency.
const LIMIT: f64 = 0.5;
/// Time that the disk is quiet before a measurement.
const QUIET: Duration = Duration::from_secs(1);
/// Time of the measurement of an idle disk.
const IDLE: Duration = Duration::from_secs(2);

/// During 8 cold fills and during 4 pushes; p99 and maximum.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let dir = bench.dir(&row.name())?;
    let idle = beside(&dir, &[], || {
        thread::sleep(IDLE);
        Ok(())
    })?;
    let [p99, max] = [Measure::P99Milliseconds, Measure::MaximumMilliseconds].map(|of| idle.sample(of).figure);
    report.fact("append and fdatasync, idle disk, p99", p99, "ms");
    report.fact("append and fdatasync, idle disk, maximum", max, "ms");
    fills(bench, report, row, &dir.join("fills"))?;
    std::fs::remove_dir_all(dir.join("fills")).context("remove the filled stores")?;
    pushes(bench, report, row, &dir.join("pushes"))
}

fn fills(bench: &Bench<'_>, report: &mut Report, row: Row, dir: &Path) -> Result<()> {
    let (_nginx, upstream, blobs) = bench.upstream(row, (false, None))?;
    let ours = bench.ours_before(&dir.join("ours"), "Proxy", &upstream)?;
    let theirs = Peer::start(Kind::Distribution, &dir.join("distribution"), Some(upstream.port))?;
    let fresh = RefCell::new(Fresh::new(bench.options.size));
    let fill = |round: u32, place: &Place, process: &Process, authorization: Option<&str>| {
        let mut pulls = Vec::new();
        for number in 0..FILLS {
            let number = (u64::from(round) * 2 + u64::from(authorization.is_some())) * FILLS + number;
            let digest = place_upstream(&mut fresh.borrow_mut(), number, &blobs)?;
            pulls.push((place.clone(), Request::get(&format!("/v2/{MAPPED}/blobs/{digest}"), authorization)));
        }
        quiet()?;
        let sum = beside(dir, &process.pids(), || pull_at_once(&pulls, None).map(drop));
        empty(&blobs)?;
        sum.with_context(|| broken_off(round, process))
    };
    let name = format!("append and fdatasync during {FILLS} cold fills of {} MiB", bench.options.size);
    let sides = [
        Side::operation(|round| fill(round, &ours.place, &ours.process, Some(&basic()))),
        Side::operation(|round| fill(round, &theirs.place, &theirs.process, None)),
    ];
    compare(bench, report, (row, name), (dir, FILLS), sides)
}

fn pushes(bench: &Bench<'_>, report: &mut Report, row: Row, dir: &Path) -> Result<()> {
    let store = dir.join("ours");
    let write_limit = bench.options.write_limit.as_deref();
    let ours = Ours::start(&Setup { write_limit, ..bench.setup(&store.join("store"), &store) })?;
    let theirs = Peer::start(Kind::Distribution, &dir.join("distribution"), None)?;
    let fresh = RefCell::new(Fresh::new(bench.options.size));
    let push_all = |round: u32, place: &Place, process: &Process, authorization: Option<&str>| {
        let mut contents = Vec::new();
        for number in 0..PUSHES {
            // Never one of the fills': the page cache would have it.
            let mut fresh = fresh.borrow_mut();
            let (content, digest) = fresh.content(1 << 32 | (u64::from(round) * PUSHES + number));
            contents.push((content.to_vec(), digest));
        }
        quiet()?;
        let at_once = || {
            at_once(&contents, |(content, digest)| {
                push(&mut Wire::connect(place)?, "load/pushed", content, digest, authorization)
            })
        };
        beside(dir, &process.pids(), at_once).with_context(|| broken_off(round, process))
    };
    let name = format!("append and fdatasync during {PUSHES} pushes of {} MiB", bench.options.size);
    let sides = [
        Side::operation(|round| push_all(round, &ours.place, &ours.process, Some(&basic()))),
        Side::operation(|round| push_all(round, &theirs.place, &theirs.process, None)),
    ];
    compare(bench, report, (row, name), (dir, PUSHES), sides)
}

/// p99 and maximum of the same measurements.
fn compare<'a>(
    bench: &Bench<'_>,
    report: &mut Report,
    (row, name): (Row, String),
    (dir, contents): (&Path, u64),
    [ours, theirs]: [Side<'a>; 2],
) -> Result<()> {
    let plan = bench.operations(ROUNDS);
    ensure_room(dir, u64::from(plan.most()) * 2 * contents * u64::from(bench.options.size))?;
    let mut contest = Contest::new(row.name());
    let sides = (contest.side(ours), contest.side(theirs));
    for measure in [Measure::P99Milliseconds, Measure::MaximumMilliseconds] {
        contest.pair(name.clone(), measure, sides, Kind::Distribution.name(), Some(LIMIT));
    }
    contest.run(plan, report)
}

/// Both sides keep all of their contents. On a full disk they would refuse some, which says nothing of latencies.
fn ensure_room(dir: &Path, wanted: u64) -> Result<()> {
    let disk = rustix::fs::statvfs(dir).with_context(|| format!("ask for the room in {}", dir.display()))?;
    let free = disk.f_bavail * disk.f_frsize / (1 << 20);
    ensure!(free > wanted, "the stores may take {wanted} MiB and {free} MiB are free; --scratch names another disk");
    Ok(())
}

fn at_once<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let running: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        running.into_iter().try_for_each(|one| one.join().ok().context("a client panicked")?)
    })
}

fn broken_off(round: u32, server: &Process) -> String {
    format!("round {} of {} went wrong; it said:\n{}", round + 1, server.name(), server.last_words())
}

/// Waits until earlier writes are on the disk, and lets the disk rest.
fn quiet() -> Result<()> {
    rustix::fs::sync();
    thread::sleep(QUIET);
    crate::interrupt::check()
}

/// Appends beside `work` and until its writes are on the disk.
fn beside(dir: &Path, pids: &[u32], work: impl FnOnce() -> Result<()>) -> Result<Sum> {
    let done = OnceLock::new();
    let path = dir.join("log");
    let meter = Meter::start(pids)?;
    let (result, latency) = thread::scope(|scope| {
        let appending = scope.spawn(|| {
            cpu::unpin();
            cpu::hurry();
            append(&path, Instant::now(), &done)
        });
        let result = work();
        rustix::fs::sync();
        let _ = done.set(Instant::now());
        (result, appending.join())
    });
    let spent = meter.read()?;
    result?;
    let histogram = latency.ok().context("the appending panicked")??;
    std::fs::remove_file(&path)?;
    Ok(Sum::of(spent, Tally { answers: histogram.len(), latency: histogram, ..Tally::nothing()? }))
}

/// Appends fall due at a fixed rate from `due` on; their latency counts from then. All that fall due before `end` are
/// made: those that a stall at the end keeps waiting are its worst.
fn append(path: &Path, mut due: Instant, end: &OnceLock<Instant>) -> Result<Histogram<u64>> {
    let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut latency = histogram()?;
    while end.get().is_none_or(|end| due < *end) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        file.write_all(&[7; APPEND])?;
        rustix::fs::fdatasync(&file)?;
        latency.saturating_record(nanoseconds(due.elapsed()));
        due += EVERY;
    }
    Ok(latency)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_that_waited_when_all_was_over_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (path, begin) = (dir.path().join("log"), Instant::now());
        let latency = append(&path, begin, &OnceLock::from(begin + 10 * EVERY)).unwrap();
        assert_eq!((latency.len(), std::fs::metadata(&path).unwrap().len()), (10, 10 * APPEND as u64));
        let begin = Instant::now().checked_sub(100 * EVERY).unwrap();
        let latency = append(&path, begin, &OnceLock::from(begin + 10 * EVERY)).unwrap();
        assert_eq!(latency.len(), 10);
        assert!(latency.min() >= 90 * nanoseconds(EVERY) * 99 / 100, "{} ns", latency.min());
    }
}
