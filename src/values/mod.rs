//! Values of the configuration that a bare number or string would leave open: sizes, durations, times of the calendar,
//! addresses, words, paths, password hashes, secrets, releases; the document of pins and the list of servers. Each is read from text once and can't be wrong afterwards. Pure.
//!
//! They stand on the ground floor because two use them: `config`, which reads them, and the part whose option they are.
//! What a word means is said by its part: `auth` says what a [`Role`] may do, `upstream` how a [`Scheme`] stands in a URL.

mod addresses;
mod calendar;
mod choice;
mod count;
mod docker_login;
pub(crate) mod host;
mod interval;
mod measure;
mod min_copies;
mod pattern;
mod pins;
mod release;
mod secret;
mod target;
mod text;

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Deserializer, Visitor};
use serde_json::{Value as Json, json};

pub use addresses::{Address, Addresses};
pub use calendar::{Calendar, Cron};
pub use choice::{
    Acceleration, AccessMode, Anonymous, AnyMode, CheckMode, Level, LogFormat, MissingReferences, Mode, Phase, Role,
    Scheme, StaleCause, StoringMode, WhenShort,
};
pub(crate) use count::Count;
pub use docker_login::docker_login;
pub use interval::Interval;
pub use measure::{ByteSize, ConfigDuration, Reserve};
pub use min_copies::MinCopies;
pub use pattern::Pattern;
pub use pins::{Age, InvalidPins, Pins};
pub use release::Release;
pub use secret::Secret;
pub use target::{Target, TargetError, TargetListError};
pub use text::PasswordHash;
pub(crate) use text::{Alias, FilePath};

/// A type that is written as one piece of text.
pub(crate) trait Text: FromStr<Err: fmt::Display> {
    /// The expected text, for an error: "a size such as 64MiB".
    const EXPECTED: &'static str;

    /// The type's JSON Schema (2020-12). It may take less than [`FromStr`] does, never more of the right type.
    fn schema() -> Json {
        json!({ "type": "string" })
    }
}

/// Reads any [`Text`]; for the `Deserialize` of such a type.
pub(crate) fn deserialize_text<'de, D: Deserializer<'de>, T: Text>(deserializer: D) -> Result<T, D::Error> {
    struct TextVisitor<T>(PhantomData<T>);

    impl<T: Text> Visitor<'_> for TextVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTED)
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

/// Why a text is no value; a whole sentence without the text itself where that may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub(crate) String);
