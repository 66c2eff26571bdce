//! On how many masters a push is before it is answered, and a delete.

use std::time::Duration;

use tokio::time::timeout;

use super::call::Call;
use super::error::ApiError;
use crate::oci::{ErrorCode, Reference, RepoName};
use crate::values::{MinCopies, WhenShort};

/// After so many seconds a client pushes again that was refused.
const RETRY: u64 = 5;

/// Masters that there are at least where `replicas` is set and no list of them can be used.
const SEVERAL: usize = 2;

/// Longest wait of a delete for the other masters.
const DELETE_PATIENCE: Duration = Duration::from_secs(3);

/// How many masters have to have a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRules {
    /// So many, this one counted.
    pub min: MinCopies,
    /// What is answered where they are fewer.
    pub when_short: WhenShort,
}

/// Tells the other masters what was said here, and waits until as many have taken it, with all that it names, as have to; the
/// others take it all the same. Says what a client is warned of. Safe to drop: nothing is undone.
///
/// # Errors
/// 503: too few took it, and the rules refuse that.
pub(super) async fn taken(call: &Call<'_>, repo: &RepoName, said: &[Reference]) -> Result<Option<String>, ApiError> {
    let Some(comparison) = call.comparison else { return Ok(None) };
    let (rules, masters) = (call.settings.copies, comparison.masters());
    // Who asks for one master's own word waits for that one alone. Where no list can be used this is one of several masters, of
    // which no other one can be reached.
    let wanted = if call.elsewhere.is_some() { rules.min.of(masters.unwrap_or(SEVERAL)) } else { 1 };
    let have = comparison.spread(repo, said, wanted).await;
    if have >= wanted {
        return Ok(None);
    }
    let refuses = rules.when_short == WhenShort::Refuse;
    call.metrics.push_short(refuses);
    let words = match masters {
        Some(masters) => format!("stored on {have} of {masters} masters, {wanted} were to have it"),
        None => format!("stored on {have} master, as the list of masters can't be used, {wanted} were to have it"),
    };
    if refuses {
        let message = format!("{words} (replicas.minCopies); push again when more masters take it");
        return Err(ApiError::new(ErrorCode::Unavailable, message).retry_after(RETRY));
    }
    Ok(Some(words))
}

/// Tells the other masters what was deleted here, and waits until all that answer have deleted it, for 3 s at most: whoever asks one
/// of them next hears no. One that has not is told by the next comparison. Safe to drop: they go on.
pub(super) async fn deleted(call: &Call<'_>, repo: &RepoName, of: &Reference) {
    let said = std::slice::from_ref(of);
    match call.comparison {
        Some(comparison) if call.elsewhere.is_some() => {
            // Out of time: it stands still.
            let _ = timeout(DELETE_PATIENCE, comparison.spread(repo, said, usize::MAX)).await;
        }
        _ => call.tell(repo, said),
    }
}
