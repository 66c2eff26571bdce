//! The outputs, held against what is remembered: whatever differs is written, whoever changed it.

use super::run::Run;
use super::start::{ADOPTED_FACT, COMPLETED_FACT, REGISTRY_FACT, SOURCE_FACT, UNSET_FACT};
use crate::switch::conditions::ConditionType;
use crate::switch::documents::{DeckhouseRegistry, MastersMap, RegistryState, ServerMode};
use crate::switch::observed::{Output, Seen};
use crate::switch::outputs::{masters, names, services};
use crate::switch::record::{InputSource, Record};
use crate::switch::settings::Target;
use crate::switch::write::{Content, Write};
use crate::values::Role;

impl Run<'_> {
    /// All writes but that of `registry-state`, the record first: outputs are written by whoever holds the newest record. That of
    /// the masters comes before that of the nodes: the word that bare Unmanaged is settled ends before nodes get something else.
    pub(super) fn writes(&mut self) -> Vec<Write> {
        let mut outputs: Vec<Write> = self.of_masters().into_iter().collect();
        if !self.record.adopted {
            outputs.extend(self.of_authority());
            outputs.extend(self.of_users());
            outputs.extend(self.of_servers());
            outputs.extend(self.of_nodes_and_deckhouse());
            outputs.extend(self.of_services());
        }
        let found = &self.look.record;
        let changed = found.value() != Some(&self.record);
        let mut writes = Vec::new();
        if let Some(base) = found.base()
            && (changed || !outputs.is_empty())
        {
            writes.push(Write { base: base.to_owned(), what: Content::Record(Box::new(self.record.clone())) });
        }
        if self.look.word.is_some() {
            writes.push(Write { base: String::new(), what: Content::ForgetWord });
        }
        writes.extend(outputs);
        writes
    }

    /// Registry-state, where it says something else.
    pub(super) fn state(
        &self,
        target_mode: Target,
        conditions: Vec<crate::switch::conditions::Condition>,
    ) -> Option<Write> {
        let record = &self.record;
        let mut facts = vec![
            (SOURCE_FACT.to_owned(), record.source.map_or("none", InputSource::as_str).to_owned()),
            ("attempt".to_owned(), record.attempt.to_string()),
            ("generation".to_owned(), record.generation.to_string()),
            ("servers".to_owned(), servers_in_words(record)),
        ];
        let seen = self.look.inputs.manual_version.as_deref().unwrap_or(names::NO_CONFIG);
        facts.push((names::CONFIG_FACT.to_owned(), seen.to_owned()));
        if let Some(upstream) = record.target.upstream() {
            facts.push((REGISTRY_FACT.to_owned(), upstream.images_repo.clone()));
        }
        if let Some(upstream) = record.completed.upstream() {
            facts.push((COMPLETED_FACT.to_owned(), upstream.images_repo.clone()));
        }
        if record.adopted {
            facts.push((ADOPTED_FACT.to_owned(), "yes".to_owned()));
        }
        if record.unset_seen {
            facts.push((UNSET_FACT.to_owned(), "yes".to_owned()));
        }
        let state = RegistryState { mode: record.completed.target(), target_mode, facts, conditions };
        write_if(&self.look.outputs.state, state, Content::State)
    }

    fn of_masters(&self) -> Option<Write> {
        let found = &self.look.outputs.masters;
        let mut backends = masters::endpoints(&self.master_addresses());
        if backends.is_empty() {
            // node-proxy keeps what it has.
            backends = found.value()?.backends.clone();
        }
        write_if(found, MastersMap { backends, settled: self.settled_version() }, Content::Masters)
    }

    /// Only a cluster whose nodes trust no authority yet gets one.
    fn of_authority(&self) -> Option<Write> {
        let needed = self.is_prepared() && self.record.ca.is_none();
        let missing = matches!(self.look.outputs.pki, Seen::Known(false)) && self.look.outputs.ca.is_absent();
        (needed && missing).then(|| Write { base: String::new(), what: Content::NewAuthority })
    }

    /// A managed mode is switched to, and the cluster allows it: nothing is made before.
    fn is_prepared(&self) -> bool {
        self.prepares && self.record.target.is_managed() && self.record.under_way
    }

    fn of_users(&mut self) -> Vec<Write> {
        let plane = &self.record.plane;
        let served = plane.in_force != ServerMode::Unmanaged || plane.coming.is_some();
        if !served && !self.is_prepared() && self.record.ro.is_none() {
            return Vec::new();
        }
        let mut writes = Vec::new();
        for role in Role::ALL {
            let Some(found) = self.look.outputs.users.get(&role) else { continue };
            let Some(base) = found.base() else { continue };
            let given = self.record.ro.clone().filter(|_| role == Role::Ro);
            let what = match (found.value(), given) {
                (Some(user), Some(given)) if user.password != given || user.name != role.as_str() => {
                    Content::RestoreUser { role, password: given }
                }
                (Some(user), _) if user.name != role.as_str() || !user.hash_fits => {
                    Content::RestoreUser { role, password: user.password.clone() }
                }
                (Some(_), _) => continue,
                (None, Some(given)) => Content::RestoreUser { role, password: given },
                (None, None) => Content::NewUser(role),
            };
            if matches!(what, Content::RestoreUser { .. }) {
                self.repaired("registry-user");
            }
            writes.push(Write { base: base.to_owned(), what });
        }
        writes
    }

    fn of_servers(&mut self) -> Option<Write> {
        if self.record.generation == 0 {
            return None;
        }
        let found = &self.look.outputs.mode_file;
        if found.value().is_some_and(|found| found.hash == self.mode_file_hash()) {
            return None;
        }
        let unchanged = self.look.record.value().is_some_and(|before| before.plane == self.record.plane);
        // A file older than the record is one that a run before this one did not come to.
        let older = found.value().is_some_and(|found| found.file.generation < self.record.generation);
        if unchanged && !older {
            self.repaired("d8-registry-mode");
        }
        found.base().map(|base| Write { base: base.to_owned(), what: Content::ModeFile(self.mode_file()) })
    }

    fn of_nodes_and_deckhouse(&mut self) -> Vec<Write> {
        let mut writes = Vec::new();
        if let Some(config) = self.bashible() {
            let found = &self.look.outputs.bashible;
            let write = write_if(found, config, Content::Bashible);
            let before = self.look.record.value().is_some_and(|before| before.nodes == self.record.nodes);
            let edited = found.value().is_none_or(|config| config.version != config.hash());
            if write.is_some() && before && edited {
                self.repaired("registry-bashible-config");
            }
            writes.extend(write);
        }
        let params = self.record.deckhouse_registry.clone();
        let registry = params.and_then(|params| DeckhouseRegistry::of(&params, self.in_cluster().as_ref()));
        let found = &self.look.outputs.deckhouse_registry;
        if let Some(registry) = registry.filter(|known| found.value() != Some(known) && known.problems().is_empty()) {
            if found.is_absent() {
                let message =
                    "Secret deckhouse-registry is not there; Deckhouse makes it, the controller only changes it";
                self.say(true, "OutputMissing", message.to_owned());
                return writes;
            }
            let write = write_if(found, registry, Content::DeckhouseRegistry);
            let shown = self.look.outputs.state.value().map(|state| &state.conditions);
            let was_met = shown
                .into_iter()
                .flatten()
                .any(|condition| condition.kind == ConditionType::DeckhouseRegistrySwitchReady && condition.status);
            let before = self.look.record.value().map(|before| &before.deckhouse_registry);
            if write.is_some() && was_met && before == Some(&self.record.deckhouse_registry) {
                self.repaired("deckhouse-registry");
            }
            writes.extend(write);
        }
        writes
    }

    /// What the chart has made is pointed to the servers or to nobody; nothing is made here.
    fn of_services(&mut self) -> Vec<Write> {
        let plane = &self.record.plane;
        let serve = plane.in_force != ServerMode::Unmanaged || plane.coming.is_some();
        let takes_pushes = plane.in_force == ServerMode::Local
            || plane.coming.as_ref().is_some_and(|coming| coming.mode == ServerMode::Local);
        let mut writes = Vec::new();
        if self.look.outputs.service.is_absent() {
            if serve {
                let message = "Service registry is not there; the chart makes it, the controller only changes it";
                self.say(true, "OutputMissing", message.to_owned());
            }
        } else {
            let selector = if serve { services::servers() } else { services::nobody() };
            writes.extend(write_if(&self.look.outputs.service, selector, Content::Service));
        }
        if !self.look.outputs.push_ingress.is_absent() {
            writes.extend(write_if(&self.look.outputs.push_ingress, takes_pushes, Content::PushIngress));
        }
        writes
    }

    fn repaired(&mut self, name: &'static str) {
        self.figures.repaired.push(name);
        self.say(true, "OutputRepaired", format!("{name} was changed or deleted by somebody else and is put back"));
    }
}

/// A write of what is wanted, if something else was found and it could be read.
fn write_if<T: PartialEq>(found: &Output<T>, wanted: T, content: impl FnOnce(T) -> Content) -> Option<Write> {
    if found.value() == Some(&wanted) {
        return None;
    }
    found.base().map(|base| Write { base: base.to_owned(), what: content(wanted) })
}

fn servers_in_words(record: &Record) -> String {
    let plane = &record.plane;
    let mut words = format!("{} in force", plane.in_force.target());
    if let Some(coming) = &plane.coming {
        words.push_str(&format!(", {} {}", coming.mode.target(), coming.phase.as_str()));
    }
    for previous in &plane.previous {
        words.push_str(&format!(", {} before", previous.target()));
    }
    words
}
