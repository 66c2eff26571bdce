//! Ours against theirs: the median of the ratios of pairs, its standard error, and the target it is held against.

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::client::Tally;
use crate::cpu::Spent;

/// Share of the time from which on the server's core is called busy; below it something else was the limit.
const SATURATED: f64 = 0.9;
/// Standard errors that have to lie between a figure and its limit.
pub(crate) const MARGIN: f64 = 2.0;

/// The figure that a comparison compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Measure {
    CpuSecondsPerGigabyte,
    /// Of what is written to a disk, which may be slower than any server.
    CpuSecondsPerGigabyteStored,
    AnswersPerCpuSecond,
    CpuMicrosecondsPerConnection,
    /// Of an answer, or of another operation.
    CpuMicroseconds,
    CpuSeconds,
    P99Milliseconds,
    MaximumMilliseconds,
}

impl Measure {
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::CpuSecondsPerGigabyte | Self::CpuSecondsPerGigabyteStored => "CPU-s/GB",
            Self::AnswersPerCpuSecond => "answers/CPU-s",
            Self::CpuMicrosecondsPerConnection => "CPU-us/connection",
            Self::CpuMicroseconds => "CPU-us",
            Self::CpuSeconds => "CPU-s",
            Self::P99Milliseconds => "ms (p99)",
            Self::MaximumMilliseconds => "ms (max)",
        }
    }

    const fn more_is_better(self) -> bool {
        matches!(self, Self::AnswersPerCpuSecond)
    }

    /// Whether quantiles belong to it.
    pub(crate) const fn is_latency(self) -> bool {
        // The maximum comes from the same measurement as the p99.
        matches!(self, Self::P99Milliseconds)
    }

    /// Whether the server's core ought to be the limit.
    const fn saturates(self) -> bool {
        matches!(self, Self::CpuSecondsPerGigabyte | Self::AnswersPerCpuSecond)
    }
}

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Latency {
    /// Of a histogram of nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        let max = histogram.max() as f64 / 1e6;
        Self { count: histogram.len(), p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max }
    }
}

/// One side's figure of one pair.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sample {
    pub(crate) figure: f64,
    pub(crate) spent: Spent,
    pub(crate) answers: u64,
    pub(crate) bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency: Option<Latency>,
}

/// Cost and yield of a side in a slice of a load, in several of them, or in an operation.
#[derive(Clone, Debug)]
pub(crate) struct Sum {
    spent: Spent,
    answers: u64,
    bytes: u64,
    latency: Histogram<u64>,
}

impl Sum {
    pub(crate) fn of(spent: Spent, tally: Tally) -> Self {
        Self { spent, answers: tally.answers, bytes: tally.bytes, latency: tally.latency }
    }

    /// Both together.
    pub(crate) fn and(mut self, more: &Self) -> Result<Self> {
        self.latency.add(&more.latency).context("histograms can't be added")?;
        let spent = self.spent.and(more.spent);
        let (answers, bytes) = (self.answers + more.answers, self.bytes + more.bytes);
        Ok(Self { spent, answers, bytes, latency: self.latency })
    }

    /// The figure of all parts together, with what they used.
    pub(crate) fn sample(&self, measure: Measure) -> Sample {
        let Self { spent, answers, bytes, .. } = *self;
        let latency = (!self.latency.is_empty()).then(|| Latency::of(&self.latency));
        let sample = |figure| Sample { figure, spent, answers, bytes, latency };
        match measure {
            Measure::CpuSecondsPerGigabyte | Measure::CpuSecondsPerGigabyteStored => {
                sample(spent.cpu / (bytes as f64 / 1e9))
            }
            Measure::AnswersPerCpuSecond => sample(answers as f64 / spent.cpu),
            Measure::CpuMicroseconds | Measure::CpuMicrosecondsPerConnection => {
                sample(spent.cpu * 1e6 / answers as f64)
            }
            Measure::CpuSeconds => sample(spent.cpu),
            Measure::P99Milliseconds => sample(latency.map_or(f64::NAN, |latency| latency.p99)),
            Measure::MaximumMilliseconds => sample(latency.map_or(f64::NAN, |latency| latency.max)),
        }
    }
}

/// A median with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    /// Infinite with fewer than three values: nothing is known of it then.
    pub(crate) error: f64,
}

impl Estimate {
    /// The error is half of what lies between the values whose ranks are the median's more and less the square root of
    /// the number by two: that is one standard error of the rank, whatever the values are distributed like.
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (number, root) = (sorted.len() as f64, (sorted.len() as f64).sqrt());
        let low = ((number - root) / 2.0).floor() as usize;
        let high = ((number + root) / 2.0).ceil() as usize;
        let error = match (sorted.get(low), sorted.get(high.saturating_sub(1))) {
            (Some(low), Some(high)) if sorted.len() > 2 => (high - low) / 2.0,
            _ => f64::INFINITY,
        };
        Self { median: median(values), error }
    }

    /// One in times of another.
    pub(crate) fn over(self, other: Self) -> Self {
        let ratio = self.median / other.median;
        let error = ratio * (self.error / self.median).hypot(other.error / other.median);
        Self { median: ratio, error }
    }

    /// Holds the median against a limit, which it may reach. What is no number is a miss.
    pub(crate) fn verdict(self, limit: f64, more_is_better: bool) -> Verdict {
        let left = if more_is_better { self.median - limit } else { limit - self.median };
        match left {
            left if left >= MARGIN * self.error => Verdict::Pass,
            left if left >= 0.0 => Verdict::Near,
            left if left.abs() < MARGIN * self.error => Verdict::NearMiss,
            _ => Verdict::Miss,
        }
    }
}

/// How a figure stands to its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Verdict {
    /// Met, with a margin of twice the standard error.
    Pass,
    /// Met, and less than twice the standard error away.
    Near,
    /// Missed, and less than twice the standard error away.
    NearMiss,
    Miss,
}

impl Verdict {
    pub(crate) const fn is_met(self) -> bool {
        matches!(self, Self::Pass | Self::Near)
    }

    /// Whether more rounds could tell something else.
    pub(crate) const fn is_settled(self) -> bool {
        matches!(self, Self::Pass | Self::Miss)
    }

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Near => "PASS, too near",
            Self::NearMiss => "MISS, too near",
            Self::Miss => "MISS",
        }
    }
}

/// One comparison of the table.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Comparison {
    /// Name of the row that measures it.
    pub(crate) row: String,
    pub(crate) name: String,
    pub(crate) measure: Measure,
    pub(crate) baseline: &'static str,
    /// Ours in times of theirs: at most this, or at least where more is better. None: for information.
    pub(crate) limit: Option<f64>,
    /// Pairs, in the order in which they were measured.
    pub(crate) ours: Vec<Sample>,
    pub(crate) theirs: Vec<Sample>,
}

impl Comparison {
    /// Ours in times of theirs, over all pairs.
    pub(crate) fn ratio(&self) -> Estimate {
        Estimate::of(&self.ratios())
    }

    fn ratios(&self) -> Vec<f64> {
        self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| ours.figure / theirs.figure).collect()
    }

    /// The median of one side's figures.
    pub(crate) fn figure(side: &[Sample]) -> f64 {
        median(&side.iter().map(|sample| sample.figure).collect::<Vec<_>>())
    }

    /// None without a target.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.limit.map(|limit| self.ratio().verdict(limit, self.measure.more_is_better()))
    }

    pub(crate) fn target(&self) -> String {
        let sign = if self.measure.more_is_better() { ">=" } else { "<=" };
        self.limit.map(|limit| format!("{sign} {limit:.2}")).unwrap_or_default()
    }

    /// `median ± standard error (number of pairs)`, the error where it is known.
    pub(crate) fn ratio_text(&self) -> String {
        let Estimate { median, error } = self.ratio();
        let error = if error.is_finite() { format!(" ± {error:.3}") } else { String::new() };
        format!("{median:.2}{error} ({})", self.ours.len().min(self.theirs.len()))
    }

    /// A condition that has to be known about the figures.
    pub(crate) fn remark(&self) -> String {
        let core = |side: &[Sample]| median(&side.iter().map(|sample| sample.spent.server_core).collect::<Vec<_>>());
        let (ours, theirs) = (core(&self.ours), core(&self.theirs));
        if self.measure.saturates() && ours.min(theirs) < SATURATED {
            return format!(
                "; limit: not the server (its core busy {:.0} %, {} {:.0} %)",
                ours * 100.0,
                self.baseline,
                theirs * 100.0
            );
        }
        String::new()
    }

    /// CPU seconds that all cores were busy for one of the figure's unit, median of a side; None where it says nothing.
    pub(crate) fn machine(&self, side: &[Sample]) -> Option<f64> {
        let per = |sample: &Sample| match self.measure {
            Measure::CpuSecondsPerGigabyte | Measure::CpuSecondsPerGigabyteStored => {
                Some(sample.spent.machine / (sample.bytes as f64 / 1e9))
            }
            Measure::AnswersPerCpuSecond => Some(sample.answers as f64 / sample.spent.machine),
            Measure::CpuMicroseconds | Measure::CpuMicrosecondsPerConnection => {
                Some(sample.spent.machine * 1e6 / sample.answers as f64)
            }
            Measure::CpuSeconds => Some(sample.spent.machine),
            Measure::P99Milliseconds | Measure::MaximumMilliseconds => None,
        };
        side.iter().map(per).collect::<Option<Vec<_>>>().map(|values| median(&values))
    }
}

/// 0/0 and the like stay what they are and miss every target.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(measure: Measure, limit: f64, pairs: &[(f64, f64)]) -> Comparison {
        let sample = |figure| Sample { figure, spent: Spent::default(), answers: 1, bytes: 1, latency: None };
        Comparison {
            row: "row".into(),
            name: "name".into(),
            measure,
            baseline: "nginx",
            limit: Some(limit),
            ours: pairs.iter().map(|pair| sample(pair.0)).collect(),
            theirs: pairs.iter().map(|pair| sample(pair.1)).collect(),
        }
    }

    #[test]
    fn the_median_of_the_ratios_counts_and_not_the_ratio_of_medians() {
        let pairs = [(1.0, 1.0), (9.0, 3.0), (2.0, 4.0)];
        let lower = comparison(Measure::CpuSecondsPerGigabyte, 1.0, &pairs);
        assert_eq!((lower.ratio().median, lower.verdict()), (1.0, Some(Verdict::Near)));
        assert_eq!(lower.ratio_text(), "1.00 ± 1.250 (3)");
        assert_eq!(comparison(Measure::CpuSecondsPerGigabyte, 0.99, &pairs).verdict(), Some(Verdict::NearMiss));
        assert_eq!(comparison(Measure::CpuSecondsPerGigabyte, 3.5, &pairs).verdict(), Some(Verdict::Pass));
        assert_eq!(comparison(Measure::AnswersPerCpuSecond, 1.01, &pairs).verdict(), Some(Verdict::NearMiss));
        assert_eq!(comparison(Measure::AnswersPerCpuSecond, 0.99, &pairs).verdict(), Some(Verdict::Near));
    }

    #[test]
    fn the_standard_error_is_that_of_the_rank() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        // Ranks 46 to 55: a tenth of all values is two standard errors of the median of a hundred.
        assert_eq!(Estimate::of(&values), Estimate { median: 50.5, error: 4.5 });
        let outlier: Vec<f64> = values.iter().map(|value| if *value > 90.0 { 1e9 } else { *value }).collect();
        assert_eq!(Estimate::of(&outlier), Estimate::of(&values), "a burst in a tenth of the pairs is not in it");
        assert_eq!(Estimate::of(&[1.0, 1.0]).error, f64::INFINITY);
        let (one, two) = (Estimate { median: 2.0, error: 0.2 }, Estimate { median: 4.0, error: 0.0 });
        assert_eq!(one.over(two), Estimate { median: 0.5, error: 0.05 });
    }

    #[test]
    fn nothing_measured_is_a_miss() {
        assert!(!comparison(Measure::CpuSeconds, 1.0, &[]).verdict().unwrap().is_met());
        assert_eq!(comparison(Measure::CpuSeconds, 1.0, &[(1.0, 2.0)]).ratio_text(), "0.50 (1)");
        let nought = [(0.0, 0.0); 3];
        assert!(!comparison(Measure::AnswersPerCpuSecond, 1.0, &nought).verdict().unwrap().is_met());
    }

    #[test]
    fn parts_of_a_round_count_as_one_measurement() {
        let part = |cpu, answers, nanoseconds| {
            let mut tally = Tally { answers, bytes: answers * 1_000_000_000, ..Tally::nothing().unwrap() };
            tally.latency.record_n(nanoseconds, answers).unwrap();
            Sum::of(Spent { cpu, wall: 2.0, machine: cpu, server_core: 1.0 }, tally)
        };
        // The second part has less CPU per answer and more of the answers.
        let sum = part(1.0, 1, 1_000_000).and(&part(1.0, 3, 3_000_000)).unwrap();
        for (measure, figure) in [
            (Measure::AnswersPerCpuSecond, 2.0),
            (Measure::CpuSecondsPerGigabyte, 0.5),
            (Measure::CpuMicrosecondsPerConnection, 500_000.0),
            (Measure::CpuSeconds, 2.0),
        ] {
            assert_eq!(sum.sample(measure).figure, figure, "{measure:?}");
        }
        let sample = sum.sample(Measure::P99Milliseconds);
        assert!((sample.figure - 3.0).abs() < 0.01, "{sample:?}");
        assert_eq!((sample.answers, sample.spent.wall, sample.latency.map(|all| all.count)), (4, 4.0, Some(4)));
    }

    #[test]
    fn an_idle_server_is_not_the_limit() {
        assert!(comparison(Measure::AnswersPerCpuSecond, 1.0, &[(1.0, 1.0)]).remark().contains("not the server"));
        assert_eq!(comparison(Measure::P99Milliseconds, 1.0, &[(1.0, 1.0)]).remark(), "");
    }
}
