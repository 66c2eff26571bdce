//! The end of a switch: what servers held for the time of the switch ends.

use super::run::Run;
use super::text::{line, list, list_whole};
use crate::switch::conditions::ConditionType;
use crate::switch::documents::{FIXED_HOST, FIXED_PATH, Plane, ServerMode};
use crate::switch::observed::Server;
use crate::switch::record::Settle;
use crate::switch::settings::Params;

/// Steps in which the time without an answer of the old registry is shown and begun anew.
const SETTLE_STEPS: u32 = 60;

impl Run<'_> {
    /// Previous modes have ended: nothing needs them, and nothing has asked them for the time of `switch.settle`.
    pub(super) fn previous_ended(&mut self, source: &Params, kind: ConditionType) -> Option<()> {
        let heading = match kind {
            ConditionType::CleanupInClusterProxy => line("Stopping incluster-proxy..."),
            _ => String::new(),
        };
        if !self.record.under_way && self.record.plane.previous.is_empty() {
            self.shown.met(kind);
            return Some(());
        }
        let mut obstacles = String::new();
        if self.record.plane.previous.is_empty() {
            self.record.settle = None;
            let waiting = self.reported().err().unwrap_or_default();
            if !waiting.is_empty() {
                obstacles.push_str(&list_whole("Waiting for nodes cleanup:", &waiting));
            }
            if !self.record.accept_missing {
                obstacles.push_str(&self.skipped_nodes());
                obstacles.push_str(&self.last_check(source).err().unwrap_or_default());
            }
            if obstacles.is_empty() {
                self.shown.met(kind);
                return Some(());
            }
            self.shown.unmet(kind, format!("{heading}{obstacles}"));
            return None;
        }
        if !self.record.accept_missing {
            obstacles.push_str(&self.skipped_nodes());
            if let Err(message) = self.settled() {
                obstacles.push_str(&message);
            }
            let base = format!("{FIXED_HOST}/{FIXED_PATH}");
            let at = self.images_at(source);
            if let Err(message) = self.named_by_nobody(&base, at) {
                obstacles.push_str(&message);
            }
            if let Err(message) = self.last_check(source) {
                obstacles.push_str(&message);
            }
        }
        if obstacles.is_empty() {
            let in_force = self.record.plane.in_force.clone();
            self.set_plane(Plane { in_force, coming: None, previous: Vec::new() });
            self.record.settle = None;
        }
        let waiting: Vec<String> = self.masters().map(|node| node.name.clone()).collect();
        self.shown.unmet(kind, format!("{heading}{}{obstacles}", list_whole("Waiting for nodes cleanup:", &waiting)));
        None
    }

    /// Local has no upstream behind it any more once its switch has ended, so its images are looked for a last time.
    fn last_check(&mut self, source: &Params) -> Result<(), String> {
        match source {
            Params::Local => self.images_again(source),
            Params::Direct(_) | Params::Proxy { .. } | Params::Unmanaged(_) => Ok(()),
        }
    }

    /// Nodes that may have the old source alone; `""` where there is none. They hold up the end of every switch.
    fn skipped_nodes(&self) -> String {
        if self.record.skipped.is_empty() {
            return String::new();
        }
        let skipped: Vec<String> = self.record.skipped.iter().cloned().collect();
        list(&format!("{} skipped node(s) may still need the old registry:", skipped.len()), &skipped)
    }

    /// Whether no answer has come from a previous mode for long enough.
    fn settled(&mut self) -> Result<(), String> {
        let mut silent = Vec::new();
        let mut counts = std::collections::BTreeMap::new();
        for node in self.masters() {
            match self.look.servers.get(&node.name) {
                Some(Server::Answered(state)) => {
                    counts.insert(node.name.clone(), (state.started, state.previous_answers));
                }
                Some(Server::Silent(_)) | None => silent.push(node.name.clone()),
            }
        }
        let wanted = self.look.options.settle;
        let step = wanted / SETTLE_STEPS;
        let is_fresh = |settle: &Settle| self.ago(settle.since) < step;
        // A master that is asked no more may have answered a last time.
        let since = match &self.record.settle {
            Some(settle) if silent.is_empty() && settle.counts == counts => settle.since,
            // While answers come, the record is not written at every look: the time is begun anew once a step.
            Some(settle) if is_fresh(settle) => self.look.now,
            _ => {
                self.record.settle = Some(Settle { counts, since: self.look.now });
                self.look.now
            }
        };
        let still = self.ago(since);
        if !silent.is_empty() {
            return Err(list_whole("Masters do not say whether they still answer from the old registry:", &silent));
        }
        if still >= wanted {
            return Ok(());
        }
        self.wake_after(wanted.saturating_sub(still));
        // In steps: a condition that changes is a write of registry-state.
        let steps = still.as_millis().checked_div(step.as_millis()).and_then(|steps| u32::try_from(steps).ok());
        let shown = step * steps.unwrap_or(0);
        Err(line(&format!("The old registry has answered nobody for {} s of {} s", shown.as_secs(), wanted.as_secs())))
    }

    /// In Unmanaged: servers answer nobody any more.
    pub(super) fn servers_ended(&mut self) -> Option<()> {
        let kinds = [ConditionType::CleanupNodeServices, ConditionType::CleanupInClusterProxy];
        let ended = Plane { in_force: ServerMode::Unmanaged, coming: None, previous: Vec::new() };
        // After the switch nobody needs servers, so nothing waits for them.
        let asked = self.record.under_way && !self.record.accept_missing;
        let skipped = if asked { self.skipped_nodes() } else { String::new() };
        let waiting = if self.record.plane == ended {
            let nobody = self.record.generation == 0 || !self.record.under_way;
            if nobody { Vec::new() } else { self.reported().err().unwrap_or_default() }
        } else {
            if skipped.is_empty() {
                self.set_plane(ended);
            }
            self.masters().map(|node| node.name.clone()).collect()
        };
        if waiting.is_empty() && skipped.is_empty() {
            kinds.into_iter().for_each(|kind| self.shown.met(kind));
            return Some(());
        }
        let waiting =
            if waiting.is_empty() { String::new() } else { list_whole("Waiting for nodes cleanup:", &waiting) };
        self.shown.unmet(ConditionType::CleanupNodeServices, format!("{waiting}{skipped}"));
        None
    }
}
