//! Values of the configuration that a bare number or string would leave open: sizes, spans of time,
//! the reserve, addresses, paths, password hashes. Each is read from text once and can't be wrong afterwards.

mod addresses;
mod choice;
mod count;

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::de::{Deserializer, Visitor};

pub use addresses::Addresses;
pub use choice::{
    Acceleration, AccessLog, Anonymous, LogFormat, LogLevel, MissingReferences, Mode, Role, StaleCause, UpstreamScheme,
};
pub(crate) use count::Count;

use crate::oci::{InvalidName, RepoName};

/// A type that is written as one piece of text.
pub(crate) trait Text: FromStr<Err: fmt::Display> {
    /// What is expected, for an error: "a size such as 64MiB".
    const WHAT: &'static str;
}

/// Reads any [`Text`]; for `deserialize_with` and for the `Deserialize` of the types below.
pub(crate) fn deserialize_text<'de, D: Deserializer<'de>, T: Text>(deserializer: D) -> Result<T, D::Error> {
    struct TextVisitor<T>(PhantomData<T>);

    impl<T: Text> Visitor<'_> for TextVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::WHAT)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(TextVisitor(PhantomData))
}

/// Gives each type named a `Deserialize` by its [`Text`].
macro_rules! read_as_text {
    ($($type:ty),+ $(,)?) => {$(
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::values::deserialize_text(deserializer)
            }
        }
    )+};
}
pub(crate) use read_as_text;

read_as_text!(ByteSize, Span, Reserve, Address, FilePath, PasswordHash, Alias);

/// Why a text is no value; a whole sentence without the text itself where that may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub(crate) String);

/// A number of bytes.
///
/// Grammar: digits and at most one unit, nothing between them: none or `B`; `Ki`, `KiB` (1024) up to
/// `Pi`, `PiB`; `k`, `kB` (1000), `M`, `MB` up to `P`, `PB`. So a Kubernetes quantity without a
/// fraction reads as Kubernetes reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const BINARY_UNITS: [(&str, u32); 5] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50)];
const DECIMAL_UNITS: [(&str, u32); 5] = [("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15)];

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
    const WHAT: &'static str = "a size such as 64MiB";
}

/// A span of time.
///
/// Grammar: one or more of `<digits>d`, `h`, `m`, `s`, `ms`, in this order, each at most once:
/// `30s`, `1h30m`. Every non-empty text that Deckhouse's `^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$` takes is
/// taken with the same meaning. A number without a unit is refused, except `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const SPAN_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl Span {
    fn millis(text: &str) -> Option<u64> {
        let mut rest = text;
        let mut total = 0_u64;
        let mut units = SPAN_UNITS.iter();
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

impl FromStr for Span {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Self::millis(text)
            .map(|millis| Self(Duration::from_millis(millis)))
            .ok_or_else(|| InvalidValue(format!("{text:?} is no span of time; write 30s, 15m or 1h30m")))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, millis) in SPAN_UNITS {
            if rest >= millis {
                write!(f, "{}{name}", rest / millis)?;
                rest %= millis;
            }
        }
        Ok(())
    }
}

impl Text for Span {
    const WHAT: &'static str = "a span of time such as 30s or 1h30m";
}

/// How much of the file system every write leaves free: bytes, or percent of its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// So many bytes.
    Bytes(u64),
    /// So many percent of the file system's size, 0 to 95.
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
    const WHAT: &'static str = "a size such as 10GiB, or percent such as 15%";
}

/// An address to listen on: a literal IP address and a port; port 0 lets the system choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(pub SocketAddr);

impl Address {
    /// Whether only this machine can reach it; an IPv4 loopback written as IPv6 (`::ffff:127.0.0.1`) counts.
    #[must_use]
    pub fn is_loopback(self) -> bool {
        self.0.ip().to_canonical().is_loopback()
    }
}

impl FromStr for Address {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Ok(address) = text.parse() {
            return Ok(Self(address));
        }
        let hint = match text.rsplit_once(':') {
            Some(("", port)) => format!("; for every interface write 0.0.0.0:{port} or [::]:{port}"),
            Some(("localhost", port)) => format!("; write 127.0.0.1:{port} or [::1]:{port}"),
            None if text.parse::<u16>().is_ok() => format!("; for this port write 127.0.0.1:{text} or 0.0.0.0:{text}"),
            _ => String::new(),
        };
        Err(InvalidValue(format!("{text:?} is no IP address with a port, such as 127.0.0.1:5001 or [::1]:5001{hint}")))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Text for Address {
    const WHAT: &'static str = "an IP address with a port, such as 127.0.0.1:5001 or \"[::]:5001\" (in quotes)";
}

/// A path that is not empty. A relative one counts from the working directory, in the file as on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilePath(pub(crate) PathBuf);

impl FromStr for FilePath {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() || text.contains('\0') {
            return Err(InvalidValue("a path can't be empty".to_owned()));
        }
        Ok(Self(PathBuf::from(text)))
    }
}

impl Text for FilePath {
    const WHAT: &'static str = "a path";
}

/// A repository name that stands for the upstream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias(pub(crate) RepoName);

impl FromStr for Alias {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse().map(Self)
    }
}

impl Text for Alias {
    const WHAT: &'static str = "the name of a repository, such as system/deckhouse";
}

/// A bcrypt hash as `$2a$`, `$2b$` or `$2y$`. Its text is in no Debug and no error.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Arc<str>);

impl PasswordHash {
    /// The hash as configured; for the password check alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for PasswordHash {
    type Err = InvalidValue;

    /// Checks the form `$2y$NN$` and 53 characters of bcrypt's alphabet; the cost is 4 to 31.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
        let well_formed = ["$2a$", "$2b$", "$2y$"]
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
            .and_then(|rest| rest.split_once('$'))
            .is_some_and(|(cost, rest)| {
                cost.len() == 2
                    && cost.parse::<u8>().is_ok_and(|cost| (4..=31).contains(&cost))
                    && rest.len() == 53
                    && rest.bytes().all(is_alphabet)
            });
        if well_formed {
            Ok(Self(Arc::from(text)))
        } else {
            Err(InvalidValue("no bcrypt hash; make one with `d8-registry hash-password`".to_owned()))
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Text for PasswordHash {
    const WHAT: &'static str = "a bcrypt hash";
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(text: &str) -> Option<u64> {
        text.parse::<ByteSize>().ok().map(|size| size.0)
    }

    fn millis(text: &str) -> Option<u128> {
        text.parse::<Span>().ok().map(|span| span.0.as_millis())
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
    fn spans_have_units_in_order() {
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

    #[test]
    fn addresses_are_literal() {
        for (text, loopback) in [
            ("127.0.0.1:5001", true),
            ("127.8.8.8:0", true),
            ("[::1]:5001", true),
            ("[::ffff:127.0.0.1]:5001", true),
            ("0.0.0.0:5001", false),
            ("[::]:5001", false),
            ("10.0.0.1:5001", false),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.is_loopback(), loopback, "{text}");
            assert_eq!(address.to_string(), text);
        }
        let error = |text: &str| text.parse::<Address>().unwrap_err().to_string();
        assert!(error(":5001").contains("0.0.0.0:5001 or [::]:5001"));
        assert!(error("localhost:5001").contains("127.0.0.1:5001"));
        for text in ["", "5001", "::1:5001:", "127.0.0.1", "127.0.0.1:70000", "registry:5001"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_hash_is_checked_and_never_shown() {
        let tail = "abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234";
        assert_eq!(tail.len(), 53);
        for prefix in ["$2a$10$", "$2b$12$", "$2y$04$"] {
            let hash: PasswordHash = format!("{prefix}{tail}").parse().unwrap();
            assert_eq!(hash.expose(), format!("{prefix}{tail}"));
            assert_eq!(format!("{hash:?}"), "***");
        }
        for text in [
            "",
            "hunter2",
            &format!("$2x$10${tail}"),
            &format!("$2y$3${tail}"),
            &format!("$2y$32${tail}"),
            &format!("$2y$10${}", &tail[1..]),
            &format!("$2y$10${}!", &tail[1..]),
            &format!("$2y$10${}é", &tail[2..]),
        ] {
            let error = text.parse::<PasswordHash>().unwrap_err().to_string();
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(number: u64, millis in 0..u64::MAX / 2) {
            prop_assert_eq!(ByteSize(number).to_string().parse(), Ok(ByteSize(number)));
            let span = Span(Duration::from_millis(millis));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn deckhouse_spans_mean_the_same(h in 0_u64..10_000, m in 0_u64..10_000, s in 0_u64..10_000) {
            let text = format!("{h}h{m}m{s}s");
            prop_assert_eq!(text.parse(), Ok(Span(Duration::from_secs(h * 3600 + m * 60 + s))));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,30}") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<Span>();
            let _ = text.parse::<Reserve>();
            let _ = text.parse::<Address>();
            let _ = text.parse::<PasswordHash>();
        }
    }
}
