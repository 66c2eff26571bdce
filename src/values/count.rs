//! Whole numbers of the configuration.

use std::fmt;
use std::str::FromStr;

use serde_json::{Value as Json, json};

use super::{InvalidValue, Text, read_as_text};

/// A number of things.
///
/// Grammar: digits. Of its own and not `u32` so that what is refused is told what to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Count(pub(crate) u32);

impl FromStr for Count {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if is_number => Ok(Self(number)),
            _ if is_number => Err(InvalidValue(format!("{text} is more than {}", u32::MAX))),
            _ => Err(InvalidValue(format!(
                "{:?} is no whole number; write one such as 512, without a unit",
                Shown(text)
            ))),
        }
    }
}

/// As much of a text as a sentence takes.
struct Shown<'a>(&'a str);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.0.chars().take(40).collect();
        fmt::Debug::fmt(&shown, f)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Text for Count {
    const EXPECTED: &'static str = "a whole number such as 512";

    fn schema() -> Json {
        json!({ "type": "integer" })
    }
}

read_as_text!(Count);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_number_is_told_what_to_write() {
        for text in ["", "many", "-1", "+1", "1.5", "10k", " 1", "0x10", "1_000", "1e3", "true"] {
            let said = text.parse::<Count>().unwrap_err().to_string();
            assert!(said.contains("whole number") && said.contains("512"), "{said}");
        }
        assert!("99999999999".parse::<Count>().unwrap_err().to_string().contains("more than 4294967295"));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(number: u32) {
            prop_assert_eq!(Count(number).to_string().parse(), Ok(Count(number)));
        }
    }
}
