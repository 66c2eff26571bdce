//! Modules and packages: of each the channels with the versions that they lead to, versions within constraints, and all images that
//! a version names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::choice::{Choice, Components};
use super::constraint::{Constraint, Wanted};
use super::error::PullError;
use super::gathering::{Gathering, each};
use super::image::{self, Image};
use super::plan::{Origin, Place};
use super::source::Source;
use crate::bundle::version::CHANNELS;
use crate::bundle::{VERSION, release_of_version};
use crate::oci::{Digest, Reference, RepoName, Tag};
use crate::values::Release;

/// In an image of a version, the file with the digests of its images.
const DIGESTS: &str = "images_digests.json";
/// In an image of a version, the file with the names and tags of images beside it.
const EXTRA: &str = "extra_images.json";

/// Modules, or packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Modules.
    Modules,
    /// Packages.
    Packages,
}

impl Kind {
    /// The repository above them.
    pub(super) const fn parent(self) -> &'static str {
        match self {
            Self::Modules => "modules",
            Self::Packages => "packages",
        }
    }

    /// The repository of a component's channels, below its own.
    const fn channels(self) -> &'static str {
        match self {
            Self::Modules => "release",
            Self::Packages => "version",
        }
    }

    fn archive(self, name: &str) -> String {
        match self {
            Self::Modules => format!("module-{name}.tar"),
            Self::Packages => format!("package-{name}.tar"),
        }
    }
}

/// Where components are at a source.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) source: &'a Arc<Source>,
    /// The repository above them; `""`: the source's own.
    pub(super) parent: &'a str,
    pub(super) kind: Kind,
}

/// A component that is planned.
struct Component<'a> {
    at: At<'a>,
    name: &'a str,
    archive: String,
    /// Its repository in the bundle, and below it that of its channels.
    path: String,
    channels_path: String,
    own: Origin,
    channels: Origin,
    with_attestations: bool,
}

/// A channel: its image, and the version that it leads to.
struct Channel {
    tag: Tag,
    image: Image,
    version: Tag,
}

/// Plans the components that are wanted; which versions of which were taken.
///
/// # Errors
/// [`PullError`].
pub(super) fn plan(
    gathering: &mut Gathering<'_>,
    at: At<'_>,
    wanted: &Components,
    choice: &Choice,
) -> Result<BTreeMap<String, BTreeSet<Release>>, PullError> {
    let with_attestations = !choice.without_attestations;
    let mut all_taken = BTreeMap::new();
    match wanted {
        Components::None => {}
        Components::AllBut(without) => {
            for name in names(gathering, at)?.iter().filter(|name| !without.contains(*name)) {
                let component = Component::new(at, name, with_attestations);
                let taken = component.plan(gathering, &[])?;
                if taken.is_empty() {
                    gathering
                        .note(format!("nothing of {} is there", component.own.source.repository(&component.own.child)));
                }
                all_taken.insert(name.clone(), taken.iter().filter_map(Release::of_tag).collect());
            }
        }
        Components::These(all) => {
            let mut by_name: BTreeMap<&str, Vec<&Constraint>> = BTreeMap::new();
            for Wanted { name, constraint } in all {
                by_name.entry(name).or_default().extend(constraint);
            }
            for (name, constraints) in by_name {
                let component = Component::new(at, name, with_attestations);
                let taken = component.plan(gathering, &constraints)?;
                if taken.is_empty() {
                    return Err(PullError::Absent(component.own.source.repository(&component.own.child)));
                }
                all_taken.insert(name.to_owned(), taken.iter().filter_map(Release::of_tag).collect());
            }
        }
    }
    if at.kind == Kind::Packages && *wanted != Components::None {
        versions_of_all(gathering, at)?;
    }
    Ok(all_taken)
}

/// The names of all components that a source has.
fn names(gathering: &mut Gathering<'_>, at: At<'_>) -> Result<Vec<String>, PullError> {
    let Some(tags) = at.source.tags(at.parent)? else {
        gathering.note(format!("{} is not there", at.source.repository(at.parent)));
        return Ok(Vec::new());
    };
    let (names, others): (Vec<Tag>, Vec<Tag>) =
        tags.into_iter().partition(|tag| tag.as_str().parse::<RepoName>().is_ok() && !tag.as_str().contains('/'));
    for other in others {
        gathering.note(format!("{other} of {} can't be the name of a repository", at.source.repository(at.parent)));
    }
    Ok(names.iter().map(Tag::to_string).collect())
}

/// Every image of the channels' repositories of all packages, in an archive of its own, as `d8` has it whatever else is chosen.
fn versions_of_all(gathering: &mut Gathering<'_>, at: At<'_>) -> Result<(), PullError> {
    for name in names(gathering, at)? {
        let component = Component::new(at, &name, false);
        let Some(tags) = at.source.tags(&component.channels.child)? else { continue };
        let references: Vec<Reference> = tags.into_iter().map(Reference::Tag).collect();
        let place = Place { archive: "package-versions.tar", path: &component.channels_path };
        gathering.take_all(place, &component.channels, &references, false)?;
    }
    Ok(())
}

impl<'a> Component<'a> {
    fn new(at: At<'a>, name: &'a str, with_attestations: bool) -> Self {
        let child = if at.parent.is_empty() { name.to_owned() } else { format!("{}/{name}", at.parent) };
        let path = format!("{}/{name}", at.kind.parent());
        let below = at.kind.channels();
        Self {
            at,
            name,
            archive: at.kind.archive(name),
            channels_path: format!("{path}/{below}"),
            path,
            channels: Origin::new(at.source, &format!("{child}/{below}")),
            own: Origin::new(at.source, &child),
            with_attestations,
        }
    }

    /// Plans it; which of its versions were taken.
    fn plan(&self, gathering: &mut Gathering<'_>, constraints: &[&Constraint]) -> Result<BTreeSet<Tag>, PullError> {
        let is_pinned = |constraint: &&&Constraint| matches!(constraint, Constraint::Exact(..));
        let pinned: Vec<&&Constraint> = constraints.iter().filter(is_pinned).collect();
        let only_pinned = !constraints.is_empty() && pinned.len() == constraints.len();
        let channels = if only_pinned { Vec::new() } else { self.channels(gathering)? };
        let mut versions: BTreeSet<Tag> = channels.iter().map(|channel| channel.version.clone()).collect();
        if pinned.len() < constraints.len() {
            let there: Vec<Release> =
                self.at.source.tags(&self.own.child)?.iter().flatten().filter_map(Release::of_tag).collect();
            for constraint in constraints {
                if let Constraint::Range(range) = constraint {
                    versions.extend(range.choose(&there).iter().map(|release| release.tag().clone()));
                }
            }
        }
        let mut taken = BTreeSet::new();
        for version in &versions {
            if self.version(gathering, version)? {
                taken.insert(version.clone());
            } else {
                gathering.note(format!("{} is not there", self.own.image(&Reference::Tag(version.clone()))));
            }
        }
        for constraint in &pinned {
            let Constraint::Exact(tag, _) = constraint else { continue };
            if !self.version(gathering, tag)? {
                return Err(PullError::Absent(self.own.image(&Reference::Tag(tag.clone()))));
            }
            taken.insert(tag.clone());
        }
        let place = Place { archive: &self.archive, path: &self.channels_path };
        for Channel { tag, image, version } in &channels {
            if taken.contains(version) {
                gathering.plan.alias(place, &self.channels, tag, image)?;
            } else {
                gathering.note(format!(
                    "channel {tag} of {} leads to {version}, which is not there: it is left out",
                    self.name
                ));
            }
        }
        if only_pinned {
            self.point_channels_at(gathering, &pinned)?;
        }
        Ok(taken)
    }

    /// The channels that are there.
    fn channels(&self, gathering: &Gathering<'_>) -> Result<Vec<Channel>, PullError> {
        let at = &self.channels;
        let tags: Vec<Tag> = CHANNELS.iter().filter_map(|name| name.parse().ok()).collect();
        let images = each(&tags, |tag| image::fetch(&at.source, &at.child, &Reference::Tag(tag.clone())))?;
        let mut found = Vec::new();
        for (tag, image) in tags.into_iter().zip(images) {
            let Some(image) = image else { continue };
            let reference = Reference::Tag(tag.clone());
            let file = gathering.file(at, &reference, &image, &[VERSION])?;
            let release = file.and_then(|(_, json)| release_of_version(&json));
            let unusable = || PullError::unusable(at.image(&reference), format!("its {VERSION} names no version"));
            let version = release.ok_or_else(unusable)?.tag().clone();
            found.push(Channel { tag, image, version });
        }
        Ok(found)
    }

    /// Plans a version with all that it names; `false`: it is not there.
    fn version(&self, gathering: &mut Gathering<'_>, version: &Tag) -> Result<bool, PullError> {
        let reference = Reference::Tag(version.clone());
        let place = Place { archive: &self.archive, path: &self.path };
        let Some(image) = image::fetch(&self.own.source, &self.own.child, &reference)? else { return Ok(false) };
        gathering.take_all(place, &self.own, std::slice::from_ref(&reference), self.with_attestations)?;
        let in_channels = Place { archive: &self.archive, path: &self.channels_path };
        gathering.take(in_channels, &self.channels, &reference)?;
        let own: Vec<Reference> = match gathering.file(&self.own, &reference, &image, &[DIGESTS])? {
            Some((_, content)) => digests(&content).into_iter().map(Reference::Digest).collect(),
            None => Vec::new(),
        };
        for absent in gathering.take_all(place, &self.own, &own, self.with_attestations)? {
            gathering.note(format!("{} is not there", self.own.image(&absent)));
        }
        let extra = match gathering.file(&self.own, &reference, &image, &[EXTRA])? {
            Some((_, content)) => extra_images(&content)
                .map_err(|why| PullError::unusable(self.own.image(&reference), format!("its {EXTRA}: {why}")))?,
            None => Vec::new(),
        };
        for (name, tag) in extra {
            let origin = Origin::new(self.at.source, &format!("{}/extra/{name}", self.own.child));
            let path = format!("{}/extra/{name}", self.path);
            let place = Place { archive: &self.archive, path: &path };
            for absent in gathering.take_all(place, &origin, &[Reference::Tag(tag)], self.with_attestations)? {
                gathering.note(format!("{} is not there", origin.image(&absent)));
            }
        }
        Ok(true)
    }

    /// Channels that lead to pinned tags: the one that is named with a tag, or all if there is one tag without.
    fn point_channels_at(&self, gathering: &mut Gathering<'_>, pinned: &[&&Constraint]) -> Result<(), PullError> {
        let place = Place { archive: &self.archive, path: &self.channels_path };
        for constraint in pinned {
            let Constraint::Exact(tag, channel) = constraint else { continue };
            let channels: Vec<&str> = match channel {
                Some(channel) => vec![channel],
                None if pinned.len() == 1 => CHANNELS.to_vec(),
                None => Vec::new(),
            };
            let reference = Reference::Tag(tag.clone());
            if channels.is_empty() || !gathering.plan.has(place, tag.as_str()) {
                continue;
            }
            let image = gathering.require(place, &self.channels, &reference)?;
            for channel in channels.iter().filter_map(|channel| channel.parse().ok()) {
                gathering.plan.alias(place, &self.channels, &channel, &image)?;
            }
        }
        Ok(())
    }
}

/// All digests that stand in a file, as `d8` finds them: whatever form it has.
fn digests(content: &[u8]) -> Vec<Digest> {
    const MARK: &str = "sha256:";
    let text = String::from_utf8_lossy(content);
    let found: BTreeSet<Digest> =
        text.match_indices(MARK).filter_map(|(at, _)| text.get(at..at + MARK.len() + 64)?.parse().ok()).collect();
    found.into_iter().collect()
}

/// Names with their tags, which are texts or numbers; of one with another kind of value nothing is taken, as by `d8`.
fn extra_images(content: &[u8]) -> Result<Vec<(String, Tag)>, String> {
    let read: BTreeMap<String, Value> = serde_json::from_slice(content).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for (name, value) in read {
        let tag = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => continue,
        };
        let shown: String = name.chars().take(100).collect();
        // It becomes a part of a repository's name.
        if name.contains('/') || format!("extra/{name}").parse::<RepoName>().is_err() {
            return Err(format!("{shown:?} can't be the name of a repository"));
        }
        let tag = tag.parse().map_err(|_| format!("what {shown:?} leads to is no tag"))?;
        found.push((name, tag));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found_whatever_stands_around_them() {
        let (one, other) = (format!("sha256:{}", "a".repeat(64)), format!("sha256:{}", "b".repeat(64)));
        let text = format!(
            "{{\"x\": [\"{other}\", {{\"y\": \"{one}\"}}], \"z\": \"sha256:abc\", \"w\": \"{one}\"}} sha256:\u{e9}"
        );
        assert_eq!(digests(text.as_bytes()).iter().map(ToString::to_string).collect::<Vec<_>>(), [one, other]);
    }

    #[test]
    fn extra_images_have_names_of_repositories() {
        let found = extra_images(br#"{"scanner": 7, "enforcer": "v1.2", "odd": null}"#).unwrap();
        assert_eq!(
            found,
            [("enforcer".to_owned(), "v1.2".parse().unwrap()), ("scanner".to_owned(), "7".parse().unwrap())]
        );
        for wrong in [r#"{"../x": 1}"#, r#"{"a/b": 1}"#, r#"{"a": "x/y"}"#, r#"{"A": 1}"#, "[]", r#"{"a": 1.5e400}"#] {
            assert!(extra_images(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
