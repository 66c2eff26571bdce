//! Which input is in force, and whether what it asks for begins a switch.

use super::plane::{behind, without_coming};
use super::run::Run;
use super::shown::ERROR;
use super::text::list_whole;
use crate::switch::conditions::ConditionType;
use crate::switch::documents::{Mirror, NODE_HOST, Plane, ServerMode};
use crate::switch::observed::{Input, Seen, Word};
use crate::switch::record::{InputSource, NodePlan};
use crate::switch::settings::{Params, Target};

/// What the input in force says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Something, or nothing yet.
    Settings,
    /// It has vanished or can't be read: nothing changes.
    Lost,
}

/// Whether the walk may go to what is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// It may.
    Open,
    /// There is none, to this mode.
    Closed(Target),
}

impl Run<'_> {
    /// Chooses the input and reads it.
    pub(super) fn hear(&mut self) -> Heard {
        self.hear_word();
        self.note_unset();
        let inputs = &self.look.inputs;
        let exists = |input: &Input| matches!(input, Input::Valid { .. } | Input::Invalid { .. });
        if !self.record.source_chosen && self.record.source != Some(InputSource::Manual) && exists(&inputs.manual) {
            self.record.source = Some(InputSource::Manual);
            self.record.passed_over = None;
        }
        // While the first input can't be read, nobody knows whether the second one counts.
        let first_known = !matches!(inputs.manual, Input::Unreadable(_));
        if self.record.source.is_none() && first_known && exists(&inputs.module_config) {
            self.record.source = Some(InputSource::ModuleConfig);
            if let Input::Valid { settings, .. } = &inputs.module_config
                && self.record.adopted
                && !self.record.unset_seen
            {
                // A first start begins no switch by itself.
                self.record.passed_over = Some(settings.clone());
            }
        }
        let (name, input) = match self.record.source {
            None => {
                let what = self.nothing_said();
                self.shown.set(ConditionType::InputSource, true, "None", what);
                return Heard::Settings;
            }
            Some(InputSource::Manual) => ("Secret d8-registry-settings", &inputs.manual),
            Some(InputSource::ModuleConfig) => ("ModuleConfig deckhouse", &inputs.module_config),
        };
        self.read(name, input)
    }

    /// ModuleConfig without settings of the registry: what it says next was said after this look. While the cluster is
    /// bootstrapped that shows nothing, objects come in any order.
    fn note_unset(&mut self) {
        let is_unset = self.look.inputs.module_config == Input::Unset;
        if is_unset && self.look.bootstrapped == Seen::Known(true) {
            self.record.unset_seen |= self.record.adopted;
            if self.record.source == Some(InputSource::ModuleConfig) {
                self.record.passed_over = None;
            }
        }
    }

    /// What is said while there was no input.
    fn nothing_said(&self) -> String {
        let taken_over = "There is no input yet; what the servers run was taken over";
        match &self.look.inputs.module_config {
            Input::Unreadable(why) => format!("{taken_over}. ModuleConfig deckhouse can't be read: {why}"),
            _ if self.record.unset_seen => {
                format!(
                    "{taken_over}. ModuleConfig deckhouse has no settings of the registry: those that it is given are followed"
                )
            }
            _ => taken_over.to_owned(),
        }
    }

    fn hear_word(&mut self) {
        match self.look.word {
            Some(Word::FinishAcceptMissing) => self.record.accept_missing = self.record.under_way,
            Some(Word::Source(source)) => {
                self.record.source = Some(source);
                self.record.source_chosen = true;
                self.record.passed_over = None;
            }
            None => {}
        }
    }

    fn read(&mut self, name: &str, input: &Input) -> Heard {
        let lost = match input {
            Input::Absent => Some(format!("{name} has vanished")),
            Input::Unset => Some(format!("section registry of {name} has vanished")),
            Input::Unreadable(why) => Some(format!("{name} can't be read: {why}")),
            Input::Invalid { problems, generation } => {
                self.shown.observed(*generation);
                let message = list_whole("The settings are not valid, the last valid ones stay in force:", problems);
                self.say(true, "SettingsInvalid", message.clone());
                self.shown.set(ConditionType::SettingsValid, false, ERROR, message);
                None
            }
            Input::Valid { settings, generation } => {
                self.shown.observed(*generation);
                self.shown.met(ConditionType::SettingsValid);
                if self.record.passed_over.as_ref() != Some(settings) {
                    self.record.passed_over = None;
                    self.record.settings = Some(settings.clone());
                }
                None
            }
        };
        let word = self.record.source.map_or("", InputSource::as_str);
        let what = if self.record.passed_over.is_some() {
            format!(
                "{name} is the input; what it says at the first start begins no switch. Change it, or say: d8-registry switch \
                 source {word}"
            )
        } else {
            format!("{name} is the input")
        };
        let reason = match self.record.source {
            Some(InputSource::Manual) => "Manual",
            Some(InputSource::ModuleConfig) => "ModuleConfig",
            None => "None",
        };
        self.shown.set(ConditionType::InputSource, lost.is_none(), reason, what);
        let Some(lost) = lost else {
            self.shown.remove(ConditionType::InputLost);
            return Heard::Settings;
        };
        let message =
            format!("{lost}; nothing changes until it is back, or another is chosen by d8-registry switch source");
        self.say(true, "InputLost", message.clone());
        self.shown.set(ConditionType::InputLost, true, ERROR, message);
        self.hold("input");
        Heard::Lost
    }

    /// Takes up a new target, if the input asks for one and there is a way.
    pub(super) fn follow(&mut self) -> Way {
        self.shown.remove(ConditionType::ErrTransitionNotSupported);
        let wanted = match &self.record.settings {
            Some(settings) if settings.params != self.record.target || self.record.adopted => settings.params.clone(),
            Some(_) | None => {
                self.shown.remove(ConditionType::ParametersFrozen);
                return Way::Open;
            }
        };
        match &self.look.bootstrapped {
            Seen::Known(true) => self.shown.remove(ConditionType::ParametersFrozen),
            Seen::Known(false) | Seen::Unreadable(_) => {
                let message = "Parameters are frozen until the cluster is bootstrapped";
                self.shown.set(ConditionType::ParametersFrozen, true, "NotBootstrapped", message);
                return Way::Open;
            }
        }
        if let Some(why) = self.no_way_to(&wanted) {
            self.say(true, "TransitionNotSupported", why.clone());
            self.shown.set(ConditionType::ErrTransitionNotSupported, true, ERROR, why);
            self.hold("transition");
            return Way::Closed(wanted.target());
        }
        self.begin(wanted);
        Way::Open
    }

    /// Why there is no way to a target.
    fn no_way_to(&self, wanted: &Params) -> Option<String> {
        // Until Deckhouse is pointed to Local its own registry is the way back, and nothing was saved yet.
        let pointed = self.record.deckhouse_registry == Some(Params::Local);
        let from_local = self.record.completed == Params::Local || (pointed && self.record.fallback.is_none());
        if *wanted == Params::BARE && from_local {
            return Some(format!("mode transition from {} to {} not supported", Target::Local, wanted.target()));
        }
        let plane = &self.record.plane;
        let coming = plane.coming.as_ref().map(|coming| coming.mode.clone());
        let all = std::iter::once(plane.in_force.clone()).chain(coming).chain(plane.previous.iter().cloned());
        let behind = behind(&ServerMode::of(wanted), all).len();
        (behind > Plane::MAX_PREVIOUS).then(|| {
            format!(
                "the target was changed {behind} times without a switch that ended; let one end, or go back to one of those \
                 targets"
            )
        })
    }

    /// Begins the switch to a target: what was shown of another does not count.
    fn begin(&mut self, wanted: Params) {
        self.shown.clear();
        let plane = &self.record.plane;
        let mode = ServerMode::of(&wanted);
        let NodePlan { kept, with } = &self.record.nodes;
        // Mirrors that were found when the record was lost are kept ones, whosever they are.
        let handed_out = |coming: &ServerMode| {
            let login = coming.upstream().and_then(|upstream| upstream.login.as_ref());
            let is_its = |mirror: &Mirror| mirror.host == NODE_HOST && mirror.login.as_ref() == login;
            with.as_ref().map(ServerMode::of).as_ref() == Some(coming) || kept.values().flatten().any(is_its)
        };
        if let Some(coming) = plane.coming.as_ref().filter(|coming| !wanted.is_managed() || coming.mode != mode) {
            let plane = without_coming(plane, handed_out(&coming.mode));
            self.set_plane(plane);
        }
        let record = &mut self.record;
        record.attempt = record.attempt.saturating_add(1);
        record.target = wanted;
        record.under_way = true;
        record.adopted = false;
        record.unset_seen = false;
        record.accept_missing = false;
        record.settle = None;
        let message = format!("the switch from {} to {} begins", record.completed.target(), record.target.target());
        self.say(false, "SwitchBegins", message);
    }
}
