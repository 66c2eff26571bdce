//! A circuit per host: who was down a moment ago is not asked, so that nobody waits for a dial that fails.
//!
//! Nothing runs by itself: the first request after a pause sets off one trial in the background. A request that was cut
//! off by its own short deadline proves little; it sets off a trial too, and only if that fails the circuit opens.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use reqwest::Url;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::{Facts, UpstreamError};
use super::options::UpstreamLimits;
use crate::telemetry::Metrics;

/// Trials of a host at the same time. One may hang on a connection from before the host was back, so the next does not
/// wait for its end.
const MAX_TRIALS: usize = 8;
/// Hosts that are kept track of: an upstream can redirect to any number of them.
const MAX_HOSTS: usize = 256;

/// The circuits of all hosts. Cheap to clone.
#[derive(Clone)]
pub(super) struct Circuits(Arc<Inner>);

struct Inner {
    hosts: DashMap<String, Arc<Mutex<Host>>>,
    open: AtomicU64,
    metrics: Metrics,
    failures: u32,
    pause: Duration,
    pause_max: Duration,
}

#[derive(Default)]
struct Host {
    /// Failures to connect since the last answer.
    failures: u32,
    last_answer: Option<Instant>,
    open: Option<Open>,
    trials: usize,
    /// Told at the end of each.
    tried: Arc<Notify>,
}

struct Open {
    why: UpstreamError,
    since: Instant,
    pause: Duration,
    next_trial: Instant,
}

/// The circuit's decision on a request.
pub(super) enum Admission {
    /// Send it.
    Closed,
    /// Answer it with this.
    Open(UpstreamError),
    /// Set off the trial; until it succeeds, the answer is this.
    Trial(Trial, UpstreamError),
    /// A trial runs, whose end is told: answer it with this unless it succeeds.
    Tried(Arc<Notify>, UpstreamError),
}

/// The right to find out whether a host is back. Dropped without [`Trial::succeeded`] it counts as failed.
pub(super) struct Trial {
    circuits: Circuits,
    key: String,
    began: Instant,
    /// Why the circuit is to be opened if it is not open.
    why: Option<UpstreamError>,
}

/// How a request failed before an answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No connection.
    Connect,
    /// No answer in the time that anybody would wait.
    Slow,
    /// No answer in the time that the one who asked had.
    CutOff,
    /// Says nothing about whether the host is up.
    Other,
}

impl Circuits {
    pub(super) fn new(limits: &UpstreamLimits, metrics: Metrics) -> Self {
        metrics.upstream_circuits_open(0);
        Self(Arc::new(Inner {
            hosts: DashMap::new(),
            open: AtomicU64::new(0),
            metrics,
            failures: limits.circuit_failures.max(1),
            pause: limits.circuit_pause,
            pause_max: limits.circuit_pause_max,
        }))
    }

    /// The origin that a circuit belongs to.
    pub(super) fn key(url: &Url) -> String {
        url.origin().ascii_serialization()
    }

    fn host(&self, key: &str) -> Arc<Mutex<Host>> {
        if let Some(host) = self.0.hosts.get(key) {
            return Arc::clone(&host);
        }
        if self.0.hosts.len() >= MAX_HOSTS {
            self.0.hosts.retain(|_, host| locked(host).open.is_some());
        }
        Arc::clone(&self.0.hosts.entry(key.to_owned()).or_default())
    }

    pub(super) fn admit(&self, key: &str) -> Admission {
        let host = self.host(key);
        let mut host = locked(&host);
        let running = host.trials;
        let Some(open) = &mut host.open else { return Admission::Closed };
        let now = Instant::now();
        let why = open.why.facts();
        let ago = now.saturating_duration_since(open.since).as_secs();
        let facts = Facts {
            what: format!("is not asked, its circuit is open since {ago} s: it {}", why.what),
            circuit_open: true,
            again: false,
            ..why.clone()
        };
        if running >= MAX_TRIALS || now < open.next_trial {
            return if running > 0 {
                Admission::Tried(Arc::clone(&host.tried), facts.into())
            } else {
                Admission::Open(facts.into())
            };
        }
        // Not sooner than the longest pause beside one that runs.
        open.next_trial = now + self.0.pause_max;
        Admission::Trial(self.begin(&mut host, key, None), facts.into())
    }

    /// Whether the host is not asked now.
    pub(super) fn is_open(&self, key: &str) -> bool {
        locked(&self.host(key)).open.is_some()
    }

    fn begin(&self, host: &mut Host, key: &str, why: Option<UpstreamError>) -> Trial {
        host.trials += 1;
        Trial { circuits: self.clone(), key: key.to_owned(), began: Instant::now(), why }
    }

    /// The host gave an answer, whatever it was.
    pub(super) fn answered(&self, key: &str) {
        let host = self.host(key);
        let mut host = locked(&host);
        host.failures = 0;
        host.last_answer = Some(Instant::now());
        if host.open.take().is_some() {
            self.count(-1);
        }
    }

    /// A request that began at `began` failed. A trial is to be run if it is not clear what that means.
    #[must_use]
    pub(super) fn failed(&self, key: &str, began: Instant, fault: Fault, why: &UpstreamError) -> Option<Trial> {
        let host = self.host(key);
        let mut host = locked(&host);
        if fault == Fault::Other || host.open.is_some() {
            return None;
        }
        // Another request was answered meanwhile: this one was slow, the host is not down.
        if fault != Fault::Connect && host.answered_since(began) {
            return None;
        }
        if fault == Fault::CutOff {
            return (host.trials == 0).then(|| self.begin(&mut host, key, Some(why.clone())));
        }
        host.failures = host.failures.saturating_add(1);
        if fault == Fault::Slow || host.failures >= self.0.failures {
            self.open(&mut host, why.clone());
        }
        None
    }

    fn open(&self, host: &mut Host, why: UpstreamError) {
        let (now, pause) = (Instant::now(), self.0.pause);
        host.open = Some(Open { why, since: now, pause, next_trial: now + pause });
        self.count(1);
    }

    fn count(&self, change: i64) {
        let open = if change > 0 {
            self.0.open.fetch_add(1, Ordering::Relaxed).saturating_add(1)
        } else {
            self.0.open.fetch_sub(1, Ordering::Relaxed).saturating_sub(1)
        };
        self.0.metrics.upstream_circuits_open(open);
    }
}

impl Host {
    fn answered_since(&self, began: Instant) -> bool {
        self.last_answer.is_some_and(|at| at > began)
    }
}

impl Trial {
    pub(super) fn succeeded(mut self) {
        self.why = None;
        self.circuits.answered(&self.key);
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let host = self.circuits.host(&self.key);
        let mut host = locked(&host);
        host.trials = host.trials.saturating_sub(1);
        if let Some(open) = &mut host.open {
            open.pause = open.pause.saturating_mul(2).min(self.circuits.0.pause_max);
            // From its beginning: the time that it hung is no further pause.
            open.next_trial = open.next_trial.min(self.began + open.pause);
        } else if let Some(why) = self.why.take().filter(|_| !host.answered_since(self.began)) {
            self.circuits.open(&mut host, why);
        }
        host.tried.notify_waiters();
    }
}

fn locked(host: &Mutex<Host>) -> MutexGuard<'_, Host> {
    host.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::UpstreamCause;

    fn circuits(pause: Duration) -> (Circuits, UpstreamError) {
        let limits = UpstreamLimits { circuit_pause: pause, circuit_failures: 2, ..UpstreamLimits::default() };
        let why = Facts::new(UpstreamCause::Unreachable, "h", "refused the connection").into();
        (Circuits::new(&limits, Metrics::new().unwrap()), why)
    }

    fn open_hosts(circuits: &Circuits) -> u64 {
        circuits.0.open.load(Ordering::Relaxed)
    }

    #[test]
    fn opens_after_some_failures_and_closes_on_an_answer() {
        let (circuits, why) = circuits(Duration::from_secs(3600));
        let began = Instant::now();
        assert!(circuits.failed("h", began, Fault::Other, &why).is_none());
        assert!(circuits.failed("h", began, Fault::Connect, &why).is_none());
        assert!(matches!(circuits.admit("h"), Admission::Closed));
        assert!(circuits.failed("h", began, Fault::Connect, &why).is_none());
        let Admission::Open(error) = circuits.admit("h") else { panic!("closed") };
        assert!(error.is_circuit_open() && error.to_string().contains("refused the connection"), "{error}");
        assert_eq!(error.cause(), UpstreamCause::Unreachable);
        assert!(matches!(circuits.admit("other"), Admission::Closed));
        assert_eq!(open_hosts(&circuits), 1);
        circuits.answered("h");
        assert!(matches!(circuits.admit("h"), Admission::Closed));
        assert_eq!(open_hosts(&circuits), 0);
    }

    #[test]
    fn a_slow_answer_opens_only_when_nobody_else_was_answered() {
        let (circuits, why) = circuits(Duration::ZERO);
        let began = Instant::now();
        circuits.answered("h");
        if Instant::now() > began {
            assert!(circuits.failed("h", began, Fault::Slow, &why).is_none());
            assert_eq!(open_hosts(&circuits), 0);
        }
        assert!(circuits.failed("h", Instant::now(), Fault::Slow, &why).is_none());
        assert_eq!(open_hosts(&circuits), 1);
    }

    #[test]
    fn one_trial_at_a_time() {
        let (circuits, why) = circuits(Duration::ZERO);
        assert!(circuits.failed("h", Instant::now(), Fault::Slow, &why).is_none());
        let Admission::Trial(first, _) = circuits.admit("h") else { panic!("no trial") };
        assert!(matches!(circuits.admit("h"), Admission::Tried(..)));
        drop(first);
        let Admission::Trial(second, _) = circuits.admit("h") else { panic!("no second trial") };
        second.succeeded();
        assert!(matches!(circuits.admit("h"), Admission::Closed));
    }

    #[test]
    fn a_trial_that_hangs_does_not_keep_the_next_from_finding_out() {
        let limits = UpstreamLimits {
            circuit_pause: Duration::ZERO,
            circuit_pause_max: Duration::ZERO,
            ..UpstreamLimits::default()
        };
        let circuits = Circuits::new(&limits, Metrics::new().unwrap());
        let why = Facts::new(UpstreamCause::Timeout, "h", "gave no answer").into();
        assert!(circuits.failed("h", Instant::now(), Fault::Slow, &why).is_none());
        let mut hanging = Vec::new();
        for _ in 0..MAX_TRIALS {
            let Admission::Trial(trial, _) = circuits.admit("h") else { panic!("no trial") };
            hanging.push(trial);
        }
        assert!(matches!(circuits.admit("h"), Admission::Tried(..)), "not without end");
        hanging.pop().unwrap().succeeded();
        assert!(matches!(circuits.admit("h"), Admission::Closed));
        drop(hanging);
        assert!(matches!(circuits.admit("h"), Admission::Closed), "the others change nothing");
    }

    #[test]
    fn who_was_cut_off_has_it_found_out() {
        let (circuits, why) = circuits(Duration::ZERO);
        let cut_off = || circuits.failed("h", Instant::now(), Fault::CutOff, &why);
        let trial = cut_off().unwrap();
        assert!(cut_off().is_none(), "one at a time");
        assert!(matches!(circuits.admit("h"), Admission::Closed), "nothing is known yet");
        trial.succeeded();
        assert_eq!(open_hosts(&circuits), 0);
        drop(cut_off().unwrap());
        assert_eq!(open_hosts(&circuits), 1);
    }
}
