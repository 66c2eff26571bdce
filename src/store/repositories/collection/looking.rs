//! The tags of a repository at one moment, for a verdict on them. Read in slices: of 100,000 tags as of one, others have the
//! threads in between, and who is to stop stops.

use std::collections::HashSet;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::suspects::Suspect;
use crate::clock::Timestamp;
use crate::fs::stat;
use crate::oci::{Digest, RepoName, Tag};
use crate::store::contents::beside::GiveWay;
use crate::store::contents::changes::blocking;
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::store::repositories::manifests::Manifests;
use crate::store::repositories::tags::read_tag;
use crate::store::repositories::walk::{SkippedEntries, Tags};

/// Tags that are read in one slice.
const SLICE: usize = 256;

/// A tag as a rule sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    /// Its name.
    pub tag: Tag,
    /// Where it leads.
    pub digest: Digest,
    /// When it was pushed last: the time of its own file, which a copy of the store keeps if it keeps times.
    pub pushed: Timestamp,
}

/// The tags of a repository at one moment.
#[derive(Clone, Debug)]
pub struct TagsLook {
    /// The repository.
    pub repo: RepoName,
    /// Its tags by name.
    pub tags: Vec<TagRecord>,
    /// Manifests that were given up and that nothing was found to reach.
    pub unreached: HashSet<Digest>,
    /// Something was given up that had a tag of its own hex digits: lists may name it by digest alone.
    pub lost_hex_tag: bool,
    /// How its touches stood before.
    pub(super) seen: u64,
}

impl TagsLook {
    /// For who knows how the touches stood, and looks at no tag.
    pub(super) fn of_nothing(repo: &RepoName, seen: u64) -> Self {
        Self { repo: repo.clone(), tags: Vec::new(), unreached: HashSet::new(), lost_hex_tag: false, seen }
    }
}

/// A look that goes on.
#[derive(Debug)]
struct Looking {
    look: TagsLook,
    left: Vec<Tag>,
}

impl Looking {
    /// Gathers names; blocking.
    fn begin(manifests: &Manifests, repo: &RepoName) -> Result<Self, StoreError> {
        let (ledger, layout) = (&manifests.ledger, &manifests.contents.layout);
        // Before anything is read: what changes from now on makes the look worthless.
        let mut look = TagsLook::of_nothing(repo, ledger.stable(repo));
        let skipped = SkippedEntries::default();
        let left: Vec<Tag> = Tags::new(layout, repo, &skipped).collect();
        if skipped.count() > 0 {
            return Err(StoreError::damaged(&layout.tags(repo), "an entry is no tag, or can't be read"));
        }
        let given_up = ledger.given_up.all_of(repo);
        let is_suspect = |digest: &Digest| {
            let suspect = Suspect { repo: repo.clone(), kind: Membership::Manifest, digest: *digest };
            ledger.suspected_for(&suspect).is_some()
        };
        look.unreached = given_up.digests.into_iter().filter(is_suspect).collect();
        look.lost_hex_tag = given_up.had_hex_tag;
        Ok(Self { look, left })
    }

    /// Reads a slice; says how many tags are left. Blocking.
    fn step(&mut self, manifests: &Manifests) -> Result<usize, StoreError> {
        let layout = &manifests.contents.layout;
        let mut give_way = GiveWay::new();
        for _ in 0..SLICE {
            give_way.now_and_then();
            let Some(tag) = self.left.pop() else { break };
            let path = layout.tag(&self.look.repo, &tag);
            // Gone since the names were gathered.
            let (Some(digest), Some(facts)) = (read_tag(layout, &self.look.repo, &tag)?, stat(&path)?) else {
                continue;
            };
            let pushed = facts.modified().map_err(StoreError::io("stat", &path))?.into();
            self.look.tags.push(TagRecord { tag, digest, pushed });
        }
        crate::telemetry::disk_moved();
        Ok(self.left.len())
    }

    fn end(mut self) -> TagsLook {
        self.look.tags.sort_unstable_by(|one, other| one.tag.cmp(&other.tag));
        self.look
    }
}

/// The tags of a repository; `None`: `stop` was cancelled.
///
/// # Errors
/// Of the disk; a tag that can't be read.
pub(in crate::store) async fn look_at_tags(
    manifests: &Arc<Manifests>,
    repo: &RepoName,
    stop: &CancellationToken,
) -> Result<Option<TagsLook>, StoreError> {
    let (reading, named) = (Arc::clone(manifests), repo.clone());
    let mut looking = blocking(move || Looking::begin(&reading, &named)).await?;
    loop {
        if stop.is_cancelled() {
            return Ok(None);
        }
        let reading = Arc::clone(manifests);
        let (next, left) = blocking(move || {
            let left = looking.step(&reading)?;
            Ok((looking, left))
        })
        .await?;
        if left == 0 {
            return Ok(Some(next.end()));
        }
        looking = next;
    }
}
