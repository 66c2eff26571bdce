//! Measuring in turns: each operation at each step in many short slices, one after the other and then all again, so that
//! a neighbour that takes the processor for some seconds hits a slice of each and not all slices of one. The median of
//! the slices counts.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use d8_registry::oci::Algorithm;
use hdrhistogram::Histogram;
use indicatif::ProgressBar;

use crate::compare::{Latency, median};
use crate::cpu::Meter;
use crate::client::driver::{Driver, Load, histogram, nanoseconds};
use crate::growth::Flat;
use crate::rows::push::push;
use crate::interrupt;
use crate::registry::Registry;
use crate::report::Report;
use crate::seed;
use crate::client::wire::Wire;

/// Before each slice: connections and caches are warm.
const WARM_UP: Duration = Duration::from_millis(30);
/// The same for each connection more.
const WARM_UP_EACH: Duration = Duration::from_micros(60);
/// A server is quiet that used less than this part of a moment.
const QUIET: f64 = 0.02;
const MOMENT: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(2);
/// Pushes of a slice: what grows must hardly grow by being measured.
const PUSHES: u64 = 12;
/// Bytes of a blob that is pushed.
const PUSHED: usize = 1024;

/// What a slice consists of.
#[derive(Debug)]
pub(super) enum Work {
    /// Requests in a closed loop.
    Asking(Load),
    /// Pushes, one after the other.
    Pushing(Box<Pushing>),
}

/// Something new for a repository, again and again.
#[derive(Debug)]
pub(super) struct Pushing {
    pub(super) registry: Registry,
    /// A manifest to push again with another annotation; None: blobs.
    pub(super) manifest: Option<Template>,
    /// Makes contents and tags new.
    pub(super) number: u64,
}

/// A manifest of many.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pub(super) media_type: String,
    /// Text with `@NUMBER@` in it.
    pub(super) text: String,
}

impl Template {
    /// One of them.
    pub(super) fn bytes(&self, number: u64) -> Vec<u8> {
        self.text.replace("@NUMBER@", &number.to_string()).into_bytes()
    }
}

/// One operation at one step, with what its slices said.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) operation: &'static str,
    pub(super) step: u64,
    pub(super) pids: Vec<u32>,
    pub(super) work: Work,
    pub(super) flat: Option<Flat>,
    /// Bytes count and not answers.
    pub(super) by_bytes: bool,
    costs: Vec<f64>,
    latency: Histogram<u64>,
}

impl Probe {
    /// Without slices yet.
    pub(super) fn new(operation: &'static str, step: u64, pids: &[u32], work: Work) -> Result<Self> {
        let (pids, latency) = (pids.to_vec(), histogram()?);
        Ok(Self { operation, step, pids, work, flat: None, by_bytes: false, costs: Vec::new(), latency })
    }

    /// CPU microseconds of an operation, or CPU seconds of a gigabyte; None if the processes are not known.
    pub(super) fn cost(&self) -> Option<f64> {
        (!self.costs.is_empty()).then(|| median(&self.costs))
    }

    /// From the request to the last byte of the answer; None of what took longer than the measurement.
    pub(super) fn latency(&self) -> Option<Latency> {
        (!self.by_bytes && !self.latency.is_empty()).then(|| Latency::of(&self.latency))
    }

    /// Connections are made anew for each slice, before it is measured: many idle ones of many steps would be more than a
    /// server takes, and longer than it keeps them. What is still under way at the end of one is waited for.
    fn slice(&mut self, length: Duration) -> Result<()> {
        let watch;
        let (answers, bytes) = match &mut self.work {
            Work::Asking(load) => {
                let mut driver = Driver::connect(load.clone())?;
                driver.run(WARM_UP + WARM_UP_EACH * u32::try_from(load.connections)?)?;
                watch = Meter::start(&self.pids)?;
                let tally = driver.run(length)?;
                self.latency.add(&tally.latency).context("histograms can't be added")?;
                (tally.answers, tally.bytes)
            }
            Work::Pushing(pushing) => {
                let mut wire = Wire::connect(&pushing.registry.place)?;
                pushing.push(&mut wire)?;
                watch = Meter::start(&self.pids)?;
                for _ in 0..PUSHES {
                    let begun = Instant::now();
                    pushing.push(&mut wire)?;
                    self.latency.saturating_record(nanoseconds(begun.elapsed()));
                }
                (PUSHES, 0)
            }
        };
        let cpu = watch.cpu()?;
        if !self.pids.is_empty() {
            self.costs.push(if self.by_bytes { cpu / (bytes as f64 / 1e9) } else { cpu * 1e6 / answers as f64 });
        }
        quiet(&self.pids)
    }
}

impl Pushing {
    fn push(&mut self, wire: &mut Wire) -> Result<()> {
        let Self { registry, manifest, number } = self;
        *number += 1;
        match manifest {
            Some(template) => {
                let tag = format!("pushed-{number}");
                registry.put_manifest(wire, &tag, &template.media_type, &template.bytes(*number))
            }
            None => {
                let content = seed::noise(*number, PUSHED);
                let digest = Algorithm::Sha256.digest(&content);
                push(wire, &registry.repository, &content, &digest, registry.authorization.as_deref())
            }
        }
    }
}

/// So many slices of each in turns. One that fails is named and left out from then on.
pub(super) fn measure(
    probes: &mut Vec<Probe>,
    slices: u32,
    length: Duration,
    over: &str,
    bar: &ProgressBar,
    report: &mut Report,
) -> Result<()> {
    let mut failed: Vec<(&'static str, u64)> = Vec::new();
    for slice in 0..slices {
        bar.set_message(format!("{over}: slice {} of {slices}", slice + 1));
        // To and fro: who is measured right after whom is not always the same.
        let order: Vec<usize> =
            if slice % 2 == 0 { (0..probes.len()).collect() } else { (0..probes.len()).rev().collect() };
        for index in order {
            interrupt::check()?;
            let probe = &mut probes[index];
            let named = (probe.operation, probe.step);
            if failed.contains(&named) {
                continue;
            }
            if let Err(error) = probe.slice(length) {
                interrupt::check()?;
                report.failure(format!("{} at {} {over}", probe.operation, probe.step), format!("{error:#}"));
                failed.push(named);
            }
            bar.tick();
        }
    }
    probes.retain(|probe| !failed.contains(&(probe.operation, probe.step)));
    Ok(())
}

/// Waits until what was still under way is done: it must not be charged to the next.
fn quiet(pids: &[u32]) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !pids.is_empty() && Instant::now() < end {
        let watch = Meter::start(pids)?;
        thread::sleep(MOMENT);
        if watch.cpu()? < QUIET * MOMENT.as_secs_f64() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_of_a_template_differ_by_their_number() {
        let template = Template { media_type: "a/b".into(), text: r#"{"x":"@NUMBER@"}"#.into() };
        assert_eq!(template.bytes(7), br#"{"x":"7"}"#);
        assert_ne!(template.bytes(7), template.bytes(8));
    }

    #[test]
    fn the_median_of_the_slices_counts() {
        let driverless = Work::Pushing(Box::new(unconnected()));
        let mut probe = Probe::new("push", 10, &[], driverless).unwrap();
        assert!(probe.cost().is_none() && probe.latency().is_none());
        probe.costs = vec![4.0, 90.0, 5.0];
        assert_eq!(probe.cost(), Some(5.0));
        probe.latency.saturating_record(2_000_000);
        assert!((probe.latency().unwrap().p50 - 2.0).abs() < 0.01);
        probe.by_bytes = true;
        assert!(probe.latency().is_none(), "an answer may be longer than a slice");
    }

    fn unconnected() -> Pushing {
        let place = crate::client::wire::Place::local(1, None);
        let registry = Registry { place, repository: "a".into(), authorization: None, pids: Vec::new() };
        Pushing { registry, manifest: None, number: 0 }
    }
}
