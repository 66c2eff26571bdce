//! What has to be true before a switch begins, and while it is under way: the state of the cluster, an upstream that answers
//! and takes us, and the images of the release.

use super::run::Run;
use super::shown::PROCESSING;
use super::text::{line, list};
use crate::switch::conditions::ConditionType;
use crate::switch::documents::{DeckhouseRegistry, ServerMode};
use crate::switch::observed::{Checked, ProbeAnswer};
use crate::switch::settings::{Params, Upstream};
use crate::switch::write::{ImagesAt, Question};

const IMAGES: ConditionType = ConditionType::RegistryContainsRequiredImages;
const PRECONDITIONS: ConditionType = ConditionType::PreconditionsReady;

/// What Kubernetes says of the one runtime that Deckhouse configures.
const RUNTIME: &str = "containerd://";

impl Run<'_> {
    /// The cluster allows a switch. What is not true any more while one is under way pauses it.
    pub(super) fn preconditions(&mut self, source: &Params) -> Option<()> {
        if !self.record.under_way {
            self.shown.remove(PRECONDITIONS);
            return Some(());
        }
        let mut problems = self.of_nodes();
        // While a switch is under way Deckhouse has work because of it.
        if let Some(tasks) = self.look.queue.filter(|tasks| *tasks > 0 && !self.has_begun(source)) {
            problems.push(format!("Deckhouse's main queue has {tasks} task(s), the switch begins when it is empty"));
        }
        if let Some(upstream) = source.upstream() {
            problems.extend(self.of_upstream(upstream));
        }
        // Later it would be refused when there is no way but back.
        let registry = DeckhouseRegistry::of(source, self.in_cluster().as_ref());
        let refused = registry.map(|registry| registry.problems()).unwrap_or_default();
        problems.extend(refused.into_iter().map(|problem| format!("Deckhouse would refuse its registry: {problem}")));
        let warning = self.restarts_everything(source);
        if let Some(warning) = &warning {
            self.say(true, "ComponentsWillRestart", warning.clone());
        }
        if problems.is_empty() {
            self.shown.met(PRECONDITIONS);
            return Some(());
        }
        self.hold("precondition");
        let heading = if self.has_begun(source) { "The switch is paused:" } else { "The switch waits:" };
        let warning = warning.map(|warning| line(&warning)).unwrap_or_default();
        self.shown.unmet(PRECONDITIONS, format!("{}{warning}", list(heading, &problems)));
        None
    }

    /// Whether anything was written for the target.
    fn has_begun(&self, source: &Params) -> bool {
        let mode = ServerMode::of(source);
        let coming = self.record.plane.coming.as_ref();
        self.record.nodes.with.as_ref() == Some(source) || coming.is_some_and(|coming| coming.mode == mode)
    }

    fn restarts_everything(&self, source: &Params) -> Option<String> {
        let first = source.is_managed() && !self.record.completed.is_managed();
        (first && !self.has_begun(source)).then(|| {
            format!(
                "the switch from Unmanaged to {} changes the address of every image: all components of Deckhouse will restart",
                source.target()
            )
        })
    }

    fn of_nodes(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.masters().next().is_none() {
            problems.push("the cluster has no master".to_owned());
        }
        for node in self.nodes {
            let name = &node.name;
            if node.master && !node.ready {
                problems.push(format!("{name}: node is not Ready"));
            }
            if node.master && !node.schedulable {
                problems.push(format!("{name}: node is SchedulingDisabled"));
            }
            if node.master && node.address.is_none() {
                problems.push(format!("{name}: node has no InternalIP"));
            }
            if !self.may_skip(node) && !node.runtime.starts_with(RUNTIME) {
                problems.push(format!("{name}: container runtime {} is not supported, containerd is", node.runtime));
            }
        }
        problems
    }

    fn of_upstream(&mut self, upstream: &Upstream) -> Option<String> {
        let key = format!("probe/{}", self.record.attempt);
        self.questions.push(Question::Probe { key: key.clone(), upstream: upstream.clone() });
        let repo = &upstream.images_repo;
        match self.look.probes.get(&key) {
            Some(ProbeAnswer::Good) => None,
            None => Some(format!("{repo}: is being asked")),
            Some(ProbeAnswer::Unreachable(why)) => Some(format!("{repo}: is unreachable: {why}")),
            Some(ProbeAnswer::Refused(why)) => Some(format!("{repo}: refuses the credentials: {why}")),
            Some(ProbeAnswer::ImagesNotThere(why)) => Some(format!("{repo}: has no images of Deckhouse: {why}")),
        }
    }

    /// Every required image is there. After a switch the check goes on and is shown, and holds nothing up.
    pub(super) fn images(&mut self, source: &Params) -> Option<()> {
        let at = self.images_at(source)?;
        let key = format!("images/{}/{}", self.record.attempt, self.check_mode().as_str());
        let answer = self.ask_images(key, at);
        let whole = match answer {
            None if !self.record.under_way && self.shown.find(IMAGES).is_some_and(|shown| shown.status) => {
                // A controller that has just started knows nothing to the contrary.
                self.shown.keep(IMAGES);
                true
            }
            None => {
                self.shown.unmet(IMAGES, line("Initializing"));
                false
            }
            Some((state, message)) => {
                let whole = state == Checked::Whole;
                self.shown.set(IMAGES, whole, if whole { "Ready" } else { PROCESSING }, message);
                whole
            }
        };
        (whole || !self.record.under_way).then_some(())
    }

    /// Every image is on every master, checked after everything else was done.
    pub(super) fn images_again(&mut self, source: &Params) -> Result<(), String> {
        let Some(at) = self.images_at(source) else { return Ok(()) };
        let key = format!("images/{}/{}/again", self.record.attempt, self.check_mode().as_str());
        match self.ask_images(key, at) {
            None => Err(line("The images are checked once more")),
            Some((Checked::Whole, _)) => Ok(()),
            Some((Checked::Running | Checked::Lacking, message)) => {
                Err(format!("{}{message}", line("The images are checked once more")))
            }
        }
    }

    fn ask_images(&mut self, key: String, at: ImagesAt) -> Option<(Checked, String)> {
        let answer = self.look.images.get(&key).map(|answer| (answer.state, answer.message.clone()));
        let check_mode = self.check_mode();
        self.questions.push(Question::Images { key, at, check_mode });
        answer
    }
}
