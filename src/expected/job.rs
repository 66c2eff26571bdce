//! The looks as a job: at the start, when the file changes, and once in an interval; and a line of the log where a mode becomes whole or
//! is it no more.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::file::{Expected, FileState, is_same};
use super::look::{Findings, Side, look};
use crate::jobs::{self, Job, JobError, Run, Schedule};
use crate::retention::StoredLists;
use crate::store::Store;
use crate::values::Pins;

/// As often as the files of the configuration are looked at.
const FILE_LOOK: Duration = Duration::from_secs(5);

/// From one look to the next, while something is missing: it may be on its way.
const SOON: Duration = Duration::from_secs(60);

/// The same while nothing is.
const LATER: Duration = Duration::from_secs(600);

/// Missing images that a line of the log names.
const LOGGED: usize = 10;

/// Which repositories are looked at now.
type Sides = Arc<dyn Fn() -> Vec<Side> + Send + Sync>;

/// Looks for what has to be there.
pub struct LookForExpected {
    expected: Expected,
    store: Store,
    lists: StoredLists,
    sides: Sides,
    /// What was said last: of the list, and of each mode whether it is whole.
    said: (Option<Arc<Pins>>, BTreeMap<&'static str, bool>),
    lacks: bool,
}

impl LookForExpected {
    /// In the repositories that `sides` says at each look.
    #[must_use]
    pub fn new(expected: Expected, store: Store, sides: impl Fn() -> Vec<Side> + Send + Sync + 'static) -> Self {
        let lists = StoredLists::new(store.clone());
        Self { expected, store, lists, sides: Arc::new(sides), said: (None, BTreeMap::new()), lacks: false }
    }

    fn say(&mut self, side: &Side, found: &Findings) {
        let (mode, is_whole) = (found.mode, found.missing == 0);
        if self.said.1.insert(mode, is_whole) == Some(is_whole) {
            return;
        }
        let (images, missing) = (found.images, found.missing);
        let named: Vec<String> =
            found.named.iter().take(LOGGED).map(|missing| format!("{} ({})", missing.image, missing.why)).collect();
        match (is_whole, side.is_wanted) {
            (true, _) => tracing::info!(mode, images, "all that store.expected names is there, whole"),
            (false, true) => {
                tracing::warn!(mode, images, missing, ?named, "not all that store.expected names is there");
            }
            // Nobody is served from it: it may be filled yet.
            (false, false) => {
                tracing::info!(mode, images, missing, ?named, "not all that store.expected names is there");
            }
        }
    }
}

impl fmt::Debug for LookForExpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookForExpected").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl Job for LookForExpected {
    const NAME: &'static str = "expected";
    const PACED: bool = true;

    fn schedule(&self) -> Schedule {
        Schedule::every(if self.lacks { SOON } else { LATER })
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        let expected = self.expected.clone();
        let is_another = jobs::blocking(move || expected.read()).await;
        let state = self.expected.state();
        if is_another {
            match (&state.file, state.file.fault()) {
                (_, Some(fault)) if state.list.is_some() => {
                    tracing::warn!(fault, "store.expected can't be used: the list before stays in force");
                }
                (_, Some(fault)) => tracing::warn!(fault, "store.expected can't be used: nothing is looked for"),
                (FileState::Usable, None) => {
                    let list = state.list.as_ref();
                    let (images, releases) = list.map_or((0, 0), |list| (list.images.len(), list.releases.len()));
                    tracing::info!(images, releases, "store.expected is in force");
                }
                (_, None) => {}
            }
        }
        self.lacks = false;
        let Some(list) = state.list else {
            self.said = (None, BTreeMap::new());
            return Ok(());
        };
        if !self.said.0.as_ref().is_some_and(|before| is_same(before, &list)) {
            self.said = (Some(Arc::clone(&list)), BTreeMap::new());
        }
        let mut all = Vec::new();
        for side in (self.sides)() {
            let looked =
                look(&self.store, &self.lists, side.clone(), Arc::clone(&list), run.stop(), run.progress()).await;
            let Some(found) = looked else { return Ok(()) };
            self.say(&side, &found);
            self.lacks |= found.missing > 0;
            all.push(found);
        }
        // What is not looked at any more is news when it is again.
        self.said.1.retain(|mode, _| all.iter().any(|found| found.mode == *mode));
        self.expected.found(&list, all);
        Ok(())
    }

    async fn called(&mut self) {
        loop {
            let expected = self.expected.clone();
            if jobs::blocking(move || expected.has_changed()).await {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(FILE_LOOK) => {}
                () = self.expected.followed() => return,
            }
        }
    }
}
