//! How long the loop rests between two looks at a cluster.
//!
//! What changes in the API server wakes it by its watches; servers are not watched, so while a switch is under way they are
//! asked again and again. A look is some 20 calls of the API server, each of one small object or of all Nodes.

use std::time::{Duration, Instant};

use crate::switch::{Condition, ConditionType, Decision};

/// The longest rest: a watch may have missed something, and servers are not watched.
pub(super) const RESYNC: Duration = Duration::from_secs(30);
/// The longest while a switch is under way: what a server has in force is found by asking it.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// The longest while a switch waits for people: it has shown the same for [`QUIET`].
const WAITING: Duration = Duration::from_secs(10);
/// After this time without another condition or write a switch is one that waits.
const QUIET: Duration = Duration::from_secs(300);

/// What was shown last, and since when.
#[derive(Debug)]
pub(super) struct Pace {
    shown: Vec<Condition>,
    since: Instant,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self { shown: Vec::new(), since: now }
    }

    /// The longest rest behind this decision.
    pub(super) fn rest(&mut self, now: Instant, decision: &Decision) -> Duration {
        if !decision.writes.is_empty() || self.shown != decision.conditions {
            self.shown.clone_from(&decision.conditions);
            self.since = now;
        }
        let is_under_way =
            decision.conditions.iter().any(|condition| condition.kind == ConditionType::Ready && !condition.status);
        let longest = if !is_under_way || decision.figures.held.is_some() {
            RESYNC
        } else if now.duration_since(self.since) < QUIET {
            UNDER_WAY
        } else {
            WAITING
        };
        decision.wake.map_or(longest, |wake| wake.min(longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::switch::Figures;

    fn decision(status: bool, message: &str) -> Decision {
        let condition = Condition {
            kind: ConditionType::Ready,
            status,
            reason: String::new(),
            message: message.to_owned(),
            last_transition: Timestamp::from_millis(0),
            observed_generation: 0,
        };
        Decision {
            conditions: vec![condition],
            writes: Vec::new(),
            questions: Vec::new(),
            notices: Vec::new(),
            figures: Figures::default(),
            wake: None,
        }
    }

    #[test]
    fn a_switch_in_which_nothing_moves_is_looked_at_less_often_until_something_does() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        let mut rest = |after: u64, decision: &Decision| pace.rest(begin + Duration::from_secs(after), decision);
        let waits = decision(false, "an image is missing");
        assert_eq!(rest(0, &waits), UNDER_WAY);
        assert_eq!(rest(299, &waits), UNDER_WAY);
        assert_eq!(rest(300, &waits), WAITING);
        assert_eq!(rest(9000, &waits), WAITING);
        assert_eq!(rest(9001, &decision(false, "another image is missing")), UNDER_WAY);
        let soon = Decision { wake: Some(Duration::from_secs(1)), ..waits.clone() };
        assert_eq!((rest(9002, &waits), rest(9302, &soon)), (UNDER_WAY, Duration::from_secs(1)));
        let held = Decision { figures: Figures { held: Some("input"), ..Figures::default() }, ..waits };
        assert_eq!(rest(9303, &held), RESYNC);
        assert_eq!(rest(9304, &decision(true, "")), RESYNC);
    }
}
