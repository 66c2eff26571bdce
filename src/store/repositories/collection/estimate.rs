//! About what would go with tags that are still there: a mark as if they were not.
//!
//! An estimate: a content that several repositories have is counted without its bytes, although the last of them may lose it
//! too, and what nothing reached before, and is no suspect yet, is counted with it. Changes nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::collector::{Collector, NoRoots};
use super::report::CollectionReport;
use super::settings::Retained;
use crate::oci::{Digest, RepoName, Tag};
use crate::store::contents::changes::blocking;
use crate::store::error::StoreError;
use crate::store::layout::Membership;

/// Tags of one repository that are taken for gone.
#[derive(Clone, Debug, Default)]
pub struct GoingTags {
    /// Their names.
    pub tags: HashSet<Tag>,
    /// Where they lead.
    pub targets: HashSet<Digest>,
}

/// About what would go with tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Manifests.
    pub manifests: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes that no other repository has.
    pub bytes: u64,
}

impl Collector {
    /// About what would go with `going`, where `retained` is what retention keeps. A repository that the collection leaves alone
    /// counts for nothing.
    ///
    /// # Errors
    /// Of the disk.
    pub(in crate::store) async fn estimate(
        &self,
        going: BTreeMap<RepoName, GoingTags>,
        retained: &Retained,
        stop: &CancellationToken,
    ) -> Result<Estimate, StoreError> {
        let mut estimate = Estimate::default();
        for (repo, GoingTags { tags, targets }) in going {
            let (tags, mut given_up) = (Arc::new(tags), targets);
            // What hangs on them alone is found by a mark, and taken for given up in the next.
            let mark = loop {
                let no_roots = NoRoots::Without(Arc::clone(&tags), given_up.clone());
                let mut unseen = CollectionReport::default();
                let marked = self.marked_by(&repo, &no_roots, retained, &mut unseen, stop).await?;
                let Some((mark, ..)) = marked else { break None };
                let (manifests, named, known) = (Arc::clone(&self.manifests), repo.clone(), given_up.clone());
                let looking = move || {
                    let new = manifests.to_be_given_up(&named, &mark, Vec::new(), &known);
                    Ok((mark, new))
                };
                let (mark, new) = blocking(looking).await?;
                if new.is_empty() {
                    break Some(mark);
                }
                given_up.extend(new);
            };
            let Some(mark) = mark else { continue };
            let manifests = Arc::clone(&self.manifests);
            let counting = move || {
                let mut found = Estimate::default();
                manifests.unreached(&repo, &mark, |suspects| {
                    for suspect in suspects {
                        if manifests.ledger.suspected_for(&suspect).is_some() {
                            continue;
                        }
                        let Some(content) = manifests.content_of(&suspect)? else { continue };
                        let is_manifest = suspect.kind == Membership::Manifest;
                        *(if is_manifest { &mut found.manifests } else { &mut found.blobs }) += 1;
                        found.bytes += content.bytes;
                    }
                    Ok(true)
                })?;
                Ok(found)
            };
            let found = blocking(counting).await?;
            estimate.manifests += found.manifests;
            estimate.blobs += found.blobs;
            estimate.bytes += found.bytes;
        }
        Ok(estimate)
    }
}
