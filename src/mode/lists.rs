//! Lists as an upstream gives them, cut into our pages.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::ModeError;
use crate::oci::{Digest, lenient};
use crate::store::{ListKind, Page, Referrer, StoreError};
use crate::upstream::{MOST_LIST_BYTES, Patience, Upstream};

/// Bytes of lists that are fetched or cut into pages at once: six of the longest.
pub const LIST_BYTES_IN_FLIGHT: usize = 48 << 20;

/// Lists that are cut into pages at once. They have room of their own: a slow upstream keeps no cached list waiting.
const CUT: usize = 2;

/// Longest wait for room to cut a list into pages.
const CUT_WAIT: Duration = Duration::from_secs(5);

static FETCHING: Semaphore = Semaphore::const_new(LIST_BYTES_IN_FLIGHT / MOST_LIST_BYTES - CUT);
static CUTTING: Semaphore = Semaphore::const_new(CUT);

/// Room for one list that is cut into pages, to be held while it is in memory. Safe to drop.
///
/// # Errors
/// [`ModeError::UpstreamTimeout`] if others held all the room for [`CUT_WAIT`].
pub(super) async fn room() -> Result<SemaphorePermit<'static>, ModeError> {
    room_in(&CUTTING, Instant::now() + CUT_WAIT).await
}

async fn room_in(room: &'static Semaphore, deadline: Instant) -> Result<SemaphorePermit<'static>, ModeError> {
    match tokio::time::timeout_at(deadline, room.acquire()).await {
        Ok(Ok(room)) => Ok(room),
        Ok(Err(_)) | Err(_) => Err(ModeError::UpstreamTimeout),
    }
}

/// All of a list, in JSON.
///
/// # Errors
/// Of the upstream; as it said it.
pub(super) async fn ask(
    upstream: &Upstream,
    child: &str,
    kind: ListKind,
    patience: Patience,
) -> Result<Bytes, ModeError> {
    let _room = room_in(&FETCHING, patience.asking).await?;
    let written = match kind {
        ListKind::Tags => serde_json::to_vec(&upstream.tags(child, patience).await?),
        ListKind::Referrers(subject) => serde_json::to_vec(&upstream.referrers(child, &subject, patience).await?),
    };
    Ok(written.map_err(|error| StoreError::Bug(error.to_string()))?.into())
}

/// A list that was asked for, or kept.
pub(super) fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, ModeError> {
    serde_json::from_slice(json).map_err(|_| StoreError::Bug("a kept list can't be read".into()).into())
}

/// The page of a sorted list after `last`, at most `limit` entries.
pub(super) fn page(sorted: &[String], last: Option<&str>, limit: usize) -> Page {
    let start = last.map_or(0, |last| sorted.partition_point(|entry| entry.as_str() <= last));
    let end = start.saturating_add(limit).min(sorted.len());
    Page { entries: sorted[start..end].to_vec(), more: end < sorted.len() }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    digest: Digest,
    #[serde(default, deserialize_with = "lenient::text")]
    artifact_type: Option<String>,
}

/// The descriptors of a referrers list that can be read, in order of digest and each once.
pub(super) fn referrers(descriptors: &[Box<RawValue>]) -> Vec<Referrer> {
    let mut referrers: Vec<Referrer> = descriptors
        .iter()
        .filter_map(|descriptor| {
            let entry: Entry = serde_json::from_str(descriptor.get()).ok()?;
            let descriptor = bytes::Bytes::copy_from_slice(descriptor.get().as_bytes());
            Some(Referrer { digest: entry.digest, descriptor, artifact_type: entry.artifact_type })
        })
        .collect();
    referrers.sort_by_key(|referrer| referrer.digest);
    referrers.dedup_by_key(|referrer| referrer.digest);
    referrers
}

/// The entries after `last`, at most `limit`.
pub(super) fn after(referrers: Vec<Referrer>, last: Option<Digest>, limit: usize) -> Vec<Referrer> {
    referrers.into_iter().filter(|referrer| last.is_none_or(|last| referrer.digest > last)).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    proptest! {
        #[test]
        fn pages_put_together_are_the_list(tags in proptest::collection::btree_set("[a-c]{1,3}", 0..20), limit in 1_usize..5) {
            let sorted: Vec<String> = tags.into_iter().collect();
            let mut all: Vec<String> = Vec::new();
            loop {
                let page = page(&sorted, all.last().map(String::as_str), limit);
                prop_assert!(page.entries.len() <= limit);
                all.extend(page.entries);
                if !page.more {
                    break;
                }
            }
            prop_assert_eq!(all, sorted);
        }
    }

    #[test]
    fn descriptors_are_kept_as_they_came() {
        let digest = Algorithm::Sha256.digest(b"a");
        let text = format!(r#"{{"digest":"{digest}","size":1,"artifactType":"a/b","x":[1]}}"#);
        let raw = |text: &str| RawValue::from_string(text.into()).unwrap();
        let found = referrers(&[raw(&text), raw("{}"), raw(&text)]);
        assert_eq!(found.len(), 1);
        let odd = format!(r#"{{"digest":"{digest}","size":"1","artifactType":null,"annotations":null}}"#);
        assert_eq!(referrers(&[raw(&odd)])[0].descriptor.as_ref(), odd.as_bytes());
        assert_eq!((found[0].descriptor.as_ref(), found[0].artifact_type.as_deref()), (text.as_bytes(), Some("a/b")));
        assert!(after(found, Some(digest), 5).is_empty());
    }
}
