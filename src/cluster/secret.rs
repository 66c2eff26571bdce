//! Secrets as plain values, and what is written of them.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Map, Value, json};

/// The version of a stored object (`metadata.resourceVersion`): a write names the one that was read, and is refused
/// where the object has another since. Opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

/// A Secret as it was read.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredSecret {
    /// Its name.
    pub name: String,
    /// What a write has to name.
    pub version: Version,
    /// Its identity: another Secret of the same name has another.
    pub uid: String,
    /// Its `type`.
    pub kind: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its data, without base64.
    pub data: BTreeMap<String, Vec<u8>>,
}

/// A Secret that is to be made.
#[derive(Clone, PartialEq, Eq)]
pub struct NewSecret {
    /// Its name.
    pub name: String,
    /// Its `type`; cannot be changed later.
    pub kind: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its data, without base64.
    pub data: BTreeMap<String, Vec<u8>>,
}

/// Keys that are set (`Some`) or removed (`None`); all others stay.
pub type Changes<T> = BTreeMap<String, Option<T>>;

/// What is to be changed of a Secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretChange {
    /// Of its labels.
    pub labels: Changes<String>,
    /// Of its annotations.
    pub annotations: Changes<String>,
    /// Of its data, without base64.
    pub data: Changes<Vec<u8>>,
}

impl StoredSecret {
    /// A key's value as text; `None` where it is not there or not UTF-8.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.data.get(key).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    pub(super) fn from_object(secret: Secret) -> Self {
        let metadata = secret.metadata;
        Self {
            name: metadata.name.unwrap_or_default(),
            version: Version(metadata.resource_version.unwrap_or_default()),
            uid: metadata.uid.unwrap_or_default(),
            kind: secret.type_.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            data: secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect(),
        }
    }
}

impl NewSecret {
    pub(super) fn into_object(self, namespace: &str) -> Secret {
        let mut secret = Secret::default();
        secret.metadata.name = Some(self.name);
        secret.metadata.namespace = Some(namespace.to_owned());
        secret.metadata.labels = Some(self.labels);
        secret.metadata.annotations = Some(self.annotations);
        secret.type_ = Some(self.kind);
        secret.data = Some(self.data.into_iter().map(|(key, bytes)| (key, ByteString(bytes))).collect());
        secret
    }
}

impl SecretChange {
    /// The merge patch. With a version in it the API server refuses it where the object has another.
    pub(super) fn into_patch(self, version: &Version) -> Value {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".to_owned(), Value::from(version.0.as_str()));
        for (key, changes) in [("labels", self.labels), ("annotations", self.annotations)] {
            if !changes.is_empty() {
                metadata.insert(key.to_owned(), object(changes, Value::from));
            }
        }
        let mut patch = json!({ "metadata": metadata });
        if !self.data.is_empty() {
            patch["data"] = object(self.data, |bytes| Value::from(STANDARD.encode(bytes)));
        }
        patch
    }
}

fn object<T>(changes: Changes<T>, value: impl Fn(T) -> Value) -> Value {
    changes.into_iter().map(|(key, change)| (key, change.map_or(Value::Null, &value))).collect::<Map<_, _>>().into()
}

/// The keys, and how long each value is: what is in a Secret is nobody's to see.
fn shown<'a>(data: impl Iterator<Item = (&'a String, Option<&'a Vec<u8>>)>) -> BTreeMap<&'a str, Option<usize>> {
    data.map(|(key, bytes)| (key.as_str(), bytes.map(Vec::len))).collect()
}

impl fmt::Debug for StoredSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = shown(self.data.iter().map(|(key, bytes)| (key, Some(bytes))));
        let Self { name, version, kind, .. } = self;
        write!(f, "StoredSecret({name}, {}, {kind:?}, {data:?})", version.0)
    }
}

impl fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = shown(self.data.iter().map(|(key, bytes)| (key, Some(bytes))));
        write!(f, "NewSecret({}, {:?}, {data:?})", self.name, self.kind)
    }
}

impl fmt::Debug for SecretChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = shown(self.data.iter().map(|(key, bytes)| (key, bytes.as_ref())));
        let keys = |changes: &Changes<String>| changes.keys().cloned().collect::<Vec<_>>();
        write!(f, "SecretChange({:?}, {:?}, {data:?})", keys(&self.labels), keys(&self.annotations))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_removes_what_is_none_names_the_version_and_leaves_the_rest_out() {
        let change = SecretChange {
            annotations: Changes::from([("a".to_owned(), Some("b".to_owned())), ("gone".to_owned(), None)]),
            data: Changes::from([("key".to_owned(), Some(b"\x00\xff".to_vec())), ("old".to_owned(), None)]),
            ..SecretChange::default()
        };
        let wanted = json!({
            "metadata": {"resourceVersion": "7", "annotations": {"a": "b", "gone": null}},
            "data": {"key": "AP8=", "old": null},
        });
        assert_eq!(change.into_patch(&Version("7".to_owned())), wanted);
        let nothing = json!({"metadata": {"resourceVersion": "8"}});
        assert_eq!(SecretChange::default().into_patch(&Version("8".to_owned())), nothing);
    }

    #[test]
    fn nothing_that_is_in_a_secret_is_shown() {
        let data = BTreeMap::from([("password".to_owned(), b"hunter2".to_vec())]);
        let change = data.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        let new = NewSecret {
            name: "n".to_owned(),
            kind: "Opaque".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::from([("note".to_owned(), "hunter2".to_owned())]),
            data,
        };
        let stored = StoredSecret::from_object(new.clone().into_object("ns"));
        let change = SecretChange {
            data: change,
            annotations: Changes::from([("note".to_owned(), Some("hunter2".to_owned()))]),
            ..SecretChange::default()
        };
        let shown = format!("{new:?} {stored:?} {change:?}");
        assert!(shown.contains("password") && !shown.contains("hunter2"), "{shown}");
        assert_eq!(stored.text("password"), Some("hunter2"));
    }
}
