//! A report as one page of HTML with plots as inline SVG: no script, no font, no address outside of it.

use std::fmt::Write as _;

use crate::compare::{Comparison, Sample};
use crate::growth::{self, Table};
use crate::plot;
use crate::report::{Report, comparison_cells, number};

const STYLE: &str = "body{font:15px/1.4 system-ui,sans-serif;margin:2em auto;max-width:75em;color:#222}\
table{border-collapse:collapse;width:100%}td,th{padding:.3em .6em;border-bottom:1px solid #ddd;text-align:left;\
vertical-align:top}td.n{text-align:right;white-space:nowrap}.PASS{color:#176f2c}.MISS{color:#b3261e;font-weight:bold}\
small{color:#666}svg{display:block}";
const OURS: &str = "#1f6feb";
const THEIRS: &str = "#d4761c";
const WIDTH: f64 = 300.0;

/// The page.
pub(crate) fn page(reports: &[Report]) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>loadtests</title><style>{STYLE}</style>\
         <h1>loadtests</h1>"
    );
    if let Some(report) = reports.first() {
        let machine = report.machine();
        // Writing to a string can't fail, here and below.
        let _ = write!(
            page,
            "<p>{}. Dots are rounds: <b style=\"color:{OURS}\">ours</b>, \
             <b style=\"color:{THEIRS}\">theirs</b>; axes begin at nought.</p>",
            escape(&machine.to_string())
        );
    }
    reports.iter().for_each(|report| section(&mut page, report));
    page.push_str("</html>\n");
    page
}

fn section(page: &mut String, report: &Report) {
    let _ = write!(page, "<h2>{}</h2><p><small>", escape(report.scenario()));
    for (name, value) in report.conditions() {
        let _ = write!(page, "{}: {}. ", escape(name), escape(value));
    }
    page.push_str("</small></p>");
    if !report.comparisons().is_empty() {
        page.push_str("<table><tr><th>what<th>ours<th>theirs<th>unit<th>ratio<th>target<th><th>rounds");
        report.comparisons().iter().for_each(|comparison| compared(page, comparison));
        page.push_str("</table>");
    }
    for table in growth::tables(report.series()) {
        grown(page, &table);
    }
    if !report.rows().is_empty() {
        page.push_str("<table><tr><th>what<th>figure<th>target<th>");
        for row in report.rows() {
            let [name, value, target, verdict] = row.cells().map(|cell| escape(&cell));
            let _ =
                write!(page, "<tr><td>{name}<td class=n>{value}<td class=n>{target}<td class=\"{verdict}\">{verdict}");
        }
        page.push_str("</table>");
    }
    for (what, why) in report.failures() {
        let _ = write!(page, "<p class=MISS>{} was not measured: {}</p>", escape(what), escape(why));
    }
    for (what, why) in report.absences() {
        let _ = write!(page, "<p>Beside us {} was not measured: {}</p>", escape(what), escape(why));
    }
}

fn compared(page: &mut String, comparison: &Comparison) {
    let [name, ours, theirs, unit, ratio, target, verdict, remark] =
        comparison_cells(comparison).map(|cell| escape(&cell));
    let _ = write!(
        page,
        "<tr><td>{name}<br><small>{remark}</small><td class=n>{ours}<td class=n>{theirs}<td>{unit}<td class=n>{ratio}\
         <td class=n>{target}<td class=\"{verdict}\">{verdict}<td>{}{}",
        dots(comparison),
        latencies(comparison)
    );
}

/// The figures of all rounds on one axis.
fn dots(comparison: &Comparison) -> String {
    let figures = |side: &[Sample]| side.iter().map(|sample| sample.figure).collect::<Vec<_>>();
    let lines = [(figures(&comparison.ours), OURS, 9.0), (figures(&comparison.theirs), THEIRS, 22.0)];
    let all = lines.iter().flat_map(|line| line.0.iter().copied());
    let most = all.filter(|figure| figure.is_finite()).fold(0.0, f64::max);
    let mut plot = format!("<svg width=\"{WIDTH}\" height=\"42\" role=\"img\">");
    if most > 0.0 {
        for (figures, colour, y) in lines {
            let end = WIDTH - 10.0;
            let _ = write!(plot, "<line x1=\"5\" x2=\"{end}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#ddd\"/>");
            for figure in figures.into_iter().filter(|figure| figure.is_finite()) {
                let x = 5.0 + figure / most * (WIDTH - 15.0);
                let _ =
                    write!(plot, "<circle cx=\"{x:.1}\" cy=\"{y}\" r=\"4\" fill=\"{colour}\" fill-opacity=\".6\"/>");
            }
        }
        let _ = write!(
            plot,
            "<text x=\"{}\" y=\"39\" text-anchor=\"end\" font-size=\"11\" fill=\"#666\">{}</text>",
            WIDTH - 5.0,
            number(most)
        );
    }
    plot.push_str("</svg>");
    plot
}

/// How something grows: the figures, then the plots.
fn grown(page: &mut String, table: &Table<'_>) {
    let _ = write!(page, "<h3>over {}</h3><table><tr>", escape(table.over));
    for cell in table.head() {
        let _ = write!(page, "<th>{}", escape(&cell));
    }
    for row in table.rows() {
        page.push_str("<tr>");
        let last = row.len() - 1;
        for (column, cell) in row.iter().map(|cell| escape(cell)).enumerate() {
            let _ = match column {
                0 | 1 => write!(page, "<td>{cell}"),
                column if column == last => write!(page, "<td class=\"{cell}\">{cell}"),
                _ => write!(page, "<td class=n>{cell}"),
            };
        }
    }
    let _ = write!(page, "</table>{}", plot::plot(table, false));
}

/// Quantiles of the last round, for what is a latency.
fn latencies(comparison: &Comparison) -> String {
    let mut text = String::new();
    if comparison.measure.is_latency() {
        for (side, name) in [(&comparison.ours, "ours"), (&comparison.theirs, comparison.baseline)] {
            if let Some(latency) = side.last().and_then(|sample| sample.latency) {
                let [p50, p90, p99, p999, max] =
                    [latency.p50, latency.p90, latency.p99, latency.p999, latency.max].map(number);
                let _ = write!(
                    text,
                    "<small>{name}, last round, ms: p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}</small><br>"
                );
            }
        }
    }
    text
}

/// For text and for values of attributes.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Measure;
    use crate::cpu::Spent;
    use crate::growth::{Flat, Series};
    use crate::report::{Target, Unit};

    #[test]
    fn a_page_shows_all_and_asks_nobody() {
        let sample = |figure| Sample { figure, spent: Spent::default(), answers: 1, bytes: 1, latency: None };
        let mut report = Report::new("test");
        report.compare(Comparison {
            row: "row".into(),
            name: "a <blob>".into(),
            measure: Measure::CpuSeconds,
            baseline: "nginx",
            limit: Some(1.0),
            ours: vec![sample(3.0), sample(f64::INFINITY)],
            theirs: vec![sample(1.0), sample(1.0)],
        });
        report.judge("fact", 1.0, Unit::Count, Target::Exactly(1.0));
        let (name, points) = ("grown <more>".into(), vec![(1.0, 1.0), (10.0, 2.0)]);
        report.line(Series { name, unit: "CPU-us", over: "blobs", points, flat: Some(Flat { limit: 1.5, from: 0.0 }) });
        report.failure("row".into(), "no <program>".into());
        let page = page(&[report]);
        assert!(page.contains("a &lt;blob&gt;") && page.contains("no &lt;program&gt;") && page.contains("MISS"));
        assert!(page.contains("over blobs") && page.contains("grown &lt;more&gt;") && page.contains("2.00"));
        assert_eq!(page.matches("<circle").count(), 3 + 2, "what is no number is no dot");
        assert!(!page.contains("http") && !page.contains("<script"), "{page}");
    }
}
