//! Records of another master, with what they name, brought here: contents, manifest, tag, record.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Comparison;
use super::text::records;
use crate::mode::{Brought, Closure, Local, ModeError, Moved};
use crate::oci::{Digest, Reference, RepoName};
use crate::store::{Record, StoreError};
use crate::telemetry::with_causes;
use crate::upstream::Upstream;

/// Manifests, or deletions, whose records are taken with one sync: a repository's pushes wait for no more.
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

/// What came of records of another master, as they are taken.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Those that count here now.
    pub(super) taken: usize,
    /// Their clock is too far ahead.
    refused: usize,
    /// The manifest that they name is not to be had.
    lacking: usize,
    /// A part of the image that they name was deleted here, and later than it was pushed there.
    partial: usize,
    /// Why something did not come, a sentence; the last reason of several.
    pub(super) failed: Option<String>,
    /// The store is full: deletions alone are taken from now on.
    is_full: bool,
}

impl Comparison {
    /// Takes what the master `from` has said last of a tag or a manifest, with all that it names. It goes on whoever waits. All that
    /// are taken at once hold manifests in a bounded room; one that waits for some moves no bytes, and fails behind 20 s.
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
        if !self.0.store.records_are_kept() {
            return Err("no records are kept on that master".to_owned());
        }
        let _arriving = self.0.store.arriving(repo);
        let mut wanted = vec![of.clone()];
        let mut told = Vec::new();
        while let Some(of) = wanted.pop() {
            let path = format!("/v2/{repo}/records/of/{of}");
            let answer = from.told(&path, LONGEST_RECORD, Instant::now() + PATIENCE).await;
            // Without a record nothing can be taken: a 404 is no reason to count as one that has it.
            let answer = answer.map_err(|error| with_causes(&error))?.bytes;
            let records = records(&String::from_utf8_lossy(&answer)).ok_or("it told something that is no record")?;
            if records.iter().any(|record| *record.of() != of) {
                return Err("it told of something else".to_owned());
            }
            self.0.store.hear(&records).await;
            if let (Reference::Tag(_), Some(target)) = (&of, records.first().and_then(Record::target)) {
                wanted.push(Reference::Digest(target));
            }
            told.extend(records);
        }
        let mut outcome = Outcome::default();
        self.take_all(&local, repo, told, from, moved, &mut outcome).await?;
        match outcome {
            Outcome { failed: Some(why), .. } => Err(why),
            Outcome { refused: 1.., .. } => Err("its clock is more than 24 hours ahead".to_owned()),
            Outcome { lacking: 1.., .. } => Err("the manifest is not to be had".to_owned()),
            Outcome { partial: 1.., .. } => Err("a part of it was deleted there, and later".to_owned()),
            Outcome { .. } => Ok(()),
        }
    }

    /// Takes those of the records that count here, as far as what they name can be had. What does not come keeps nothing else away;
    /// but behind one for which there is no room deletions alone are taken.
    ///
    /// # Errors
    /// Of the own store, a sentence. What came until then counts in `outcome`.
    pub(super) async fn take_all(
        &self,
        local: &Local,
        repo: &RepoName,
        records: Vec<Record>,
        from: &Upstream,
        moved: &Moved,
        outcome: &mut Outcome,
    ) -> Result<(), String> {
        let store = &self.0.store;
        let wall = crate::clock::now();
        let (ahead, records): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.is_too_far_ahead(wall));
        outcome.refused += ahead.len();
        self.note_refused(from, ahead.len());
        let later = async |records| store.later_records(repo, records).await.map_err(|error| with_causes(&error));
        let (deleted, there): (Vec<_>, Vec<_>) =
            later(records).await?.into_iter().partition(|record| record.target().is_none());
        for deleted in deleted.chunks(AT_ONCE) {
            self.take_ready(repo, deleted.to_vec(), outcome).await?;
        }
        let mut by_target: BTreeMap<Digest, Vec<Record>> = BTreeMap::new();
        for record in later(there).await? {
            if let Some(target) = record.target() {
                by_target.entry(target).or_default().push(record);
            }
        }
        let (mut ready, mut waiting) = (Vec::new(), 0);
        for (digest, records) in by_target {
            if outcome.is_full {
                break;
            }
            let before = moved.bytes();
            let said = records.iter().reduce(|one, other| if other.is_later(one) { other } else { one });
            let brought = local.bring_image(Closure { repo, digest, said, from }, &self.0.room, moved).await;
            self.0.bytes.fetch_add(moved.bytes().saturating_sub(before), Ordering::Relaxed);
            match brought {
                // Where nothing came a record may say by now that it was deleted: the store decides.
                Ok(brought) => {
                    outcome.partial += usize::from(brought == Brought::Partly);
                    if brought == Brought::Nothing {
                        self.0.lacking.note(from.host(), repo, &records, Instant::now());
                    }
                    ready.extend(records);
                    waiting += 1;
                }
                Err(error) => {
                    outcome.is_full |= matches!(error, ModeError::Store(StoreError::Full(_)));
                    outcome.failed = Some(with_causes(&error));
                }
            }
            if waiting >= AT_ONCE {
                waiting = 0;
                self.take_ready(repo, std::mem::take(&mut ready), outcome).await?;
            }
        }
        self.take_ready(repo, ready, outcome).await
    }

    async fn take_ready(&self, repo: &RepoName, records: Vec<Record>, outcome: &mut Outcome) -> Result<(), String> {
        if records.is_empty() {
            return Ok(());
        }
        let taken = self.0.store.take_records(repo, records).await.map_err(|error| with_causes(&error))?;
        self.0.taken.fetch_add(taken.taken.len() as u64, Ordering::Relaxed);
        outcome.taken += taken.taken.len();
        outcome.lacking += taken.lacking.len();
        outcome.refused += taken.refused;
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
