//! A check that goes on: what failed is asked for again soon, and everything again after a while, as images can vanish from a
//! registry that had them all. Decides when; runs nothing by itself.

use std::time::Duration;

use tokio::time::Instant;

use super::{Check, Report};
use crate::release::RequiredImage;

/// Longest run of a check: what is not answered by then is left for the next one.
const BUDGET: Duration = Duration::from_secs(30);
/// A time that is further away than any process lives.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The times of a repeated check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From the end of a run to the next one while something is open. So what failed is asked for again after this time at
    /// the earliest.
    pub retry: Duration,
    /// From the beginning of one round of everything to the beginning of the next. At most 100 years.
    pub again: Duration,
    /// Longest run; `None`: as long as it takes, which layers need that take longer to download.
    pub budget: Option<Duration>,
}

impl Default for Pace {
    /// 10 s, as Deckhouse's own checker; 10 minutes; 30 s.
    fn default() -> Self {
        Self { retry: Duration::from_secs(10), again: Duration::from_secs(600), budget: Some(BUDGET) }
    }
}

/// A [`Check`] with its times.
#[derive(Debug)]
pub struct RepeatedCheck {
    check: Check,
    pace: Pace,
    /// Beginning of the round that runs; `None` before the first.
    round: Option<Instant>,
    /// End of the last run; `None`: the next one is due at once.
    ended: Option<Instant>,
}

impl RepeatedCheck {
    /// A check whose first run is due.
    #[must_use]
    pub const fn new(check: Check, pace: Pace) -> Self {
        Self { check, pace, round: None, ended: None }
    }

    /// Puts another list in place: what was found is forgotten, and a run is due. Does nothing if it is the same.
    pub fn replace_items(&mut self, items: Vec<RequiredImage>) {
        if self.check.replace_items(items) {
            self.round = None;
            self.ended = None;
        }
    }

    /// When the next run is due; `None`: at once.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let round = self.round? + self.pace.again.min(NEVER);
        let ended = self.ended?;
        let next = if self.check.open() > 0 { ended + self.pace.retry.min(NEVER) } else { round };
        Some(next.max(ended))
    }

    /// How many answers the next run is to bring, should it be one of a round that has begun.
    #[must_use]
    pub fn open(&self) -> usize {
        self.check.open()
    }

    /// Waits until the next run is due. Safe to drop.
    pub async fn due(&self) {
        if let Some(next) = self.next() {
            tokio::time::sleep_until(next).await;
        }
    }

    /// One run, due or not. Begins another round if it is time. `answered` is called for each answer.
    ///
    /// Safe to drop: ends the requests; answers that came are kept.
    pub async fn run(&mut self, answered: &(dyn Fn() + Sync)) {
        self.begin(Instant::now());
        self.check.run(self.pace.budget, answered).await;
        self.ended = Some(Instant::now());
    }

    fn begin(&mut self, now: Instant) {
        if self.round.is_none_or(|round| now.saturating_duration_since(round) >= self.pace.again) {
            self.check.doubt();
            self.round = Some(now);
        }
    }

    /// The findings so far. What was good in the round before counts as good until it is asked for again.
    #[must_use]
    pub fn report(&self) -> Report {
        self.check.report()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::scripted::{ONE, Registry, TWO};
    use crate::checker::{CheckMode, Depth, parse};

    fn check(registry: &Registry, pace: Pace) -> RepeatedCheck {
        let items = parse(&format!("a {ONE}\nb {TWO}")).unwrap();
        let check = Check::new(CheckMode::Default, Depth::Manifest, items, vec![registry.target(None)]);
        RepeatedCheck::new(check, pace)
    }

    fn said(check: &RepeatedCheck) -> String {
        check.report().to_string().lines().nth(1).unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn what_vanishes_is_found_in_the_next_round_and_counts_as_there_until_then() {
        let registry = Registry::start(None).await;
        let pace = Pace { retry: Duration::ZERO, again: Duration::ZERO, budget: None };
        let mut repeated = check(&registry, pace);
        assert_eq!(repeated.report().to_string(), "Initializing");
        repeated.run(&|| {}).await;
        assert_eq!((said(&repeated).as_str(), registry.asked()), ("m: all 2 items are checked", 2));
        registry.empty();
        repeated.begin(Instant::now());
        assert_eq!((said(&repeated).as_str(), repeated.open()), ("m: all 2 items are checked", 2));
        repeated.run(&|| {}).await;
        assert_eq!(said(&repeated), "m: 0 of 2 items processed, 2 items with errors:");
        registry.fill();
        repeated.run(&|| {}).await;
        assert_eq!(said(&repeated), "m: all 2 items are checked");
    }

    #[tokio::test]
    async fn within_a_round_only_what_failed_is_asked_for_again_and_not_before_its_time() {
        let registry = Registry::start(None).await;
        let pace = Pace { again: Duration::MAX, ..Pace::default() };
        let mut repeated = check(&registry, pace);
        assert_eq!(repeated.next(), None, "at once");
        registry.empty();
        repeated.run(&|| {}).await;
        assert_eq!(repeated.next(), Some(repeated.ended.unwrap() + Duration::from_secs(10)));
        registry.fill();
        registry.asked();
        repeated.run(&|| {}).await;
        assert_eq!((said(&repeated).as_str(), registry.asked()), ("m: all 2 items are checked", 2));
        assert_eq!(repeated.next(), Some(repeated.round.unwrap() + NEVER));
        repeated.run(&|| {}).await;
        assert_eq!(registry.asked(), 0);
    }

    #[tokio::test]
    async fn another_list_is_due_at_once_and_the_same_one_changes_nothing() {
        let registry = Registry::start(None).await;
        let mut repeated = check(&registry, Pace::default());
        repeated.run(&|| {}).await;
        repeated.replace_items(parse(&format!("a {ONE}\nb {TWO}")).unwrap());
        assert!(repeated.next().is_some() && repeated.open() == 0);
        repeated.replace_items(parse(&format!("b {TWO}")).unwrap());
        assert_eq!((repeated.next(), repeated.open()), (None, 1));
        registry.asked();
        repeated.run(&|| {}).await;
        assert_eq!((said(&repeated).as_str(), registry.asked()), ("m: all 1 items are checked", 1));
    }
}
