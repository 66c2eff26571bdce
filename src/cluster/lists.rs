//! Lists of any length, page by page: what is not wanted of a page is gone before the next one comes.

use std::fmt::Debug;

use kube::api::ListParams;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::{Cluster, ClusterError};

/// Objects of a page. 500 pods are some 5 MB.
const PAGE: u32 = 500;
/// How often a list is begun anew whose later pages the API server no longer has.
const TRIES: u32 = 3;

/// Calls `each` for every object that `parameters` select.
///
/// # Errors
/// [`ClusterError`]; `each` may have been called for some by then, and for some twice.
pub(super) async fn for_each<K>(
    cluster: &Cluster,
    api: &Api<K>,
    what: &'static str,
    parameters: ListParams,
    mut each: impl FnMut(Listed<K>),
) -> Result<(), ClusterError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let first = parameters.limit(PAGE);
    let (mut next, mut tries) = (first.clone(), 0);
    each(Listed::Begin);
    loop {
        let page = match cluster.call(what, api.list(&next)).await {
            // The continuation is older than what the API server keeps: 5 minutes by default.
            Err(ClusterError::Refused { code: 410, .. }) if tries < TRIES && next.continue_token.is_some() => {
                tries += 1;
                next = first.clone();
                each(Listed::Begin);
                continue;
            }
            page => page?,
        };
        page.items.into_iter().for_each(|object| each(Listed::Object(object)));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => next = first.clone().continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// What a list brings.
pub(super) enum Listed<K> {
    /// It begins: what came before is to be forgotten.
    Begin,
    /// One object.
    Object(K),
}

/// Every object that `parameters` select, as what `keep` makes of it.
///
/// # Errors
/// [`ClusterError`].
pub(super) async fn all<K, T>(
    cluster: &Cluster,
    api: &Api<K>,
    what: &'static str,
    parameters: ListParams,
    mut keep: impl FnMut(K) -> Option<T>,
) -> Result<Vec<T>, ClusterError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let mut kept = Vec::new();
    for_each(cluster, api, what, parameters, |listed| match listed {
        Listed::Begin => kept.clear(),
        Listed::Object(object) => kept.extend(keep(object)),
    })
    .await?;
    Ok(kept)
}
