//! A switch of modes as the requests of one server see it: the mode in force, the one that is coming, those that were before.
//!
//! A server changes from one [`Transition`] to the next in one step, and a request keeps the [`View`] that it began with. What
//! a user sees first depends on the role alone. Behind that stand other modes, for reads by digest only: a digest names the
//! same content in each of them, so nobody is given anything else than what was asked for. Tags and lists come from the mode
//! that is seen first, always.
//!
//! # Decisions
//!
//! - Every mode has the same rights: the roles of users hold in each, and an upstream's pair is role `ro`. So what stands
//!   behind is asked under the same name and for whoever may pull.
//! - The mode behind is begun beside one that is slow, and whichever gives the content first answers: a client waits for 25 s
//!   at most, and an upstream that is gone takes 20 s to say so.
//! - A user who may push is not told by a HEAD of a mode behind that something is there: it would not be pushed, and the
//!   manifest that names it would be refused. What another master has he is told of: a push by way of a balancer put it there,
//!   and whichever master gets the manifest fetches what that names.
//! - Who checks or copies from master to master (`mirror-puller`, `mirror-pusher`) never hears of other masters: the question was
//!   what this one has.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::answer::{BlobRequest, Served, ServedBlob, ServedManifest, ServedManifestFacts};
use super::{Local, Mode, ModeError};
use crate::oci::{Digest, Reference, RepoName};
use crate::store::{Page, Referrer, StoreError};
use crate::telemetry::{CacheOutcome, UpstreamCause};
use crate::values::{Phase, Role};

/// Time after which the next mode is asked beside one that has not answered.
const PATIENCE: Duration = Duration::from_secs(6);
/// And the one behind that.
const FURTHER: Duration = Duration::from_secs(2);

/// Modes of a server at one moment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Transition {
    in_force: Arc<Mode>,
    coming: Option<(Arc<Mode>, Phase)>,
    previous: Vec<Arc<Mode>>,
}

/// Who sees what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Users who pull: they see the mode in force.
    Pullers,
    /// Users who push: they see the coming mode from its beginning.
    Fillers,
    /// Users who check and copy from master to master: the same, and of Local what is in this master's store alone.
    Checkers,
}

impl Audience {
    /// The audience of a role; `None`: nobody signed in, or the upstream's pair.
    #[must_use]
    pub const fn of(role: Option<Role>) -> Self {
        match role {
            Some(Role::Rw) => Self::Fillers,
            Some(Role::MirrorPuller | Role::MirrorPusher) => Self::Checkers,
            Some(Role::Ro) | None => Self::Pullers,
        }
    }
}

impl Transition {
    /// A mode in force, and nothing else.
    #[must_use]
    pub fn settled(mode: Mode) -> Self {
        Self::new(Arc::new(mode), None, Vec::new())
    }

    /// A mode in force, perhaps another that is coming, and those that were before, the newest first.
    #[must_use]
    pub const fn new(in_force: Arc<Mode>, coming: Option<(Arc<Mode>, Phase)>, previous: Vec<Arc<Mode>>) -> Self {
        Self { in_force, coming, previous }
    }

    /// The mode in force.
    #[must_use]
    pub const fn in_force(&self) -> &Arc<Mode> {
        &self.in_force
    }

    /// The coming mode and how far it is.
    #[must_use]
    pub fn coming(&self) -> Option<(&Arc<Mode>, Phase)> {
        self.coming.as_ref().map(|(mode, phase)| (mode, *phase))
    }

    /// The modes before the one in force, the newest first.
    #[must_use]
    pub fn previous(&self) -> &[Arc<Mode>] {
        &self.previous
    }

    /// Whether no request of a registry is served: mode Unmanaged, and nothing comes.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(*self.in_force, Mode::Unmanaged) && self.coming.is_none()
    }

    /// Whether one of the modes that are seen first may have answers in memory.
    #[must_use]
    pub fn has_memory(&self) -> bool {
        self.in_force.stores() || self.coming.as_ref().is_some_and(|(mode, _)| mode.stores())
    }

    /// The mode that an audience sees first.
    #[must_use]
    pub fn first(&self, audience: Audience) -> &Arc<Mode> {
        match (audience, &self.coming) {
            (Audience::Fillers | Audience::Checkers, Some((coming, _))) => coming,
            (Audience::Fillers | Audience::Checkers, None) | (Audience::Pullers, _) => &self.in_force,
        }
    }

    /// What an audience sees.
    #[must_use]
    pub fn view(&self, audience: Audience) -> View {
        let first = Arc::clone(self.first(audience));
        let pushes = audience != Audience::Pullers && first.writable().is_ok();
        let first = if pushes && audience == Audience::Checkers { Arc::new(first.alone()) } else { first };
        let first_for_a_push = pushes.then(|| Arc::clone(&first));
        let coming = match (audience, &self.coming) {
            // Whoever fills or checks the coming mode has to hear what is in it, and of nothing else.
            (Audience::Fillers | Audience::Checkers, Some(_)) => {
                return View { first, behind: Vec::new(), first_for_a_push };
            }
            (Audience::Pullers, Some((coming, Phase::Ready))) => {
                Some(Behind { mode: Arc::clone(coming), is_previous: false })
            }
            (Audience::Pullers, Some((_, Phase::Filling))) | (_, None) => None,
        };
        let previous = self.previous.iter().map(|mode| Behind { mode: Arc::clone(mode), is_previous: true });
        View { first, behind: coming.into_iter().chain(previous).collect(), first_for_a_push }
    }

    /// Mode Local, if that is one of the modes.
    #[must_use]
    pub fn local(&self) -> Option<Local> {
        let coming = self.coming.as_ref().map(|(mode, _)| mode);
        let mut modes = std::iter::once(&self.in_force).chain(coming).chain(&self.previous);
        modes.find_map(|mode| match &**mode {
            Mode::Local(local) => Some(local.clone()),
            Mode::Unmanaged | Mode::Direct(_) | Mode::Proxy(_) | Mode::Bundled(_) => None,
        })
    }

    /// The own store of mode Local, if that is one of the modes: what other masters are answered from.
    #[must_use]
    pub fn own_store(&self) -> Option<View> {
        let coming = self.coming.as_ref().map(|(mode, _)| mode);
        let mut modes = std::iter::once(&self.in_force).chain(coming).chain(&self.previous);
        let local = modes.find(|mode| mode.writable().is_ok())?;
        Some(View { first: Arc::new(local.alone()), behind: Vec::new(), first_for_a_push: None })
    }
}

/// A mode behind the one that is seen first.
#[derive(Clone, Debug)]
struct Behind {
    mode: Arc<Mode>,
    is_previous: bool,
}

/// The modes that one request sees.
#[derive(Clone, Debug)]
pub struct View {
    first: Arc<Mode>,
    behind: Vec<Behind>,
    /// The user may push here, so a HEAD may ask whether something has to be pushed: this mode answers it.
    first_for_a_push: Option<Arc<Mode>>,
}

/// What a mode answered, and which mode it was.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// The mode.
    pub by: Arc<Mode>,
    /// Its answer.
    pub served: Served<T>,
}

/// Why a mode did not give what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    /// It has it not.
    Absent,
    /// It may have it and gave no usable answer.
    Unusable,
    /// No other mode is asked: it is about the request, or about this server.
    Final,
}

impl View {
    /// The mode that is seen first: it takes writes and gives tags and lists.
    #[must_use]
    pub const fn first(&self) -> &Arc<Mode> {
        &self.first
    }

    /// The same without what other masters have.
    #[must_use]
    pub fn alone(self) -> Self {
        let alone = |mode: &Arc<Mode>| Arc::new(mode.alone());
        let behind = self.behind.iter().map(|behind| Behind { mode: alone(&behind.mode), ..behind.clone() }).collect();
        Self { first: alone(&self.first), behind, first_for_a_push: self.first_for_a_push.as_ref().map(alone) }
    }

    /// Whether no read and no write can be answered at all.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(*self.first, Mode::Unmanaged) && self.behind.is_empty()
    }

    /// The side of the first mode that takes writes.
    ///
    /// # Errors
    /// [`ModeError::ReadOnly`], [`ModeError::Unmanaged`].
    pub fn writable(&self) -> Result<&Local, ModeError> {
        self.first.writable()
    }

    /// As [`Mode::blob`], of the first mode that has it.
    ///
    /// # Errors
    /// As there, of the first mode, unless another may have it and gave no usable answer: then its error.
    pub async fn blob(
        &self,
        repo: &RepoName,
        digest: Digest,
        request: BlobRequest,
    ) -> Result<Answer<ServedBlob>, ModeError> {
        self.ask(request.head, |mode| mode.blob(repo, digest, request)).await
    }

    /// As [`Mode::manifest`]; by digest of the first mode that has it, by tag of the first mode alone.
    ///
    /// # Errors
    /// As [`View::blob`].
    pub async fn manifest(&self, repo: &RepoName, reference: &Reference) -> Result<Answer<ServedManifest>, ModeError> {
        match reference {
            Reference::Digest(_) => self.ask(false, |mode| mode.manifest(repo, reference)).await,
            Reference::Tag(_) => Ok(self.of_first(self.first.manifest(repo, reference).await?)),
        }
    }

    /// As [`Mode::manifest_facts`], of the same modes as [`View::manifest`].
    ///
    /// # Errors
    /// As [`View::blob`].
    pub async fn manifest_facts(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<Answer<ServedManifestFacts>, ModeError> {
        match reference {
            Reference::Digest(_) => self.ask(true, |mode| mode.manifest_facts(repo, reference)).await,
            Reference::Tag(_) => {
                let first = self.first_for_a_push.as_ref().unwrap_or(&self.first);
                Ok(self.of_first(first.manifest_facts(repo, reference).await?))
            }
        }
    }

    /// As [`Mode::manifest_in_memory`], of the first mode: what is not in memory may be in it all the same.
    #[must_use]
    pub fn manifest_in_memory(&self, repo: &RepoName, reference: &Reference) -> Option<Answer<ServedManifest>> {
        Some(self.of_first(self.first.manifest_in_memory(repo, reference)?))
    }

    /// As [`Mode::blob_in_memory`], of the first mode.
    #[must_use]
    pub fn blob_in_memory(&self, repo: &RepoName, digest: &Digest) -> Option<Answer<Bytes>> {
        Some(self.of_first(self.first.blob_in_memory(repo, digest)?))
    }

    /// As [`Mode::stored_length`], of the first mode.
    pub async fn stored_length(&self, repo: &RepoName, digest: Digest) -> Option<u64> {
        self.first.stored_length(repo, digest).await
    }

    /// As [`Mode::tags`], of the first mode.
    ///
    /// # Errors
    /// As there.
    pub async fn tags(&self, repo: &RepoName, last: Option<&str>, limit: usize) -> Result<Served<Page>, ModeError> {
        self.first.tags(repo, last, limit).await
    }

    /// As [`Mode::repositories`], of the first mode.
    ///
    /// # Errors
    /// As there.
    pub async fn repositories(&self, last: Option<&str>, limit: usize) -> Result<Page, ModeError> {
        self.first.repositories(last, limit).await
    }

    /// As [`Mode::referrers`], of the first mode.
    ///
    /// # Errors
    /// As there.
    pub async fn referrers(
        &self,
        repo: &RepoName,
        subject: Digest,
        last: Option<Digest>,
        limit: usize,
    ) -> Result<Served<Vec<Referrer>>, ModeError> {
        self.first.referrers(repo, subject, last, limit).await
    }

    fn of_first<T>(&self, served: Served<T>) -> Answer<T> {
        Answer { by: Arc::clone(&self.first), served }
    }

    /// Asks the first mode, and those behind it as far as it has not what is asked for. Safe to drop.
    async fn ask<'a, T, F>(&'a self, head: bool, ask: impl Fn(&'a Mode) -> F) -> Result<Answer<T>, ModeError>
    where
        F: Future<Output = Result<Served<T>, ModeError>>,
    {
        if let Some(first) = self.first_for_a_push.as_ref().filter(|_| head) {
            return Ok(self.of_first(ask(first).await?));
        }
        let behind = &self.behind;
        if behind.is_empty() {
            return Ok(self.of_first(ask(&self.first).await?));
        }
        let first = (&self.first, false);
        let mut others = std::iter::once(first).chain(behind.iter().map(|other| (&other.mode, other.is_previous)));
        let mut running = FuturesUnordered::new();
        let (mut lacks, mut begun) = (Vec::new(), 0_usize);
        loop {
            let next = others.next();
            let is_last = next.is_none();
            if let Some((mode, is_previous)) = next {
                let (asked, number) = (ask(mode), begun);
                begun += 1;
                running.push(async move { (number, mode, is_previous, asked.await) });
            }
            let patience = if begun > 1 { FURTHER } else { PATIENCE };
            let ended = if is_last {
                running.next().await
            } else {
                match tokio::time::timeout(patience, running.next()).await {
                    Ok(ended) => ended,
                    Err(_) => continue,
                }
            };
            match ended {
                Some((_, mode, is_previous, Ok(mut served))) => {
                    if is_previous {
                        served.provenance.outcome = Some(CacheOutcome::Previous);
                    }
                    return Ok(Answer { by: Arc::clone(mode), served });
                }
                Some((number, _, _, Err(error))) => match lack(&error) {
                    Lack::Final => return Err(error),
                    Lack::Absent => lacks.push((true, number, error)),
                    Lack::Unusable => lacks.push((false, number, error)),
                },
                None => break,
            }
        }
        // "Not there" is said only if every mode says so.
        lacks.sort_by_key(|(is_absent, number, _)| (*is_absent, *number));
        match lacks.into_iter().next() {
            Some((_, _, error)) => Err(error),
            None => Err(StoreError::Bug("no mode was asked".into()).into()),
        }
    }
}

/// What an error of a read says of the mode that gave it.
fn lack(error: &ModeError) -> Lack {
    match error {
        ModeError::Incomplete { .. }
        | ModeError::RepositoryUnknown
        | ModeError::Absent { .. }
        | ModeError::NotServed { .. } => Lack::Absent,
        ModeError::Upstream(error) if error.cause() == UpstreamCause::NotFound => Lack::Absent,
        ModeError::Upstream(_)
        | ModeError::UpstreamTimeout
        | ModeError::NotReachable
        | ModeError::UpstreamContradiction(_)
        | ModeError::Unmanaged => Lack::Unusable,
        ModeError::ReadOnly { .. } | ModeError::Stopping => Lack::Final,
        ModeError::Store(error) => match error {
            StoreError::BlobUnknown | StoreError::ManifestUnknown => Lack::Absent,
            _ => Lack::Unusable,
        },
    }
}
