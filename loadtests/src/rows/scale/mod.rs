//! How the cost of an operation grows: with the blobs of a store, the tags of a repository, connections, and a blob's size.
//!
//! All steps of one axis are up at the same time and are measured by turns, so that their ratio is one of figures of the
//! same moments. Steps are servers of ours on stores that were filled beforehand ([`stores`]); [`asked`] has the requests.

mod asked;
mod stores;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Bench, Row};
use crate::baseline::ours::Ours;
use crate::client::Request;
use crate::compare::{Estimate, Measure, Verdict};
use crate::engine::{self, Side};
use crate::growth::{Flat, Series};
use crate::interrupt;
use crate::proc::mebibytes;
use crate::registry::{Content, Registry};
use crate::report::Report;
use crate::seed;

/// The last step in times of the first. Generous: of a million blobs hardly one is in the processor's caches, and a
/// neighbour's work shows.
const FLAT: Flat = Flat { limit: 1.5, from: 0.0 };
/// A connection that is alone leaves the server to sleep between its requests: the others count. The kernel's part of
/// 2000 sockets is in no cache either.
const FLAT_CONNECTIONS: Flat = Flat { limit: 2.0, from: 10.0 };
/// Below it the head of an answer weighs more than its bytes. In KiB.
const FLAT_SIZES: Flat = Flat { limit: 1.5, from: 1024.0 };
/// Blobs that are asked for in turns at each step.
const MOST_BLOBS: u32 = 64;
/// The same where it is to be more than any cache has.
const MANY_BLOBS: u64 = 5000;
/// Length of a slice.
const SLICE: Duration = Duration::from_millis(150);
/// Slices of each operation at each step, and the most of them while a ratio is too near to its limit.
const ROUNDS: u32 = 7;
const MOST_ROUNDS: u32 = 14;

/// An axis that costs are followed over. The one that leaves the disk most to do comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    /// Tags of one repository.
    Tags,
    /// Connections.
    Connections,
    /// Size of a blob.
    Sizes,
    /// Blobs of the store, in repositories of 1000.
    Blobs,
}

impl Axis {
    const ALL: [Self; 4] = [Self::Tags, Self::Connections, Self::Sizes, Self::Blobs];

    const fn over(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Tags => "tags of a repository",
            Self::Connections => "connections",
            Self::Sizes => "KiB of a blob",
        }
    }

    const fn steps(self) -> &'static [u64] {
        match self {
            Self::Blobs => &[100, 10_000, 100_000, 1_000_000],
            Self::Tags => &[10, 1000, 100_000],
            Self::Connections => &[1, 10, 100, 2000],
            Self::Sizes => &[1, 1024, 32 * 1024, 4 * 1024 * 1024],
        }
    }

    /// Whether `--most` bounds the steps.
    const fn is_bounded(self) -> bool {
        matches!(self, Self::Tags | Self::Blobs)
    }
}

/// One step of an axis.
#[derive(Clone, Copy, Debug)]
struct Step {
    axis: Axis,
    at: u64,
}

/// Runs all axes.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    report.condition("scale", format!("{ROUNDS} slices of {SLICE:?}, by turns over steps and operations"));
    report.condition("asked in turns", format!("10 images of 8 layers, {MOST_BLOBS} blobs, spread over the store"));
    report.condition("connections", "8 where they do not grow, closed loop; pushes on one");
    more_files();
    for axis in Axis::ALL {
        let most = if axis.is_bounded() { bench.options.most } else { u64::MAX };
        let steps: Vec<u64> = axis.steps().iter().copied().filter(|step| *step <= most).collect();
        let dir = bench.dir(&format!("{}-{axis:?}", row.name()))?;
        grow(&bench.options.server, axis, &dir, &steps, report)?;
        // Stores of one axis must not fill the disk of the next.
        for store in steps.iter().map(|step| dir.join(step.to_string()).join("store")).filter(|store| store.exists()) {
            seed::remove(&store)?;
        }
    }
    Ok(())
}

/// A connection is a file: as many as we may have.
fn more_files() {
    let limit = getrlimit(Resource::Nofile);
    // If it is refused, the step with most connections says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Server and content of a step.
#[derive(Debug)]
struct Subject {
    registry: Registry,
    server: Ours,
    /// Name, unit and value of what was seen on the way.
    facts: Vec<(&'static str, &'static str, f64)>,
    /// Repository and tag.
    images: Vec<(String, String)>,
    blobs: Vec<Content>,
    /// More of them than caches hold.
    many: Vec<Content>,
    /// The repository that is listed and pushed to.
    middle: String,
    /// The tag before the page that is asked for.
    page_after: String,
    /// The one blob that is asked for where sizes grow.
    sized: Option<Request>,
}

/// One operation at one step.
#[derive(Debug)]
struct Probe {
    operation: &'static str,
    step: u64,
    measure: Measure,
    flat: Option<Flat>,
}

/// Brings up all steps of an axis, measures them by turns and adds the lines. A step that fails is named, and the others
/// go on.
fn grow(program: &Path, axis: Axis, dir: &Path, steps: &[u64], report: &mut Report) -> Result<()> {
    let over = axis.over();
    let (mut subjects, mut reads, mut writes) = (Vec::new(), Vec::new(), Vec::new());
    for at in steps {
        interrupt::check()?;
        let step = Step { axis, at: *at };
        let ready = stores::prepare(program, &dir.join(at.to_string()), step).and_then(|subject| {
            let probes = (subject.reads(step)?, subject.writes(step)?);
            Ok((subject, probes))
        });
        match ready {
            Ok((subject, (more_reads, more_writes))) => {
                subjects.push((*at, subject));
                reads.extend(more_reads);
                writes.extend(more_writes);
            }
            Err(error) => {
                interrupt::check()?;
                report.failure(format!("{at} {over}"), format!("{error:#}"));
            }
        }
    }
    let mut lines = Vec::new();
    for mut probes in [reads, writes] {
        // Steps of an operation right after each other.
        let order: Vec<&str> = probes.iter().map(|(probe, _)| probe.operation).collect();
        probes.sort_by_key(|(probe, _)| order.iter().position(|operation| *operation == probe.operation));
        let (probes, mut sides): (Vec<Probe>, Vec<Side<'static>>) = probes.into_iter().unzip();
        lines.extend(measured(over, &probes, &mut sides)?);
        for (Probe { operation, step, .. }, side) in probes.iter().zip(&sides) {
            if let Some(error) = side.failure() {
                report.failure(format!("{operation} at {step} {over}"), format!("{error:#}"));
            }
        }
    }
    for (at, subject) in &subjects {
        let held = mebibytes(subject.server.process.memory()?.own);
        for (name, unit, value) in subject.facts.iter().chain([&("after the load, RssAnon+RssShmem", "MiB", held)]) {
            add(&mut lines, over, (name, unit), (*at, Estimate { median: *value, error: 0.0 }), None);
        }
    }
    report.series.extend(lines);
    Ok(())
}

/// Measures in the planned rounds, and in more while a ratio is too near to its limit.
fn measured(over: &'static str, probes: &[Probe], sides: &mut [Side<'static>]) -> Result<Vec<Series>> {
    let mut done = 0;
    loop {
        engine::measure(sides, done..done + ROUNDS, SLICE)?;
        done += ROUNDS;
        let lines = lines(over, probes, sides)?;
        let settled = lines.iter().filter_map(Series::verdict).all(Verdict::is_settled);
        if settled || done >= MOST_ROUNDS {
            return Ok(lines);
        }
    }
}

/// The lines of operations: CPU, then the latency of those that are shorter than a slice.
fn lines(over: &'static str, probes: &[Probe], sides: &[Side<'static>]) -> Result<Vec<Series>> {
    let (mut costs, mut latencies) = (Vec::new(), Vec::new());
    for (probe, side) in probes.iter().zip(sides).filter(|(_, side)| side.failure().is_none()) {
        let cost = Estimate::of(&side.figures(probe.measure));
        add(&mut costs, over, (probe.operation, probe.measure.unit()), (probe.step, cost), probe.flat);
        let latency = side.sum()?.and_then(|sum| sum.sample(Measure::P99Milliseconds).latency);
        if let Some(latency) = latency.filter(|_| probe.measure == Measure::CpuMicroseconds) {
            let p99 = Estimate { median: latency.p99, error: 0.0 };
            add(&mut latencies, over, (probe.operation, Measure::P99Milliseconds.unit()), (probe.step, p99), None);
        }
    }
    costs.append(&mut latencies);
    Ok(costs)
}

/// Adds a point to the line of that name and unit, or begins one.
fn add(
    lines: &mut Vec<Series>,
    over: &'static str,
    (name, unit): (&str, &'static str),
    (at, value): (u64, Estimate),
    flat: Option<Flat>,
) {
    let point = (at as f64, value);
    match lines.iter_mut().find(|line| line.name == name && line.unit == unit) {
        Some(line) => line.points.push(point),
        None => lines.push(Series { name: name.to_owned(), unit, over, points: vec![point], flat }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_all_steps_are_lines() {
        let mut lines = Vec::new();
        for (at, name, unit) in [(10, "start", "ms"), (10, "index", "MiB"), (100, "start", "ms")] {
            add(&mut lines, "tags", (name, unit), (at, Estimate { median: 1.0, error: 0.0 }), None);
        }
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].points.iter().map(|point| point.0).collect::<Vec<_>>(), [10.0, 100.0]);
        assert_eq!(lines[0].verdict(), None, "what may grow has no target");
    }
}
