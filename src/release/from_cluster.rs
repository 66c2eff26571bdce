//! The images that a running cluster needs, from what its API server has and the list of its release, by the rules and in the
//! words of Deckhouse's own checker. Pure.
//!
//! Deckhouse keeps the digests of its modules' images in values that nobody else can read. The install image of the release
//! that runs has the same in a file, so they are taken from there.

use std::collections::BTreeMap;

use super::lists::{ReleaseList, once_each};
use super::required::{DECKHOUSE, RequiredImage, module_label};
use crate::oci::{Digest, Reference, RepoName, Tag};

/// The value of a Module's `properties.source` that says that it is a part of Deckhouse.
const EMBEDDED: &str = "Embedded";
/// The container that runs Deckhouse itself.
const CONTAINER: &str = "deckhouse";

/// An object of kind Module (`deckhouse.io/v1alpha1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterModule {
    /// Its name.
    pub name: String,
    /// `properties.source`.
    pub source: String,
    /// `properties.critical`; false where it is absent.
    pub critical: bool,
}

/// A container of a Pod template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterContainer {
    /// Its name.
    pub name: String,
    /// Its image as written.
    pub image: String,
}

/// What the API server has about the Deckhouse that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningRelease {
    /// The repository in force, `host[:port]/path`: `address` and `path` of the Secret `deckhouse-registry`.
    pub base: String,
    /// All Modules.
    pub modules: Vec<ClusterModule>,
    /// The annotation `core.deckhouse.io/version` of the Deployment `d8-system/deckhouse`.
    pub version: Option<String>,
    /// Its init containers.
    pub init_containers: Vec<ClusterContainer>,
    /// Its containers.
    pub containers: Vec<ClusterContainer>,
}

/// Why there is no list. The words of the first five are those of Deckhouse's checker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterListError {
    /// No Module is embedded and critical.
    #[error("modules snapshot contains no entries")]
    NoModules,
    /// No module that counts has an image in the list of the release.
    #[error("modules has no images")]
    NoImages,
    /// The Deployment has no such container.
    #[error("deckhouse image not found")]
    NoDeckhouse,
    /// Relax checks a tag.
    #[error("image reference {0:?} must be a tag")]
    NotTag(String),
    /// Neither tag nor digest, or no name of a repository.
    #[error("cannot parse image reference {0:?}")]
    Image(String),
    /// Neither annotation nor tag says which release runs.
    #[error(
        "the Deployment deckhouse says no release: it has no annotation core.deckhouse.io/version like v1.70.1, and the image \
         {0:?} has no tag in the registry in force"
    )]
    NoRelease(String),
}

impl RunningRelease {
    /// The tag of the release that runs, under which its install image is in the registry.
    ///
    /// # Errors
    /// [`ClusterListError`].
    pub fn tag(&self) -> Result<Tag, ClusterListError> {
        let version = self.version.as_deref().filter(|version| is_version(version));
        if let Some(tag) = version.and_then(|version| version.parse().ok()) {
            return Ok(tag);
        }
        let image = &self.deckhouse()?.image;
        match self.below_base(image)? {
            Some((child, Reference::Tag(tag))) if child.is_empty() => Ok(tag),
            _ => Err(ClusterListError::NoRelease(image.clone())),
        }
    }

    /// Everything that the cluster needs: the images of embedded, critical modules, of which `list` has all that the release
    /// knows, and those of the Deployment. An image of the Deployment in another repository was overridden by somebody and is
    /// passed over. Each once under the label that sorts first, so the Deployment's comes before a module's; sorted by tag or
    /// digest.
    ///
    /// # Errors
    /// [`ClusterListError`].
    pub fn required(&self, list: &ReleaseList) -> Result<Vec<RequiredImage>, ClusterListError> {
        let wanted: BTreeMap<String, &str> = self
            .modules
            .iter()
            .filter(|module| module.source == EMBEDDED && module.critical)
            .map(|module| (plain(&module.name), module.name.as_str()))
            .collect();
        if wanted.is_empty() {
            return Err(ClusterListError::NoModules);
        }
        let of_modules = list.modules.iter().filter_map(|image| Some((wanted.get(&plain(&image.module))?, image)));
        let of_modules = of_modules.map(|(module, image)| RequiredImage {
            source: module_label(module, &image.image),
            child: String::new(),
            reference: image.reference.clone(),
            expected: None,
        });
        let mut images: Vec<RequiredImage> = of_modules.collect();
        if images.is_empty() {
            return Err(ClusterListError::NoImages);
        }
        images.extend(self.own()?);
        Ok(once_each(images))
    }

    /// What `checkMode: Relax` needs: Deckhouse's own image, by its tag. Nothing where that image was overridden.
    ///
    /// # Errors
    /// [`ClusterListError`].
    pub fn relaxed(&self) -> Result<Vec<RequiredImage>, ClusterListError> {
        let image = &self.deckhouse()?.image;
        let Some((child, reference)) = self.below_base(image)? else { return Ok(Vec::new()) };
        match reference {
            Reference::Tag(_) => {
                Ok(vec![RequiredImage { source: DECKHOUSE.to_owned(), child, reference, expected: None }])
            }
            Reference::Digest(_) => Err(ClusterListError::NotTag(image.clone())),
        }
    }

    /// The images of the Deployment.
    fn own(&self) -> Result<Vec<RequiredImage>, ClusterListError> {
        let normal = self.containers.iter().map(|container| ("containers", container));
        let init = self.init_containers.iter().map(|container| ("init-containers", container));
        let mut images = Vec::new();
        for (kind, ClusterContainer { name, image }) in normal.chain(init) {
            if let Some((child, reference)) = self.below_base(image)? {
                images.push(RequiredImage {
                    source: format!("deckhouse/{kind}/{name}"),
                    child,
                    reference,
                    expected: None,
                });
            }
        }
        Ok(images)
    }

    fn deckhouse(&self) -> Result<&ClusterContainer, ClusterListError> {
        self.containers.iter().find(|container| container.name == CONTAINER).ok_or(ClusterListError::NoDeckhouse)
    }

    /// An image of the repository in force, or of one below it; `None` for one of another.
    fn below_base(&self, image: &str) -> Result<Option<(String, Reference)>, ClusterListError> {
        let Some(rest) = image.strip_prefix(self.base.trim_end_matches('/')) else { return Ok(None) };
        // A repository that only begins so is another one.
        if !rest.starts_with(['/', ':', '@']) {
            return Ok(None);
        }
        let wrong = || ClusterListError::Image(image.to_owned());
        let (name, reference) = match rest.split_once('@') {
            // A tag before a digest says nothing.
            Some((name, digest)) => {
                let digest: Digest = digest.parse().map_err(|_| wrong())?;
                (name.split(':').next().unwrap_or_default(), Reference::Digest(digest))
            }
            None => {
                let (name, tag) = rest.split_once(':').ok_or_else(wrong)?;
                (name, Reference::Tag(tag.parse().map_err(|_| wrong())?))
            }
        };
        let child = name.strip_prefix('/').unwrap_or_default();
        if !child.is_empty() && child.parse::<RepoName>().is_err() {
            return Err(wrong());
        }
        Ok(Some((child.to_owned(), reference)))
    }
}

/// Whether the text is the version of a release, `v1.70.1`; one that was built by hand has another word there.
fn is_version(text: &str) -> bool {
    text.strip_prefix('v')
        .is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()) && rest.contains('.'))
}

/// A module's name in one spelling: `node-manager` in its object is `nodeManager` in the list.
fn plain(name: &str) -> String {
    name.chars().filter(|letter| *letter != '-').map(|letter| letter.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::ModuleImage;

    const BASE: &str = "registry.d8-system.svc:5001/system/deckhouse";

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn module(name: &str, source: &str, critical: bool) -> ClusterModule {
        ClusterModule { name: name.to_owned(), source: source.to_owned(), critical }
    }

    fn container(name: &str, image: &str) -> ClusterContainer {
        ClusterContainer { name: name.to_owned(), image: image.to_owned() }
    }

    fn running() -> RunningRelease {
        RunningRelease {
            base: BASE.to_owned(),
            modules: vec![
                module("node-manager", "Embedded", true),
                module("l2-load-balancer", "Embedded", true),
                module("upmeter", "Embedded", false),
                module("console", "deckhouse", true),
            ],
            version: Some("v1.70.1".to_owned()),
            init_containers: vec![container("init-downloaded-modules", &format!("{BASE}:v1.70.1"))],
            containers: vec![
                container("deckhouse", &format!("{BASE}:v1.70.1")),
                container("kube-rbac-proxy", &format!("{BASE}@{}", digest('3'))),
                container("sidecar", "mirror.example/tools:v1"),
            ],
        }
    }

    fn list() -> ReleaseList {
        let image = |module: &str, image: &str, digit| ModuleImage {
            module: module.to_owned(),
            image: image.to_owned(),
            reference: digest(digit).parse().unwrap(),
        };
        let modules = vec![
            image("nodeManager", "bashibleApiserver", '1'),
            image("nodeManager", "controlPlane133", '2'),
            image("nodeManager", "kubeRbacProxy", '3'),
            image("l2LoadBalancer", "controller", '2'),
            image("upmeter", "upmeter", '4'),
            image("console", "backend", '5'),
        ];
        ReleaseList { release: "v1.70.1".parse().unwrap(), modules }
    }

    fn said(images: &[RequiredImage]) -> Vec<(String, String)> {
        images.iter().map(|image| (image.source.clone(), format!("{}{}", image.child, image.reference))).collect()
    }

    fn expected(lines: &[(&str, String)]) -> Vec<(String, String)> {
        lines.iter().map(|(label, image)| ((*label).to_owned(), image.clone())).collect()
    }

    #[test]
    fn embedded_and_critical_modules_count_and_the_deployment_without_overrides() {
        let images = running().required(&list()).unwrap();
        // Sorted by image, tags in front; the first label of two, but the Deployment's before a module's.
        let wanted = [
            ("deckhouse/containers/deckhouse", "v1.70.1".to_owned()),
            ("module/node-manager/bashible-apiserver", digest('1')),
            ("module/l2-load-balancer/controller", digest('2')),
            ("deckhouse/containers/kube-rbac-proxy", digest('3')),
        ];
        assert_eq!(said(&images), expected(&wanted));
    }

    #[test]
    fn the_words_are_those_of_deckhouses_checker() {
        let with = |change: fn(&mut RunningRelease)| {
            let mut running = running();
            change(&mut running);
            running
        };
        let words = |running: &RunningRelease| running.required(&list()).unwrap_err().to_string();
        assert_eq!(words(&with(|running| running.modules.clear())), "modules snapshot contains no entries");
        let none = with(|running| running.modules.retain(|module| module.name == "console"));
        assert_eq!(words(&none), "modules snapshot contains no entries");
        let unknown = with(|running| running.modules = vec![module("unknown", "Embedded", true)]);
        assert_eq!(words(&unknown), "modules has no images");
        let relaxed = |running: &RunningRelease| running.relaxed().unwrap_err().to_string();
        assert_eq!(relaxed(&with(|running| running.containers.clear())), "deckhouse image not found");
        let by_digest = with(|running| running.containers[0].image = format!("{BASE}@{}", digest('9')));
        assert_eq!(relaxed(&by_digest), format!("image reference {:?} must be a tag", by_digest.containers[0].image));
        for wrong in
            [format!("{BASE}@sha256:1"), format!("{BASE}/child"), format!("{BASE}/UP:v1"), format!("{BASE}:a b")]
        {
            let mut running = running();
            running.containers[1].image = wrong.clone();
            assert_eq!(words(&running), format!("cannot parse image reference {wrong:?}"));
        }
    }

    #[test]
    fn relax_is_deckhouse_alone_and_nothing_where_it_is_overridden() {
        let mut running = running();
        let wanted = [("deckhouse/containers/deckhouse", "v1.70.1".to_owned())];
        assert_eq!(said(&running.relaxed().unwrap()), expected(&wanted));
        running.containers[0].image = "mirror.example/deckhouse:dev".to_owned();
        assert_eq!(running.relaxed(), Ok(Vec::new()));
        // One that only begins like the base is another repository.
        running.containers[0].image = format!("{BASE}-dev:v1.70.1");
        assert_eq!(running.relaxed(), Ok(Vec::new()));
        // One below it keeps its place there, and a tag before a digest says nothing.
        running.containers[1].image = format!("{BASE}/tools:v1@{}", digest('7'));
        let images = running.required(&list()).unwrap();
        let tools = images.iter().find(|image| image.source == "deckhouse/containers/kube-rbac-proxy").unwrap();
        assert_eq!((tools.child.as_str(), tools.reference.to_string()), ("tools", digest('7')));
    }

    #[test]
    fn the_release_is_the_annotations_version_else_the_tag() {
        let mut running = running();
        running.containers[0].image = format!("{BASE}:stable");
        assert_eq!(running.tag().unwrap().as_str(), "v1.70.1");
        for other in [None, Some("dev"), Some("20.20"), Some("v"), Some("v1.70.1 or so")] {
            running.version = other.map(str::to_owned);
            assert_eq!(running.tag().unwrap().as_str(), "stable", "{other:?}");
        }
        running.containers[0].image = format!("{BASE}@{}", digest('9'));
        assert!(matches!(running.tag(), Err(ClusterListError::NoRelease(_))));
        running.containers[0].image = "mirror.example/deckhouse:v1.70.1".to_owned();
        assert!(matches!(running.tag(), Err(ClusterListError::NoRelease(_))));
        running.containers.clear();
        assert_eq!(running.tag(), Err(ClusterListError::NoDeckhouse));
    }
}
