//! Scenarios against any registry that runs already, ours or another: `pull-storm`, `manifests`, `handshakes`, `push`,
//! `mixed` and `soak`. Closed loop, or open loop at `--rate`.
//!
//! While a scenario pulls, a further connection takes one of the bodies after the other and checks its digest: a fast
//! wrong answer counts for nothing.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use d8_registry::oci::Algorithm;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};

use crate::compare::Latency;
use crate::cpu::{Meter, Spent};
use crate::client::driver::{Driver, Load, Tally, histogram, nanoseconds};
use crate::client::exchange::{self, Request, fetch};
use crate::growth::{SECONDS, Series};
use crate::rows::push::{Fresh, push};
use crate::interrupt;
use crate::proc::mebibytes;
use crate::registry::{Address, Content, Image, Registry};
use crate::report::{Report, Unit};
use crate::client::wire::Wire;

/// Looks at the memory of a soaking server.
const SOAK_SLICES: u32 = 50;
/// Between two bodies whose digests are checked while a scenario runs.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Of the progress bar, and of what waits for an end.
const TICK: Duration = Duration::from_millis(100);

/// What to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// All layers of an image, again and again.
    PullStorm,
    /// Its manifest: GET and HEAD, by tag and by digest.
    Manifests,
    /// A new connection for each GET of the manifest.
    Handshakes,
    /// New blobs.
    Push,
    /// Manifests and layers.
    Mixed,
    /// The same for long, with the server's memory over the time.
    Soak,
}

impl Scenario {
    const fn name(self) -> &'static str {
        match self {
            Self::PullStorm => "pull-storm",
            Self::Manifests => "manifests",
            Self::Handshakes => "handshakes",
            Self::Push => "push",
            Self::Mixed => "mixed",
            Self::Soak => "soak",
        }
    }
}

/// Against what, and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadOptions {
    #[command(flatten)]
    address: Address,
    #[command(flatten)]
    image: Image,
    /// Connections side by side.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Requests a second, pushes for `push`, connections for `handshakes` (open loop). Without it: as many as go
    /// (closed loop).
    #[arg(long, value_name = "PER-SECOND")]
    rate: Option<f64>,
    /// How long.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Size of a blob that is pushed, in MiB.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=2000))]
    size: u32,
}

/// Runs it.
pub(crate) fn run(scenario: Scenario, options: &LoadOptions) -> Result<Report> {
    ensure!(
        options.seconds > 0.0 && options.rate.is_none_or(|rate| rate > 0.0),
        "--seconds and --rate are more than 0"
    );
    let registry = Registry::reach(&options.address.url, &options.address.account, &options.image.repository)?;
    let mut report = Report::new(scenario.name());
    report.condition("registry", &options.address.url);
    report.condition("connections", options.connections);
    report.condition("loop", options.rate.map_or("closed".into(), |rate| format!("open, {rate} a second")));
    let running = Running { options, registry };
    match scenario {
        Scenario::Push => running.push(&mut report),
        Scenario::Handshakes => running.handshakes(&mut report),
        Scenario::Soak => running.mixed().and_then(|asked| running.soak(asked, &mut report)),
        Scenario::PullStorm => running.layers().and_then(|asked| running.drive(asked, &mut report)),
        Scenario::Manifests => running.manifests().and_then(|asked| running.drive(asked, &mut report)),
        Scenario::Mixed => running.mixed().and_then(|asked| running.drive(asked, &mut report)),
    }?;
    Ok(report)
}

/// A bar that fills while time passes.
pub(crate) fn time_bar(name: &str, seconds: f64) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {elapsed}/{len}s")?;
    Ok(ProgressBar::new(seconds.ceil() as u64).with_style(style).with_message(name.to_owned()))
}

/// What is asked in turns, and those of them whose bodies are known.
struct Asked {
    requests: Vec<Request>,
    known: Vec<Content>,
}

/// A scenario under way.
struct Running<'a> {
    options: &'a LoadOptions,
    registry: Registry,
}

impl Running<'_> {
    fn manifests(&self) -> Result<Asked> {
        let registry = &self.registry;
        let tag = &self.options.image.tag;
        let body = exchange::ask(&registry.place, &registry.manifest("GET", tag))?.body;
        let (digest, size) = (Algorithm::Sha256.digest(&body), body.len() as u64);
        let by_digest = digest.to_string();
        let ways = [("GET", tag), ("HEAD", tag), ("GET", &by_digest), ("HEAD", &by_digest)];
        let requests = ways.map(|(method, reference)| registry.manifest(method, reference)).to_vec();
        let known = requests.iter().filter(|request| !request.head_only());
        let known = known.map(|request| Content { request: request.clone(), digest, size }).collect();
        Ok(Asked { requests, known })
    }

    /// GETs of all layers, each checked once.
    fn layers(&self) -> Result<Asked> {
        let known = self.registry.blobs(&self.options.image.tag)?;
        for blob in &known {
            interrupt::check()?;
            exchange::verify(&self.registry.place, &blob.request, &blob.digest)?;
        }
        Ok(Asked { requests: known.iter().map(|blob| blob.request.clone()).collect(), known })
    }

    fn mixed(&self) -> Result<Asked> {
        let (mut all, layers) = (self.manifests()?, self.layers()?);
        all.requests.extend(layers.requests);
        all.known.extend(layers.known);
        Ok(all)
    }

    fn driver(&self, requests: Vec<Request>) -> Result<Driver> {
        Driver::connect(Load {
            place: self.registry.place.clone(),
            requests,
            connections: usize::try_from(self.options.connections)?,
            rate: self.options.rate,
            copying: true,
        })
    }

    fn drive(&self, asked: Asked, report: &mut Report) -> Result<()> {
        let mut driver = self.driver(asked.requests)?;
        let meter = Meter::start(&self.registry.pids)?;
        let work = || {
            let tally = driver.run(Duration::from_secs_f64(self.options.seconds))?;
            Ok((tally, meter.read()?))
        };
        let ((tally, spent), checked) = self.beside(report.scenario(), &asked.known, work)?;
        self.tell(report, &tally, spent)?;
        report.fact("bodies whose digests were checked meanwhile", checked as f64, Unit::Count);
        Ok(())
    }

    /// Runs `work` with a progress bar, and checks the digests of known bodies meanwhile, one after the other and at
    /// least one. How many that were.
    fn beside<T>(&self, name: &str, known: &[Content], work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
        let bar = time_bar(name, self.options.seconds)?;
        let done = AtomicBool::new(false);
        let place = &self.registry.place;
        let result = thread::scope(|scope| {
            let checking = scope.spawn(|| {
                let (mut checked, mut next) = (0_u64, Instant::now());
                let mut turns = known.iter().cycle();
                while !done.load(Ordering::Relaxed) {
                    if Instant::now() >= next
                        && let Some(content) = turns.next()
                    {
                        exchange::verify(place, &content.request, &content.digest)?;
                        checked += 1;
                        next = Instant::now() + CHECK_EVERY;
                    }
                    bar.set_position(bar.elapsed().as_secs());
                    thread::sleep(TICK);
                }
                anyhow::Ok(checked)
            });
            let result = work();
            done.store(true, Ordering::Relaxed);
            let checked = checking.join().ok().context("the checking panicked")?;
            Ok((result?, checked.context("a body was not what it has to be")?))
        });
        bar.finish_and_clear();
        result
    }

    fn soak(&self, asked: Asked, report: &mut Report) -> Result<()> {
        let mut driver = self.driver(asked.requests)?;
        let slice = Duration::from_secs_f64(self.options.seconds / f64::from(SOAK_SLICES));
        let mut all = Tally { answers: 0, bytes: 0, latency: histogram()?, took: Duration::ZERO };
        let meter = Meter::start(&self.registry.pids)?;
        let mut held = Vec::new();
        let work = || {
            for _ in 0..SOAK_SLICES {
                let tally = driver.run(slice)?;
                all.answers += tally.answers;
                all.bytes += tally.bytes;
                all.took += tally.took;
                all.latency.add(&tally.latency).context("histograms can't be added")?;
                if let Some(memory) = self.registry.memory()? {
                    held.push((all.took.as_secs_f64(), mebibytes(memory.own)));
                }
            }
            meter.read()
        };
        let (spent, checked) = self.beside(report.scenario(), &asked.known, work)?;
        self.tell(report, &all, spent)?;
        report.fact("bodies whose digests were checked meanwhile", checked as f64, Unit::Count);
        for (when, index) in [("after a tenth", held.len() / 10), ("half-way", held.len() / 2)] {
            if let Some((_, value)) = held.get(index) {
                report.fact(format!("RssAnon+RssShmem {when}"), *value, Unit::MebiBytes);
            }
        }
        if let Some(most) = held.iter().map(|(_, value)| *value).reduce(f64::max) {
            report.fact("RssAnon+RssShmem, most", most, Unit::MebiBytes);
            report.line(memory_line(held));
        }
        Ok(())
    }

    fn tell(&self, report: &mut Report, tally: &Tally, spent: Spent) -> Result<()> {
        let seconds = tally.took.as_secs_f64();
        report.fact("answers", tally.answers as f64, Unit::Count);
        report.fact("answers per second", tally.answers as f64 / seconds, Unit::PerSecond);
        report.fact("bodies", tally.bytes as f64 / 1e6 / seconds, Unit::MegabytesPerSecond);
        let latency = Latency::of(&tally.latency);
        let quantiles = [
            ("p50", latency.p50),
            ("p90", latency.p90),
            ("p99", latency.p99),
            ("p99.9", latency.p999),
            ("max", latency.max),
        ];
        for (name, value) in quantiles {
            report.fact(format!("latency, {name}"), value, Unit::Milliseconds);
        }
        report.fact("CPU of the machine per answer", spent.machine * 1e3 / tally.answers as f64, Unit::Milliseconds);
        if let Some(memory) = self.registry.memory()? {
            report.fact("CPU of the server per answer", spent.cpu * 1e3 / tally.answers as f64, Unit::Milliseconds);
            memory.add_to(report, ", at the end");
        }
        Ok(())
    }

    fn handshakes(&self, report: &mut Report) -> Result<()> {
        let asked = self.manifests()?;
        self.repeat(report, |_, since, latency| {
            let reply = fetch(&mut Wire::connect(&self.registry.place)?, &asked.requests[0], &[])?;
            latency.saturating_record(nanoseconds(since.elapsed()));
            ensure!(reply.status == 200, "{}", reply.answer.text());
            let found = Algorithm::Sha256.digest(&reply.body);
            ensure!(asked.known.first().is_none_or(|known| known.digest == found), "the manifest has become {found}");
            Ok(reply.body.len() as u64)
        })
    }

    fn push(&self, report: &mut Report) -> Result<()> {
        // Contents that no run before had.
        let base = RandomState::new().build_hasher().finish();
        let fresh = Fresh::new(self.options.size);
        let registry = &self.registry;
        self.repeat(report, |number, since, latency| {
            let mut fresh = fresh.clone();
            let (content, digest) = fresh.content(base.wrapping_add(number));
            // In a closed loop the client's own work is no part of it.
            let since = if self.options.rate.is_none() { Instant::now() } else { since };
            let authorization = registry.authorization.as_deref();
            push(&mut Wire::connect(&registry.place)?, &registry.repository, content, &digest, authorization)?;
            latency.saturating_record(nanoseconds(since.elapsed()));
            Ok(content.len() as u64)
        })
    }

    /// `work` over and over, on as many threads as there are to be connections; it is told since when it is due.
    fn repeat(
        &self,
        report: &mut Report,
        work: impl Fn(u64, Instant, &mut Histogram<u64>) -> Result<u64> + Sync,
    ) -> Result<()> {
        let started = Instant::now();
        let end = started + Duration::from_secs_f64(self.options.seconds);
        let meter = Meter::start(&self.registry.pids)?;
        let (work, next) = (&work, &AtomicU64::new(0));
        let one = || {
            let (mut latency, mut bytes) = (histogram()?, 0);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let since = due(started, number, self.options.rate);
                if since >= end {
                    break anyhow::Ok((latency, bytes));
                }
                // What is late is not left out: it shows as latency.
                while let Some(early) = since.checked_duration_since(Instant::now()).filter(|early| !early.is_zero()) {
                    interrupt::check()?;
                    thread::sleep(early.min(TICK));
                }
                interrupt::check()?;
                bytes += work(number, since, &mut latency)?;
            }
        };
        let (results, _) = self.beside(report.scenario(), &[], || {
            Ok(thread::scope(|scope| {
                let running: Vec<_> = (0..self.options.connections).map(|_| scope.spawn(one)).collect();
                running.into_iter().map(|one| one.join()).collect::<Vec<_>>()
            }))
        })?;
        let spent = meter.read()?;
        let mut all = Tally { answers: 0, bytes: 0, latency: histogram()?, took: started.elapsed() };
        for result in results {
            let (latency, bytes) = result.ok().context("a client panicked")??;
            all.latency.add(&latency).context("histograms can't be added")?;
            all.bytes += bytes;
        }
        all.answers = all.latency.len();
        self.tell(report, &all, spent)
    }
}

/// When work falls due: at a rate, or now.
fn due(started: Instant, number: u64, rate: Option<f64>) -> Instant {
    rate.map_or_else(Instant::now, |rate| started + Duration::from_secs_f64(number as f64 / rate))
}

/// Memory over the time of a run, in MiB.
pub(crate) fn memory_line(points: Vec<(f64, f64)>) -> Series {
    // A table of some columns says as much as one of all.
    let every = points.len().div_ceil(10).max(1);
    let points = points.into_iter().rev().step_by(every).collect::<Vec<_>>().into_iter().rev();
    let points = points.map(|(seconds, held)| ((seconds * 10.0).round() / 10.0, held)).collect();
    Series { name: "RssAnon+RssShmem".into(), unit: "MiB", over: SECONDS, points, flat: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_loop_is_due_at_its_rate_whatever_the_clock_says() {
        let started = Instant::now();
        assert_eq!(due(started, 0, Some(4.0)), started);
        assert_eq!(due(started, 6, Some(4.0)), started + Duration::from_millis(1500));
        assert!(due(started, 6, None) >= started);
    }

    #[test]
    fn a_line_of_memory_has_few_points_and_the_last_of_them() {
        let points = (1..=50).map(|second| (f64::from(second), f64::from(second) * 2.0)).collect();
        let line = memory_line(points);
        assert_eq!((line.points.len(), line.points.last()), (10, Some(&(50.0, 100.0))));
        assert_eq!(memory_line(vec![(0.04, 1.0)]).points, [(0.0, 1.0)]);
    }
}
