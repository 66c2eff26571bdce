//! On how many masters a push is before it is answered.

use std::fmt;
use std::str::FromStr;

use serde_json::{Value as Json, json};

use super::{Count, InvalidValue, Text, read_as_text};

/// A number of masters, or `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinCopies {
    /// As many as are listed.
    All,
    /// So many, 1 to 8, and not more than are listed.
    Count(usize),
}

impl MinCopies {
    /// As many masters as a list has.
    const MOST: u32 = 8;

    /// How many of `masters` that is.
    #[must_use]
    pub fn of(self, masters: usize) -> usize {
        match self {
            Self::All => masters,
            Self::Count(count) => count.min(masters),
        }
    }
}

impl FromStr for MinCopies {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.eq_ignore_ascii_case("all") {
            return Ok(Self::All);
        }
        let wrong = || InvalidValue(format!("write all, or a number of masters from 1 to {}", Self::MOST));
        let Count(count) = text.parse::<Count>().map_err(|_| wrong())?;
        match usize::try_from(count) {
            Ok(masters) if (1..=Self::MOST).contains(&count) => Ok(Self::Count(masters)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for MinCopies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Count(count) => count.fmt(f),
        }
    }
}

impl Text for MinCopies {
    const EXPECTED: &'static str = "all, or a number of masters such as 2";

    fn schema() -> Json {
        json!({ "anyOf": [{ "type": "integer", "minimum": 1, "maximum": Self::MOST }, { "type": "string", "pattern": "^(?:all|[1-8])$" }] })
    }
}

read_as_text!(MinCopies);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_copies_are_wanted_than_there_are_masters() {
        let wanted = |text: &str| [1, 2, 3, 5].map(|masters| text.parse::<MinCopies>().unwrap().of(masters));
        assert_eq!(wanted("2"), [1, 2, 2, 2]);
        assert_eq!(wanted("1"), [1; 4]);
        assert_eq!(wanted("all"), [1, 2, 3, 5]);
        for text in ["", "0", "9", "-1", "+2", "two", "2.0", "99999999999"] {
            assert!(text.parse::<MinCopies>().is_err(), "{text}");
        }
        for text in ["all", "1", "8"] {
            assert_eq!(text.parse::<MinCopies>().unwrap().to_string(), text);
        }
    }
}
