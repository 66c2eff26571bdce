//! Loads on kept connections, measured in turns.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, Row};
use crate::compare::{Comparison, Latency, Measure, Sample};
use crate::cpu::Meter;
use crate::drive::{Driver, Load};
use crate::interrupt;
use crate::report::Report;

/// Connections and caches are warm after so long.
const WARM_UP: Duration = Duration::from_millis(300);

/// One side with its load.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) pids: Vec<u32>,
    pub(crate) load: Load,
}

/// One of ours against one of theirs.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) name: String,
    pub(crate) side: Side,
    /// Which of theirs.
    pub(crate) against: usize,
}

/// Another registry under the load of the first of ours.
#[derive(Debug)]
pub(crate) struct Beside {
    pub(crate) name: &'static str,
    pub(crate) side: Side,
}

/// What is compared.
#[derive(Debug)]
pub(crate) struct Contest {
    pub(crate) row: Row,
    pub(crate) measure: Measure,
    pub(crate) limit: f64,
    pub(crate) yardstick: &'static str,
    pub(crate) ours: Vec<Ours>,
    pub(crate) theirs: Vec<Side>,
    /// For information.
    pub(crate) beside: Vec<Beside>,
}

impl Contest {
    /// Measures all sides once a round, ours first in every other one.
    pub(crate) fn run(mut self, bench: &Bench<'_>, report: &mut Report) -> Result<()> {
        let limit = Some(self.limit);
        let mut comparisons: Vec<Comparison> =
            self.ours.iter().map(|ours| new(self.row, &ours.name, self.measure, self.yardstick, limit)).collect();
        let first_of_ours = self.ours.first().map(|ours| ours.name.as_str()).unwrap_or_default();
        let mut beside: Vec<(Beside, Comparison)> = std::mem::take(&mut self.beside)
            .into_iter()
            .map(|one| {
                let comparison = new(self.row, first_of_ours, self.measure, one.name, None);
                (one, comparison)
            })
            .collect();
        for round in 0..bench.rounds() {
            let measure = |side: &Side| measure(side, self.measure, bench.seconds());
            let first = if round % 2 == 0 { Some(self.measure_ours(measure)?) } else { None };
            let theirs = self.theirs.iter().map(measure).collect::<Result<Vec<_>>>()?;
            beside.retain_mut(|(one, comparison)| match measure(&one.side) {
                Ok(sample) => {
                    comparison.theirs.push(sample);
                    true
                }
                Err(error) => {
                    report.absence(one.name, format!("{first_of_ours}: {error:#}"));
                    false
                }
            });
            interrupt::check()?;
            let ours = match first {
                Some(ours) => ours,
                None => self.measure_ours(measure)?,
            };
            for (_, comparison) in &mut beside {
                comparison.ours.extend(ours.first());
            }
            for ((comparison, contender), sample) in comparisons.iter_mut().zip(&self.ours).zip(ours) {
                comparison.ours.push(sample);
                comparison.theirs.push(theirs[contender.against]);
            }
        }
        let beside = beside.into_iter().map(|(_, comparison)| comparison);
        comparisons.into_iter().chain(beside).for_each(|comparison| report.compare(comparison));
        Ok(())
    }

    fn measure_ours(&self, measure: impl Fn(&Side) -> Result<Sample>) -> Result<Vec<Sample>> {
        self.ours.iter().map(|ours| measure(&ours.side)).collect()
    }
}

/// A comparison without samples yet.
pub(crate) fn new(row: Row, name: &str, measure: Measure, yardstick: &'static str, limit: Option<f64>) -> Comparison {
    Comparison {
        row: row.name(),
        name: name.to_owned(),
        measure,
        yardstick,
        limit,
        ours: Vec::new(),
        theirs: Vec::new(),
    }
}

/// Runs rounds of something that is no load on kept connections: `measure` is called for ours (`true`) and theirs.
pub(crate) fn in_turns(rounds: u32, mut measure: impl FnMut(u32, bool) -> Result<()>) -> Result<()> {
    for round in 0..rounds {
        let ours_first = round % 2 == 0;
        measure(round, ours_first)?;
        measure(round, !ours_first)?;
    }
    Ok(())
}

fn measure(side: &Side, measure: Measure, seconds: Duration) -> Result<Sample> {
    let mut driver = Driver::connect(side.load.clone())?;
    driver.run(WARM_UP)?;
    let meter = Meter::start(&side.pids)?;
    let tally = driver.run(seconds)?;
    let spent = meter.read()?;
    let figure = match measure {
        Measure::AnswersPerCpuSecond => tally.answers as f64 / spent.cpu,
        _ => spent.cpu / (tally.bytes as f64 / 1e9),
    };
    let latency = (tally.answers > 0).then(|| Latency::of(&tally.latency));
    Ok(Sample { figure, spent, answers: tally.answers, bytes: tally.bytes, latency })
}
