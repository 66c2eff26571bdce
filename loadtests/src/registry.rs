//! A registry that runs already, ours or another: where it is, how to sign in, and what of it is asked for.

use std::collections::HashMap;
use std::net::ToSocketAddrs as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use clap::Args;
use d8_registry::oci::{Algorithm, Digest, Manifest};
use http::Uri;
use serde::Deserialize;

use crate::certificates::{Certificate, Suite};
use crate::cpu;
use crate::client::exchange::{self, Request, fetch};
use crate::proc::Memory;
use crate::client::wire::{Place, Wire};

/// What manifests may be asked for as.
pub(crate) const ACCEPT: &str = "accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                                 application/vnd.docker.distribution.manifest.v2+json, \
                                 application/vnd.docker.distribution.manifest.list.v2+json\r\n";
/// An index in an index in an index is no image.
const MOST_INDEXES: usize = 3;
/// Between two looks at a process's memory.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where a registry is, and who asks.
#[derive(Args, Clone, Debug)]
pub(crate) struct Address {
    /// The registry, as http://host:port or https://host:port.
    #[arg(long)]
    pub(crate) url: Uri,
    #[command(flatten)]
    pub(crate) account: Account,
}

/// Who asks, and what is known of the registry beside its address.
#[derive(Args, Clone, Debug)]
pub(crate) struct Account {
    /// User and password; a token is fetched where the registry asks for one.
    #[arg(short, long, value_name = "USER:PASSWORD")]
    pub(crate) user: Option<String>,
    /// The authority, or the certificate itself, that an https registry is trusted by.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// The registry's process, for its CPU and memory; its children count too.
    #[arg(long)]
    pub(crate) pid: Option<u32>,
}

/// An image of a registry.
#[derive(Args, Clone, Debug)]
pub(crate) struct Image {
    /// The repository: of the image, or pushed to.
    #[arg(long, default_value = "load/r00000")]
    pub(crate) repository: String,
    /// The image's tag.
    #[arg(long, default_value = "v000000")]
    pub(crate) tag: String,
}

/// A registry that was reached, and how to sign in for one repository.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    pub(crate) place: Place,
    pub(crate) repository: String,
    pub(crate) authorization: Option<String>,
    /// The registry's processes, if they are known.
    pub(crate) pids: Vec<u32>,
}

/// A GET and what its answer has to be.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) request: Request,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Registry {
    /// Signs in.
    pub(crate) fn reach(url: &Uri, account: &Account, repository: &str) -> Result<Self> {
        let https = match url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => bail!("the URL has to begin with http:// or https://"),
        };
        let authority = url.authority().context("the URL has no host")?;
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        let address = (authority.host(), port).to_socket_addrs()?.next().context("the host has no address")?;
        let tls = if https {
            let cert_file = account.ca.clone().context("https needs --ca")?;
            let trusted = Certificate { key_file: PathBuf::new(), cert_file };
            Some(trusted.client(Suite::Aes128, false)?)
        } else {
            None
        };
        let place = Place { address, tls };
        let pids = account.pid.map(cpu::family).unwrap_or_default();
        let basic = account
            .user
            .as_ref()
            .map(|user| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(user)));
        let authorization = sign_in(&place, repository, basic)?;
        Ok(Self { place, repository: repository.to_owned(), authorization, pids })
    }

    /// `/v2/REPOSITORY/rest`.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.repository)
    }

    /// A request for a manifest, by tag or by digest.
    pub(crate) fn manifest(&self, method: &str, reference: &str) -> Request {
        Request::new(method, &self.path(&format!("manifests/{reference}")), self.authorization.as_deref(), ACCEPT)
    }

    /// A GET of a blob.
    pub(crate) fn blob(&self, digest: &Digest) -> Request {
        Request::get(&self.path(&format!("blobs/{digest}")), self.authorization.as_deref())
    }

    /// The image's own manifest (the first of an index) and its digest.
    pub(crate) fn image(&self, tag: &str) -> Result<(Manifest, Digest)> {
        let mut reference = tag.to_owned();
        for _ in 0..=MOST_INDEXES {
            let reply = exchange::ask(&self.place, &self.manifest("GET", &reference))?;
            let manifest = Manifest::parse(None, &reply.body).context("the manifest")?;
            match manifest.manifests.first() {
                Some(child) => reference = child.digest.to_string(),
                None => return Ok((manifest, Algorithm::Sha256.digest(&reply.body))),
            }
        }
        bail!("{tag} is an index of indexes")
    }

    /// All blobs of an image.
    pub(crate) fn blobs(&self, tag: &str) -> Result<Vec<Content>> {
        let (manifest, _) = self.image(tag)?;
        let content = |digest: &Digest, size| Content { request: self.blob(digest), digest: *digest, size };
        Ok(manifest.required_blobs().map(|blob| content(&blob.digest, blob.size)).collect())
    }

    /// Pushes a manifest under a tag.
    pub(crate) fn put_manifest(&self, wire: &mut Wire, reference: &str, media_type: &str, bytes: &[u8]) -> Result<()> {
        let more = format!("content-type: {media_type}\r\ncontent-length: {}\r\n", bytes.len());
        let path = self.path(&format!("manifests/{reference}"));
        let put = Request::new("PUT", &path, self.authorization.as_deref(), &more);
        let reply = fetch(wire, &put, bytes)?;
        let said = String::from_utf8_lossy(&reply.body);
        ensure!(reply.status == 201, "PUT of a manifest: {}{said}", reply.answer.text());
        Ok(())
    }

    /// Memory of all its processes; None if they are not known.
    pub(crate) fn memory(&self) -> Result<Option<Memory>> {
        memory(&self.pids)
    }
}

/// Memory of processes together; None of none.
fn memory(pids: &[u32]) -> Result<Option<Memory>> {
    let mut sum = None;
    for pid in pids {
        let one = Memory::of(*pid)?;
        let before = sum.unwrap_or(Memory { own: 0, resident: 0 });
        sum = Some(Memory { own: before.own + one.own, resident: before.resident + one.resident });
    }
    Ok(sum)
}

/// The most memory that a registry held at any look while `work` ran; None if its processes are not known.
pub(crate) fn peak_while<T>(registry: &Registry, work: impl FnOnce() -> Result<T>) -> Result<(T, Option<Memory>)> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut peak = registry.memory()?;
            while !done.load(Ordering::Relaxed) {
                thread::sleep(LOOK_EVERY);
                peak = peak.zip(registry.memory()?).map(|(peak, now)| peak.most(now));
            }
            anyhow::Ok(peak)
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let peak = looking.join().ok().context("the looking panicked")?;
        Ok((result?, peak?))
    })
}

/// What to send as `Authorization`: the password, or a token where the registry offers one at its own address.
fn sign_in(place: &Place, repository: &str, basic: Option<String>) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Token {
        token: String,
    }
    let reply = fetch(&mut Wire::connect(place)?, &Request::get("/v2/", None), &[])?;
    let challenge = reply.answer.header("www-authenticate").unwrap_or_default();
    let asked = parameters(&challenge);
    let Some(realm) = asked.get("realm").filter(|_| challenge.starts_with("Bearer")) else { return Ok(basic) };
    let realm: Uri = realm.parse().context("the realm")?;
    let path = format!(
        "{}?service={}&scope=repository:{repository}:pull,push",
        realm.path(),
        encoded(asked.get("service").copied().unwrap_or_default())
    );
    let reply = exchange::ask(place, &Request::get(&path, basic.as_deref())).context("the token service")?;
    let token: Token = serde_json::from_slice(&reply.body).context("the token service's answer")?;
    Ok(Some(format!("Bearer {}", token.token)))
}

/// `name="value"` of a challenge (RFC 9110, 11.6.1), as registries write it.
fn parameters(challenge: &str) -> HashMap<&str, &str> {
    let (_, list) = challenge.split_once(' ').unwrap_or_default();
    let mut parts = list.split('"');
    let mut found = HashMap::new();
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        found.insert(name.trim_matches([' ', ',', '=']), value);
    }
    found
}

/// For a query: all but letters, digits and a few marks as percent and two digits (RFC 3986).
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_may_have_spaces() {
        assert_eq!(encoded("Docker registry/1.0~x"), "Docker%20registry%2F1.0~x");
    }

    #[test]
    fn a_challenge_is_read_whatever_the_order() {
        let text = r#"Bearer realm="http://a/token",service="a, b",scope="repository:x:pull""#;
        let found = parameters(text);
        assert_eq!((found["realm"], found["service"], found.len()), ("http://a/token", "a, b", 3));
        assert!(parameters("").is_empty());
        assert_eq!(parameters(r#"Basic realm="r""#)["realm"], "r");
    }

    #[test]
    fn memory_of_nobody_is_not_known() {
        assert_eq!(memory(&[]).unwrap(), None);
        let one = memory(&[std::process::id()]).unwrap().unwrap();
        assert!(one.own > 0 && one.resident >= one.own);
    }
}
