//! Reports as Markdown: what a scenario prints, and `RESULTS.md`.

use std::fmt::Write as _;

use crate::compare::{Comparison, Verdict};
use crate::cpu::{CLIENT_CORE, SERVER_CORE};
use crate::growth;
use crate::report::{Report, number};

/// All reports of a run.
pub(crate) fn page(reports: &[Report]) -> String {
    let mut text = "# Results\n\nWritten by `make bench`; do not edit.\n".to_owned();
    // Writing to a string can't fail, here and below.
    if let Some(report) = reports.first() {
        let _ = writeln!(
            text,
            "\nMachine: {}. Servers on core {SERVER_CORE}, clients and upstreams on core {CLIENT_CORE}, loopback. Ours and \
             theirs by turns; the ratio is the median of the ratios of all pairs ± its standard error (pairs). A target is \
             met with a margin of twice that error, or the verdict says \"too near\".",
            report.machine
        );
    }
    for report in reports {
        section(&mut text, report);
    }
    let near: Vec<&str> = reports.iter().flat_map(Report::too_near).collect();
    if !near.is_empty() {
        let _ = writeln!(text, "\nToo near to their limits: {}.", near.join("; "));
    }
    text
}

fn section(text: &mut String, report: &Report) {
    let _ = writeln!(text, "\n## {}\n", report.scenario);
    let conditions: Vec<String> = report.conditions.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    if !conditions.is_empty() {
        let _ = writeln!(text, "{}.\n", conditions.join("; "));
    }
    if !report.comparisons.is_empty() {
        let head = ["what", "ours", "theirs", "unit", "ratio", "target", "", "all cores, ours / theirs", "row"];
        table(text, &head.map(str::to_owned), report.comparisons.iter().map(|one| compared(one).to_vec()));
        latencies(text, &report.comparisons);
    }
    for grown in growth::tables(&report.series) {
        let _ = writeln!(text, "Over {}:\n", grown.over);
        table(text, &grown.head(), grown.rows().into_iter());
    }
    if !report.rows.is_empty() {
        let head = ["what", "figure", "target", ""].map(str::to_owned);
        table(text, &head, report.rows.iter().map(|row| row.cells().to_vec()));
    }
    for (what, why) in &report.failures {
        let _ = writeln!(text, "`{what}` was **not measured**:\n\n```text\n{why}\n```\n");
    }
    for (what, why) in report.absences() {
        let _ = writeln!(text, "Beside us {what} was not measured:\n\n```text\n{why}\n```\n");
    }
}

fn table(text: &mut String, head: &[String], rows: impl Iterator<Item = Vec<String>>) {
    let _ = writeln!(text, "| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text.push('\n');
}

fn compared(comparison: &Comparison) -> [String; 9] {
    let machine = match [&comparison.ours, &comparison.theirs].map(|side| comparison.machine(side)) {
        [Some(ours), Some(theirs)] => format!("{} / {}", number(ours), number(theirs)),
        _ => String::new(),
    };
    [
        comparison.name.clone() + &comparison.remark(),
        number(Comparison::figure(&comparison.ours)),
        format!("{} ({})", number(Comparison::figure(&comparison.theirs)), comparison.baseline),
        comparison.measure.unit().to_owned(),
        comparison.ratio_text(),
        comparison.target(),
        comparison.verdict().map_or("", Verdict::text).to_owned(),
        machine,
        format!("`{}`", comparison.row),
    ]
}

/// Quantiles of what is a latency, of each side's last pair.
fn latencies(text: &mut String, comparisons: &[Comparison]) {
    let mut rows = Vec::new();
    for comparison in comparisons.iter().filter(|comparison| comparison.measure.is_latency()) {
        for (side, name) in [(&comparison.ours, "ours"), (&comparison.theirs, comparison.baseline)] {
            if let Some(latency) = side.last().and_then(|sample| sample.latency) {
                let quantiles = [latency.p50, latency.p90, latency.p99, latency.p999, latency.max].map(number);
                let first = [comparison.name.clone(), name.to_owned(), latency.count.to_string()];
                rows.push(first.into_iter().chain(quantiles).collect());
            }
        }
    }
    if !rows.is_empty() {
        text.push_str("Latencies of the last pair in ms, free of coordinated omission:\n\n");
        let head = ["what", "", "answers", "p50", "p90", "p99", "p99.9", "max"].map(str::to_owned);
        table(text, &head, rows.into_iter());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Estimate, Measure, Sample};
    use crate::cpu::Spent;
    use crate::growth::{Flat, Series};

    #[test]
    fn results_show_ratios_with_their_errors_and_how_costs_grow() {
        let mut report = Report::new("scale");
        let sample = |figure| Sample { figure, spent: Spent::default(), answers: 1, bytes: 1, latency: None };
        report.comparisons.push(Comparison {
            row: "push".into(),
            name: "a push".into(),
            measure: Measure::CpuSeconds,
            baseline: "nobody",
            limit: Some(1.0),
            ours: [0.9, 0.95, 0.9, 0.8].map(sample).to_vec(),
            theirs: vec![sample(1.0); 4],
        });
        let points = [(10.0, 2.0), (1000.0, 4.0)].map(|(at, median)| (at, Estimate { median, error: 0.0 })).to_vec();
        let flat = Some(Flat { limit: 1.5, from: 0.0 });
        report.series.push(Series { name: "a|b".into(), unit: "CPU-us", over: "blobs", points, flat });
        let text = page(&[report]);
        let row = "| a push | 0.900 | 1 (nobody) | CPU-s | 0.90 ± 0.000 (4) | <= 1.00 | PASS | 0 / 0 | `push` |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| what | unit | 10 | 1,000 | last / first | target |  |"), "{text}");
        assert!(text.contains("| a\\|b | CPU-us | 2 | 4 | 2.00 | <= 1.50 | MISS |"), "{text}");
        assert!(!text.contains("Too near"), "{text}");
    }
}
