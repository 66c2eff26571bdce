//! JSON byte for byte as Go's `encoding/json` writes it: hashes over it are computed by programs in Go too.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// Adds a text as Go's `json.Marshal` writes it: with the characters of HTML and the line ends of JavaScript escaped, `\b` and
/// `\f` in short (Go 1.22 and later).
pub(super) fn text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// An object while it is written.
pub(super) struct Object<'a> {
    out: &'a mut String,
    is_empty: bool,
}

impl<'a> Object<'a> {
    /// Begins an object; [`Object::end`] ends it.
    pub(super) fn begin(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, is_empty: true }
    }

    /// Adds a field whose value `write` writes.
    pub(super) fn field(&mut self, name: &str, write: impl FnOnce(&mut String)) -> &mut Self {
        if !std::mem::replace(&mut self.is_empty, false) {
            self.out.push(',');
        }
        text(name, self.out);
        self.out.push(':');
        write(self.out);
        self
    }

    /// Adds a field with a text.
    pub(super) fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.field(name, |out| text(value, out))
    }

    /// Adds a field with a text unless that is empty (`omitempty`).
    pub(super) fn text_if_any(&mut self, name: &str, value: &str) -> &mut Self {
        if value.is_empty() { self } else { self.text(name, value) }
    }

    /// Ends the object.
    pub(super) fn end(&mut self) {
        self.out.push('}');
    }
}

/// Adds a list whose items `write` writes.
pub(super) fn list<T>(items: &[T], out: &mut String, mut write: impl FnMut(&T, &mut String)) {
    out.push('[');
    for (place, item) in items.iter().enumerate() {
        if place > 0 {
            out.push(',');
        }
        write(item, out);
    }
    out.push(']');
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_as_go_escapes_them() {
        let mut out = String::new();
        text("a<b>&\"\\/\n\r\t\u{8}\u{c}\u{1}\u{7f}\u{2028}\u{2029}é→🦀", &mut out);
        let expected = concat!(r#""a\u003cb\u003e\u0026\"\\/\n\r\t\b\f\u0001"#, "\u{7f}", r#"\u2028\u2029é→🦀""#);
        assert_eq!(out, expected);
    }

    #[test]
    fn objects_and_lists_have_no_spaces_and_leave_empty_texts_out_where_told() {
        let mut out = String::new();
        let mut object = Object::begin(&mut out);
        object.text("a", "").text_if_any("b", "").text_if_any("c", "d");
        object.field("e", |out| list(&[1, 2], out, |number, out| out.push_str(&number.to_string())));
        object.end();
        assert_eq!(out, r#"{"a":"","c":"d","e":[1,2]}"#);
    }
}
