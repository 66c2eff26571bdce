//! Content to test registries with: blobs, descriptors, manifests and images, the same for the same arguments.
//!
//! Unit tests, integration tests and load scenarios take them from here. This crate does not depend on `d8-registry`: its
//! unit tests would then meet two copies of each type, one compiled with `cfg(test)` and one without. Digests are
//! therefore text and manifests are JSON; a test that needs a parsed one parses the bytes.

pub mod bundle;
pub mod distribution;
mod image;
pub mod layer;

use std::fmt::Display;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub use image::Image;

/// Media types (image-spec, "OCI Image Media Types").
pub mod media_type {
    /// A manifest of one image.
    pub const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
    /// A list of manifests.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An image's configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer, not compressed.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A layer, compressed with gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
}

/// The SHA-256 digest of some content, as `sha256:<hex>`.
#[must_use]
pub fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// `length` bytes that don't compress and are the same for the same seed (xorshift64*), and others for any other.
#[must_use]
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    // The map of seeds is one to one and spreads neighbours; a state of 0 would stay 0.
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9).max(1);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The descriptor of some content.
#[must_use]
pub fn descriptor(media_type: &str, content: &[u8]) -> Value {
    descriptor_of(media_type, digest(content), content.len())
}

/// The descriptor of content of which only the digest is at hand. `size` in bytes.
#[must_use]
pub fn descriptor_of(media_type: &str, digest: impl Display, size: usize) -> Value {
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size })
}

/// The manifest of an image with these descriptors.
#[must_use]
pub fn image(config: &Value, layers: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": media_type::IMAGE, "config": config, "layers": layers })
}

/// An index of these descriptors.
#[must_use]
pub fn index(manifests: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": manifests })
}

/// A manifest with the fields of `fields` besides, which replace those of the same name.
#[must_use]
pub fn with(mut manifest: Value, fields: &Value) -> Value {
    for (key, value) in fields.as_object().into_iter().flatten() {
        manifest[key] = value.clone();
    }
    manifest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_the_same_for_the_same_seed_only() {
        assert_eq!(noise(7, 1000), noise(7, 1000));
        let many: std::collections::HashSet<Vec<u8>> = (0..10_000).map(|seed| noise(seed, 16)).collect();
        assert_eq!(many.len(), 10_000, "neighbours have contents of their own");
        assert_eq!(noise(1, 3).len(), 3);
    }

    /// FIPS 180-4, example of SHA-256.
    #[test]
    fn a_digest_is_that_of_the_standard() {
        assert_eq!(digest(b"abc"), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn an_image_names_what_it_has() {
        let image = Image::with(3, &json!({ "annotations": { "k": "v" } }));
        let manifest: Value = serde_json::from_slice(image.manifest()).unwrap();
        assert_eq!(manifest["config"], descriptor(media_type::CONFIG, &image.blobs()[0]));
        assert_eq!(manifest["layers"], json!([descriptor(media_type::LAYER, &image.blobs()[1])]));
        assert_eq!(manifest["annotations"]["k"], "v");
        assert_eq!(image.descriptor()["digest"], image.digest());
        assert_ne!(Image::of(1).digest(), Image::of(2).digest());
    }
}
