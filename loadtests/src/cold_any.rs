//! `cold-storm --url`: many clients pull all layers of an image at the same moment, from any registry. What is cold is
//! up to who starts it: a pull-through cache that was not asked for the image before.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use d8_registry::oci::{Algorithm, Hasher};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cpu::Meter;
use crate::client::exchange;
use crate::registry::{Image, Registry, peak_while};
use crate::report::{Report, Target, Unit};
use crate::client::wire::Wire;

/// So many clients at once; a thread each.
pub(crate) fn run(registry: &Registry, image: &Image, clients: u32, report: &mut Report) -> Result<()> {
    report.condition("clients", clients);
    if let Some(memory) = registry.memory()? {
        memory.add_to(report, ", before");
    }
    let style = ProgressStyle::with_template("{msg} {bytes} {bytes_per_sec} {elapsed}")?;
    let bar = ProgressBar::new_spinner().with_style(style).with_message("cold-storm");
    let meter = Meter::start(&registry.pids)?;
    let start = Barrier::new(usize::try_from(clients)?);
    let ((pulled, spent), peak) = peak_while(registry, || {
        let pulled = thread::scope(|scope| {
            let running: Vec<_> = (0..clients).map(|_| scope.spawn(|| pull(registry, image, &start, &bar))).collect();
            running.into_iter().map(|one| one.join()).collect::<Vec<_>>()
        });
        Ok((pulled, meter.read()?))
    })?;
    bar.finish_and_clear();
    let (mut done, mut failed) = (Vec::new(), None);
    for one in pulled {
        match one.ok().context("a client panicked")? {
            Ok(one) => done.push(one),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if let Some(error) = failed {
        report.failure("a client".into(), format!("{error:#}"));
    }
    // Whose pull broke off or was wrong is not among them.
    report.judge("clients with all digests right", done.len() as f64, Unit::Count, Target::Exactly(f64::from(clients)));
    done.sort_by_key(|one| one.took);
    if let (Some(first), Some(last)) = (done.first(), done.last()) {
        let bytes: u64 = done.iter().map(|one| one.bytes).sum();
        report.fact("blobs of the image", last.blobs as f64, Unit::Count);
        report.fact("bytes of a client", last.bytes as f64 / 1e6, Unit::Megabytes);
        report.fact("first done", first.took.as_secs_f64() * 1e3, Unit::Milliseconds);
        report.fact("median done", done[done.len() / 2].took.as_secs_f64() * 1e3, Unit::Milliseconds);
        report.fact("last done", last.took.as_secs_f64() * 1e3, Unit::Milliseconds);
        report.fact("all bodies", bytes as f64 / 1e6 / last.took.as_secs_f64(), Unit::MegabytesPerSecond);
        report.fact("CPU of the machine", spent.machine * 1e3, Unit::Milliseconds);
        if let Some(peak) = peak {
            report.fact("CPU of the registry", spent.cpu * 1e3, Unit::Milliseconds);
            report.fact("CPU of the registry for a GB", spent.cpu * 1e3 / (bytes as f64 / 1e9), Unit::Milliseconds);
            peak.add_to(report, ", most");
        }
    }
    Ok(())
}

/// What one client got.
#[derive(Debug)]
struct Pulled {
    took: Duration,
    bytes: u64,
    blobs: usize,
}

/// The manifest, then all it names, one after the other on one connection; each digest is checked.
fn pull(registry: &Registry, image: &Image, start: &Barrier, bar: &ProgressBar) -> Result<Pulled> {
    let wire = Wire::connect(&registry.place);
    start.wait();
    let mut wire = wire?;
    let started = Instant::now();
    let blobs = registry.blobs(&image.tag)?;
    let mut bytes = 0;
    for blob in &blobs {
        wire.send(blob.request.bytes())?;
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let answer = exchange::read(&mut wire, false, &mut |piece| {
            hasher.update(piece);
            bytes += piece.len() as u64;
            bar.inc(piece.len() as u64);
        })?;
        ensure!(answer.status() == 200, "{}: {}", blob.digest, answer.text());
        let found = hasher.finish();
        ensure!(found == blob.digest, "{} came as {found}", blob.digest);
        if answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            wire = Wire::connect(&registry.place)?;
        }
    }
    Ok(Pulled { took: started.elapsed(), bytes, blobs: blobs.len() })
}
