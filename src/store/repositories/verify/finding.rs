//! What a verification finds, and how it is said.

use std::collections::BTreeMap;

use serde::Serialize;

/// Most findings of one kind that are named; all are counted. What a thousand did not tell the next thousand does not either.
pub(in crate::store) const MOST_OF_ONE: usize = 1_000;

/// Most findings that are named.
pub(super) const MOST_NAMED: usize = 5_000;

/// About what one takes, with the answer in which it is sent.
pub(super) const FINDING_BYTES: u64 = 2048;

/// What can be wrong. Its name in JSON does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Problem {
    /// A file's bytes are not those of its digest.
    WrongBytes,
    /// The same, and its length is not that of a descriptor.
    WrongLength,
    /// A file or directory can't be read.
    Unreadable,
    /// The content is on the list of damaged ones, and there is no whole one.
    Damaged,
    /// A repository has a content that `blobs/` does not have.
    NoContent,
    /// A repository's name leads to another file than the content.
    Apart,
    /// A content that no repository has.
    Nobodys,
    /// A content's file has names outside of the store.
    ForeignLinks,
    /// A tag that leads to no manifest of its repository.
    TagLeadsNowhere,
    /// A tag's file that holds no digest.
    TagUnreadable,
    /// A manifest that is what its digest says and can't be understood.
    ManifestUnreadable,
    /// Something that a manifest names is not in its repository.
    ReferenceMissing,
    /// A list of an upstream's that can't be understood.
    ListUnreadable,
    /// The index does not say what the tree holds.
    IndexWrong,
    /// The index can't be read.
    IndexUnusable,
    /// Something that is not the store's.
    Foreign,
    /// Remains of work that has ended.
    LeftOver,
    /// A file of what collection knows can't be understood.
    CollectionUnreadable,
    /// What is counted as used is not what is there.
    UsageWrong,
}

impl Problem {
    /// Its name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WrongBytes => "wrongBytes",
            Self::WrongLength => "wrongLength",
            Self::Unreadable => "unreadable",
            Self::Damaged => "damaged",
            Self::NoContent => "noContent",
            Self::Apart => "apart",
            Self::Nobodys => "nobodys",
            Self::ForeignLinks => "foreignLinks",
            Self::TagLeadsNowhere => "tagLeadsNowhere",
            Self::TagUnreadable => "tagUnreadable",
            Self::ManifestUnreadable => "manifestUnreadable",
            Self::ReferenceMissing => "referenceMissing",
            Self::ListUnreadable => "listUnreadable",
            Self::IndexWrong => "indexWrong",
            Self::IndexUnusable => "indexUnusable",
            Self::Foreign => "foreign",
            Self::LeftOver => "leftOver",
            Self::CollectionUnreadable => "collectionUnreadable",
            Self::UsageWrong => "usageWrong",
        }
    }
}

/// What mends it. Its name in JSON does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Mend {
    /// Somebody pushes it again, or deletes what needs it.
    Push,
    /// Proxy fetches it again by itself, as soon as it counts as absent.
    Fetch,
    /// It is mended by a running server without anybody's doing.
    Itself,
    /// The next start of a server.
    Start,
    /// Somebody removes the file.
    Remove,
    /// Somebody who knows what it is decides.
    Look,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What kind of thing.
    pub problem: Problem,
    /// The file or directory, below the data directory.
    pub path: String,
    /// The repository, where it is one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The content, where it is one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What is wrong, in a sentence.
    pub what: String,
    /// Images that can't be pulled whole for it, 20 at most; `snapshot NAME` where only snapshots have it.
    pub breaks: Vec<String>,
    /// Further ones.
    pub breaks_more: u64,
    /// What mends it.
    pub mend: Mend,
    /// The same in a sentence.
    pub how: String,
}

/// What a verification came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// Nothing was found.
    pub whole: bool,
    /// Blobs were not read.
    pub quick: bool,
    /// The one repository that was looked at; `None`: the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Repositories that were looked at.
    pub repositories: u64,
    /// Tags among what they hold.
    pub tags: u64,
    /// Manifests.
    pub manifests: u64,
    /// Contents that were looked at.
    pub contents: u64,
    /// Bytes that were read and hashed.
    pub hashed_bytes: u64,
    /// What is wrong: the first 1,000 of each kind, 5,000 in all.
    pub findings: Vec<Finding>,
    /// Further findings.
    pub more: u64,
    /// How many of these there are of each kind.
    pub more_of: BTreeMap<Problem, u64>,
    /// How many of each kind are named.
    #[serde(skip)]
    pub(super) named: BTreeMap<Problem, usize>,
    /// What was not looked at, and why, in sentences.
    pub notes: Vec<String>,
}

impl VerifyReport {
    /// Adds a finding; says its place if it is named.
    pub(super) fn add(&mut self, finding: Finding) -> Option<usize> {
        let named = self.named.entry(finding.problem).or_default();
        if *named < MOST_OF_ONE && self.findings.len() < MOST_NAMED {
            *named += 1;
            self.findings.push(finding);
            return Some(self.findings.len() - 1);
        }
        self.more += 1;
        *self.more_of.entry(finding.problem).or_default() += 1;
        None
    }
}
