//! The refusals of an endpoint, and until when it is not asked again.
//!
//! A refusal that is repeated at every request locks an account and keeps a limit in force. So there is a memory of the
//! pair (the sign-in itself was refused), of limits (429) and of single repositories (401 or 403 although we had signed
//! in). What is refused is left alone until its time has come, then one request finds out; each time it is refused
//! again the time grows. The probe asks always. Nothing here waits, and no memory outlives its endpoint: new
//! credentials are a new endpoint.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::{Asked, Facts, UpstreamError};
use super::options::UpstreamLimits;
use crate::telemetry::UpstreamCause;

/// One request finds out whether a refusal still holds; after 15 s without its answer another one may.
const CLAIM: Duration = Duration::from_secs(15);
/// Repositories whose refusals are remembered.
const MAX_REPOSITORIES: usize = 1024;
/// Single contents of a repository that are.
const MAX_TARGETS: usize = 64;
/// Within 3 s after an accepted sign-in many may sign in at once. Later one goes first, so that a password that was
/// changed meanwhile is refused once and not to all who come together.
const PROVEN: Duration = Duration::from_secs(3);
/// A limit is looked after as often as this.
const PROBE_LIMITED: Duration = Duration::from_secs(60);
/// A repository's token that is refused is not replaced more often.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The memory of an endpoint.
pub(super) struct Refusals {
    state: Mutex<State>,
    /// Another pair waits for its probe: this one, once refused, is not tried.
    held: AtomicBool,
    limits: Pauses,
}

/// How long the first refusal of each kind counts, and the longest.
struct Pauses {
    pair: Duration,
    limit: Duration,
    repository: Duration,
    longest: Duration,
}

#[derive(Default)]
struct State {
    pair: Memory,
    proven: Option<Instant>,
    /// 429 of the endpoint itself, and of its token server.
    limit: Memory,
    sign_in_limit: Memory,
    repositories: HashMap<String, Repository>,
}

/// A repository: one content that is refused may be one that is not there, a second one tells of the repository.
#[derive(Default)]
struct Repository {
    whole: Memory,
    single: HashMap<String, Memory>,
    last: Option<String>,
    looked: Option<Instant>,
}

#[derive(Default)]
struct Memory(Option<Refused>);

struct Refused {
    error: UpstreamError,
    pause: Duration,
    since: Instant,
    until: Instant,
    /// When somebody went to find out.
    claimed: Option<Instant>,
}

/// The subject of a request.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) repository: &'a str,
    pub(super) target: &'a str,
}

impl Memory {
    /// Whether the question may be asked. `later`: how long after its time.
    fn check(&self, now: Instant, later: Option<Duration>) -> Result<(), UpstreamError> {
        let Some(refused) = &self.0 else { return Ok(()) };
        let is_claimed = refused.claimed.is_some_and(|since| now < since + CLAIM);
        let has_come = later.is_some_and(|later| now >= refused.until + later);
        if has_come && !is_claimed { Ok(()) } else { Err(refused.told(now)) }
    }

    /// The one who asks finds out.
    fn claim(&mut self, now: Instant) {
        if let Some(refused) = &mut self.0 {
            refused.claimed = Some(now);
        }
    }

    /// It was refused to a request that began at `began`.
    fn refuse(&mut self, error: &UpstreamError, began: Instant, first: Duration, longest: Duration) {
        let now = Instant::now();
        let pause = match &self.0 {
            // Asked before the last refusal was known: no news.
            Some(refused) if began < refused.since => return,
            Some(refused) => refused.pause.saturating_mul(2).min(longest),
            None => first,
        };
        let wait = match error.retry_after() {
            Some(wanted) if self.0.is_none() => wanted,
            Some(wanted) => wanted.max(pause),
            None => pause,
        };
        self.0 = Some(Refused { error: error.clone(), pause, since: now, until: now + wait, claimed: None });
    }

    /// A request that began at `began` got what it asked for.
    fn accept(&mut self, began: Instant) {
        if self.0.as_ref().is_some_and(|refused| began >= refused.since) {
            self.0 = None;
        }
    }

    /// The request that went to find out learnt nothing.
    fn release(&mut self) {
        if let Some(refused) = &mut self.0 {
            refused.claimed = None;
        }
    }

    fn left(&self, now: Instant) -> Option<Duration> {
        self.0.as_ref().map(|refused| refused.until.saturating_duration_since(now))
    }
}

impl Refused {
    /// The error for requests that are not let through.
    fn told(&self, now: Instant) -> UpstreamError {
        let left = self.until.saturating_duration_since(now).max(Duration::from_secs(1));
        let why = self.error.facts();
        let facts = Facts {
            what: format!("is not asked for {} s more: it {}", left.as_secs_f64().ceil(), why.what),
            circuit_open: true,
            asked: Asked::Nobody,
            retry_after: Some(left),
            again: why.cause == UpstreamCause::RateLimited,
            ..why.clone()
        };
        facts.into()
    }
}

impl Refusals {
    pub(super) fn new(limits: &UpstreamLimits) -> Self {
        let limits = Pauses {
            pair: limits.refused_pause,
            limit: limits.limited_pause,
            repository: limits.denied_pause,
            longest: limits.refused_pause_max,
        };
        Self { state: Mutex::default(), held: AtomicBool::new(false), limits }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another pair waits for its probe.
    pub(super) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }

    /// How long the sign-in, or everything, is left alone; `None`: it is not.
    pub(super) fn left(&self) -> Option<Duration> {
        let (state, now) = (self.state(), Instant::now());
        [&state.pair, &state.limit, &state.sign_in_limit].into_iter().filter_map(|memory| memory.left(now)).max()
    }

    /// The same for the probe, to which no limit is a reason to wait for long: it may end before its time.
    pub(super) fn left_for_probe(&self) -> Option<Duration> {
        let (state, now) = (self.state(), Instant::now());
        let all = [&state.pair, &state.limit, &state.sign_in_limit].into_iter().filter_map(|memory| memory.0.as_ref());
        let left = |refused: &Refused| {
            let left = refused.until.saturating_duration_since(now);
            let is_limit = refused.error.cause() == UpstreamCause::RateLimited;
            if is_limit { left.min(PROBE_LIMITED) } else { left }
        };
        all.map(left).max()
    }

    /// Whether a question may go out.
    ///
    /// # Errors
    /// The endpoint's last refusal, and how long it is left alone.
    pub(super) fn admit(&self, subject: Subject<'_>) -> Result<(), UpstreamError> {
        let (mut state, now) = (self.state(), Instant::now());
        let State { limit, repositories, .. } = &mut *state;
        let repository = repositories.get_mut(subject.repository);
        let both = repository.map(|one| (&mut one.whole, one.single.get_mut(subject.target)));
        let (whole, single) = both.map_or((None, None), |(whole, single)| (Some(whole), single));
        let mut memories: Vec<_> = std::iter::once(limit).chain(whole).chain(single).collect();
        memories.iter().try_for_each(|memory| memory.check(now, Some(Duration::ZERO)))?;
        memories.iter_mut().for_each(|memory| memory.claim(now));
        Ok(())
    }

    /// Whether a sign-in may be tried. The probe is first when the time has come.
    ///
    /// # Errors
    /// The refusal of the last sign-in, and how long the next one is away.
    pub(super) fn admit_sign_in(&self) -> Result<(), UpstreamError> {
        let (mut state, now) = (self.state(), Instant::now());
        let held = self.held.load(Ordering::Relaxed);
        let later = state.pair.0.as_ref().map(|refused| refused.pause / 2).unwrap_or_default();
        state.pair.check(now, (!held).then_some(later))?;
        state.sign_in_limit.check(now, Some(Duration::ZERO))?;
        state.pair.claim(now);
        state.sign_in_limit.claim(now);
        Ok(())
    }

    /// The refusal that came after `then`: who waited for another's sign-in hears of its end.
    pub(super) fn refused_since(&self, then: Instant) -> Result<(), UpstreamError> {
        let (state, now) = (self.state(), Instant::now());
        let both = [&state.pair, &state.sign_in_limit];
        let newer = both.into_iter().filter_map(|memory| memory.0.as_ref()).find(|refused| refused.since >= then);
        newer.map_or(Ok(()), |refused| Err(refused.told(now)))
    }

    /// Whether the pair was accepted a moment ago, so that many may use it at once.
    pub(super) fn is_proven(&self) -> bool {
        self.state().proven.is_some_and(|at| at.elapsed() < PROVEN)
    }

    /// The sign-in of a request that began at `began` was accepted.
    pub(super) fn sign_in_accepted(&self, began: Instant) {
        let mut state = self.state();
        state.proven = Some(Instant::now());
        state.pair.accept(began);
        state.sign_in_limit.accept(began);
    }

    /// The sign-in itself was refused.
    pub(super) fn pair_refused(&self, error: &UpstreamError, began: Instant) {
        let mut state = self.state();
        if state.proven.is_none_or(|at| began >= at) {
            state.proven = None;
            state.pair.refuse(error, began, self.limits.pair, self.limits.longest);
        }
    }

    /// The token server says that it is asked too often.
    pub(super) fn sign_in_limited(&self, error: &UpstreamError, began: Instant) {
        self.state().sign_in_limit.refuse(error, began, self.limits.limit, self.limits.longest);
    }

    /// The sign-in came to nothing that says anything of the pair.
    pub(super) fn sign_in_failed(&self) {
        let mut state = self.state();
        state.pair.release();
        state.sign_in_limit.release();
    }

    /// The endpoint says that it is asked too often.
    pub(super) fn limited(&self, error: &UpstreamError, began: Instant) {
        self.state().limit.refuse(error, began, self.limits.limit, self.limits.longest);
    }

    /// The proxy before the endpoint refuses its own pair: an account can be locked there too.
    pub(super) fn proxy_refused(&self, error: &UpstreamError, began: Instant) {
        self.state().limit.refuse(error, began, self.limits.pair, self.limits.longest);
    }

    /// The endpoint answered, so it is under no limit of its own.
    pub(super) fn answered(&self, began: Instant) {
        self.state().limit.accept(began);
    }

    /// The endpoint gave what was asked for, or said that it is not there.
    pub(super) fn accepted(&self, subject: Subject<'_>, began: Instant) {
        let mut state = self.state();
        state.limit.accept(began);
        let Some(repository) = state.repositories.get_mut(subject.repository) else { return };
        repository.whole.accept(began);
        repository.single.remove(subject.target);
        (repository.last, repository.looked) = (None, None);
        if repository.whole.0.is_none() && repository.single.is_empty() {
            state.repositories.remove(subject.repository);
        }
    }

    /// The endpoint refuses the content although we had signed in, or can't.
    pub(super) fn denied(&self, subject: Subject<'_>, error: &UpstreamError, began: Instant) {
        let mut state = self.state();
        let repository = state.repository(subject.repository);
        let (first, longest) = (self.limits.repository, self.limits.longest);
        let is_second = repository.last.as_deref().is_some_and(|last| last != subject.target);
        if is_second || repository.whole.0.is_some() {
            repository.whole.refuse(error, began, first, longest);
        }
        if repository.single.len() >= MAX_TARGETS && !repository.single.contains_key(subject.target) {
            repository.single.clear();
        }
        repository.single.entry(subject.target.to_owned()).or_default().refuse(error, began, first, longest);
        repository.last = Some(subject.target.to_owned());
    }

    /// The question came to nothing that says anything.
    pub(super) fn failed(&self, subject: Subject<'_>) {
        let mut state = self.state();
        state.limit.release();
        if let Some(repository) = state.repositories.get_mut(subject.repository) {
            repository.whole.release();
            if let Some(single) = repository.single.get_mut(subject.target) {
                single.release();
            }
        }
    }

    /// Whether a token that was refused for a repository is to be replaced: not at each of many refusals.
    pub(super) fn look_again(&self, repository: &str) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        let looked = &mut state.repository(repository).looked;
        let may = looked.is_none_or(|at| now >= at + LOOK_AGAIN);
        if may {
            *looked = Some(now);
        }
        may
    }
}

impl State {
    fn repository(&mut self, name: &str) -> &mut Repository {
        if self.repositories.len() >= MAX_REPOSITORIES && !self.repositories.contains_key(name) {
            let now = Instant::now();
            self.repositories.retain(|_, one| one.whole.left(now).is_some_and(|left| !left.is_zero()));
            if self.repositories.len() >= MAX_REPOSITORIES {
                self.repositories.clear();
            }
        }
        self.repositories.entry(name.to_owned()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn refusals(pause: Duration) -> Refusals {
        Refusals::new(&UpstreamLimits {
            refused_pause: pause,
            limited_pause: pause,
            denied_pause: pause,
            refused_pause_max: pause.saturating_mul(3),
            ..UpstreamLimits::default()
        })
    }

    fn error(cause: UpstreamCause, retry_after: Option<Duration>) -> UpstreamError {
        let mut facts = Facts::new(cause, "h", "refuses us").status(StatusCode::FORBIDDEN);
        facts.retry_after = retry_after;
        facts.into()
    }

    fn about<'a>(repository: &'a str, target: &'a str) -> Subject<'a> {
        Subject { repository, target }
    }

    #[test]
    fn a_refused_pair_is_left_alone_for_longer_and_longer() {
        let refusals = refusals(LONG);
        let denied = error(UpstreamCause::Unauthorized, None);
        assert!(refusals.admit_sign_in().is_ok() && refusals.left().is_none());
        let began = Instant::now();
        refusals.pair_refused(&denied, began);
        let told = refusals.admit_sign_in().unwrap_err();
        assert!(told.is_circuit_open() && told.to_string().contains("it refuses us"), "{told}");
        assert_eq!(told.cause(), UpstreamCause::Unauthorized);
        assert!(told.retry_after().unwrap() <= LONG && !told.facts().again);
        // Who asked before that hears the same and changes nothing.
        refusals.pair_refused(&denied, began);
        assert!(refusals.left().unwrap() <= LONG);
        for _ in 0..3 {
            refusals.pair_refused(&denied, Instant::now());
        }
        let left = refusals.left().unwrap();
        assert!(left > LONG * 2 && left <= LONG * 3, "{left:?}");
        refusals.sign_in_accepted(Instant::now());
        assert!(refusals.admit_sign_in().is_ok() && refusals.is_proven());
        refusals.pair_refused(&denied, began);
        assert!(refusals.admit_sign_in().is_ok(), "asked before it was accepted");
    }

    #[test]
    fn when_the_time_has_come_one_finds_out_unless_another_pair_waits() {
        let refusals = refusals(Duration::ZERO);
        refusals.pair_refused(&error(UpstreamCause::Forbidden, None), Instant::now());
        refusals.hold(true);
        assert!(refusals.admit_sign_in().is_err());
        refusals.hold(false);
        assert!(refusals.admit_sign_in().is_ok());
        assert!(refusals.admit_sign_in().is_err(), "one at a time");
        refusals.sign_in_failed();
        assert!(refusals.admit_sign_in().is_ok());
    }

    #[test]
    fn a_limit_counts_for_all_of_an_endpoint_and_as_long_as_it_says() {
        let refusals = refusals(Duration::ZERO);
        refusals.limited(&error(UpstreamCause::RateLimited, Some(LONG)), Instant::now());
        let told = refusals.admit(about("a", "/a")).unwrap_err();
        assert!(told.retry_after().unwrap() > LONG / 2 && told.facts().again);
        assert!(refusals.admit(about("b", "/b")).is_err() && refusals.admit_sign_in().is_ok());
        refusals.answered(Instant::now());
        assert!(refusals.admit(about("a", "/a")).is_ok());
        refusals.limited(&error(UpstreamCause::RateLimited, Some(Duration::ZERO)), Instant::now());
        assert!(refusals.admit(about("a", "/a")).is_ok());
        assert!(refusals.admit(about("a", "/a")).is_err(), "one finds out");
        refusals.failed(about("a", "/a"));
        assert!(refusals.admit(about("a", "/a")).is_ok());
    }

    #[test]
    fn one_refused_content_is_no_refused_repository_but_two_are() {
        let refusals = refusals(LONG);
        let denied = error(UpstreamCause::Forbidden, None);
        refusals.denied(about("a", "/1"), &denied, Instant::now());
        assert!(refusals.admit(about("a", "/1")).is_err());
        assert!(refusals.admit(about("a", "/2")).is_ok());
        refusals.accepted(about("a", "/2"), Instant::now());
        refusals.denied(about("a", "/3"), &denied, Instant::now());
        assert!(refusals.admit(about("a", "/2")).is_ok(), "something else was given meanwhile");
        refusals.denied(about("a", "/4"), &denied, Instant::now());
        assert!(refusals.admit(about("a", "/2")).is_err() && refusals.admit(about("b", "/1")).is_ok());
        refusals.accepted(about("a", "/2"), Instant::now());
        assert!(refusals.admit(about("a", "/2")).is_ok());
    }

    #[test]
    fn no_memory_grows_without_bound() {
        let refusals = refusals(Duration::ZERO);
        let denied = error(UpstreamCause::Forbidden, None);
        for number in 0..3 * MAX_REPOSITORIES {
            refusals.denied(about(&number.to_string(), "/"), &denied, Instant::now());
            refusals.denied(about("one", &number.to_string()), &denied, Instant::now());
        }
        let state = refusals.state();
        assert!(state.repositories.len() <= MAX_REPOSITORIES);
        assert!(state.repositories.values().all(|one| one.single.len() <= MAX_TARGETS));
    }

    #[test]
    fn a_tokens_second_look_is_given_once_in_a_while() {
        let refusals = refusals(LONG);
        assert!(refusals.look_again("a") && !refusals.look_again("a") && refusals.look_again("b"));
        refusals.accepted(about("a", "/"), Instant::now());
        assert!(refusals.look_again("a"));
    }
}
