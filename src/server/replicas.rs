//! What this server does for other masters.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::modes::Modes;
use super::{Parts, options};
use crate::admin::{MasterStatus, ReplicasStatus};
use crate::clock::Timestamp;
use crate::comparison::{ComparedMaster, Comparison, ComparisonStatus, LocalSource, RemovableSource};
use crate::config::Config;
use crate::replicas::Replicas;
use crate::store::Store;
use crate::telemetry::families::{
    MASTERS_CLOCK_OFFSET, RECORDS_BYTES, RECORDS_EQUAL, RECORDS_LACKING, RECORDS_REFUSED, RECORDS_TAKEN,
    REPOSITORIES_LACKING,
};
use crate::telemetry::{Samples, with_causes};

/// Has the store write down what is done with tags and manifests, where `replicas` is set. What can't be begun now is at the
/// next start; until then others learn of nothing from here. Blocking.
pub(super) fn keep_records(store: &Store, config: &Config) {
    if options::replicas(config).is_some()
        && let Err(error) = store.keep_records()
    {
        let error = with_causes(&error);
        tracing::error!(error, "no records can be kept for the other masters");
    }
}

/// The comparison with them, while mode Local is in force, coming or before. By it the store asks them before anything goes by
/// itself.
pub(super) fn comparison(
    parts: &Parts,
    replicas: &Replicas,
    modes: &Modes,
    (tasks, stop): (TaskTracker, CancellationToken),
) -> Comparison {
    let (modes, retention) = (modes.clone(), parts.retention.clone());
    let local: LocalSource = Arc::new(move || modes.transition().local());
    let removable: RemovableSource = Arc::new(move |question| {
        let retention = retention.clone();
        Box::pin(async move { retention.removable(&question).await })
    });
    let comparison = Comparison::new(parts.store.clone(), replicas.clone(), local, removable, tasks, stop);
    let asked = comparison.clone();
    parts.store.ask_masters_by(Arc::new(move |question| {
        let comparison = asked.clone();
        Box::pin(async move { comparison.agreed(&question).await })
    }));
    comparison
}

/// What is shown of them.
pub(super) fn status(replicas: &Replicas, comparison: &Comparison) -> Option<ReplicasStatus> {
    let status = replicas.status()?;
    let master = |master: ComparedMaster| MasterStatus {
        host: master.host,
        equal: master.equal.map(Timestamp::as_secs),
        clock_offset_seconds: master.clock_offset.as_secs(),
        lacking_repositories: master.repositories,
        lacking_records: master.records,
        error: master.error,
    };
    let masters = comparison.status().masters.into_iter().map(master).collect();
    Some(ReplicasStatus {
        peers: status.peers,
        masters,
        error: status.error,
        certificate_expiry: status.certificate_expiry,
    })
}

/// The same as metrics.
pub(super) fn compared(samples: &mut Samples, status: &ComparisonStatus) {
    for master in &status.masters {
        let label = [master.host.as_str()];
        samples.add(&RECORDS_EQUAL, &label, master.equal.map_or(0, Timestamp::as_secs));
        samples.add(&REPOSITORIES_LACKING, &label, master.repositories);
        samples.add(&RECORDS_LACKING, &label, master.records);
        samples.add(&MASTERS_CLOCK_OFFSET, &label, master.clock_offset.as_secs());
    }
    samples.add(&RECORDS_TAKEN, &[], status.taken);
    samples.add(&RECORDS_REFUSED, &[], status.refused);
    samples.add(&RECORDS_BYTES, &[], status.bytes);
}
