//! The findings, in the words of Deckhouse's checker and as JSON. Pure.

use std::fmt;

use serde::{Serialize, Serializer};

use super::CheckMode;

/// Errors of a registry that the message shows; JSON has all.
const SHOWN: usize = 5;

/// The findings about all registries. `Display` is the message, without a line end behind it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was checked.
    pub mode: CheckMode,
    /// Whether anything was asked yet.
    #[serde(skip)]
    pub has_run: bool,
    /// Sorted by name.
    pub registries: Vec<RegistryReport>,
}

/// The findings about one registry.
#[derive(Clone, Debug, Serialize)]
pub struct RegistryReport {
    /// Its name.
    pub name: String,
    /// How much it has to hold.
    pub items: usize,
    /// How much of that it holds for sure.
    pub processed: usize,
    /// Items that are not there, in the list's order.
    pub errors: Vec<Finding>,
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Who needs it.
    pub source: String,
    /// Where it was looked for.
    pub image: String,
    /// Why it doesn't count as there.
    pub error: String,
}

impl Serialize for CheckMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Report {
    /// Whether every registry holds everything.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.has_run && self.registries.iter().all(|registry| registry.processed == registry.items)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.has_run {
            return f.write_str("Initializing");
        }
        write!(f, "Mode: {}", self.mode.as_str())?;
        let mut before = None;
        for registry in &self.registries {
            // As Deckhouse's checker has it: blocks of errors end with an empty line.
            let gap = if before.is_some_and(RegistryReport::shows_errors) { "\n\n" } else { "\n" };
            write!(f, "{gap}{registry}")?;
            before = Some(registry);
        }
        Ok(())
    }
}

impl RegistryReport {
    const fn shows_errors(&self) -> bool {
        self.processed != self.items && !self.errors.is_empty()
    }
}

impl fmt::Display for RegistryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, items, processed, errors } = self;
        if processed == items {
            return write!(f, "{name}: all {items} items are checked");
        }
        write!(f, "{name}: {processed} of {items} items processed")?;
        if errors.is_empty() {
            return Ok(());
        }
        write!(f, ", {} items with errors:", errors.len())?;
        for Finding { source, image, error } in errors.iter().take(SHOWN) {
            write!(f, "\n- source: {source}\n  image: {image}\n  error: {error}")?;
        }
        if errors.len() > SHOWN { f.write_str("\n\n  ...and more") } else { Ok(()) }
    }
}
