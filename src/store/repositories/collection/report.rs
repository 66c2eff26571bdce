//! What a collection did, or would do, and why a content stays: for the administrator.

use serde::Serialize;

/// Most contents that a report names of each kind; all are counted.
const MOST_NAMED: usize = 10_000;

/// A run of the collection, or a look at what one would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectionReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Nothing is collected now: the mode in force is not Local, or another one is coming or not over.
    pub held: bool,
    /// Why the pins (`store.pins`) can't be gone by, in words: nothing is removed then; `None`: they can, or there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pins_unusable: Option<String>,
    /// Repositories that were marked.
    pub marked: u64,
    /// Repositories that were written to the whole time; they are marked in the next run.
    pub busy: u64,
    /// Repositories in which something can't be read or is damaged: nothing of them is collected.
    pub left_alone: Vec<LeftAlone>,
    /// Contents that nothing reaches, new on the list of suspects.
    pub suspected: Contents,
    /// Contents that were removed.
    pub removed: Contents,
    /// Why not all other masters could be asked, in a sentence: manifests and tags stay then; `None`: they could, or nothing was
    /// to be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masters_away: Option<String>,
    /// Manifests and tags that would have gone, and that another master needs.
    pub kept_by_masters: u64,
    /// Suspects that are reached again, or were not there any more.
    pub cleared: u64,
    /// Tags that the built-in rule removes: what `d8 mirror push` leaves of its check whether it may write.
    pub write_checks: Vec<TagName>,
}

/// A tag of a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TagName {
    /// The repository.
    pub repository: String,
    /// The tag.
    pub tag: String,
}

/// A repository that is not collected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftAlone {
    /// Its name.
    pub repository: String,
    /// Why.
    pub reason: String,
}

/// Contents of repositories.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Contents {
    /// Manifests among them.
    pub manifests: u64,
    /// Blobs among them.
    pub blobs: u64,
    /// Bytes that no other repository has.
    pub bytes: u64,
    /// The first 10,000 of them.
    pub named: Vec<CollectedContent>,
}

/// A content of a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectedContent {
    /// The repository.
    pub repository: String,
    /// `blob` or `manifest`.
    pub kind: &'static str,
    /// Its digest.
    pub digest: String,
    /// Its length, if no other repository has it; else 0.
    pub bytes: u64,
}

impl Contents {
    pub(in crate::store) fn add(&mut self, content: CollectedContent, is_manifest: bool) {
        *(if is_manifest { &mut self.manifests } else { &mut self.blobs }) += 1;
        self.bytes += content.bytes;
        if self.named.len() < MOST_NAMED {
            self.named.push(content);
        }
    }
}

/// Why a repository keeps a content, or for how long it still does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// The repository.
    pub repository: String,
    /// `blob` or `manifest`.
    pub kind: &'static str,
    /// Whether it stays.
    pub stays: bool,
    /// Why, in words.
    pub because: String,
}

/// What collection is about, for `/status` and the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectionStatus {
    /// When it runs by itself, as the configuration says it.
    pub schedule: String,
    /// As [`CollectionReport::held`].
    pub held: bool,
    /// Contents on the list of suspects.
    pub suspects: u64,
    /// Repositories to be marked; `None`: all.
    pub dirty: Option<u64>,
    /// Repositories that the last runs left alone, by name.
    pub left_alone: Vec<LeftAlone>,
    /// Blobs and manifests removed since the start.
    pub removed: [u64; 2],
    /// Bytes that were freed since the start.
    pub freed_bytes: u64,
    /// Manifests that retention gave up and that are still there.
    pub given_up: u64,
    /// Tags that went by a rule since the start.
    pub removed_tags: u64,
    /// As [`CollectionReport::masters_away`], of the last run of retention and collection.
    pub masters_away: Option<String>,
    /// As [`CollectionReport::kept_by_masters`], likewise.
    pub kept_by_masters: u64,
}
