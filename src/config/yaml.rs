//! From YAML text to the raw shapes: the only file that names the YAML parser. Never shows a line of the file.

use std::fmt;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_saphyr::{Error, Options};

use super::error::Position;

/// What is wrong with the text, and where.
pub(super) struct YamlError {
    pub(super) key: String,
    pub(super) position: Option<Position>,
    pub(super) message: String,
    pub(super) cause: Cause,
}

/// What a sentence about keys goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Something else stands where keys belong.
    NoKeys,
    /// A key that nobody knows here, and none like it.
    UnknownKey,
    /// Anything else.
    Other,
}

/// Limits that a real configuration is far below; they stop alias bombs early.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: 20_000, max_events: 60_000, max_depth: 32, max_documents: 1 },
        // `yes` and `on` stay text, as YAML 1.2 has it.
        strict_booleans: true,
        // The parser's own snippet would show neighbouring lines, password hashes among them.
        with_snippet: false,
    }
}

/// Reads the text; an empty one is the default of everything.
pub(super) fn read<T: DeserializeOwned + Default>(text: &str) -> Result<T, YamlError> {
    let mut key = String::new();
    let result = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |deserializer| {
        serde_path_to_error::deserialize::<_, Option<T>>(deserializer).map_err(|error| {
            key = error.path().to_string();
            error.into_inner()
        })
    });
    result.map(Option::unwrap_or_default).map_err(|error| YamlError {
        position: position(&error),
        message: sentence(&error),
        cause: cause(&error),
        key: shown_path(&key, &error),
    })
}

/// The path as it is shown: without the parser's mark for "below this", without a last step that may be a secret.
fn shown_path(path: &str, error: &Error) -> String {
    let path = match error.without_snippet() {
        Error::SerdeUnknownField { field, .. } if !is_key(field) => {
            path.strip_suffix(field.as_str()).unwrap_or_default()
        }
        _ => path,
    };
    path.trim_end_matches(['.', '?']).to_owned()
}

/// Where the value of `key` (`limits.queueWait`, `auth.users[1].name`) begins; `None` if the file has no such key.
pub(super) fn locate(text: &str, key: &str) -> Option<Position> {
    let flat = key.replace('[', ".").replace(']', "");
    let path: Vec<&str> = flat.split('.').filter(|step| !step.is_empty()).collect();
    let found = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |deserializer| {
        Locate(&path).deserialize(deserializer)
    });
    found.err().as_ref().and_then(position)
}

/// Walks down the path and fails at its end: the parser then says where that is.
struct Locate<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Locate<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.0.is_empty() {
            // Nothing is looked for at an absent value, so this fails, and with the value's own position.
            return deserializer.deserialize_unit(self);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Locate<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the key that is looked for")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((wanted, rest)) = self.0.split_first() else { return Ok(()) };
        while let Some(key) = map.next_key::<String>()? {
            if key == *wanted {
                map.next_value_seed(Locate(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((wanted, rest)) = self.0.split_first() else { return Ok(()) };
        let wanted = wanted.parse::<usize>().map_err(A::Error::custom)?;
        for _ in 0..wanted {
            list.next_element::<IgnoredAny>()?;
        }
        list.next_element_seed(Locate(rest))?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

fn position(error: &Error) -> Option<Position> {
    let location = error.location()?;
    (location.line() > 0).then(|| Position { line: location.line(), column: location.column() })
}

/// The parser's error in our words. Values are left out: the one in the wrong place may be a password.
fn sentence(error: &Error) -> String {
    match error.without_snippet() {
        Error::Message { msg, .. } => msg.clone(),
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            // "string \"hunter2\"": the first word is the kind, the rest the value.
            let kind: String = unexpected.chars().take_while(char::is_ascii_alphabetic).collect();
            let found = match kind.as_str() {
                "" => return format!("expected {expected}"),
                "integer" | "floating" => "a number",
                "boolean" => "true or false",
                "string" | "character" | "byte" => "text",
                "map" | "struct" => "keys",
                "sequence" | "tuple" => "a list",
                _ => "nothing",
            };
            format!("expected {expected}, found {found}")
        }
        Error::SerdeUnknownField { field, expected, .. } => {
            let near = nearest(field, expected).map(|key| format!("; did you mean {key}?")).unwrap_or_default();
            format!("unknown key {}; known here: {}{near}", key_name(field), expected.join(", "))
        }
        Error::SerdeMissingField { field, .. } => format!("the key {field} is missing"),
        Error::DuplicateMappingKey { key, .. } => {
            format!("the key {} is there twice", key_name(key.as_deref().unwrap_or_default()))
        }
        Error::InvalidBooleanStrict { .. } => "expected true or false".to_owned(),
        Error::InvalidScalar { ty, .. } if ty.starts_with('f') => "expected a number, such as 1.5".to_owned(),
        Error::InvalidScalar { ty, .. } if ty.starts_with(['u', 'i']) => {
            "expected a whole number, such as 512, without a unit".to_owned()
        }
        Error::InvalidScalar { .. } => "not a value that can stand here".to_owned(),
        Error::NullIntoString { .. } => "expected text, found nothing".to_owned(),
        Error::Unexpected { expected, .. } if expected.contains("mapping") => {
            "expected keys, each on a line of its own further in, such as key: value".to_owned()
        }
        Error::Unexpected { expected, .. } if expected.contains("sequence") => {
            "expected a list, [a, b] or lines that begin with a dash".to_owned()
        }
        Error::Unexpected { expected, .. } if expected.contains("scalar") => {
            "expected one value, found keys or a list".to_owned()
        }
        Error::Unexpected { expected, .. } => format!("expected {expected}"),
        Error::ExternalMessage { msg, .. } => format!("not YAML: {msg}"),
        Error::Eof { .. } => "the file ends too early".to_owned(),
        Error::MultipleDocuments { .. } => "more than one YAML document; one is expected".to_owned(),
        Error::Budget { .. } => {
            "more than one YAML document, or more keys, nesting or aliases than a configuration has".to_owned()
        }
        Error::UnknownAnchor { .. } => "an alias without its anchor".to_owned(),
        Error::AliasError { error, .. } => sentence(error),
        _ => "not valid here".to_owned(),
    }
}

fn cause(error: &Error) -> Cause {
    match error.without_snippet() {
        Error::Unexpected { expected, .. } if expected.contains("mapping") => Cause::NoKeys,
        Error::SerdeUnknownField { field, expected, .. } if is_key(field) && nearest(field, expected).is_none() => {
            Cause::UnknownKey
        }
        Error::AliasError { error, .. } => cause(error),
        _ => Cause::Other,
    }
}

/// The known key that was probably meant: the same but for case and separators, one with at most two letters wrong, left
/// out or put in, or one that begins so. None is guessed for what doesn't look like a key.
fn nearest<'a>(field: &str, known: &[&'a str]) -> Option<&'a str> {
    let wanted = plain(field);
    let distances = known.iter().map(|key| (distance(&wanted, &plain(key)), *key));
    let (distance, key) = distances.min_by_key(|(distance, _)| *distance).filter(|_| is_key(field))?;
    let longer = || known.iter().copied().find(|key| wanted.len() >= 3 && plain(key).starts_with(&wanted));
    if distance <= 2 && distance * 3 <= wanted.len() { Some(key) } else { longer() }
}

/// Without case and separators.
pub(super) fn plain(key: &str) -> String {
    key.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// How many letters have to be changed, put in or taken out (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.bytes().enumerate() {
        let mut before = row[0];
        row[0] = at + 1;
        for (column, wanted) in other.bytes().enumerate() {
            let changed = before + usize::from(letter != wanted);
            before = row[column + 1];
            row[column + 1] = changed.min(before + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

/// A key in quotes if it looks like one; something else may be a secret that slipped to the wrong place.
fn key_name(key: &str) -> String {
    if is_key(key) { format!("\"{key}\"") } else { "(not shown: it doesn't look like a key)".to_owned() }
}

fn is_key(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    !text.is_empty() && text.len() <= 40 && text.chars().all(plain)
}
