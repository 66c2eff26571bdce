//! The file of pins (`store.pins`), read again when it changes, apart from the configuration: whoever writes it writes it
//! often, and what runs stays pinned while a configuration is refused.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::watch::Watcher;
use crate::jobs::{self, Job, JobError, Run, Schedule};
use crate::store::{FoundPins, PinsState, Store};

/// As often as the files of the configuration are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Which file is followed. Cheap to clone.
#[derive(Clone)]
pub(super) struct FollowedPins(Arc<Inner>);

struct Inner {
    store: Store,
    /// The path, and what was seen there last; `None`: it was not looked at yet.
    watched: Mutex<(Option<PathBuf>, Option<Watcher>)>,
    changed: Notify,
}

impl FollowedPins {
    /// Reads the file for the first time; blocking.
    pub(super) fn new(store: Store, path: Option<PathBuf>) -> Self {
        let pins = Self(Arc::new(Inner { store, watched: Mutex::new((path, None)), changed: Notify::new() }));
        pins.look();
        pins
    }

    /// Follows another file from now on; it is read within seconds.
    pub(super) fn follow(&self, path: Option<PathBuf>) {
        let mut watched = self.0.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.0 != path {
            *watched = (path, None);
            self.0.changed.notify_one();
        }
    }

    /// Reads the file if it is another one than at the last look; blocking.
    fn look(&self) {
        let mut watched = self.0.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, watcher) = &mut *watched;
        let is_another = match watcher {
            Some(watcher) => watcher.poll_now(),
            None => {
                *watcher = Some(Watcher::new(path.iter().cloned().collect()));
                true
            }
        };
        if is_another {
            // Behind the look: what changes from now on is seen by the next one.
            self.0.store.set_pins(FoundPins::read(path.as_deref()));
        }
    }
}

/// Follows the file, and says in the log when nothing can be removed for it.
pub(super) struct ReadPins {
    pins: FollowedPins,
    said: Option<&'static str>,
}

impl ReadPins {
    pub(super) const fn new(pins: FollowedPins) -> Self {
        Self { pins, said: None }
    }
}

impl Job for ReadPins {
    const NAME: &'static str = "pins";

    fn schedule(&self) -> Schedule {
        Schedule::every(LOOK)
    }

    async fn run(&mut self, _: Run) -> Result<(), JobError> {
        let pins = self.pins.clone();
        jobs::blocking(move || pins.look()).await;
        let state = self.pins.0.store.pins();
        // How old they are is no news.
        let kind = Some(state.as_str());
        if self.said != kind {
            match &state {
                PinsState::Unusable(fault) => {
                    tracing::warn!(%fault, "store.pins can't be used: nothing is collected and no rule removes anything");
                }
                PinsState::Usable(pins) => {
                    tracing::info!(
                        images = pins.images.len(),
                        releases = pins.releases.len(),
                        "store.pins is in force"
                    );
                }
                PinsState::Absent => {}
            }
            self.said = kind;
        }
        Ok(())
    }

    async fn called(&mut self) {
        self.pins.0.changed.notified().await;
    }
}
