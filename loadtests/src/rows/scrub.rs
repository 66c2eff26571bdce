//! A scrub by order: its CPU per byte beside the hash alone, and the latency of a small request beside it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::stored::Stored;
use super::{Bench, Row};
use crate::baseline::ours::{Ours, basic};
use crate::client::{Driver, Load, Request, Tally};
use crate::compare::{Measure, Sum};
use crate::cpu::{self, Meter, Spent};
use crate::engine::{Asking, Contest, Plan, Side};
use crate::report::Report;

/// Times of the CPU of SHA-256 of the same bytes.
const LIMIT: f64 = 1.3;
/// Times of the p99 without a scrub.
const P99_LIMIT: f64 = 2.0;
/// Scrubs of the whole store, and as many slices with one beside and without.
const ROUNDS: u32 = 15;
/// Bytes in MiB of the store that is scrubbed beside requests: a second of a scrub by order.
const SIZE: u32 = 64;
const SLICE: Duration = Duration::from_secs(1);
/// Requests that fall due in a second, and connections for them.
const RATE: f64 = 200.0;
const CONNECTIONS: usize = 8;

/// CPU per byte, then p99.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    cost(bench, report, row)?;
    beside(bench, report, row)
}

fn cost(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let ours = bench.ours(row, false)?;
    let bytes = u64::from(bench.options.size) << 20;
    let pids = ours.process.pids();
    let scrubbed = |_: u32| -> Result<Sum> {
        cpu::settle(&pids)?;
        let meter = Meter::start(&pids)?;
        ended(scrub(bench, &bench.stored.dir)?)?;
        sum(meter.read()?, bytes)
    };
    let hashed = |_: u32| -> Result<Sum> {
        let cpu = cpu::sha256(bytes)?;
        sum(Spent { cpu, wall: cpu, ..Spent::default() }, bytes)
    };
    let mut contest = Contest::new(row.name());
    let sides = (contest.side(Side::operation(scrubbed)), contest.side(Side::operation(hashed)));
    let name = format!("scrub by order of {} MiB", bench.options.size);
    contest.pair(name, Measure::CpuSecondsPerGigabyteStored, sides, "SHA-256 alone", Some(LIMIT));
    contest.run(bench.operations(ROUNDS), report)
}

fn beside(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let dir = bench.dir(&format!("{}-beside", row.name()))?;
    let stored = Stored::make(&dir, SIZE)?;
    let ours = Ours::start(&bench.setup(&stored.dir, &dir.join("ours")))?;
    let request = Request::get(&Stored::tag_path(), Some(&basic()));
    let load = Load { rate: Some(RATE), ..bench.load(&ours.place, &request, CONNECTIONS) };
    let mut contest = Contest::new(row.name());
    let side = |is_scrubbed: bool| {
        let (load, store) = (load.clone(), stored.dir.clone());
        Side::fresh(ours.process.pids(), move || {
            let (mut asking, store) = (Driver::connect(load.clone())?, store.clone());
            let ask: Asking<'_> = Box::new(move |length| {
                asking.renew()?;
                let scrubbing = is_scrubbed.then(|| scrub(bench, &store)).transpose()?;
                let tally = asking.run(length);
                scrubbing.map_or(Ok(()), ended)?;
                tally
            });
            Ok(ask)
        })
    };
    let sides = (contest.side(side(true)), contest.side(side(false)));
    let name = format!("manifest GET, {RATE} a second, beside a scrub by order");
    contest.pair(name, Measure::P99Milliseconds, sides, "without it", Some(P99_LIMIT));
    contest.run(Plan { group: 2, ..bench.plan(ROUNDS, SLICE) }, report)
}

fn sum(spent: Spent, bytes: u64) -> Result<Sum> {
    Ok(Sum::of(spent, Tally { answers: 1, bytes, ..Tally::nothing()? }))
}

fn scrub(bench: &Bench<'_>, store: &Path) -> Result<Child> {
    let mut command = Command::new(&bench.options.server);
    let command = command.args(["scrub", "--data-dir"]).arg(store).stdout(Stdio::null());
    command.spawn().context("order a scrub")
}

fn ended(mut scrub: Child) -> Result<()> {
    let status = scrub.wait().context("wait for the scrub")?;
    ensure!(status.success(), "the scrub ended with {status}");
    Ok(())
}
