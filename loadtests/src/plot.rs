//! Plots as SVG: no script, no font, no address but the name of the format; readable on light and on dark.
//!
//! One panel for each unit, side by side; both axes logarithmic, but over time, where both begin at nought.

use std::fmt::Write as _;

use crate::growth::{SECONDS, Series, Table, label};
use crate::html::escape;
use crate::report::number;

/// Lines beyond these begin anew, dashed.
const COLOURS: [&str; 8] = ["#2f81f7", "#d4761c", "#2da44e", "#bf4bd1", "#d1242f", "#1b9e9e", "#9a8700", "#8c7ae6"];
/// Of what is not a line.
const STYLE: &str = "text{font:11px system-ui,sans-serif;fill:#57606a}.t{font-weight:bold}\
.g{stroke:#8b949e;stroke-opacity:.35}@media(prefers-color-scheme:dark){text{fill:#9198a1}}";
/// Of a panel.
const WIDTH: f64 = 480.0;
/// Of the part with the lines, and where in a panel that begins.
const PLOT_WIDTH: f64 = 390.0;
const PLOT_HEIGHT: f64 = 190.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 26.0;
/// Between two names of lines.
const LINE: f64 = 15.0;
/// Labels closer than this would run into each other.
const CLEAR: f64 = 34.0;

/// All lines of a table. `standalone`: as a file of its own and not inside of a page.
pub(crate) fn plot(table: &Table<'_>, standalone: bool) -> String {
    let panels = panels(table);
    let columns = panels.len().clamp(1, 2);
    let heights: Vec<f64> = panels
        .chunks(columns)
        .map(|row| row.iter().map(|panel| panel.lines.len()).max().unwrap_or(0) as f64)
        .map(|names| TOP + PLOT_HEIGHT + 36.0 + names * LINE)
        .collect();
    let (width, height) = (WIDTH * columns as f64, heights.iter().sum::<f64>());
    let name = if standalone { " xmlns=\"http://www.w3.org/2000/svg\"" } else { "" };
    let mut svg = format!(
        "<svg{name} width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">\
         <title>over {}</title><style>{STYLE}</style>",
        escape(table.over)
    );
    let mut y = 0.0;
    for (row, height) in panels.chunks(columns).zip(heights) {
        for (column, panel) in row.iter().enumerate() {
            // Writing to a string can't fail, here and below.
            let _ = write!(svg, "<g transform=\"translate({} {y})\">", column as f64 * WIDTH);
            panel.draw(&mut svg);
            svg.push_str("</g>");
        }
        y += height;
    }
    svg.push_str("</svg>\n");
    svg
}

/// The lines of one unit.
#[derive(Debug)]
struct Panel<'a> {
    unit: &'static str,
    over: &'static str,
    lines: Vec<&'a Series>,
}

fn panels<'a>(table: &Table<'a>) -> Vec<Panel<'a>> {
    let mut panels: Vec<Panel<'a>> = Vec::new();
    for line in &table.lines {
        match panels.iter_mut().find(|panel| panel.unit == line.unit) {
            Some(panel) => panel.lines.push(line),
            None => panels.push(Panel { unit: line.unit, over: table.over, lines: vec![line] }),
        }
    }
    panels
}

/// One direction of a panel.
#[derive(Clone, Copy, Debug)]
struct Scale {
    least: f64,
    most: f64,
    logarithmic: bool,
    length: f64,
}

impl Scale {
    fn new(values: impl Iterator<Item = f64> + Clone, logarithmic: bool, length: f64) -> Self {
        let shown = values.filter(|value| value.is_finite() && (!logarithmic || *value > 0.0));
        let (least, most) =
            shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)));
        if !least.is_finite() {
            return Self { least: 1.0, most: 10.0, logarithmic, length };
        }
        // A line that is alone and flat stands in the middle, and nothing lies on the rim.
        let (least, most) = match logarithmic {
            true => (least / 1.3, most * 1.3),
            false => (0.0, if most > 0.0 { most * 1.05 } else { 1.0 }),
        };
        Self { least, most, logarithmic, length }
    }

    /// How far along; None for what can't be shown.
    fn at(&self, value: f64) -> Option<f64> {
        let part = if self.logarithmic {
            (value / self.least).ln() / (self.most / self.least).ln()
        } else {
            (value - self.least) / (self.most - self.least)
        };
        part.is_finite().then_some(part * self.length)
    }

    /// Where lines of the grid are worth it.
    fn ticks(&self) -> Vec<f64> {
        if !self.logarithmic {
            return (0..=4).map(|quarter| self.most * f64::from(quarter) / 4.0).collect();
        }
        let decades = (self.least.log10().floor() as i32)..=(self.most.log10().ceil() as i32);
        let few = (self.most / self.least).log10() < 2.5;
        let marks: &[f64] = if few { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let all = decades.flat_map(|decade| marks.iter().map(move |mark| mark * 10_f64.powi(decade)));
        all.filter(|tick| *tick >= self.least && *tick <= self.most).collect()
    }
}

impl Panel<'_> {
    fn draw(&self, svg: &mut String) {
        let logarithmic = self.over != SECONDS;
        let points = || self.lines.iter().flat_map(|line| line.points.iter());
        let across = Scale::new(points().map(|point| point.0), logarithmic, PLOT_WIDTH);
        let upwards = Scale::new(points().map(|point| point.1), logarithmic, PLOT_HEIGHT);
        let _ = write!(
            svg,
            "<text class=\"t\" x=\"{LEFT}\" y=\"16\">{} over {}</text>",
            escape(self.unit),
            escape(self.over)
        );
        self.grid(svg, across, upwards);
        for (number, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let dashes = if number < COLOURS.len() { "" } else { " stroke-dasharray=\"5 3\"" };
            let mut joined = String::new();
            for (x, y) in &line.points {
                let (Some(x), Some(y)) = (across.at(*x), upwards.at(*y)) else { continue };
                let (x, y) = (LEFT + x, TOP + PLOT_HEIGHT - y);
                let _ = write!(joined, "{x:.1},{y:.1} ");
                let _ = write!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>");
            }
            let down = TOP + PLOT_HEIGHT + 34.0 + number as f64 * LINE;
            let _ = write!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"{dashes}/>\
                 <path d=\"M{LEFT} {}h22\" stroke=\"{colour}\" stroke-width=\"3\"{dashes}/>\
                 <text x=\"{}\" y=\"{down}\">{}</text>",
                joined.trim_end(),
                down - 4.0,
                LEFT + 30.0,
                escape(&line.name)
            );
        }
    }

    fn grid(&self, svg: &mut String, across: Scale, upwards: Scale) {
        let bottom = TOP + PLOT_HEIGHT;
        for tick in upwards.ticks() {
            let Some(y) = upwards.at(tick).map(|y| bottom - y) else { continue };
            let _ = write!(
                svg,
                "<path class=\"g\" d=\"M{LEFT} {y:.1}h{PLOT_WIDTH}\"/><text x=\"{}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{}</text>",
                LEFT - 5.0,
                y + 4.0,
                number(tick)
            );
        }
        // The steps themselves, where they are few enough.
        let mut steps: Vec<f64> = if self.over == SECONDS {
            across.ticks()
        } else {
            self.lines.iter().flat_map(|line| line.points.iter()).map(|point| point.0).collect()
        };
        steps.sort_by(f64::total_cmp);
        steps.dedup();
        let mut free = f64::NEG_INFINITY;
        for step in steps {
            let Some(x) = across.at(step).map(|x| LEFT + x) else { continue };
            let _ = write!(svg, "<path class=\"g\" d=\"M{x:.1} {TOP}v{PLOT_HEIGHT}\"/>");
            if x >= free {
                free = x + CLEAR;
                let text = label(self.over, step);
                let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>", bottom + 15.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::growth::tables;

    fn series(name: &str, unit: &'static str, points: &[(f64, f64)]) -> Series {
        Series { name: name.into(), unit, over: "blobs", points: points.to_vec(), flat: None }
    }

    #[test]
    fn a_plot_stands_alone_and_asks_nobody() {
        let many: Vec<Series> = (0..40)
            .map(|number| {
                let unit = ["CPU-us", "ms, p50", "ms, p99", "MiB"][number % 4];
                series(
                    &format!("a <long> name of an operation, number {number}"),
                    unit,
                    &[(1e2, 3.0), (1e4, 4.0), (1e6, 5.0)],
                )
            })
            .collect();
        let tables = tables(&many);
        let svg = plot(&tables[0], true);
        assert_eq!(svg.matches("<polyline").count(), 40);
        assert!(svg.contains("a &lt;long&gt; name") && svg.contains("1,000,000") && svg.contains("ms, p99 over blobs"));
        assert!(svg.contains("prefers-color-scheme") && svg.len() < 40_000, "{} bytes", svg.len());
        // The name of the format is the only address.
        assert_eq!(svg.matches("http").count(), 1);
        assert_eq!(plot(&tables[0], false).matches("http").count(), 0);
    }

    #[test]
    fn what_can_not_be_shown_is_left_out() {
        let odd = [series("odd", "CPU-us", &[(1.0, 0.0), (10.0, f64::NAN), (100.0, 5.0)]), series("none", "MiB", &[])];
        let svg = plot(&tables(&odd)[0], true);
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn a_decade_is_as_long_as_the_next_and_greater_is_further() {
        let scale = Scale::new([1.0, 10.0, 100.0].into_iter(), true, 100.0);
        let [one, ten, hundred] = [1.0, 10.0, 100.0].map(|value| scale.at(value).unwrap());
        assert!((ten - one - (hundred - ten)).abs() < 1e-9 && one > 0.0 && hundred < 100.0);
        assert_eq!(scale.ticks(), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        let over_time = Scale::new([0.0, 8.0].into_iter(), false, 100.0);
        assert_eq!(over_time.at(0.0), Some(0.0));
    }
}
