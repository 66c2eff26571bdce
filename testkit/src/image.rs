//! An image with its bytes.

use serde_json::{Value, json};

use crate::media_type::{CONFIG, IMAGE, LAYER};
use crate::{descriptor, digest, noise};

/// An image: a manifest and the blobs it names.
#[derive(Clone, Debug)]
pub struct Image {
    manifest: Vec<u8>,
    blobs: Vec<Vec<u8>>,
}

impl Image {
    /// An image of a configuration and one layer of 1000 bytes.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self::with(seed, &json!({}))
    }

    /// The same with more fields in the manifest.
    #[must_use]
    pub fn with(seed: u64, fields: &Value) -> Self {
        let config = json!({ "architecture": "amd64", "os": "linux", "seed": seed }).to_string().into_bytes();
        Self::of_layers(config, vec![noise(seed, 1000)], fields)
    }

    /// An image of these blobs, with more fields in the manifest.
    #[must_use]
    pub fn of_layers(config: Vec<u8>, layers: Vec<Vec<u8>>, fields: &Value) -> Self {
        let descriptors: Vec<Value> = layers.iter().map(|layer| descriptor(LAYER, layer)).collect();
        let manifest = crate::with(crate::image(&descriptor(CONFIG, &config), &descriptors), fields);
        let blobs = std::iter::once(config).chain(layers).collect();
        Self { manifest: manifest.to_string().into_bytes(), blobs }
    }

    /// The manifest's bytes.
    #[must_use]
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// The manifest's media type.
    #[must_use]
    pub const fn media_type(&self) -> &'static str {
        IMAGE
    }

    /// The manifest's digest.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// The configuration, then the layers.
    #[must_use]
    pub fn blobs(&self) -> &[Vec<u8>] {
        &self.blobs
    }

    /// The descriptor by which an index or a referrer names this image.
    #[must_use]
    pub fn descriptor(&self) -> Value {
        descriptor(self.media_type(), &self.manifest)
    }
}
