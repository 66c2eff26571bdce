//! The controller's work in the process of a command, where no controller does it: the same rounds, under the same Lease.
//!
//! Whatever it writes a controller would write too, so it may end, or be killed, between any two writes: a controller that comes
//! back goes on from there.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answers::Answers;
use super::figures::Shown;
use super::look::Looker;
use super::questions::Questions;
use super::rounds::Rounds;
use super::sources::Sources;
use super::state_client::Identity;
use super::{LAST, leadership};
use crate::clock;
use crate::cluster::{Candidate, Cluster, ClusterError, RENEWAL, Standing};
use crate::switch::outputs::names;
use crate::switch::{CheckMode, Checked, ImagesAt, ProbeAnswer, Question, SwitchOptions, Upstream};
use crate::telemetry::{Metrics, MetricsError};

/// The key of what is asked before anything is written.
const BEFORE: &str = "before";

/// What a stand-in works with.
#[derive(Clone, Debug)]
pub struct StandInOptions {
    /// The API server as whoever may read all that the controller reads.
    pub reader: Cluster,
    /// The same as whoever may write what the controller writes.
    pub writer: Cluster,
    /// This process, as the Lease names it.
    pub identity: String,
    /// Port of the registry on the masters.
    pub registry_port: u16,
    /// What is shown to the servers, and who signed theirs.
    pub certificate: Identity,
}

/// One that has not begun.
#[derive(Debug)]
pub struct StandIn {
    candidate: Candidate,
    looker: Looker,
    questions: Questions,
    changed: Arc<Notify>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl StandIn {
    /// Sets it up; asks nothing yet.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub fn new(options: StandInOptions) -> Result<Self, MetricsError> {
        let StandInOptions { reader, writer, identity, registry_port, certificate } = options;
        let (changed, tasks, stop) = (Arc::new(Notify::new()), TaskTracker::new(), CancellationToken::new());
        let sources = Arc::new(Sources {
            cluster: reader,
            port: registry_port,
            scan_interval: AtomicU64::new(0),
            metrics: Metrics::new()?,
            tasks: tasks.clone(),
        });
        Ok(Self {
            candidate: Candidate::new(writer.clone(), names::LEASE, &identity),
            looker: Looker::new(writer, certificate, registry_port, SwitchOptions::default()),
            questions: Questions::new(sources, Arc::clone(&changed), tasks.clone(), stop.clone()),
            changed,
            tasks,
            stop,
        })
    }

    /// Whether an upstream can be used. Needs no API server. Takes 20 s at most; safe to drop.
    pub async fn probe(&mut self, upstream: &Upstream) -> ProbeAnswer {
        let question = Question::Probe { key: BEFORE.to_owned(), upstream: upstream.clone() };
        self.answered(question, |answers| answers.probes.get(BEFORE).cloned()).await
    }

    /// Whether an upstream has every required image: the checker's message. The first run through the list decides, so an
    /// upstream that refuses one request has not got it. Reading the list may take 10 minutes for each registry that has it;
    /// safe to drop.
    ///
    /// # Errors
    /// The message, with what is lacking.
    pub async fn find_images(&mut self, upstream: &Upstream, check_mode: CheckMode) -> Result<String, String> {
        let at = ImagesAt::Upstream(upstream.clone());
        let question = Question::Images { key: BEFORE.to_owned(), at, check_mode };
        self.answered(question, |answers| {
            let answer = answers.images.get(BEFORE)?;
            match answer.state {
                Checked::Running => None,
                Checked::Lacking => Some(Err(answer.message.clone())),
                Checked::Whole => Some(Ok(answer.message.clone())),
            }
        })
        .await
    }

    /// Asks one question alone until there is an answer.
    async fn answered<T>(&mut self, question: Question, read: impl Fn(&Answers) -> Option<T>) -> T {
        self.questions.ask(&[question]);
        loop {
            if let Some(answer) = read(&self.questions.answers()) {
                return answer;
            }
            self.changed.notified().await;
        }
    }

    /// Asks for the Lease until it is ours (`None`), or the one who has it was seen to renew it (its name): some 4 s, and 20 s
    /// where a holder is dead.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn claim(&mut self) -> Result<Option<String>, ClusterError> {
        loop {
            match self.candidate.ask(clock::now()).await? {
                Standing::Holds(_) => return Ok(None),
                Standing::Waits { holder } if self.candidate.is_renewed_by_another() => return Ok(Some(holder)),
                Standing::Waits { .. } => tokio::time::sleep(RENEWAL / 2).await,
            }
        }
    }

    /// Gives the Lease back without having done anything.
    ///
    /// # Errors
    /// [`ClusterError`]: it ends by itself within 15 s.
    pub async fn give_back(mut self) -> Result<(), ClusterError> {
        self.candidate.give_back().await
    }

    /// Keeps asking for the Lease, and does the controller's work for as long as it has it. Dropped, it ends with its runtime.
    #[must_use]
    pub fn start(mut self) -> AtWork {
        self.questions.ask(&[]);
        let (shown, seize, lease_stop) =
            (Arc::new(Shown::default()), Arc::new(Notify::new()), CancellationToken::new());
        let (term, may_write) = watch::channel(None);
        let leading = TaskTracker::new();
        leading.spawn(leadership::hold(self.candidate, term, Arc::clone(&seize), lease_stop.clone()));
        let rounds = Rounds {
            looker: self.looker,
            questions: self.questions,
            changed: self.changed,
            may_write,
            shown: Arc::clone(&shown),
            stop: self.stop.clone(),
        };
        self.tasks.spawn(Box::pin(rounds.go()));
        AtWork { shown, seize, stop: self.stop, lease_stop, tasks: self.tasks, leading }
    }
}

/// One that works, or waits for the Lease.
#[derive(Debug)]
pub struct AtWork {
    shown: Arc<Shown>,
    seize: Arc<Notify>,
    stop: CancellationToken,
    lease_stop: CancellationToken,
    tasks: TaskTracker,
    leading: TaskTracker,
}

impl AtWork {
    /// Whether it has the Lease and writes.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.shown.is_leading()
    }

    /// What its last round failed at, in a sentence without secrets.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.shown.failure()
    }

    /// Takes the Lease over from a holder that renews it, each time that this is called. Nothing is written before that one's
    /// term has ended, 15 s later.
    pub fn seize(&self) {
        self.seize.notify_one();
    }

    /// Ends after the write that is under way, then gives the Lease back. Takes 10 s for each at most.
    pub async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(LAST, self.tasks.wait()).await;
        self.lease_stop.cancel();
        self.leading.close();
        let _ = tokio::time::timeout(LAST, self.leading.wait()).await;
    }
}
