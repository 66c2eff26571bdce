//! The form of a key's definition, and all that follows from one: the shape of the file, the value in force with its default
//! and bounds, the list of keys, a row of the reference, a property of the schema. The definitions are in [`super::keys`].
//!
//! `shape!` makes the struct that the file is read into. `section!` makes a shape and, beside it, the struct of the values in
//! force, with what reads, shows and keeps them. Their names are those that `keys` imports.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::error::KeyError;
use super::one_or_many::OneOrMany;
use super::origin::{List, Origin, Origins};
use super::{Machine, TokenSwitch};
use crate::values::{Address, ByteSize, ConfigDuration, Count, FilePath, Mode, Text};

/// When a new value of a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Within seconds after the file changed, or on SIGHUP; no connection is dropped.
    Live,
    /// At the next start.
    Restart,
}

/// The value of a key that the file does not give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// A value, as the file would write it.
    Value(String),
    /// Words for a value that is not always the same, or for none.
    Words(&'static str),
}

/// A key of the file, for those who list or describe keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// The path; `[]` stands for the entries of a list: `auth.users[].name`.
    pub key: String,
    /// When a new value takes effect.
    pub change: Change,
    /// The value while the file does not give the key.
    pub default: DefaultValue,
    /// The least and the greatest value, as the file writes them.
    pub bounds: Option<(String, String)>,
    /// The key's meaning, in sentences (Markdown).
    pub about: String,
}

/// The definition of a key whose value is a `T`: `Live.is(512).within(1..=1_000_000)`.
pub(super) struct Key<T> {
    change: Change,
    default: Source<T>,
    bounds: Option<Bounds<T>>,
}

enum Source<T> {
    Is(T),
    Follows(fn(&Context) -> T, &'static str),
}

struct Bounds<T> {
    least: T,
    most: T,
    is_less: fn(&T, &T) -> bool,
}

/// The place of a definition where a section stands: its keys have definitions of their own.
pub(super) struct Below;

impl Below {
    /// A section's own description, which nobody reads but for its documentation.
    pub(super) const fn info() -> KeyInfo {
        Change::Live.words("")
    }
}

/// What a default may follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    pub(super) machine: Machine,
    pub(super) mode: Mode,
    pub(super) has_mode_file: bool,
}

impl Change {
    /// A key with this default.
    pub(super) const fn is<T>(self, default: T) -> Key<T> {
        Key { change: self, default: Source::Is(default), bounds: None }
    }

    /// A key whose default follows from something else; `words` describe it (Markdown).
    pub(super) const fn follows<T>(self, default: fn(&Context) -> T, words: &'static str) -> Key<T> {
        Key { change: self, default: Source::Follows(default, words), bounds: None }
    }

    /// A key that is read by hand, with its default as the file would write it.
    pub(super) fn value(self, default: &str) -> KeyInfo {
        KeyInfo { default: DefaultValue::Value(default.to_owned()), ..self.words("") }
    }

    /// A key that is read by hand, with words for its default (Markdown).
    pub(super) const fn words(self, words: &'static str) -> KeyInfo {
        KeyInfo {
            key: String::new(),
            change: self,
            default: DefaultValue::Words(words),
            bounds: None,
            about: String::new(),
        }
    }
}

impl<T: PartialOrd> Key<T> {
    /// The same key; a value outside `bounds` is an error.
    pub(super) fn within(self, bounds: RangeInclusive<T>) -> Self {
        let (least, most) = bounds.into_inner();
        Self { bounds: Some(Bounds { least, most, is_less: |one, other| one < other }), ..self }
    }
}

impl<T: Leaf> Key<T> {
    /// The definition without its type; path and documentation are added by the shape.
    pub(super) fn info(&self) -> KeyInfo {
        let default = match &self.default {
            Source::Is(value) => match value.shown().as_str() {
                "" | "-" => DefaultValue::Words("none"),
                shown => DefaultValue::Value(shown.to_owned()),
            },
            Source::Follows(_, words) => DefaultValue::Words(words),
        };
        let bounds = self.bounds.as_ref().map(|Bounds { least, most, .. }| (least.shown(), most.shown()));
        KeyInfo { default, bounds, ..self.change.words("") }
    }

    fn default(&self, context: &Context) -> T {
        match &self.default {
            Source::Is(value) => value.clone(),
            Source::Follows(default, _) => default(context),
        }
    }

    fn checked(&self, value: T) -> Result<T, String> {
        match &self.bounds {
            Some(Bounds { least, is_less, .. }) if is_less(&value, least) => {
                Err(format!("{} is less than {}", value.shown(), least.shown()))
            }
            Some(Bounds { most, is_less, .. }) if is_less(most, &value) => {
                Err(format!("{} is more than {}", value.shown(), most.shown()))
            }
            _ => Ok(value),
        }
    }
}

/// Takes values out of the shapes and notes where each came from.
pub(super) struct Reader {
    pub(super) origins: Origins,
    pub(super) context: Context,
}

impl Reader {
    /// The value of a key, or of a section.
    pub(super) fn read<T: Value>(
        &mut self,
        key: &str,
        written: Option<T::InFile>,
        definition: &T::Definition,
    ) -> Result<T, KeyError> {
        T::read(written, key, definition, self)
    }

    /// A value that the file gives, for what is read by hand.
    pub(super) fn given<T>(&mut self, key: &str, value: Option<T>) -> Option<T> {
        if value.is_some() {
            self.origins.set(key, Origin::File);
        }
        value
    }
}

/// An error about a key; file and position are added by who knows them.
pub(super) fn wrong(key: &str, message: impl Into<String>) -> KeyError {
    KeyError { file: None, position: None, key: key.to_owned(), message: message.into() }
}

/// The path of `name` below `section`; the file itself is `""`.
pub(super) fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// The text of doc comments as one line.
pub(super) fn line(doc: &[&str]) -> String {
    doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// A type of the file's shape.
pub(super) trait Written {
    /// Whether the key may be absent.
    const OPTIONAL: bool = false;

    /// The JSON Schema of the value.
    fn schema() -> Json;

    /// Adds the key that is described, or those below it.
    fn keys(info: KeyInfo, found: &mut Vec<KeyInfo>) {
        found.push(info);
    }
}

impl<T: Text> Written for T {
    fn schema() -> Json {
        <T as Text>::schema()
    }
}

impl Written for bool {
    fn schema() -> Json {
        json!({ "type": "boolean" })
    }
}

impl Written for String {
    fn schema() -> Json {
        json!({ "type": "string" })
    }
}

impl<T: Written> Written for Option<T> {
    const OPTIONAL: bool = true;

    fn schema() -> Json {
        T::schema()
    }

    fn keys(info: KeyInfo, found: &mut Vec<KeyInfo>) {
        T::keys(info, found);
    }
}

impl<T: Written> Written for Vec<T> {
    fn schema() -> Json {
        json!({ "type": "array", "items": T::schema() })
    }

    fn keys(info: KeyInfo, found: &mut Vec<KeyInfo>) {
        T::keys(KeyInfo { key: info.key + "[]", ..info }, found);
    }
}

impl<T: Text> Written for OneOrMany<T> {
    fn schema() -> Json {
        json!({ "anyOf": [<T as Text>::schema(), { "type": "array", "items": <T as Text>::schema(), "minItems": 1 }] })
    }
}

/// What stands in the configuration in force: the value of a key, or a section of them.
pub(super) trait Value: Sized {
    /// Its form in the file.
    type InFile: DeserializeOwned + Written;
    /// [`Key`] or [`Below`].
    type Definition;

    /// The definition without its type.
    fn info(definition: &Self::Definition) -> KeyInfo;

    /// The value at `key`: as written, else the default.
    fn read(
        written: Option<Self::InFile>,
        key: &str,
        definition: &Self::Definition,
        reader: &mut Reader,
    ) -> Result<Self, KeyError>;

    /// Adds the value in force to `list`.
    fn show(&self, key: &str, list: &mut List<'_>);

    /// Puts the old value in the place of one that a running server does not take.
    fn keep(&mut self, old: &Self, definition: &Self::Definition);
}

/// The value of one key.
pub(super) trait Leaf: Sized + Clone {
    /// Its form in the file.
    type InFile: DeserializeOwned + Written;

    /// The value that was written, or a sentence.
    fn checked(written: Self::InFile) -> Result<Self, String>;

    /// As the file would write it; `***` for a secret, `-` for nothing.
    fn shown(&self) -> String;
}

impl<T: Leaf> Value for T {
    type InFile = <T as Leaf>::InFile;
    type Definition = Key<T>;

    fn info(definition: &Key<T>) -> KeyInfo {
        definition.info()
    }

    fn read(
        written: Option<Self::InFile>,
        key: &str,
        definition: &Key<T>,
        reader: &mut Reader,
    ) -> Result<Self, KeyError> {
        match reader.given(key, written) {
            None => Ok(definition.default(&reader.context)),
            Some(written) => {
                T::checked(written).and_then(|value| definition.checked(value)).map_err(|message| wrong(key, message))
            }
        }
    }

    fn show(&self, key: &str, list: &mut List<'_>) {
        list.add(key, self.shown());
    }

    fn keep(&mut self, old: &Self, definition: &Key<T>) {
        if definition.change == Change::Restart {
            self.clone_from(old);
        }
    }
}

/// Values that are written as they are.
impl<T: Text + ToString + Clone + DeserializeOwned> Leaf for T {
    type InFile = T;

    fn checked(written: T) -> Result<T, String> {
        Ok(written)
    }

    fn shown(&self) -> String {
        self.to_string()
    }
}

/// Values of plain types: the form in the file, and the way there and back.
macro_rules! leaves {
    ($($type:ty, $written:ty, $checked:expr, $shown:expr;)+) => {$(
        impl Leaf for $type {
            type InFile = $written;

            fn checked(written: $written) -> Result<Self, String> {
                let checked: fn($written) -> Result<Self, String> = $checked;
                checked(written)
            }

            fn shown(&self) -> String {
                let shown: fn(&Self) -> String = $shown;
                shown(self)
            }
        }
    )+};
}

leaves! {
    bool, bool, Ok, ToString::to_string;
    u32, Count, |count| Ok(count.0), ToString::to_string;
    Option<u32>, Count, |count| Ok(Some(count.0)), |count| shown_or_nothing(count.as_ref());
    u64, ByteSize, |size| Ok(size.0), |bytes| ByteSize(*bytes).to_string();
    Duration, ConfigDuration, |duration| Ok(duration.0), |duration| ConfigDuration(*duration).to_string();
    PathBuf, FilePath, |path| Ok(path.0), |path| path.display().to_string();
    Option<PathBuf>, FilePath, |path| Ok(Some(path.0)), |path| shown_or_nothing(path.as_ref());
    Option<Duration>, ConfigDuration, |duration| Ok(Some(duration.0)), |duration| shown_or_nothing(duration.as_ref());
    Option<u64>, ByteSize, budget, |bytes| shown_or_nothing(bytes.as_ref());
    Vec<String>, Vec<String>, Ok, |names| names.join(", ");
    Vec<Address>, OneOrMany<Address>, |list| Ok(list.0), |list| separated(list);
    TokenSwitch, bool, |on| Ok(if on { TokenSwitch::On } else { TokenSwitch::Off }), |switch| switch.as_str().to_owned();
}

fn shown_or_nothing<T: Leaf>(value: Option<&T>) -> String {
    value.map_or_else(|| "-".to_owned(), Leaf::shown)
}

pub(super) fn separated<T: ToString>(list: &[T]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A bound in bytes that need not be there: 0 is how the file says so, else at least 1 MiB.
fn budget(size: ByteSize) -> Result<Option<u64>, String> {
    const LEAST: ByteSize = ByteSize(1 << 20);
    match size {
        ByteSize(0) => Ok(None),
        size if size < LEAST => Err(format!("{size} is less than {LEAST}")),
        ByteSize(bytes) => Ok(Some(bytes)),
    }
}

/// A shape of the file. Each key: documentation, name in the file, field, type in the file, [`KeyInfo`].
macro_rules! shape {
    ($(#[$attribute:meta])* $raw:ident {
        $($(#[doc = $doc:literal])+ $name:literal $field:ident: $type:ty = $info:expr),+ $(,)?
    }) => {
        $(#[$attribute])*
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $raw {
            $($(#[doc = $doc])+ #[serde(rename = $name)] pub(super) $field: $type,)+
        }

        impl Written for $raw {
            fn schema() -> serde_json::Value {
                let mut section = SectionSchema::default();
                $(section.property::<$type>($name, KeyInfo { about: line(&[$($doc),+]), ..$info });)+
                section.finish()
            }

            fn keys(section: KeyInfo, found: &mut Vec<KeyInfo>) {
                $(<$type as Written>::keys(
                    KeyInfo { key: join(&section.key, $name), about: line(&[$($doc),+]), ..$info },
                    found,
                );)+
            }
        }
    };
}

/// A section whose keys are all read alike. Each key: documentation, name in the file, field, type in force, [`Key`].
macro_rules! section {
    ($(#[doc = $about:literal])+ $visibility:vis $name:ident, $raw:ident {
        $($(#[doc = $doc:literal])+ $key:literal $field:ident: $type:ty = $definition:expr),+ $(,)?
    }) => {
        shape! {
            #[derive(Default)]
            $raw {
                $($(#[doc = $doc])+ $key $field: Option<<$type as Value>::InFile> =
                    <$type as Value>::info(&$definition)),+
            }
        }

        $(#[doc = $about])+
        #[derive(Clone, Debug, PartialEq)]
        $visibility struct $name {
            $($(#[doc = $doc])+ $visibility $field: $type,)+
        }

        impl Value for $name {
            type InFile = $raw;
            type Definition = Below;

            fn info(_: &Below) -> KeyInfo {
                Below::info()
            }

            fn read(written: Option<$raw>, at: &str, _: &Below, reader: &mut Reader) -> Result<Self, KeyError> {
                let raw = written.unwrap_or_default();
                Ok(Self { $($field: reader.read::<$type>(&join(at, $key), raw.$field, &$definition)?,)+ })
            }

            fn show(&self, at: &str, list: &mut List<'_>) {
                $(Value::show(&self.$field, &join(at, $key), list);)+
            }

            fn keep(&mut self, old: &Self, _: &Below) {
                $(Value::keep(&mut self.$field, &old.$field, &$definition);)+
            }
        }
    };
}

pub(super) use {section, shape};
