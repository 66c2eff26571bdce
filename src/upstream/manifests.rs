//! Manifests, and which one a tag names.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::time::Instant;

use super::Upstream;
use super::body::announced;
use super::endpoint::{Answer, Call, Endpoint, header};
use super::error::{Asked, UpstreamError};
use crate::oci::{Algorithm, Digest, Manifest, ManifestKind, Reference, Tag};
use crate::telemetry::UpstreamCause;

/// The header with a manifest's digest (distribution-spec, "Pulling manifests").
const CONTENT_DIGEST: &str = "docker-content-digest";

/// A manifest as the upstream gave it, checked against every digest that was told of it.
#[derive(Clone, Debug)]
pub struct UpstreamManifest {
    /// Digest of the bytes: by the algorithm that was asked for, else by the one the upstream uses.
    pub digest: Digest,
    /// The `Content-Type` it came with; may be odd or empty.
    pub content_type: String,
    /// A JSON object; whether it is a manifest is for the reader to find out.
    pub bytes: Bytes,
}

/// Facts that a HEAD of a manifest tells. None is proven by bytes.
#[derive(Clone, Debug)]
pub struct ManifestFacts {
    /// Digest as the upstream told it, or as its bytes have it where it did not.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
    /// The media type of a manifest.
    pub content_type: String,
}

/// The manifest that a tag names now.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Digest of the manifest.
    pub digest: Digest,
    /// The manifest itself, when the upstream did not tell its digest without it.
    pub manifest: Option<UpstreamManifest>,
}

impl Upstream {
    /// Fetches a manifest, whole. `child`: the repository below the configured one, `""` for itself.
    ///
    /// Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`]; `Invalid` for content that is not what its digest says.
    pub async fn manifest(
        &self,
        child: &str,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<UpstreamManifest, UpstreamError> {
        self.rounds(child, deadline, |endpoint, deadline| Box::pin(endpoint.manifest(child, reference, deadline))).await
    }

    /// Whether a manifest is there: by HEAD, or by GET where HEAD is refused. "It is not there" is an error of cause
    /// `NotFound`.
    ///
    /// Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn exists(&self, child: &str, reference: &Reference, deadline: Instant) -> Result<(), UpstreamError> {
        self.rounds(child, deadline, |endpoint, deadline| Box::pin(endpoint.exists(child, reference, deadline))).await
    }

    /// Digest, length and type of a manifest: by HEAD, or by GET where HEAD is refused or lacks one of the three.
    ///
    /// Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`]; `NotFound` only after a GET said so too, or a registry's own word.
    pub async fn manifest_facts(
        &self,
        child: &str,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<ManifestFacts, UpstreamError> {
        self.rounds(child, deadline, |endpoint, deadline| Box::pin(endpoint.manifest_facts(child, reference, deadline)))
            .await
    }

    /// Finds out which manifest `tag` names: by HEAD, or by GET where HEAD is refused or tells no digest.
    ///
    /// Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn resolve(&self, child: &str, tag: &Tag, deadline: Instant) -> Result<Resolved, UpstreamError> {
        self.rounds(child, deadline, |endpoint, deadline| Box::pin(endpoint.resolve(child, tag, deadline))).await
    }
}

impl Endpoint {
    pub(super) async fn manifest(
        self: &Arc<Self>,
        child: &str,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<UpstreamManifest, UpstreamError> {
        let answer = self.ask_manifest(Method::GET, child, reference, deadline).await?;
        if answer.response.status() != StatusCode::OK {
            let what = format!("answered {} where a manifest was to come", answer.response.status());
            return Err(UpstreamError::invalid(&answer.host, what));
        }
        let host = answer.host.clone();
        let told = told_digests(answer.response.headers());
        let content_type = header(answer.response.headers(), CONTENT_TYPE);
        let bytes = self.whole(answer, self.shared.limits.manifest_bytes, deadline).await?;
        let asked = match reference {
            Reference::Digest(digest) => std::slice::from_ref(digest),
            Reference::Tag(_) => &told[..],
        };
        // Of several that contradict each other the bytes' own is right.
        let given = asked.iter().find(|digest| digest.algorithm().digest(&bytes) == **digest);
        let digest = given.copied().unwrap_or_else(|| Algorithm::Sha256.digest(&bytes));
        if given.is_none() && !asked.is_empty() {
            let what = format!("sent a manifest that is not {reference}: its bytes have the digest {digest}");
            return Err(UpstreamError::invalid(&host, what));
        }
        // A page for people, or another service's JSON, sent with status 200, must not pass for a manifest.
        let is_json =
            bytes.trim_ascii_start().first() == Some(&b'{') && serde_json::from_slice::<IgnoredAny>(&bytes).is_ok();
        if !is_json || (asked.is_empty() && !names_itself(&content_type, &bytes)) {
            let what = format!("sent something of type {content_type:?} where a manifest was to come");
            return Err(UpstreamError::invalid(&host, what));
        }
        Ok(UpstreamManifest { digest, content_type, bytes })
    }

    pub(super) async fn exists(
        self: &Arc<Self>,
        child: &str,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<(), UpstreamError> {
        match self.ask_manifest(Method::HEAD, child, reference, deadline).await {
            Ok(answer) if is_manifests(answer.response.headers()) => Ok(()),
            Err(error) if !is_head_refused(&error) => Err(error),
            // HEAD is refused, or something answers it that may be no registry: the bytes say what is there.
            _ => self.manifest(child, reference, deadline).await.map(|_| ()),
        }
    }

    async fn manifest_facts(
        self: &Arc<Self>,
        child: &str,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<ManifestFacts, UpstreamError> {
        match self.ask_manifest(Method::HEAD, child, reference, deadline).await {
            Ok(answer) => {
                if let Some(facts) = facts(answer.response.headers(), reference) {
                    return Ok(facts);
                }
            }
            Err(error) if may_differ_from_get(&error) => {}
            Err(error) => return Err(error),
        }
        let manifest = self.manifest(child, reference, deadline).await?;
        let content_type = match Manifest::kept(&manifest.bytes) {
            // What it is, its own bytes say better than the upstream's header.
            Ok(kept) if kept.other.is_none() || manifest.content_type.is_empty() => kept.media_type().into_owned(),
            _ => manifest.content_type,
        };
        Ok(ManifestFacts { digest: manifest.digest, size: manifest.bytes.len() as u64, content_type })
    }

    pub(super) async fn resolve(
        self: &Arc<Self>,
        child: &str,
        tag: &Tag,
        deadline: Instant,
    ) -> Result<Resolved, UpstreamError> {
        let reference = Reference::Tag(tag.clone());
        match self.ask_manifest(Method::HEAD, child, &reference, deadline).await {
            Ok(answer) => {
                if let Some(digest) = told_digest(answer.response.headers()) {
                    return Ok(Resolved { digest, manifest: None });
                }
            }
            Err(error) if may_differ_from_get(&error) => {}
            Err(error) => return Err(error),
        }
        let manifest = self.manifest(child, &reference, deadline).await?;
        Ok(Resolved { digest: manifest.digest, manifest: Some(manifest) })
    }

    pub(super) async fn ask_manifest(
        self: &Arc<Self>,
        method: Method,
        child: &str,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<Answer, UpstreamError> {
        Box::pin(self.send(&self.manifest_call(method, child, reference), deadline)).await
    }

    pub(super) fn manifest_call(&self, method: Method, child: &str, reference: &Reference) -> Call {
        let mut call = self.call(method, child, &format!("manifests/{reference}"));
        call.accept = Some(accepted());
        call
    }
}

/// Whether GET may be answered although HEAD was not: some registries don't know HEAD, some storages sign for GET only.
/// Only an answer about the content itself tells that, not a token server's, and not what was refused a moment ago.
pub(super) fn is_head_refused(error: &UpstreamError) -> bool {
    matches!(error.status(), Some(400 | 401 | 403 | 405 | 501))
        && matches!(error.facts().asked, Asked::Content { .. } | Asked::Elsewhere)
}

/// Whether GET may say otherwise than HEAD did. A HEAD has no body that would tell a registry's 404 from a portal's, and some
/// registries answer it to any HEAD.
fn may_differ_from_get(error: &UpstreamError) -> bool {
    is_head_refused(error) || (error.cause() == UpstreamCause::NotFound && !error.is_registrys_own())
}

/// The facts of the manifest `reference` in the head of an answer; `None` if one is missing or contradicts the digest that
/// was asked for.
fn facts(headers: &HeaderMap, reference: &Reference) -> Option<ManifestFacts> {
    let (told, size) = (told_digest(headers)?, announced(headers)?);
    let content_type = ManifestKind::of(&header(headers, CONTENT_TYPE))?.as_str().to_owned();
    let fits = match reference {
        Reference::Digest(digest) => *digest == told,
        Reference::Tag(_) => true,
    };
    // Some announce the length of the body that a HEAD does not have.
    (fits && size > 0).then_some(ManifestFacts { digest: told, size, content_type })
}

/// Whether the head of an answer is that of a manifest: it tells a digest, or a manifest's type.
pub(super) fn is_manifests(headers: &HeaderMap) -> bool {
    told_digest(headers).is_some() || ManifestKind::of(&header(headers, CONTENT_TYPE)).is_some()
}

/// Whether content without a digest to hold it against says that it is a manifest: by its type or its version.
fn names_itself(content_type: &str, bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Version {
        #[serde(rename = "schemaVersion")]
        schema_version: Option<IgnoredAny>,
    }
    ManifestKind::of(content_type).is_some()
        || serde_json::from_slice(bytes).is_ok_and(|version: Version| version.schema_version.is_some())
}

/// Every kind of manifest that can be stored, whatever a client of ours accepts.
fn accepted() -> HeaderValue {
    let all: Vec<_> = ManifestKind::ALL.iter().map(|kind| kind.as_str()).collect();
    HeaderValue::from_str(&all.join(", ")).unwrap_or_else(|_| HeaderValue::from_static("*/*"))
}

/// The digests in all fields of the name, which proxies fold into lists; one that we can't compute counts as none.
fn told_digests(headers: &HeaderMap) -> Vec<Digest> {
    let fields = headers.get_all(CONTENT_DIGEST).iter().filter_map(|field| field.to_str().ok());
    let mut all: Vec<Digest> = Vec::new();
    for digest in
        fields.flat_map(|field| field.split(',')).filter_map(|text| text.trim().trim_matches('"').parse().ok())
    {
        if !all.contains(&digest) {
            all.push(digest);
        }
    }
    all
}

/// The one digest that an answer tells; two of one algorithm tell nothing.
pub(super) fn told_digest(headers: &HeaderMap) -> Option<Digest> {
    let told = told_digests(headers);
    let is_only = |digest: &&Digest| told.iter().filter(|other| other.algorithm() == digest.algorithm()).count() == 1;
    told.iter().find(is_only).copied()
}
