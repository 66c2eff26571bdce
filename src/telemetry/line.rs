//! One line of the log, written by hand. tracing's events cost more than some of our answers; lines that are written
//! for every request are put together here, in the same two forms, and go to the same writer.

use std::cell::RefCell;
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use super::rfc3339;
use super::sink::Sink;
use crate::clock::Timestamp;
use crate::values::{Level, LogFormat};

/// Longest text of a client that is shown, in bytes.
const LONGEST: usize = 512;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where lines go, and in which form. Cheap to clone; writing never waits for a reader, lines are lost instead.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    sink: Sink,
    format: LogFormat,
}

/// A line being put together.
#[derive(Debug)]
pub(super) struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: LogFormat,
}

impl Lines {
    pub(super) const fn new(sink: Sink, format: LogFormat) -> Self {
        Self { sink, format }
    }

    /// Writes one line.
    pub(super) fn write(
        &self,
        now: Timestamp,
        level: Level,
        target: &str,
        message: &str,
        fields: impl FnOnce(&mut Line<'_>),
    ) {
        BUFFER.with_borrow_mut(|out| {
            out.clear();
            let mut line = Line { out, format: self.format };
            line.head(now, level, target, message);
            fields(&mut line);
            line.end();
            self.sink.line(out);
        });
    }
}

impl Line<'_> {
    fn head(&mut self, now: Timestamp, level: Level, target: &str, message: &str) {
        match self.format {
            LogFormat::Text => {
                rfc3339::push(self.out, now);
                self.raw(" ");
                // Five wide, as tracing has it.
                self.raw(&"     "[..5 - level.as_upper_str().len().min(5)]);
                self.raw(level.as_upper_str());
                self.raw(" ");
                self.raw(target);
                self.raw(": ");
                escape(self.out, clip(message));
            }
            LogFormat::Json => {
                self.raw("{\"timestamp\":\"");
                rfc3339::push(self.out, now);
                self.raw("\",\"level\":\"");
                self.raw(level.as_upper_str());
                self.raw("\",\"target\":\"");
                self.raw(target);
                self.raw("\",\"message\":\"");
                escape(self.out, clip(message));
                self.raw("\"");
            }
        }
    }

    fn end(&mut self) {
        if self.format == LogFormat::Json {
            self.raw("}");
        }
        self.raw("\n");
    }

    fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn name(&mut self, name: &str) {
        match self.format {
            LogFormat::Text => {
                self.raw(" ");
                self.raw(name);
                self.raw("=");
            }
            LogFormat::Json => {
                self.raw(",\"");
                self.raw(name);
                self.raw("\":");
            }
        }
    }

    /// Text that may come from a client. Cut at 512 bytes.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        let value = clip(value);
        let bare = self.format == LogFormat::Text && !value.is_empty() && value.bytes().all(is_plain);
        if bare {
            self.raw(value);
        } else {
            self.raw("\"");
            escape(self.out, value);
            self.raw("\"");
        }
    }

    /// Text, if there is any.
    pub(super) fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// An address. Needs no quotes in the text form.
    pub(super) fn address(&mut self, name: &str, value: IpAddr) {
        self.name(name);
        let quote = if self.format == LogFormat::Json { "\"" } else { "" };
        self.raw(quote);
        match value {
            // Most are such, and the formatter takes longer for one than the rest of the line does.
            IpAddr::V4(value) => {
                for (place, byte) in value.octets().into_iter().enumerate() {
                    self.raw(if place == 0 { "" } else { "." });
                    decimal(self.out, u64::from(byte));
                }
            }
            IpAddr::V6(value) => {
                let _ = write!(self.out, "{value}");
            }
        }
        self.raw(quote);
    }

    /// A whole number.
    pub(super) fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        decimal(self.out, value);
    }

    /// A duration in seconds, to the microsecond.
    pub(super) fn seconds(&mut self, name: &str, value: Duration) {
        self.name(name);
        decimal(self.out, value.as_secs());
        self.raw(".");
        let micros = u64::from(value.subsec_micros());
        // A leading one keeps the zeros, and is cut off again.
        let at = self.out.len();
        decimal(self.out, 1_000_000 + micros);
        self.out.remove(at);
    }
}

/// Appends a number in decimal digits, without the formatter.
pub(crate) fn decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0_u8; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[first..]);
}

fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST)]
}

/// Needs no quotes in the text form.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/' | b':' | b'@' | b'+' | b'%' | b'~')
}

/// JSON's escapes for everything that could end the line or the string, or talk to a terminal.
fn escape(out: &mut Vec<u8>, text: &str) {
    let is_safe = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_safe) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for char in text.chars() {
        match char {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            // Also the controls that are no ASCII, and those that turn the direction of what follows.
            _ if char.is_control() || matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                let _ = write!(out, "\\u{:04x}", u32::from(char));
            }
            _ => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(format: LogFormat, value: &str) -> String {
        let mut out = Vec::new();
        let mut line = Line { out: &mut out, format };
        line.head(Timestamp::from_millis(0), Level::Warn, "access", "request");
        line.text("agent", value);
        line.number("sent", u64::MAX);
        line.number("received", 0);
        line.seconds("seconds", Duration::from_micros(1_000_042));
        line.address("address", std::net::Ipv4Addr::LOCALHOST.into());
        line.end();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_two_forms() {
        assert_eq!(
            line(LogFormat::Text, "a b"),
            "1970-01-01T00:00:00.000Z  WARN access: request agent=\"a b\" sent=18446744073709551615 received=0 \
             seconds=1.000042 address=127.0.0.1\n"
        );
        assert_eq!(
            line(LogFormat::Json, "a"),
            "{\"timestamp\":\"1970-01-01T00:00:00.000Z\",\"level\":\"WARN\",\"target\":\"access\",\"message\":\"request\",\
             \"agent\":\"a\",\"sent\":18446744073709551615,\"received\":0,\"seconds\":1.000042,\"address\":\"127.0.0.1\"}\n"
        );
    }

    proptest! {
        #[test]
        fn nothing_a_client_says_forges_a_line(value in "\\PC{0,20}[\\x00-\\x1f\"\\\\\u{85}\u{202e}]{0,5}.{0,20}") {
            let json = line(LogFormat::Json, &value);
            let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(parsed["agent"].as_str().unwrap(), value.as_str());
            for text in [json, line(LogFormat::Text, &value)] {
                let inner = text.strip_suffix('\n').unwrap();
                prop_assert!(!inner.chars().any(char::is_control));
                prop_assert_eq!(inner.find('\u{202e}'), None);
            }
        }

        #[test]
        fn a_quoted_value_ends_where_it_should(value in ".{0,40}") {
            let text = line(LogFormat::Text, &value);
            let shown = text.split_once("agent=").unwrap().1;
            let mut read = serde_json::Deserializer::from_str(shown).into_iter::<String>();
            let end = match shown.strip_prefix('"') {
                Some(_) => {
                    prop_assert_eq!(read.next().unwrap().unwrap(), value);
                    read.byte_offset()
                }
                None => {
                    prop_assert!(shown.starts_with(&value));
                    value.len()
                }
            };
            prop_assert!(shown[end..].starts_with(" sent="));
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let json = line(LogFormat::Json, &"ä".repeat(1000));
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed["agent"].as_str().unwrap().len(), LONGEST);
    }
}
