//! Entries of a referrers list, and what the index keeps of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::oci::Digest;
use crate::store::stored::StoredManifest;

/// A manifest that names another as its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// Its digest.
    pub digest: Digest,
    /// Its media type, size, artifact type and annotations, as a descriptor in JSON.
    pub descriptor: Bytes,
    /// Its artifact type.
    pub artifact_type: Option<String>,
}

impl Referrer {
    /// The entry of `stored` in a referrers list (distribution-spec, "Listing Referrers").
    #[must_use]
    pub fn of(stored: &StoredManifest) -> Self {
        let manifest = &stored.manifest;
        let media_type = manifest.media_type();
        let line = ReferrerLine {
            media_type: &media_type,
            digest: stored.digest,
            size: stored.bytes.len(),
            artifact_type: manifest.artifact_type.as_deref(),
            annotations: &manifest.annotations,
        };
        // A struct of strings and numbers has no way to fail; an empty descriptor would be left out of the list.
        let descriptor = serde_json::to_vec(&line).unwrap_or_default();
        Self { digest: stored.digest, descriptor: descriptor.into(), artifact_type: manifest.artifact_type.clone() }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReferrerLine<'a> {
    media_type: &'a str,
    digest: Digest,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

/// A referrer as the index knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IndexedReferrer {
    /// With its descriptor.
    Whole(Referrer),
    /// Its descriptor is too long for the index: read the manifest and take [`Referrer::of`].
    DigestOnly(Digest),
}

/// The artifact type in a descriptor that [`Referrer::of`] made; the outer `None` if it can't be read.
pub(super) fn artifact_type(descriptor: &[u8]) -> Option<Option<String>> {
    /// The one field that is asked for.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Descriptor {
        artifact_type: Option<String>,
    }
    serde_json::from_slice::<Descriptor>(descriptor).ok().map(|descriptor| descriptor.artifact_type)
}
