//! Whether the upstream answers and takes our credentials.

use std::sync::Arc;

use http::Method;
use http::header::CONTENT_TYPE;
use tokio::time::Instant;

use super::Upstream;
use super::endpoint::{Answer, Endpoint, header};
use super::error::UpstreamError;
use super::lists::is_page_size_refused;
use super::manifests::{is_head_refused, is_manifests};
use super::request::share;
use crate::oci::{Digest, Reference};
use crate::telemetry::{ProbeOutcome, UpstreamCause};

/// The result of a probe.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Its class, counted in the metrics already.
    pub outcome: ProbeOutcome,
    /// One sentence for an administrator.
    pub words: String,
    /// The error behind it, if it is one.
    pub error: Option<UpstreamError>,
}

impl Upstream {
    /// Signs in and asks for something small: the manifest `last` seen there (its child and digest), else a list of one
    /// tag. A mirror is asked only when the upstream gives no answer.
    ///
    /// Safe to drop: ends the request, nothing is counted.
    pub async fn probe(&self, last: Option<(String, Digest)>, deadline: Instant) -> Probe {
        let mut found: Option<Probe> = None;
        for (index, endpoint) in self.0.endpoints.iter().enumerate() {
            let left = self.0.endpoints.len() - index;
            let probe = Box::pin(endpoint.probe(last.as_ref(), share(deadline, left))).await;
            let answered = probe.outcome != ProbeOutcome::Unreachable;
            if answered || found.is_none() {
                found = Some(probe);
            }
            if answered {
                break;
            }
        }
        let probe = found.unwrap_or_else(|| Probe {
            outcome: ProbeOutcome::Unreachable,
            words: "no upstream is configured".to_owned(),
            error: None,
        });
        self.0.shared.metrics.upstream_probe(probe.outcome);
        probe
    }
}

impl Endpoint {
    async fn probe(self: &Arc<Self>, last: Option<&(String, Digest)>, deadline: Instant) -> Probe {
        if let Some((child, digest)) = last {
            let mut call = self.manifest_call(Method::HEAD, child, &Reference::Digest(*digest));
            call.probe = true;
            let mut asked = Box::pin(self.send(&call, deadline)).await;
            let is_told = |answer: &Answer| is_manifests(answer.response.headers());
            if asked.as_ref().map_or_else(is_head_refused, |answer| !is_told(answer)) {
                call.method = Method::GET;
                asked = Box::pin(self.send(&call, deadline)).await;
            }
            match asked {
                // It may have been deleted there.
                Err(error) if error.cause() == UpstreamCause::NotFound => {}
                // Nothing in the head says that it is a manifest: the bytes have to.
                Ok(answer) if !is_told(&answer) => {
                    let read = self.is_content(answer, digest, deadline).await;
                    return self.found(read);
                }
                result => return self.found(result.map(|_| ())),
            }
        }
        let mut call = self.call(Method::GET, "", "tags/list?n=1");
        call.probe = true;
        if call.repository.is_empty() {
            "/v2/".clone_into(&mut call.target);
        }
        let mut asked = Box::pin(self.send(&call, deadline)).await;
        if let Err(error) = &asked
            && is_page_size_refused(error)
            && let Some((list, _)) = call.target.split_once('?')
        {
            call.target = list.to_owned();
            asked = Box::pin(self.send(&call, deadline)).await;
        }
        let read = match asked {
            Ok(answer) => self.is_registrys(answer, !call.repository.is_empty(), deadline).await,
            Err(error) => Err(error),
        };
        self.found(read)
    }

    /// Whether a good answer is the content of `digest`.
    async fn is_content(&self, answer: Answer, digest: &Digest, deadline: Instant) -> Result<(), UpstreamError> {
        let host = answer.host.clone();
        let content_type = header(answer.response.headers(), CONTENT_TYPE);
        let body = self.whole(answer, self.shared.limits.manifest_bytes, deadline).await?;
        if digest.algorithm().digest(&body) == *digest { Ok(()) } else { Err(impostor(&host, &content_type)) }
    }

    /// Whether a good answer is a registry's: a portal answers everything with a page.
    async fn is_registrys(&self, answer: Answer, is_list: bool, deadline: Instant) -> Result<(), UpstreamError> {
        let host = answer.host.clone();
        let content_type = header(answer.response.headers(), CONTENT_TYPE);
        let body = self.whole(answer, self.shared.limits.list_bytes, deadline).await?;
        let is_object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&body);
        let is_registrys = match is_object {
            Ok(object) if is_list => object.contains_key("tags"),
            Ok(_) => true,
            // Some answer `/v2/` with nothing, or with a word.
            Err(_) => !is_list && !content_type.starts_with("text/html"),
        };
        if is_registrys {
            return Ok(());
        }
        Err(impostor(&host, &content_type))
    }

    fn found(&self, result: Result<(), UpstreamError>) -> Probe {
        let Err(error) = result.map_err(|error| error.hidden(&self.shared.secrets)) else {
            let words = format!("{} answers and takes the credentials", self.host);
            return Probe { outcome: ProbeOutcome::Ok, words, error: None };
        };
        let outcome = match error.cause() {
            UpstreamCause::Unauthorized | UpstreamCause::Forbidden => ProbeOutcome::Auth,
            UpstreamCause::NotFound => ProbeOutcome::NotFound,
            _ => ProbeOutcome::Unreachable,
        };
        let words = match outcome {
            ProbeOutcome::NotFound => {
                format!("{} answers, but has no repository {:?}", self.host, self.repository(""))
            }
            ProbeOutcome::Auth => format!("{error}; a licence may have expired"),
            _ => error.to_string(),
        };
        Probe { outcome, words, error: Some(error) }
    }
}

/// The error of an answer that no registry gives.
fn impostor(host: &str, content_type: &str) -> UpstreamError {
    let what = format!(
        "sent something of type {content_type:?} that is no registry's answer: a login page or a filter may stand before it"
    );
    UpstreamError::invalid(host, what)
}
