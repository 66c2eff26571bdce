//! Writes YAML that parsers of YAML 1.1 and 1.2 read alike: Go's, `yq`, ours. Block style, as people read it.
//!
//! # Decisions
//! - A writer of our own: what is written here is read by programs of Deckhouse, of YAML 1.1, to which `y`, `012` and
//!   `2025-07-15T12:52:46Z` are no texts. A text is written without quotes only where no reader of either version can take it
//!   for something else, which is narrower than what serializers do.
//! - Texts of several lines are literal blocks where a block can hold them: the messages of conditions.

use std::fmt::Write as _;

/// A value.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Yaml {
    /// A text.
    Text(String),
    /// A whole number.
    Number(u64),
    /// A truth value.
    Bool(bool),
    /// A list.
    List(Vec<Yaml>),
    /// Keys and values in the order in which they are written.
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    /// A text.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A map of the pairs, in their order.
    pub(crate) fn map<K: Into<String>>(pairs: impl IntoIterator<Item = (K, Yaml)>) -> Self {
        Self::Map(pairs.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    /// The document, with a line end behind it.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        self.block(0, &mut out);
        if !out.ends_with('\n') {
            out.push('\n');
        }
        out
    }

    /// Writes the value where the line stands `indent` columns in.
    fn block(&self, indent: usize, out: &mut String) {
        match self {
            Self::List(items) if !items.is_empty() => {
                for (place, item) in items.iter().enumerate() {
                    if place > 0 {
                        spaces(indent, out);
                    }
                    out.push_str("- ");
                    item.block(indent + 2, out);
                }
            }
            Self::Map(pairs) if !pairs.is_empty() => {
                for (place, (key, value)) in pairs.iter().enumerate() {
                    if place > 0 {
                        spaces(indent, out);
                    }
                    out.push_str(&line(key));
                    out.push(':');
                    value.behind_a_key(indent, out);
                }
            }
            Self::Text(text) => scalar(text, indent, out),
            Self::Number(number) => {
                let _ = writeln!(out, "{number}");
            }
            Self::Bool(truth) => {
                let _ = writeln!(out, "{truth}");
            }
            Self::List(_) => out.push_str("[]\n"),
            Self::Map(_) => out.push_str("{}\n"),
        }
    }

    fn behind_a_key(&self, indent: usize, out: &mut String) {
        match self {
            Self::List(items) if !items.is_empty() => {
                out.push('\n');
                spaces(indent, out);
                self.block(indent, out);
            }
            Self::Map(pairs) if !pairs.is_empty() => {
                out.push('\n');
                spaces(indent + 2, out);
                self.block(indent + 2, out);
            }
            Self::Text(_) | Self::Number(_) | Self::Bool(_) | Self::List(_) | Self::Map(_) => {
                out.push(' ');
                self.block(indent + 2, out);
            }
        }
    }
}

fn spaces(count: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', count));
}

/// A text as a value, with its line end.
fn scalar(text: &str, indent: usize, out: &mut String) {
    if !fits_a_block(text) {
        out.push_str(&line(text));
        out.push('\n');
        return;
    }
    out.push_str(if text.ends_with('\n') { "|\n" } else { "|-\n" });
    // A document that is nothing but a block is indented too.
    let indent = indent.max(2);
    for line in text.lines() {
        if !line.is_empty() {
            spaces(indent, out);
            out.push_str(line);
        }
        out.push('\n');
    }
}

/// Whether a literal block can hold the text without an indentation indicator, and every reader agrees on its end.
fn fits_a_block(text: &str) -> bool {
    let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
    let begins = text.starts_with(|first: char| !first.is_whitespace());
    let is_whole = |line: &str| line.is_empty() || !line.trim().is_empty();
    text.contains('\n')
        && begins
        && !text.ends_with("\n\n")
        && lines.all(is_whole)
        && text.chars().all(|c| matches!(c, '\n' | '\t') || is_printable(c))
}

/// A text on one line: as it is where no reader can take it for anything else, or in double quotes.
fn line(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { quoted(text) }
}

/// Words that YAML 1.1 or 1.2 reads as something else than a text, in any case.
const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];

fn is_plain(text: &str) -> bool {
    let may_be_inside =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '@' | ':' | '+' | '-' | ' ');
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text.chars().all(may_be_inside)
        && !text.ends_with([':', ' '])
        && !text.contains(": ")
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word))
}

fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            other if is_printable(other) => quoted.push(other),
            other => {
                let number = u32::from(other);
                let _ =
                    if number > 0xffff { write!(quoted, "\\U{number:08x}") } else { write!(quoted, "\\u{number:04x}") };
            }
        }
    }
    quoted.push('"');
    quoted
}

/// What every reader takes as it stands (YAML 1.2.2, 5.1), without the line ends of YAML 1.1 and the byte order mark.
fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
        && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn maps_lists_and_texts_are_blocks() {
        let mirrors = Yaml::List(vec![
            Yaml::map([("host", Yaml::text("127.0.0.1:5001")), ("rewrites", Yaml::List(Vec::new()))]),
            Yaml::map([("host", Yaml::text("registry.example.com"))]),
        ]);
        let document = Yaml::map([
            ("mode", Yaml::text("Direct")),
            ("hosts", Yaml::map([("registry.d8-system.svc:5001", Yaml::map([("mirrors", mirrors)]))])),
            ("generation", Yaml::Number(12)),
            ("truth", Yaml::Bool(true)),
            ("nothing", Yaml::Map(Vec::new())),
        ]);
        let expected = "\
mode: Direct
hosts:
  registry.d8-system.svc:5001:
    mirrors:
    - host: \"127.0.0.1:5001\"
      rewrites: []
    - host: registry.example.com
generation: 12
truth: true
nothing: {}
";
        assert_eq!(document.render(), expected);
    }

    #[test]
    fn a_message_of_several_lines_is_a_literal_block() {
        let list = Yaml::List(vec![Yaml::map([
            ("message", Yaml::text("1/2 node(s) ready. Waiting:\n- a: \"old\" → \"new\"\n\t...and 3 more\n")),
            ("other", Yaml::text("Mode: Default\nmaster-1: all 166 items are checked")),
            ("status", Yaml::text("True")),
        ])]);
        let expected = "\
- message: |
    1/2 node(s) ready. Waiting:
    - a: \"old\" → \"new\"
    \t...and 3 more
  other: |-
    Mode: Default
    master-1: all 166 items are checked
  status: \"True\"
";
        assert_eq!(list.render(), expected);
    }

    #[test]
    fn what_yaml_of_any_version_reads_as_something_else_is_quoted() {
        for text in [
            "",
            " ",
            "y",
            "No",
            "ON",
            "null",
            "Null",
            "~",
            "012",
            "1e3",
            "0x1f",
            "12:30:45",
            "2025-07-15T12:52:46Z",
            "-",
            "- a",
            "a: b",
            "a:",
            "a #b",
            "!tag",
            "&a",
            "*a",
            "?",
            "|",
            ">",
            "%",
            "@a",
            "`a",
            "{}",
            "[]",
            "a ",
            " a",
            "<<",
            "=",
            ".inf",
            "127.0.0.1",
            "\"",
            "\\",
            "\u{85}",
            "\u{2028}",
            "\u{feff}",
            "\u{7f}",
            "\u{1f980}\u{0}",
            "\n",
            "a\n\n",
            " a\nb",
            "a\n \nb",
            "a\r\nb",
        ] {
            let rendered = Yaml::text(text).render();
            assert!(rendered.starts_with('"') && rendered.lines().count() == 1, "{text:?} became {rendered:?}");
            assert_eq!(serde_saphyr::from_str::<String>(&rendered).unwrap(), text, "{rendered:?}");
        }
        for text in
            ["Direct", "/system/deckhouse", "registry.d8-system.svc:5001/system/deckhouse", "Transitioning to Local"]
        {
            assert_eq!(Yaml::text(text).render(), format!("{text}\n"));
        }
    }

    fn as_json(yaml: &Yaml) -> serde_json::Value {
        match yaml {
            Yaml::Text(text) => text.as_str().into(),
            Yaml::Number(number) => (*number).into(),
            Yaml::Bool(truth) => (*truth).into(),
            Yaml::List(items) => items.iter().map(as_json).collect(),
            Yaml::Map(pairs) => {
                let pairs: BTreeMap<_, _> = pairs.iter().map(|(key, value)| (key.clone(), as_json(value))).collect();
                serde_json::json!(pairs)
            }
        }
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "[ a-z:#\\-\\n\\t\"'|>~&*!%@`?{}\\[\\],0-9]{0,12}",
            "[a-zA-Z][a-zA-Z :./_-]{0,8}(\n[ \ta-z→]{0,6}){0,4}\n?",
        ]
    }

    fn yaml() -> impl Strategy<Value = Yaml> {
        let leaf = prop_oneof![
            4 => text().prop_map(Yaml::Text),
            1 => any::<u32>().prop_map(|number| Yaml::Number(number.into())),
            1 => any::<bool>().prop_map(Yaml::Bool),
        ];
        leaf.prop_recursive(4, 40, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Yaml::List),
                proptest::collection::btree_map(text(), inner, 0..4)
                    .prop_map(|map| Yaml::Map(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(document in yaml()) {
            let rendered = document.render();
            let read: serde_json::Value = serde_saphyr::from_str(&rendered)
                .map_err(|error| TestCaseError::fail(format!("{error}\n{rendered}")))?;
            prop_assert_eq!(read, as_json(&document), "{}", rendered);
        }
    }

    impl std::fmt::Debug for Yaml {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(&self.render())
        }
    }
}
