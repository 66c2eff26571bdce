//! One round on the node: what is seen, what is done, what there is to say. Asks no API server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::containerd::{self, Age};
use super::decision::{Decision, Seen, Step, decide};
use super::given::{self, Given};
use crate::fs::FsError;
use crate::node_config::{self, Finding, NodeConfig, NodeConfigError, Outcome};
use crate::telemetry::with_causes;

/// The version of a node that has no configuration of ours; Deckhouse's word.
pub(super) const UNKNOWN: &str = "unknown";
/// From one restart of containerd to the next. A change that a restart has not mended is no reason for another at all: its time is
/// ahead of the clock.
const RESTART_PAUSE: Duration = Duration::from_secs(600);
/// Most problems of a kind that are said; the rest are in `node-config --check`.
const MOST: usize = 10;

/// Where files of hosts are, as findings name them.
const REGISTRY_D: &str = "etc/containerd/registry.d";

/// The kinds of what can be wrong, as metrics and Events name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// What is mounted can't be followed.
    Source,
    /// Files in `registry.d` that are in the way, or others that write there.
    Files,
    /// containerd's own configuration works against `registry.d`.
    Containerd,
    /// containerd has not read its configuration since it was changed.
    Restart,
    /// A file can't be read or written.
    Failed,
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [Self::Source, Self::Files, Self::Containerd, Self::Restart, Self::Failed];

    /// Its label in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Files => "files",
            Self::Containerd => "containerd",
            Self::Restart => "restart",
            Self::Failed => "failed",
        }
    }

    /// The reason of its Event.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::Source => "RegistryConfigNotFollowed",
            Self::Files => "RegistryFilesInTheWay",
            Self::Containerd => "ContainerdConfigInTheWay",
            Self::Restart => "ContainerdRestartNeeded",
            Self::Failed => "RegistryConfigFailed",
        }
    }
}

/// Something that is wrong. Names files and keys, and no secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    pub(super) kind: Kind,
    pub(super) text: String,
}

/// What the node says of itself at the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// The annotation; `None`: it stays as it is.
    pub(super) version: Option<String>,
    /// Whether containerd's configuration is as it has to be, the label; `None`: it stays as it is.
    pub(super) usual: Option<bool>,
}

/// What a round came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) answer: Answer,
    pub(super) problems: Vec<Problem>,
    /// What containerd pulls by.
    pub(super) follows: Option<Arc<NodeConfig>>,
    /// Files that were written, removed or kept, a line each.
    pub(super) notes: Vec<String>,
    /// Whether bashible writes this node.
    pub(super) stands_by: bool,
}

impl Said {
    /// Whether the node is to have a configuration of ours, or still has one. A round that failed does not know that it is not.
    pub(super) fn wants_something(&self) -> bool {
        !self.stands_by && self.answer.version.as_deref() != Some(UNKNOWN)
    }
}

/// The places on the node.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// The folder below which the node's files are.
    pub(super) root: PathBuf,
    /// The mounted Secret.
    pub(super) mount: PathBuf,
    /// The folder of the copy.
    pub(super) files: PathBuf,
    /// The node's `/proc`.
    pub(super) proc: PathBuf,
}

/// What rounds are carried out with.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) places: Places,
    /// Whether containerd may be restarted.
    pub(super) may_restart: bool,
    /// The last restart.
    pub(super) restarted: Option<Restarted>,
}

/// A restart of containerd.
#[derive(Clone, Debug)]
pub(super) struct Restarted {
    at: Instant,
    /// The file that it was for, and when that was changed.
    changed: (PathBuf, SystemTime),
}

#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Node(#[from] NodeConfigError),
    #[error("the copy of registry-bashible-config can't be written")]
    Copy(#[from] FsError),
}

impl Local {
    /// One round. `by_bashible`: whether the API server says so. Blocking.
    pub(super) fn round(&mut self, by_bashible: bool) -> Said {
        let mut said = Said::default();
        if let Err(error) = self.carry_out(by_bashible, &mut said) {
            // Nobody knows how far it came.
            said.answer = Answer::default();
            said.problems.push(Problem { kind: Kind::Failed, text: with_causes(&error) });
        }
        said.problems.sort();
        said.problems.dedup();
        said
    }

    fn carry_out(&mut self, by_bashible: bool, said: &mut Said) -> Result<(), RoundError> {
        let Places { root, mount, files, .. } = &self.places;
        let (mounted, kept) = (given::mounted(mount), given::kept(files));
        let holds_files = node_config::holds_files(root)?;
        let Decision { step, problem } = decide(Seen { mounted, kept, holds_files, by_bashible });
        said.problems.extend(problem.map(|text| Problem { kind: Kind::Source, text }));
        match step {
            Step::StandBy => {
                said.stands_by = true;
                return Ok(());
            }
            Step::Follow { given, keep } => self.follow(&given, keep, said)?,
            Step::GoBack => {
                let outcome = node_config::apply(root, &NodeConfig::nothing())?;
                if applied(outcome, said) {
                    // Last: killed before, this is done again.
                    given::forget(files)?;
                    said.answer.version = Some(UNKNOWN.to_owned());
                }
            }
            Step::Nothing => said.answer.version = Some(UNKNOWN.to_owned()),
            Step::Stay => {}
        }
        let wanted = said.follows.as_deref().cloned().unwrap_or_else(NodeConfig::nothing);
        self.judge(&wanted, said)
    }

    fn follow(&self, given: &Given, keep: bool, said: &mut Said) -> Result<(), RoundError> {
        let Places { root, files, .. } = &self.places;
        let others = node_config::other_writers(root, &given.config)?;
        if !others.is_empty() {
            add(Kind::Files, &others, said);
            return Ok(());
        }
        if keep {
            // First: what a killed round has written is then known as what it was.
            given::keep(files, given)?;
        }
        if applied(node_config::apply(root, &given.config)?, said) {
            said.follows = Some(Arc::new(given.config.clone()));
            said.answer.version = Some(given.version.clone());
        }
        Ok(())
    }

    /// Whether containerd pulls by what was written. A node of which it does not says no version.
    fn judge(&mut self, wanted: &NodeConfig, said: &mut Said) -> Result<(), RoundError> {
        let found = node_config::check(&self.places.root, wanted)?.findings;
        let (files, own): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|finding| finding.file.starts_with(REGISTRY_D));
        add(Kind::Files, &files, said);
        let usual = own.is_empty();
        add(Kind::Containerd, &own, said);
        if usual && let Some(problem) = self.restart()? {
            said.problems.push(problem);
        }
        let is_wrong = |problem: &Problem| match problem.kind {
            Kind::Files | Kind::Containerd | Kind::Restart | Kind::Failed => true,
            Kind::Source => false,
        };
        let usual = !said.problems.iter().any(is_wrong);
        said.answer.usual = Some(usual);
        if !usual && said.follows.is_some() {
            said.answer.version = None;
        }
        Ok(())
    }

    /// What is to be said of a containerd that is older than its configuration.
    fn restart(&mut self) -> Result<Option<Problem>, RoundError> {
        let Some(changed) = node_config::containerd_changed(&self.places.root)? else { return Ok(None) };
        let Age::Older(running, file) = containerd::age(&self.places.proc, Some(changed.clone())) else {
            return Ok(None);
        };
        let file = file.display();
        let problem = |more: &str| {
            let text = format!("{file} was changed after containerd was started{more}");
            Ok(Some(Problem { kind: Kind::Restart, text }))
        };
        if !self.may_restart {
            return problem(": restart containerd");
        }
        if self.restarted.as_ref().is_some_and(|before| before.changed == changed) {
            return problem(", and a restart has not mended it: is the file's time of change ahead of the clock?");
        }
        if self.restarted.as_ref().is_some_and(|before| before.at.elapsed() < RESTART_PAUSE) {
            return problem(", and it was restarted a moment ago: it is again later");
        }
        match containerd::restart(running) {
            Ok(()) => {
                self.restarted = Some(Restarted { at: Instant::now(), changed });
                problem(": it is being restarted")
            }
            Err(error) => problem(&format!(", and it can't be restarted: {error}")),
        }
    }
}

/// Whether everything was written.
fn applied(outcome: Outcome, said: &mut Said) -> bool {
    said.notes.extend(outcome.notes);
    let done = outcome.findings.is_empty();
    add(Kind::Files, &outcome.findings, said);
    done
}

fn add(kind: Kind, findings: &[Finding], said: &mut Said) {
    let more = findings.len().saturating_sub(MOST);
    said.problems.extend(findings.iter().take(MOST).map(|finding| Problem { kind, text: finding.to_string() }));
    if more > 0 {
        said.problems.push(Problem { kind, text: format!("{more} more of {}", kind.as_str()) });
    }
}
