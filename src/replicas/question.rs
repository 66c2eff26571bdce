//! Which of the other masters has a content: all are asked at once, and the first yes is taken.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Replicas;
use crate::fetch::SingleFlight;
use crate::oci::{Digest, Reference, RepoName};
use crate::telemetry::{Metrics, PeersAnswer, UpstreamCause, with_causes};
use crate::upstream::{Upstream, UpstreamError};

/// Longest wait for the answers: who gives none by then counts as away. A client has waited for no longer when it hears 404.
const PATIENCE: Duration = Duration::from_secs(3);

/// Longest line of a record, in bytes.
const LONGEST_RECORD: usize = 1024;

/// A content of a repository, by digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// A blob.
    Blob(Digest),
    /// A manifest; a master that holds a part of its image alone says no.
    Manifest(Digest),
}

/// A master that has what is wanted.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The way to it.
    pub master: Upstream,
    /// Bytes of the content, if it said them.
    pub size: Option<u64>,
}

/// What came of a question: a master that has it, or none; the error of one that is there and takes no more questions now.
type Outcome = Result<Option<Holder>, UpstreamError>;

/// The question, and the masters that are not asked.
type Question = (RepoName, Wanted, Vec<String>);

/// What the others said of a tag or a manifest: a line of each that knows it.
type Lines = Result<Vec<String>, UpstreamError>;

/// The questions under way.
#[derive(Debug)]
pub(super) struct Questions {
    running: SingleFlight<Question, Outcome>,
    told: SingleFlight<(RepoName, Reference), Lines>,
    metrics: Metrics,
    tasks: TaskTracker,
}

impl Questions {
    pub(super) fn new(metrics: Metrics, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let told = SingleFlight::new(tasks.clone(), stop.clone());
        Self { running: SingleFlight::new(tasks.clone(), stop), told, metrics, tasks }
    }
}

impl Replicas {
    /// The first of the other masters that says it has the content in this repository; `except`: those that are not asked,
    /// because they said so and did not give it. `None`: nobody says so within 3 s. Who asks the same at once shares one round
    /// of questions; a no to one that began before is asked for once more, so it may be twice as long. Safe to drop: the
    /// questions go on.
    ///
    /// # Errors
    /// Nobody says so, and one has too much to do to answer (429, 503): it may have it.
    pub async fn holder(
        &self,
        repo: &RepoName,
        wanted: Wanted,
        except: &[Holder],
    ) -> Result<Option<Holder>, UpstreamError> {
        let group = self.0.group.load_full();
        let is_out = |peer: &&Upstream| except.iter().any(|holder| holder.master.is(peer));
        let peers: Vec<Upstream> = group.peers.iter().filter(|peer| !is_out(peer)).cloned().collect();
        if peers.is_empty() {
            return Ok(None);
        }
        let out = except.iter().map(|holder| holder.master.host().to_owned()).collect();
        let Questions { running, metrics, tasks, .. } = &self.0.questions;
        let key = (repo.clone(), wanted, out);
        let ask = || {
            let (metrics, tasks, name, peers) = (metrics.clone(), tasks.clone(), repo.clone(), peers.clone());
            async move {
                let (answer, outcome) = ask_all(&peers, &name, wanted, &tasks).await;
                metrics.peers_answer(answer);
                outcome
            }
        };
        let outcome = match running.join(key.clone(), ask).await {
            // It was asked before this caller came: what another master has got since then was not seen.
            (Some(Ok(None)), false) => running.join(key, ask).await.0,
            (outcome, _) => outcome,
        };
        outcome.unwrap_or(Ok(None))
    }
}

impl Replicas {
    /// Whether each of the other masters answers, within 3 s, that it does not have the content in this repository. Safe to drop.
    pub async fn is_nowhere(&self, repo: &RepoName, wanted: Wanted) -> bool {
        let (peers, deadline) = (self.peers(), Instant::now() + PATIENCE);
        let asked = peers.iter().map(|peer| ask(peer, repo, wanted, deadline));
        let is_no = |outcome: Result<Option<u64>, UpstreamError>| {
            outcome.is_err_and(|error| error.cause() == UpstreamCause::NotFound && error.is_registrys_own())
        };
        futures_util::future::join_all(asked).await.into_iter().all(is_no)
    }

    /// What the other masters have said last of a tag or a manifest: a line of each that knows it, within 3 s. One question to
    /// each, shared by all who ask the same at once; who hears lines of a question that began before its own and finds that they do
    /// not say enough (`is_enough`) asks once more. Safe to drop: the questions go on.
    ///
    /// # Errors
    /// Nobody knows it, and one has too much to do to answer (429, 503): it may.
    pub async fn told_of(
        &self,
        repo: &RepoName,
        of: &Reference,
        is_enough: impl Fn(&[String]) -> bool + Send,
    ) -> Result<Vec<String>, UpstreamError> {
        let peers = self.peers();
        if peers.is_empty() {
            return Ok(Vec::new());
        }
        let Questions { told, metrics, .. } = &self.0.questions;
        let key = (repo.clone(), of.clone());
        let ask = || {
            let (metrics, (repo, of), peers) = (metrics.clone(), key.clone(), peers.clone());
            async move {
                let (answer, lines) = ask_all_of(&peers, &repo, &of).await;
                metrics.peers_answer(answer);
                lines
            }
        };
        let lines = match told.join(key.clone(), ask).await {
            // It was asked before this caller came: what was said since then was not seen.
            (Some(Ok(lines)), false) if !is_enough(&lines) => told.join(key.clone(), ask).await.0,
            (lines, _) => lines,
        };
        lines.unwrap_or_else(|| Ok(Vec::new()))
    }
}

/// Asks all of them for what they have said last of a tag or a manifest.
async fn ask_all_of(peers: &[Upstream], repo: &RepoName, of: &Reference) -> (PeersAnswer, Lines) {
    let deadline = Instant::now() + PATIENCE;
    let path = format!("/v2/{repo}/records/of/{of}");
    let asked = peers.iter().map(|peer| peer.told(&path, LONGEST_RECORD, deadline));
    let (mut lines, mut busy, mut answer) = (Vec::new(), None, PeersAnswer::Absent);
    for outcome in futures_util::future::join_all(asked).await {
        match outcome {
            Ok(told) => lines.push(String::from_utf8_lossy(&told.bytes).trim_end().to_owned()),
            Err(error) if error.cause() == UpstreamCause::NotFound && error.is_registrys_own() => {}
            Err(error) => {
                tracing::debug!(%repo, %of, error = with_causes(&error), "a master gave no answer");
                answer = PeersAnswer::Unanswered;
                if matches!(error.status(), Some(429 | 503)) {
                    busy = Some(error);
                }
            }
        }
    }
    match busy {
        Some(error) if lines.is_empty() => (answer, Err(error)),
        _ if lines.is_empty() => (answer, Ok(lines)),
        _ => (PeersAnswer::Found, Ok(lines)),
    }
}

/// Asks all of them and takes the first yes.
async fn ask_all(peers: &[Upstream], repo: &RepoName, wanted: Wanted, tasks: &TaskTracker) -> (PeersAnswer, Outcome) {
    let deadline = Instant::now() + PATIENCE;
    let mut asked: FuturesUnordered<_> = peers
        .iter()
        .map(|peer| {
            let (peer, repo) = (peer.clone(), repo.clone());
            async move { (ask(&peer, &repo, wanted, deadline).await, peer) }
        })
        .collect();
    let (mut answer, mut busy) = (PeersAnswer::Absent, None);
    while let Some((outcome, master)) = asked.next().await {
        match outcome {
            Ok(size) => {
                // Dropped, the other questions would close their connections.
                tasks.spawn(async move { while asked.next().await.is_some() {} });
                return (PeersAnswer::Found, Ok(Some(Holder { master, size })));
            }
            Err(error) if error.cause() == UpstreamCause::NotFound && error.is_registrys_own() => {}
            Err(error) => {
                tracing::debug!(%repo, ?wanted, error = with_causes(&error), "a master gave no answer");
                answer = PeersAnswer::Unanswered;
                if matches!(error.status(), Some(429 | 503)) {
                    busy = Some(error);
                }
            }
        }
    }
    (answer, busy.map_or(Ok(None), Err))
}

/// The length of the content at one master.
async fn ask(
    peer: &Upstream,
    repo: &RepoName,
    wanted: Wanted,
    deadline: Instant,
) -> Result<Option<u64>, UpstreamError> {
    match wanted {
        Wanted::Blob(digest) => peer.blob_size(repo.as_str(), &digest, deadline).await,
        Wanted::Manifest(digest) => {
            let reference = Reference::Digest(digest);
            peer.manifest_facts(repo.as_str(), &reference, deadline).await.map(|facts| Some(facts.size))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::super::group::Group;
    use super::*;
    use crate::oci::Algorithm;
    use crate::upstream::{
        Credentials, EndpointOptions, Face, ProxyVariables, Scheme, UpstreamLimits, UpstreamOptions,
    };

    const YES: &str = "200 OK\r\ncontent-length: 7";
    const NO: &str = "404 Not Found\r\ndocker-distribution-api-version: registry/2.0\r\ncontent-length: 0";
    const NOT_KNOWN: &str = "404 Not Found\r\ncontent-length: 0";
    const BUSY: &str = "503 Service Unavailable\r\nretry-after: 5\r\ncontent-length: 0";
    const FAULT: &str = "500 Internal Server Error\r\ncontent-length: 0";

    /// A master that answers so whatever it is asked; `None`: it is away.
    fn master(answer: Option<&'static str>) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        if let Some(answer) = answer {
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let mut head = [0; 4096];
                    let length = stream.read(&mut head).unwrap();
                    let head = String::from_utf8_lossy(&head[..length]).to_lowercase();
                    let answer = if head.contains("\r\nd8-hop: 1\r\n") { answer } else { "400 Bad Request" };
                    let _ = stream.write_all(format!("HTTP/1.1 {answer}\r\nconnection: close\r\n\r\n").as_bytes());
                }
            });
        }
        asked(host)
    }

    /// The way to a master without a certificate.
    fn asked(host: String) -> Upstream {
        let endpoint = EndpointOptions {
            scheme: Scheme::Http,
            host,
            path: String::new(),
            ca: None,
            credentials: Credentials::Anonymous,
        };
        let options = UpstreamOptions {
            endpoints: vec![endpoint],
            trusted_hosts: Vec::new(),
            proxy: ProxyVariables::default(),
            limits: UpstreamLimits {
                attempts: 1,
                circuit_failures: 1,
                circuit_pause: Duration::ZERO,
                circuit_trial_shared: true,
                ..UpstreamLimits::default()
            },
            face: Face::OwnStore,
        };
        Upstream::new(&options, Metrics::new().unwrap(), TaskTracker::new()).unwrap()
    }

    #[tokio::test]
    async fn a_no_that_is_older_than_who_hears_it_is_asked_for_once_more() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (arrived, arrives) = std::sync::mpsc::channel();
        let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            // The first question is answered as it was when it came, and late.
            for (stream, answer) in listener.incoming().zip([NO, YES]) {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                if answer == NO {
                    arrived.send(()).unwrap();
                    goes_on.recv().unwrap();
                }
                let _ = stream.write_all(format!("HTTP/1.1 {answer}\r\nconnection: close\r\n\r\n").as_bytes());
            }
        });
        let (metrics, tasks) = (Metrics::new().unwrap(), TaskTracker::new());
        let replicas = Replicas::new(None, metrics, tasks, CancellationToken::new());
        replicas.0.group.store(std::sync::Arc::new(Group::of(vec![asked(host)])));
        let (repo, wanted) = ("a".parse().unwrap(), Wanted::Blob(Algorithm::Sha256.digest(b"content")));
        let early = replicas.holder(&repo, wanted, &[]);
        let late = async {
            tokio::task::spawn_blocking(move || arrives.recv().unwrap()).await.unwrap();
            let mut late = std::pin::pin!(replicas.holder(&repo, wanted, &[]));
            assert!(futures_util::poll!(&mut late).is_pending());
            go_on.send(()).unwrap();
            late.await
        };
        let (early, late) = tokio::join!(early, late);
        assert!(early.unwrap().is_none());
        assert_eq!(late.unwrap().map(|holder| holder.size), Some(Some(7)));
    }

    #[tokio::test]
    async fn all_who_ask_for_the_same_tag_at_once_share_one_question_to_each_master() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
        let questions = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let asked = std::sync::Arc::clone(&questions);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                goes_on.recv().unwrap();
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nline\n";
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let (metrics, tasks) = (Metrics::new().unwrap(), TaskTracker::new());
        let replicas = Replicas::new(None, metrics, tasks, CancellationToken::new());
        replicas.0.group.store(std::sync::Arc::new(Group::of(vec![self::asked(host)])));
        let (repo, tag): (RepoName, Reference) = ("a".parse().unwrap(), "v1".parse().unwrap());
        let mut all: Vec<_> =
            (0..20).map(|_| Box::pin(replicas.told_of(&repo, &tag, |lines| !lines.is_empty()))).collect();
        for one in &mut all {
            assert!(futures_util::poll!(one).is_pending());
        }
        // Whoever asks a second question waits for a second word.
        go_on.send(()).unwrap();
        for lines in futures_util::future::join_all(all).await {
            assert_eq!(lines.unwrap(), ["line"]);
        }
        assert_eq!(questions.load(std::sync::atomic::Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn all_who_ask_a_master_that_is_just_back_are_answered_by_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let (metrics, tasks) = (Metrics::new().unwrap(), TaskTracker::new());
        let replicas = Replicas::new(None, metrics, tasks, CancellationToken::new());
        replicas.0.group.store(std::sync::Arc::new(Group::of(vec![asked(address.to_string())])));
        let repo: RepoName = "a".parse().unwrap();
        let wanted = |content: &[u8]| Wanted::Blob(Algorithm::Sha256.digest(content));
        assert!(replicas.holder(&repo, wanted(b"1"), &[]).await.unwrap().is_none(), "its circuit opens");
        let listener = TcpListener::bind(address).unwrap();
        let (arrived, arrives) = std::sync::mpsc::channel();
        let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                // The trial.
                if number == 0 {
                    arrived.send(()).unwrap();
                    goes_on.recv().unwrap();
                }
                let _ = stream.write_all(format!("HTTP/1.1 {YES}\r\nconnection: close\r\n\r\n").as_bytes());
            }
        });
        let first = replicas.holder(&repo, wanted(b"2"), &[]);
        let second = async {
            tokio::task::spawn_blocking(move || arrives.recv().unwrap()).await.unwrap();
            let mut second = std::pin::pin!(replicas.holder(&repo, wanted(b"3"), &[]));
            assert!(futures_util::poll!(&mut second).is_pending());
            tokio::task::yield_now().await;
            go_on.send(()).unwrap();
            second.await
        };
        let (first, second) = tokio::join!(first, second);
        // The trial's answer is no blob, but says that the master is there.
        assert!(first.unwrap().is_some() && second.unwrap().is_some());
    }

    #[tokio::test]
    async fn one_yes_is_enough_and_no_is_said_only_if_nobody_who_is_there_may_have_it() {
        let wanted = Wanted::Blob(Algorithm::Sha256.digest(b"content"));
        for (answers, expected, found) in [
            (&[Some(NO), Some(YES)][..], PeersAnswer::Found, Ok(Some(Some(7)))),
            (&[Some(BUSY), None, Some(YES)], PeersAnswer::Found, Ok(Some(Some(7)))),
            (&[Some(NO), Some(NO)], PeersAnswer::Absent, Ok(None)),
            (&[Some(NO), None], PeersAnswer::Unanswered, Ok(None)),
            (&[Some(NO), Some(NOT_KNOWN)], PeersAnswer::Unanswered, Ok(None)),
            (&[Some(NO), Some(FAULT)], PeersAnswer::Unanswered, Ok(None)),
            (&[Some(BUSY), Some(NO)], PeersAnswer::Unanswered, Err(Some(503))),
        ] {
            let peers: Vec<Upstream> = answers.iter().map(|answer| master(*answer)).collect();
            let (answer, outcome) = ask_all(&peers, &"a".parse().unwrap(), wanted, &TaskTracker::new()).await;
            let outcome = outcome.map(|holder| holder.map(|holder| holder.size)).map_err(|error| error.status());
            assert_eq!((answer, outcome), (expected, found), "{answers:?}");
        }
    }
}
