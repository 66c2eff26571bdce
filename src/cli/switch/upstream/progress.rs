//! Looks on until the upstream is written everywhere, whoever writes it, and says what is seen.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::Duration;

use tokio::time::Instant;

use super::super::super::Failure;
use super::super::failure;
use super::super::shown::condition_lines;
use super::wanted::is_written;
use crate::cluster::{Cluster, ClusterError, StoredSecret};
use crate::controller::AtWork;
use crate::switch::outputs::names;
use crate::switch::{Condition, ConditionType, DeckhouseRegistry, Node, Params, Record, RegistryState};
use crate::telemetry::with_causes;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(2);

/// What is looked at.
struct Seen {
    record: Option<StoredSecret>,
    state: Option<StoredSecret>,
    registry: Option<StoredSecret>,
    nodes: Vec<Node>,
}

/// What was seen and said so far.
pub(super) struct Progress<'a> {
    cluster: &'a Cluster,
    /// Who has the Lease beside us; `None`: we had it from the beginning.
    other: Option<String>,
    patience: Duration,
    said: BTreeMap<ConditionType, (bool, String)>,
    failed_at: Option<String>,
    leads: bool,
    /// What changes when something moves, and when it was first seen so.
    still: (Vec<String>, Instant),
}

impl<'a> Progress<'a> {
    /// `conditions` are those of before, which are known.
    pub(super) fn new(
        cluster: &'a Cluster,
        other: Option<String>,
        patience: Duration,
        conditions: &[Condition],
    ) -> Self {
        let known = |condition: &Condition| (condition.kind, (condition.status, condition.message.clone()));
        let said = conditions.iter().map(known).collect();
        Self { cluster, other, patience, said, failed_at: None, leads: false, still: (Vec::new(), Instant::now()) }
    }

    /// Waits until `wanted` is written. Safe to drop.
    pub(super) async fn until_written(&mut self, wanted: &Params, work: &AtWork) -> Result<(), Failure> {
        let mut is_away = false;
        loop {
            self.say_who_writes(work)?;
            match Seen::look(self.cluster).await {
                Ok(seen) => {
                    is_away = false;
                    self.say_conditions(&seen)?;
                    if seen.is_written(wanted) {
                        return Ok(());
                    }
                    self.take_over_if_still(&seen, work)?;
                }
                Err(error) if error.is_passing() => {
                    if !std::mem::replace(&mut is_away, true) {
                        writeln!(io::stderr(), "d8-registry: {}; looking again", with_causes(&error))?;
                    }
                }
                Err(error) => return Err(failure(format!("the cluster can't be looked at: {}", with_causes(&error)))),
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    fn say_who_writes(&mut self, work: &AtWork) -> Result<(), Failure> {
        let mut out = io::stdout();
        let leads = work.leads();
        if leads && !self.leads {
            writeln!(out, "This command has the Lease and does the controller's work.")?;
        }
        if self.leads && !leads {
            writeln!(out, "Another controller has the Lease.")?;
            self.other = Some("another controller".to_owned());
        }
        self.leads = leads;
        let failed_at = work.failure();
        if failed_at != self.failed_at {
            if let Some(failed_at) = &failed_at {
                writeln!(io::stderr(), "d8-registry: {failed_at}; tried again")?;
            }
            self.failed_at = failed_at;
        }
        Ok(())
    }

    /// Those that are not what they were.
    fn say_conditions(&mut self, seen: &Seen) -> Result<(), Failure> {
        let state = seen.state.as_ref().and_then(|state| RegistryState::read(&state.data).ok());
        for condition in state.into_iter().flat_map(|state| state.conditions) {
            let new = (condition.status, condition.message.clone());
            if self.said.get(&condition.kind) != Some(&new) {
                write!(io::stdout(), "{}", condition_lines(&condition))?;
                self.said.insert(condition.kind, new);
            }
        }
        Ok(())
    }

    /// A controller that renews its Lease and moves nothing is one that does not work.
    fn take_over_if_still(&mut self, seen: &Seen, work: &AtWork) -> Result<(), Failure> {
        let now = seen.fingerprint();
        if self.leads || now != self.still.0 {
            self.still = (now, Instant::now());
            return Ok(());
        }
        if let Some(other) = self.other.take_if(|_| self.still.1.elapsed() >= self.patience) {
            writeln!(
                io::stdout(),
                "Nothing has moved for {} s: the Lease is taken over from {other}, whose term ends within 15 s.",
                self.patience.as_secs()
            )?;
            work.seize();
        }
        Ok(())
    }
}

impl Seen {
    async fn look(cluster: &Cluster) -> Result<Self, ClusterError> {
        Ok(Self {
            // The outputs are written after the record, and read after it.
            record: cluster.secret(names::RECORD).await?,
            state: cluster.secret(names::STATE).await?,
            registry: cluster.secret(names::DECKHOUSE_REGISTRY).await?,
            nodes: cluster.nodes().await?,
        })
    }

    fn is_written(&self, wanted: &Params) -> bool {
        let record = self.record.as_ref().and_then(|record| Record::read(&record.data).ok());
        let found = self.registry.as_ref().and_then(|found| DeckhouseRegistry::read(&found.data).ok());
        record.is_some_and(|record| is_written(&record, found.as_ref(), wanted))
    }

    /// Another one when anything has moved: the record, a condition, a node.
    fn fingerprint(&self) -> Vec<String> {
        let secrets = [&self.record, &self.state, &self.registry].into_iter();
        let versions = secrets.map(|secret| secret.as_ref().map(|secret| secret.version.0.clone()).unwrap_or_default());
        let node = |node: &Node| format!("{} {} {:?}", node.name, node.ready, node.version);
        versions.chain(self.nodes.iter().map(node)).collect()
    }
}
