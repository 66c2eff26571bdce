//! Blobs and images made on the spot, the same every time.

use d8_registry::oci::{Algorithm, ManifestKind};
use serde_json::{Value, json};

/// The SHA-256 digest of some content.
pub(crate) fn digest(content: &[u8]) -> String {
    Algorithm::Sha256.digest(content).to_string()
}

/// `len` bytes that depend on `seed` and don't repeat soon.
pub(crate) fn blob(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut content = Vec::with_capacity(len + 8);
    while content.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(len);
    content
}

/// An image: a manifest and the blobs it names.
#[derive(Clone)]
pub(crate) struct Image {
    manifest: Vec<u8>,
    blobs: Vec<Vec<u8>>,
}

impl Image {
    /// An image of a configuration and one layer.
    pub(crate) fn of(seed: u64) -> Self {
        Self::with(seed, &json!({}))
    }

    /// The same with more fields in the manifest.
    pub(crate) fn with(seed: u64, fields: &Value) -> Self {
        let config = json!({ "architecture": "amd64", "os": "linux", "seed": seed }).to_string().into_bytes();
        let layer = blob(seed, 1000);
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": ManifestKind::OciImage.as_str(),
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        for (key, value) in fields.as_object().unwrap() {
            manifest[key] = value.clone();
        }
        Self { manifest: manifest.to_string().into_bytes(), blobs: vec![config, layer] }
    }

    pub(crate) fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    pub(crate) fn media_type(&self) -> &'static str {
        ManifestKind::OciImage.as_str()
    }

    pub(crate) fn digest(&self) -> String {
        digest(&self.manifest)
    }

    pub(crate) fn blobs(&self) -> &[Vec<u8>] {
        &self.blobs
    }

    /// The descriptor by which an index or a referrer names this image.
    pub(crate) fn descriptor(&self) -> Value {
        descriptor(self.media_type(), &self.manifest)
    }
}

/// A descriptor of some content.
pub(crate) fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(content), "size": content.len() })
}
