//! The list of conditions while it is made: what was shown before stays until a step is evaluated anew.

use crate::clock::Timestamp;
use crate::switch::conditions::{Condition, ConditionType};

/// The reason of a condition that is not met yet.
pub(super) const PROCESSING: &str = "Processing";
/// The reason of one that a person has to see to.
pub(super) const ERROR: &str = "Error";

/// Conditions in the order of their last evaluation.
#[derive(Debug)]
pub(super) struct Shown {
    list: Vec<Condition>,
    now: Timestamp,
    generation: i64,
}

impl Shown {
    /// What was shown before, at a new look.
    pub(super) fn new(before: &[Condition], now: Timestamp) -> Self {
        // Whole seconds, as they are written: a time that changes by being written would be written again and again.
        let now = Timestamp::from_millis(now.as_secs().saturating_mul(1000));
        Self { list: before.to_vec(), now, generation: 0 }
    }

    /// The generation of the input that conditions are evaluated for from now on.
    pub(super) const fn observed(&mut self, generation: i64) {
        self.generation = generation;
    }

    /// Nothing that was evaluated of another target counts; what is said of the input does.
    pub(super) fn clear(&mut self) {
        self.list.retain(|known| matches!(known.kind, ConditionType::InputSource | ConditionType::SettingsValid));
    }

    /// Sets a condition and moves it to the end. The time of its last transition moves with its status alone.
    pub(super) fn set(&mut self, kind: ConditionType, status: bool, reason: &str, message: impl Into<String>) {
        let before = self.list.iter().position(|known| known.kind == kind).map(|place| self.list.remove(place));
        let last_transition = match before {
            Some(before) if before.status == status => before.last_transition,
            Some(_) | None => self.now,
        };
        let (reason, message) = (reason.to_owned(), message.into());
        self.list.push(Condition {
            kind,
            status,
            reason,
            message,
            last_transition,
            observed_generation: self.generation,
        });
    }

    /// Satisfied: nothing more is said.
    pub(super) fn met(&mut self, kind: ConditionType) {
        self.set(kind, true, "", "");
    }

    /// Not satisfied yet.
    pub(super) fn unmet(&mut self, kind: ConditionType, message: impl Into<String>) {
        self.set(kind, false, PROCESSING, message);
    }

    /// Takes a condition away that does not apply.
    pub(super) fn remove(&mut self, kind: ConditionType) {
        self.list.retain(|known| known.kind != kind);
    }

    /// What is shown of a kind.
    pub(super) fn find(&self, kind: ConditionType) -> Option<&Condition> {
        self.list.iter().find(|known| known.kind == kind)
    }

    /// Moves what is shown of a kind to the end, as it is.
    pub(super) fn keep(&mut self, kind: ConditionType) {
        if let Some(place) = self.list.iter().position(|known| known.kind == kind) {
            let kept = self.list.remove(place);
            self.list.push(kept);
        }
    }

    /// The list.
    pub(super) fn into_list(self) -> Vec<Condition> {
        self.list
    }
}
