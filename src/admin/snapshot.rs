//! The server at one moment, in the form in which `/status` shows it. Times are seconds since 1970-01-01T00:00:00Z, sizes
//! bytes. What `/status` does not show is for the metrics alone.

use serde::Serialize;

use crate::clock::Timestamp;
use crate::jobs::JobStatus;
use crate::telemetry::Samples;

/// The server at one moment.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The program's version.
    pub version: &'static str,
    /// The commit that it was built from.
    #[serde(skip)]
    pub revision: &'static str,
    /// The name of the mode in force.
    pub mode: &'static str,
    /// The mode that will be in force next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coming: Option<ComingStatus>,
    /// The modes before the one in force that still answer, the newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub previous: Vec<&'static str>,
    /// Answers by them since the process began.
    pub previous_answers: u64,
    /// The mode file; `None` where the configuration's keys count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode_file: Option<ModeFileStatus>,
    /// Since the server began to serve.
    pub uptime_seconds: u64,
    /// Whether it is ending.
    pub draining: bool,
    /// What an administrator should know of and that keeps no request from its answer, in sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<&'static str>,
    /// Open connections of the registry's listeners.
    pub connections: usize,
    /// Number of users.
    pub users: usize,
    /// The upstream; `None` in mode Local.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamStatus>,
    /// The store's room, and what is known of damage in it.
    pub store: StoreStatus,
    /// Collection of what nothing reaches.
    pub collection: CollectionStatus,
    /// What stays whatever a rule says; `None`: `store.pins` is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pins: Option<PinsStatus>,
    /// What has to be in the store, and whether it is; `None`: `store.expected` is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<ExpectedStatus>,
    /// The other masters; `None`: `replicas` is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<ReplicasStatus>,
    /// Data of modes that are not in force, as it was last counted; none before the first count.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unused: Vec<UnusedStatus>,
    /// The regular look at all that is stored.
    pub scrub: ScrubStatus,
    /// Which tags go by rules.
    pub retention: RetentionStatus,
    /// What the index does.
    pub index: IndexStatus,
    /// When the certificate in force ends; `None` without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_expiry: Option<u64>,
    /// The configuration.
    pub config: ConfigStatus,
    /// What works beside requests.
    pub jobs: Vec<JobStatus>,
    /// Log lines lost since the start because the log's reader was too slow.
    #[serde(skip)]
    pub dropped_log_lines: u64,
    /// Numbers that parts sampled themselves.
    #[serde(skip)]
    pub sampled: Samples,
}

impl Snapshot {
    /// Without what may name repositories: for readers who have not proven who they are.
    #[must_use]
    pub fn for_anyone(mut self) -> Self {
        for error in self.jobs.iter_mut().filter_map(|job| job.last_error.as_mut()) {
            error.message = None;
        }
        for left in self.collection.left_alone.iter_mut().chain(&mut self.retention.left_alone) {
            (left.repository, left.reason) = (None, None);
        }
        // Why a master does not answer may name one, too.
        self.collection.masters_away =
            self.collection.masters_away.map(|_| "not all masters could be asked".to_owned());
        self.store.damaged.clear();
        for mode in self.expected.iter_mut().flat_map(|expected| &mut expected.modes) {
            mode.missing_images.clear();
        }
        self
    }
}

/// The mode that will be in force next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComingStatus {
    /// Its name.
    pub mode: &'static str,
    /// `filling` or `ready`.
    pub phase: &'static str,
}

/// The mode file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModeFileStatus {
    /// SHA-256 of the one in force; empty while none was.
    pub hash: String,
    /// Its generation.
    pub generation: u64,
    /// Why the one on disk is not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamStatus {
    /// `host[:port]`.
    pub host: String,
    /// What the last probe found, as the metrics call it; `None` before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probed: Option<u64>,
    /// When the upstream last gave what it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_accepted: Option<u64>,
    /// Why a changed upstream, or changed credentials, is not in force yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// The store's room, and what is known of damage in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// Bytes in use; `None` until they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// Bytes of it that only snapshots have; `None` as above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_bytes: Option<u64>,
    /// Snapshots that there are.
    pub snapshots: usize,
    /// The budget, if one is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_bytes: Option<u64>,
    /// Free bytes of the file system.
    pub free_bytes: u64,
    /// Bytes of it that stay free.
    pub reserve_bytes: u64,
    /// Whether a write would be taken.
    pub writable: bool,
    /// Why not, as the answers to refused pushes name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<&'static str>,
    /// Damaged contents, which count as absent.
    pub damaged_contents: u64,
    /// Bytes of them that lie on the disk.
    pub damaged_bytes: u64,
    /// Those of which there is no whole file, with what needs them; empty for readers who may not see names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<DamagedContent>,
    /// Whether more files were found damaged at once than damage explains.
    pub disk_fault: bool,
}

/// A damaged content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DamagedContent {
    /// Its digest.
    pub digest: String,
    /// Images that can't be pulled whole for it: the first by name.
    pub images: Vec<String>,
    /// Further ones.
    pub more_images: u64,
}

/// The regular look at all that is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrubStatus {
    /// Time for one pass; `None`: it is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_seconds: Option<u64>,
    /// When the pass began that goes on.
    pub began: u64,
    /// When the one before ended; `None`: there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_ended: Option<u64>,
    /// How far the pass is, in thousandths.
    pub permille: u64,
    /// Contents that it has read.
    pub contents: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Of those, damaged ones and such that could not be read.
    pub found: u64,
    /// The same of all passes since the start.
    pub found_since_start: u64,
}

/// Collection of what nothing reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectionStatus {
    /// When it runs by itself, as the configuration says it.
    pub schedule: String,
    /// Whether nothing is collected now: another mode than Local is in force, is coming or not over.
    pub held: bool,
    /// Contents that nothing reaches and that wait for their grace to end.
    pub suspects: u64,
    /// Repositories that changed since they were looked through; `None`: all are to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_repositories: Option<u64>,
    /// Repositories in which something is damaged or can't be read: nothing of them is collected.
    pub left_alone: Vec<LeftAlone>,
    /// Blobs that were removed since the start.
    pub removed_blobs: u64,
    /// Manifests that were removed since the start.
    pub removed_manifests: u64,
    /// Bytes that were freed since the start.
    pub freed_bytes: u64,
    /// Why not all other masters could be asked in the last run: manifests and tags stay until they can be; absent: they could, or
    /// nothing was to be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masters_away: Option<String>,
    /// Manifests and tags that would have gone in the last run, and that another master needs.
    pub kept_by_masters: u64,
}

/// Which tags go by rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetentionStatus {
    /// Release sets that stay for being the newest; `None`: all stay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_releases: Option<u32>,
    /// Rules for other repositories.
    pub rules: usize,
    /// Tags that went by a rule since the start.
    pub removed_tags: u64,
    /// Manifests whose last tag went by a rule and that are still there.
    pub given_up: u64,
    /// Roots and repositories of which nothing went in the last run, and why.
    pub left_alone: Vec<LeftAlone>,
}

/// The pins: what stays whatever a rule says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PinsStatus {
    /// `usable`; else nothing is removed: `missing`, `empty`, `unreadable`, `old`, or `ahead` of the clock.
    pub state: &'static str,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When they were written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
    /// Contents that they name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
    /// Releases that they name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub releases: Option<usize>,
}

/// What has to be in the store, and whether it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExpectedStatus {
    /// The file as it lies there: `usable`, else `missing`, `empty` or `unreadable`, and then the list before counts.
    pub state: &'static str,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the list that counts was written; `None`: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub written: Option<u64>,
    /// Contents that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<usize>,
    /// Releases that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub releases: Option<usize>,
    /// What was found of each mode that was looked at; empty before the first look.
    pub modes: Vec<ExpectedModeStatus>,
}

/// What a mode has of what has to be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExpectedModeStatus {
    /// `Local` or `Proxy`.
    pub mode: &'static str,
    /// Whether nothing is missing.
    pub whole: bool,
    /// Images that were looked for, those of the releases' lists among them.
    pub images: u64,
    /// Those that are not there whole.
    pub missing: u64,
    /// When the look ended.
    pub looked: u64,
    /// The first of the missing ones; empty for readers who may not see names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_images: Vec<MissingStatus>,
}

/// An image that is not there whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingStatus {
    /// Which.
    pub image: String,
    /// What needs it, where the list of a release says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Why it is not there.
    pub why: String,
}

/// The other masters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicasStatus {
    /// `host:port` of each that is asked for what is not stored here.
    pub peers: Vec<String>,
    /// The comparison of the records of tags and manifests with each of them.
    pub masters: Vec<MasterStatus>,
    /// Why the files on disk are not in force, or not enough; a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When the certificate that they are shown ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_expiry: Option<u64>,
}

/// The comparison of records with one master.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MasterStatus {
    /// `host:port`.
    pub host: String,
    /// When both last had the same, in seconds since 1970; absent: not since the server began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equal: Option<u64>,
    /// How far its clock is from ours, in either direction.
    pub clock_offset_seconds: u64,
    /// Repositories in which it has something else, of those that are to be compared yet.
    pub lacking_repositories: u64,
    /// Its records in them.
    pub lacking_records: u64,
    /// Why the last comparison came to no end; a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Data of a mode that is not in force, is not coming, and does not answer any more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnusedStatus {
    /// `Local` or `Proxy`.
    pub mode: &'static str,
    /// Repositories.
    pub repositories: u64,
    /// Blobs and manifests that nothing else has.
    pub contents: u64,
    /// Their bytes: what a drop frees.
    pub bytes: u64,
    /// Whether it may be more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub at_least: bool,
    /// When that was counted.
    pub counted: u64,
    /// Proxy's by upstream: what nothing else has, not even another cache.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<UnusedCacheStatus>,
}

/// What was learnt from one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnusedCacheStatus {
    /// Its name in the store.
    pub id: String,
    /// `host[:port][/path]`, where a mode in force has it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Repositories.
    pub repositories: u64,
    /// Blobs and manifests that nothing else has.
    pub contents: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A repository that is not collected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftAlone {
    /// Its name; `None` for readers who may not see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Why; `None` as above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What the index does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IndexStatus {
    /// In the metrics' word.
    pub state: &'static str,
    /// Manifests and tags that a rebuild has read; `None` while none goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objects_done: Option<u64>,
}

/// The configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigStatus {
    /// Whether the one on disk is in force.
    pub valid: bool,
    /// When the one in force was loaded.
    pub loaded: u64,
    /// Why the one on disk was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl ConfigStatus {
    /// The one on disk was read and is in force.
    #[must_use]
    pub const fn in_force(now: Timestamp) -> Self {
        Self { valid: true, loaded: now.as_secs(), error: None }
    }

    /// The one on disk was refused, the one before stays in force.
    #[must_use]
    pub fn refused(&self, why: String) -> Self {
        Self { valid: false, loaded: self.loaded, error: Some(why) }
    }
}
