//! What in the cluster still names an address, and whether that matters.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::answers::{Answer, Reply};
use super::sources::Sources;
use crate::clock::{self, Timestamp};
use crate::cluster::Reference;
use crate::oci::{self, RepoName};
use crate::switch::{ImagesAt, ReferencesAnswer};
use crate::telemetry::{UpstreamCause, with_causes};
use crate::upstream::Upstream as Client;

/// For one image at one registry.
const PATIENCE: Duration = Duration::from_secs(10);

/// Scans for as long as it is asked.
pub(super) async fn scan(sources: &Sources, address: &str, unless_at: Option<&ImagesAt>, reply: &Reply) {
    let mut clear_since: Option<Timestamp> = None;
    loop {
        let at = clock::now();
        let answer = match Box::pin(leftovers(sources, address, unless_at)).await {
            Ok(leftovers) => {
                clear_since = if leftovers.is_empty() { clear_since.or(Some(at)) } else { None };
                ReferencesAnswer::Scanned { at, leftovers, clear_since }
            }
            Err(why) => {
                clear_since = None;
                ReferencesAnswer::Failed(why)
            }
        };
        reply.give(Answer::References(answer));
        let interval = Duration::from_millis(sources.scan_interval.load(Ordering::Relaxed));
        tokio::time::sleep(interval).await;
    }
}

async fn leftovers(sources: &Sources, address: &str, unless_at: Option<&ImagesAt>) -> Result<Vec<String>, String> {
    let mut found = sources.cluster.references(address).await.map_err(|error| with_causes(&error))?;
    if let Some(at) = unless_at {
        let mut clients = Vec::new();
        for options in sources.at(at).await? {
            clients.push(sources.client(options).await?);
        }
        let mut known = BTreeMap::new();
        for reference in &found {
            if reference.is_image && !known.contains_key(&reference.image) {
                let is_there = is_everywhere(&clients, &reference.image, address).await?;
                known.insert(reference.image.clone(), is_there);
            }
        }
        // Of a source of modules it is not known what it will ask for: it stays.
        found.retain(|reference| known.get(&reference.image).is_none_or(|is_there| !is_there));
    }
    Ok(found.into_iter().map(|Reference { object, image, .. }| format!("{object}: {image}")).collect())
}

/// Whether every one of the registries has the image.
async fn is_everywhere(clients: &[Client], image: &str, address: &str) -> Result<bool, String> {
    let Some((child, reference)) = below(image, address) else { return Ok(false) };
    for client in clients {
        match client.exists(&child, &reference, Instant::now() + PATIENCE).await {
            Ok(_) => {}
            Err(error) if error.cause() == UpstreamCause::NotFound => return Ok(false),
            Err(error) => return Err(with_causes(&error)),
        }
    }
    Ok(true)
}

/// The repository below `address`, and which manifest of it.
fn below(image: &str, address: &str) -> Option<(String, oci::Reference)> {
    let rest = image.strip_prefix(address.trim_end_matches('/'))?;
    let (name, reference) = match rest.split_once('@') {
        // A tag before a digest says nothing.
        Some((name, digest)) => {
            (name.split(':').next().unwrap_or_default(), oci::Reference::Digest(digest.parse().ok()?))
        }
        None => {
            let (name, tag) = rest.rsplit_once(':').unwrap_or((rest, "latest"));
            (name, oci::Reference::Tag(tag.parse().ok()?))
        }
    };
    let child = name.trim_start_matches('/');
    (child.is_empty() || child.parse::<RepoName>().is_ok()).then(|| (child.to_owned(), reference))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_split_below_its_address() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let split = |rest: &str| {
            below(&format!("r:5001/system/deckhouse{rest}"), "r:5001/system/deckhouse")
                .map(|(child, reference)| (child, reference.to_string()))
        };
        let pair = |child: &str, reference: &str| Some((child.to_owned(), reference.to_owned()));
        assert_eq!(split(&format!("@{digest}")), pair("", &digest));
        assert_eq!(split(&format!("/a/b:v1@{digest}")), pair("a/b", &digest));
        assert_eq!(split(":v1.70.1"), pair("", "v1.70.1"));
        assert_eq!(split("/a:v1"), pair("a", "v1"));
        assert_eq!(split("/a"), pair("a", "latest"));
        assert_eq!(split("/UP:v1"), None);
        assert_eq!(below("other/a:v1", "r:5001"), None);
    }
}
