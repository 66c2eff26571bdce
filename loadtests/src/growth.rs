//! How a cost grows, as tables: one for each thing that grows, a line for each figure, a column for each step.

use serde::Serialize;

use crate::compare::{Estimate, Verdict};
use crate::report::number;

/// The axis of a run that is followed over its time.
pub(crate) const SECONDS: &str = "seconds";

/// How flat a line has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Flat {
    /// The last step in times of the first, at most.
    pub(crate) limit: f64,
    /// The first step that counts.
    pub(crate) from: f64,
}

/// How a cost grows: one line of a table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series {
    /// Name of the figure.
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    /// Name of the axis.
    pub(crate) over: &'static str,
    /// Figures by steps of the axis; the error is 0 where a figure was taken once.
    pub(crate) points: Vec<(f64, Estimate)>,
    /// None: for information.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) flat: Option<Flat>,
}

impl Series {
    /// The last step in times of the first that counts; None with fewer than two of them.
    pub(crate) fn growth(&self) -> Option<Estimate> {
        let from = self.flat.map_or(f64::NEG_INFINITY, |flat| flat.from);
        let mut counted = self.points.iter().filter(|point| point.0 >= from);
        let (first, last) = (counted.next()?, counted.next_back()?);
        Some(last.1.over(first.1))
    }

    /// None without a target, or without two steps to hold against each other.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        let (flat, growth) = (self.flat?, self.growth()?);
        Some(growth.verdict(flat.limit, false))
    }
}

/// The lines over one thing that grows.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    pub(crate) over: &'static str,
    steps: Vec<f64>,
    lines: Vec<&'a Series>,
}

/// All series, by what grows, in the order in which that first comes.
pub(crate) fn tables(series: &[Series]) -> Vec<Table<'_>> {
    let mut tables: Vec<Table<'_>> = Vec::new();
    for one in series {
        match tables.iter_mut().find(|table| table.over == one.over) {
            Some(table) => table.lines.push(one),
            None => tables.push(Table { over: one.over, steps: Vec::new(), lines: vec![one] }),
        }
    }
    for table in &mut tables {
        let mut steps: Vec<f64> = table.lines.iter().flat_map(|line| &line.points).map(|point| point.0).collect();
        steps.sort_by(f64::total_cmp);
        steps.dedup();
        table.steps = steps;
    }
    tables
}

impl Table<'_> {
    /// The names of the columns.
    pub(crate) fn head(&self) -> Vec<String> {
        let steps = self.steps.iter().map(|step| label(self.over, *step));
        let fixed = ["last / first", "target", ""].map(str::to_owned);
        ["what", "unit"].map(str::to_owned).into_iter().chain(steps).chain(fixed).collect()
    }

    /// The cells of each line, as many as [`Self::head`] has.
    pub(crate) fn rows(&self) -> Vec<Vec<String>> {
        self.lines.iter().map(|line| self.row(line)).collect()
    }

    fn row(&self, line: &Series) -> Vec<String> {
        let value = |step: &f64| {
            let point = line.points.iter().find(|point| point.0.total_cmp(step).is_eq());
            point.map_or(String::new(), |point| number(point.1.median))
        };
        let growth = line.growth().map_or(String::new(), |Estimate { median, error }| {
            if error > 0.0 { format!("{median:.2} ± {error:.2}") } else { format!("{median:.2}") }
        });
        let target = line.flat.map_or(String::new(), |flat| {
            let first = self.steps.first().is_none_or(|first| *first >= flat.from);
            let from = if first { String::new() } else { format!(" from {}", label(self.over, flat.from)) };
            format!("<= {:.2}{from}", flat.limit)
        });
        let begin = [line.name.clone(), line.unit.to_owned()].into_iter();
        let end = [growth, target, line.verdict().map_or("", Verdict::text).to_owned()];
        begin.chain(self.steps.iter().map(value)).chain(end).collect()
    }
}

/// A step as people write it.
pub(crate) fn label(over: &str, step: f64) -> String {
    const SIZES: [(f64, &str); 2] = [(1024.0 * 1024.0, "GiB"), (1024.0, "MiB")];
    if over.starts_with("KiB") {
        let (unit, name) = SIZES.into_iter().find(|(unit, _)| step >= *unit).unwrap_or((1.0, "KiB"));
        return format!("{} {name}", number(step / unit));
    }
    let digits = number(step);
    if step.fract() != 0.0 {
        return digits;
    }
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, over: &'static str, points: &[(f64, f64)], flat: Option<Flat>) -> Series {
        let points = points.iter().map(|(at, median)| (*at, Estimate { median: *median, error: 0.0 })).collect();
        Series { name: name.into(), unit: "CPU-us", over, points, flat }
    }

    #[test]
    fn the_last_step_is_held_against_the_first_that_counts() {
        let points = [(1.0, 100.0), (10.0, 2.0), (100.0, 50.0), (1000.0, 3.0)];
        let verdict = |from, limit| series("a", "b", &points, Some(Flat { limit, from })).verdict();
        assert_eq!((verdict(10.0, 1.5), verdict(10.0, 1.49)), (Some(Verdict::Pass), Some(Verdict::Miss)));
        assert_eq!(verdict(0.0, 0.03), Some(Verdict::Pass));
        assert_eq!(verdict(1000.0, 1.5), None, "one step is neither flat nor not");
        assert_eq!(series("a", "b", &points, None).verdict(), None);
        assert_eq!(series("a", "b", &points, None).growth().unwrap().median, 0.03);
    }

    #[test]
    fn what_is_no_number_is_a_miss() {
        let flat = Some(Flat { limit: 1.5, from: 0.0 });
        assert_eq!(series("a", "b", &[(1.0, 0.0), (2.0, 0.0)], flat).verdict(), Some(Verdict::Miss));
        assert_eq!(series("a", "b", &[(1.0, 1.0), (2.0, f64::INFINITY)], flat).verdict(), Some(Verdict::Miss));
    }

    #[test]
    fn a_table_has_a_cell_for_each_step_whether_measured_or_not() {
        let flat = Some(Flat { limit: 1.5, from: 1.0 });
        let mut all = [
            series("one", "tags", &[(10.0, 4.0), (1000.0, 5.0)], flat),
            series("other", "blobs", &[(1.0, 1.0)], None),
            series("two", "tags", &[(100.0, 7.5)], None),
        ];
        all[0].points[1].1.error = 1.0;
        let tables = tables(&all);
        assert_eq!(tables.iter().map(|table| table.over).collect::<Vec<_>>(), ["tags", "blobs"]);
        assert_eq!(tables[0].head(), ["what", "unit", "10", "100", "1,000", "last / first", "target", ""]);
        let rows = tables[0].rows();
        assert_eq!(rows[0], ["one", "CPU-us", "4", "", "5", "1.25 ± 0.25", "<= 1.50", "PASS, too near"]);
        assert_eq!(rows[1], ["two", "CPU-us", "", "7.500", "", "", "", ""]);
    }

    #[test]
    fn steps_are_written_as_people_write_them() {
        assert_eq!(label("blobs", 1_000_000.0), "1,000,000");
        assert_eq!(label("seconds", 0.5), "0.500");
        let sizes = [1.0, 1024.0, 4.0 * 1024.0 * 1024.0];
        assert_eq!(sizes.map(|size| label("KiB of a blob", size)), ["1 KiB", "1 MiB", "4 GiB"]);
    }
}
