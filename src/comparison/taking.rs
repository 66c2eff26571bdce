//! Records of another master, with what they name, brought here: contents, manifest, tag, record.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Comparison;
use super::text::records;
use crate::mode::{Closure, Local, Moved};
use crate::oci::{Digest, Reference, RepoName};
use crate::store::{FARTHEST_AHEAD, Record, TakenRecords};
use crate::telemetry::{UpstreamCause, with_causes};
use crate::upstream::Upstream;

/// Manifests whose records are taken with one sync.
const AT_ONCE: usize = 32;

/// Longest wait for a record.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest record in bytes.
const LONGEST_RECORD: usize = 1024;

/// How far it is that something of another master is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakingState {
    /// It goes on.
    Running,
    /// It is here, durably, with all that it names; or something later is known of it.
    Done,
    /// It did not come; a sentence.
    Failed(String),
}

/// Something of another master that is being taken. Dropped, it goes on.
#[derive(Clone, Debug)]
pub struct Taking {
    state: watch::Receiver<TakingState>,
    moved: Moved,
}

impl Taking {
    /// Bytes that came up to now.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.moved.bytes()
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> TakingState {
        self.state.borrow().clone()
    }

    /// Ends when it is over. Safe to drop.
    pub async fn over(&mut self) {
        // Dropped without a last word, it is over too.
        let _ = self.state.wait_for(|state| *state != TakingState::Running).await;
    }
}

impl Comparison {
    /// Takes what the master `from` has said last of a tag or a manifest, with all that it names. It goes on whoever waits.
    #[must_use]
    pub fn take(&self, repo: &RepoName, of: &Reference, from: Upstream) -> Taking {
        let (sender, state) = watch::channel(TakingState::Running);
        let moved = Moved::default();
        let (comparison, repo, of, counted) = (self.clone(), repo.clone(), of.clone(), moved.clone());
        self.0.tasks.spawn(async move {
            let stop = comparison.0.stop.clone();
            let taken = stop.run_until_cancelled(comparison.take_one(&repo, &of, &from, &counted)).await;
            let state = match taken {
                Some(Ok(())) => TakingState::Done,
                Some(Err(error)) => {
                    tracing::info!(repository = %repo, reference = %of, master = from.host(), error, "what another master told of did not come yet");
                    TakingState::Failed(error)
                }
                None => TakingState::Failed("the server is shutting down".to_owned()),
            };
            sender.send_replace(state);
        });
        Taking { state, moved }
    }

    async fn take_one(&self, repo: &RepoName, of: &Reference, from: &Upstream, moved: &Moved) -> Result<(), String> {
        let Some(local) = (self.0.local)() else { return Err("mode Local rests on that master".to_owned()) };
        let mut wanted = vec![of.clone()];
        let mut told = Vec::new();
        while let Some(of) = wanted.pop() {
            let path = format!("/v2/{repo}/records/of/{of}");
            let answer = from.told(&path, LONGEST_RECORD, Instant::now() + PATIENCE).await;
            let answer = match answer {
                Ok(answer) => answer.bytes,
                // Something else was said of it meanwhile, and forgotten.
                Err(error) if error.cause() == UpstreamCause::NotFound && error.is_registrys_own() => continue,
                Err(error) => return Err(with_causes(&error)),
            };
            let records = records(&String::from_utf8_lossy(&answer)).ok_or("it told something that is no record")?;
            if records.iter().any(|record| *record.of() != of) {
                return Err("it told of something else".to_owned());
            }
            if let (Reference::Tag(_), Some(target)) = (&of, records.first().and_then(Record::target)) {
                wanted.push(Reference::Digest(target));
            }
            told.extend(records);
        }
        let outcome = self.take_all(&local, repo, told, from, moved).await?;
        match (outcome.refused, outcome.lacking.len()) {
            (0, 0) => Ok(()),
            (0, _) => Err("the manifest is not to be had".to_owned()),
            (_, _) => Err("its clock is more than 24 hours ahead".to_owned()),
        }
    }

    /// Takes those of the records that count here, as far as what they name can be had.
    pub(super) async fn take_all(
        &self,
        local: &Local,
        repo: &RepoName,
        records: Vec<Record>,
        from: &Upstream,
        moved: &Moved,
    ) -> Result<TakenRecords, String> {
        let store = &self.0.store;
        let wall = crate::clock::now();
        let is_ahead = |record: &Record| record.wall().since(wall).is_some_and(|ahead| ahead > FARTHEST_AHEAD);
        let (ahead, records): (Vec<_>, Vec<_>) = records.into_iter().partition(is_ahead);
        let mut outcome = TakenRecords { refused: ahead.len(), ..TakenRecords::default() };
        self.note_refused(from, ahead.len());
        let later = async |records| store.later_records(repo, records).await.map_err(|error| with_causes(&error));
        let (deleted, there): (Vec<_>, Vec<_>) =
            later(records).await?.into_iter().partition(|record| record.target().is_none());
        if !deleted.is_empty() {
            self.take_ready(repo, deleted, &mut outcome).await?;
        }
        let mut by_target: BTreeMap<Digest, Vec<Record>> = BTreeMap::new();
        for record in later(there).await? {
            if let Some(target) = record.target() {
                by_target.entry(target).or_default().push(record);
            }
        }
        let (mut ready, mut failed) = (Vec::new(), None);
        let mut waiting = 0;
        for (digest, records) in by_target {
            let before = moved.bytes();
            let said = records.iter().reduce(|one, other| if other.is_later(one) { other } else { one });
            let brought = local.bring_image(Closure { repo, digest, said, from }, moved).await;
            self.0.bytes.fetch_add(moved.bytes().saturating_sub(before), Ordering::Relaxed);
            match brought {
                Ok(true) => {
                    ready.extend(records);
                    waiting += 1;
                }
                // A record may say by now that it was deleted: the store decides.
                Ok(false) => ready.extend(records),
                Err(error) => failed = Some(with_causes(&error)),
            }
            if waiting >= AT_ONCE {
                waiting = 0;
                self.take_ready(repo, std::mem::take(&mut ready), &mut outcome).await?;
            }
        }
        self.take_ready(repo, ready, &mut outcome).await?;
        failed.map_or(Ok(outcome), Err)
    }

    async fn take_ready(
        &self,
        repo: &RepoName,
        records: Vec<Record>,
        outcome: &mut TakenRecords,
    ) -> Result<(), String> {
        if records.is_empty() {
            return Ok(());
        }
        let taken = self.0.store.take_records(repo, records).await.map_err(|error| with_causes(&error))?;
        self.0.taken.fetch_add(taken.taken.len() as u64, Ordering::Relaxed);
        outcome.taken.extend(taken.taken);
        outcome.lacking.extend(taken.lacking);
        Ok(())
    }

    fn note_refused(&self, from: &Upstream, count: usize) {
        if count > 0 {
            self.0.refused.fetch_add(count as u64, Ordering::Relaxed);
            if self.0.masters.is_to_be_told(from.host()) {
                tracing::error!(
                    master = from.host(),
                    records = count,
                    "records whose clock is more than 24 hours ahead are refused: set the clocks of the masters right"
                );
            }
        }
    }
}
