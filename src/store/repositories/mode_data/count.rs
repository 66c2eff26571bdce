//! Bytes and contents of data that no mode uses: those that its removal would free.
//!
//! A content is one file with a name in each repository that has it, beside its own. It is free when the last goes, so one
//! counts if all its names but its own were met. Names are read from the tree, a `stat` each; nothing is changed.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;

use tokio_util::sync::CancellationToken;

use super::gate::mode_of;
use crate::fs::stat;
use crate::oci::{RepoName, UpstreamId};
use crate::store::error::StoreError;
use crate::store::layout::{Layout, Membership};
use crate::store::repositories::walk::{Members, Repositories, SkippedEntries};
use crate::values::StoringMode;

/// Most contents with several names that are kept in mind at once, about 50 bytes each. What is beyond counts as not freed.
const MOST_SHARED: usize = 200_000;

/// Bytes that a count takes: what is kept in mind of one upstream and of all of a mode.
pub(in crate::store) const COUNT_BYTES: u64 = 2 * MOST_SHARED as u64 * 50;

/// What a removal would free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataCount {
    /// Repositories.
    pub repositories: u64,
    /// Blobs and manifests that nothing else has.
    pub contents: u64,
    /// Their bytes.
    pub bytes: u64,
    /// There may be more: too many contents have several names.
    pub at_least: bool,
}

/// Data of one mode that no mode uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusedData {
    /// Whose it is.
    pub mode: StoringMode,
    /// All of it.
    pub all: DataCount,
    /// Of each upstream what nothing else has, not even another one's cache; empty for Local.
    pub upstreams: Vec<(UpstreamId, DataCount)>,
}

impl DataCount {
    fn add(&mut self, bytes: u64) {
        self.contents += 1;
        self.bytes += bytes;
    }

    fn join(&mut self, other: Self) {
        self.repositories += other.repositories;
        self.contents += other.contents;
        self.bytes += other.bytes;
        self.at_least |= other.at_least;
    }
}

/// Contents of which not all names were met yet, by their inode.
#[derive(Default)]
struct Shared(HashMap<u64, Met>);

struct Met {
    met: u64,
    names: u64,
    bytes: u64,
}

impl Shared {
    /// Notes `met` names of a content; its bytes, if these were the last. `Err`: it is one too many.
    fn meet(&mut self, inode: u64, met: Met) -> Result<Option<u64>, ()> {
        if met.met >= met.names {
            return Ok(Some(met.bytes));
        }
        if let Some(known) = self.0.get_mut(&inode) {
            known.met += met.met;
            if known.met < known.names {
                return Ok(None);
            }
            return Ok(self.0.remove(&inode).map(|known| known.bytes));
        }
        if self.0.len() >= MOST_SHARED {
            return Err(());
        }
        self.0.insert(inode, met);
        Ok(None)
    }
}

/// Counts what `is_counted` names, by mode and upstream; blocking. `None`: `stop` was cancelled.
pub(super) fn count(
    layout: &Layout,
    is_counted: impl Fn(&RepoName) -> bool,
    stop: &CancellationToken,
) -> Result<Option<Vec<UnusedData>>, StoreError> {
    let skipped = SkippedEntries::default();
    let mut repositories: Vec<RepoName> = Repositories::new(layout, &skipped).filter(|repo| is_counted(repo)).collect();
    // Those of one mode, and of one upstream, one behind the other.
    repositories.sort_unstable_by_key(|repo| (mode_of(repo), repo.upstream().map(|upstream| upstream.to_string())));
    let mut found: Vec<UnusedData> = Vec::new();
    let mut of_mode = Shared::default();
    for group in
        repositories.chunk_by(|one, other| one.upstream() == other.upstream() && mode_of(one) == mode_of(other))
    {
        let Some(first) = group.first() else { continue };
        let mode = mode_of(first);
        if found.last().is_none_or(|last| last.mode != mode) {
            of_mode = Shared::default();
            found.push(UnusedData { mode, all: DataCount::default(), upstreams: Vec::new() });
        }
        let mut counted = DataCount::default();
        let mut of_group = Shared::default();
        for repo in group {
            if stop.is_cancelled() {
                return Ok(None);
            }
            counted.repositories += 1;
            repository(layout, repo, &skipped, &mut of_group, &mut counted)?;
        }
        let Some(data) = found.last_mut() else { continue };
        data.all.join(counted);
        data.upstreams.extend(first.upstream().map(|upstream| (upstream, counted)));
        for (inode, met) in of_group.0 {
            match of_mode.meet(inode, met) {
                Ok(freed) => freed.into_iter().for_each(|bytes| data.all.add(bytes)),
                Err(()) => data.all.at_least = true,
            }
        }
    }
    Ok(Some(found))
}

fn repository(
    layout: &Layout,
    repo: &RepoName,
    skipped: &SkippedEntries,
    shared: &mut Shared,
    counted: &mut DataCount,
) -> Result<(), StoreError> {
    for kind in [Membership::Manifest, Membership::Blob] {
        for digest in Members::new(layout, repo, kind, skipped) {
            let Some(facts) = stat(&layout.member(repo, kind, &digest))? else { continue };
            crate::telemetry::disk_moved();
            // One name is the content's own.
            let met = Met { met: 1, names: facts.nlink().saturating_sub(1), bytes: facts.len() };
            match shared.meet(facts.ino(), met) {
                Ok(freed) => freed.into_iter().for_each(|bytes| counted.add(bytes)),
                Err(()) => counted.at_least = true,
            }
        }
    }
    Ok(())
}
