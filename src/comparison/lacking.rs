//! What a master says is there and does not have: it is not asked for that in each comparison.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::oci::RepoName;
use crate::store::Record;

/// It is asked again behind this: its content may have been mended.
const LASTS: Duration = Duration::from_secs(600);

/// Most records that are remembered, about 300 bytes each; what is beyond is asked for each time.
const MOST: usize = 10_000;

/// Records of masters that lack what they name, and until when that is believed.
#[derive(Debug, Default)]
pub(super) struct Lacking(Mutex<HashMap<(String, RepoName, Record), Instant>>);

impl Lacking {
    /// At `now` a master did not have what these records of it name.
    pub(super) fn note(&self, host: &str, repo: &RepoName, records: &[Record], now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() + records.len() > MOST {
            all.retain(|_, until| *until > now);
        }
        let room = MOST.saturating_sub(all.len());
        for record in records.iter().take(room) {
            all.insert((host.to_owned(), repo.clone(), record.clone()), now + LASTS);
        }
    }

    /// Whether a master did not have a short time ago what the record names.
    pub(super) fn has(&self, host: &str, repo: &RepoName, record: &Record, now: Instant) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return false;
        }
        all.get(&(host.to_owned(), repo.clone(), record.clone())).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn record(number: usize) -> Record {
        let text = format!("{number:016x} 0000000000000001 v1 {}", Algorithm::Sha256.digest(b"image"));
        let check = Algorithm::Sha256.digest(text.as_bytes()).hex()[..8].to_owned();
        format!("{text} {check}").parse().unwrap()
    }

    #[test]
    fn what_a_master_lacked_is_not_asked_for_until_some_time_has_passed_or_it_says_something_else() {
        let (lacking, now) = (Lacking::default(), Instant::now());
        let [a, b]: [RepoName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        assert!(!lacking.has("one", &a, &record(1), now));
        lacking.note("one", &a, &[record(1)], now);
        assert!(lacking.has("one", &a, &record(1), now + LASTS / 2));
        for (host, repo, record) in [("other", &a, record(1)), ("one", &b, record(1)), ("one", &a, record(2))] {
            assert!(!lacking.has(host, repo, &record, now));
        }
        assert!(!lacking.has("one", &a, &record(1), now + LASTS));
        let many: Vec<Record> = (0..MOST + 5).map(record).collect();
        lacking.note("one", &b, &many, now);
        assert_eq!(lacking.0.lock().unwrap().len(), MOST);
        lacking.note("one", &a, &[record(2)], now + LASTS);
        assert_eq!(lacking.0.lock().unwrap().len(), 1);
        assert!(lacking.has("one", &a, &record(2), now + LASTS));
    }
}
