//! What etcd feels: small durable appends on the disk that fills and pushes are written to.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;

use super::cold::{empty, ours_before, place_upstream, pull_at_once};
use super::contest::{in_turns, new, side};
use super::push::{Fresh, push};
use super::{Bench, MAPPED, Row};
use crate::compare::{Comparison, Latency, Measure, Sample};
use crate::cpu::{self, Meter};
use crate::client::driver::{histogram, nanoseconds};
use crate::client::exchange::Request;
use crate::report::{Report, Unit};
use crate::client::wire::Wire;
use crate::baseline::Process;
use crate::baseline::distribution::Distribution;
use crate::baseline::ours::{Ours, Setup, basic};

const FILLS: u64 = 8;
const PUSHES: u64 = 4;
/// As etcd appends to its log.
const APPEND: usize = 2048;
const EVERY: Duration = Duration::from_millis(5);
/// Times of distribution's latency.
const LIMIT: f64 = 0.5;
/// The disk is quiet so long before a measurement.
const QUIET: Duration = Duration::from_secs(1);

/// During 8 cold fills and during 4 pushes; p99 and maximum.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let dir = bench.dir(&row.name())?;
    let (sample, _) = beside(&dir, &[], || {
        thread::sleep(bench.seconds());
        Ok(())
    })?;
    if let Some(latency) = sample.latency {
        report.fact("append and fdatasync, idle disk, p99", latency.p99, Unit::Milliseconds);
        report.fact("append and fdatasync, idle disk, maximum", latency.max, Unit::Milliseconds);
    }
    fills(bench, report, row, &dir)?;
    for store in ["proxy", "distribution-cache"] {
        let store = dir.join(store);
        std::fs::remove_dir_all(&store).with_context(|| format!("remove {}", store.display()))?;
    }
    pushes(bench, report, row, &dir)
}

/// Both sides keep all of their contents. On a full disk they would refuse some, which says nothing of latencies.
fn ensure_room(bench: &Bench<'_>, dir: &Path, contents_of_a_turn: u64) -> Result<()> {
    // A turn's contents may lie in an upstream as well.
    let turns = u64::from(bench.rounds()) * 2 + 1;
    let wanted = turns * contents_of_a_turn * u64::from(bench.options.size);
    let disk = rustix::fs::statvfs(dir).with_context(|| format!("ask for the room in {}", dir.display()))?;
    let free = disk.f_bavail * disk.f_frsize / (1 << 20);
    ensure!(free > wanted, "the stores will take {wanted} MiB and {free} MiB are free; --scratch names another disk");
    Ok(())
}

fn fills(bench: &Bench<'_>, report: &mut Report, row: Row, dir: &Path) -> Result<()> {
    ensure_room(bench, dir, FILLS)?;
    let (_nginx, upstream, blobs) = bench.upstream(row, false)?;
    let ours = ours_before(bench, &dir.join("proxy"), "Proxy", &upstream)?;
    let theirs = Distribution::start(&dir.join("distribution-cache"), Some(upstream.port))?;
    let mut fresh = Fresh::new(bench.options.size);
    let mut pair =
        Pair::new(row, &format!("append and fdatasync during {FILLS} cold fills of {} MiB", bench.options.size));
    in_turns(bench.rounds(), |round, is_ours| {
        let (place, pids) =
            if is_ours { (&ours.place, ours.process.pids()) } else { (&theirs.place, theirs.process.pids()) };
        let authorization = is_ours.then(basic);
        let mut pulls = Vec::new();
        for number in 0..FILLS {
            let number = (u64::from(round) * 2 + u64::from(is_ours)) * FILLS + number;
            let digest = place_upstream(&mut fresh, number, &blobs)?;
            let path = format!("/v2/{MAPPED}/blobs/{digest}");
            pulls.push((place.clone(), Request::get(&path, authorization.as_deref())));
        }
        quiet()?;
        let measured = beside(dir, &pids, || pull_at_once(&pulls).map(|_| ()));
        pair.add(
            is_ours,
            measured.with_context(|| broken_off(round, if is_ours { &ours.process } else { &theirs.process }))?,
        );
        empty(&blobs)
    })?;
    pair.tell(report);
    Ok(())
}

fn pushes(bench: &Bench<'_>, report: &mut Report, row: Row, dir: &Path) -> Result<()> {
    ensure_room(bench, dir, PUSHES)?;
    let folder = dir.join("local");
    let ours = Ours::start(&Setup {
        write_limit: bench.options.write_limit.as_deref(),
        ..bench.setup(&folder.join("store"), &folder)
    })?;
    let theirs = Distribution::start(&dir.join("distribution-store"), None)?;
    let mut fresh = Fresh::new(bench.options.size);
    let mut pair =
        Pair::new(row, &format!("append and fdatasync during {PUSHES} pushes of {} MiB", bench.options.size));
    in_turns(bench.rounds(), |round, is_ours| {
        let (place, pids) =
            if is_ours { (&ours.place, ours.process.pids()) } else { (&theirs.place, theirs.process.pids()) };
        let mut contents = Vec::new();
        for number in 0..PUSHES {
            // Never one of the fills': the page cache would have it.
            let (content, digest) = fresh.content(1 << 32 | (u64::from(round) * PUSHES + number));
            contents.push((content.to_vec(), digest));
        }
        quiet()?;
        let authorization = is_ours.then(basic);
        let push_all = || {
            at_once(&contents, |(content, digest)| {
                push(&mut Wire::connect(place)?, "load/pushed", content, digest, authorization.as_deref())
            })
        };
        let measured = beside(dir, &pids, push_all);
        pair.add(
            is_ours,
            measured.with_context(|| broken_off(round, if is_ours { &ours.process } else { &theirs.process }))?,
        );
        Ok(())
    })?;
    pair.tell(report);
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

/// p99 and maximum of the same measurements.
struct Pair {
    p99: Comparison,
    max: Comparison,
}

impl Pair {
    fn new(row: Row, name: &str) -> Self {
        let of = |measure| new(row, name, measure, "distribution", Some(LIMIT));
        Self { p99: of(Measure::P99Milliseconds), max: of(Measure::MaximumMilliseconds) }
    }

    fn add(&mut self, is_ours: bool, (sample, latency): (Sample, Latency)) {
        side(&mut self.p99, is_ours).push(sample);
        side(&mut self.max, is_ours).push(Sample { figure: latency.max, ..sample });
    }

    fn tell(self, report: &mut Report) {
        report.compare(self.p99);
        report.compare(self.max);
    }
}

/// What was written before is on the disk, and the disk rests.
fn quiet() -> Result<()> {
    rustix::fs::sync();
    thread::sleep(QUIET);
    crate::interrupt::check()
}

/// Appends beside `work` and until what that wrote is on the disk.
fn beside(dir: &Path, pids: &[u32], work: impl FnOnce() -> Result<()>) -> Result<(Sample, Latency)> {
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
    let latency = Latency::of(&histogram);
    let sample = Sample { figure: latency.p99, spent, answers: histogram.len(), bytes: 0, latency: Some(latency) };
    Ok((sample, latency))
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
