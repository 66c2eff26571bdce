//! What servers hold: from a coming mode to the one in force, and the end of those before it.
//!
//! Servers change at different times, so every step begins when all of them have reported the one before. Only [`take_into_force`]
//! changes the mode in force, and only from [`Phase::Ready`]: then a server with the old file answers from the coming mode, and
//! one with the new file from the previous one, whatever a client asks them in turn.

use super::run::Run;
use super::text::short;
use crate::switch::documents::{Coming, Phase, Plane, ServerMode};
use crate::switch::observed::{Server, ServerState};
use crate::values::Role;

/// Whether both are the same service: parameters that need no switch between them left out.
pub(super) fn same(one: &ServerMode, other: &ServerMode) -> bool {
    match (one, other) {
        (ServerMode::Proxy { upstream: one, .. }, ServerMode::Proxy { upstream: other, .. }) => one == other,
        (
            ServerMode::Direct(_) | ServerMode::Proxy { .. } | ServerMode::Local | ServerMode::Unmanaged,
            ServerMode::Direct(_) | ServerMode::Proxy { .. } | ServerMode::Local | ServerMode::Unmanaged,
        ) => one == other,
    }
}

/// Modes that stand behind the one in force once `mode` is it: none twice, not `mode` itself, not Unmanaged.
pub(super) fn behind(mode: &ServerMode, candidates: impl IntoIterator<Item = ServerMode>) -> Vec<ServerMode> {
    let mut previous: Vec<ServerMode> = Vec::new();
    for candidate in candidates {
        let known = previous.iter().any(|known| same(known, &candidate));
        if candidate != ServerMode::Unmanaged && !same(&candidate, mode) && !known {
            previous.push(candidate);
        }
    }
    previous
}

/// What servers hold without the coming mode; nodes that were given its credentials keep being answered.
pub(super) fn without_coming(plane: &Plane, handed_out: bool) -> Plane {
    let coming = plane.coming.as_ref().filter(|_| handed_out).map(|coming| coming.mode.clone());
    let previous = behind(&plane.in_force, coming.into_iter().chain(plane.previous.iter().cloned()));
    // Behind Unmanaged stands nothing: it has answered nobody, so nobody was given anything by it.
    let previous = if plane.in_force == ServerMode::Unmanaged { Vec::new() } else { previous };
    Plane { in_force: plane.in_force.clone(), coming: None, previous }
}

impl Run<'_> {
    /// Servers that have not reported the file in force, each with the documented reason; `Err` too while there is none at
    /// all.
    pub(super) fn reported(&self) -> Result<(), Vec<String>> {
        let hash = self.mode_file_hash();
        let mismatch = |reason: &str| {
            format!("services pod(s) is not Ready or config version mismatch (!= \"{}\"){reason}", short(hash))
        };
        let mut masters = 0_usize;
        let waiting: Vec<String> = self
            .masters()
            .filter_map(|node| {
                masters += 1;
                let why = match self.look.servers.get(&node.name) {
                    _ if !node.ready => Some("node is not Ready".to_owned()),
                    None => Some(mismatch("")),
                    Some(Server::Silent(why)) => Some(mismatch(&format!(": {why}"))),
                    Some(Server::Answered(state)) => match &state.mode_file {
                        None => Some(mismatch("")),
                        Some(file) => match &file.error {
                            Some(error) => Some(mismatch(&format!(": {error}"))),
                            None if file.hash != hash => Some(mismatch("")),
                            None => self.older_user(state).map(|user| {
                                mismatch(&format!(": the server has an older Secret registry-user-{user}"))
                            }),
                        },
                    },
                };
                why.map(|why| format!("{}: {why}", node.name))
            })
            .collect();
        if masters == 0 {
            return Err(vec!["there is no master".to_owned()]);
        }
        if waiting.is_empty() { Ok(()) } else { Err(waiting) }
    }

    /// A user whose Secret the server has not taken as it stands: nodes and pushes would be refused with what is in it.
    fn older_user(&self, state: &ServerState) -> Option<Role> {
        let held = state.users.as_ref()?;
        let mut found = self.look.outputs.users.iter();
        let older = found.find(|(_, user)| {
            user.value().is_some_and(|user| held.get(&user.name).is_none_or(|held| *held != user.fingerprint))
        });
        older.map(|(role, _)| *role)
    }

    /// Whether all servers have reported the file in force.
    fn all_reported(&self) -> bool {
        self.reported().is_ok()
    }

    /// Servers hold `mode`, at least in `phase`. `false`: not all of them yet.
    pub(super) fn servers_hold(&mut self, mode: &ServerMode, phase: Phase) -> bool {
        let mut plane = self.record.plane.clone();
        if same(&plane.in_force, mode) {
            // A time to live alone needs no phases.
            plane.in_force = mode.clone();
            let unchanged = plane == self.record.plane;
            self.set_plane(plane);
            return unchanged && self.all_reported();
        }
        match plane.coming.clone() {
            Some(coming) if coming.mode == *mode => {
                if !self.all_reported() {
                    return false;
                }
                if coming.phase < phase {
                    plane.coming = Some(Coming { mode: mode.clone(), phase: Phase::Ready });
                    self.set_plane(plane);
                    return false;
                }
                true
            }
            Some(_) | None => {
                plane.coming = Some(Coming { mode: mode.clone(), phase: Phase::Filling });
                self.set_plane(plane);
                false
            }
        }
    }

    /// Servers have `mode` in force. `false`: not all of them yet.
    pub(super) fn take_into_force(&mut self, mode: &ServerMode) -> bool {
        if !self.servers_hold(mode, Phase::Ready) {
            return false;
        }
        let plane = &self.record.plane;
        if same(&plane.in_force, mode) {
            return true;
        }
        let old = std::iter::once(plane.in_force.clone()).chain(plane.previous.iter().cloned());
        let previous = behind(mode, old);
        self.set_plane(Plane { in_force: mode.clone(), coming: None, previous });
        self.record.settle = None;
        false
    }

    /// Masters whose server does not take requests, each with its reasons.
    pub(super) fn not_serving(&self) -> Vec<String> {
        self.masters()
            .filter_map(|node| match self.look.servers.get(&node.name) {
                Some(Server::Answered(state)) if state.ready => None,
                Some(Server::Answered(state)) => Some(format!("{}: {}", node.name, state.not_ready.join(", "))),
                Some(Server::Silent(why)) => Some(format!("{}: {why}", node.name)),
                None => Some(format!("{}: it said nothing", node.name)),
            })
            .collect()
    }

    /// The file that is written has a generation that every server takes: one above whatever was found instead of it.
    pub(super) fn mend_generation(&mut self) {
        if self.record.generation == 0 || self.record.adopted {
            return;
        }
        let hash = self.mode_file_hash();
        let ours = self.record.generation;
        let in_secret = self.look.outputs.mode_file.value();
        let found = in_secret.filter(|found| found.hash != hash).map(|found| found.file.generation);
        let held = self.look.servers.values().filter_map(|server| match server {
            Server::Answered(state) => state.mode_file.as_ref().filter(|file| file.hash != hash),
            Server::Silent(_) => None,
        });
        let newest = held.map(|file| file.generation).chain(found).max().filter(|newest| *newest >= ours);
        if let Some(newest) = newest {
            self.set_generation(newest.saturating_add(1));
        }
    }
}
