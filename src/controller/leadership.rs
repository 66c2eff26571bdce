//! Keeps asking for the Lease, and tells the loop until when it may write.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::cluster::{Candidate, RENEWAL, Standing, TERM};
use crate::telemetry::with_causes;

/// Until when this process may write; `None`: another one may.
pub(super) type Term = Option<Instant>;

/// Asks until `stop`, then gives the Lease back. At each notice of `seize` it is taken over from one that renews it.
pub(super) async fn hold(
    mut candidate: Candidate,
    term: watch::Sender<Term>,
    seize: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut holder = String::new();
    let mut failed = false;
    let mut is_seizing = false;
    // When the term of whoever it was taken over from has ended.
    let mut quiet_from: Option<Instant> = None;
    loop {
        let asked = if is_seizing { candidate.seize(clock::now()).await } else { candidate.ask(clock::now()).await };
        let pause = match asked {
            Ok(Standing::Holds(_)) if is_seizing => {
                is_seizing = false;
                quiet_from = Some(Instant::now() + TERM);
                RENEWAL
            }
            Ok(Standing::Holds(_)) if quiet_from.is_some_and(|from| Instant::now() < from) => RENEWAL,
            Ok(Standing::Holds(until)) => {
                if term.send_replace(Some(until)).is_none() {
                    tracing::info!("this controller writes from now on");
                }
                holder.clear();
                failed = false;
                RENEWAL
            }
            Ok(Standing::Waits { holder: other }) => {
                if term.send_replace(None).is_some() {
                    tracing::warn!(holder = other, "another controller writes from now on");
                } else if holder != other {
                    tracing::info!(holder = other, "another controller writes; this one stands by");
                }
                holder = other;
                failed = false;
                RENEWAL
            }
            Err(error) => {
                // A term that there was goes on to its end, by itself.
                if !std::mem::replace(&mut failed, true) {
                    tracing::warn!(error = with_causes(&error), "the Lease can't be asked for; tried again");
                }
                RENEWAL / 6
            }
        };
        let rest = async {
            tokio::select! {
                () = tokio::time::sleep(pause) => false,
                () = seize.notified() => true,
            }
        };
        match stop.run_until_cancelled(rest).await {
            Some(is_to_seize) => is_seizing |= is_to_seize,
            None => break,
        }
    }
    term.send_replace(None);
    let given_back = tokio::time::timeout(Duration::from_secs(5), candidate.give_back()).await;
    if let Ok(Err(error)) = given_back {
        tracing::warn!(error = with_causes(&error), "the Lease can't be given back; it ends by itself");
    }
}
