//! One comparison with one master, from the sum over all to the records that differ.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::time::Instant as Deadline;

use super::Comparison;
use super::taking::Outcome;
use super::text::{bucket_path, bucket_sums, records, repositories};
use crate::clock::Timestamp;
use crate::mode::{Local, Moved};
use crate::oci::RepoName;
use crate::store::{BUCKETS, RepositorySum, Sum};
use crate::telemetry::with_causes;
use crate::upstream::{Told, Upstream};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Longest list of repositories in bytes.
const LIST_BYTES: usize = 32 << 20;

/// Records that one question asks for, as far as they are spread evenly.
const AT_ONCE: usize = 2000;

/// Longest answer with records in bytes, however they are spread.
const RECORDS_BYTES: usize = 64 << 20;

/// Records of a repository that are asked for without a look at its buckets.
const FEW: usize = 64;

/// Records that make a line in the log at the beginning of a round, at its end, and between.
const MANY: u64 = 100;

/// Between two lines of a round that goes on.
const TOLD_EVERY: Duration = Duration::from_secs(30);

/// What came of one comparison.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// Records that count here now.
    pub(super) taken: usize,
    /// Why not all is the same, a sentence.
    pub(super) error: Option<String>,
    /// The master did not answer.
    pub(super) is_away: bool,
}

impl Comparison {
    /// Compares with one master and takes what counts here.
    pub(super) async fn compare(&self, local: &Local, peer: &Upstream) -> Compared {
        let Some(own) = self.0.store.records_sum() else {
            return Compared { error: Some("the records here are not read yet".to_owned()), ..Compared::default() };
        };
        let began = crate::clock::now();
        let told = match self.ask(peer, "/records", Sum::LENGTH).await {
            Ok(told) => told,
            Err(error) => return Compared { error: Some(error), is_away: true, ..Compared::default() },
        };
        let mut outcome = Outcome::default();
        let compared = self.compare_told(local, peer, (own, &told), began, &mut outcome).await;
        Compared { taken: outcome.taken, error: compared.err(), is_away: false }
    }

    /// Compares the sum here with the one that the master `told` of.
    ///
    /// # Errors
    /// A sentence.
    async fn compare_told(
        &self,
        local: &Local,
        peer: &Upstream,
        (own, told): (Sum, &Told),
        began: Timestamp,
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let ended = crate::clock::now();
        self.note_clock(peer, told, began.as_millis().midpoint(ended.as_millis()));
        let theirs = Sum::of_bytes(&told.bytes).ok_or("it told something that is no sum")?;
        if own == theirs {
            self.0.masters.note(peer.host(), |compared| {
                compared.equal = Some(ended);
                (compared.repositories, compared.records) = (0, 0);
            });
            return Ok(());
        }
        self.compare_repositories(local, peer, outcome).await
    }

    async fn ask(&self, peer: &Upstream, path: &str, most: usize) -> Result<Told, String> {
        peer.told(path, most, Deadline::now() + PATIENCE).await.map_err(|error| with_causes(&error))
    }

    fn note_clock(&self, peer: &Upstream, told: &Told, own: u64) {
        if let Some(clock) = told.clock {
            let offset = Duration::from_millis(clock.as_millis().abs_diff(own));
            self.0.masters.note(peer.host(), |compared| compared.clock_offset = offset);
        }
    }

    /// One that fails keeps no other one away.
    async fn compare_repositories(&self, local: &Local, peer: &Upstream, outcome: &mut Outcome) -> Result<(), String> {
        let told = self.ask(peer, "/records/repositories", LIST_BYTES).await?;
        let theirs = repositories(&String::from_utf8_lossy(&told.bytes)).ok_or("it told no list of repositories")?;
        let own: BTreeMap<RepoName, RepositorySum> = self.0.store.repository_sums().into_iter().collect();
        let is_other = |(repo, sum): &(RepoName, RepositorySum)| own.get(repo).is_none_or(|own| own.sum != sum.sum);
        let differ: Vec<(RepoName, RepositorySum)> = theirs.into_iter().filter(is_other).collect();
        let mut progress = Progress::begin(self, peer, &differ);
        let mut failed = None;
        for (repo, sum) in differ {
            let compared = self.compare_repository(local, peer, (&repo, sum.records), outcome).await;
            if let Some(error) = compared.err().or_else(|| outcome.failed.take()) {
                tracing::info!(repository = %repo, master = peer.host(), error, "records of another master are not taken yet");
                failed = Some(error);
            }
            progress.advance(self, peer, sum.records);
        }
        progress.end(peer, failed.as_deref());
        failed.map_or(Ok(()), Err)
    }

    async fn compare_repository(
        &self,
        local: &Local,
        peer: &Upstream,
        (repo, count): (&RepoName, usize),
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let _arriving = self.0.store.arriving(repo);
        let all: Vec<u8> = (0..=u8::MAX).collect();
        let differ = if count <= FEW {
            all
        } else {
            let told = self.ask(peer, &format!("/v2/{repo}/records/buckets"), BUCKETS * Sum::LENGTH).await?;
            let theirs = bucket_sums(&told.bytes).ok_or("it told no sums of buckets")?;
            let own = self.0.store.bucket_sums(repo).await.map_err(|error| with_causes(&error))?;
            all.into_iter()
                .zip(own.iter().zip(&theirs))
                .filter(|(_, (own, theirs))| own != theirs)
                .map(|of| of.0)
                .collect()
        };
        let buckets_at_once = (AT_ONCE * BUCKETS / count.max(1)).clamp(1, BUCKETS);
        let moved = Moved::default();
        for buckets in differ.chunks(buckets_at_once) {
            if self.0.stop.is_cancelled() {
                return Err("the server is shutting down".to_owned());
            }
            let path = format!("/v2/{repo}/records/in/{}", bucket_path(buckets));
            let told = self.ask(peer, &path, RECORDS_BYTES).await?;
            let mut records =
                records(&String::from_utf8_lossy(&told.bytes)).ok_or("it told something that is no record")?;
            self.0.store.hear(&records).await;
            // What it says is there and is not it is not asked for each time.
            records.retain(|record| !self.0.lacking.has(peer.host(), repo, record, Deadline::now()));
            self.take_all(local, repo, records, peer, &moved, outcome).await?;
        }
        Ok(())
    }
}

/// How far a round is, for status and log.
struct Progress {
    all: u64,
    done: u64,
    told: (Instant, u64),
}

impl Progress {
    fn begin(comparison: &Comparison, peer: &Upstream, differ: &[(RepoName, RepositorySum)]) -> Self {
        let all: u64 = differ.iter().map(|(_, sum)| sum.records as u64).sum();
        let repositories = differ.len() as u64;
        comparison.0.masters.note(peer.host(), |compared| {
            (compared.repositories, compared.records) = (repositories, all);
        });
        if all >= MANY {
            tracing::info!(
                master = peer.host(),
                repositories,
                records = all,
                "what another master has and this one lacks is fetched"
            );
        }
        Self { all, done: 0, told: (Instant::now(), 0) }
    }

    fn advance(&mut self, comparison: &Comparison, peer: &Upstream, records: usize) {
        self.done += records as u64;
        let left = self.all.saturating_sub(self.done);
        comparison.0.masters.note(peer.host(), |compared| {
            compared.repositories = compared.repositories.saturating_sub(1);
            compared.records = left;
        });
        let tenths = self.done * 10 / self.all.max(1);
        if self.all >= MANY && left > 0 && (tenths > self.told.1 || self.told.0.elapsed() >= TOLD_EVERY) {
            self.told = (Instant::now(), tenths);
            tracing::info!(
                master = peer.host(),
                records = self.done,
                of = self.all,
                "fetching from another master goes on"
            );
        }
    }

    fn end(&self, peer: &Upstream, error: Option<&str>) {
        if self.all >= MANY {
            tracing::info!(
                master = peer.host(),
                records = self.done,
                error,
                "fetching from another master is at its end"
            );
        }
    }
}
