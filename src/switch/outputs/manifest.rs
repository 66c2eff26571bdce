//! A Secret as it is written. All of ours hold texts.

use std::collections::BTreeMap;

use crate::values::Secret;

/// A Secret of namespace `d8-system`, whole: what is neither in `labels`, `annotations` nor `data` is not ours to touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretManifest {
    /// Its name.
    pub name: String,
    /// Its `type`.
    pub kind: &'static str,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its data, without base64.
    pub data: BTreeMap<String, Secret>,
}

impl SecretManifest {
    /// A Secret with the labels that all of Deckhouse's module have.
    pub(super) fn new(name: impl Into<String>, kind: &'static str) -> Self {
        Self::ours(name, kind).label("app", "registry").label("heritage", "deckhouse").label("module", "registry")
    }

    /// A Secret that Deckhouse does not know: without the label `heritage: deckhouse`, which keeps people from writing it.
    pub(super) fn ours(name: impl Into<String>, kind: &'static str) -> Self {
        let (labels, annotations, data) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { name: name.into(), kind, labels, annotations, data }
    }

    pub(super) fn label(mut self, key: &str, value: impl Into<String>) -> Self {
        self.labels.insert(key.to_owned(), value.into());
        self
    }

    pub(super) fn annotation(mut self, key: &str, value: impl Into<String>) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    pub(super) fn data(mut self, key: &str, value: impl Into<String>) -> Self {
        self.data.insert(key.to_owned(), Secret::new(value.into()));
        self
    }
}

/// The text under a key.
///
/// # Errors
/// A sentence.
pub(super) fn text_of<'a>(data: &'a BTreeMap<String, Vec<u8>>, key: &str) -> Result<&'a str, String> {
    let bytes = data.get(key).ok_or_else(|| format!("key {key} is missing"))?;
    std::str::from_utf8(bytes).map_err(|_| format!("key {key} is not UTF-8"))
}
