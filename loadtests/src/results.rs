//! The whole table in one go: what `make bench` runs, and `RESULTS.md` that it writes.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::runtime::Handle;

use crate::cold_storm::{self, ColdStormOptions};
use crate::compare::Comparison;
use crate::hot_paths::{self, HotPathsOptions, Row};
use crate::interrupt;
use crate::report::{Report, comparison_cells, number, series_cells};
use crate::store_scale::{self, StoreScaleOptions};

/// Rows that are measured once more with the access logs off.
const LOGS_OFF: [Row; 4] = [Row::BlobPlain, Row::ManifestPlain, Row::ManifestTls, Row::Blob4kPlain];

/// What to run it with.
#[derive(Args, Clone, Debug)]
pub(crate) struct TableOptions {
    #[command(flatten)]
    hot_paths: HotPathsOptions,
    /// Leave out `cold-storm` and `store-scale`, which take some minutes.
    #[arg(long)]
    hot_paths_only: bool,
    /// Write the results as Markdown to this file.
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
}

/// Runs all scenarios one after the other. One that fails is named, and the others go on.
pub(crate) fn run(options: &TableOptions, runtime: &Handle) -> Result<Vec<Report>> {
    let hot = &options.hot_paths;
    let mut reports = Vec::new();
    if !options.hot_paths_only {
        // First: the hot paths move this thread to a core of its own.
        let scratch = hot.scratch.clone();
        let storm = ColdStormOptions::new(hot.server.clone(), scratch.clone());
        reports.push(or_failure("cold-storm", runtime.block_on(cold_storm::run(&storm)))?);
        let scale = StoreScaleOptions::new(hot.server.clone(), scratch);
        reports.push(or_failure("store-scale", runtime.block_on(store_scale::run(&scale)))?);
    }
    reports.insert(0, hot_paths::run(hot)?);
    if !hot.access_log_off && hot.rows.is_empty() {
        let off = HotPathsOptions { access_log_off: true, rows: LOGS_OFF.to_vec(), ..hot.clone() };
        reports.insert(1, hot_paths::run(&off)?);
    }
    if let Some(path) = &options.results {
        fs::write(path, markdown(&reports)).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(reports)
}

fn or_failure(scenario: &'static str, report: Result<Report>) -> Result<Report> {
    report.or_else(|error| {
        interrupt::check()?;
        let mut report = Report::new(scenario);
        report.failure(scenario.to_owned(), format!("{error:#}"));
        Ok(report)
    })
}

fn markdown(reports: &[Report]) -> String {
    let mut text = "# Results\n\nWritten by `make bench`; do not edit.\n".to_owned();
    if let Some(report) = reports.first() {
        let machine = report.machine();
        // Writing to a string can't fail, here and below.
        let _ = writeln!(
            text,
            "\nMachine: {}, {} cores, {} MiB, Linux {}. Servers on core {}, clients and upstreams on core {}, loopback. Ours and \
             theirs in turns; the median of the rounds' ratios counts, least and most beside it.",
            machine.processor,
            machine.cores,
            machine.memory_mib,
            machine.kernel,
            crate::cpu::SERVER_CORE,
            crate::cpu::CLIENT_CORE
        );
    }
    reports.iter().for_each(|report| section(&mut text, report));
    text
}

fn section(text: &mut String, report: &Report) {
    let _ = writeln!(text, "\n## {}\n", report.scenario());
    let conditions: Vec<String> = report.conditions().iter().map(|(name, value)| format!("{name}: {value}")).collect();
    if !conditions.is_empty() {
        let _ = writeln!(text, "{}.\n", conditions.join("; "));
    }
    if !report.comparisons().is_empty() {
        comparisons(text, report.comparisons());
    }
    if !report.series().is_empty() {
        text.push_str("| what | | points |\n|---|---|---|\n");
        for series in report.series() {
            let [name, over, points] = series_cells(series);
            let _ = writeln!(text, "| {name} | {over} | {points} |");
        }
        text.push('\n');
    }
    if !report.rows().is_empty() {
        text.push_str("| what | figure | target | |\n|---|---|---|---|\n");
        for row in report.rows() {
            let [name, value, target, verdict] = row.cells().map(|cell| cell.replace('|', "\\|"));
            let _ = writeln!(text, "| {name} | {value} | {target} | {verdict} |");
        }
        text.push('\n');
    }
    for (what, why) in report.failures() {
        let _ = writeln!(text, "`{what}` was **not measured**:\n\n```text\n{why}\n```\n");
    }
    for (what, why) in report.absences() {
        let _ = writeln!(text, "Beside us {what} was not measured:\n\n```text\n{why}\n```\n");
    }
    if report.comparisons().is_empty() {
        let _ = writeln!(text, "Again: `make bench BENCH=\"{} --server PROGRAM\"`.", report.scenario());
    } else {
        let _ = writeln!(text, "One row again: `make bench ROW=blob-plain`, by the name in the last column.");
    }
}

fn comparisons(text: &mut String, comparisons: &[Comparison]) {
    text.push_str(
        "| what | ours | theirs | unit | ratio | target | | all cores, ours / theirs | row |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for comparison in comparisons {
        let [name, ours, theirs, unit, ratio, target, verdict, remark] = comparison_cells(comparison);
        let machine = [&comparison.ours, &comparison.theirs].map(|side| comparison.machine(side));
        let machine = match machine {
            [Some(ours), Some(theirs)] => format!("{} / {}", number(ours), number(theirs)),
            _ => String::new(),
        };
        let remark = if remark.is_empty() { remark } else { format!("; {remark}") };
        let row = &comparison.row;
        let _ = writeln!(
            text,
            "| {name}{remark} | {ours} | {theirs} | {unit} | {ratio} | {target} | {verdict} | {machine} | `{row}` |"
        );
    }
    text.push('\n');
    latencies(text, comparisons);
}

/// Quantiles of what is a latency, each side's last round.
fn latencies(text: &mut String, comparisons: &[Comparison]) {
    let tails: Vec<&Comparison> = comparisons.iter().filter(|comparison| comparison.measure.is_latency()).collect();
    if tails.is_empty() {
        return;
    }
    text.push_str("Latencies of the last round in ms, free of coordinated omission:\n\n");
    text.push_str("| what | | answers | p50 | p90 | p99 | p99.9 | max |\n|---|---|---|---|---|---|---|---|\n");
    for comparison in tails {
        for (side, name) in [(&comparison.ours, "ours"), (&comparison.theirs, comparison.yardstick)] {
            if let Some(latency) = side.last().and_then(|sample| sample.latency) {
                let cells = [latency.p50, latency.p90, latency.p99, latency.p999, latency.max].map(number);
                let _ = writeln!(text, "| {} | {name} | {} | {} |", comparison.name, latency.count, cells.join(" | "));
            }
        }
    }
    text.push('\n');
}
