//! A repository of a registry, ours or another, and requests for its contents.

use anyhow::{Context as _, Result, bail, ensure};
use d8_registry::oci::{Digest, Manifest};

use crate::client::{Place, Request, Wire, ask, fetch};
use crate::proc::Memory;

/// Types that manifests may have.
const ACCEPT: &str = "accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json\r\n";
/// An index in an index in an index is no image.
const MOST_INDEXES: usize = 3;

/// A repository of a registry, and how to sign in.
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
}

impl Registry {
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

    /// The image's own manifest: the first of an index.
    fn image(&self, tag: &str) -> Result<Manifest> {
        let mut reference = tag.to_owned();
        for _ in 0..=MOST_INDEXES {
            let reply = ask(&self.place, &self.manifest("GET", &reference))?;
            let manifest = Manifest::parse(None, &reply.body).context("the manifest")?;
            match manifest.manifests.first() {
                Some(child) => reference = child.digest.to_string(),
                None => return Ok(manifest),
            }
        }
        bail!("{tag} is an index of indexes")
    }

    /// All blobs of an image.
    pub(crate) fn blobs(&self, tag: &str) -> Result<Vec<Content>> {
        let manifest = self.image(tag)?;
        let content = |digest: &Digest| Content { request: self.blob(digest), digest: *digest };
        Ok(manifest.required_blobs().map(|blob| content(&blob.digest)).collect())
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
        (!self.pids.is_empty()).then(|| Memory::of_all(&self.pids)).transpose()
    }
}
