//! Discovery tags: Deckhouse finds modules, packages and plugins by the tags of the repository above them. A bundle has none of
//! these tags; the real client makes them at the push, each an image of 32 random bytes.
//!
//! Ours are made of the tag's name, so that another run finds what is there.

use std::collections::BTreeSet;

use serde_json::json;

use super::contents::Bundle;
use super::finding::{Budget, BundleError};
use crate::oci::{Algorithm, Digest};

/// Repositories whose children are found by tags.
const PARENTS: [&str; 3] = ["modules", "packages", "deckhouse-cli/plugins"];
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// About what a discovery tag takes in memory beside the bytes of its image.
const ENTRY_BYTES: usize = 1024;

/// A tag that a push makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// The repository, by its path below Deckhouse's.
    pub repository: String,
    /// The name of the module, package or plugin.
    pub tag: String,
    /// The repository that it stands for.
    pub path: String,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The configuration's bytes, and the layer's.
    pub blobs: [Vec<u8>; 2],
}

impl Bundle {
    /// The discovery tags of what it holds, within the memory that was left when it was opened.
    ///
    /// # Errors
    /// [`BundleError::TooMuch`].
    pub fn discovery(&self) -> Result<Vec<Discovery>, BundleError> {
        let mut budget = Budget::new(self.left);
        let mut found: BTreeSet<(String, String)> = BTreeSet::new();
        for path in self.repositories().filter(|path| self.tags(path).next().is_some()) {
            for parent in PARENTS {
                let below = path.strip_prefix(parent).and_then(|rest| rest.strip_prefix('/'));
                if let Some(name) = below.and_then(|below| below.split('/').next()) {
                    found.insert((parent.to_owned(), name.to_owned()));
                }
            }
            // A mirror of a ModuleSource has the modules at its root.
            if !path.contains('/') && self.layouts.contains_key(&format!("{path}/release")) {
                found.insert((String::new(), path.to_owned()));
            }
        }
        let made = found.into_iter().map(|(repository, tag)| {
            let made = image(repository, tag);
            let bytes = made.blobs.iter().chain([&made.manifest]).map(Vec::len).sum::<usize>();
            budget.take(bytes + 2 * made.path.len() + ENTRY_BYTES).map(|()| made)
        });
        made.collect()
    }
}

fn image(repository: String, tag: String) -> Discovery {
    let path = if repository.is_empty() { tag.clone() } else { format!("{repository}/{tag}") };
    let layer = layer(&tag);
    let of_layer = Algorithm::Sha256.digest(&layer);
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": [of_layer] },
    });
    let config = config.to_string().into_bytes();
    let described = |media_type: &str, digest: Digest, bytes: &[u8]| json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": described(CONFIG, Algorithm::Sha256.digest(&config), &config),
        "layers": [described(LAYER, of_layer, &layer)],
    });
    Discovery { repository, path, manifest: manifest.to_string().into_bytes(), blobs: [config, layer], tag }
}

/// A tar with a file of 32 bytes.
fn layer(tag: &str) -> Vec<u8> {
    const BLOCK: usize = 512;
    let content = Algorithm::Sha256.digest(tag.as_bytes());
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..tag.len().min(100)].copy_from_slice(&tag.as_bytes()[..tag.len().min(100)]);
    header.set_size(content.as_bytes().len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    let mut tar = header.as_bytes().to_vec();
    tar.extend_from_slice(content.as_bytes());
    tar.resize(4 * BLOCK, 0);
    tar
}
