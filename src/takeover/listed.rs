//! What a repository of a source has, as the source says it: nothing of it is verified.

use super::fault::Fault;
use crate::clock::Timestamp;
use crate::oci::Digest;

/// What a repository of the source has.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// Its manifests, tagged or not.
    pub(super) manifests: Vec<Digest>,
    pub(super) tags: Vec<ListedTag>,
    /// Manifests that were deleted and whose bytes may be there.
    pub(super) deleted: Vec<Digest>,
    /// Uploads that were not finished.
    pub(super) uploads: u64,
    /// What can't be used: `:tag` or `@digest`, and why.
    pub(super) faults: Vec<(String, Fault)>,
}

/// A tag as the source has it.
#[derive(Debug)]
pub(super) struct ListedTag {
    pub(super) tag: String,
    pub(super) target: Result<Digest, Fault>,
    /// Since when it points there.
    pub(super) at: Option<Timestamp>,
    pub(super) claim: Claim,
}

/// When a tag is set that the store has with another digest, or has not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Claim {
    /// As the options say.
    #[default]
    Plain,
    /// A channel: not to an older release.
    Channel,
    /// A discovery tag of the repository that is named: if that has something, and never anew.
    Discovers(String),
}
