//! Results of a scenario; [`crate::markdown`] shows them to people, JSON is for comparing runs.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use crate::compare::{Comparison, Verdict};
use crate::growth::Series;
use crate::markdown;
use crate::proc::Machine;

/// Where results go, beside standard output.
#[derive(Args)]
pub(crate) struct Output {
    /// Write the results as Markdown to this file as well.
    #[arg(long, global = true, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Write the results as JSON, with the figures of every pair, to this file as well.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Target of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Target {
    Below(f64),
    AtLeast(f64),
    Exactly(f64),
}

impl Target {
    fn met_by(self, value: f64) -> bool {
        match self {
            Self::Below(limit) => value < limit,
            Self::AtLeast(limit) => value >= limit,
            Self::Exactly(wanted) => (value - wanted).abs() < f64::EPSILON,
        }
    }

    fn text(self, unit: &str) -> String {
        let (sign, limit) = match self {
            Self::Below(limit) => ("<", limit),
            Self::AtLeast(limit) => (">=", limit),
            Self::Exactly(wanted) => ("=", wanted),
        };
        format!("{sign} {} {unit}", number(limit)).trim_end().to_owned()
    }
}

/// A figure that is taken once.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Target>,
    #[serde(skip_serializing_if = "Option::is_none")]
    passed: Option<bool>,
}

impl Row {
    /// Name, value, target and verdict.
    pub(crate) fn cells(&self) -> [String; 4] {
        [
            self.name.clone(),
            format!("{} {}", number(self.value), self.unit).trim_end().to_owned(),
            self.target.map(|target| target.text(self.unit)).unwrap_or_default(),
            self.passed.map_or("", |passed| if passed { "PASS" } else { "MISS" }).to_owned(),
        ]
    }
}

/// The figures of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: &'static str,
    pub(crate) machine: Machine,
    /// Conditions that the figures hold for.
    pub(crate) conditions: Vec<(String, String)>,
    pub(crate) comparisons: Vec<Comparison>,
    pub(crate) series: Vec<Series>,
    pub(crate) rows: Vec<Row>,
    /// Names of what could not be measured, with the reason: as good as missed.
    pub(crate) failures: Vec<(String, String)>,
    /// The same of what is shown for information only.
    absences: Vec<(String, String)>,
}

impl Report {
    /// Without figures yet.
    pub(crate) fn new(scenario: &'static str) -> Self {
        Self {
            scenario,
            machine: Machine::here(),
            conditions: Vec::new(),
            comparisons: Vec::new(),
            series: Vec::new(),
            rows: Vec::new(),
            failures: Vec::new(),
            absences: Vec::new(),
        }
    }

    /// Adds a figure without a target.
    pub(crate) fn fact(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.rows.push(Row { name: name.into(), value, unit, target: None, passed: None });
    }

    /// Adds a figure with a target.
    pub(crate) fn judge(&mut self, name: impl Into<String>, value: f64, unit: &'static str, target: Target) {
        let passed = Some(target.met_by(value));
        self.rows.push(Row { name: name.into(), value, unit, target: Some(target), passed });
    }

    /// Adds a condition that the figures hold for.
    pub(crate) fn condition(&mut self, name: &str, value: impl Display) {
        self.conditions.push((name.to_owned(), value.to_string()));
    }

    /// Adds a failure of something that has a target.
    pub(crate) fn failure(&mut self, what: String, why: String) {
        self.failures.push((what, why));
    }

    /// Adds a failure of something without a target; said once, whatever it is missing from.
    pub(crate) fn absence(&mut self, what: &str, why: String) {
        if !self.absences.iter().any(|(said, _)| said == what) {
            self.absences.push((what.to_owned(), why));
        }
    }

    pub(crate) fn absences(&self) -> &[(String, String)] {
        &self.absences
    }

    /// Names and verdicts of all that has a standard error and a target.
    fn verdicts(&self) -> impl Iterator<Item = (&str, Verdict)> {
        let compared = self.comparisons.iter().filter_map(|one| Some((one.name.as_str(), one.verdict()?)));
        compared.chain(self.series.iter().filter_map(|one| Some((one.name.as_str(), one.verdict()?))))
    }

    /// Names of figures that are nearer to their limit than twice their standard error.
    pub(crate) fn too_near(&self) -> Vec<&str> {
        self.verdicts().filter(|(_, verdict)| !verdict.is_settled()).map(|(name, _)| name).collect()
    }

    /// Whether everything was measured and every target met.
    pub(crate) fn passed(&self) -> bool {
        self.failures.is_empty()
            && self.rows.iter().all(|row| row.passed != Some(false))
            && self.verdicts().all(|(_, verdict)| verdict.is_met())
    }

    fn json(&self) -> Result<Value> {
        let mut value = serde_json::to_value(self)?;
        for (one, comparison) in value["comparisons"].as_array_mut().into_iter().flatten().zip(&self.comparisons) {
            one["ratio"] = json!(comparison.ratio());
            one["verdict"] = json!(comparison.verdict());
        }
        Ok(value)
    }
}

/// As many digits as say something.
pub(crate) fn number(value: f64) -> String {
    if value.fract() == 0.0 || value >= 1000.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

impl Output {
    /// Writes the reports of one run to standard output and to the files that were asked for.
    pub(crate) fn write(&self, reports: &[Report]) -> Result<()> {
        let text = markdown::page(reports);
        io::stdout().write_all(text.as_bytes())?;
        if let Some(path) = &self.results {
            fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
        }
        if let Some(path) = &self.json {
            let reports = reports.iter().map(Report::json).collect::<Result<Vec<_>>>()?;
            fs::write(path, serde_json::to_string_pretty(&reports)?)
                .with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Estimate;
    use crate::growth::Flat;

    #[test]
    fn a_missed_target_fails_the_report_and_shows_in_both_forms() {
        let mut report = Report::new("test");
        report.fact("fact", 12.0, "");
        report.absence("a baseline", "it is not installed".into());
        report.absence("a baseline", "it is not installed".into());
        report.judge("fast", 4.99, "ms", Target::Below(5.0));
        let one = Estimate { median: 1.0, error: 0.0 };
        let mut series = Series {
            name: "grown".into(),
            unit: "CPU-us",
            over: "blobs",
            points: vec![(1.0, one), (2.0, Estimate { median: 2.0, error: 0.3 })],
            flat: Some(Flat { limit: 2.5, from: 0.0 }),
        };
        report.series.push(series.clone());
        assert!(report.passed());
        assert_eq!(report.too_near(), ["grown"]);
        series.flat = Some(Flat { limit: 1.5, from: 0.0 });
        report.series.push(series);
        assert!(!report.passed(), "what grows more than it may is a miss");
        report.series.pop();
        assert!(report.passed());
        report.judge("slow", 5.0, "ms", Target::Below(5.0));
        report.judge("many", 20_000.0, "/s", Target::AtLeast(20_000.0));
        assert!(!report.passed());
        let text = markdown::page(std::slice::from_ref(&report));
        assert_eq!(text.matches("it is not installed").count(), 1, "{text}");
        assert!(text.contains("| fast | 4.990 ms | < 5 ms | PASS |") && text.contains("MISS"), "{text}");
        let json = report.json().unwrap();
        assert_eq!(json["rows"][2]["passed"], false);
        assert_eq!(json["rows"][0].get("target"), None);
    }
}
