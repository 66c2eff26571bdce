//! What an administrator says to the controller: an annotation, which the controller takes away once it has heard it.
//!
//! # Decisions
//! - It stands on Secret `d8-registry-switch`, which every controller has and which is ours. `registry-state` has the label
//!   `heritage: deckhouse`, so that Deckhouse's policy lets no administrator annotate it; the Secret with our settings is not
//!   there while ModuleConfig counts.

use std::collections::BTreeMap;

use crate::switch::observed::Word;
use crate::switch::record::InputSource;

/// The annotation.
pub const WORD_ANNOTATION: &str = "d8-registry/word";

const FINISH: &str = "finish-accept-missing";
const MANUAL: &str = "source-manual";
const MODULE_CONFIG: &str = "source-moduleconfig";

impl Word {
    /// The annotation's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FinishAcceptMissing => FINISH,
            Self::Source(InputSource::Manual) => MANUAL,
            Self::Source(InputSource::ModuleConfig) => MODULE_CONFIG,
        }
    }

    /// What the annotations say; `None` for nothing, and for what is no word.
    #[must_use]
    pub fn of(annotations: &BTreeMap<String, String>) -> Option<Self> {
        match annotations.get(WORD_ANNOTATION)?.as_str() {
            FINISH => Some(Self::FinishAcceptMissing),
            MANUAL => Some(Self::Source(InputSource::Manual)),
            MODULE_CONFIG => Some(Self::Source(InputSource::ModuleConfig)),
            _ => None,
        }
    }
}
