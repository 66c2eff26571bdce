//! Many clients pull one blob that the cache does not have yet.

use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use d8_registry::oci::Digest;

use super::contest::{new, operations};
use super::push::Fresh;
use super::{Bench, MAPPED, Row};
use crate::compare::{Measure, Sample, Sum, median};
use crate::cpu::{self, Meter};
use crate::client::driver::Tally;
use crate::client::exchange::{self, Request, SCRATCH};
use crate::report::{Report, Target, Unit};
use crate::client::wire::{Place, Wire};
use crate::baseline::distribution::Distribution;
use crate::baseline::nginx::Upstream;
use crate::baseline::ours::{Ours, Setup, basic};

const CLIENTS: usize = 8;
/// Cold pulls of each side for a round of a load.
pub(super) const TURNS: u32 = 2;
/// Times of distribution's CPU.
const LIMIT: f64 = 0.35;

/// Our server in front of an upstream.
pub(crate) fn ours_before(bench: &Bench<'_>, dir: &Path, mode: &str, upstream: &Upstream) -> Result<Ours> {
    let write_limit = bench.options.write_limit.as_deref();
    Ours::start(&Setup { upstream: Some((mode, upstream)), write_limit, ..bench.setup(&dir.join("store"), dir) })
}

/// CPU for all clients; GETs that the upstream sees.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let (nginx, upstream, blobs) = bench.upstream(row, false)?;
    let dir = bench.dir(&row.name())?;
    let ours = ours_before(bench, &dir.join("ours"), "Proxy", &upstream)?;
    let theirs = Distribution::start(&dir.join("distribution"), Some(upstream.port))?;
    let mut fresh = Fresh::new(bench.options.size);
    let name = format!("cold pull of {} MiB through Proxy, {CLIENTS} clients", bench.options.size);
    let mut comparison = new(row, &name, Measure::CpuSeconds, "distribution", Some(LIMIT));
    let mut gets = [Vec::new(), Vec::new()];
    operations(&mut comparison, bench.rounds() * TURNS, |turn, is_ours| {
        // One of its own for each side: the upstream's log tells them apart.
        let digest = place_upstream(&mut fresh, u64::from(turn) * 2 + u64::from(is_ours), &blobs)?;
        let path = format!("/v2/{MAPPED}/blobs/{digest}");
        let (place, pids) =
            if is_ours { (&ours.place, ours.process.pids()) } else { (&theirs.place, theirs.process.pids()) };
        let authorization = is_ours.then(basic);
        let request = Request::get(&path, authorization.as_deref());
        bench.before_storing(&pids)?;
        let meter = Meter::start(&pids)?;
        let pulls = vec![(place.clone(), request.clone()); CLIENTS];
        let wall = pull_at_once(&pulls)?;
        // What is written and synced after the last byte was sent belongs to it.
        cpu::settle(&pids)?;
        let mut spent = meter.read()?;
        spent.wall = wall.as_secs_f64();
        let bytes = u64::from(bench.options.size) * (1 << 20) * CLIENTS as u64;
        gets[usize::from(is_ours)].push(nginx.gets(&path)? as f64);
        exchange::verify(place, &request, &digest)?;
        empty(&blobs)?;
        Ok(Sum::of(spent, Tally { answers: CLIENTS as u64, bytes, ..Tally::nothing()? }))
    })?;
    let walls = |side: &[Sample]| median(&side.iter().map(|sample| sample.spent.wall * 1000.0).collect::<Vec<_>>());
    let (ours_wall, their_wall) = (walls(&comparison.ours), walls(&comparison.theirs));
    report.compare(comparison);
    let most = gets[1].iter().copied().fold(0.0, f64::max);
    report.judge("cold pull: upstream GETs, most of a pull", most, Unit::Count, Target::Exactly(1.0));
    report.fact("the same, distribution, median", median(&gets[0]), Unit::Count);
    report.fact("cold pull: last of 8 done, median", ours_wall, Unit::Milliseconds);
    report.fact("the same, distribution", their_wall, Unit::Milliseconds);
    Ok(())
}

/// Puts a fresh content among the upstream's blobs.
pub(crate) fn place_upstream(fresh: &mut Fresh, number: u64, blobs: &Path) -> Result<Digest> {
    let (content, digest) = fresh.content(number);
    std::fs::write(blobs.join(digest.to_string()), content).context("write a blob of the upstream")?;
    Ok(digest)
}

/// Frees the room of the upstream's blobs that were used.
pub(crate) fn empty(blobs: &Path) -> Result<()> {
    for entry in std::fs::read_dir(blobs)? {
        std::fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// All pulls begin together; how long the last took.
pub(crate) fn pull_at_once(pulls: &[(Place, Request)]) -> Result<Duration> {
    let together = Barrier::new(pulls.len() + 1);
    thread::scope(|scope| {
        let clients: Vec<_> = pulls
            .iter()
            .map(|(place, request)| {
                let together = &together;
                scope.spawn(move || {
                    let wire = Wire::connect(place);
                    together.wait();
                    let mut wire = wire?;
                    wire.send(request.bytes())?;
                    let answer = exchange::discard(&mut wire, &mut vec![0; SCRATCH], |_| ())?;
                    anyhow::ensure!(answer.status() == 200, "{place:?}: {}", answer.text());
                    anyhow::Ok(())
                })
            })
            .collect();
        together.wait();
        let started = Instant::now();
        for client in clients {
            client.join().ok().context("a client panicked")??;
        }
        Ok(started.elapsed())
    })
}
