//! The platform: which releases, and all images that each of them needs, as its install image lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::choice::{Choice, Platform};
use super::constraint::last_patches;
use super::error::PullError;
use super::gathering::Gathering;
use super::image::{self, Image};
use super::plan::{Origin, Place};
use super::source::Source;
use crate::bundle::version::CHANNELS;
use crate::bundle::{VERSION, is_channel};
use crate::oci::{Reference, Tag};
use crate::release::{ListFile, ReleaseList};
use crate::values::Release;

/// The archive.
const ARCHIVE: &str = "platform.tar";
/// The repository of channels and releases.
const CHANNELS_AT: &str = "release-channel";
/// The file with the changes of a release.
const CHANGES: &str = "changelog.yaml";
/// The channel whose release is the oldest that is wanted.
const ROCK_SOLID: &str = "rock-solid";
/// The channel whose release is the newest.
const ALPHA: &str = "alpha";
/// With it, others may be missing.
const LTS: &str = "lts";

/// What was chosen.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// In their order.
    pub(super) releases: Vec<Told>,
    /// Which release each channel leads to.
    pub(super) channels: BTreeMap<String, String>,
}

/// What a release says of itself.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) tag: Tag,
    /// `version.json` and `changelog.yaml`; `None`: there is no image of it in `release-channel`.
    pub(super) files: Option<(Vec<u8>, Vec<u8>)>,
}

/// A channel.
struct Channel {
    release: Release,
    is_suspended: bool,
    image: Image,
}

#[derive(Deserialize)]
struct VersionFile {
    version: String,
    #[serde(default)]
    suspend: Value,
}

/// Plans the releases that are wanted.
///
/// # Errors
/// [`PullError`].
pub(super) fn plan(
    gathering: &mut Gathering<'_>,
    source: &Arc<Source>,
    choice: &Choice,
    wanted: &Platform,
) -> Result<Chosen, PullError> {
    let at = Origin::new(source, CHANNELS_AT);
    let found = channels(gathering, &at)?;
    let (releases, channels) = match wanted {
        Platform::One(tag) => {
            let leading = found.iter().filter(|(_, channel)| channel.release.tag() == tag);
            refuse_suspended(leading, choice)?;
            let mut chosen =
                Chosen { releases: vec![release(gathering, source, choice, tag, false)?], ..Chosen::default() };
            chosen.channels = point_all_at(gathering, &at, tag)?;
            return Ok(chosen);
        }
        Platform::OfChannels(names) => {
            if let Some(name) = names.iter().find(|name| !found.contains_key(name.as_str())) {
                return Err(PullError::Absent(format!("{}:{name}", source.repository(CHANNELS_AT))));
            }
            let channels: BTreeMap<&str, &Channel> = found
                .iter()
                .filter(|(name, _)| names.contains(**name))
                .map(|(name, channel)| (*name, channel))
                .collect();
            let releases = channels.values().map(|channel| channel.release.clone()).collect();
            (releases, channels)
        }
        Platform::Channels(from) => window(&at, &found, from.as_ref())?,
        Platform::Range(range) => {
            let there = listed(&at)?;
            let releases = range.choose(&there);
            let leading = found.iter().filter(|(_, channel)| range.has(&channel.release));
            let channels: BTreeMap<&str, &Channel> = leading.map(|(name, channel)| (*name, channel)).collect();
            let of_channels = channels.values().map(|channel| channel.release.clone());
            (releases.into_iter().chain(of_channels).collect(), channels)
        }
    };
    if releases.is_empty() {
        return Err(PullError::Choice(format!("{} has no release that is wanted", source.repository(CHANNELS_AT))));
    }
    refuse_suspended(channels.iter().map(|(name, channel)| (name, *channel)), choice)?;
    for (name, channel) in &found {
        if !channels.contains_key(name) {
            let release = &channel.release;
            gathering.note(format!("channel {name} leads to {release}, which is not taken: it is left out"));
        }
    }
    let mut chosen = Chosen::default();
    for wanted in &releases {
        chosen.releases.push(release(gathering, source, choice, wanted.tag(), true)?);
    }
    let place = Place { archive: ARCHIVE, path: CHANNELS_AT };
    for (name, channel) in channels {
        let tag: Tag = name.parse().map_err(|_| PullError::Choice(format!("{name} is no tag")))?;
        gathering.plan.alias(place, &at, &tag, &channel.image)?;
        chosen.channels.insert(name.to_owned(), channel.release.to_string());
    }
    Ok(chosen)
}

type Picked<'a> = (BTreeSet<Release>, BTreeMap<&'a str, &'a Channel>);

/// All channels, and what lies between the oldest and the newest of their releases.
fn window<'a>(
    at: &Origin,
    found: &'a BTreeMap<&'static str, Channel>,
    from: Option<&Release>,
) -> Result<Picked<'a>, PullError> {
    // One that has only a long term has no other channel.
    let missing = CHANNELS.into_iter().find(|name| *name != LTS && !found.contains_key(name));
    if let Some(missing) = missing.filter(|_| !found.contains_key(LTS)) {
        return Err(PullError::Absent(format!("{}:{missing}", at.source.repository(&at.child))));
    }
    let oldest = from.or_else(|| found.get(ROCK_SOLID).map(|channel| &channel.release));
    let is_in = |release: &Release| oldest.is_none_or(|oldest| release >= oldest);
    let channels: BTreeMap<&str, &Channel> =
        found.iter().filter(|(_, channel)| is_in(&channel.release)).map(|(name, channel)| (*name, channel)).collect();
    let mut releases: BTreeSet<Release> = channels.values().map(|channel| channel.release.clone()).collect();
    if let (Some(oldest), Some(newest)) = (oldest, found.get(ALPHA).map(|channel| &channel.release)) {
        let there = listed(at)?;
        let between = there.iter().filter(|release| *release >= oldest && *release <= newest);
        releases.extend(last_patches(between.filter(|release| release.candidate().is_none())));
    }
    Ok((releases, channels))
}

/// The releases that a registry lists.
fn listed(at: &Origin) -> Result<Vec<Release>, PullError> {
    let tags = at.source.tags(&at.child)?;
    let tags = tags.ok_or_else(|| PullError::Absent(at.source.repository(&at.child)))?;
    Ok(tags.iter().filter_map(Release::of_tag).collect())
}

fn refuse_suspended<'a>(
    channels: impl Iterator<Item = (&'a &'a str, &'a Channel)>,
    choice: &Choice,
) -> Result<(), PullError> {
    let names: Vec<&str> = channels.filter(|(_, channel)| channel.is_suspended).map(|(name, _)| *name).collect();
    if names.is_empty() || choice.ignore_suspend {
        return Ok(());
    }
    let names = names.join(", ");
    Err(PullError::Choice(format!(
        "the release of {names} is suspended: try later, or take it all the same (--ignore-suspend)"
    )))
}

/// The channels that are there.
fn channels(gathering: &Gathering<'_>, at: &Origin) -> Result<BTreeMap<&'static str, Channel>, PullError> {
    let mut found = BTreeMap::new();
    for name in CHANNELS {
        let Ok(tag) = name.parse() else { continue };
        let reference = Reference::Tag(tag);
        let Some(image) = image::fetch(&at.source, &at.child, &reference)? else { continue };
        let unusable = |why: String| PullError::unusable(at.image(&reference), why);
        let file = gathering.file(at, &reference, &image, &[VERSION])?;
        let (_, json) = file.ok_or_else(|| unusable(format!("it has no {VERSION}")))?;
        let said: VersionFile =
            serde_json::from_slice(&json).map_err(|error| unusable(format!("its {VERSION}: {error}")))?;
        let release = said.version.parse().map_err(|_| unusable(format!("its {VERSION} names no release")))?;
        // Some write it as text.
        let is_suspended = matches!(&said.suspend, Value::Bool(true)) || said.suspend == "true";
        found.insert(name, Channel { release, is_suspended, image });
    }
    Ok(found)
}

/// All channels lead to one release, if there is an image of it that they can lead to.
fn point_all_at(gathering: &mut Gathering<'_>, at: &Origin, tag: &Tag) -> Result<BTreeMap<String, String>, PullError> {
    let place = Place { archive: ARCHIVE, path: CHANNELS_AT };
    let mut channels = BTreeMap::new();
    let reference = Reference::Tag(tag.clone());
    if !gathering.plan.has(place, tag.as_str()) {
        gathering.note(format!("{} is not there: no channel leads to it", at.image(&reference)));
        return Ok(channels);
    }
    let image = gathering.require(place, at, &reference)?;
    for name in CHANNELS.into_iter().filter(|name| *name != LTS) {
        let Ok(channel) = name.parse() else { continue };
        gathering.plan.alias(place, at, &channel, &image)?;
        channels.insert(name.to_owned(), tag.to_string());
    }
    Ok(channels)
}

/// Plans all images of a release.
fn release(
    gathering: &mut Gathering<'_>,
    source: &Arc<Source>,
    choice: &Choice,
    tag: &Tag,
    is_listed: bool,
) -> Result<Told, PullError> {
    if is_channel(tag.as_str()) {
        return Err(PullError::Choice(format!("{tag} is a channel and no release: name it by --channel")));
    }
    let reference = Reference::Tag(tag.clone());
    let (root, install) = (Origin::new(source, ""), Origin::new(source, "install"));
    let at_root = Place { archive: ARCHIVE, path: "" };
    gathering.require(at_root, &root, &reference)?;
    let installer = gathering.require(Place { archive: ARCHIVE, path: "install" }, &install, &reference)?;
    let standalone = Origin::new(source, "install-standalone");
    gathering.take(Place { archive: ARCHIVE, path: "install-standalone" }, &standalone, &reference)?;
    let at = Origin::new(source, CHANNELS_AT);
    let in_channels = Place { archive: ARCHIVE, path: CHANNELS_AT };
    let of_release = match is_listed {
        true => Some(gathering.require(in_channels, &at, &reference)?),
        false => gathering.take(in_channels, &at, &reference)?,
    };
    let paths = ListFile::ALL.map(ListFile::path);
    let name = install.image(&reference);
    let list = gathering.file(&install, &reference, &installer, &paths)?;
    let (which, json) =
        list.ok_or_else(|| PullError::unusable(&name, format!("it has neither {} nor {}", paths[0], paths[1])))?;
    let list = ReleaseList::parse(tag.clone(), ListFile::ALL[which], &json);
    let list = list.map_err(|error| PullError::List { image: name, error })?;
    let mut wanted: Vec<Reference> = list.references().cloned().collect();
    wanted.sort_unstable();
    wanted.dedup();
    // Releases share most of their images.
    wanted.retain(|reference| match reference {
        Reference::Digest(digest) => !gathering.plan.has(at_root, &digest.hex()),
        Reference::Tag(tag) => !gathering.plan.has(at_root, tag.as_str()),
    });
    let absent = gathering.take_all(at_root, &root, &wanted, !choice.without_attestations)?;
    if let Some(absent) = absent.first() {
        return Err(PullError::Absent(root.image(absent)));
    }
    let files = match of_release {
        None => None,
        Some(image) => {
            let read = |gathering: &Gathering<'_>, path: &str| {
                let file = gathering.file(&at, &reference, &image, &[path])?;
                Ok::<_, PullError>(file.map(|(_, content)| content))
            };
            read(gathering, VERSION)?
                .map(|version| Ok::<_, PullError>((version, read(gathering, CHANGES)?)))
                .transpose()?
        }
    };
    Ok(Told { tag: tag.clone(), files: files.map(|(version, changes)| (version, changes.unwrap_or_default())) })
}
