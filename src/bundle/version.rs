//! Releases, and the channels that lead to one: what is told of a bundle, and what keeps a channel from going back.

use std::io;

use serde::Serialize;

use super::contents::Bundle;
use crate::oci::{Descriptor, Digest, Manifest, Tag};
use crate::release::{first_file, version_of};
use crate::values::Release;

/// The channels of Deckhouse, the boldest first.
pub(super) const CHANNELS: [&str; 6] = ["alpha", "beta", "early-access", "stable", "rock-solid", "lts"];
/// In an image of a channel, the file with its version.
pub const VERSION: &str = "version.json";
/// Longest manifest that is read: more than registries take.
pub const MOST_MANIFEST: u64 = 4 << 20;
/// Most bytes of the layers of an image that is read for its version; it has a version and a list of changes.
const MOST_LAYERS: u64 = 4 << 20;

/// A channel, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Channel {
    /// Its name.
    pub channel: String,
    /// The release that it leads to; absent: its image does not say.
    pub version: Option<String>,
}

/// Whether the tags of a repository, by its path in the bundle, may be channels: of Deckhouse, of a module or package, of a module
/// in a mirror of a `ModuleSource`, which has modules at its root. Of old the images of Deckhouse and of its installer had tags of
/// channels too.
#[must_use]
pub fn is_of_channels(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["" | "install" | "install-standalone" | "release-channel"] => true,
        ["modules", _, "release"] | ["packages", _, "version"] => true,
        // The name of a module, unless it is where modules are.
        [name, "release"] => !matches!(*name, "modules" | "packages"),
        _ => false,
    }
}

/// Whether an image with these layers may be that of a channel, by its size: it has a version and a list of changes.
#[must_use]
pub fn may_have_version(layers: &[Descriptor]) -> bool {
    layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add) <= MOST_LAYERS
}

/// Whether a tag is called after a channel.
#[must_use]
pub fn is_channel(tag: &str) -> bool {
    CHANNELS.contains(&tag)
}

/// The release that a tag is called after.
#[must_use]
pub fn release_of_tag(tag: &str) -> Option<Release> {
    Release::of_tag(&tag.parse::<Tag>().ok()?)
}

/// The release in the `version.json` of a channel's image; those of modules have no `v`.
#[must_use]
pub fn release_of_version(json: &[u8]) -> Option<Release> {
    let version = version_of(json)?;
    release_of_tag(&if version.starts_with('v') { version } else { format!("v{version}") })
}

impl Bundle {
    /// The releases among the tags of a layout, oldest first.
    pub(super) fn versions(&self, path: &str) -> Vec<String> {
        let mut found: Vec<Release> = self.tags(path).filter_map(|(tag, _)| release_of_tag(tag)).collect();
        found.sort();
        found.into_iter().map(|release| release.tag().to_string()).collect()
    }

    /// The channels among the tags of a layout.
    pub(super) fn channels(&self, path: &str) -> Vec<Channel> {
        let named = CHANNELS.into_iter().filter_map(|channel| {
            let (_, digest) = self.tags(path).find(|(tag, _)| *tag == channel)?;
            let version = self.release_of(path, &digest).map(|release| release.tag().to_string());
            Some(Channel { channel: channel.to_owned(), version })
        });
        named.collect()
    }

    /// The release that the image of a channel says; `None`: it says none, or can't be read. Blocking.
    #[must_use]
    pub fn release_of(&self, path: &str, digest: &Digest) -> Option<Release> {
        let same = self.tags(path).filter(|(_, found)| found == digest);
        if let Some(release) = same.filter_map(|(tag, _)| release_of_tag(tag)).max() {
            return Some(release);
        }
        let bytes = self.find(path, digest)?.read(MOST_MANIFEST).ok()?;
        let manifest = Manifest::parse(None, &bytes).ok()?;
        if !may_have_version(&manifest.layers) {
            return None;
        }
        let found = first_file(&manifest.layers, &[VERSION], |layer| {
            let found = self.find(path, layer).ok_or(io::ErrorKind::NotFound)?;
            Ok(io::Cursor::new(found.read(MOST_LAYERS)?))
        });
        let (_, json) = found.ok()??;
        release_of_version(&json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_tags_of_few_kinds_of_repository() {
        for path in ["", "install", "release-channel", "modules/console/release", "packages/x/version", "x/release"] {
            assert!(is_of_channels(path), "{path}");
        }
        for path in ["modules/a", "modules/release", "modules/a/b/release", "a/release-channel", "security/trivy-db"] {
            assert!(!is_of_channels(path), "{path}");
        }
    }
}
