//! Plugins of the command line, each an index over platforms, taken whole: those whose contract names a module that is taken, the
//! plugins that these need, and those that are named.
//!
//! A contract is JSON in an annotation. What a cluster alone can tell (its Kubernetes, modules that must not be there) is looked at
//! when a plugin is installed, and not here, as by `d8`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::constraint::{Constraint, Range, Wanted};
use super::databases::beside;
use super::error::PullError;
use super::gathering::Gathering;
use super::image;
use super::plan::{Origin, Place};
use super::source::Source;
use crate::bundle::version::MOST_MANIFEST;
use crate::oci::{Manifest, Reference, Tag};
use crate::telemetry::UpstreamCause;
use crate::values::Release;

/// The repository above them.
const PARENT: &str = "deckhouse-cli/plugins";
/// The annotation of an index, or of its first image, that has the contract.
const CONTRACT: &str = "contract";
/// Commands of `d8` itself, which plugins may need by name.
const BUILT_IN: [&str; 2] = ["delivery-kit", "package"];
/// Plugins that need one another in a row.
const DEEPEST: usize = 16;

/// What is in the bundle that a contract can speak of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carried<'a> {
    /// Modules, each with its versions.
    pub(super) modules: &'a BTreeMap<String, BTreeSet<Release>>,
    /// Releases of the platform; empty: it is not in the bundle, and nothing is said of it.
    pub(super) platform: &'a BTreeSet<Release>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Contract {
    requirements: Requirements,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Requirements {
    deckhouse: Bounds,
    modules: Needed,
    plugins: Needed,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Bounds {
    constraint: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Needed {
    mandatory: Vec<Requirement>,
    any_of: Vec<Group>,
}

#[derive(Clone, Debug, Deserialize)]
struct Group {
    #[serde(default)]
    modules: Vec<Requirement>,
}

#[derive(Clone, Debug, Deserialize)]
struct Requirement {
    name: String,
    #[serde(default)]
    constraint: String,
}

impl Contract {
    /// The contract in an image; `None`: it can't be read. One without a contract asks for nothing.
    fn of(image: &image::Image) -> Option<Self> {
        // The image's own manifest, then the first one that it names.
        let first = image.manifests.iter().take(if image.is_index { 2 } else { 1 });
        let mut annotated =
            first.filter_map(|(_, bytes)| Manifest::parse(None, bytes).ok()?.annotations.remove(CONTRACT));
        let Some(text) = annotated.find(|text| !text.is_empty()) else { return Some(Self::default()) };
        let json = STANDARD.decode(text.trim()).ok().filter(|json| json.len() as u64 <= MOST_MANIFEST)?;
        serde_json::from_slice(&json).ok()
    }

    /// The bounds that it names for a module without which it is of no use.
    fn of_module(&self, name: &str) -> Option<&str> {
        let modules = &self.requirements.modules;
        let mut all = modules.mandatory.iter().chain(modules.any_of.iter().flat_map(|group| &group.modules));
        all.find(|needed| needed.name == name).map(|needed| needed.constraint.as_str())
    }

    /// Why it does not fit to what is carried beside the module of this name; `None`: it fits.
    fn refused_by(&self, carried: Carried<'_>, paired: &str) -> Option<String> {
        let there = |needed: &Requirement| {
            carried.modules.get(&needed.name).is_some_and(|versions| is_any_within(versions, &needed.constraint))
        };
        let Requirements { deckhouse, modules, .. } = &self.requirements;
        if let Some(needed) = modules.mandatory.iter().find(|needed| needed.name != paired && !there(needed)) {
            return Some(format!("it needs module {} {}, which is not taken", needed.name, needed.constraint));
        }
        if modules.any_of.iter().any(|group| !group.modules.iter().any(there)) {
            return Some("none of the modules is taken of which it needs one".to_owned());
        }
        if !carried.platform.is_empty() && !is_any_within(carried.platform, &deckhouse.constraint) {
            return Some(format!("it needs Deckhouse {}, which is not taken", deckhouse.constraint));
        }
        None
    }
}

/// Whether one of the versions is within bounds; without bounds each is, and within bounds that can't be read none.
fn is_any_within(versions: &BTreeSet<Release>, bounds: &str) -> bool {
    versions.iter().any(|version| is_within(version, bounds))
}

fn is_within(version: &Release, bounds: &str) -> bool {
    bounds.trim().is_empty() || Range::plain(bounds).is_ok_and(|range| range.has(&plain(version)))
}

/// Without the mark of a build: `v1.2.3-main` is 1.2.3, `v1.2.3-rc.1` is not.
fn plain(version: &Release) -> Release {
    if is_candidate(version) {
        return version.clone();
    }
    let [major, minor, patch] = version.numbers();
    format!("v{major}.{minor}.{patch}").parse().unwrap_or_else(|_| version.clone())
}

fn is_candidate(version: &Release) -> bool {
    const MARKS: [&str; 5] = ["alpha", "beta", "rc", "pre", "snapshot"];
    version
        .candidate()
        .is_some_and(|candidate| MARKS.iter().any(|mark| candidate.to_ascii_lowercase().starts_with(mark)))
}

/// Plans plugins.
///
/// # Errors
/// [`PullError`]; one that is named and is not there is one.
pub(super) fn plan(
    gathering: &mut Gathering<'_>,
    source: &Arc<Source>,
    named: &[Wanted],
    carried: Carried<'_>,
) -> Result<(), PullError> {
    let mut choosing = Choosing {
        source,
        parent: beside(source, PARENT),
        carried,
        contracts: BTreeMap::new(),
        chosen: BTreeMap::new(),
    };
    if !carried.modules.is_empty() {
        for name in catalog(gathering, source, &choosing.parent)? {
            if let Some(why) = choosing.of_modules(name.as_str())? {
                gathering.note(format!("plugin {name}: {why}"));
            }
        }
    }
    for Wanted { name, constraint } in named {
        choosing.named(name, constraint.as_ref())?;
    }
    for (name, tags) in choosing.chosen {
        let (archive, path) = (format!("plugin-{name}.tar"), format!("{PARENT}/{name}"));
        let origin = Origin::new(source, &format!("{}/{name}", choosing.parent));
        for tag in tags {
            gathering.require(Place { archive: &archive, path: &path }, &origin, &Reference::Tag(tag))?;
        }
    }
    Ok(())
}

/// The plugins that a registry lists. It lies beside the edition, and is no matter of every licence: a refusal is a note.
fn catalog(gathering: &mut Gathering<'_>, source: &Source, parent: &str) -> Result<Vec<Tag>, PullError> {
    match source.tags(parent) {
        Ok(names) => Ok(names.unwrap_or_default()),
        Err(PullError::Registry { error, .. })
            if matches!(error.cause(), UpstreamCause::Unauthorized | UpstreamCause::Forbidden) =>
        {
            let repository = source.repository(parent);
            gathering.note(format!("{repository} is refused to this login: no plugin is taken that is not named"));
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

struct Choosing<'a> {
    source: &'a Arc<Source>,
    parent: String,
    carried: Carried<'a>,
    /// By plugin and tag; `None`: it can't be read.
    contracts: BTreeMap<(String, Tag), Option<Contract>>,
    chosen: BTreeMap<String, BTreeSet<Tag>>,
}

impl Choosing<'_> {
    fn repository(&self, name: &str) -> String {
        format!("{}/{name}", self.parent)
    }

    /// The versions of a plugin without candidates, the newest first.
    fn versions(&self, name: &str) -> Result<Vec<Release>, PullError> {
        if name.contains('/') || name.parse::<crate::oci::RepoName>().is_err() {
            return Ok(Vec::new());
        }
        let tags = self.source.tags(&self.repository(name))?.unwrap_or_default();
        let found: BTreeSet<Release> =
            tags.iter().filter_map(Release::of_tag).filter(|one| !is_candidate(one)).collect();
        Ok(found.into_iter().rev().collect())
    }

    fn contract(&mut self, name: &str, tag: &Tag) -> Result<Option<Contract>, PullError> {
        let key = (name.to_owned(), tag.clone());
        if let Some(known) = self.contracts.get(&key) {
            return Ok(known.clone());
        }
        let (child, reference) = (self.repository(name), Reference::Tag(tag.clone()));
        let image = image::fetch(self.source, &child, &reference)?;
        let image = image.ok_or_else(|| PullError::Absent(self.source.image(&child, &reference)))?;
        let contract = Contract::of(&image);
        self.contracts.insert(key, contract.clone());
        Ok(contract)
    }

    /// Chooses a plugin for each version of each module that its newest contract names; why it is not chosen although it names one.
    fn of_modules(&mut self, name: &str) -> Result<Option<String>, PullError> {
        let versions = self.versions(name)?;
        let mut newest = None;
        for version in &versions {
            newest = self.contract(name, version.tag())?;
            if newest.is_some() {
                break;
            }
        }
        let Some(newest) = newest else { return Ok(None) };
        let carried = self.carried;
        let mut why = None;
        for (module, module_versions) in carried.modules.iter().filter(|(module, _)| newest.of_module(module).is_some())
        {
            for module_version in module_versions {
                why = self.for_module(name, &versions, module, module_version)?.or(why);
            }
        }
        Ok(why)
    }

    /// The newest version that fits a version of a module; why there is none.
    fn for_module(
        &mut self,
        name: &str,
        versions: &[Release],
        module: &str,
        module_version: &Release,
    ) -> Result<Option<String>, PullError> {
        let mut first = None;
        for version in versions {
            let Some(contract) = self.contract(name, version.tag())? else { continue };
            let mut refused = match contract.of_module(module) {
                None => Some(format!("it is not for module {module}")),
                Some(bounds) if !is_within(module_version, bounds) => {
                    Some(format!("it needs module {module} {bounds}"))
                }
                Some(_) => contract.refused_by(self.carried, module),
            };
            if refused.is_none() {
                refused = self.choose(name, version.tag(), &contract, 0)?;
            }
            let Some(refused) = refused else { return Ok(None) };
            first.get_or_insert(format!("none for module {module} {module_version}: of {version}, {refused}"));
        }
        Ok(first)
    }

    /// Chooses what a plugin needs, and it; why that can't be.
    fn choose(
        &mut self,
        name: &str,
        tag: &Tag,
        contract: &Contract,
        depth: usize,
    ) -> Result<Option<String>, PullError> {
        if depth > DEEPEST {
            return Ok(Some("too many plugins need one another".to_owned()));
        }
        let before = self.chosen.clone();
        self.chosen.entry(name.to_owned()).or_default().insert(tag.clone());
        for needed in &contract.requirements.plugins.mandatory {
            if BUILT_IN.contains(&needed.name.as_str()) {
                continue;
            }
            let mut there = self.chosen.get(&needed.name).into_iter().flatten().filter_map(Release::of_tag);
            if there.any(|version| is_within(&version, &needed.constraint)) {
                continue;
            }
            let mut found = false;
            for version in self.versions(&needed.name)? {
                if !is_within(&version, &needed.constraint) {
                    continue;
                }
                let Some(own) = self.contract(&needed.name, version.tag())? else { continue };
                if own.refused_by(self.carried, "").is_none()
                    && self.choose(&needed.name, version.tag(), &own, depth + 1)?.is_none()
                {
                    found = true;
                    break;
                }
            }
            if !found {
                self.chosen = before;
                return Ok(Some(format!("it needs plugin {} {}, which is not there", needed.name, needed.constraint)));
            }
        }
        Ok(None)
    }

    /// Chooses a plugin that was named: the newest version within its constraint, or that tag.
    fn named(&mut self, name: &str, constraint: Option<&Constraint>) -> Result<(), PullError> {
        let tags: Vec<Tag> = match constraint {
            Some(Constraint::Exact(tag, _)) => vec![tag.clone()],
            Some(Constraint::Range(range)) => {
                self.versions(name)?.iter().filter(|one| range.has(one)).map(|one| one.tag().clone()).collect()
            }
            None => self.versions(name)?.iter().map(|one| one.tag().clone()).collect(),
        };
        let mut why = "none of its versions is wanted".to_owned();
        for tag in tags {
            let Some(contract) = self.contract(name, &tag)? else {
                why = format!("the contract of {tag} can't be read");
                continue;
            };
            match self.choose(name, &tag, &contract, 0)? {
                None => return Ok(()),
                Some(refused) => why = format!("of {tag}, {refused}"),
            }
        }
        Err(PullError::Absent(format!("{} as it is wanted: {why}", self.source.repository(&self.repository(name)))))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn releases(texts: &[&str]) -> BTreeSet<Release> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_contract_speaks_of_modules_and_of_deckhouse() {
        let contract: Contract = serde_json::from_value(json!({
            "name": "x",
            "requirements": {
                "kubernetes": { "constraint": ">=1.27" },
                "deckhouse": { "constraint": ">=1.70" },
                "modules": {
                    "mandatory": [{ "name": "a", "constraint": ">=1.0" }],
                    "conditional": [{ "name": "z", "constraint": ">=9" }],
                    "anyOf": [{ "name": "one", "modules": [{ "name": "b" }, { "name": "c", "constraint": "~2.1" }] }],
                },
            },
        }))
        .unwrap();
        let refused = |modules: &[(&str, &[&str])], platform: &[&str]| {
            let modules = modules.iter().map(|(name, versions)| ((*name).to_owned(), releases(versions))).collect();
            let platform = releases(platform);
            contract.refused_by(Carried { modules: &modules, platform: &platform }, "")
        };
        assert_eq!(refused(&[("a", &["v1.2.0"]), ("c", &["v2.1.5"])], &[]), None);
        assert_eq!(refused(&[("a", &["v1.2.0-main"]), ("b", &["v0.1.0"])], &["v1.69.0", "v1.70.1"]), None);
        assert!(refused(&[("a", &["v0.9.0"]), ("b", &["v0.1.0"])], &[]).unwrap().contains("module a"));
        assert!(refused(&[("a", &["v1.2.0"]), ("c", &["v2.2.0"])], &[]).unwrap().contains("one"));
        assert!(refused(&[("a", &["v1.2.0"]), ("b", &["v0.1.0"])], &["v1.69.0"]).unwrap().contains("Deckhouse"));
        assert_eq!((contract.of_module("c"), contract.of_module("z")), (Some("~2.1"), None));
        assert!(
            !is_within(&"v1.30.0-rc.1".parse().unwrap(), ">= 1.30") && !is_within(&"v1.0.0".parse().unwrap(), "what")
        );
    }
}
