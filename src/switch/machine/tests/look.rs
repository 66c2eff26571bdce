//! A look at the played cluster, and what the controller finds out beside the loop.

use std::collections::BTreeMap;

use super::world::{Object, RELEASE, SimServer, World, outside, time};
use crate::switch::observed::{
    Checked, DeckhousePod, ImagesAnswer, Inputs, Node, Observed, Output, Outputs, ReferencesAnswer, Seen, Server,
    ServerModeFile, ServerState,
};
use crate::switch::settings::Target;
use crate::switch::write::{Decision, ImagesAt, Question};

fn output<T: Clone>(object: &Object<T>) -> Output<T> {
    match &object.value {
        Some(value) => Output::Present { version: object.version.to_string(), value: value.clone() },
        None if object.garbled => {
            Output::Garbled { version: object.version.to_string(), why: "it is nonsense".to_owned() }
        }
        None => Output::Absent,
    }
}

fn state(server: &SimServer) -> Server {
    if !server.up {
        return Server::Silent("connection refused".to_owned());
    }
    let file = server.file.as_ref();
    let in_force = file.map_or(Target::Unmanaged, |file| file.file.plane.in_force.target());
    Server::Answered(ServerState {
        started: server.started,
        ready: in_force != Target::Unmanaged && server.not_ready.is_empty(),
        not_ready: server.not_ready.clone(),
        users: Some(server.users.clone()),
        mode_file: server.reported.as_ref().map(|file| ServerModeFile {
            hash: file.hash.clone(),
            generation: file.file.generation,
            error: None,
        }),
        in_force,
        previous_answers: server.previous_answers,
    })
}

impl World {
    /// Of each user that there is.
    pub(super) fn fingerprints(&self) -> BTreeMap<String, String> {
        let users = self.users.values().filter_map(|user| user.taken.as_ref());
        users.map(|user| (user.name.clone(), user.fingerprint.clone())).collect()
    }

    /// A look at this moment.
    pub(super) fn look(&self) -> Observed {
        let nodes = self.nodes.iter().enumerate().map(|(place, (name, node))| Node {
            name: name.clone(),
            master: node.master,
            ready: node.ready,
            unready_since: None,
            schedulable: node.schedulable,
            ours: node.ours,
            address: Some(format!("10.0.0.{place}")),
            version: node.applied.as_ref().map(|config| config.version.clone()),
            containerd_config: Some(node.label.to_owned()),
            runtime: node.runtime.to_owned(),
        });
        let pod = DeckhousePod {
            name: "deckhouse-0".to_owned(),
            leader: true,
            ready: self.deckhouse_ready,
            registry_version: Some(self.deckhouse.hash()),
        };
        Observed {
            now: time(self.now),
            options: self.options,
            inputs: Inputs {
                manual: self.manual.clone(),
                manual_version: None,
                module_config: self.module_config.clone(),
                chart: Output::Absent,
            },
            deckhouse_module: Seen::Known(self.module_on),
            bootstrapped: Seen::Known(self.bootstrapped),
            record: output(&self.record),
            nodes: Seen::Known(nodes.collect()),
            servers: self.servers.iter().map(|(name, server)| (name.clone(), state(server))).collect(),
            outputs: Outputs {
                state: output(&self.state),
                mode_file: output(&self.mode_file),
                bashible: output(&self.bashible),
                deckhouse_registry: output(&self.registry),
                users: self.users.iter().map(|(role, user)| (*role, output(user))).collect(),
                ca: output(&self.ca),
                pki: Seen::Known(self.pki),
                service: output(&self.service),
                push_ingress: output(&self.ingress),
                masters: output(&self.masters),
            },
            deckhouse: Seen::Known(vec![pod]),
            queue: self.queue,
            images: self.images.clone(),
            probes: self.probes.clone(),
            references: self.references.clone(),
            word: self.word,
        }
    }

    /// The controller takes up the questions of a decision; answers to others are forgotten.
    pub(super) fn ask_all(&mut self, decision: &Decision) {
        let asked: BTreeMap<String, Question> =
            decision.questions.iter().map(|question| (question.key().to_owned(), question.clone())).collect();
        let old = std::mem::replace(&mut self.questions, asked);
        let questions = &self.questions;
        let same = |key: &String| questions.get(key).is_some_and(|question| old.get(key) == Some(question));
        self.images.retain(|key, _| same(key));
        self.probes.retain(|key, _| same(key));
        self.references.retain(|key, _| same(key));
    }

    fn lacking(&self, at: &ImagesAt) -> Vec<u8> {
        RELEASE.into_iter().filter(|digest| !self.is_at(at, *digest)).collect()
    }

    fn is_at(&self, at: &ImagesAt, digest: u8) -> bool {
        match at {
            ImagesAt::Upstream(upstream) => {
                outside(&upstream.images_repo).is_some_and(|(number, _)| self.held[&number].contains(&digest))
            }
            ImagesAt::Masters(masters) => masters.iter().all(|(name, _)| {
                self.servers.get(name).is_some_and(|server| server.up && server.stored.contains(&digest))
            }),
        }
    }

    /// The controller finds out what was asked, as it is at this moment.
    pub(super) fn find_out(&mut self) {
        for (key, question) in self.questions.clone() {
            match question {
                Question::Images { at, .. } => {
                    let lacking = self.lacking(&at);
                    let state = if lacking.is_empty() { Checked::Whole } else { Checked::Lacking };
                    let message = format!("Mode: Default\nregistry: {} of 3 are there\n", 3 - lacking.len());
                    self.images.insert(key, ImagesAnswer { state, message });
                }
                Question::Probe { .. } => {
                    self.probes.insert(key, self.probe.clone());
                }
                Question::References { address, unless_at, .. } => {
                    let named = self.pods.iter().filter(|(base, digest)| {
                        let below =
                            base.strip_prefix(&address).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                        below && !unless_at.as_ref().is_some_and(|at| self.is_at(at, *digest))
                    });
                    let leftovers: Vec<String> = named.map(|(base, digest)| format!("{base}@{digest}")).collect();
                    let now = time(self.now);
                    let before = match self.references.get(&key) {
                        Some(ReferencesAnswer::Scanned { clear_since, .. }) => *clear_since,
                        Some(ReferencesAnswer::Failed(_)) | None => None,
                    };
                    let clear_since = leftovers.is_empty().then(|| before.unwrap_or(now));
                    self.references.insert(key, ReferencesAnswer::Scanned { at: now, leftovers, clear_since });
                }
            }
        }
    }
}
