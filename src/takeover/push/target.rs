//! The registry that is pushed to.

use std::collections::HashMap;
use std::io;

use tokio_util::task::TaskTracker;

use super::asking::soon;
use crate::bundle::{VERSION, may_have_version, release_of_tag, release_of_version};
use crate::checker::RegistryAddress;
use crate::oci::{Digest, Manifest, Reference, RepoName, Tag};
use crate::release::first_file;
use crate::takeover::fault::{Fault, SourceError};
use crate::telemetry::{Metrics, UpstreamCause, with_causes};
use crate::upstream::{
    BlobFault, Credentials, EndpointOptions, Face, ProxyVariables, Scheme, Upstream, UpstreamError, UpstreamLimits,
    UpstreamOptions,
};
use crate::values::Release;

/// Most tags of releases that are looked at for the one of a channel's image.
const MOST_LOOKED_AT: usize = 200;

/// A registry, and the repository in it below which all goes.
#[derive(Debug)]
pub struct Target {
    pub(super) upstream: Upstream,
    path: String,
}

impl Target {
    /// A client of the registry; nobody is asked yet. Blocking: reads the certificates of the system, and the proxies of the
    /// environment.
    ///
    /// # Errors
    /// [`SourceError::Registry`], a sentence.
    pub fn connect(
        address: &RegistryAddress,
        credentials: Credentials,
        ca: Option<String>,
        (metrics, tasks): (&Metrics, &TaskTracker),
    ) -> Result<Self, SourceError> {
        let RegistryAddress { scheme, host, path, reference, .. } = address;
        if reference.is_some() {
            return Err(SourceError::Registry("all goes below a repository: leave the tag away".to_owned()));
        }
        let ca = ca.filter(|_| *scheme == Scheme::Https);
        let endpoint = EndpointOptions { scheme: *scheme, host: host.clone(), path: path.clone(), ca, credentials };
        let options = UpstreamOptions {
            endpoints: vec![endpoint],
            trusted_hosts: Vec::new(),
            proxy: ProxyVariables::from_environment(),
            limits: UpstreamLimits::default(),
            // As any client: of several masters each one answers for all.
            face: Face::Clients,
        };
        let upstream = Upstream::new(&options, metrics.clone(), tasks.clone());
        let upstream = upstream.map_err(|error| SourceError::Registry(with_causes(&error)))?;
        Ok(Self { upstream, path: path.clone() })
    }

    /// Whether the registry can have a repository of the source.
    pub(super) fn child(&self, name: &str) -> Result<(), Fault> {
        let whole = match (self.path.as_str(), name) {
            (path, "") => path.to_owned(),
            ("", name) => name.to_owned(),
            (path, name) => format!("{path}/{name}"),
        };
        whole.parse::<RepoName>().map(drop).map_err(|error| Fault::Name(error.to_string()))
    }

    /// The release that a channel there leads to, as its image says it, or another tag of that; `None`: neither does.
    pub(super) async fn release_of(&self, name: &str, digest: Digest) -> Result<Option<Release>, UpstreamError> {
        let found = match self.upstream.manifest(name, &Reference::Digest(digest), soon()).await {
            Ok(found) => found,
            Err(error) if error.cause() == UpstreamCause::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Ok(manifest) = Manifest::parse(None, &found.bytes) else { return Ok(None) };
        if !may_have_version(&manifest.layers) {
            return self.release_by_tag(name, digest).await;
        }
        let mut layers = HashMap::new();
        for layer in &manifest.layers {
            let (mut blob, mut bytes) = (self.upstream.verified_blob(name, layer), Vec::new());
            loop {
                match blob.chunk().await {
                    Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                    Ok(None) => break,
                    Err(BlobFault::Content(_)) => return Ok(None),
                    Err(BlobFault::Upstream(error)) => return Err(error),
                }
            }
            layers.insert(layer.digest, bytes);
        }
        let open = |layer: &Digest| Ok(io::Cursor::new(layers.remove(layer).ok_or(io::ErrorKind::NotFound)?));
        let Ok(Some((_, json))) = first_file(&manifest.layers, &[VERSION], open) else { return Ok(None) };
        Ok(release_of_version(&json))
    }

    /// The newest release whose tag leads to the image.
    async fn release_by_tag(&self, name: &str, digest: Digest) -> Result<Option<Release>, UpstreamError> {
        let tags = match self.upstream.tags(name, soon()).await {
            Ok(tags) => tags,
            Err(error) if error.status().is_some_and(|status| status < 500 && status != 429) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut releases: Vec<(Release, Tag)> =
            tags.iter().filter_map(|tag| Some((release_of_tag(tag)?, tag.parse().ok()?))).collect();
        releases.sort();
        for (release, tag) in releases.into_iter().rev().take(MOST_LOOKED_AT) {
            if self.upstream.has_manifest(name, &Reference::Tag(tag), soon()).await? == Some(digest) {
                return Ok(Some(release));
            }
        }
        Ok(None)
    }
}
