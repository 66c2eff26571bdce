//! A source pushed into any registry over its API, from where it lies: repository by repository its blobs, its manifests, children
//! first, then its tags.
//!
//! What the registry says that it has is not sent. Nothing is remembered between runs: a run that was killed is done again, and
//! asks for what is there.

mod asking;
mod blobs;
mod manifests;
mod tags;
mod target;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

pub use self::target::Target;
use super::fault::{Fault, SourceError};
use super::import::Far;
use super::report::Report;
use super::source::Source;
use super::survey::{Blob, Survey};
use crate::oci::Digest;
use crate::upstream::UpstreamError;

/// Blobs, manifests or tags of a repository that are asked for or sent at once.
const PARALLEL: usize = 4;
/// How often it is told how far a run is.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// How a source is pushed.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// Change nothing, and say what would be sent. Bytes are not hashed.
    pub dry_run: bool,
    /// Move tags that the registry has with another digest.
    pub overwrite: bool,
    /// Move channels also to a release that is older than the one they lead to.
    pub channels_back: bool,
    /// How long one thing is tried again while the registry is away, fails, or says that it is asked too often.
    pub patience: Duration,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self { dry_run: false, overwrite: true, channels_back: false, patience: Duration::from_secs(300) }
    }
}

/// A run ended before it was through; what came stays, and another goes on.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The registry was away, or failing, for as long as the options say.
    #[error("{0}; run again it goes on")]
    Away(UpstreamError),
    /// The registry refuses us, can't be trusted, or has no room.
    #[error("{0}")]
    Refused(UpstreamError),
    /// It was told to stop.
    #[error("it was stopped; run again it goes on")]
    Stopped,
}

/// Why something was not pushed.
enum Failed {
    /// It stays behind, and others go on.
    Content(Fault),
    /// Nothing may be pushed into the repository.
    Repository(UpstreamError),
    /// The run ends.
    Run(PushError),
}

/// Pushes the images of `source` into a registry. `told` hears how far it is. Blocking; inside a tokio runtime, on a thread that
/// may block. Killed, or ended with an error, at any point: another run goes on from there.
///
/// # Errors
/// [`PushError`]. An image that is not whole is none, nor is one that the registry refuses: the report names it.
pub fn push(
    source: &Source,
    target: &Target,
    options: &PushOptions,
    stop: &CancellationToken,
    told: &dyn Fn(Far),
) -> Result<Report, PushError> {
    let report = Report { dry_run: options.dry_run, ..Report::default() };
    let state = RefCell::new(State { report, ..State::default() });
    let run = Push { source, target, options, stop, told, sent: Arc::default(), state };
    run.all()?;
    Ok(run.state.into_inner().report)
}

struct Push<'a> {
    source: &'a Source,
    target: &'a Target,
    options: &'a PushOptions,
    stop: &'a CancellationToken,
    told: &'a dyn Fn(Far),
    /// Bytes that the registry took, or takes just now.
    sent: Arc<AtomicU64>,
    /// Never borrowed while something is waited for.
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    far: Far,
    report: Report,
    /// Blobs of this repository that can't be pushed.
    bad: HashMap<Digest, Fault>,
    /// Blobs that the registry has, with a repository that has each.
    held: HashMap<Digest, String>,
    /// Blobs that are counted among those to come, by the first bytes of their digests.
    coming: HashSet<u64>,
    /// Repositories of the source of which the registry has a tag.
    tagged: HashSet<String>,
}

impl Push<'_> {
    fn all(&self) -> Result<(), PushError> {
        let (damage, more_damage) = self.source.damage();
        {
            let report = &mut self.state.borrow_mut().report;
            report.tags.left += damage.len() as u64 + more_damage;
            report.more_left += more_damage;
            for (place, says) in damage {
                report.leave(place, &says);
            }
        }
        let names = self.source.repositories()?;
        self.measure(&names)?;
        for name in &names {
            self.repository(name)?;
        }
        Ok(())
    }

    fn goes_on(&self) -> Result<(), PushError> {
        if self.stop.is_cancelled() { Err(PushError::Stopped) } else { Ok(()) }
    }

    fn survey(&self, name: &str, listed: &super::listed::Listed) -> Result<Survey, PushError> {
        let survey = Survey::of(self.source, name, listed, usize::MAX, &|| !self.stop.is_cancelled());
        self.goes_on()?;
        Ok(survey)
    }

    /// Adds up the bytes of all blobs, each once; what the registry turns out to have is taken off as that is known.
    fn measure(&self, names: &[String]) -> Result<(), PushError> {
        // A registry would be asked for all of it twice.
        if self.source.path().is_none() {
            return Ok(());
        }
        let mut bytes = 0;
        for name in names.iter().filter(|name| self.target.child(name).is_ok()) {
            let survey = self.survey(name, &self.source.list(name)?)?;
            let coming = &mut self.state.borrow_mut().coming;
            for blob in survey.nodes.iter().flat_map(|node| &node.blobs) {
                if coming.insert(blob.print()) {
                    bytes += blob.size;
                }
            }
        }
        self.state.borrow_mut().far.of_bytes = Some(bytes);
        Ok(())
    }

    /// Takes in that a blob is through: it was sent, or did not have to be.
    fn settle(&self, blob: Blob, was_sent: bool) {
        let State { coming, far, .. } = &mut *self.state.borrow_mut();
        let was_coming = coming.remove(&blob.print());
        far.of_bytes = far.of_bytes.map(|bytes| match (was_coming, was_sent) {
            (true, false) => bytes.saturating_sub(blob.size),
            (false, true) => bytes + blob.size,
            (true, true) | (false, false) => bytes,
        });
    }

    fn repository(&self, name: &str) -> Result<(), PushError> {
        self.goes_on()?;
        self.state.borrow_mut().bad.clear();
        let listed = self.source.list(name)?;
        if listed.tags.is_empty() && listed.manifests.is_empty() {
            return Ok(());
        }
        let refuse = |why: &dyn std::fmt::Display| {
            let report = &mut self.state.borrow_mut().report;
            report.tags.left += listed.tags.len() as u64;
            report.leave(name.to_owned(), why);
        };
        if let Err(fault) = self.target.child(name) {
            refuse(&fault);
            return Ok(());
        }
        for (image, fault) in &listed.faults {
            self.state.borrow_mut().report.leave(format!("{name}{image}"), fault);
        }
        let mut survey = self.survey(name, &listed)?;
        let pushed = async {
            self.blobs(name, &survey).await?;
            survey.judge(&mut |blob| self.state.borrow().bad.get(&blob.digest).cloned());
            self.manifests(name, &mut survey).await?;
            self.tags(name, &listed, &survey).await
        };
        match Handle::current().block_on(self.watched(pushed)) {
            Ok(()) => {
                self.state.borrow_mut().report.repositories += u64::from(survey.whole().next().is_some());
                Ok(())
            }
            Err(Failed::Repository(error)) => {
                refuse(&error);
                Ok(())
            }
            Err(Failed::Content(fault)) => {
                refuse(&fault);
                Ok(())
            }
            Err(Failed::Run(error)) => Err(error),
        }
    }

    /// Tells how far it is while it waits.
    async fn watched<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut tick = tokio::time::interval(TELL_EVERY);
        loop {
            tokio::select! {
                done = &mut work => {
                    self.tell();
                    return done;
                }
                _ = tick.tick() => self.tell(),
            }
        }
    }

    fn tell(&self) {
        let far = {
            let far = &mut self.state.borrow_mut().far;
            far.bytes = self.sent.load(Ordering::Relaxed);
            *far
        };
        (self.told)(far);
    }
}

/// Runs `each` for all, [`PARALLEL`] at once, until one fails. Those that run then are dropped.
async fn in_parallel<I, F>(all: impl IntoIterator<Item = I>, each: impl Fn(I) -> F) -> Result<(), Failed>
where
    F: Future<Output = Result<(), Failed>>,
{
    let (mut waiting, mut running) = (all.into_iter(), FuturesUnordered::new());
    loop {
        while running.len() < PARALLEL
            && let Some(next) = waiting.next()
        {
            running.push(each(next));
        }
        match running.next().await {
            Some(done) => done?,
            None => return Ok(()),
        }
    }
}
