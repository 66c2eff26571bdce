//! `soak`: manifests (GET and HEAD, by tag and by digest) and layers of an image, from any registry that runs already, in
//! a closed loop or at a rate, with the registry's memory over the time.
//!
//! Meanwhile a further connection takes one of the bodies after the other and checks its digest: a fast wrong answer
//! counts for nothing.

use std::net::ToSocketAddrs as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use d8_registry::oci::Algorithm;
use http::Uri;

use crate::certificates::Certificate;
use crate::client::{Driver, Load, Place, Request, Tally, ask, verify};
use crate::compare::{Estimate, Latency};
use crate::cpu::{self, Meter, Spent};
use crate::growth::{SECONDS, Series};
use crate::interrupt;
use crate::proc::mebibytes;
use crate::registry::{Content, Registry};
use crate::report::Report;

/// Looks at the memory: as many as a table has columns for.
const LOOKS: u32 = 10;
/// Pause between two bodies whose digests are checked.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Pause between two looks whether the load is over.
const TICK: Duration = Duration::from_millis(100);

/// Against what, and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct SoakOptions {
    /// The registry, as http://host:port or https://host:port.
    #[arg(long)]
    url: Uri,
    /// User and password, sent as Basic.
    #[arg(short, long, value_name = "USER:PASSWORD")]
    user: Option<String>,
    /// The authority, or the certificate itself, that an https registry is trusted by.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The registry's process, for its CPU and memory; its children count too.
    #[arg(long)]
    pid: Option<u32>,
    /// The image's repository.
    #[arg(long, default_value = "load/r00000")]
    repository: String,
    /// The image's tag.
    #[arg(long, default_value = "v000000")]
    tag: String,
    /// Connections side by side.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Requests a second (open loop). Without it: as many as go (closed loop).
    #[arg(long, value_name = "PER-SECOND")]
    rate: Option<f64>,
    /// How long.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

/// Runs it.
pub(crate) fn run(options: &SoakOptions) -> Result<Report> {
    let positive = options.seconds > 0.0 && options.rate.is_none_or(|rate| rate > 0.0);
    ensure!(positive, "--seconds and --rate are more than 0");
    let registry = registry(options)?;
    let mut report = Report::new("soak");
    report.condition("registry", &options.url);
    report.condition("connections", options.connections);
    report.condition("loop", options.rate.map_or("closed".into(), |rate| format!("open, {rate} a second")));
    let (requests, known) = asked(&registry, &options.tag)?;
    let connections = usize::try_from(options.connections)?;
    let (place, rate) = (registry.place.clone(), options.rate);
    let mut driver = Driver::connect(Load { place, requests, connections, rate, copying: true })?;
    let part = Duration::from_secs_f64(options.seconds / f64::from(LOOKS));
    let (mut all, mut held) = (Tally::nothing()?, Vec::new());
    let meter = Meter::start(&registry.pids)?;
    let ((), checked) = checking(&registry, &known, || {
        for _ in 0..LOOKS {
            let tally = driver.run(part)?;
            all.answers += tally.answers;
            all.bytes += tally.bytes;
            all.took += tally.took;
            all.latency.add(&tally.latency).context("histograms can't be added")?;
            if let Some(memory) = registry.memory()? {
                held.push((all.took.as_secs_f64(), mebibytes(memory.own)));
            }
        }
        Ok(())
    })?;
    tell(&registry, &mut report, &all, meter.read()?)?;
    report.fact("bodies whose digests were checked meanwhile", checked as f64, "");
    if !held.is_empty() {
        report.series.push(memory_line(&held));
    }
    Ok(report)
}

fn registry(options: &SoakOptions) -> Result<Registry> {
    let tls = match options.url.scheme_str() {
        Some("http") => None,
        Some("https") => {
            let cert_file = options.ca.clone().context("https needs --ca")?;
            Some(Certificate { key_file: PathBuf::new(), cert_file }.client(false)?)
        }
        _ => bail!("the URL has to begin with http:// or https://"),
    };
    let authority = options.url.authority().context("the URL has no host")?;
    let port = authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let address = (authority.host(), port).to_socket_addrs()?.next().context("the host has no address")?;
    let authorization = options.user.as_ref().map(|user| format!("Basic {}", STANDARD.encode(user)));
    let pids = options.pid.map(cpu::family).unwrap_or_default();
    Ok(Registry { place: Place { address, tls }, repository: options.repository.clone(), authorization, pids })
}

/// The requests, and those of them whose bodies are known; each layer is checked once.
fn asked(registry: &Registry, tag: &str) -> Result<(Vec<Request>, Vec<Content>)> {
    let body = ask(&registry.place, &registry.manifest("GET", tag))?.body;
    let digest = Algorithm::Sha256.digest(&body);
    let mut known = registry.blobs(tag)?;
    for blob in &known {
        interrupt::check()?;
        verify(&registry.place, &blob.request, &blob.digest)?;
    }
    let mut requests: Vec<Request> = known.iter().map(|blob| blob.request.clone()).collect();
    for reference in [tag, &digest.to_string()] {
        let request = registry.manifest("GET", reference);
        known.push(Content { request: request.clone(), digest });
        requests.extend([request, registry.manifest("HEAD", reference)]);
    }
    Ok((requests, known))
}

/// Runs `work` and checks the digests of known bodies meanwhile, one after the other and at least one. Returns their
/// number.
fn checking<T>(registry: &Registry, known: &[Content], work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let checking = scope.spawn(|| {
            let (mut checked, mut next) = (0_u64, Instant::now());
            let mut turns = known.iter().cycle();
            while !done.load(Ordering::Relaxed) {
                if Instant::now() >= next
                    && let Some(content) = turns.next()
                {
                    verify(&registry.place, &content.request, &content.digest)?;
                    checked += 1;
                    next = Instant::now() + CHECK_EVERY;
                }
                thread::sleep(TICK);
            }
            anyhow::Ok(checked)
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let checked = checking.join().ok().context("the checking panicked")?;
        Ok((result?, checked.context("a body was not what it has to be")?))
    })
}

fn tell(registry: &Registry, report: &mut Report, tally: &Tally, spent: Spent) -> Result<()> {
    let seconds = tally.took.as_secs_f64();
    report.fact("answers", tally.answers as f64, "");
    report.fact("answers per second", tally.answers as f64 / seconds, "/s");
    report.fact("bodies", tally.bytes as f64 / 1e6 / seconds, "MB/s");
    let Latency { p50, p90, p99, p999, max, .. } = Latency::of(&tally.latency);
    for (name, value) in [("p50", p50), ("p90", p90), ("p99", p99), ("p99.9", p999), ("max", max)] {
        report.fact(format!("latency, {name}"), value, "ms");
    }
    report.fact("CPU of the machine per answer", spent.machine * 1e3 / tally.answers as f64, "ms");
    if let Some(memory) = registry.memory()? {
        report.fact("CPU of the registry per answer", spent.cpu * 1e3 / tally.answers as f64, "ms");
        memory.add_to(report, ", at the end");
    }
    Ok(())
}

/// Memory over the time of a run, in MiB.
fn memory_line(held: &[(f64, f64)]) -> Series {
    let point =
        |(seconds, held): &(f64, f64)| ((seconds * 10.0).round() / 10.0, Estimate { median: *held, error: 0.0 });
    let points = held.iter().map(point).collect();
    Series { name: "RssAnon+RssShmem".into(), unit: "MiB", over: SECONDS, points, flat: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_memory_is_over_tenths_of_seconds() {
        let line = memory_line(&[(0.04, 1.0), (1.26, 2.0)]);
        assert_eq!(
            line.points.iter().map(|point| (point.0, point.1.median)).collect::<Vec<_>>(),
            [(0.0, 1.0), (1.3, 2.0)]
        );
        assert!(line.growth().is_some() && line.verdict().is_none());
    }
}
