//! Many clients pull one blob that the cache does not have yet.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use d8_registry::oci::Digest;

use super::{Bench, MAPPED, Row};
use crate::baseline::ours::basic;
use crate::baseline::peer::{Kind, Peer};
use crate::client::exchange::discard;
use crate::client::upload::Fresh;
use crate::client::{Place, Request, Tally, Wire, verify};
use crate::compare::{Measure, Sample, Sum, median};
use crate::cpu::{self, Meter};
use crate::engine::{Contest, Side};
use crate::report::{Report, Target};

const CLIENTS: usize = 8;
/// Cold pulls of each side.
const ROUNDS: u32 = 10;
/// Times of distribution's CPU.
const LIMIT: f64 = 0.35;

/// CPU for all clients; GETs that the upstream sees.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let (nginx, upstream, blobs) = bench.upstream(row, (false, None))?;
    let dir = bench.dir(&row.name())?;
    let ours = bench.ours_before(&dir.join("ours"), "Proxy", &upstream)?;
    let theirs = Peer::start(Kind::Distribution, &dir.join("distribution"), Some(upstream.port))?;
    let fresh = RefCell::new(Fresh::new(bench.options.size));
    let gets = RefCell::new([Vec::new(), Vec::new()]);
    let measured = |round: u32, is_ours: bool| {
        // A blob of its own for each side: the upstream's log tells them apart.
        let number = u64::from(round) * 2 + u64::from(is_ours);
        let digest = place_upstream(&mut fresh.borrow_mut(), number, &blobs)?;
        let path = format!("/v2/{MAPPED}/blobs/{digest}");
        let (place, pids) =
            if is_ours { (&ours.place, ours.process.pids()) } else { (&theirs.place, theirs.process.pids()) };
        let request = Request::get(&path, is_ours.then(basic).as_deref());
        bench.before_storing(&pids)?;
        let meter = Meter::start(&pids)?;
        let wall = pull_at_once(&vec![(place.clone(), request.clone()); CLIENTS], None)?;
        // Work that is done after the last byte was sent, such as a sync, belongs to the pull.
        cpu::settle(&pids)?;
        let mut spent = meter.read()?;
        spent.wall = wall.as_secs_f64();
        let bytes = u64::from(bench.options.size) * (1 << 20) * CLIENTS as u64;
        gets.borrow_mut()[usize::from(is_ours)].push(nginx.gets(&path)? as f64);
        verify(place, &request, &digest)?;
        empty(&blobs)?;
        Ok(Sum::of(spent, Tally { answers: CLIENTS as u64, bytes, ..Tally::nothing()? }))
    };
    let name = format!("cold pull of {} MiB through Proxy, {CLIENTS} clients", bench.options.size);
    let mut contest = Contest::new(row.name());
    let sides = (
        contest.side(Side::operation(|round| measured(round, true))),
        contest.side(Side::operation(|round| measured(round, false))),
    );
    contest.pair(name, Measure::CpuSeconds, sides, Kind::Distribution.name(), Some(LIMIT));
    let comparisons = contest.measured(bench.operations(ROUNDS), report)?;
    let gets = gets.take();
    let most = gets[1].iter().copied().fold(0.0, f64::max);
    report.judge("cold pull: upstream GETs, most of a pull", most, "", Target::Exactly(1.0));
    report.fact("the same, distribution, median", median(&gets[0]), "");
    let walls = |side: &[Sample]| median(&side.iter().map(|sample| sample.spent.wall * 1000.0).collect::<Vec<_>>());
    for comparison in &comparisons {
        report.fact("cold pull: last of 8 done, median", walls(&comparison.ours), "ms");
        report.fact("the same, distribution", walls(&comparison.theirs), "ms");
    }
    report.comparisons.extend(comparisons);
    Ok(())
}

/// Puts a fresh content among the upstream's blobs.
pub(crate) fn place_upstream(fresh: &mut Fresh, number: u64, blobs: &Path) -> Result<Digest> {
    let (content, digest) = fresh.content(number);
    std::fs::write(blobs.join(digest.to_string()), content).context("write a blob of the upstream")?;
    Ok(digest)
}

/// Removes the upstream's blobs that were used.
pub(crate) fn empty(blobs: &Path) -> Result<()> {
    for entry in std::fs::read_dir(blobs)? {
        std::fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// All pulls begin together. The first breaks off when `kill` bytes are still to come. Returns the time of the last one.
pub(crate) fn pull_at_once(pulls: &[(Place, Request)], kill: Option<u64>) -> Result<Duration> {
    let together = Barrier::new(pulls.len() + 1);
    let pull = |(number, (place, request)): (usize, &(Place, Request))| {
        let wire = Wire::connect(place);
        together.wait();
        let mut wire = wire?;
        wire.send(request.bytes())?;
        let answer = discard(&mut wire, kill.filter(|_| number == 0).unwrap_or(0))?;
        ensure!(answer.status() == 200, "{place:?}: {}", answer.text());
        anyhow::Ok(())
    };
    thread::scope(|scope| {
        let clients: Vec<_> = pulls
            .iter()
            .enumerate()
            .map(|one| {
                let pull = &pull;
                scope.spawn(move || pull(one))
            })
            .collect();
        together.wait();
        let started = Instant::now();
        clients.into_iter().try_for_each(|client| client.join().ok().context("a client panicked")?)?;
        Ok(started.elapsed())
    })
}
