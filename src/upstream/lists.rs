//! Lists that come in pages: tags, what refers to a manifest, and repositories. All of a list or an error, never a part.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use http::header::{CONTENT_TYPE, LINK};
use http::{HeaderValue, Method};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::Upstream;
use super::blobs::Patience;
use super::endpoint::{Call, Endpoint, header, not_followed};
use super::error::UpstreamError;
use super::redirect;
use crate::oci::lenient::{self, Text};
use crate::oci::{Digest, ManifestKind, Reference};
use crate::telemetry::UpstreamCause;

/// Tags per page; more is refused by some registries.
const PAGE: usize = 1000;
/// Digits of a digest that fit into a fallback tag (distribution-spec, "Referrers Tag Schema").
const FALLBACK_HEX: usize = 64;

impl Upstream {
    /// All tags of a repository, sorted, without doubles. `patience`: how long it may take in all, of the last endpoint
    /// longer than it is asked.
    ///
    /// Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`]; a list that can't be had whole is one.
    pub async fn tags(&self, child: &str, patience: impl Into<Patience>) -> Result<Vec<String>, UpstreamError> {
        let Patience { asking, answer } = patience.into();
        self.rounds(child, asking, |endpoint, share| Box::pin(endpoint.tags(child, Patience { asking: share, answer })))
            .await
    }

    /// All repositories that the registry lists (`_catalog` of Docker's API), sorted, without doubles; of an upstream whose own
    /// repository is `""`. Many registries list none. `patience` as of [`Upstream::tags`].
    ///
    /// Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`]; a list that can't be had whole is one.
    pub async fn repositories(&self, patience: impl Into<Patience>) -> Result<Vec<String>, UpstreamError> {
        let Patience { asking, answer } = patience.into();
        self.rounds("", asking, |endpoint, share| Box::pin(endpoint.repositories(Patience { asking: share, answer })))
            .await
    }

    /// The descriptors of all manifests that refer to `subject` (distribution-spec, "Listing Referrers"), from the
    /// fallback tag if the upstream has no such list. `patience` as of [`Upstream::tags`].
    ///
    /// Safe to drop: ends the request.
    ///
    /// # Errors
    /// [`UpstreamError`]; "nothing refers to it" is an empty list.
    pub async fn referrers(
        &self,
        child: &str,
        subject: &Digest,
        patience: impl Into<Patience>,
    ) -> Result<Vec<Box<RawValue>>, UpstreamError> {
        let Patience { asking, answer } = patience.into();
        self.rounds(child, asking, |endpoint, share| {
            Box::pin(endpoint.referrers(child, subject, Patience { asking: share, answer }))
        })
        .await
    }
}

/// One page of a list, read as leniently as such pages are written.
trait Page: for<'a> Deserialize<'a> + Send {
    /// Whether it is a refusal that came with status 200: to take it for a list would make a shorter one.
    fn is_refusal(&self) -> bool;
}

#[derive(Deserialize)]
struct TagPage {
    #[serde(default, deserialize_with = "lenient::list")]
    tags: Vec<Text>,
    #[serde(default, deserialize_with = "lenient::list")]
    errors: Vec<IgnoredAny>,
}

impl Page for TagPage {
    fn is_refusal(&self) -> bool {
        self.tags.is_empty() && !self.errors.is_empty()
    }
}

#[derive(Deserialize)]
struct CatalogPage {
    #[serde(default, deserialize_with = "lenient::list")]
    repositories: Vec<Text>,
    #[serde(default, deserialize_with = "lenient::list")]
    errors: Vec<IgnoredAny>,
}

impl Page for CatalogPage {
    fn is_refusal(&self) -> bool {
        self.repositories.is_empty() && !self.errors.is_empty()
    }
}

#[derive(Deserialize)]
struct ReferrersPage {
    #[serde(default, deserialize_with = "lenient::list")]
    manifests: Vec<Box<RawValue>>,
    #[serde(default, deserialize_with = "lenient::list")]
    errors: Vec<IgnoredAny>,
}

impl Page for ReferrersPage {
    fn is_refusal(&self) -> bool {
        self.manifests.is_empty() && !self.errors.is_empty()
    }
}

/// Whether an upstream answers so because of how many entries were asked for: harmless to ask without the number.
pub(super) fn is_page_size_refused(error: &UpstreamError) -> bool {
    matches!(error.status(), Some(400 | 405 | 406 | 409 | 411..=428 | 431..=499 | 501)) && !error.is_circuit_open()
}

impl Endpoint {
    /// A question for a page. A registry may have to put the list together before its first byte.
    fn list_call(&self, child: &str, tail: &str) -> Call {
        Call { patient: self.is_last, ..self.call(Method::GET, child, tail) }
    }

    /// Until when all pages have to be there. Endpoints with others behind them leave time for those.
    fn list_deadline(&self, patience: Patience) -> Instant {
        if self.is_last { patience.asking.max(patience.answer) } else { patience.asking }
    }

    async fn tags(self: &Arc<Self>, child: &str, patience: Patience) -> Result<Vec<String>, UpstreamError> {
        let deadline = self.list_deadline(patience);
        let mut all = BTreeSet::new();
        let mut take = |page: TagPage| all.extend(page.tags.into_iter().map(|Text(tag)| tag));
        let first = self.list_call(child, &format!("tags/list?n={PAGE}"));
        match self.pages(first, deadline, &mut take).await {
            Ok(()) => {}
            // It may not like the size of the page.
            Err(Broken { error, begun: false }) if is_page_size_refused(&error) => {
                let first = self.list_call(child, "tags/list");
                self.pages(first, deadline, &mut take).await.map_err(|broken| broken.error)?;
            }
            Err(Broken { error, .. }) => return Err(error),
        }
        Ok(all.into_iter().collect())
    }

    async fn repositories(self: &Arc<Self>, patience: Patience) -> Result<Vec<String>, UpstreamError> {
        let deadline = self.list_deadline(patience);
        let mut all = BTreeSet::new();
        let mut take = |page: CatalogPage| all.extend(page.repositories.into_iter().map(|Text(name)| name));
        let call = |target: String| Call { target, ..self.list_call("", "") };
        match self.pages(call(format!("/v2/_catalog?n={PAGE}")), deadline, &mut take).await {
            Ok(()) => {}
            // It may not like the size of the page.
            Err(Broken { error, begun: false }) if is_page_size_refused(&error) => {
                let first = call("/v2/_catalog".to_owned());
                self.pages(first, deadline, &mut take).await.map_err(|broken| broken.error)?;
            }
            Err(Broken { error, .. }) => return Err(error),
        }
        Ok(all.into_iter().collect())
    }

    async fn referrers(
        self: &Arc<Self>,
        child: &str,
        subject: &Digest,
        patience: Patience,
    ) -> Result<Vec<Box<RawValue>>, UpstreamError> {
        let deadline = self.list_deadline(patience);
        let mut all = Vec::new();
        let mut take = |page: ReferrersPage| all.extend(page.manifests);
        let mut first = self.list_call(child, &format!("referrers/{subject}"));
        first.accept = Some(HeaderValue::from_static(ManifestKind::OciIndex.as_str()));
        let without = match self.pages(first, deadline, &mut take).await {
            Ok(()) => return Ok(all),
            Err(Broken { error, begun: false }) if has_no_list(&error) => error,
            Err(Broken { error, .. }) => return Err(error),
        };
        let refused = matches!(without.cause(), UpstreamCause::Unauthorized | UpstreamCause::Forbidden);
        match self.fallback(child, subject, deadline).await {
            Ok(found) => Ok(found),
            Err(error) if error.cause() == UpstreamCause::NotFound => Ok(Vec::new()),
            Err(_) if refused => Err(without),
            Err(error) => Err(error),
        }
    }

    /// Reads the tag under which clients keep the list where the registry does not (distribution-spec, "Referrers Tag
    /// Schema").
    async fn fallback(
        self: &Arc<Self>,
        child: &str,
        subject: &Digest,
        deadline: Instant,
    ) -> Result<Vec<Box<RawValue>>, UpstreamError> {
        let mut hex = subject.hex();
        hex.truncate(FALLBACK_HEX);
        let tag = format!("{}-{hex}", subject.algorithm());
        let Ok(tag) = tag.parse() else { return Ok(Vec::new()) };
        let manifest = self.manifest(child, &Reference::Tag(tag), deadline).await?;
        if subject.algorithm().digest(&manifest.bytes) == *subject {
            // Some registries resolve such a tag to the subject: the children of an index do not refer to it.
            return Ok(Vec::new());
        }
        let page: ReferrersPage = serde_json::from_slice(&manifest.bytes)
            .map_err(|_| UpstreamError::invalid(&self.host, "keeps referrers under a tag that is no index"))?;
        Ok(page.manifests)
    }

    /// Reads all pages from `call` on.
    async fn pages<T: Page>(
        self: &Arc<Self>,
        call: Call,
        deadline: Instant,
        take: &mut (dyn FnMut(T) + Send),
    ) -> Result<(), Broken> {
        let mut seen = HashSet::new();
        self.follow_pages(call, deadline, take, &mut seen).await.map_err(|error| {
            let begun = !seen.is_empty();
            // Only of the first page "not there" says that the list is not there.
            let is_lie = begun && matches!(error.cause(), UpstreamCause::NotFound | UpstreamCause::Invalid);
            if is_lie {
                let what = format!("began a list and did not give the rest of it ({error})");
                return Broken { error: UpstreamError::invalid(&self.host, what), begun };
            }
            Broken { error, begun }
        })
    }

    async fn follow_pages<T: Page>(
        self: &Arc<Self>,
        mut call: Call,
        deadline: Instant,
        take: &mut (dyn FnMut(T) + Send),
        seen: &mut HashSet<String>,
    ) -> Result<(), UpstreamError> {
        let limits = &self.shared.limits;
        let mut left = limits.list_bytes;
        loop {
            let answer = Box::pin(self.send(&call, deadline)).await?;
            let host = answer.host.clone();
            let links = answer.response.headers().get_all(LINK).iter();
            let links: Vec<_> = links.map(|link| String::from_utf8_lossy(link.as_bytes()).into_owned()).collect();
            let content_type = header(answer.response.headers(), CONTENT_TYPE);
            let bytes = self.whole(answer, left, deadline).await?;
            left -= bytes.len().min(left);
            let page = serde_json::from_slice(&bytes).ok().filter(|page: &T| !page.is_refusal());
            take(page.ok_or_else(|| {
                let what = format!("sent something of type {content_type:?} where a list was to come");
                UpstreamError::invalid(&host, what)
            })?);
            let from = self.url(&call.target)?;
            let links: Vec<_> = links.iter().map(String::as_str).collect();
            let next = redirect::next_page(&from, &links).map_err(|reason| not_followed(&host, reason))?;
            let Some(next) = next else { return Ok(()) };
            let is_new = seen.insert(std::mem::replace(&mut call.target, next));
            if !is_new || seen.contains(&call.target) || seen.len() >= limits.list_pages {
                return Err(UpstreamError::invalid(&host, "sends a list without end"));
            }
        }
    }
}

/// A list that did not come whole.
struct Broken {
    error: UpstreamError,
    /// Its first page had come.
    begun: bool,
}

/// Whether an upstream answers so because it knows no list of referrers: an old one, or one that shows a page for
/// people. "Refused" is tried by tag too: some refuse whatever they don't know.
fn has_no_list(error: &UpstreamError) -> bool {
    match error.cause() {
        UpstreamCause::NotFound | UpstreamCause::Unauthorized | UpstreamCause::Forbidden => !error.is_circuit_open(),
        UpstreamCause::Invalid => true,
        UpstreamCause::ServerError => error.status() == Some(501),
        UpstreamCause::Unreachable | UpstreamCause::Timeout | UpstreamCause::RateLimited | UpstreamCause::Refused => {
            false
        }
    }
}
