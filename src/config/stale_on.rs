//! The set of causes for which stored content is served (`proxy.staleOn`).

use std::fmt;

use super::definition::{Leaf, separated};
use crate::values::StaleCause;

/// A set of [`StaleCause`]s.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StaleOn(u8);

impl StaleOn {
    /// Every cause.
    pub const ALL: Self = Self((1 << StaleCause::ALL.len()) - 1);

    /// Whether `cause` is among them.
    #[must_use]
    pub const fn contains(self, cause: StaleCause) -> bool {
        self.0 & (1 << cause as u8) != 0
    }

    /// The causes, in the order in which they are declared.
    pub fn iter(self) -> impl Iterator<Item = StaleCause> {
        StaleCause::ALL.into_iter().filter(move |cause| self.contains(*cause))
    }
}

impl FromIterator<StaleCause> for StaleOn {
    fn from_iter<I: IntoIterator<Item = StaleCause>>(causes: I) -> Self {
        Self(causes.into_iter().fold(0, |set, cause| set | 1 << cause as u8))
    }
}

impl fmt::Debug for StaleOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Leaf for StaleOn {
    type InFile = Vec<StaleCause>;

    fn checked(causes: Vec<StaleCause>) -> Result<Self, String> {
        Ok(causes.into_iter().collect())
    }

    fn shown(&self) -> String {
        separated(&self.iter().collect::<Vec<_>>())
    }
}
