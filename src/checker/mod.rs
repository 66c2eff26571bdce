//! Whether registries hold what a cluster needs: `d8-registry check`.
//!
//! Asks each registry for each item of a list, remembers what was found, and says it in the words that Deckhouse's own
//! checker uses. Pulls manifests, and what they name only where contents are to be hashed, or a cache is to be filled
//! (`d8-registry prefetch`); keeps none of it. Never writes to a registry.
//!
//! In reading order: `address`, `items` and `message` are pure; `target` is one registry, `rate` holds back what is fetched of it; `repeated` is a check that goes on.

mod address;
mod items;
mod message;
mod rate;
mod repeated;
#[cfg(test)]
mod scripted;
mod target;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream;
use tokio::time::{Instant, timeout_at};

pub use address::{InvalidRegistry, RegistryAddress};
pub use items::{InvalidList, for_mode, parse};
pub use message::{Finding, RegistryReport, Report};
pub use rate::Rate;
pub use repeated::{Pace, RepeatedCheck};
pub use target::{Target, TargetOptions, required_by};

use crate::release::RequiredImage;
pub use crate::values::CheckMode;

/// Requests at once to a registry.
const PARALLEL: usize = 3;

/// How much of an item is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Depth {
    /// Its manifest is asked for.
    #[default]
    Manifest,
    /// Every manifest below it is fetched, and every blob that one names asked for, with its length. A registry that holds
    /// damaged bytes passes.
    Layers,
    /// Every such blob is fetched and hashed.
    Content,
    /// Every such blob lies in the cache of the d8-registry that is asked, which is in mode Proxy: what does not is fetched through
    /// it, and hashed.
    Cached,
}

/// The state of an item at a registry.
#[derive(Clone, Debug)]
enum Found {
    /// Not asked yet.
    Nothing,
    Good,
    /// Good a while ago, to be asked again; counts as good until the answer.
    Stale,
    /// Why not; asked again in the next run.
    Wrong(String),
}

impl Found {
    /// Whether the registry holds it as far as is known.
    const fn is_good(&self) -> bool {
        matches!(self, Self::Good | Self::Stale)
    }
}

/// A check of some registries against one list. Remembers what is good, so that it is asked for once.
#[derive(Debug)]
pub struct Check {
    mode: CheckMode,
    depth: Depth,
    items: Arc<[RequiredImage]>,
    targets: Vec<(Target, Vec<Found>)>,
    has_run: bool,
}

impl Check {
    /// A check that has not begun.
    #[must_use]
    pub fn new(mode: CheckMode, depth: Depth, items: Vec<RequiredImage>, targets: Vec<Target>) -> Self {
        let mut targets: Vec<_> =
            targets.into_iter().map(|target| (target, vec![Found::Nothing; items.len()])).collect();
        targets.sort_by(|(a, _), (b, _)| a.name().cmp(b.name()));
        Self { mode, depth, items: items.into(), targets, has_run: false }
    }

    /// Puts another list in place and forgets what was found; does nothing if it is the same. Says whether it is another.
    pub fn replace_items(&mut self, items: Vec<RequiredImage>) -> bool {
        if *self.items == *items {
            return false;
        }
        for (target, found) in &mut self.targets {
            target.forget();
            *found = vec![Found::Nothing; items.len()];
        }
        self.items = items.into();
        true
    }

    /// How many answers a run is to bring.
    #[must_use]
    pub fn open(&self) -> usize {
        let open = |found: &Vec<Found>| found.iter().filter(|found| !matches!(found, Found::Good)).count();
        self.targets.iter().map(|(_, found)| open(found)).sum()
    }

    /// Has everything that is good asked for again, blobs too. Until its answer it counts as good.
    pub fn doubt(&mut self) {
        for (target, found) in &mut self.targets {
            target.forget();
            for found in found.iter_mut().filter(|found| matches!(found, Found::Good)) {
                *found = Found::Stale;
            }
        }
    }

    /// Asks all registries at once for what is not known to be good: first what was not asked yet, then what was good a while
    /// ago, then what was wrong. Ends when all of it is answered, or after `budget`; what was not answered by then is left for the next run.
    /// `answered` is called for each answer.
    ///
    /// Safe to drop: ends the requests; answers that came are kept.
    pub async fn run(&mut self, budget: Option<Duration>, answered: &(dyn Fn() + Sync)) {
        let end = budget.map(|budget| Instant::now() + budget);
        self.has_run = true;
        let (items, depth) = (&*self.items, self.depth);
        // In a loop and boxed: through a closure the compiler does not see that these may be sent to another thread.
        let mut runs: Vec<BoxFuture<'_, ()>> = Vec::with_capacity(self.targets.len());
        for (target, found) in &mut self.targets {
            runs.push(Box::pin(run_one(target, found, items, depth, end, answered)));
        }
        join_all(runs).await;
    }

    /// The findings so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let registries = self.targets.iter().map(|(target, found)| {
            let wrong = self.items.iter().zip(found).filter_map(|(item, found)| match found {
                Found::Wrong(error) => {
                    Some(Finding { source: item.source.clone(), image: target.image(item), error: error.clone() })
                }
                Found::Nothing | Found::Good | Found::Stale => None,
            });
            RegistryReport {
                name: target.name().to_owned(),
                items: found.len(),
                processed: found.iter().filter(|found| found.is_good()).count(),
                errors: wrong.collect(),
            }
        });
        Report { mode: self.mode, has_run: self.has_run, registries: registries.collect() }
    }
}

async fn run_one(
    target: &Target,
    found: &mut [Found],
    items: &[RequiredImage],
    depth: Depth,
    end: Option<Instant>,
    answered: &(dyn Fn() + Sync),
) {
    let which = |wanted: fn(&Found) -> bool| {
        let all = found.iter().enumerate().filter(move |(_, found)| wanted(found));
        all.map(|(index, _)| index).collect::<Vec<_>>()
    };
    let mut open = which(|found| matches!(found, Found::Nothing));
    open.extend(which(|found| matches!(found, Found::Stale)));
    // Last: what does not answer takes the longest.
    open.extend(which(|found| matches!(found, Found::Wrong(_))));
    let mut asked: Vec<BoxFuture<'_, (usize, Result<(), String>)>> = Vec::with_capacity(open.len());
    for index in open {
        if let Some(item) = items.get(index) {
            asked.push(Box::pin(async move { (index, target.examine(item, depth).await) }));
        }
    }
    let mut answers = stream::iter(asked).buffer_unordered(PARALLEL);
    loop {
        let answer = match end {
            Some(end) => timeout_at(end, answers.next()).await.ok().flatten(),
            None => answers.next().await,
        };
        let Some((index, answer)) = answer else { return };
        if let Some(place) = found.get_mut(index) {
            *place = answer.map_or_else(Found::Wrong, |()| Found::Good);
        }
        answered();
    }
}
