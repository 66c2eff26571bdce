//! Whether this node can pull: one pinned image, asked for as containerd asks for it.
//!
//! By the mirrors that were written for it, in their order, with their authorities and logins: what the kubelet would see, without
//! containerd and its store between.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::figures::{Check, Shown};
use super::local::Said;
use crate::jobs::{self, Job, JobError, Run, Schedule};
use crate::node_config::{self, NodeConfig, Way};
use crate::oci::{Descriptor, Digest, Manifest, Reference, RepoName};
use crate::telemetry::{Metrics, with_causes};
use crate::upstream::{
    BlobFault, Credentials, EndpointOptions, Face, ProxyVariables, Upstream, UpstreamError, UpstreamLimits,
    UpstreamOptions,
};

/// How long a manifest may take; containerd gives an answer's head up after 30 s.
const MANIFEST: Duration = Duration::from_secs(20);
/// How long all of the blob's check may take.
const BLOB: Duration = Duration::from_secs(60);
/// The largest blob that is fetched: an image's configuration has some KiB.
const MOST_BYTES: u64 = 4 << 20;
/// The blob is fetched at every tenth question.
const BLOB_EVERY: u32 = 10;

/// The image that is asked for, `[CHILD]@DIGEST` below the repository of the configuration that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedImage {
    child: String,
    digest: Digest,
}

/// No `[CHILD]@DIGEST`.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("not of the form [CHILD]@sha256:DIGEST")]
pub struct InvalidPinnedImage;

impl FromStr for PinnedImage {
    type Err = InvalidPinnedImage;

    fn from_str(text: &str) -> Result<Self, InvalidPinnedImage> {
        let (child, digest) = text.split_once('@').ok_or(InvalidPinnedImage)?;
        if !child.is_empty() && child.parse::<RepoName>().is_err() {
            return Err(InvalidPinnedImage);
        }
        Ok(Self { child: child.to_owned(), digest: digest.parse().map_err(|_| InvalidPinnedImage)? })
    }
}

impl fmt::Display for PinnedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.child, self.digest)
    }
}

/// Asks, again and again.
pub(super) struct Pulls {
    pub(super) image: PinnedImage,
    pub(super) root: PathBuf,
    pub(super) said: watch::Receiver<Said>,
    pub(super) every: Duration,
    pub(super) shown: Arc<Shown>,
    pub(super) metrics: Metrics,
    pub(super) tasks: TaskTracker,
    /// The configuration that the last question went by.
    pub(super) asked: Option<Arc<NodeConfig>>,
    /// Its mirrors; `None` where they could not be set up.
    pub(super) clients: Option<Vec<Upstream>>,
    /// Questions since the blob was fetched; none was yet.
    pub(super) since_blob: Option<u32>,
}

impl Job for Pulls {
    const NAME: &'static str = "node-pull";

    fn schedule(&self) -> Schedule {
        Schedule::every(self.every).jitter(self.every / 4)
    }

    async fn called(&mut self) {
        // Another configuration is asked by at once.
        let before = self.asked.clone();
        let other = |said: &Said| said.follows.is_some() && said.follows != before;
        if self.said.wait_for(other).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn run(&mut self, _: Run) -> Result<(), JobError> {
        let follows = self.said.borrow_and_update().follows.clone();
        if self.asked != follows {
            self.asked = follows.clone();
            self.clients = None;
            self.since_blob = None;
        }
        let Some(config) = follows else {
            // Nothing of ours is asked by containerd.
            self.shown.asks_nothing();
            return Ok(());
        };
        if self.clients.is_none() {
            let connected = self.connect(&config).await;
            self.clients = Some(connected.map_err(|why| self.failed(why))?);
        }
        let clients = self.clients.as_deref().unwrap_or_default();
        if clients.is_empty() {
            self.shown.asks_nothing();
            return Ok(());
        }
        let (manifest, at_node_proxy) = self.manifest(clients).await;
        self.shown.asked(Check::Manifest, manifest);
        match at_node_proxy {
            Some(answer) => self.shown.asked(Check::NodeProxy, answer),
            None => self.shown.asks_no(Check::NodeProxy),
        }
        if self.since_blob.is_none_or(|since| since + 1 >= BLOB_EVERY) {
            let blob = tokio::time::timeout(BLOB, self.blob(clients)).await;
            let blob = blob.unwrap_or_else(|_| Err(format!("it did not come within {} s", BLOB.as_secs())));
            self.shown.asked(Check::Blob, blob);
            self.since_blob = Some(0);
        } else {
            self.since_blob = self.since_blob.map(|since| since + 1);
        }
        Ok(())
    }
}

impl Pulls {
    fn failed(&self, why: String) -> JobError {
        self.shown.asked(Check::Manifest, Err(why.clone()));
        JobError::logged(why)
    }

    /// The mirrors that containerd has for the cluster's images.
    async fn connect(&self, config: &Arc<NodeConfig>) -> Result<Vec<Upstream>, String> {
        let (root, config) = (self.root.clone(), Arc::clone(config));
        let (metrics, tasks) = (self.metrics.clone(), self.tasks.clone());
        // It reads containerd's program and the system's authorities.
        jobs::blocking(move || {
            let Some(base) = config.images_base() else { return Ok(Vec::new()) };
            let (host, path) = base.split_once('/').unwrap_or((base, ""));
            let ways = node_config::ways(&root, &config, host).map_err(|error| with_causes(&error))?;
            let clients = ways.into_iter().map(|way| client(way, path, metrics.clone(), tasks.clone()));
            clients.collect()
        })
        .await
    }

    /// As containerd: the next mirror where one does not answer with it. And what the node's own node-proxy alone says, if it is one of
    /// them.
    async fn manifest(&self, clients: &[Upstream]) -> (Result<(), String>, Option<Result<(), String>>) {
        let reference = Reference::Digest(self.image.digest);
        let (mut found, mut at_node_proxy) = (Err(String::new()), None);
        for client in clients {
            let is_node_proxy = is_of_this_node(client.host());
            if found.is_ok() && !is_node_proxy {
                continue;
            }
            let answer = client.exists(&self.image.child, &reference, Instant::now() + MANIFEST).await;
            let answer = answer.map_err(|error| error.to_string());
            if is_node_proxy {
                at_node_proxy = Some(answer.clone());
            }
            if found.is_err() {
                found = answer;
            }
        }
        (found, at_node_proxy)
    }

    async fn blob(&self, clients: &[Upstream]) -> Result<(), String> {
        let mut why = String::new();
        for client in clients {
            match self.blob_of(client).await {
                Ok(()) => return Ok(()),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// The smallest blob of the image; of an index, of its first image.
    async fn blob_of(&self, client: &Upstream) -> Result<(), String> {
        let child = &self.image.child;
        let mut manifest = self.parsed(client, self.image.digest).await?;
        if let Some(first) = manifest.manifests.first() {
            let digest = first.digest;
            manifest = self.parsed(client, digest).await?;
        }
        let smallest: Option<&Descriptor> = manifest.required_blobs().min_by_key(|blob| blob.size);
        let Some(blob) = smallest.filter(|blob| blob.size <= MOST_BYTES) else {
            return Err(format!("the image has no blob of at most {MOST_BYTES} bytes"));
        };
        client.verified_blob(child, blob).read_all().await.map_err(|fault| match fault {
            BlobFault::Upstream(error) => error.to_string(),
            BlobFault::Content(sentence) => sentence,
        })
    }

    async fn parsed(&self, client: &Upstream, digest: Digest) -> Result<Manifest, String> {
        let deadline = Instant::now() + MANIFEST;
        let fetched = client.manifest(&self.image.child, &Reference::Digest(digest), deadline).await;
        let fetched = fetched.map_err(|error: UpstreamError| error.to_string())?;
        Manifest::parse(None, &fetched.bytes).map_err(|error| format!("the manifest {digest} can't be read: {error}"))
    }
}

/// Whether `ADDRESS:PORT` leads to this node itself, as node-proxy's does.
fn is_of_this_node(host: &str) -> bool {
    host.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback())
}

/// Asks nobody yet. Blocking.
fn client(way: Way, path: &str, metrics: Metrics, tasks: TaskTracker) -> Result<Upstream, String> {
    let Way { scheme, host, ca, login } = way;
    let credentials = login.map_or(Credentials::Anonymous, |(user, password)| Credentials::Basic {
        user,
        password: password.expose().to_owned().into(),
    });
    let options = UpstreamOptions {
        endpoints: vec![EndpointOptions { scheme, host, path: path.to_owned(), ca, credentials }],
        trusted_hosts: Vec::new(),
        proxy: ProxyVariables::from_environment(),
        limits: UpstreamLimits::default(),
        face: Face::Clients,
    };
    Upstream::new(&options, metrics, tasks).map_err(|error| with_causes(&error))
}

impl fmt::Debug for Pulls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pulls({})", self.image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_digest_below_the_repository() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, child) in [(format!("@{digest}"), ""), (format!("modules/x@{digest}"), "modules/x")] {
            let image: PinnedImage = text.parse().unwrap();
            assert_eq!((image.child.as_str(), image.to_string()), (child, text));
        }
        for wrong in ["", "@", "x", "x:v1", "@sha256:1", &format!("X@{digest}"), &format!("http://u:p@h/x@{digest}")] {
            assert!(wrong.parse::<PinnedImage>().is_err(), "{wrong}");
        }
    }
}
