//! One registry: whether it holds an item, and what it holds.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::StatusCode;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::address::RegistryAddress;
use super::{Depth, InvalidList, PARALLEL, Rate};
use crate::oci::{Descriptor, Digest, Manifest, Reference, Tag};
use crate::release::RequiredImage;
use crate::telemetry::{CacheOutcome, Metrics};
use crate::upstream::{
    BlobFault, Credentials, EndpointOptions, Face, ProxyVariables, Scheme, Upstream, UpstreamError, UpstreamLimits,
    UpstreamOptions, UpstreamSetupError,
};
use crate::values::Mode;

/// How long an answer is waited for, tries included: an error is known well within the budget of a run.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a cache is asked for what has just come through it, and the pause before it is asked again.
const NAMED_TRIES: usize = 50;
const NAMED_PAUSE: Duration = Duration::from_millis(100);
/// Manifests of one item; more is no image.
const MAX_MANIFESTS: usize = 1000;

/// The way to a registry that is checked.
#[derive(Clone, Debug)]
pub struct TargetOptions {
    /// Its repository, and its name in messages: that of a master's node where it is a master's own.
    pub address: RegistryAddress,
    /// PEM of authorities that are trusted beside the system's; passed over where the registry speaks plain HTTP.
    pub ca: Option<String>,
    /// Who asks.
    pub credentials: Credentials,
    /// The proxies on the way.
    pub proxy: ProxyVariables,
    /// The mode that has to answer, of a d8-registry. What another mode answers is an error, be it yes or no.
    pub mode: Option<Mode>,
}

impl TargetOptions {
    /// A client of the registry; asks nobody yet. Blocking: reads the certificates of the system.
    ///
    /// # Errors
    /// [`UpstreamSetupError`].
    pub fn client(&self, metrics: Metrics, tasks: TaskTracker) -> Result<Upstream, UpstreamSetupError> {
        let RegistryAddress { scheme, host, path, .. } = &self.address;
        let endpoint = EndpointOptions {
            scheme: *scheme,
            host: host.clone(),
            path: path.clone(),
            ca: self.ca.clone().filter(|_| *scheme == Scheme::Https),
            credentials: self.credentials.clone(),
        };
        let options = UpstreamOptions {
            endpoints: vec![endpoint],
            trusted_hosts: Vec::new(),
            proxy: self.proxy.clone(),
            limits: UpstreamLimits::default(),
            // A master that fetches from another what it lacks has it not.
            face: Face::OwnStore,
        };
        match self.mode {
            Some(mode) => Upstream::in_mode(mode, &options, metrics, tasks),
            None => Upstream::new(&options, metrics, tasks),
        }
    }
}

/// A registry that is checked.
pub struct Target {
    address: RegistryAddress,
    upstream: Upstream,
    /// Blobs, by child, that were proven: images share most of theirs.
    proven: Mutex<HashSet<(String, Digest)>>,
    rate: Arc<Rate>,
    /// Held while a blob is looked at, by its first byte: what several images share is fetched once.
    busy: [tokio::sync::Mutex<()>; 16],
}

impl Target {
    /// `upstream` has to be a client of `address`.
    #[must_use]
    pub fn new(address: RegistryAddress, upstream: Upstream) -> Self {
        Self { address, upstream, proven: Mutex::default(), rate: Arc::default(), busy: Default::default() }
    }

    /// A registry that was not asked yet. Blocking: reads the certificates of the system.
    ///
    /// # Errors
    /// [`UpstreamSetupError`].
    pub fn connect(options: TargetOptions, metrics: Metrics, tasks: TaskTracker) -> Result<Self, UpstreamSetupError> {
        let upstream = options.client(metrics, tasks)?;
        Ok(Self::new(options.address, upstream))
    }

    /// The same; what is fetched for its cache is counted by `rate` and held back to it.
    #[must_use]
    pub fn at(self, rate: Arc<Rate>) -> Self {
        Self { rate, ..self }
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.address.name
    }

    /// The item as an image of this registry.
    pub(super) fn image(&self, item: &RequiredImage) -> String {
        let mark = if matches!(item.reference, Reference::Digest(_)) { '@' } else { ':' };
        let repository = self.repository(&item.child);
        let slash = if repository.is_empty() { "" } else { "/" };
        format!("{}{slash}{repository}{mark}{}", self.address.host, item.reference)
    }

    /// The digest that the item has there; the error is a sentence. Safe to drop: ends the request.
    ///
    /// # Errors
    /// The registry gave no answer, or does not have it.
    pub async fn digest_of(&self, item: &RequiredImage) -> Result<Digest, String> {
        match &item.reference {
            Reference::Digest(digest) => Ok(*digest),
            Reference::Tag(tag) => {
                let resolved = self.upstream.resolve(&item.child, tag, deadline()).await;
                let resolved = resolved.map_err(|error| self.words("HEAD", &item.child, "manifests", tag, &error));
                Ok(resolved?.digest)
            }
        }
    }

    /// Forgets which blobs are there.
    pub(super) fn forget(&self) {
        self.proven().clear();
    }

    /// Whether the item is there, as far as `depth` goes; the error is a sentence. Safe to drop: ends the request.
    pub(super) async fn examine(&self, item: &RequiredImage, depth: Depth) -> Result<(), String> {
        let RequiredImage { child, reference, .. } = item;
        if let (Some(expected), Reference::Tag(tag)) = (&item.expected, reference) {
            let resolved = self.upstream.resolve(child, tag, deadline()).await;
            let digest = resolved.map_err(|error| self.words("HEAD", child, "manifests", reference, &error))?.digest;
            if digest != *expected {
                return Err(format!("the tag names {digest}, where the list has {expected}"));
            }
        } else {
            let there = self.upstream.exists(child, reference, deadline()).await;
            there.map_err(|error| self.words("HEAD", child, "manifests", reference, &error))?;
        }
        if depth == Depth::Manifest { Ok(()) } else { self.examine_below(child, reference, depth).await }
    }

    /// Walks through the manifests below one, each with its blobs.
    async fn examine_below(&self, child: &str, top: &Reference, depth: Depth) -> Result<(), String> {
        let mut open = vec![top.clone()];
        let mut seen: HashSet<String> = HashSet::new();
        while let Some(reference) = open.pop() {
            if !seen.insert(reference.to_string()) {
                continue;
            }
            if seen.len() > MAX_MANIFESTS {
                return Err(format!("it has more than {MAX_MANIFESTS} manifests"));
            }
            let fetched = self.upstream.manifest(child, &reference, deadline()).await;
            let fetched = fetched.map_err(|error| self.words("GET", child, "manifests", &reference, &error))?;
            let manifest = Manifest::parse(None, &fetched.bytes);
            let manifest = manifest.map_err(|error| format!("the manifest {reference} can't be read: {error}"))?;
            for blob in manifest.required_blobs() {
                self.examine_blob(child, blob, depth).await?;
            }
            open.extend(manifest.manifests.iter().map(|manifest| Reference::Digest(manifest.digest)));
        }
        Ok(())
    }

    async fn examine_blob(&self, child: &str, blob: &Descriptor, depth: Depth) -> Result<(), String> {
        let key = (child.to_owned(), blob.digest);
        let first = usize::from(blob.digest.as_bytes()[0]);
        let _alone = self.busy[first % self.busy.len()].lock().await;
        if self.proven().contains(&key) {
            return Ok(());
        }
        match depth {
            Depth::Content => self.hash(child, blob).await?,
            Depth::Cached => self.cache(child, blob).await?,
            Depth::Manifest | Depth::Layers => self.ask_size(child, blob).await?,
        }
        self.proven().insert(key);
        Ok(())
    }

    async fn ask_size(&self, child: &str, blob: &Descriptor) -> Result<(), String> {
        let size = self.upstream.blob_size(child, &blob.digest, deadline()).await;
        let size = size.map_err(|error| self.words("HEAD", child, "blobs", &blob.digest, &error))?;
        if let Some(size) = size.filter(|size| *size != blob.size) {
            return Err(format!("the blob {} has {size} bytes, where its manifest says {}", blob.digest, blob.size));
        }
        Ok(())
    }

    async fn hash(&self, child: &str, blob: &Descriptor) -> Result<(), String> {
        let words = |fault| match fault {
            BlobFault::Upstream(error) => self.words("GET", child, "blobs", &blob.digest, &error),
            BlobFault::Content(sentence) => sentence,
        };
        let mut bytes = self.upstream.verified_blob(child, blob);
        while let Some(piece) = bytes.chunk().await.map_err(words)? {
            self.rate.came(piece.len() as u64);
        }
        Ok(())
    }

    /// Has the registry keep the blob.
    async fn cache(&self, child: &str, blob: &Descriptor) -> Result<(), String> {
        if self.is_cached(child, blob).await? {
            return Ok(());
        }
        self.rate.begin(blob.size).await;
        self.hash(child, blob).await?;
        // The last byte may be here before the content has its name there.
        for _ in 0..NAMED_TRIES {
            if self.is_cached(child, blob).await? {
                return Ok(());
            }
            tokio::time::sleep(NAMED_PAUSE).await;
        }
        Err(format!("the blob {} was passed on and is not kept: has the cache room, and can it write?", blob.digest))
    }

    async fn is_cached(&self, child: &str, blob: &Descriptor) -> Result<bool, String> {
        let answer = self.upstream.blob_cache_word(child, &blob.digest, deadline()).await;
        match answer.map_err(|error| self.words("HEAD", child, "blobs", &blob.digest, &error))? {
            Some(word) => Ok(word == CacheOutcome::Hit.as_str()),
            None => Err(format!("{} does not say what it has cached: it is no d8-registry in mode Proxy", self.name())),
        }
    }

    fn proven(&self) -> MutexGuard<'_, HashSet<(String, Digest)>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn repository(&self, child: &str) -> String {
        let parts = [self.address.path.as_str(), child];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    }

    /// A plain refusal is said as the client of Deckhouse's checker says it, anything else in our own words.
    fn words(&self, method: &str, child: &str, what: &str, which: &dyn fmt::Display, error: &UpstreamError) -> String {
        let RegistryAddress { scheme, host, .. } = &self.address;
        let url = format!("{}://{host}/v2/{}/{what}/{which}", scheme.in_url(), self.repository(child));
        let status = error.status().and_then(|status| StatusCode::from_u16(status).ok());
        let plain = status.filter(|status| error.host() == host && !matches!(status.as_u16(), 401 | 403 | 407));
        match plain {
            Some(status) if method == "HEAD" => {
                format!(
                    "HEAD {url}: unexpected status code {status} (HEAD responses have no body, use GET for details)"
                )
            }
            _ => format!("{method} {url}: {error}"),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("address", &self.address).finish_non_exhaustive()
    }
}

fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// A list made of what a registry holds: the one image that `address` names, else every tag of its repository. Tags have
/// to name the same manifest elsewhere, and one of 64 hex digits, under which `d8 mirror` keeps an image known by its
/// digest only, is looked for by that digest.
///
/// Safe to drop: ends the requests.
///
/// # Errors
/// A sentence: the registry gave no answer, or has nothing.
pub async fn required_by(address: &RegistryAddress, upstream: &Upstream) -> Result<Vec<RequiredImage>, String> {
    let tags = match &address.reference {
        Some(reference @ Reference::Digest(_)) => {
            return Ok(vec![item(address, reference.clone(), None)]);
        }
        Some(Reference::Tag(tag)) => vec![tag.clone()],
        None => {
            let tags = upstream.tags("", Instant::now() + 6 * PATIENCE).await.map_err(|error| error.to_string())?;
            tags.iter().filter_map(|tag| tag.parse().ok()).collect()
        }
    };
    if tags.is_empty() {
        return Err(format!("{address}: {}", InvalidList::Empty));
    }
    let asked = tags.into_iter().map(|tag| async move {
        let of_digest = format!("sha256:{tag}").parse::<Digest>();
        if let Ok(digest) = of_digest {
            return Ok(item(address, Reference::Digest(digest), None));
        }
        let resolved = upstream.resolve("", &tag, deadline()).await.map_err(|error| error.to_string())?;
        Ok::<RequiredImage, String>(tagged(address, tag, resolved.digest))
    });
    stream::iter(asked).buffered(PARALLEL).try_collect().await
}

fn tagged(address: &RegistryAddress, tag: Tag, digest: Digest) -> RequiredImage {
    item(address, Reference::Tag(tag), Some(digest))
}

fn item(address: &RegistryAddress, reference: Reference, expected: Option<Digest>) -> RequiredImage {
    RequiredImage { source: format!("{}/{}", address.host, address.path), child: String::new(), reference, expected }
}
