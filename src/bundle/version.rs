//! Releases, and the channels that lead to one: what is told of a bundle, and what keeps a channel from going back.

use std::io;

use serde::Serialize;

use super::contents::Bundle;
use crate::oci::{Digest, Manifest, Tag};
use crate::release::{first_file, version_of};
use crate::values::Release;

/// The channels of Deckhouse, the boldest first.
const CHANNELS: [&str; 6] = ["alpha", "beta", "early-access", "stable", "rock-solid", "lts"];
/// In an image of a channel, the file with its version.
pub const VERSION: &str = "version.json";
/// Longest manifest that is read: more than registries take.
pub(super) const MOST_MANIFEST: u64 = 4 << 20;
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

/// Whether the tags of a repository, by its path below Deckhouse's, may be channels.
#[must_use]
pub fn is_of_channels(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    matches!(parts.as_slice(), ["release-channel"] | ["modules", _, "release"] | ["packages", _, "version"])
}

/// Whether a tag is called after a channel.
#[must_use]
pub fn is_channel(tag: &str) -> bool {
    CHANNELS.contains(&tag)
}

/// The release that a tag is called after.
pub(super) fn release(tag: &str) -> Option<Release> {
    Release::of_tag(&tag.parse::<Tag>().ok()?)
}

/// The release in the `version.json` of a channel's image; those of modules have no `v`.
#[must_use]
pub fn release_of_version(json: &[u8]) -> Option<Release> {
    let version = version_of(json)?;
    if version.starts_with('v') { release(&version) } else { release(&format!("v{version}")) }
}

impl Bundle {
    /// The releases among the tags of a layout, oldest first.
    pub(super) fn versions(&self, path: &str) -> Vec<String> {
        let mut found: Vec<Release> = self.tags(path).filter_map(|(tag, _)| release(tag)).collect();
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
        if let Some(release) = same.filter_map(|(tag, _)| release(tag)).max() {
            return Some(release);
        }
        let bytes = self.find(path, digest)?.read(MOST_MANIFEST).ok()?;
        let manifest = Manifest::parse(None, &bytes).ok()?;
        let sizes = manifest.layers.iter().map(|layer| layer.size);
        if sizes.fold(0, u64::saturating_add) > MOST_LAYERS {
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
    fn channels_are_tags_of_three_kinds_of_repository() {
        for path in ["release-channel", "modules/console/release", "packages/x/version"] {
            assert!(is_of_channels(path), "{path}");
        }
        for path in ["", "install", "modules/release", "modules/a/b/release", "a/release-channel"] {
            assert!(!is_of_channels(path), "{path}");
        }
    }
}
