//! How often something is done, or that it is not.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{ConfigDuration, InvalidValue, Text, read_as_text};

/// The time within which something is done once, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// Never by itself.
    Off,
    /// Once in this time: an hour to a year.
    Every(Duration),
}

impl Interval {
    const LEAST: ConfigDuration = ConfigDuration(Duration::from_secs(3600));
    const MOST: ConfigDuration = ConfigDuration(Duration::from_secs(365 * 86_400));

    /// The time; `None`: never.
    #[must_use]
    pub const fn time(self) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::Every(time) => Some(time),
        }
    }
}

impl FromStr for Interval {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.eq_ignore_ascii_case("off") {
            return Ok(Self::Off);
        }
        let time: ConfigDuration = text.parse()?;
        if (Self::LEAST..=Self::MOST).contains(&time) {
            return Ok(Self::Every(time.0));
        }
        Err(InvalidValue(format!("{time} is not within {} to {}; write off for never", Self::LEAST, Self::MOST)))
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Every(time) => fmt::Display::fmt(&ConfigDuration(*time), f),
        }
    }
}

impl Text for Interval {
    const EXPECTED: &'static str = "off, or a span of time such as 7d";

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^(?:off|(?:[0-9]+d)?(?:[0-9]+h)?(?:[0-9]+m)?(?:[0-9]+s)?(?:[0-9]+ms)?)$", "minLength": 1 })
    }
}

read_as_text!(Interval);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_off_or_an_hour_to_a_year() {
        for (text, time) in
            [("off", None), ("OFF", None), ("1h", Some(3600)), ("7d", Some(604_800)), ("365d", Some(31_536_000))]
        {
            let interval: Interval = text.parse().unwrap();
            assert_eq!(interval.time().map(|time| time.as_secs()), time, "{text}");
            assert_eq!(interval.to_string(), text.to_ascii_lowercase());
        }
        for text in ["", "0", "7", "59m", "366d", "never", "off "] {
            assert!(text.parse::<Interval>().is_err(), "{text}");
        }
    }
}
