//! What is known of the comparison with each master.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::Timestamp;

/// Refused clocks of a master are told in the log so often at most.
const TOLD_EVERY: Duration = Duration::from_secs(3600);

/// The comparison with all masters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComparisonStatus {
    /// Each other master of the list.
    pub masters: Vec<ComparedMaster>,
    /// Records of others that count here since the process began.
    pub taken: u64,
    /// Those that were refused for their clocks.
    pub refused: u64,
    /// Bytes that came for them.
    pub bytes: u64,
}

/// The comparison with one master.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComparedMaster {
    /// `host:port`.
    pub host: String,
    /// When both last had the same records.
    pub equal: Option<Timestamp>,
    /// Why the last comparison came to no end; a sentence.
    pub error: Option<String>,
    /// How far its clock is from ours, in either direction.
    pub clock_offset: Duration,
    /// Repositories whose records differ, of those that are not compared yet in this round.
    pub repositories: u64,
    /// Records of that master in these repositories.
    pub records: u64,
}

/// What is known of each, by host.
#[derive(Debug, Default)]
pub(super) struct Masters(Mutex<HashMap<String, Known>>);

#[derive(Debug, Default)]
struct Known {
    compared: ComparedMaster,
    /// A comparison runs.
    is_busy: bool,
    /// It did not answer the last time.
    is_away: bool,
    told: Option<Instant>,
}

impl Masters {
    pub(super) fn of(&self, hosts: &[String]) -> Vec<ComparedMaster> {
        let known = self.lock();
        let of = |host: &String| {
            let compared = known.get(host).map(|known| known.compared.clone()).unwrap_or_default();
            ComparedMaster { host: host.clone(), ..compared }
        };
        hosts.iter().map(of).collect()
    }

    /// Begins a comparison with one; `false`: one runs.
    pub(super) fn begin(&self, host: &str) -> bool {
        let mut known = self.lock();
        let known = known.entry(host.to_owned()).or_default();
        !std::mem::replace(&mut known.is_busy, true)
    }

    pub(super) fn end(&self, host: &str) {
        self.change(host, |known| known.is_busy = false);
    }

    /// Changes what is shown of one.
    pub(super) fn note(&self, host: &str, note: impl FnOnce(&mut ComparedMaster)) {
        self.change(host, |known| note(&mut known.compared));
    }

    /// Notes whether one answers.
    pub(super) fn note_away(&self, host: &str, is_away: bool) {
        self.change(host, |known| known.is_away = is_away);
    }

    /// Whether one of these hosts did not answer the last time. One that answers, and of which something can't be taken, is not
    /// away.
    pub(super) fn are_some_away(&self, hosts: &[String]) -> bool {
        let known = self.lock();
        hosts.iter().any(|host| known.get(host).is_some_and(|known| known.is_away))
    }

    /// Whether refused clocks of a master are to be told now.
    pub(super) fn is_to_be_told(&self, host: &str) -> bool {
        let mut is = false;
        self.change(host, |known| {
            is = known.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY);
            if is {
                known.told = Some(Instant::now());
            }
        });
        is
    }

    fn change(&self, host: &str, change: impl FnOnce(&mut Known)) {
        change(self.lock().entry(host.to_owned()).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_of_which_something_can_not_be_taken_is_not_away() {
        let (masters, hosts) = (Masters::default(), ["a".to_owned(), "b".to_owned()]);
        assert!(!masters.are_some_away(&hosts));
        masters.note("a", |compared| compared.error = Some("no room".to_owned()));
        assert!(!masters.are_some_away(&hosts));
        masters.note_away("b", true);
        assert!(masters.are_some_away(&hosts) && !masters.are_some_away(&hosts[..1]));
        masters.note_away("b", false);
        assert!(!masters.are_some_away(&hosts));
    }
}
