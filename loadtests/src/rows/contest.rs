//! Sides measured by turns: loads in slices, everything else operation by operation.

use anyhow::Result;

use super::slices::{Running, Seat, Side, Slices, order};
use super::{Bench, Row};
use crate::compare::{Comparison, Measure, Sample, Sum};
use crate::interrupt;
use crate::report::Report;

/// Rounds of downloads in slices for one of other loads, each half as long: more rounds leave a burst of the machine's
/// neighbours less weight in their median.
pub(super) const TURNS: u32 = 3;

/// Whole downloads of each side in a round. Each with its counterpart is a round of its own for the median: one takes 0.25 s,
/// and two that cost the same differ by a tenth on a machine with neighbours. Who stands beside has one.
pub(super) const WHOLE: u32 = 80;

/// One of ours against one of theirs.
#[derive(Debug)]
pub(crate) struct Ours<'a> {
    pub(crate) name: String,
    pub(crate) side: Side<'a>,
    /// Which of theirs.
    pub(crate) against: usize,
    /// None: for information.
    pub(crate) limit: Option<f64>,
}

/// Another registry under the load of the first of ours.
#[derive(Debug)]
pub(crate) struct Beside<'a> {
    pub(crate) name: &'static str,
    pub(crate) side: Side<'a>,
}

/// What is compared.
#[derive(Debug)]
pub(crate) struct Contest<'a> {
    pub(crate) row: Row,
    pub(crate) measure: Measure,
    pub(crate) baseline: &'static str,
    pub(crate) ours: Vec<Ours<'a>>,
    pub(crate) theirs: Vec<Side<'a>>,
    /// For information.
    pub(crate) beside: Vec<Beside<'a>>,
}

impl Contest<'_> {
    /// Measures all sides in each round, slice by slice, and reports it.
    pub(crate) fn run(self, bench: &Bench<'_>, report: &mut Report) -> Result<()> {
        let (rounds, slices) = if self.ours.iter().any(|ours| ours.side.is_whole()) {
            (bench.rounds(), Slices::whole(WHOLE))
        } else if self.ours.iter().any(|ours| ours.side.is_fresh()) {
            (bench.rounds() * TURNS, bench.long_slices())
        } else {
            (bench.rounds(), bench.slices())
        };
        let comparisons = self.measured(rounds, slices, report)?;
        comparisons.into_iter().for_each(|comparison| report.compare(comparison));
        Ok(())
    }

    /// Measures all sides in so many rounds; the comparisons of ours come first.
    pub(crate) fn measured(mut self, rounds: u32, slices: Slices, report: &mut Report) -> Result<Vec<Comparison>> {
        let new = |name: &str, baseline, limit| new(self.row, name, self.measure, baseline, limit);
        let mut comparisons: Vec<Comparison> =
            self.ours.iter().map(|ours| new(&ours.name, self.baseline, ours.limit)).collect();
        let first = self.ours.first().map(|ours| ours.name.clone()).unwrap_or_default();
        let mut beside: Vec<(Beside<'_>, Comparison)> = Vec::new();
        for one in self.beside.drain(..) {
            let comparison = new(&first, one.name, None);
            beside.push((one, comparison));
        }
        let against: Vec<usize> = self.ours.iter().map(|ours| ours.against).collect();
        for round in 0..rounds {
            let mut ours = self.ours.iter().map(|ours| ours.side.start()).collect::<Result<Vec<_>>>()?;
            let mut theirs = self.theirs.iter().map(Side::start).collect::<Result<Vec<_>>>()?;
            let mut others: Vec<Result<Running<'_, '_>>> = beside.iter().map(|(one, _)| one.side.start()).collect();
            let mut order = order(&against, others.len());
            if round % 2 == 1 {
                order.reverse();
            }
            for slice in 0..slices.count {
                for seat in &order {
                    interrupt::check()?;
                    match *seat {
                        Seat::Ours(number) => ours[number].slice(slices.length)?,
                        Seat::Theirs(number) => theirs[number].slice(slices.length)?,
                        Seat::Beside(number) if slice > 0 && beside[number].0.side.is_whole() => {}
                        Seat::Beside(number) => attempt(&mut others[number], slices),
                    }
                }
                // What goes up or down in the meantime hits the first as much as the last.
                order.reverse();
            }
            for (number, comparison) in comparisons.iter_mut().enumerate() {
                comparison.ours.extend(ours[number].samples(self.measure)?);
                comparison.theirs.extend(theirs[against[number]].samples(self.measure)?);
            }
            let samples: Vec<Result<Option<Sample>>> =
                others.into_iter().map(|other| other?.sample(self.measure)).collect();
            let first_of_ours = ours.first().map(|ours| ours.sample(self.measure)).transpose()?.flatten();
            let mut samples = samples.into_iter();
            beside.retain_mut(|(one, comparison)| match samples.next() {
                Some(Err(error)) => {
                    report.absence(one.name, format!("{first}: {error:#}"));
                    false
                }
                other => {
                    comparison.ours.extend(first_of_ours);
                    comparison.theirs.extend(other.and_then(Result::ok).flatten());
                    true
                }
            });
        }
        comparisons.extend(beside.into_iter().map(|(_, comparison)| comparison));
        Ok(comparisons)
    }
}

/// A slice of one that need not be there.
fn attempt(one: &mut Result<Running<'_, '_>>, slices: Slices) {
    if let Ok(running) = one
        && let Err(error) = running.slice(slices.length)
    {
        *one = Err(error);
    }
}

/// A comparison without samples yet.
pub(crate) fn new(row: Row, name: &str, measure: Measure, baseline: &'static str, limit: Option<f64>) -> Comparison {
    Comparison {
        row: row.name(),
        name: name.to_owned(),
        measure,
        baseline,
        limit,
        ours: Vec::new(),
        theirs: Vec::new(),
    }
}

/// Runs what is no load on kept connections: `measure` is called for ours (`true`) and theirs, ours first in every other
/// turn.
pub(crate) fn in_turns(turns: u32, mut measure: impl FnMut(u32, bool) -> Result<()>) -> Result<()> {
    for turn in 0..turns {
        let ours_first = turn % 2 == 0;
        measure(turn, ours_first)?;
        measure(turn, !ours_first)?;
    }
    Ok(())
}

/// Measures single operations, so many on each side. Each with its counterpart is a round: of a burst of the machine's
/// neighbours the median then sees one operation, and not a sum that all of its round is in.
pub(crate) fn operations(
    comparison: &mut Comparison,
    turns: u32,
    mut measure: impl FnMut(u32, bool) -> Result<Sum>,
) -> Result<()> {
    in_turns(turns, |turn, is_ours| {
        let sample = measure(turn, is_ours)?.sample(comparison.measure);
        side(comparison, is_ours).push(sample);
        Ok(())
    })
}

/// The samples of one side.
pub(crate) fn side(comparison: &mut Comparison, is_ours: bool) -> &mut Vec<Sample> {
    if is_ours { &mut comparison.ours } else { &mut comparison.theirs }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Spent;
    use crate::client::driver::Tally;

    #[test]
    fn each_operation_is_compared_with_its_counterpart() {
        let mut comparison = new(Row::Push, "push", Measure::CpuSecondsPerGigabyteStored, "bare loop", None);
        let mut order = Vec::new();
        operations(&mut comparison, 3, |turn, is_ours| {
            order.push((turn, is_ours));
            let cpu = if is_ours { f64::from(turn + 1) } else { 1.0 };
            let tally = Tally { answers: 1, bytes: 1_000_000_000, ..Tally::nothing()? };
            Ok(Sum::of(Spent { cpu, ..Spent::default() }, tally))
        })
        .unwrap();
        assert_eq!(comparison.ratios(), [1.0, 2.0, 3.0]);
        assert_eq!(order[..4], [(0, true), (0, false), (1, false), (1, true)]);
    }
}
