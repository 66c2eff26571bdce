//! Knows the random images that `d8 mirror push` makes: its check whether it may write (`d8WriteCheck`), and those whose tags
//! are a list of names (`modules:<name>`, `packages:<name>`, `deckhouse-cli/plugins:<name>`). Each push makes new ones and moves
//! the tags, so those of the push before have none. Nothing can run them: one layer has a file of random bytes.
//!
//! # Decisions
//!
//! They are known by what go-containerregistry's `random.Image` writes into their configuration, whose author is
//! `random.Image`, and by their size; not by where they lie.

use std::io::Read as _;

use serde::Deserialize;

use crate::oci::{Manifest, RepoName};
use crate::store::contents::open::open_content;
use crate::store::layout::Membership;
use crate::store::repositories::manifests::Manifests;

/// Longest configuration and layer; real ones have some 500 and 2,048 bytes.
const MOST_BYTES: u64 = 4096;

#[derive(Deserialize)]
struct Configuration {
    history: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    author: String,
    created_by: String,
}

/// Whether the manifest is that of such an image. Reads its configuration if it is small enough; blocking.
pub(super) fn is_random_image(manifests: &Manifests, repo: &RepoName, manifest: &Manifest) -> bool {
    let (Some(config), [layer]) = (&manifest.config, &manifest.layers[..]) else { return false };
    if config.size > MOST_BYTES || layer.size > MOST_BYTES || manifest.subject.is_some() {
        return false;
    }
    let path = manifests.contents.layout.member(repo, Membership::Blob, &config.digest);
    let Ok(Some(file)) = open_content(&path) else { return false };
    let mut bytes = Vec::new();
    let whole = file.take(MOST_BYTES + 1).read_to_end(&mut bytes);
    // One that is damaged says nothing.
    whole.is_ok() && config.digest.algorithm().digest(&bytes) == config.digest && is_random_configuration(&bytes)
}

fn is_random_configuration(bytes: &[u8]) -> bool {
    let Ok(Configuration { history }) = serde_json::from_slice(bytes) else { return false };
    matches!(&history[..], [Step { author, created_by }] if author == "random.Image" && created_by == "random")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_random_by_its_configuration() {
        let random = br#"{"architecture":"","created":"0001-01-01T00:00:00Z","history":[{"author":"random.Image","created":"0001-01-01T00:00:00Z","created_by":"random","comment":"this is a random history 0 of 1"}],"os":"","rootfs":{"type":"layers","diff_ids":["sha256:00"]},"config":{}}"#;
        assert!(is_random_configuration(random));
        let text = std::str::from_utf8(random).unwrap();
        for other in [
            text.replace("random.Image", "somebody"),
            text.replace("\"created_by\":\"random\"", "\"created_by\":\"RUN x\""),
            text.replace("\"history\":[", "\"history\":[{\"author\":\"x\",\"created_by\":\"y\"},"),
            "{}".to_owned(),
            String::new(),
        ] {
            assert!(!is_random_configuration(other.as_bytes()), "{other}");
        }
    }
}
