//! TLS handshakes that came to nothing: counted by reason, and told in the log.
//!
//! A node that does not trust our certificate, or asks without TLS, shows nowhere else. But anybody who reaches the port can
//! make such lines, so there are [`LINES`] a minute at most, one of them for the same address and reason, and what was
//! left out is told as a number.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::jobs::{Cause, Job, JobError, Run, Schedule};
use crate::telemetry::{Metrics, TlsFailureReason};

/// Lines in [`MINUTE`], over all addresses.
const LINES: usize = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// Addresses, each with a reason, that are remembered; of further ones only the number is.
const REMEMBERED: usize = 256;

/// A handshake that came to nothing.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: TlsFailureReason,
    pub(super) error: io::Error,
    /// Not a byte came: a balancer that looks whether the port is open. Counted, and not told.
    pub(super) silent: bool,
}

/// The failed handshakes of a server.
#[derive(Debug, Default)]
pub struct HandshakeFailures {
    metrics: OnceLock<Metrics>,
    lines: Mutex<Lines>,
    /// Something was left out.
    left_out: Notify,
}

impl HandshakeFailures {
    /// Where they are counted from now on; the first call counts.
    pub fn count_in(&self, metrics: Metrics) {
        let _ = self.metrics.set(metrics);
    }

    /// Counts and tells one.
    pub(super) fn note(&self, address: SocketAddr, failure: &Failure) {
        let reason = failure.reason;
        if let Some(metrics) = self.metrics.get() {
            metrics.tls_failure(reason);
        }
        let (reason_text, error) = (reason.as_str(), &failure.error);
        if failure.silent {
            tracing::debug!(%address, reason = reason_text, %error, "a TLS handshake failed");
            return;
        }
        let told = self.lines().judge((source(address.ip()), reason), Instant::now());
        match told {
            Some(0) => tracing::info!(%address, reason = reason_text, %error, "a TLS handshake failed"),
            Some(left_out) => {
                tracing::info!(%address, reason = reason_text, %error, left_out, "a TLS handshake failed");
            }
            None => self.left_out.notify_one(),
        }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the number of failures that were left out, a minute later at the earliest, and at the end.
#[derive(Debug)]
pub struct ReportFailures(pub Arc<HandshakeFailures>);

impl Job for ReportFailures {
    const NAME: &'static str = "tls-failures";

    fn schedule(&self) -> Schedule {
        // The minute begins when something was left out, and no further failure puts its end off.
        if self.0.lines().owes() { Schedule::every(MINUTE).not_at_start() } else { Schedule::when_called() }
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        // A call only begins the minute.
        if run.cause() != Cause::Call {
            tell(self.0.lines().over(Instant::now()));
        }
        Ok(())
    }

    async fn called(&mut self) {
        if self.0.lines().owes() {
            std::future::pending::<()>().await;
        }
        self.0.left_out.notified().await;
    }

    async fn end(&mut self) {
        tell(self.0.lines().drain());
    }
}

fn tell(left_out: LeftOut) {
    let LeftOut { failures, addresses } = left_out;
    if failures > 0 {
        tracing::info!(left_out = failures, addresses, "more TLS handshakes failed");
    }
}

/// Whose failures are one: of IPv6 whoever has a /64 has all its addresses.
fn source(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

type Key = (IpAddr, TlsFailureReason);

/// Which lines are written. Pure: the time is an argument.
#[derive(Debug, Default)]
struct Lines {
    /// When the last ones were written, [`LINES`] at most.
    written: VecDeque<Instant>,
    remembered: HashMap<Key, Remembered>,
    /// Left out of sources that are not remembered.
    others: u64,
}

#[derive(Debug, Default)]
struct Remembered {
    /// When it was last told; `None`: never.
    told: Option<Instant>,
    /// Since then.
    left_out: u64,
}

/// What no line told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LeftOut {
    failures: u64,
    /// Of those that are remembered.
    addresses: usize,
}

impl Remembered {
    fn is_over(&self, now: Instant) -> bool {
        self.told.is_none_or(|told| now.saturating_duration_since(told) >= MINUTE)
    }
}

impl Lines {
    /// Whether a failure is told now: with how many equal ones before it that were not.
    fn judge(&mut self, key: Key, now: Instant) -> Option<u64> {
        let has_room = self.has_room(now);
        let remembered = match self.remembered.get_mut(&key) {
            Some(remembered) => remembered,
            None => {
                if self.remembered.len() >= REMEMBERED {
                    self.remembered.retain(|_, one| one.left_out > 0 || !one.is_over(now));
                }
                if self.remembered.len() >= REMEMBERED {
                    return if has_room {
                        self.written.push_back(now);
                        Some(0)
                    } else {
                        self.others += 1;
                        None
                    };
                }
                self.remembered.entry(key).or_default()
            }
        };
        if has_room && remembered.is_over(now) {
            remembered.told = Some(now);
            self.written.push_back(now);
            return Some(std::mem::take(&mut remembered.left_out));
        }
        remembered.left_out += 1;
        None
    }

    fn has_room(&mut self, now: Instant) -> bool {
        while self.written.front().is_some_and(|first| now.saturating_duration_since(*first) >= MINUTE) {
            self.written.pop_front();
        }
        self.written.len() < LINES
    }

    /// Whether something was left out that no line told yet.
    fn owes(&self) -> bool {
        self.others > 0 || self.remembered.values().any(|one| one.left_out > 0)
    }

    /// What was left out and is not told by a line of its own, if there is room for one that tells it; forgotten then.
    fn over(&mut self, now: Instant) -> LeftOut {
        if !self.has_room(now) {
            return LeftOut::default();
        }
        let left_out = self.take(|one| one.is_over(now));
        if left_out.failures > 0 {
            self.written.push_back(now);
        }
        left_out
    }

    /// All that was left out, for the end of the process.
    fn drain(&mut self) -> LeftOut {
        self.take(|_| true)
    }

    fn take(&mut self, over: impl Fn(&Remembered) -> bool) -> LeftOut {
        let mut left_out = LeftOut { failures: std::mem::take(&mut self.others), addresses: 0 };
        for (_, one) in self.remembered.extract_if(|_, one| one.left_out > 0 && over(one)) {
            left_out.failures += one.left_out;
            left_out.addresses += 1;
        }
        left_out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REASONS: &[TlsFailureReason] = TlsFailureReason::ALL;

    fn key(address: u32, reason: usize) -> Key {
        (IpAddr::from(address.to_be_bytes()), REASONS[reason % REASONS.len()])
    }

    #[test]
    fn a_source_is_told_once_a_minute_for_each_reason_with_what_was_left_out() {
        let (mut lines, begin) = (Lines::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(lines.judge(key(1, 0), at(0)), Some(0));
        assert_eq!(lines.judge(key(1, 1), at(0)), Some(0), "another reason");
        assert_eq!(lines.judge(key(2, 0), at(0)), Some(0), "another address");
        for second in 1..60 {
            assert_eq!(lines.judge(key(1, 0), at(second)), None);
        }
        assert_eq!(lines.judge(key(1, 0), at(60)), Some(59));
        assert!(!lines.owes());
        assert_eq!(lines.judge(key(1, 0), at(61)), None);
        assert_eq!(lines.over(at(62)), LeftOut::default(), "it may still be told with a line of its own");
        assert_eq!(lines.over(at(120)), LeftOut { failures: 1, addresses: 1 });
        assert!(!lines.owes());
    }

    #[test]
    fn a_scan_of_many_addresses_leaves_no_more_than_is_remembered() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let told = (0..10_000).filter(|address| lines.judge(key(*address, 0), now).is_some()).count();
        assert_eq!((told, lines.remembered.len()), (LINES, REMEMBERED));
        assert_eq!(lines.over(now), LeftOut::default(), "there is no room for another line");
        let all = lines.over(now + MINUTE);
        assert_eq!((all.failures, all.addresses), (10_000 - LINES as u64, REMEMBERED - LINES));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3::4"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    proptest! {
        #[test]
        fn no_minute_has_more_lines_and_no_failure_is_lost_from_the_numbers(
            steps in prop::collection::vec((0..300_u32, 0..3_usize, 0..20_u64), 1..600),
        ) {
            let (mut lines, mut now) = (Lines::default(), Instant::now());
            let (mut written, mut counted) = (Vec::new(), 0);
            for &(address, reason, later) in &steps {
                now += Duration::from_secs(later / 10);
                if let Some(left_out) = lines.judge(key(address, reason), now) {
                    written.push(now);
                    counted += 1 + left_out;
                }
                if later == 19 {
                    let left_out = lines.over(now);
                    if left_out.failures > 0 {
                        written.push(now);
                        counted += left_out.failures;
                    }
                }
                prop_assert!(lines.remembered.len() <= REMEMBERED && lines.written.len() <= LINES);
            }
            for minute in written.windows(LINES + 1) {
                prop_assert!(minute[LINES] - minute[0] >= MINUTE);
            }
            counted += lines.drain().failures;
            prop_assert_eq!(counted, steps.len() as u64);
        }
    }
}
