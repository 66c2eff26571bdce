//! One request, as the handlers see it: authenticated, allowed, with the modes and settings it began with.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use http::{HeaderMap, HeaderValue, Method};

use super::Settings;
use super::error::ApiError;
use super::large::LargeManifests;
use super::limits::{Gate, Gates, Holder, Place, Pool};
use super::upload_name::UploadName;
use crate::auth::{Action, Authenticator, Identity};
use crate::comparison::Comparison;
use crate::mode::View;
use crate::oci::{Reference, RepoName};
use crate::replicas::{MasterId, Replicas};
use crate::serve::{BodyTransport, Stream};
use crate::telemetry::Metrics;
use crate::upstream::Upstream;

pub(super) struct Call<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    pub(super) raw_query: Option<&'a str>,
    pub(super) view: View,
    pub(super) settings: Arc<Settings>,
    pub(super) auth: &'a Authenticator,
    pub(super) who: Identity,
    pub(super) body_transport: BodyTransport,
    pub(super) large: &'a LargeManifests,
    pub(super) metrics: &'a Metrics,
    pub(super) uploads: &'a Pool,
    /// Who tells other masters of what is said here.
    pub(super) comparison: Option<&'a Comparison>,
    pub(super) entrance: Entrance,
    /// The way to other masters; `None`: this one is asked alone.
    pub(super) elsewhere: Option<Elsewhere<'a>>,
    /// This master's name in what it gives out.
    pub(super) own_master: Option<MasterId>,
    /// Another master asks.
    pub(super) is_masters: bool,
}

/// The way to other masters for one request of a client.
pub(super) struct Elsewhere<'a> {
    pub(super) replicas: &'a Replicas,
    /// The client's address.
    pub(super) address: IpAddr,
    /// The request's id.
    pub(super) id: HeaderValue,
}

impl Elsewhere<'_> {
    /// The other master where an upload lies; `None`: it is looked for here.
    pub(super) fn master_of(&self, name: UploadName) -> Option<Upstream> {
        self.replicas.peer(name.master?)
    }
}

/// The way to a place under the limits; a request takes one at most.
pub(super) struct Entrance {
    gates: Arc<Gates>,
    holder: Holder,
    stream: Arc<Stream>,
    place: OnceLock<Place>,
}

impl Entrance {
    pub(super) const fn new(gates: Arc<Gates>, holder: Holder, stream: Arc<Stream>) -> Self {
        Self { gates, holder, stream, place: OnceLock::new() }
    }

    /// Takes a place, after waiting for it if the request is a pull. Safe to drop.
    ///
    /// # Errors
    /// 503 or 429, with `Retry-After`.
    pub(super) async fn enter(&self, gate: Gate) -> Result<(), ApiError> {
        if let Some(place) = self.gates.enter(gate, &self.holder, &self.stream).await? {
            self.keep(place);
        }
        Ok(())
    }

    /// Takes a place if one can be had at once.
    pub(super) fn try_enter(&self, gate: Gate) -> bool {
        self.gates.try_enter(gate, &self.holder, &self.stream).map(|place| self.keep(place)).is_some()
    }

    /// A place among the open uploads, if one is to be had.
    pub(super) fn open_upload(&self, pool: &Pool) -> Option<Place> {
        // The upload waits for its client without a stream that could be cut.
        pool.try_enter(&self.holder, &Arc::default())
    }

    fn keep(&self, place: Place) {
        // A second one would be given back at once.
        let _ = self.place.set(place);
    }

    /// The place that was taken, to be held until the answer is over.
    pub(super) fn leave(self) -> Option<Place> {
        self.place.into_inner()
    }
}

impl Call<'_> {
    /// Tells other masters that something was said of tags or manifests here.
    pub(super) fn tell(&self, repo: &RepoName, all: &[Reference]) {
        if let Some(comparison) = self.comparison {
            comparison.tell(repo, all);
        }
    }

    /// The first value of a query's parameter, decoded.
    pub(super) fn query(&self, name: &str) -> Option<String> {
        query_values(self.raw_query, name).next().map(Cow::into_owned)
    }

    /// All values of a query's parameter, decoded.
    pub(super) fn query_all(&self, name: &str) -> impl Iterator<Item = Cow<'_, str>> {
        query_values(self.raw_query, name)
    }

    /// Whether the caller may do something beyond what the request was let in for.
    pub(super) fn may(&self, action: Action, repo: Option<&RepoName>) -> bool {
        self.auth.authorize(&self.who, action, repo).is_ok()
    }
}

/// The values of parameter `name` in a query or form.
pub(super) fn query_values<'a>(query: Option<&'a str>, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .filter(move |(key, _)| key == name)
        .map(|(_, value)| value)
}
