//! Results: a table for people, JSON for comparing runs.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

use crate::proc::Machine;

/// Where results go.
#[derive(Args)]
pub(crate) struct Output {
    /// Write the results as JSON to this file as well; `-` is standard output, the table goes to standard error then.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What a figure is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Unit {
    Milliseconds,
    MebiBytes,
    PerSecond,
    Count,
}

impl Unit {
    const fn symbol(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::MebiBytes => "MiB",
            Self::PerSecond => "/s",
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
    rows: Vec<Row>,
}

impl Report {
    /// Without figures yet.
    pub(crate) fn new(scenario: &'static str) -> Self {
        Self { scenario, machine: Machine::here(), rows: Vec::new() }
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

    /// Whether every target was met.
    pub(crate) fn passed(&self) -> bool {
        self.rows.iter().all(|row| row.passed != Some(false))
    }

    fn table(&self) -> String {
        let cells: Vec<[String; 4]> = self.rows.iter().map(Row::cells).collect();
        let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2)];
        let machine = &self.machine;
        let mut table = format!(
            "{} on {} ({} cores, {} MiB, Linux {})\n",
            self.scenario, machine.processor, machine.cores, machine.memory_mib, machine.kernel
        );
        for [name, value, target, verdict] in &cells {
            let line = format!("  {name:<0$}  {value:>1$}  {target:<2$}  {verdict}", widths[0], widths[1], widths[2]);
            // Writing to a string can't fail.
            let _ = writeln!(table, "{}", line.trim_end());
        }
        table
    }
}

impl Row {
    fn cells(&self) -> [String; 4] {
        let verdict = match self.passed {
            Some(true) => "PASS",
            Some(false) => "FAIL",
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
fn number(value: f64) -> String {
    if value.fract() == 0.0 || value >= 1000.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

impl Output {
    /// Writes the report to where it was asked for.
    pub(crate) fn write(&self, report: &Report) -> Result<()> {
        let json = || serde_json::to_string_pretty(report).context("the report can't be written as JSON");
        match &self.json {
            Some(path) if path.as_os_str() == "-" => {
                io::stderr().write_all(report.table().as_bytes())?;
                writeln!(io::stdout(), "{}", json()?)?;
            }
            Some(path) => {
                io::stdout().write_all(report.table().as_bytes())?;
                let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
                writeln!(file, "{}", json()?).with_context(|| format!("write {}", path.display()))?;
            }
            None => io::stdout().write_all(report.table().as_bytes())?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_fails_the_report_and_shows_in_both_forms() {
        let mut report = Report::new("test");
        report.fact("fact", 12.0, Unit::Count);
        report.judge("fast", 4.99, Unit::Milliseconds, Target::Below(5.0));
        assert!(report.passed());
        report.judge("slow", 5.0, Unit::Milliseconds, Target::Below(5.0));
        report.judge("many", 20_000.0, Unit::PerSecond, Target::AtLeast(20_000.0));
        assert!(!report.passed());
        let table = report.table();
        assert!(table.contains("fast  4.990 ms  < 5 ms") && table.contains("FAIL"), "{table}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rows"][2]["passed"], false);
        assert_eq!(json["rows"][0].get("target"), None);
    }
}
