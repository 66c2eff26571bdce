//! Reads YAML of Secrets. No sentence shows a line of it: it holds passwords.

use serde::de::DeserializeOwned;
use serde_saphyr::Options;

use crate::switch::settings::Target;

/// Limits that no output comes near; they stop alias bombs early.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: 50_000, max_events: 150_000, max_depth: 32, max_documents: 1 },
        with_snippet: false,
    }
}

/// Reads a document.
///
/// # Errors
/// Where it is wrong: a line and column.
pub(super) fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
        let place = error.location();
        // The parser's own sentence may quote a value.
        place.map_or_else(
            || "no YAML of the expected form".to_owned(),
            |place| format!("no YAML of the expected form at line {}, column {}", place.line(), place.column()),
        )
    })
}

/// Reads a mode's word.
pub(super) fn target(word: &str) -> Result<Target, String> {
    Target::ALL.into_iter().find(|target| target.as_str().eq_ignore_ascii_case(word)).ok_or_else(|| {
        let shown: String = word.chars().take(40).collect();
        format!("mode {shown:?} is not known")
    })
}
