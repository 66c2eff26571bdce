//! The file of pins as it was found, and whether anything may be removed by it: asked by all that removes what nobody asked to
//! be removed (collection, retention, displacement).

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::values::{Age, Pins};

/// What was found where `store.pins` points.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FoundPins {
    /// The key is not set.
    #[default]
    Unset,
    /// The document; it may be empty or old.
    Read(Arc<Pins>),
    /// There is no file.
    Missing,
    /// It can't be read, or is no document of pins: why, in words.
    Unreadable(String),
}

/// What is pinned, for whoever is about to remove something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinsState {
    /// The key `store.pins` is not set: nothing is known of what runs. Retention removes nothing then.
    Absent,
    /// What is in it stays, whatever a rule says.
    Usable(Arc<Pins>),
    /// Nothing is removed but what somebody deletes.
    Unusable(PinsFault),
}

/// Why pins can't be gone by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinsFault {
    /// There is no file.
    #[error("the file is missing")]
    Missing,
    /// It names nothing: whoever wrote it could not look.
    #[error("it names no image and no release")]
    Empty,
    /// It can't be read or is no document of pins.
    #[error("it can't be read: {0}")]
    Unreadable(String),
    /// It is older than [`Pins::MAX_AGE`].
    #[error("it was written {} h ago", .0.as_secs() / 3600)]
    Old(Duration),
    /// Its time has not come yet: its writer's clock or ours is wrong.
    #[error("it was written at a time that has not come yet")]
    Ahead,
}

impl FoundPins {
    /// Reads the file that `store.pins` names. Blocking.
    #[must_use]
    pub fn read(path: Option<&Path>) -> Self {
        let Some(path) = path else { return Self::Unset };
        match read_bounded(path) {
            Ok(bytes) => match Pins::parse(&bytes) {
                Ok(pins) => Self::Read(Arc::new(pins)),
                Err(error) => Self::Unreadable(error.to_string()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Missing,
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }

    /// The document, usable or not.
    #[must_use]
    pub const fn document(&self) -> Option<&Arc<Pins>> {
        match self {
            Self::Read(pins) => Some(pins),
            Self::Unset | Self::Missing | Self::Unreadable(_) => None,
        }
    }

    /// How it stands at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> PinsState {
        match self {
            Self::Unset => PinsState::Absent,
            Self::Missing => PinsState::Unusable(PinsFault::Missing),
            Self::Unreadable(why) => PinsState::Unusable(PinsFault::Unreadable(why.clone())),
            Self::Read(pins) if pins.is_empty() => PinsState::Unusable(PinsFault::Empty),
            Self::Read(pins) => match pins.age(now) {
                Age::Fresh(_) => PinsState::Usable(Arc::clone(pins)),
                Age::Old(age) => PinsState::Unusable(PinsFault::Old(age)),
                Age::Ahead => PinsState::Unusable(PinsFault::Ahead),
            },
        }
    }
}

impl PinsState {
    /// Its word, for status and log: `absent`, `usable`, or that of the fault.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Usable(_) => "usable",
            Self::Unusable(PinsFault::Missing) => "missing",
            Self::Unusable(PinsFault::Empty) => "empty",
            Self::Unusable(PinsFault::Unreadable(_)) => "unreadable",
            Self::Unusable(PinsFault::Old(_)) => "old",
            Self::Unusable(PinsFault::Ahead) => "ahead",
        }
    }

    /// Why they can't be gone by; `None`: they can, or there are none.
    #[must_use]
    pub const fn fault(&self) -> Option<&PinsFault> {
        match self {
            Self::Unusable(fault) => Some(fault),
            Self::Absent | Self::Usable(_) => None,
        }
    }
}

/// One byte more than a document has, so that a larger one is noticed.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(Pins::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::clock;

    fn pins(written_at: Timestamp) -> Pins {
        Pins { written_at, releases: BTreeSet::from(["v1.70.1".parse().unwrap()]), images: BTreeSet::new() }
    }

    #[test]
    fn each_fault_of_the_file_is_told_and_none_is_absence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pins.yaml");
        let now = clock::now();
        let state = || FoundPins::read(Some(&path)).state(now);
        assert_eq!(FoundPins::read(None).state(now), PinsState::Absent);
        assert_eq!(state(), PinsState::Unusable(PinsFault::Missing));
        std::fs::write(&path, "writtenAt: 2026-11-29T15:30:00Z").unwrap();
        assert_eq!(state(), PinsState::Unusable(PinsFault::Empty));
        std::fs::write(&path, "").unwrap();
        assert!(matches!(state(), PinsState::Unusable(PinsFault::Unreadable(_))));
        std::fs::write(&path, vec![b' '; Pins::MAX_BYTES + 1]).unwrap();
        assert!(matches!(state(), PinsState::Unusable(PinsFault::Unreadable(why)) if why.contains("larger")));
        std::fs::write(&path, pins(now).render()).unwrap();
        assert!(matches!(state(), PinsState::Usable(found) if found.releases.len() == 1));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(state(), PinsState::Unusable(PinsFault::Unreadable(_))));
    }

    #[test]
    fn pins_grow_old_while_nobody_touches_them() {
        let written = Timestamp::from_millis(1_000_000_000);
        let found = FoundPins::Read(Arc::new(pins(written)));
        let behind = |age: Duration| found.state(Timestamp::from_millis(written.as_millis() + age.as_millis() as u64));
        assert!(matches!(behind(Pins::MAX_AGE), PinsState::Usable(_)));
        let old = Pins::MAX_AGE + Duration::from_secs(3600);
        assert_eq!(behind(old), PinsState::Unusable(PinsFault::Old(old)));
        assert_eq!(behind(old).fault().unwrap().to_string(), "it was written 25 h ago");
        assert_eq!(found.state(Timestamp::from_millis(0)), PinsState::Unusable(PinsFault::Ahead));
    }
}
