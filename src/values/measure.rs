//! Sizes, durations, and the reserve, which is a size or a percentage.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{InvalidValue, Text, read_as_text};

read_as_text!(ByteSize, ConfigDuration, Reserve);

/// A number of bytes.
///
/// Grammar: digits and at most one unit, nothing between them: none or `B`; `Ki`, `KiB` (1024) up to
/// `Pi`, `PiB`; `k`, `kB` (1000), `M`, `MB` up to `P`, `PB`. So a Kubernetes quantity without a
/// fraction reads as Kubernetes reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const BINARY_UNITS: [(&str, u32); 5] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50)];
const DECIMAL_UNITS: [(&str, u32); 5] = [("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15)];

/// The grammar of [`ByteSize`] as a regular expression (ECMA-262, as in JSON Schema).
const SIZE_PATTERN: &str = "[0-9]+(?:[KMGTP]i|[kMGTP])?B?";

impl ByteSize {
    fn unit(text: &str) -> Option<u64> {
        let text = text.strip_suffix('B').unwrap_or(text);
        if text.is_empty() {
            return Some(1);
        }
        let binary = BINARY_UNITS.iter().find(|(name, _)| *name == text).map(|(_, shift)| 1_u64 << shift);
        binary.or_else(|| DECIMAL_UNITS.iter().find(|(name, _)| *name == text).map(|(_, zeros)| 10_u64.pow(*zeros)))
    }
}

impl FromStr for ByteSize {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        number
            .parse::<u64>()
            .ok()
            .zip(Self::unit(unit))
            .and_then(|(number, unit)| number.checked_mul(unit))
            .map(Self)
            .ok_or_else(|| InvalidValue(format!("{text:?} is no size; write whole bytes or 64KiB, 500MiB, 20Gi, 1TB")))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |shift: u32| self.0 != 0 && self.0.trailing_zeros() >= shift;
        match BINARY_UNITS.iter().rev().find(|(_, shift)| whole(*shift)) {
            Some((name, shift)) => write!(f, "{}{name}B", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Text for ByteSize {
    const EXPECTED: &'static str = "a size such as 64MiB";

    fn schema() -> Json {
        json!({ "type": ["string", "integer"], "pattern": format!("^{SIZE_PATTERN}$"), "minimum": 0 })
    }
}

/// A span of time in the configuration.
///
/// Grammar: one or more of `<digits>d`, `h`, `m`, `s`, `ms`, in this order, each at most once:
/// `30s`, `1h30m`. Every non-empty text that Deckhouse's `^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$` takes is
/// taken with the same meaning. A number without a unit is refused, except `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigDuration(pub Duration);

const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl ConfigDuration {
    fn millis(text: &str) -> Option<u64> {
        let mut rest = text;
        let mut total = 0_u64;
        let mut units = DURATION_UNITS.iter();
        if text == "0" {
            return Some(0);
        }
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, behind) = rest.split_at(letters);
            // Consuming the iterator is what makes the order and "once" part of the grammar.
            let (_, millis) = units.find(|(name, _)| *name == unit)?;
            total = total.checked_add(number.checked_mul(*millis)?)?;
            rest = behind;
        }
        (!text.is_empty()).then_some(total)
    }
}

impl FromStr for ConfigDuration {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Self::millis(text)
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(|| InvalidValue(format!("{text:?} is no span of time; write 30s, 15m or 1h30m")))
    }
}

impl fmt::Display for ConfigDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, millis) in DURATION_UNITS {
            if rest >= millis {
                write!(f, "{}{name}", rest / millis)?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

impl Text for ConfigDuration {
    const EXPECTED: &'static str = "a span of time such as 30s or 1h30m";

    /// The one number is 0; all others need a unit.
    fn schema() -> Json {
        let pattern = "^(?:0|(?:[0-9]+d)?(?:[0-9]+h)?(?:[0-9]+m)?(?:[0-9]+s)?(?:[0-9]+ms)?)$";
        json!({ "type": ["string", "integer"], "pattern": pattern, "minLength": 1, "minimum": 0, "maximum": 0 })
    }
}

/// How much of the file system every write leaves free: bytes, or percent of its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Bytes.
    Bytes(u64),
    /// Percent of the file system's size, 0 to 95.
    Percent(u8),
}

impl FromStr for Reserve {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let Some(number) = text.strip_suffix('%') else {
            return text.parse().map(|ByteSize(bytes)| Self::Bytes(bytes));
        };
        let digits_only = number.bytes().all(|byte| byte.is_ascii_digit());
        match number.parse::<u8>() {
            Ok(percent @ 0..=95) if digits_only => Ok(Self::Percent(percent)),
            _ => Err(InvalidValue(format!("{text:?} is no reserve; write a size, or whole percent from 0% to 95%"))),
        }
    }
}

impl fmt::Display for Reserve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => ByteSize(*bytes).fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Text for Reserve {
    const EXPECTED: &'static str = "a size such as 10GiB, or percent such as 15%";

    fn schema() -> Json {
        let pattern = format!("^(?:{SIZE_PATTERN}|[0-9]{{1,2}}%)$");
        json!({ "type": ["string", "integer"], "pattern": pattern, "minimum": 0 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(text: &str) -> Option<u64> {
        text.parse::<ByteSize>().ok().map(|size| size.0)
    }

    fn millis(text: &str) -> Option<u128> {
        text.parse::<ConfigDuration>().ok().map(|duration| duration.0.as_millis())
    }

    #[test]
    fn sizes_read_as_kubernetes_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("7B", 7),
            ("64KiB", 64 << 10),
            ("64Ki", 64 << 10),
            ("4MiB", 4 << 20),
            ("20Gi", 20 << 30),
            ("1k", 1000),
            ("1TB", 1_000_000_000_000),
            ("3M", 3_000_000),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "B", "MiB", "1.5Gi", "-1", "+1", "1 MiB", "1mib", "1K", "1KB", "20000000000GiB", "1e3", "15%"]
        {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn durations_have_units_in_order() {
        for (text, expected) in [
            ("0s", 0),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("168h", 604_800_000),
            ("1h1m1s", 3_661_000),
            ("7d", 604_800_000),
            ("250ms", 250),
            ("1s1ms", 1001),
            ("90m", 5_400_000),
        ] {
            assert_eq!(millis(text), Some(expected), "{text}");
        }
        for text in ["", "30", "s", "1m1h", "1s1s", "1.5h", "-1s", "1h ", "1 h", "1H", "1w", "99999999999999999999s"] {
            assert_eq!(millis(text), None, "{text}");
        }
    }

    #[test]
    fn reserves_are_bytes_or_percent() {
        assert_eq!("15%".parse(), Ok(Reserve::Percent(15)));
        assert_eq!("0%".parse(), Ok(Reserve::Percent(0)));
        assert_eq!("10GiB".parse(), Ok(Reserve::Bytes(10 << 30)));
        for text in ["96%", "%", "-1%", "+1%", "1.5%", "%15", "256%", "15 %"] {
            assert!(text.parse::<Reserve>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(number: u64, millis in 0..u64::MAX / 2) {
            prop_assert_eq!(ByteSize(number).to_string().parse(), Ok(ByteSize(number)));
            let duration = ConfigDuration(Duration::from_millis(millis));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn deckhouse_durations_mean_the_same(h in 0_u64..10_000, m in 0_u64..10_000, s in 0_u64..10_000) {
            let text = format!("{h}h{m}m{s}s");
            prop_assert_eq!(text.parse(), Ok(ConfigDuration(Duration::from_secs(h * 3600 + m * 60 + s))));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,30}") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<ConfigDuration>();
            let _ = text.parse::<Reserve>();
        }
    }
}
