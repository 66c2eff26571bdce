//! What is pushed: uploads of blobs, and manifests (distribution-spec, "Push"). Of the upstream itself; mirrors are read alone.
//!
//! An upload goes to the host that began it and nowhere else: of the `Location` that a registry gives, path and query count.
//! Registries behind a proxy often name a scheme or port there that nobody outside knows.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::time::Instant;

use super::Upstream;
use super::blobs::is_page;
use super::body::announced;
use super::endpoint::{Access, Call, Endpoint, Side};
use super::error::UpstreamError;
use super::forward::ForwardedBody;
use super::manifests::{is_manifests, told_digest};
use super::transport::Outgoing;
use crate::oci::{Digest, Reference};

/// Longest `Location` that is taken.
const MOST_LOCATION: usize = 8 << 10;
/// The type of a blob's bytes on their way.
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// What a registry answered to the wish to upload a blob.
#[derive(Debug)]
pub enum BegunUpload {
    /// It has the blob now, from the other repository.
    Mounted,
    /// It takes the bytes.
    Begun(Upload),
}

/// An upload that a registry has begun.
#[derive(Clone, Debug)]
pub struct Upload {
    /// Path and query.
    target: String,
}

impl Upstream {
    /// Whether the registry says that the repository has a blob of this length. Whatever else it answers about the blob is no: the
    /// push that follows hears why. By HEAD alone, as who may push.
    ///
    /// Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`]: it gave no answer, or is asked too often.
    pub async fn has_blob(
        &self,
        child: &str,
        (digest, length): (&Digest, u64),
        deadline: Instant,
    ) -> Result<bool, UpstreamError> {
        self.rounds(child, deadline, |endpoint, deadline| {
            Box::pin(endpoint.has_blob(child, (digest, length), deadline))
        })
        .await
    }

    /// The manifest that the registry says it has under a tag or digest; `None`: none. Whatever else it answers is none: the push
    /// that follows hears why.
    ///
    /// Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`]: it gave no answer, or is asked too often.
    pub async fn has_manifest(
        &self,
        child: &str,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<Option<Digest>, UpstreamError> {
        self.rounds(child, deadline, |endpoint, deadline| Box::pin(endpoint.has_manifest(child, reference, deadline)))
            .await
    }

    /// Begins the upload of a blob; with `mount` the registry is asked to take it from another of its repositories, `child` too.
    /// Asked again after a failure until the deadline: what was begun twice ends by itself at the registry.
    ///
    /// Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn begin_upload(
        &self,
        child: &str,
        mount: Option<(&Digest, &str)>,
        deadline: Instant,
    ) -> Result<BegunUpload, UpstreamError> {
        self.rounds(child, deadline, |endpoint, deadline| Box::pin(endpoint.begin_upload(child, mount, deadline))).await
    }

    /// Sends a blob of `length` bytes, and ends its upload. Once: a body is there once, and another try begins another upload. The
    /// answer is waited for behind the last byte for 10 minutes as long as the host is up.
    ///
    /// Safe to drop: ends the request, and the registry has no whole body.
    ///
    /// # Errors
    /// [`UpstreamError`]; also where the body's sender was dropped before its end.
    pub async fn finish_upload(
        &self,
        child: &str,
        upload: &Upload,
        (digest, length): (&Digest, u64),
        body: ForwardedBody,
    ) -> Result<(), UpstreamError> {
        let none = || UpstreamError::invalid(self.host(), "has no endpoint");
        let endpoint = self.0.endpoints.first().ok_or_else(none)?;
        let sent = Box::pin(endpoint.finish_upload(child, upload, (digest, length), body)).await;
        sent.map_err(|error| error.hidden(&self.0.shared.secrets))
    }

    /// Puts a manifest, under its digest or a tag. Asked again after a failure until the deadline.
    ///
    /// Safe to drop: ends the request; whether the registry has it is not known then.
    ///
    /// # Errors
    /// [`UpstreamError`]; `Invalid` where the registry says another digest.
    pub async fn put_manifest(
        &self,
        child: &str,
        reference: &Reference,
        (media_type, bytes, digest): (&str, &Bytes, &Digest),
        deadline: Instant,
    ) -> Result<(), UpstreamError> {
        self.rounds(child, deadline, |endpoint, deadline| {
            Box::pin(endpoint.put_manifest(child, reference, (media_type, bytes, digest), deadline))
        })
        .await
    }
}

impl Endpoint {
    async fn has_blob(
        self: &Arc<Self>,
        child: &str,
        (digest, length): (&Digest, u64),
        deadline: Instant,
    ) -> Result<bool, UpstreamError> {
        let call = Call { access: Access::Push, ..self.call(Method::HEAD, child, &format!("blobs/{digest}")) };
        match Box::pin(self.send(&call, deadline)).await {
            Ok(answer) => {
                let headers = answer.response.headers();
                // A registry that tells no length has it; of a page for people the length is another one.
                let is_length = announced(headers).is_none_or(|told| told == length);
                Ok(answer.response.status() == StatusCode::OK && is_length && !is_page(headers, digest))
            }
            Err(error) if is_no(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn has_manifest(
        self: &Arc<Self>,
        child: &str,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<Option<Digest>, UpstreamError> {
        let call = Call { access: Access::Push, ..self.manifest_call(Method::HEAD, child, reference) };
        match Box::pin(self.send(&call, deadline)).await {
            Ok(answer) if is_manifests(answer.response.headers()) => {
                match (told_digest(answer.response.headers()), reference) {
                    (Some(told), _) => Ok(Some(told)),
                    (None, Reference::Digest(digest)) => Ok(Some(*digest)),
                    (None, Reference::Tag(_)) => {
                        self.manifest(child, reference, deadline).await.map(|manifest| Some(manifest.digest))
                    }
                }
            }
            Ok(_) => Ok(None),
            Err(error) if is_no(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn begin_upload(
        self: &Arc<Self>,
        child: &str,
        mount: Option<(&Digest, &str)>,
        deadline: Instant,
    ) -> Result<BegunUpload, UpstreamError> {
        let mut call = self.call(Method::POST, child, "blobs/uploads/");
        call.access = Access::Push;
        call.patient = true;
        if let Some((digest, from)) = mount {
            let from = self.repository(from);
            let query = form_urlencoded::Serializer::new(String::new())
                .append_pair("mount", &digest.to_string())
                .append_pair("from", &from)
                .finish();
            call.target = format!("{}?{query}", call.target);
            call.also = Some(from);
        }
        let answer = Box::pin(self.send(&call, deadline)).await?;
        let (status, host) = (answer.response.status(), answer.host.clone());
        let location = answer.response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        self.drain(answer.response, &host).await;
        if mount.is_some() && status == StatusCode::CREATED {
            return Ok(BegunUpload::Mounted);
        }
        let target = location.and_then(|location| self.upload_target(&call.target, &location));
        let nowhere = || UpstreamError::invalid(&host, "begins an upload without saying where, or at another host");
        target.map(|target| BegunUpload::Begun(Upload { target })).ok_or_else(nowhere)
    }

    /// Path and query of an upload's address, if it is at this host.
    fn upload_target(&self, asked: &str, location: &str) -> Option<String> {
        let url = self.url(asked).ok()?.join(location).ok().filter(|_| location.len() <= MOST_LOCATION)?;
        let is_here = url.host_str() == self.origin.host_str() && matches!(url.scheme(), "http" | "https");
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        is_here.then(|| format!("{}{query}", url.path()))
    }

    async fn finish_upload(
        self: &Arc<Self>,
        child: &str,
        upload: &Upload,
        (digest, length): (&Digest, u64),
        body: ForwardedBody,
    ) -> Result<(), UpstreamError> {
        let mut call = self.call(Method::PUT, child, "");
        call.access = Access::Push;
        call.target = with_digest(&upload.target, digest);
        let deadline = Instant::now() + self.shared.limits.connect + self.shared.limits.first_byte;
        let signed = self.authorization(&call, deadline).await?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(CONTENT_TYPE, BYTES);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        if let Some(signed) = &signed {
            headers.insert(AUTHORIZATION, signed.header.clone());
        }
        let url = self.url(&call.target)?;
        let outgoing = Outgoing { method: Method::PUT, url, headers, bulk: true, patient: true, body: None };
        let response = self.transport.forward(outgoing, Some(body.outgoing()), super::forward::PATIENCE).await?;
        let status = response.status();
        if status.is_success() {
            let told = told_digest(response.headers());
            let host = self.host.clone();
            self.drain(response, &host).await;
            return is_it(&host, told, digest);
        }
        if status == StatusCode::UNAUTHORIZED {
            // A token that ended on the way: the next try asks for another one.
            self.learn(response.headers(), &call.usual_scope(), signed.as_ref().map(|signed| &signed.header))?;
        }
        let side = Side { own: true, signed: signed.is_some(), access: Access::Push };
        Err(self.refusal(response, &self.host, side, Instant::now() + self.shared.limits.connect).await)
    }

    async fn put_manifest(
        self: &Arc<Self>,
        child: &str,
        reference: &Reference,
        (media_type, bytes, digest): (&str, &Bytes, &Digest),
        deadline: Instant,
    ) -> Result<(), UpstreamError> {
        let media_type = HeaderValue::from_str(media_type).map_err(|_| {
            UpstreamError::invalid(&self.host, "is not given a manifest whose type fits into no header")
        })?;
        let call = Call {
            access: Access::Push,
            patient: true,
            content: Some((media_type, bytes.clone())),
            ..self.manifest_call(Method::PUT, child, reference)
        };
        let answer = Box::pin(self.send(&call, deadline)).await?;
        let (told, host) = (told_digest(answer.response.headers()), answer.host.clone());
        self.drain(answer.response, &host).await;
        is_it(&host, told, digest)
    }
}

/// Whether a refusal says that it is not there, or not to be seen.
fn is_no(error: &UpstreamError) -> bool {
    matches!(error.status(), Some(400..=499))
        && !matches!(error.status(), Some(407 | 408 | 429))
        && !error.is_circuit_open()
}

/// Whether a registry took it for what it is.
fn is_it(host: &str, told: Option<Digest>, digest: &Digest) -> Result<(), UpstreamError> {
    match told {
        Some(told) if told.algorithm() == digest.algorithm() && told != *digest => {
            Err(UpstreamError::invalid(host, format!("says that it has {told}, where {digest} was pushed")))
        }
        _ => Ok(()),
    }
}

/// The address that ends an upload: what the registry gave, with the digest behind it.
fn with_digest(target: &str, digest: &Digest) -> String {
    let between = if target.contains('?') { '&' } else { '?' };
    let digest = form_urlencoded::Serializer::new(String::new()).append_pair("digest", &digest.to_string()).finish();
    format!("{target}{between}{digest}")
}
