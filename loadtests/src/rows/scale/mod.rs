//! How the cost of an operation grows: with the blobs of a store, the tags of a repository, connections, and a blob's size.
//!
//! All steps of one axis are up at the same time and are measured in turns ([`turns`]), so that their ratio is one of
//! figures of the same moments. Steps are servers of ours on stores that were filled beforehand ([`stores`]), or, with
//! `--url`, repositories of any registry that are pushed to ([`pushed`]); [`asked`] has what is measured.

mod asked;
mod pushed;
mod stores;
mod turns;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use http::Uri;
use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cpu;
use crate::client::exchange::Request;
use crate::growth::{Flat, Series};
use crate::interrupt;
use crate::proc::mebibytes;
use crate::registry::{Account, Content, Registry};
use crate::report::Report;
use crate::seed;
use crate::baseline::ours::Ours;
use turns::Probe;

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
/// Why there is no such axis of any registry.
const OF_ANY: &str = "blobs are not grown over HTTP: a million pushes say nothing that fewer do not";

/// What grows. The one that leaves the disk most to do comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
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
    const fn over(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Tags => "tags of a repository",
            Self::Connections => "connections",
            Self::Sizes => "KiB of a blob",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Tags => "tags",
            Self::Connections => "connections",
            Self::Sizes => "sizes",
        }
    }

    /// All of them, or those that any registry can be brought to.
    const fn steps(self, any: Option<&Uri>) -> &'static [u64] {
        match (self, any.is_some()) {
            (Self::Blobs, false) => &[100, 10_000, 1_000_000],
            (Self::Blobs, true) => &[],
            (Self::Tags, _) => &[10, 100, 1000, 10_000, 100_000],
            (Self::Connections, _) => &[1, 10, 100, 1000, 2000],
            (Self::Sizes, false) => &[1, 32, 1024, 32 * 1024, 1024 * 1024, 4 * 1024 * 1024],
            (Self::Sizes, true) => &[1, 32, 1024, 32 * 1024, 64 * 1024],
        }
    }

    /// The most that any registry is brought to without being asked for more: pushes take their time.
    const fn usual(self) -> u64 {
        match self {
            Self::Tags | Self::Blobs => 1000,
            Self::Connections | Self::Sizes => u64::MAX,
        }
    }
}

/// One step of an axis.
#[derive(Clone, Copy, Debug)]
struct Step {
    axis: Axis,
    at: u64,
}

/// What to run it with.
#[derive(Args, Clone, Debug)]
pub(crate) struct ScaleOptions {
    /// The server: a release build of d8-registry.
    #[arg(long, value_name = "PROGRAM", required_unless_present = "url", conflicts_with = "url")]
    server: Option<PathBuf>,
    /// A registry that runs already, http://host:port or https://host:port: tags, connections and sizes, pushed over HTTP.
    #[arg(long)]
    url: Option<Uri>,
    #[command(flatten)]
    account: Account,
    /// With --url: what is pushed goes to repositories with names that begin so, and stays there.
    #[arg(long, default_value = "load/scale")]
    repository: String,
    /// Only these (default: all).
    #[arg(long = "axis", value_enum)]
    axes: Vec<Axis>,
    /// No step above this (default: all; with --url 1000 tags). A million blobs take about 8 GiB and some minutes.
    #[arg(long)]
    most: Option<u64>,
    /// How long each operation is measured at each step, in seconds, all slices together.
    #[arg(long, default_value_t = 1.05)]
    seconds: f64,
    /// Slices of it.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    slices: u32,
    /// Where stores are made (default: the folder for temporary files).
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

impl ScaleOptions {
    /// As with nothing but a server.
    pub(crate) fn new(server: PathBuf, scratch: Option<PathBuf>) -> Self {
        let account = Account { user: None, ca: None, pid: None };
        let repository = String::new();
        let (axes, most) = (Vec::new(), None);
        Self { server: Some(server), url: None, account, repository, axes, most, seconds: 1.05, slices: 7, scratch }
    }
}

/// Runs it.
pub(crate) fn run(options: &ScaleOptions) -> Result<Report> {
    ensure!(options.seconds > 0.0 && options.seconds <= 600.0, "--seconds has to be more than 0, at most 600");
    let mut report = Report::new("scale");
    report.condition("slices, in turns over steps and operations", options.slices);
    report.condition("seconds of a slice", format!("{:.3}", options.seconds / f64::from(options.slices)));
    match &options.url {
        Some(url) => report.condition("registry", url),
        None => report.condition("server", "users on, access log to a file, one worker"),
    }
    report.condition("asked in turns", format!("10 images of 8 layers, {MOST_BLOBS} blobs, spread over the store"));
    report.condition("connections", "8 where they do not grow, closed loop; pushes on one");
    more_files();
    if options.url.is_none() {
        cpu::pin(cpu::CLIENT_CORE);
    }
    let axes = if options.axes.is_empty() { Axis::value_variants().to_vec() } else { options.axes.clone() };
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    for axis in axes {
        let most = options.most.unwrap_or(if options.url.is_some() { axis.usual() } else { u64::MAX });
        let steps: Vec<u64> = axis.steps(options.url.as_ref()).iter().copied().filter(|step| *step <= most).collect();
        if steps.is_empty() {
            if !options.axes.is_empty() {
                let why = if axis == Axis::Blobs { OF_ANY } else { "no step is so small" };
                report.failure(axis.over().to_owned(), why.to_owned());
            }
            continue;
        }
        // A folder for each: what one axis wrote must not fill the disk of the next.
        let scratch = match &options.scratch {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        };
        let scratch = scratch.context("the folder for the stores can't be made")?;
        Growing { options, axis, dir: scratch.path(), bar: &bar }.run(&steps, &mut report)?;
        bar.set_message(format!("{}: removing what was stored", axis.over()));
        for step in &steps {
            let store = scratch.path().join(step.to_string()).join("store");
            if store.exists() {
                seed::remove(&store)?;
            }
        }
        scratch.close().context("the folder of the stores can't be removed")?;
    }
    bar.finish_and_clear();
    Ok(report)
}

/// A connection is a file: as many as we may have.
fn more_files() {
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused, the step with most connections says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// What a step is measured on.
#[derive(Debug)]
struct Subject {
    registry: Registry,
    /// Ours, if we started one.
    server: Option<Ours>,
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
    /// Where sizes grow: the one blob, and nothing else is asked for.
    sized: Option<Request>,
}

impl Subject {
    fn new(registry: Registry) -> Self {
        let (facts, images, blobs, many) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (middle, page_after) = (String::new(), String::new());
        Self { registry, server: None, facts, images, blobs, many, middle, page_after, sized: None }
    }

    fn fact(&mut self, name: &'static str, unit: &'static str, value: f64) {
        self.facts.push((name, unit, value));
    }
}

/// One axis.
struct Growing<'a> {
    options: &'a ScaleOptions,
    axis: Axis,
    dir: &'a Path,
    bar: &'a ProgressBar,
}

impl Growing<'_> {
    /// Brings up all steps, measures them in turns and adds the lines. A step that fails is named, and the others go on.
    fn run(&self, steps: &[u64], report: &mut Report) -> Result<()> {
        let (mut subjects, mut reads, mut writes) = (Vec::new(), Vec::new(), Vec::new());
        for at in steps {
            interrupt::check()?;
            self.bar.set_message(format!("{at} {}: getting ready", self.axis.over()));
            let step = Step { axis: self.axis, at: *at };
            let ready = self.prepare(step).and_then(|subject| {
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
                    report.failure(format!("{at} {}", self.axis.over()), format!("{error:#}"));
                }
            }
        }
        let length = Duration::from_secs_f64(self.options.seconds / f64::from(self.options.slices));
        for probes in [&mut reads, &mut writes] {
            // Steps of an operation right after each other.
            let order: Vec<&str> = probes.iter().map(|probe| probe.operation).collect();
            probes.sort_by_key(|probe| order.iter().position(|operation| *operation == probe.operation));
            turns::measure(probes, self.options.slices, length, self.axis.over(), self.bar, report)?;
        }
        reads.append(&mut writes);
        let facts = facts(&subjects)?;
        lines(self.axis.over(), &reads, &facts).into_iter().for_each(|line| report.line(line));
        Ok(())
    }

    fn prepare(&self, step: Step) -> Result<Subject> {
        match (&self.options.url, &self.options.server) {
            (Some(url), _) => {
                let repository = pushed::repository(&self.options.repository, step);
                let registry = Registry::reach(url, &self.options.account, &repository)?;
                pushed::prepare(registry, step, self.bar)
            }
            (None, Some(program)) => stores::prepare(program, &self.dir.join(step.at.to_string()), step),
            (None, None) => anyhow::bail!("neither --server nor --url"),
        }
    }
}

/// Step, name, unit and value.
type Fact = (u64, &'static str, &'static str, f64);

/// What was seen of all steps before and after the load.
fn facts(subjects: &[(u64, Subject)]) -> Result<Vec<Fact>> {
    let mut all = Vec::new();
    for (at, subject) in subjects {
        all.extend(subject.facts.iter().map(|(name, unit, value)| (*at, *name, *unit, *value)));
        if let Some(server) = &subject.server {
            let held = mebibytes(server.process.memory()?.own);
            all.push((*at, "after the load, RssAnon+RssShmem", "MiB", held));
        }
    }
    Ok(all)
}

/// The lines of an axis: what operations cost, how long they take, what else was seen.
fn lines(over: &'static str, probes: &[Probe], facts: &[Fact]) -> Vec<Series> {
    let mut lines: Vec<Series> = Vec::new();
    let mut add = |name: &str, unit: &'static str, at: u64, value: f64, flat: Option<Flat>| {
        let point = (at as f64, value);
        match lines.iter_mut().find(|line| line.name == name && line.unit == unit) {
            Some(line) => line.points.push(point),
            None => lines.push(Series { name: name.to_owned(), unit, over, points: vec![point], flat }),
        }
    };
    for probe in probes {
        let unit = if probe.by_bytes { "CPU-s/GB" } else { "CPU-us" };
        if let Some(cost) = probe.cost() {
            add(probe.operation, unit, probe.step, cost, probe.flat);
        }
    }
    for (quantile, unit) in [(false, "ms, p50"), (true, "ms, p99")] {
        for probe in probes {
            if let Some(latency) = probe.latency() {
                let value = if quantile { latency.p99 } else { latency.p50 };
                add(probe.operation, unit, probe.step, value, None);
            }
        }
    }
    for (at, name, unit, value) in facts {
        add(name, unit, *at, *value, None);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_grow_and_any_registry_is_spared_the_largest() {
        let url: Uri = "http://127.0.0.1:1".parse().unwrap();
        for axis in Axis::value_variants() {
            for steps in [axis.steps(None), axis.steps(Some(&url))] {
                assert!(steps.is_sorted_by(|one, next| one < next), "{steps:?}");
            }
        }
        assert!(Axis::Blobs.steps(Some(&url)).is_empty());
        assert!(Axis::Sizes.steps(Some(&url)).iter().all(|kib| *kib <= 64 * 1024));
    }

    #[test]
    fn facts_of_all_steps_are_lines() {
        let facts = [(10, "start", "ms", 1.0), (10, "index", "MiB", 7.0), (100, "start", "ms", 2.0)];
        let lines = lines("tags", &[], &facts);
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (lines[0].name.as_str(), lines[0].points.as_slice()),
            ("start", [(10.0, 1.0), (100.0, 2.0)].as_slice())
        );
        assert_eq!(lines[0].met(), None, "what may grow has no target");
    }
}
