//! Sides measured by turns: a short slice of each, one after the other and then all again, so that a neighbour that takes
//! the processor for some seconds hits a slice of each side and not all slices of one. Slices of one round make a pair.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Error, Result};

use crate::client::{Driver, Load, Tally};
use crate::compare::{Comparison, Measure, Sample, Sum, Verdict};
use crate::cpu::{self, Meter};
use crate::interrupt;
use crate::report::Report;

/// Time after which connections and caches are warm.
const WARM_UP: Duration = Duration::from_millis(300);
/// Rounds at the most, in times of those that are planned, while a figure is too near to its limit.
const MOST: u32 = 2;

/// Asks for a given time, over connections of its own.
pub(crate) type Asking<'a> = Box<dyn FnMut(Duration) -> Result<Tally> + 'a>;

/// One side with its load.
pub(crate) struct Side<'a> {
    pids: Vec<u32>,
    work: Work<'a>,
    /// Measured in every n-th round.
    every: u32,
    /// Charged with the SHA-256 of the bytes of its answers, which it does not compute.
    hashed: bool,
    /// Left out after a failure, which otherwise ends the measurement.
    optional: bool,
    failure: Option<Error>,
    /// Slices with the numbers of their rounds.
    slices: Vec<(u32, Sum)>,
}

type Connect<'a> = Box<dyn Fn() -> Result<Asking<'a>> + 'a>;

enum Work<'a> {
    /// Connections that wait while others are measured. For answers that are finished soon.
    Kept(Connect<'a>, Option<Asking<'a>>),
    /// Connections for each slice anew. For long downloads: one that is paused goes on filling its client's buffer, which
    /// grows to many MiB, while others are measured; and a bound on the buffer would be another load than a client's.
    Fresh(Connect<'a>),
    /// A single operation, which measures itself and is told the number of the round.
    Operation(Box<dyn FnMut(u32) -> Result<Sum> + 'a>),
}

impl fmt::Debug for Side<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Side").field("pids", &self.pids).field("slices", &self.slices.len()).finish_non_exhaustive()
    }
}

impl<'a> Side<'a> {
    fn new(pids: Vec<u32>, work: Work<'a>) -> Self {
        Self { pids, work, every: 1, hashed: false, optional: false, failure: None, slices: Vec::new() }
    }

    /// `connect` connects and warms up once.
    pub(crate) fn kept(pids: Vec<u32>, connect: impl Fn() -> Result<Asking<'a>> + 'a) -> Self {
        Self::new(pids, Work::Kept(Box::new(connect), None))
    }

    /// `connect` connects and warms up for each slice.
    pub(crate) fn fresh(pids: Vec<u32>, connect: impl Fn() -> Result<Asking<'a>> + 'a) -> Self {
        Self::new(pids, Work::Fresh(Box::new(connect)))
    }

    /// One operation a round.
    pub(crate) fn operation(measure: impl FnMut(u32) -> Result<Sum> + 'a) -> Self {
        Self::new(Vec::new(), Work::Operation(Box::new(measure)))
    }

    /// Asks for small answers.
    pub(crate) fn asked(pids: Vec<u32>, load: Load) -> Self {
        Self::kept(pids, move || warm(load.clone(), WARM_UP))
    }

    /// Asks for downloads, each as far as a slice goes.
    pub(crate) fn downloaded(pids: Vec<u32>, load: Load) -> Self {
        Self::fresh(pids, move || warm(load.clone(), WARM_UP))
    }

    /// Asks for whole downloads, one for each connection and slice: nothing is under way between two slices.
    pub(crate) fn whole(pids: Vec<u32>, load: Load) -> Self {
        Self::kept(pids, move || {
            let mut driver = Driver::connect(load.clone())?;
            driver.once()?;
            Ok(Box::new(move |_| driver.once()))
        })
    }

    /// Charges the side with the SHA-256 of what it sent: it is held against one that proves what it passes on.
    pub(crate) fn and_sha256(self) -> Self {
        Self { hashed: true, ..self }
    }

    /// Measures the side in every n-th round only.
    pub(crate) fn every(self, rounds: u32) -> Self {
        Self { every: rounds, ..self }
    }

    /// Leaves the side out after a failure.
    pub(crate) fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// The figures of all slices.
    pub(crate) fn figures(&self, measure: Measure) -> Vec<f64> {
        self.slices.iter().map(|(_, sum)| sum.sample(measure).figure).collect()
    }

    /// All slices together; None without any.
    pub(crate) fn sum(&self) -> Result<Option<Sum>> {
        let mut sums = self.slices.iter().map(|(_, sum)| sum);
        sums.next().map(|first| sums.try_fold(first.clone(), Sum::and)).transpose()
    }

    fn slice(&mut self, round: u32, length: Duration) -> Result<()> {
        if self.failure.is_some() || !round.is_multiple_of(self.every) {
            return Ok(());
        }
        match self.measured(round, length) {
            Ok(sum) => self.slices.push((round, sum)),
            Err(error) => {
                interrupt::check()?;
                if !self.optional {
                    return Err(error);
                }
                self.failure = Some(error);
            }
        }
        Ok(())
    }

    fn measured(&mut self, round: u32, length: Duration) -> Result<Sum> {
        let pids = &self.pids;
        let (mut spent, tally) = match &mut self.work {
            Work::Operation(measure) => return measure(round),
            Work::Kept(connect, asking) => {
                let ask = match asking {
                    Some(ask) => ask,
                    None => {
                        let ask = asking.insert(connect()?);
                        cpu::rest(pids)?;
                        ask
                    }
                };
                let meter = Meter::start(pids)?;
                let tally = ask(length)?;
                let mut spent = meter.read()?;
                // Work that the server puts off until shortly after the slice is the slice's: of all sides alike.
                cpu::rest(pids)?;
                let late = meter.cpu()? - spent.cpu;
                spent.cpu += late;
                spent.machine += late;
                (spent, tally)
            }
            Work::Fresh(connect) => {
                let mut ask = connect()?;
                let meter = Meter::start(pids)?;
                let tally = ask(length)?;
                // Bytes that fill the buffers of clients that no longer read are nobody's.
                let spent = meter.read()?;
                drop(ask);
                cpu::rest(pids)?;
                (spent, tally)
            }
        };
        if self.hashed {
            let hashing = cpu::sha256(tally.bytes)?;
            spent.cpu += hashing;
            spent.machine += hashing;
        }
        Ok(Sum::of(spent, tally))
    }
}

/// Connects a load and runs it for `time`.
pub(crate) fn warm<'a>(load: Load, time: Duration) -> Result<Asking<'a>> {
    let mut driver = Driver::connect(load)?;
    driver.run(time)?;
    Ok(Box::new(move |length| driver.run(length)))
}

/// Measures a slice of each side in each of `rounds`. Every other round goes the other way, so that what gets more or less
/// meanwhile hits the first side as much as the last.
pub(crate) fn measure(sides: &mut [Side<'_>], rounds: Range<u32>, length: Duration) -> Result<()> {
    for round in rounds {
        for place in 0..sides.len() {
            interrupt::check()?;
            let place = if round.is_multiple_of(2) { place } else { sides.len() - 1 - place };
            sides[place].slice(round, length)?;
        }
    }
    Ok(())
}

/// How a contest is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Planned rounds.
    pub(crate) rounds: u32,
    /// Length of a slice.
    pub(crate) slice: Duration,
    /// Rounds whose slices count as one: a percentile needs more answers than a slice has.
    pub(crate) group: u32,
}

impl Plan {
    pub(crate) fn new(rounds: u32, slice: Duration) -> Self {
        Self { rounds, slice, group: 1 }
    }

    /// Single operations.
    pub(crate) fn operations(rounds: u32) -> Self {
        Self::new(rounds, Duration::ZERO)
    }

    /// Rounds at the most.
    pub(crate) fn most(self) -> u32 {
        self.rounds * MOST
    }
}

/// Two sides that are compared.
#[derive(Debug)]
struct Pair {
    name: String,
    measure: Measure,
    baseline: &'static str,
    limit: Option<f64>,
    ours: usize,
    theirs: usize,
}

/// Sides of a row, and which are compared.
#[derive(Debug)]
pub(crate) struct Contest<'a> {
    row: String,
    sides: Vec<Side<'a>>,
    pairs: Vec<Pair>,
}

impl<'a> Contest<'a> {
    pub(crate) fn new(row: String) -> Self {
        Self { row, sides: Vec::new(), pairs: Vec::new() }
    }

    /// Adds a side; it is measured next to the one that was added before. Returns its number.
    pub(crate) fn side(&mut self, side: Side<'a>) -> usize {
        self.sides.push(side);
        self.sides.len() - 1
    }

    /// Compares two sides. None as `limit`: for information.
    pub(crate) fn pair(
        &mut self,
        name: impl Into<String>,
        measure: Measure,
        (ours, theirs): (usize, usize),
        baseline: &'static str,
        limit: Option<f64>,
    ) {
        self.pairs.push(Pair { name: name.into(), measure, baseline, limit, ours, theirs });
    }

    /// Adds another registry under the load of the first pair's side of ours, for information.
    pub(crate) fn beside(&mut self, baseline: &'static str, side: Side<'a>) {
        let theirs = self.side(side.optional());
        let first = self.pairs.first().map(|pair| (pair.name.clone(), pair.measure, pair.ours));
        if let Some((name, measure, ours)) = first {
            self.pair(name, measure, (ours, theirs), baseline, None);
        }
    }

    /// Measures all sides and adds the comparisons to `report`.
    pub(crate) fn run(self, plan: Plan, report: &mut Report) -> Result<()> {
        let comparisons = self.measured(plan, report)?;
        report.comparisons.extend(comparisons);
        Ok(())
    }

    /// Measures all sides, longer than planned while a figure is nearer to its limit than twice its standard error.
    /// A side that was left out is told to `report`.
    pub(crate) fn measured(mut self, plan: Plan, report: &mut Report) -> Result<Vec<Comparison>> {
        let (mut done, mut more) = (0, plan.rounds.max(1));
        loop {
            measure(&mut self.sides, done..done + more, plan.slice)?;
            done += more;
            let comparisons = self.comparisons(plan.group, report)?;
            let settled = comparisons.iter().filter_map(Comparison::verdict).all(Verdict::is_settled);
            if settled || done >= plan.most() {
                return Ok(comparisons);
            }
            more = plan.rounds.div_ceil(2).next_multiple_of(plan.group).min(plan.most() - done);
        }
    }

    fn comparisons(&self, group: u32, report: &mut Report) -> Result<Vec<Comparison>> {
        let mut all = Vec::new();
        for pair in &self.pairs {
            let (ours, theirs) = (&self.sides[pair.ours], &self.sides[pair.theirs]);
            if let Some(failure) = theirs.failure() {
                report.absence(pair.baseline, format!("{}: {failure:#}", pair.name));
                continue;
            }
            all.push(Comparison {
                row: self.row.clone(),
                name: pair.name.clone(),
                measure: pair.measure,
                baseline: pair.baseline,
                limit: pair.limit,
                ours: samples(ours, theirs, pair.measure, group)?,
                theirs: samples(theirs, ours, pair.measure, group)?,
            });
        }
        Ok(all)
    }
}

/// The samples of a side in the rounds in which another was measured too, `group` rounds in each.
fn samples(side: &Side<'_>, other: &Side<'_>, measure: Measure, group: u32) -> Result<Vec<Sample>> {
    let paired = |round: u32| other.slices.binary_search_by_key(&round, |slice| slice.0).is_ok();
    let sums: Vec<&Sum> = side.slices.iter().filter(|slice| paired(slice.0)).map(|slice| &slice.1).collect();
    let groups = sums.chunks(group as usize).map(|group| {
        let (first, others) = group.split_first().context("a group without slices")?;
        let sum = others.iter().try_fold((*first).clone(), |sum, more| sum.and(more))?;
        anyhow::Ok(sum.sample(measure))
    });
    groups.collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::cpu::Spent;

    fn used(cpu: f64) -> Result<Sum> {
        Ok(Sum::of(Spent { cpu, ..Spent::default() }, Tally { answers: 1, ..Tally::nothing()? }))
    }

    #[test]
    fn each_operation_is_compared_with_its_counterpart_and_who_comes_first_changes() {
        let order = RefCell::new(Vec::new());
        let mut contest = Contest::new("row".into());
        let ours = contest.side(Side::operation(|round| {
            order.borrow_mut().push((round, true));
            used(f64::from(round + 1))
        }));
        let theirs = contest.side(Side::operation(|round| {
            order.borrow_mut().push((round, false));
            used(1.0)
        }));
        contest.pair("push", Measure::CpuSeconds, (ours, theirs), "bare loop", None);
        contest.beside("seldom", Side::operation(|_| used(0.5)).every(2));
        contest.beside("never", Side::operation(|_| anyhow::bail!("not there")));
        let mut report = Report::new("test");
        let comparisons = contest.measured(Plan::operations(3), &mut report).unwrap();
        assert_eq!(order.take()[..4], [(0, true), (0, false), (1, false), (1, true)]);
        let figures = |side: &[Sample]| side.iter().map(|sample| sample.figure).collect::<Vec<_>>();
        assert_eq!(figures(&comparisons[0].ours), [1.0, 2.0, 3.0]);
        assert_eq!((figures(&comparisons[1].ours), figures(&comparisons[1].theirs)), (vec![1.0, 3.0], vec![0.5, 0.5]));
        assert_eq!(comparisons.len(), 2);
        assert_eq!(report.absences().len(), 1);
    }

    #[test]
    fn a_figure_too_near_to_its_limit_is_measured_longer_and_not_for_ever() {
        for (ours, limit, rounds) in [(0.5, 1.0, 4), (0.99, 1.0, 8)] {
            let mut contest = Contest::new("row".into());
            let spread = move |round: u32| used(ours + 0.1 * f64::from(round % 3) - 0.1);
            let sides = (contest.side(Side::operation(spread)), contest.side(Side::operation(|_| used(1.0))));
            contest.pair("push", Measure::CpuSeconds, sides, "bare loop", Some(limit));
            let comparisons = contest.measured(Plan::operations(4), &mut Report::new("test")).unwrap();
            assert_eq!(comparisons[0].ours.len(), rounds, "{comparisons:?}");
        }
    }

    #[test]
    fn a_group_of_slices_is_one_sample() {
        let mut contest = Contest::new("row".into());
        let sides = (
            contest.side(Side::operation(|round| used(f64::from(round)))),
            contest.side(Side::operation(|_| used(1.0))),
        );
        contest.pair("cpu", Measure::CpuSeconds, sides, "nobody", None);
        let plan = Plan { group: 2, ..Plan::operations(4) };
        let comparison = contest.measured(plan, &mut Report::new("test")).unwrap().remove(0);
        assert_eq!(comparison.ours.iter().map(|sample| sample.figure).collect::<Vec<_>>(), [1.0, 5.0]);
    }

    #[test]
    fn who_is_charged_with_hashing_is_charged_for_his_bytes_and_no_more() {
        let ask = || -> Result<Asking<'static>> {
            Ok(Box::new(|_| Ok(Tally { answers: 1, bytes: 64 << 20, ..Tally::nothing()? })))
        };
        let figure = |side: Side<'static>| {
            let mut sides = [side];
            measure(&mut sides, 0..1, Duration::ZERO).unwrap();
            sides[0].figures(Measure::CpuSeconds)[0]
        };
        // Of nobody: all that is charged is the hashing.
        assert_eq!(figure(Side::fresh(Vec::new(), ask)), 0.0);
        assert!(figure(Side::fresh(Vec::new(), ask).and_sha256()) > 0.0);
        assert_eq!(cpu::sha256(0).unwrap(), 0.0);
    }
}
