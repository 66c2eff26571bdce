//! One request, as the handlers see it: authenticated, allowed, with the mode and settings it began with.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, Method};

use super::Settings;
use super::peer::FileWay;
use crate::auth::{Action, Authenticator, Identity};
use crate::mode::Mode;
use crate::oci::RepoName;

pub(super) struct Call<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    pub(super) raw_query: Option<&'a str>,
    pub(super) mode: Arc<Mode>,
    pub(super) settings: Arc<Settings>,
    pub(super) auth: &'a Authenticator,
    pub(super) who: Identity,
    pub(super) file_way: FileWay,
}

impl Call<'_> {
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
