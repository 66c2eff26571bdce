//! Where each value comes from, and the list of settings that says so.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Neither file nor flag.
    Default,
    /// The file.
    File,
    /// The command line.
    Flag,
    /// The directory `upstream.secretDir`.
    SecretDir,
}

/// A key with the value in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its path, with an index for each list: `auth.users[0].name`.
    pub key: String,
    /// The value as it would be written in the file; `***` for a secret, `-` for nothing.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Keys that were set, and by what; the others have their default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Origins(BTreeMap<String, Origin>);

impl Origins {
    pub(super) fn set(&mut self, key: &str, origin: Origin) {
        self.0.insert(key.to_owned(), origin);
    }

    pub(super) fn of(&self, key: &str) -> Origin {
        self.0.get(key).copied().unwrap_or(Origin::Default)
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Flag => "flag",
            Self::SecretDir => "secretDir",
        })
    }
}

/// Settings, collected in the order of the keys.
pub(super) struct List<'a> {
    origins: &'a Origins,
    pub(super) settings: Vec<Setting>,
}

impl<'a> List<'a> {
    pub(super) const fn new(origins: &'a Origins) -> Self {
        Self { origins, settings: Vec::new() }
    }

    pub(super) fn add(&mut self, key: &str, value: String) {
        self.settings.push(Setting { key: key.to_owned(), value, origin: self.origins.of(key) });
    }

    /// Adds the fields of an entry of the list at `key`.
    pub(super) fn add_entry(&mut self, key: &str, index: usize, fields: &[(&str, &str)]) {
        let origin = self.origins.of(key);
        self.settings.extend(fields.iter().map(|(field, value)| Setting {
            key: format!("{key}[{index}].{field}"),
            value: (*value).to_owned(),
            origin,
        }));
    }
}
