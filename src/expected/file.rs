//! The file `store.expected`, read again when it changes, and what was last found. One that can't be used leaves the list before in force.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::look::Findings;
use crate::config::watch::Watcher;
use crate::store::FoundPins;
use crate::values::Pins;

/// What has to be there, and what was found. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Expected(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    watched: Mutex<Watched>,
    state: Mutex<ExpectedState>,
    changed: Notify,
}

#[derive(Debug)]
struct Watched {
    path: Option<PathBuf>,
    /// What was seen there last; `None`: it was not looked at yet.
    watcher: Option<Watcher>,
    /// Whether the file is to be read again.
    is_another: bool,
}

/// What is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct ExpectedState {
    /// The file as it lies there.
    pub file: FileState,
    /// The list that is looked for; of the file before where this one can't be used.
    pub list: Option<Arc<Pins>>,
    /// What was found of it, of each mode that was looked at; none before the first look is through.
    pub found: Vec<Findings>,
}

/// A file that may be no list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FileState {
    /// The key is not set.
    #[default]
    Unset,
    /// It is the list.
    Usable,
    /// There is none.
    Missing,
    /// It names nothing.
    Empty,
    /// It can't be read or is no list: why, in words.
    Unreadable(String),
}

impl FileState {
    /// Its word in the status.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unset => "unset",
            Self::Usable => "usable",
            Self::Missing => "missing",
            Self::Empty => "empty",
            Self::Unreadable(_) => "unreadable",
        }
    }

    /// Why it is not the list; `None`: it is, or there is no key.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::Unset | Self::Usable => None,
            Self::Missing => Some("the file is missing".to_owned()),
            Self::Empty => Some("it names no image and no release".to_owned()),
            Self::Unreadable(why) => Some(format!("it can't be read: {why}")),
        }
    }
}

/// Whether two lists name the same.
pub(super) fn is_same(one: &Pins, other: &Pins) -> bool {
    (&one.images, &one.releases) == (&other.images, &other.releases)
}

impl Expected {
    /// What the file at `path` names; it is read by the job.
    #[must_use]
    pub fn new(path: Option<PathBuf>) -> Self {
        let watched = Watched { path, watcher: None, is_another: true };
        Self(Arc::new(Inner { watched: Mutex::new(watched), state: Mutex::default(), changed: Notify::new() }))
    }

    /// Another file counts from now on; it is read by the job, at once.
    pub fn follow(&self, path: Option<PathBuf>) {
        let mut watched = self.watched();
        if watched.path != path {
            *watched = Watched { path, watcher: None, is_another: true };
            self.0.changed.notify_one();
        }
    }

    /// What is known now.
    #[must_use]
    pub fn state(&self) -> ExpectedState {
        self.locked().clone()
    }

    /// Ends when another file is to be followed.
    pub(super) async fn followed(&self) {
        self.0.changed.notified().await;
    }

    /// Whether the file is another one than was read last. Blocking.
    pub(super) fn has_changed(&self) -> bool {
        let mut watched = self.watched();
        if watched.watcher.as_mut().is_some_and(Watcher::poll_now) {
            watched.is_another = true;
        }
        watched.is_another
    }

    /// Reads the file if it is another one than was read last. Says whether it was. Blocking.
    pub(super) fn read(&self) -> bool {
        let mut watched = self.watched();
        let Watched { path, watcher, is_another } = &mut *watched;
        match watcher {
            Some(watcher) => *is_another |= watcher.poll_now(),
            None => *watcher = Some(Watcher::new(path.iter().cloned().collect())),
        }
        if !std::mem::take(is_another) {
            return false;
        }
        // Behind the look: what changes from now on is seen by the next one.
        let read = FoundPins::read(path.as_deref());
        let mut state = self.locked();
        state.file = match read {
            FoundPins::Unset => {
                *state = ExpectedState::default();
                FileState::Unset
            }
            FoundPins::Missing => FileState::Missing,
            FoundPins::Unreadable(why) => FileState::Unreadable(why),
            FoundPins::Read(list) if list.is_empty() => FileState::Empty,
            FoundPins::Read(list) => {
                // What was found of the same images holds, whenever they were written down.
                if !state.list.as_ref().is_some_and(|before| is_same(before, &list)) {
                    state.found = Vec::new();
                }
                state.list = Some(list);
                FileState::Usable
            }
        };
        true
    }

    /// Keeps what was found of `list`, unless another one took its place meanwhile.
    pub(super) fn found(&self, list: &Arc<Pins>, found: Vec<Findings>) {
        let mut state = self.locked();
        if state.list.as_ref().is_some_and(|current| Arc::ptr_eq(current, list)) {
            state.found = found;
        }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked(&self) -> MutexGuard<'_, ExpectedState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
