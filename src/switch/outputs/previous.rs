//! Secret `registry-previous`: what `d8-registry-settings` is to say again where a change of the upstream is undone. It has the form
//! of that Secret, and when it was kept.
//!
//! # Decisions
//! - It goes by `switch upstream --commit`, by an undo that came to its end, or when it is [`KEPT`] old: the controller looks once an
//!   hour, and a later call of the command takes an older one for none. One whose age can't be told is nobody's to remove but an
//!   administrator's.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use super::manifest::SecretManifest;
use super::names;
use crate::clock::Timestamp;
use crate::switch::inputs;
use crate::switch::record::{InputSource, Record};
use crate::switch::settings::{CheckMode, Settings};
use crate::values::Secret;

/// How long it is kept.
pub const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// When it was written, as RFC 3339 has it.
const SAVED_AT: &str = "d8-registry/saved-at";
/// Which input was in force then.
const INPUT: &str = "d8-registry/input";

/// The Secret for what is in force: the target whose switch ended last. One of another mode, or without a registry, is on its way
/// out, and what is wanted now counts. `options` are keys of `d8-registry-settings` that are no settings.
#[must_use]
pub fn to_secret(record: &Record, options: &BTreeMap<String, Secret>, now: Timestamp) -> SecretManifest {
    let is_of_mode = record.completed.target() == record.target.target() && record.completed.upstream().is_some();
    let params = if is_of_mode { &record.completed } else { &record.target };
    let check_mode = record.settings.as_ref().map_or(CheckMode::Default, |settings| settings.check_mode);
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(now.as_secs())).unwrap_or(UNIX_EPOCH);
    let mut manifest = SecretManifest::ours(names::PREVIOUS, "registry/config")
        .label("app", "d8-registry")
        .annotation(SAVED_AT, humantime::format_rfc3339_seconds(time).to_string())
        .annotation(INPUT, record.source.map_or("none", InputSource::as_str));
    manifest.data.clone_from(options);
    let settings = inputs::to_secret(&Settings { params: params.clone(), check_mode });
    manifest.data.extend(settings.into_iter().map(|(key, value)| (key.to_owned(), value)));
    manifest
}

/// Whether it is older than [`KEPT`]. One that does not say when it was written, or says a time to come, is not.
#[must_use]
pub fn has_expired(annotations: &BTreeMap<String, String>, now: Timestamp) -> bool {
    let saved = annotations.get(SAVED_AT).and_then(|time| humantime::parse_rfc3339(time).ok());
    saved.and_then(|saved| now.since(Timestamp::from(saved))).is_some_and(|age| age >= KEPT)
}

/// Whether ModuleConfig `deckhouse` was the input when it was written.
#[must_use]
pub fn was_of_module_config(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(INPUT).is_some_and(|input| input == InputSource::ModuleConfig.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_after_seven_days_and_not_before_and_not_where_its_age_is_unknown() {
        let now = Timestamp::from_millis(1_795_966_200_000);
        let saved = |ago: u64| {
            let time = UNIX_EPOCH + Duration::from_secs(now.as_secs() - ago);
            BTreeMap::from([(SAVED_AT.to_owned(), humantime::format_rfc3339_seconds(time).to_string())])
        };
        assert!(!has_expired(&saved(0), now));
        assert!(!has_expired(&saved(KEPT.as_secs() - 1), now));
        assert!(has_expired(&saved(KEPT.as_secs()), now));
        assert!(!has_expired(&BTreeMap::new(), now));
        assert!(!has_expired(&BTreeMap::from([(SAVED_AT.to_owned(), "yesterday".to_owned())]), now));
        // Written by a clock that was ahead.
        assert!(!has_expired(&saved(0), Timestamp::from_millis(1_000)));
    }
}
