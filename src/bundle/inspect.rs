//! What a bundle holds, by its headers, indexes and manifests: seconds, however large it is.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::contents::Bundle;
use super::files::Form;
use super::finding::{BundleError, Finding, plain};
use super::reach::{Reach, reach};
use super::version::Channel;

/// What a bundle holds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// Whether no damage was found.
    pub whole: bool,
    /// Deckhouse itself: the releases in the root, and its channels.
    pub platform: Component,
    /// Tags of the installer's image.
    pub installer: Vec<String>,
    /// Databases of the scanner, as `trivy-db:2`.
    pub security: Vec<String>,
    /// Modules.
    pub modules: Vec<Component>,
    /// Packages.
    pub packages: Vec<Component>,
    /// Plugins of the command line.
    pub plugins: Vec<Component>,
    /// Repositories that are none of these, with their tags.
    pub others: BTreeMap<String, u64>,
    /// The files.
    pub archives: Vec<ArchiveShown>,
    /// Bytes of all files.
    pub bytes: u64,
    /// Tags, which are images of repositories.
    pub tags: u64,
    /// Manifests that tags reach, each once.
    pub images: u64,
    /// Contents that tags reach, each once.
    pub contents: u64,
    /// Bytes of these.
    pub content_bytes: u64,
    /// Bytes that were read for this.
    pub read_bytes: u64,
    /// What is wrong, or of note.
    pub findings: Vec<Finding>,
    /// How many more of these there are.
    pub more_findings: u64,
    /// How many of all are damage.
    pub damage: u64,
}

/// A module, package or plugin; or Deckhouse.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// Its name; empty: Deckhouse.
    pub name: String,
    /// Releases, oldest first.
    pub versions: Vec<String>,
    /// Channels.
    pub channels: Vec<Channel>,
    /// Other images that it brings, as `name:tag`.
    pub extra: Vec<String>,
}

/// An archive, and what of it nothing reaches.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveShown {
    /// Its name, without the numbers of chunks.
    pub name: String,
    form: Form,
    /// Files.
    pub files: usize,
    /// Bytes of these.
    pub bytes: u64,
    /// Contents in it.
    pub contents: u64,
    /// GOST sums beside its files; a verification compares them.
    pub sums: usize,
    /// Whether it was read to its end.
    pub whole: bool,
    /// Contents that no tag reaches.
    pub unreached: u64,
    /// Bytes of these.
    pub unreached_bytes: u64,
}

impl Bundle {
    /// What it holds. Blocking: reads manifests and small images of channels.
    ///
    /// # Errors
    /// [`BundleError::TooMuch`].
    pub fn inspect(&self) -> Result<Inspection, BundleError> {
        let reached = reach(self, &HashSet::new())?;
        let mut findings = self.findings.clone();
        findings.append(&reached.findings);
        let mut said = Inspection {
            whole: findings.damage == 0,
            platform: Component::default(),
            installer: Vec::new(),
            security: Vec::new(),
            modules: Vec::new(),
            packages: Vec::new(),
            plugins: Vec::new(),
            others: BTreeMap::new(),
            archives: self.archives_shown(&reached),
            bytes: self.bytes(),
            tags: reached.tags,
            images: reached.images,
            contents: reached.contents,
            content_bytes: reached.bytes,
            read_bytes: 0,
            more_findings: findings.more(),
            damage: findings.damage,
            findings: findings.named,
        };
        for path in self.repositories() {
            self.show(path, &mut said);
        }
        said.read_bytes = self.bytes_read();
        Ok(said)
    }

    fn archives_shown(&self, reached: &Reach) -> Vec<ArchiveShown> {
        let shown = (0_u32..).zip(&self.archives).map(|(number, archive)| {
            let (unreached, unreached_bytes) = reached.unreached.get(&number).copied().unwrap_or_default();
            ArchiveShown {
                name: plain(&archive.stream.name),
                form: archive.form,
                files: archive.stream.parts().len() + archive.loose.len(),
                bytes: archive.bytes(),
                contents: archive.contents,
                sums: archive.sums.len(),
                whole: archive.is_whole,
                unreached,
                unreached_bytes,
            }
        });
        shown.collect()
    }

    fn show(&self, path: &str, said: &mut Inspection) {
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            [""] => said.platform.versions = self.versions(path),
            ["release-channel"] => said.platform.channels = self.channels(path),
            ["install" | "install-standalone"] => {}
            ["installer"] => said.installer = self.tags(path).map(|(tag, _)| tag.to_owned()).collect(),
            ["security", name] => said.security.extend(self.tags(path).map(|(tag, _)| format!("{name}:{tag}"))),
            ["modules", name] => component(&mut said.modules, name).versions = self.versions(path),
            ["modules", name, "release"] => component(&mut said.modules, name).channels = self.channels(path),
            ["packages", name] => component(&mut said.packages, name).versions = self.versions(path),
            ["packages", name, "version"] => component(&mut said.packages, name).channels = self.channels(path),
            ["modules" | "packages", name, "extra", extra] => {
                let of = if parts[0] == "modules" { &mut said.modules } else { &mut said.packages };
                component(of, name).extra.extend(self.tags(path).map(|(tag, _)| format!("{extra}:{tag}")));
            }
            ["deckhouse-cli", "plugins", name] => component(&mut said.plugins, name).versions = self.versions(path),
            _ => {
                let tags = self.tags(path).count() as u64;
                // Empty layouts are rubbish of the packer.
                if tags > 0 {
                    said.others.insert(path.to_owned(), tags);
                }
            }
        }
    }
}

fn component<'a>(components: &'a mut Vec<Component>, name: &str) -> &'a mut Component {
    let index = components.iter().position(|component| component.name == name).unwrap_or_else(|| {
        components.push(Component { name: name.to_owned(), ..Component::default() });
        components.len() - 1
    });
    &mut components[index]
}
