//! The whole table in one go: what `make bench` runs, and `RESULTS.md` that it writes.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::runtime::Handle;

use crate::cold_storm::{self, ColdStormOptions};
use crate::compare::Comparison;
use crate::growth::{self, Table};
use crate::rows::{self, HotPathsOptions, Row};
use crate::interrupt;
use crate::plot;
use crate::report::{Report, comparison_cells, number};
use crate::rows::scale::{self, ScaleOptions};
use crate::rows::large_store::{self, StoreScaleOptions};

/// Rows that are measured once more with the access logs off.
const LOGS_OFF: [Row; 4] = [Row::BlobPlain, Row::ManifestPlain, Row::ManifestTls, Row::Blob4kPlain];

/// What to run it with.
#[derive(Args, Clone, Debug)]
pub(crate) struct TableOptions {
    #[command(flatten)]
    hot_paths: HotPathsOptions,
    /// Leave out `cold-storm`, `store-scale` and `scale`, which take some minutes.
    #[arg(long)]
    hot_paths_only: bool,
    /// Leave out `scale`, which takes up to ten minutes and 8 GiB.
    #[arg(long)]
    no_scale: bool,
    /// Write the results as Markdown to this file, and plots to the folder `plots` beside it.
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
        let large = StoreScaleOptions::new(hot.server.clone(), scratch);
        reports.push(or_failure("store-scale", runtime.block_on(large_store::run(&large)))?);
        if !options.no_scale {
            let grown = ScaleOptions::new(hot.server.clone(), hot.scratch.clone());
            reports.push(or_failure("scale", scale::run(&grown))?);
        }
    }
    reports.insert(0, rows::run(hot)?);
    if !hot.access_log_off && hot.rows.is_empty() {
        let off = HotPathsOptions { access_log_off: true, rows: LOGS_OFF.to_vec(), ..hot.clone() };
        reports.insert(1, rows::run(&off)?);
    }
    if let Some(path) = &options.results {
        fs::write(path, markdown(&reports)).with_context(|| format!("write {}", path.display()))?;
        let beside = path.parent().unwrap_or_else(|| Path::new(""));
        for (file, svg) in plots(&reports) {
            let file = beside.join(file);
            make_folder(file.parent().unwrap_or(beside))?;
            fs::write(&file, svg).with_context(|| format!("write {}", file.display()))?;
        }
    }
    Ok(reports)
}

/// All plots by their file's name, relative to the results.
fn plots(reports: &[Report]) -> Vec<(String, String)> {
    let of_one = |report: &Report| {
        let tables = growth::tables(report.series());
        tables.iter().map(|table| (plot_file(report, table), plot::plot(table, true))).collect::<Vec<_>>()
    };
    reports.iter().flat_map(of_one).collect()
}

/// Letters and dashes: it is part of a link.
fn plot_file(report: &Report, table: &Table<'_>) -> String {
    let word =
        |text: &str| text.to_lowercase().split(|c: char| !c.is_ascii_alphanumeric()).collect::<Vec<_>>().join("-");
    format!("plots/{}-{}.svg", report.scenario(), word(table.over))
}

fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))
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
            "\nMachine: {machine}. Servers on core {}, clients and upstreams on core {}, loopback. Ours and \
             theirs by turns inside of each round; the median of the rounds' ratios counts, least and most beside it.",
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
    for table in growth::tables(report.series()) {
        grown(text, &table, &plot_file(report, &table));
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

/// How something grows: a table, and its plot beside the file.
fn grown(text: &mut String, table: &Table<'_>, plot: &str) {
    let _ = writeln!(text, "Over {}:\n", table.over);
    let head = table.head();
    let _ = writeln!(text, "| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
    for row in table.rows() {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    let _ = writeln!(text, "\n![over {}]({plot})\n", table.over);
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
        for (side, name) in [(&comparison.ours, "ours"), (&comparison.theirs, comparison.baseline)] {
            if let Some(latency) = side.last().and_then(|sample| sample.latency) {
                let cells = [latency.p50, latency.p90, latency.p99, latency.p999, latency.max].map(number);
                let _ = writeln!(text, "| {} | {name} | {} | {} |", comparison.name, latency.count, cells.join(" | "));
            }
        }
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::growth::{Flat, Series};

    #[test]
    fn results_show_how_costs_grow_and_link_their_plots() {
        let mut report = Report::new("scale");
        for (over, unit) in [("tags of a repository", "CPU-us"), ("blobs", "CPU-us"), ("blobs", "MiB")] {
            let (name, points) = ("a|b".to_owned(), vec![(10.0, 2.0), (1000.0, 4.0)]);
            report.line(Series { name, unit, over, points, flat: Some(Flat { limit: 1.5, from: 0.0 }) });
        }
        let reports = [report];
        let text = markdown(&reports);
        let plots = plots(&reports);
        assert!(text.contains("| what | unit | 10 | 1,000 | last / first | target |  |"), "{text}");
        assert!(text.contains("| a\\|b | CPU-us | 2 | 4 | 2.00 | <= 1.50 | MISS |"), "{text}");
        let files: Vec<&str> = plots.iter().map(|plot| plot.0.as_str()).collect();
        assert_eq!(files, ["plots/scale-tags-of-a-repository.svg", "plots/scale-blobs.svg"]);
        assert!(files.iter().all(|file| text.contains(&format!("]({file})"))), "{text}");
    }
}
