//! Secret `registry-previous` goes when it is seven days old: until then a change of the upstream may be undone.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::leadership::Term;
use crate::clock;
use crate::cluster::{Cluster, ClusterError};
use crate::switch::outputs::{names, previous};
use crate::telemetry::with_causes;

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(3600);

/// Looks once an hour while this process may write, until `stop`.
pub(super) async fn expire(cluster: Cluster, mut may_write: watch::Receiver<Term>, stop: CancellationToken) {
    let going = async {
        // An error says that nobody asks for the Lease any more.
        while may_write.wait_for(Option::is_some).await.is_ok() {
            match remove_if_expired(&cluster).await {
                Ok(true) => tracing::info!(object = names::PREVIOUS, "seven days old, and removed"),
                Ok(false) => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => tracing::warn!(error = with_causes(&error), "registry-previous can't be looked at"),
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    stop.run_until_cancelled(going).await;
}

async fn remove_if_expired(cluster: &Cluster) -> Result<bool, ClusterError> {
    let Some(found) = cluster.secret(names::PREVIOUS).await? else { return Ok(false) };
    if !previous::has_expired(&found.annotations, clock::now()) {
        return Ok(false);
    }
    cluster.delete_secret(names::PREVIOUS, &found.version).await?;
    Ok(true)
}
