//! Results: a table for people, JSON for comparing runs.

use std::fmt::{Display, Write as _};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

use crate::compare::Comparison;
use crate::growth::{self, Series};
use crate::html;
use crate::proc::Machine;

/// Where results go.
#[derive(Args)]
pub(crate) struct Output {
    /// Write the results as JSON to this file as well; `-` is standard output, the table goes to standard error then.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with plots to this file as well; it needs nothing else.
    #[arg(long, global = true, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What a figure is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Unit {
    Milliseconds,
    MebiBytes,
    Megabytes,
    PerSecond,
    MegabytesPerSecond,
    Count,
}

impl Unit {
    const fn symbol(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::MebiBytes => "MiB",
            Self::Megabytes => "MB",
            Self::PerSecond => "/s",
            Self::MegabytesPerSecond => "MB/s",
            Self::Count => "",
        }
    }
}

/// What a figure has to be.
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

    fn text(self, unit: Unit) -> String {
        let (sign, limit) = match self {
            Self::Below(limit) => ("<", limit),
            Self::AtLeast(limit) => (">=", limit),
            Self::Exactly(wanted) => ("=", wanted),
        };
        format!("{sign} {} {}", number(limit), unit.symbol()).trim_end().to_owned()
    }
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    name: String,
    value: f64,
    unit: Unit,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Target>,
    #[serde(skip_serializing_if = "Option::is_none")]
    passed: Option<bool>,
}

/// The figures of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    scenario: &'static str,
    machine: Machine,
    /// What the figures hold for.
    conditions: Vec<(String, String)>,
    /// Ours against theirs.
    comparisons: Vec<Comparison>,
    series: Vec<Series>,
    rows: Vec<Row>,
    /// What could not be measured, and why: as good as missed.
    failures: Vec<(String, String)>,
    /// What would have been shown beside the rest for information and is not there, and why.
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

    /// A figure without a target.
    pub(crate) fn fact(&mut self, name: impl Into<String>, value: f64, unit: Unit) {
        self.rows.push(Row { name: name.into(), value, unit, target: None, passed: None });
    }

    /// A figure with one.
    pub(crate) fn judge(&mut self, name: impl Into<String>, value: f64, unit: Unit, target: Target) {
        let passed = Some(target.met_by(value));
        self.rows.push(Row { name: name.into(), value, unit, target: Some(target), passed });
    }

    /// What the figures hold for.
    pub(crate) fn condition(&mut self, name: &str, value: impl Display) {
        self.conditions.push((name.to_owned(), value.to_string()));
    }

    /// A comparison that was measured.
    pub(crate) fn compare(&mut self, comparison: Comparison) {
        self.comparisons.push(comparison);
    }

    /// How something grows.
    pub(crate) fn line(&mut self, series: Series) {
        self.series.push(series);
    }

    pub(crate) fn series(&self) -> &[Series] {
        &self.series
    }

    /// Something could not be measured.
    pub(crate) fn failure(&mut self, what: String, why: String) {
        self.failures.push((what, why));
    }

    /// Something without a target could not be measured; said once, whatever it is missing from.
    pub(crate) fn absence(&mut self, what: &str, why: String) {
        if !self.absences.iter().any(|(said, _)| said == what) {
            self.absences.push((what.to_owned(), why));
        }
    }

    /// Whether everything was measured and every target met.
    pub(crate) fn passed(&self) -> bool {
        self.failures.is_empty()
            && self.rows.iter().all(|row| row.passed != Some(false))
            && self.comparisons.iter().all(|comparison| comparison.met() != Some(false))
            && self.series.iter().all(|series| series.met() != Some(false))
    }

    /// The name of the scenario.
    pub(crate) fn scenario(&self) -> &'static str {
        self.scenario
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(crate) fn conditions(&self) -> &[(String, String)] {
        &self.conditions
    }

    pub(crate) fn comparisons(&self) -> &[Comparison] {
        &self.comparisons
    }

    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub(crate) fn failures(&self) -> &[(String, String)] {
        &self.failures
    }

    pub(crate) fn absences(&self) -> &[(String, String)] {
        &self.absences
    }

    fn table(&self) -> String {
        let mut table = format!("{} on {}\n", self.scenario, self.machine);
        for (name, value) in &self.conditions {
            // Writing to a string can't fail.
            let _ = writeln!(table, "  {name}: {value}");
        }
        let head = ["", "ours", "theirs", "unit", "ratio", "target", "", ""].map(str::to_owned);
        let compared = self.comparisons.iter().map(comparison_cells);
        if !self.comparisons.is_empty() {
            table.push_str(&aligned(&std::iter::once(head).chain(compared).collect::<Vec<_>>()));
        }
        for grown in growth::tables(&self.series) {
            let _ = writeln!(table, "  over {}:", grown.over);
            table.push_str(&aligned(&std::iter::once(grown.head()).chain(grown.rows()).collect::<Vec<_>>()));
        }
        table.push_str(&aligned(&self.rows.iter().map(Row::cells).collect::<Vec<_>>()));
        for (what, why) in &self.failures {
            let _ = writeln!(table, "  {what}: NOT MEASURED: {why}");
        }
        for (what, why) in &self.absences {
            let _ = writeln!(table, "  without {what}: {why}");
        }
        table
    }
}

/// A comparison as a line: name, ours, theirs, unit, ratio with spread, target, verdict, remark.
pub(crate) fn comparison_cells(comparison: &Comparison) -> [String; 8] {
    let verdict = comparison.met().map_or("", |met| if met { "PASS" } else { "MISS" });
    [
        comparison.name.clone(),
        number(Comparison::figure(&comparison.ours)),
        format!("{} ({})", number(Comparison::figure(&comparison.theirs)), comparison.baseline),
        comparison.measure.unit().to_owned(),
        comparison.spread(),
        comparison.target(),
        verdict.to_owned(),
        comparison.remark(),
    ]
}

/// Columns side by side; the first and the last two to the left.
fn aligned<Line: AsRef<[String]>>(cells: &[Line]) -> String {
    let mut text = String::new();
    for line in cells {
        let mut row = " ".to_owned();
        for (column, cell) in line.as_ref().iter().enumerate() {
            let width = cells.iter().map(|line| line.as_ref()[column].chars().count()).max().unwrap_or(0);
            let padded = if column == 0 || column + 2 >= line.as_ref().len() {
                format!(" {cell:<width$} ")
            } else {
                format!(" {cell:>width$} ")
            };
            row.push_str(&padded);
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

impl Row {
    pub(crate) fn cells(&self) -> [String; 4] {
        let verdict = match self.passed {
            Some(true) => "PASS",
            Some(false) => "MISS",
            None => "",
        };
        [
            self.name.clone(),
            format!("{} {}", number(self.value), self.unit.symbol()).trim_end().to_owned(),
            self.target.map(|target| target.text(self.unit)).unwrap_or_default(),
            verdict.to_owned(),
        ]
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
    /// Writes the reports of one run to where they were asked for.
    pub(crate) fn write(&self, reports: &[Report]) -> Result<()> {
        let json = || {
            // One scenario stands alone, as ever.
            let text = match reports {
                [report] => serde_json::to_string_pretty(report),
                _ => serde_json::to_string_pretty(reports),
            };
            text.context("the report can't be written as JSON")
        };
        let table: String = reports.iter().map(Report::table).collect();
        if let Some(path) = &self.html {
            fs::write(path, html::page(reports)).with_context(|| format!("write {}", path.display()))?;
        }
        match &self.json {
            Some(path) if path.as_os_str() == "-" => {
                io::stderr().write_all(table.as_bytes())?;
                writeln!(io::stdout(), "{}", json()?)?;
            }
            Some(path) => {
                io::stdout().write_all(table.as_bytes())?;
                let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
                writeln!(file, "{}", json()?).with_context(|| format!("write {}", path.display()))?;
            }
            None => io::stdout().write_all(table.as_bytes())?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::growth::Flat;

    #[test]
    fn a_missed_target_fails_the_report_and_shows_in_both_forms() {
        let mut report = Report::new("test");
        report.fact("fact", 12.0, Unit::Count);
        report.absence("a baseline", "it is not installed".into());
        report.absence("a baseline", "it is not installed".into());
        report.judge("fast", 4.99, Unit::Milliseconds, Target::Below(5.0));
        let mut series = Series {
            name: "grown".into(),
            unit: "CPU-us",
            over: "blobs",
            points: vec![(1.0, 1.0), (2.0, 2.0)],
            flat: Some(Flat { limit: 2.0, from: 0.0 }),
        };
        report.line(series.clone());
        assert!(report.passed());
        series.flat = Some(Flat { limit: 1.5, from: 0.0 });
        report.line(series);
        assert!(!report.passed(), "what grows more than it may is a miss");
        report.series.pop();
        assert!(report.passed());
        report.judge("slow", 5.0, Unit::Milliseconds, Target::Below(5.0));
        report.judge("many", 20_000.0, Unit::PerSecond, Target::AtLeast(20_000.0));
        assert!(!report.passed());
        let table = report.table();
        assert_eq!(table.matches("without a baseline: it is not installed").count(), 1, "{table}");
        assert!(table.contains("over blobs") && table.contains("<= 2.00"), "{table}");
        assert!(table.contains("4.990 ms  < 5 ms") && table.contains("MISS"), "{table}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rows"][2]["passed"], false);
        assert_eq!(json["rows"][0].get("target"), None);
    }
}
