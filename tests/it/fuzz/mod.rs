//! Mutated bytes thrown at the parsers and at a running server.
//!
//! Runs a fixed number of cases, the same each time; with `FUZZ_SECONDS` for so long, from a fresh seed. Each case has a
//! seed of its own, which a failure names: `FUZZ_SEED=<it>` runs that case first.

mod mutate;
mod parsers;
mod server;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use self::mutate::Random;

/// Which cases are run; shared by threads.
struct Cases {
    first: u64,
    taken: AtomicU64,
    count: u64,
    until: Option<Instant>,
}

impl Cases {
    /// `count`: how many without `FUZZ_SECONDS`.
    fn new(name: &str, count: u64) -> Self {
        let number = |variable: &str| {
            let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
            Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
        };
        let seconds = number("FUZZ_SECONDS");
        // Random keys of the standard library, for want of a random source that says so.
        let fresh = || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), name) >> 16;
        let first = number("FUZZ_SEED").unwrap_or_else(|| if seconds.is_some() { fresh() } else { 1 });
        eprintln!("{name}: cases from FUZZ_SEED={first}");
        let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        Self { first, taken: AtomicU64::new(0), count, until }
    }

    /// The seed of the next case, and its randomness.
    fn next(&self) -> Option<(u64, Random)> {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        let more = match self.until {
            Some(until) => Instant::now() < until,
            None => number < self.count,
        };
        let seed = self.first + number;
        more.then(|| (seed, Random::new(seed)))
    }

    fn report(&self, name: &str) {
        eprintln!("{name}: {} cases", self.taken.load(Ordering::Relaxed));
    }
}
