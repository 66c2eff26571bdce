//! Linking repositories to the content that was repaired, and what runs beside requests for it.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use fail::fail_point;

use super::{Damage, lock};
use crate::fs::stat;
use crate::jobs::{Job, JobError, Run, Schedule};
use crate::oci::{Digest, RepoName};
use crate::store::contents::ContentOps;
use crate::store::layout::Membership;
use crate::store::walk::{Repositories, SkippedEntries};
use crate::store::{Inner, StoreError, blocking};

/// The list is looked at this often without being called: for names that an administrator put there or took away, and for
/// what could not be written down or mended before.
const LOOK_EVERY: Duration = Duration::from_secs(30);

impl ContentOps<'_> {
    /// Links a repository's name to the whole content of the digest, durably, if it leads to a damaged one. `false`: there
    /// is no whole one, or no such name.
    fn relink(&self, repo: &RepoName, kind: Membership, digest: &Digest) -> Result<bool, StoreError> {
        let _locked = self.contents.lock(digest);
        let member = self.layout.member(repo, kind, digest);
        let Some(found) = stat(&member)? else { return Ok(false) };
        if !self.damage.is_listed(digest, found.ino()) {
            return Ok(true);
        }
        let content = self.layout.content(digest);
        if stat(&content)?.is_none_or(|whole| self.damage.is_listed(digest, whole.ino())) {
            return Ok(false);
        }
        self.replace_member(&content, &member, digest)?;
        self.disk.sync_directory_of(&member)?;
        fail_point!("store::damage::after_relink");
        self.drop_mended(digest, &[]);
        Ok(true)
    }
}

impl Damage {
    /// Every digest that has an entry.
    pub(super) fn digests(&self) -> Vec<Digest> {
        if self.is_empty() {
            return Vec::new();
        }
        self.list.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    fn inodes(&self, digest: &Digest) -> Vec<u64> {
        self.entries(digest, |entries| entries.iter().map(|entry| entry.inode).collect())
    }

    /// There may be something to mend.
    pub(in crate::store) fn call(&self) {
        self.wake.notify_one();
    }

    /// When the next file that could not be read is due.
    fn next_due(&self) -> Option<Instant> {
        lock(&self.suspects).iter().map(|suspect| suspect.next).min()
    }
}

impl Inner {
    /// Makes a repository's name lead to whole content, if it leads to a damaged one and there is whole content. Says
    /// whether it does now. Blocking; not to be called with a lock held.
    pub(in crate::store) fn mend(
        &self,
        repo: &RepoName,
        kind: Membership,
        digest: &Digest,
    ) -> Result<bool, StoreError> {
        if !self.damage.has(digest) {
            return Ok(false);
        }
        match kind {
            Membership::Blob => self.ops().relink(repo, kind, digest),
            Membership::Manifest => {
                let _locked = self.locks.lock(repo);
                let change = self.begin_change(repo)?;
                let mended = self.ops().relink(repo, kind, digest)?;
                // A list that was built while it was damaged lacks it.
                if mended && let Some(stored) = self.read_manifest(repo, *digest)? {
                    change.put_manifest(&stored);
                }
                change.done();
                Ok(mended)
            }
        }
    }

    /// One round of looking after the list; blocking.
    pub(in crate::store) fn look_after_damage(&self, now: Instant) {
        let ops = self.ops();
        self.read_suspects_again(now);
        ops.read_damaged();
        if self.damage.is_empty() {
            return;
        }
        self.write_down_what_was_not();
        for digest in self.damage.digests() {
            let _locked = self.contents.lock(&digest);
            ops.drop_mended(&digest, &[]);
        }
        self.mend_all();
    }

    /// Entries that could not be written down get their names.
    fn write_down_what_was_not(&self) {
        let ops = self.ops();
        for digest in self.damage.digests() {
            let _locked = self.contents.lock(&digest);
            let unnamed: Vec<(u64, PathBuf)> = self.damage.entries(&digest, |entries| {
                let waiting = entries.iter().filter(|entry| entry.name.is_none());
                waiting.filter_map(|entry| Some((entry.inode, entry.unnamed.as_ref()?.0.clone()))).collect()
            });
            for (inode, path) in unnamed {
                if matches!(stat(&path), Ok(Some(at)) if at.ino() == inode)
                    && let Err(error) = ops.write_down(&digest, inode, &path)
                {
                    tracing::warn!(%digest, error = %crate::telemetry::with_causes(&error), "a damaged content can't be noted on the disk yet");
                }
            }
        }
    }

    /// Links every repository that still has a damaged file to the whole content, where there is one.
    fn mend_all(&self) {
        let whole = |digest: &Digest| matches!(stat(&self.layout.content(digest)), Ok(Some(at)) if !self.damage.is_listed(digest, at.ino()));
        let pending: HashMap<Digest, Vec<u64>> = self
            .damage
            .digests()
            .into_iter()
            .filter(whole)
            .map(|digest| (digest, self.damage.inodes(&digest)))
            .collect();
        if pending.is_empty() {
            return;
        }
        let skipped = SkippedEntries::default();
        let mut all = true;
        for repo in Repositories::new(&self.layout, &skipped) {
            for digest in pending.keys() {
                for kind in [Membership::Blob, Membership::Manifest] {
                    let member: PathBuf = self.layout.member(&repo, kind, digest);
                    let mended = match stat(&member) {
                        Ok(Some(at)) if self.damage.is_listed(digest, at.ino()) => self.mend(&repo, kind, digest),
                        Ok(_) => Ok(true),
                        Err(error) => Err(error.into()),
                    };
                    all &= mended.unwrap_or_else(|error| {
                        tracing::warn!(
                            path = %member.display(), error = %crate::telemetry::with_causes(&error),
                            "a repository can't be given the whole content yet"
                        );
                        false
                    });
                }
            }
        }
        if all && skipped.count() == 0 {
            for (digest, inodes) in &pending {
                let _locked = self.contents.lock(digest);
                self.ops().drop_mended(digest, inodes);
            }
        }
    }
}

/// Looks after the list.
pub(in crate::store) struct LookAfterDamage(pub(in crate::store) Arc<Inner>);

impl Job for LookAfterDamage {
    const NAME: &'static str = "damage";

    fn schedule(&self) -> Schedule {
        let until_due = self.0.damage.next_due().map(|due| due.saturating_duration_since(Instant::now()));
        Schedule::every(until_due.map_or(LOOK_EVERY, |due| due.min(LOOK_EVERY)))
    }

    async fn run(&mut self, _: Run) -> Result<(), JobError> {
        let inner = Arc::clone(&self.0);
        let round = blocking(move || {
            inner.look_after_damage(Instant::now());
            Ok(())
        });
        round.await.map_err(|error| JobError::new("the list of damaged contents could not be looked after", &error))
    }

    async fn called(&mut self) {
        self.0.damage.wake.notified().await;
    }
}
