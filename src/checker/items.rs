//! The list of what has to be there, from its text. Pure.
//!
//! Three forms: lines of `[SOURCE] IMAGE` (`#` begins a comment); a JSON array of `{"source", "image"}`; the JSON of
//! Deckhouse's `images_digests.json`, `{"module": {"image": "sha256:…"}}`.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use super::CheckMode;
use crate::oci::{Digest, Reference, RepoName};
use crate::release::{DECKHOUSE, RequiredImage, module_label};

/// Why a list can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidList {
    /// Nothing on it.
    #[error("the list is empty")]
    Empty,
    /// JSON of another shape.
    #[error("neither a list of {{\"source\", \"image\"}} nor of modules with digests: {0}")]
    Json(String),
    /// Neither tag nor digest.
    #[error("{0:?} is no image: write repository@sha256:…, repository:tag or sha256:…")]
    Image(String),
    /// A line of more than two words.
    #[error("line {0} is not of the form [SOURCE] IMAGE")]
    Line(usize),
    /// Relax without what it checks.
    #[error("mode Relax checks {DECKHOUSE}, which is not on the list")]
    NoDeckhouse,
    /// Relax with a digest.
    #[error("mode Relax checks {DECKHOUSE} by a tag, but the list has a digest")]
    NoTag,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Json {
    List(Vec<Entry>),
    Modules(BTreeMap<String, BTreeMap<String, String>>),
}

#[derive(Deserialize)]
struct Entry {
    source: Option<String>,
    image: String,
}

/// Reads a list; what is on it twice counts once.
///
/// # Errors
/// [`InvalidList`].
pub fn parse(text: &str) -> Result<Vec<RequiredImage>, InvalidList> {
    let items = if text.trim_start().starts_with(['[', '{']) { parse_json(text)? } else { parse_lines(text)? };
    let mut seen = HashSet::new();
    let items: Vec<_> = items.into_iter().filter(|item| seen.insert(item.clone())).collect();
    if items.is_empty() { Err(InvalidList::Empty) } else { Ok(items) }
}

/// The part of a list that a mode checks.
///
/// # Errors
/// [`InvalidList`] where Relax has no tag of Deckhouse.
pub fn for_mode(mode: CheckMode, mut items: Vec<RequiredImage>) -> Result<Vec<RequiredImage>, InvalidList> {
    if mode == CheckMode::Relax {
        items.retain(|item| item.source == DECKHOUSE);
        if items.is_empty() {
            return Err(InvalidList::NoDeckhouse);
        }
        if items.iter().any(|item| matches!(item.reference, Reference::Digest(_))) {
            return Err(InvalidList::NoTag);
        }
    }
    Ok(items)
}

fn parse_lines(text: &str) -> Result<Vec<RequiredImage>, InvalidList> {
    let mut items = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words: Vec<_> = line.split_whitespace().take_while(|word| !word.starts_with('#')).collect();
        match words.as_slice() {
            [] => {}
            [image] => items.push(item(None, image)?),
            [source, image] => items.push(item(Some((*source).to_owned()), image)?),
            _ => return Err(InvalidList::Line(index + 1)),
        }
    }
    Ok(items)
}

fn parse_json(text: &str) -> Result<Vec<RequiredImage>, InvalidList> {
    match serde_json::from_str(text).map_err(|error| InvalidList::Json(error.to_string()))? {
        Json::List(entries) => entries.into_iter().map(|entry| item(entry.source, &entry.image)).collect(),
        Json::Modules(modules) => {
            let images = modules.iter().flat_map(|(module, images)| {
                images.iter().map(move |(image, digest)| item(Some(module_label(module, image)), digest))
            });
            images.collect()
        }
    }
}

/// An image of whatever registry: its own repository doesn't count, the one it is looked for in takes its place. One
/// that begins with a slash is a path below that.
fn item(source: Option<String>, image: &str) -> Result<RequiredImage, InvalidList> {
    let wrong = || InvalidList::Image(image.to_owned());
    let (path, reference) = match image.split_once('@') {
        Some((path, digest)) => (path, digest),
        None if image.parse::<Digest>().is_ok() => ("", image),
        None => {
            let at = image.rfind(':').filter(|at| !image[*at..].contains('/')).ok_or_else(wrong)?;
            (&image[..at], &image[at + 1..])
        }
    };
    let reference = reference.parse().map_err(|_| wrong())?;
    // A tag in front of a digest says nothing.
    let child = path.strip_prefix('/').unwrap_or_default();
    let child = child.split(':').next().unwrap_or_default();
    if !child.is_empty() && child.parse::<RepoName>().is_err() {
        return Err(wrong());
    }
    let source = source.unwrap_or_else(|| image.to_owned());
    Ok(RequiredImage { source, child: child.to_owned(), reference, expected: None })
}
