//! Linking repositories to contents that were repaired, and what runs beside requests for it.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::affected::needs;
use super::broken::BrokenContent;
use super::manifests::Manifests;
use super::walk::{Repositories, SkippedEntries};
use crate::fs::stat;
use crate::jobs::{Job, JobError, Run, Schedule};
use crate::oci::Digest;
use crate::store::contents::changes::blocking_run;
use crate::store::layout::Membership;

/// The list is looked at this often without being called: for names that an administrator put there or took away, and for
/// what could not be written down or mended before.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Contents whose images are looked for; a store with more has no disk.
const MOST_CONTENTS: usize = 1000;

/// Lines in the log of one look.
const MOST_LINES: usize = 20;

impl Manifests {
    /// One round of looking after the list of damaged contents; blocking.
    pub(in crate::store) fn look_after_damage(&self, now: Instant) {
        self.contents.keep_damage_list(now);
        self.mend_all();
    }

    /// Finds what the damaged contents break, if that is not known; blocking. Ends early, and knows nothing new, when `stop`
    /// is cancelled.
    pub(in crate::store) fn look_what_is_broken(&self, now: Instant, stop: &CancellationToken) {
        let unmended = self.contents.unmended();
        let mut digests: Vec<Digest> = unmended.into_iter().map(|(digest, _)| digest).collect();
        digests.sort_unstable();
        let digests: HashSet<Digest> = digests.into_iter().take(MOST_CONTENTS).collect();
        if self.broken.is_known(&digests, now) {
            return;
        }
        let before: HashSet<Digest> = self.broken.last().iter().map(|content| content.digest).collect();
        let needs = needs(&self.contents.layout, &digests, None, stop);
        if stop.is_cancelled() {
            return;
        }
        let found = needs.into_iter().map(|(digest, need)| {
            let members = need.members.iter().map(|(repo, kind)| (repo.clone(), *kind == Membership::Manifest));
            let (cached, pushed) = members.partition(|(repo, _)| repo.is_cached());
            BrokenContent { digest, images: need.names(None), more: need.more, cached, pushed }
        });
        let mut found: Vec<BrokenContent> = found.collect();
        found.sort_unstable_by_key(|content| content.digest);
        let new = found.iter().filter(|content| !before.contains(&content.digest) && !content.images.is_empty());
        for BrokenContent { digest, images, more, .. } in new.take(MOST_LINES) {
            tracing::error!(
                %digest, images = images.join(" "), more,
                "images need a damaged content: they can't be pulled whole until it is fetched or pushed again"
            );
        }
        self.broken.put(now, found);
    }

    /// Links every repository, and every snapshot, that still has a damaged file to the whole content, where there is one.
    fn mend_all(&self) {
        let pending = self.contents.mendable();
        if pending.is_empty() {
            return;
        }
        let skipped = SkippedEntries::default();
        let mut all = true;
        for repo in Repositories::new(&self.contents.layout, &skipped) {
            for digest in pending.keys() {
                for kind in [Membership::Blob, Membership::Manifest] {
                    let member: PathBuf = self.contents.layout.member(&repo, kind, digest);
                    let mended = match stat(&member) {
                        Ok(Some(at)) if self.contents.damage.is_listed(digest, at.ino()) => {
                            self.mend(&repo, kind, digest)
                        }
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
        for folder in self.contents.snapshots.all() {
            for digest in pending.keys() {
                let link = self.contents.layout.snapshot_content(&folder, digest);
                let mended = match stat(&link) {
                    Ok(None) => Ok(true),
                    Ok(Some(_)) => self.contents.relink(&link, digest),
                    Err(error) => Err(error.into()),
                };
                all &= mended.unwrap_or_else(|error| {
                    tracing::warn!(
                        path = %link.display(), error = %crate::telemetry::with_causes(&error),
                        "a snapshot can't be given the whole content yet"
                    );
                    false
                });
            }
        }
        if all && skipped.count() == 0 {
            self.contents.drop_nameless(&pending);
        }
    }
}

/// Looks after the list of damaged contents.
#[derive(Debug)]
pub(in crate::store) struct LookAfterDamage(pub(in crate::store) Arc<Manifests>);

impl Job for LookAfterDamage {
    const NAME: &'static str = "damage";

    fn schedule(&self) -> Schedule {
        let next = self.0.contents.damage.next_due();
        let until_due = next.map(|due| due.saturating_duration_since(Instant::now()));
        Schedule::every(until_due.map_or(LOOK_EVERY, |due| due.min(LOOK_EVERY)))
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        let manifests = Arc::clone(&self.0);
        let round = blocking_run(move || {
            manifests.look_after_damage(Instant::now());
            manifests.look_what_is_broken(Instant::now(), run.stop());
            Ok(())
        });
        round.await.map_err(|error| JobError::new("the list of damaged contents could not be looked after", &error))
    }

    async fn called(&mut self) {
        self.0.contents.damage.called().await;
    }
}
