//! Times of the calendar as cron writes them (crontab(5)), in UTC.
//!
//! # Decisions
//!
//! Read here and not by a crate: `cron` and `saffron` need chrono, which nothing else here does; `croner` and `cronexpr` can
//! use jiff, which is here for the API server's times, and would make their extensions (seconds, years, `L`, `W`, `#`, zones) part of
//! what our keys promise. What is needed of it is five numbers and the rule of leap years.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{InvalidValue, Text, read_as_text};

const DAY: u64 = 86_400;

/// Days that are looked through for the next time: 29 February is at most 8 years away (1896 to 1904, 2096 to 2104).
const DAYS_AHEAD: u64 = 8 * 366;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Short forms, and what each stands for.
const NAMED: [(&str, &str); 5] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
];

/// When something is done: never by itself, or at times of the calendar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Calendar {
    /// Never by itself.
    Off,
    /// At these minutes.
    At(Cron),
}

/// Minutes of the calendar, in UTC: `minute hour day month weekday`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    text: Arc<str>,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Day of the month and day of the week are both given: one that fits is enough (crontab(5)).
    either_day: bool,
}

impl Calendar {
    /// The first time behind `seconds` since 1970-01-01T00:00:00Z, in the same measure; `None`: never by itself.
    #[must_use]
    pub fn next_after(&self, seconds: u64) -> Option<u64> {
        match self {
            Self::Off => None,
            Self::At(cron) => cron.next_after(seconds),
        }
    }
}

impl Cron {
    /// The first time behind `seconds`. What was parsed has one, unless the year is far from ours.
    fn next_after(&self, seconds: u64) -> Option<u64> {
        let first = (seconds / 60 + 1) * 60;
        (first / DAY..=first / DAY + DAYS_AHEAD).filter(|day| self.has_day(*day)).find_map(|day| {
            let from = if day == first / DAY { first % DAY / 60 } else { 0 };
            let minute = (from..1440).find(|minute| has(self.hours, minute / 60) && has(self.minutes, minute % 60))?;
            Some(day * DAY + minute * 60)
        })
    }

    fn has_day(&self, day: u64) -> bool {
        let (month, of_month) = month_and_day(day);
        // 1970-01-01 was a Thursday.
        let (by_month, by_week) = (has(self.days, of_month), has(self.weekdays, (day + 4) % 7));
        has(self.months, month) && if self.either_day { by_month || by_week } else { by_month && by_week }
    }
}

const fn has(set: u64, number: u64) -> bool {
    set >> number & 1 == 1
}

/// Month and day of the month of a day since 1970-01-01, in the Gregorian calendar. Counted in years that begin in March.
const fn month_and_day(days: u64) -> (u64, u64) {
    let of_era = (days + 719_468) % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (month, of_year - (153 * month_from_march + 2) / 5 + 1)
}

/// The set of one field: entries with commas between, each `*`, a number or a range, with a step or without.
fn field(text: &str, least: u64, most: u64, names: &[&str]) -> Option<u64> {
    let number = |text: &str| -> Option<u64> {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
        match named {
            Some(place) => Some(place as u64 + least),
            None if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) => None,
            None => text.parse().ok().filter(|number| (least..=most).contains(number)),
        }
    };
    text.split(',').try_fold(0, |set, entry| {
        let (range, step) = match entry.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u64>().ok().filter(|step| *step > 0)?)),
            None => (entry, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (least, most),
            Some((from, to)) => (number(from)?, number(to)?),
            // `5/10`: from there to the end.
            None => (number(range)?, if step.is_some() { most } else { number(range)? }),
        };
        let step = usize::try_from(step.unwrap_or(1)).unwrap_or(usize::MAX);
        (from <= to).then(|| (from..=to).step_by(step).fold(set, |set, number| set | 1 << number))
    })
}

impl FromStr for Cron {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let wrong = || {
            InvalidValue(format!(
                "{text:?} is no time of the calendar; write five fields as cron does, in UTC: \"0 3 * * *\" is each day at 3:00"
            ))
        };
        let spelled = NAMED.iter().find(|(name, _)| *name == text).map_or(text, |(_, spelled)| spelled);
        let fields: Vec<&str> = spelled.split_ascii_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else { return Err(wrong()) };
        let read = |text, least, most, names: &[&str]| field(text, least, most, names).ok_or_else(wrong);
        // 7 is Sunday too.
        let week = read(weekdays, 0, 7, &WEEKDAYS)?;
        let cron = Self {
            text: Arc::from(text),
            minutes: read(minutes, 0, 59, &[])?,
            hours: read(hours, 0, 23, &[])?,
            days: read(days, 1, 31, &[])?,
            months: read(months, 1, 12, &MONTHS)?,
            weekdays: (week | week >> 7) & 0x7f,
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        };
        match cron.next_after(0) {
            Some(_) => Ok(cron),
            None => Err(InvalidValue(format!("{text:?} never comes: no month has that day"))),
        }
    }
}

impl FromStr for Calendar {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.eq_ignore_ascii_case("off") { Ok(Self::Off) } else { text.parse().map(Self::At) }
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(cron) => f.write_str(&cron.text),
        }
    }
}

impl Text for Calendar {
    const EXPECTED: &'static str = "off, or a time of the calendar such as \"0 3 * * *\"";

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^(off|@(hourly|daily|weekly|monthly|yearly)|\\S+( +\\S+){4})$" })
    }
}

read_as_text!(Calendar);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn calendar(text: &str) -> Calendar {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    fn seconds(text: &str) -> u64 {
        humantime::parse_rfc3339(text).unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    }

    #[test]
    fn the_next_time_is_the_one_that_crontab_5_means() {
        for (text, after, next) in [
            ("0 3 * * *", "2026-11-29T02:59:59Z", "2026-11-29T03:00:00Z"),
            ("0 3 * * *", "2026-11-29T03:00:00Z", "2026-11-30T03:00:00Z"),
            ("*/15 * * * *", "2026-11-29T07:50:01Z", "2026-11-29T08:00:00Z"),
            ("5/20 * * * *", "2026-11-29T07:50:01Z", "2026-11-29T08:05:00Z"),
            ("0 0 29 2 *", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00Z"),
            ("30 4 1,15 * *", "2026-11-15T04:30:00Z", "2026-12-01T04:30:00Z"),
            // 2026-11-29 is a Sunday.
            ("0 6 * * sun", "2026-11-28T00:00:00Z", "2026-11-29T06:00:00Z"),
            ("0 6 * * 7", "2026-11-28T00:00:00Z", "2026-11-29T06:00:00Z"),
            ("0 6 * * MON-fri", "2026-11-28T00:00:00Z", "2026-11-30T06:00:00Z"),
            // Both days given: either is enough.
            ("0 0 13 * fri", "2026-11-07T00:00:00Z", "2026-11-13T00:00:00Z"),
            ("0 0 1 * fri", "2026-11-29T00:00:00Z", "2026-12-01T00:00:00Z"),
            ("0 0 1 dec *", "2026-12-01T00:00:00Z", "2027-12-01T00:00:00Z"),
            ("@hourly", "2026-12-31T23:00:00Z", "2027-01-01T00:00:00Z"),
            ("@weekly", "2026-11-23T00:00:00Z", "2026-11-29T00:00:00Z"),
        ] {
            assert_eq!(calendar(text).next_after(seconds(after)), Some(seconds(next)), "{text} after {after}");
        }
        assert_eq!(calendar("OFF").next_after(0), None);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "0 3 * *",
            "0 3 * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "1, * * * *",
            "+1 * * * *",
            "0 0 31 2 *",
            "0 0 30 feb *",
            "@reboot",
            "1--2 * * * *",
        ] {
            assert!(text.parse::<Calendar>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_minute_between_fits_and_the_next_one_does(
            minutes in "(\\*|\\*/7|[0-5]?[0-9])", hours in "(\\*|[01]?[0-9]|9-17/4)", days in "(\\*|[1-9]|1-10/3)",
            weekdays in "(\\*|[0-7]|1-5)", after in 1_600_000_000_u64..4_000_000_000,
        ) {
            let Calendar::At(cron) = calendar(&format!("{minutes} {hours} {days} * {weekdays}")) else { unreachable!() };
            let next = cron.next_after(after).unwrap();
            let fits = |second: u64| {
                cron.has_day(second / DAY) && has(cron.hours, second / 3600 % 24) && has(cron.minutes, second / 60 % 60)
            };
            prop_assert!(next > after && next % 60 == 0 && fits(next));
            prop_assert!((after / 60 + 1..next / 60).all(|minute| !fits(minute * 60)));
        }
    }
}
