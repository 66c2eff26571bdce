//! Where the list of `check` comes from: a file, a registry, a release, a bundle, or the cluster that runs.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use super::{Access, CheckArguments, address, read};
use crate::bundle;
use crate::checker::{self, CheckMode, RegistryAddress, TargetOptions};
use crate::cli::{EXIT_FAILED, Failure};
use crate::cluster::{self, Cluster, ClusterError};
use crate::controller;
use crate::oci::{Reference, Tag};
use crate::release::{self, ReleaseList, RequiredImage, RunningRelease};
use crate::telemetry::with_causes;
use crate::upstream::Upstream;

/// The Secret that says which registry the cluster has.
const REGISTRY: &str = "deckhouse-registry";

/// Most findings in a bundle that are named.
const MOST_SAID: usize = 20;

/// A list that can be made anew.
pub(in crate::cli) enum List<'a> {
    /// A file, which may change.
    File(&'a Path),
    /// What was asked for at the start.
    Once,
    /// Every tag of a bundle in which so many things are missing or damaged: there may have been more of them.
    Damaged(u64),
    /// What a cluster needs, which changes with its release and its modules.
    Cluster(Box<ClusterList>),
}

/// The cluster, and the list of the release that was read last: it never changes.
pub(in crate::cli) struct ClusterList {
    cluster: Cluster,
    read: Option<ReleaseList>,
}

impl<'a> List<'a> {
    /// The list that the arguments mean, and what is on it now.
    pub(in crate::cli) async fn of(
        arguments: &'a CheckArguments,
        access: &Access,
    ) -> Result<(Self, Vec<RequiredImage>), Failure> {
        if let Some(file) = &arguments.images {
            return Ok((Self::File(file), from_file(file, arguments.mode)?));
        }
        if !arguments.bundle.is_empty() {
            let (items, damage) = of_bundle(&arguments.bundle)?;
            let items = checker::for_mode(arguments.mode, items).map_err(|error| Failure::usage(error.to_string()))?;
            return Ok((if damage == 0 { Self::Once } else { Self::Damaged(damage) }, items));
        }
        if arguments.from_cluster {
            let api = cluster::Access { kubeconfig: arguments.kubeconfig.clone(), context: None, acting_as: None };
            let cluster = Cluster::connect(&api, &arguments.namespace).await.map_err(|error| of_cluster(&error))?;
            let mut list = ClusterList { cluster, read: None };
            let items = list.items(arguments, access).await?;
            return Ok((Self::Cluster(Box::new(list)), items));
        }
        let items = match (&arguments.release, &arguments.from_registry) {
            (Some(release), _) => of_release(release, arguments, access).await?,
            (None, Some(text)) => {
                let address = address("--from-registry", text)?;
                let client = access.client(&address)?;
                let items = checker::required_by(&address, &client).await;
                items.map_err(|message| failed(format!("--from-registry: {message}")))?
            }
            (None, None) => {
                return Err(Failure::usage(
                    "--images, --from-registry, --release, --bundle or --from-cluster is needed",
                ));
            }
        };
        let items = checker::for_mode(arguments.mode, items).map_err(|error| Failure::usage(error.to_string()))?;
        Ok((Self::Once, items))
    }

    /// What is on it now; `None` where that can't have changed.
    pub(super) async fn anew(
        &mut self,
        arguments: &CheckArguments,
        access: &Access,
    ) -> Result<Option<Vec<RequiredImage>>, Failure> {
        match self {
            Self::File(file) => from_file(file, arguments.mode).map(Some),
            Self::Once | Self::Damaged(_) => Ok(None),
            Self::Cluster(list) => list.items(arguments, access).await.map(Some),
        }
    }
}

fn from_file(file: &Path, mode: CheckMode) -> Result<Vec<RequiredImage>, Failure> {
    let text = read(file)?;
    let items = checker::parse(&text).and_then(|items| checker::for_mode(mode, items));
    items.map_err(|error| Failure::usage(format!("{}: {error}", file.display())))
}

/// Every tag of a bundle, and how much of it is seen to be missing or damaged. What that is goes to the standard error.
fn of_bundle(paths: &[PathBuf]) -> Result<(Vec<RequiredImage>, u64), Failure> {
    let opened = bundle::open(paths, bundle::MOST_BYTES, &|| false);
    let bundle = opened.map_err(|error| Failure::usage(format!("--bundle: {}", with_causes(&error))))?;
    let mut items = Vec::new();
    for path in bundle.repositories() {
        for (tag, digest) in bundle.tags(path) {
            let Ok(tag) = tag.parse() else { continue };
            let source = bundle.file_of(path, &digest).unwrap_or_else(|| "no file of the bundle".to_owned());
            let (child, reference, expected) = (path.to_owned(), Reference::Tag(tag), Some(digest));
            items.push(RequiredImage { source, child, reference, expected });
        }
    }
    let mut out = io::stderr().lock();
    for finding in bundle.findings().iter().filter(|finding| finding.damage).take(MOST_SAID) {
        writeln!(out, "d8-registry: {}: {}", bundle::plain(&finding.place), finding.says)?;
    }
    Ok((items, bundle.damage()))
}

/// The list in the install image of a release.
async fn of_release(release: &Tag, arguments: &CheckArguments, access: &Access) -> Result<Vec<RequiredImage>, Failure> {
    let (flag, text) = match (&arguments.from_registry, arguments.registry.first()) {
        (Some(text), _) => ("--from-registry", text),
        (None, Some(text)) => ("--registry", text),
        (None, None) => return Err(Failure::usage("--registry is needed")),
    };
    let address = repository(flag, address(flag, text)?)?;
    let client = access.client(&address)?;
    let read = read_install_image(&client, release).await;
    Ok(read.map_err(|error| failed(format!("--release {release}: {address}: {error}")))?.required())
}

/// An address that names a repository.
fn repository(flag: &str, address: RegistryAddress) -> Result<RegistryAddress, Failure> {
    match address.reference {
        None => Ok(address),
        Some(_) => Err(Failure::usage(format!("{flag}: here it names a repository, without tag or digest"))),
    }
}

async fn read_install_image(client: &Upstream, release: &Tag) -> Result<ReleaseList, String> {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {bytes} of the install image read {elapsed}") {
        bar.set_style(style);
    }
    let read = Box::pin(release::read_install_image(client, release, &|bytes| bar.inc(bytes))).await;
    bar.finish_and_clear();
    read.map_err(|error| with_causes(&error))
}

impl ClusterList {
    async fn items(&mut self, arguments: &CheckArguments, access: &Access) -> Result<Vec<RequiredImage>, Failure> {
        let secret = self.cluster.secret(REGISTRY).await.map_err(|error| of_cluster(&error))?;
        let secret = secret.ok_or_else(|| failed(format!("--from-cluster: there is no Secret {REGISTRY}")))?;
        let registry = controller::registry_of(&secret)
            .map_err(|why| failed(format!("--from-cluster: Secret {REGISTRY} {why}")))?;
        let running = self.running(&registry.address).await?;
        let wrong = |error: release::ClusterListError| failed(format!("--from-cluster: {error}"));
        if arguments.mode == CheckMode::Relax {
            return running.relaxed().map_err(wrong);
        }
        let tag = running.tag().map_err(wrong)?;
        let list = match &self.read {
            Some(list) if list.release == tag => list,
            _ => {
                let list = self.list(&registry, &tag, arguments, access).await?;
                self.read.insert(list)
            }
        };
        running.required(list).map_err(wrong)
    }

    /// The list of a release, from the cluster's registry or the one that is named.
    async fn list(
        &self,
        registry: &TargetOptions,
        release: &Tag,
        arguments: &CheckArguments,
        access: &Access,
    ) -> Result<ReleaseList, Failure> {
        let (address, client) = match &arguments.from_registry {
            Some(text) => {
                let address = repository("--from-registry", address("--from-registry", text)?)?;
                (address.clone(), access.client(&address)?)
            }
            None => (registry.address.clone(), access.client_of(registry)?),
        };
        read_install_image(&client, release).await.map_err(|error| {
            failed(format!(
                "--from-cluster: the list of release {release} can't be read from {address}, another registry that has it can be \
                 named by --from-registry: {error}"
            ))
        })
    }

    /// What the API server has about the Deckhouse that runs.
    async fn running(&self, registry: &RegistryAddress) -> Result<RunningRelease, Failure> {
        let slash = if registry.path.is_empty() { "" } else { "/" };
        let base = format!("{}{slash}{}", registry.host, registry.path);
        let running = controller::running_release(&self.cluster, base).await.map_err(|error| of_cluster(&error))?;
        running.ok_or_else(|| failed("--from-cluster: there is no Deployment deckhouse"))
    }
}

fn of_cluster(error: &ClusterError) -> Failure {
    failed(format!("--from-cluster: {}", with_causes(error)))
}

pub(super) fn failed(message: impl Into<String>) -> Failure {
    Failure { exit: EXIT_FAILED, message: message.into() }
}
