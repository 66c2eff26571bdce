//! Laws of every write: what the input in force asks for, and that nothing secret is shown.

use super::world::{UPSTREAMS, World, upstream};
use crate::switch::documents::RegistryState;
use crate::switch::observed::{Input, Observed, Word};
use crate::switch::record::InputSource;
use crate::switch::settings::Params;

/// What the input in force asks for, by the words of `docs/SWITCHING.md`: the one that is remembered counts, another one only by
/// an administrator's word; at first the Secret, then ModuleConfig.
pub(super) fn asked(look: &Observed) -> Option<Params> {
    let exists = |input: &Input| matches!(input, Input::Valid { .. } | Input::Invalid { .. });
    let remembered = match look.record.value() {
        Some(record) => record.source.map(|source| (source, record.source_chosen)),
        // What is left of a lost record.
        None => look.outputs.state.value().and_then(|state| {
            let word = state.facts.iter().find(|(name, _)| name == "source").map(|(_, word)| word.as_str());
            let known = [InputSource::Manual, InputSource::ModuleConfig];
            known.into_iter().find(|source| Some(source.as_str()) == word).map(|source| (source, true))
        }),
    };
    let source = match (look.word, remembered) {
        (Some(Word::Source(source)), _) | (_, Some((source, true))) => source,
        _ if exists(&look.inputs.manual) => InputSource::Manual,
        (_, Some((source, false))) => source,
        (_, None) => InputSource::ModuleConfig,
    };
    let input = match source {
        InputSource::Manual => &look.inputs.manual,
        InputSource::ModuleConfig => &look.inputs.module_config,
    };
    match input {
        Input::Valid { settings, .. } => Some(settings.params.clone()),
        Input::Absent | Input::Unset | Input::Unreadable(_) | Input::Invalid { .. } => None,
    }
}

impl World {
    /// Law: people and programs without a right to passwords read `registry-state`, so its bytes hold none. The error is a
    /// sentence.
    pub(super) fn shows_no_secret(&self, state: &RegistryState) -> Result<(), String> {
        let shown = state.to_secret();
        let users = self.users.values().filter_map(|user| user.value.as_ref()).map(|user| user.password.clone());
        let given = self.record.value.iter().filter_map(|record| record.ro.clone());
        let licences = (0..UPSTREAMS).filter_map(|number| upstream(number).login).map(|login| login.password);
        for secret in users.chain(given).chain(licences) {
            let secret = secret.expose();
            if let Some((key, _)) = shown.data.iter().find(|(_, text)| text.expose().contains(secret)) {
                return Err(format!("{secret} is in key {key} of registry-state: {state:?}"));
            }
        }
        Ok(())
    }
}
