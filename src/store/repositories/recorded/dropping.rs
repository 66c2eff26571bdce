//! Deletions that all masters know of, dropped here. All of it blocks.

use crate::clock::Timestamp;
use crate::fs::stat;
use crate::oci::{Reference, RepoName};
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::store::repositories::manifests::Manifests;
use crate::store::repositories::records::{Sum, lock};

impl Manifests {
    /// The sum over the records of a repository, if they say of something that it was deleted before `moment`.
    pub(in crate::store) fn sum_with_deletions(
        &self,
        repo: &RepoName,
        moment: Timestamp,
    ) -> Result<Option<Sum>, StoreError> {
        let locked = self.lock(repo);
        let Some(log) = self.entry(repo, &locked)? else { return Ok(None) };
        let log = lock(&log);
        Ok((!log.registers.deleted_before(moment).is_empty()).then(|| log.registers.sum()))
    }

    /// Drops the deletions of a repository that were said before `moment`, if the sum over all its records is `sum`; says how
    /// many. `None`: that has to wait.
    pub(in crate::store) fn drop_deletions(
        &self,
        repo: &RepoName,
        sum: Sum,
        moment: Timestamp,
    ) -> Result<Option<usize>, StoreError> {
        let locked = self.lock(repo);
        let Some(log) = self.entry(repo, &locked)? else { return Ok(None) };
        let layout = &self.contents.layout;
        let is_there = |of: &Reference| {
            let path = match of {
                Reference::Tag(tag) => layout.tag(repo, tag),
                Reference::Digest(digest) => layout.member(repo, Membership::Manifest, digest),
            };
            Ok(stat(&path)?.is_some())
        };
        self.records.drop_deletions(repo, &log, (sum, moment), is_there)
    }
}
