//! Clients that pull all the time, each as the containerd of its node does: for each request all mirrors of the image's host in
//! order, until one gives it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use d8_registry::switch::{Hosts, Login, Mirror};
use d8_registry::values::Scheme;
use reqwest::{Certificate, Client};
use serde_json::Value;
use tokio::time::MissedTickBehavior;

/// From the beginning of a node's pulls to the next; a pull that takes longer is followed by the next one at once.
const EVERY: Duration = Duration::from_millis(100);
/// containerd gives an answer's head up after this time.
const PATIENCE: Duration = Duration::from_secs(30);
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";

/// What a node's containerd has, and what its pods name.
#[derive(Debug, Default)]
pub(crate) struct Node {
    /// From `registry-bashible-config`, as far as bashible has applied it.
    pub(crate) hosts: Mutex<Hosts>,
    /// Images that pods name.
    pub(crate) images: Mutex<BTreeSet<String>>,
    /// The pods' pull secret, and the CA of its host: what counts where there is no mirror.
    pub(crate) pull_secret: Mutex<BTreeMap<String, Mirror>>,
    /// Its containerd can't rewrite names, so `node-config` leaves such mirrors out.
    pub(crate) plain: bool,
    /// Nobody hears its kubelet.
    pub(crate) lost: AtomicBool,
}

/// Counts of all clients.
#[derive(Debug, Default)]
pub(crate) struct Pulls {
    pub(crate) done: AtomicU64,
    /// By node, those that gave the image.
    given: Mutex<BTreeMap<String, u64>>,
    failures: Mutex<Vec<String>>,
    clients: Mutex<BTreeMap<String, Client>>,
    /// Whether each request has a connection of its own, and so may come to another server.
    changes_servers: bool,
}

impl Pulls {
    pub(crate) fn new(changes_servers: bool) -> Self {
        Self { changes_servers, ..Self::default() }
    }

    /// Pulls whatever the node's pods name, again and again, until the task ends.
    pub(crate) async fn go_on(self: Arc<Self>, name: String, node: Arc<Node>) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let images = node.images.lock().unwrap().clone();
            for image in images {
                match self.pull(&node, &image).await {
                    Ok(()) => *self.given.lock().unwrap().entry(name.clone()).or_default() += 1,
                    // One that no pod names any more was not needed.
                    Err(why) if node.images.lock().unwrap().contains(&image) => {
                        self.failures.lock().unwrap().push(format!("{name}: {image}: {why}"));
                    }
                    Err(_) => {}
                }
                self.done.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many of a node's pulls gave the image so far.
    pub(crate) fn given(&self, node: &str) -> u64 {
        self.given.lock().unwrap().get(node).copied().unwrap_or_default()
    }

    /// The failures so far.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }

    async fn pull(&self, node: &Node, image: &str) -> Result<(), String> {
        let (host, rest) = image.split_once('/').ok_or("no host")?;
        let (repository, reference, digest) = match rest.split_once('@') {
            Some((repository, digest)) => (repository, digest, Some(digest)),
            None => {
                let (repository, tag) = rest.rsplit_once(':').ok_or("no tag")?;
                (repository, tag, None)
            }
        };
        let of_host = node.hosts.lock().unwrap().get(host).cloned();
        let mirrors = match of_host {
            Some(mirrors) => mirrors,
            None => node.pull_secret.lock().unwrap().get(host).cloned().into_iter().collect(),
        };
        let mirrors: Vec<Mirror> =
            mirrors.into_iter().filter(|mirror| !node.plain || mirror.rewrites.is_empty()).collect();
        let manifest = self.fetch(&mirrors, repository, &format!("manifests/{reference}"), digest).await?;
        let manifest: Value = serde_json::from_slice(&manifest).map_err(|error| error.to_string())?;
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        for blob in std::iter::once(&manifest["config"]).chain(&layers) {
            let digest = blob["digest"].as_str().ok_or("no digest")?;
            self.fetch(&mirrors, repository, &format!("blobs/{digest}"), Some(digest)).await?;
        }
        Ok(())
    }

    async fn fetch(
        &self,
        mirrors: &[Mirror],
        repository: &str,
        what: &str,
        digest: Option<&str>,
    ) -> Result<Vec<u8>, String> {
        let mut why = vec!["no mirror".to_owned()];
        for mirror in mirrors {
            match self.ask(mirror, repository, what).await {
                Ok(bytes) if digest.is_none_or(|digest| testkit::digest(&bytes) == digest) => return Ok(bytes),
                Ok(_) => why.push(format!("{}: other bytes", mirror.host)),
                Err(error) => why.push(format!("{}: {error}", mirror.host)),
            }
        }
        Err(format!("{what}: {}", why.join("; ")))
    }

    async fn ask(&self, mirror: &Mirror, repository: &str, what: &str) -> Result<Vec<u8>, String> {
        let repository = rewritten(mirror, repository);
        let url = format!("{}://{}/v2/{repository}/{what}", scheme(mirror.scheme), mirror.host);
        let mut request = self.client(mirror.ca.as_deref()).get(&url).header("accept", ACCEPT);
        if let Some(Login { username, password }) = &mirror.login {
            request = request.basic_auth(username, Some(password.expose()));
        }
        let answer = request.send().await.map_err(|error| d8_registry::telemetry::with_causes(&error))?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| format!("{status}: {error}"))?;
        if status.is_success() {
            Ok(bytes.to_vec())
        } else {
            Err(format!("{status} {}", String::from_utf8_lossy(&bytes)))
        }
    }

    /// One for each authority, which keeps its connections.
    fn client(&self, ca: Option<&str>) -> Client {
        let ca = ca.unwrap_or_default();
        let mut clients = self.clients.lock().unwrap();
        let make = || {
            let authorities = Certificate::from_pem_bundle(ca.as_bytes()).unwrap();
            let idle = if self.changes_servers { 0 } else { usize::MAX };
            let client = Client::builder().tls_certs_only(authorities).pool_max_idle_per_host(idle);
            client.timeout(PATIENCE).no_proxy().build().unwrap()
        };
        clients.entry(ca.to_owned()).or_insert_with(make).clone()
    }
}

fn scheme(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    }
}

/// Deckhouse's extension of containerd: the first rewrite that fits. Those that are written begin with `^` and are plain after it.
fn rewritten(mirror: &Mirror, repository: &str) -> String {
    for rewrite in &mirror.rewrites {
        let from = rewrite.from.strip_prefix('^').expect("a rewrite of another form").replace('\\', "");
        if let Some(rest) = repository.strip_prefix(&from) {
            return format!("{}{rest}", rewrite.to).trim_matches('/').to_owned();
        }
    }
    repository.to_owned()
}
