//! As whom Deckhouse's objects are written: its policy lets no person write what has the label `heritage: deckhouse`.
//!
//! # Decisions
//! - Nobody's policy is touched: whoever may act as another user acts as one of those that the policy names. The controller's
//!   ServiceAccount first, which may write these objects and no others; then `system:sudouser`, as Deckhouse's documentation has it.
//! - What may be written is tried before anything is, by changes that the API server only checks (`dryRun`).

use super::super::super::Failure;
use super::super::{ClusterArguments, connect_as, failed, failure, read};
use crate::cluster::{Changes, Cluster, ClusterError, SecretChange, StoredSecret};
use crate::switch::outputs::names;
use crate::telemetry::with_causes;

/// What a change of the upstream writes, beside the administrator's own Secrets.
const WRITTEN: [&str; 5] =
    [names::DECKHOUSE_REGISTRY, names::BASHIBLE_CONFIG, names::STATE, names::MODE_FILE, names::RECORD];
/// The user that Deckhouse's policies let write everything.
const SUDO: &str = "system:sudouser";
/// On nothing: the change that is tried.
const TRIED: &str = "d8-registry/tried";

/// Who writes.
pub(super) struct Account {
    pub(super) cluster: Cluster,
    /// `None`: whoever runs the command.
    pub(super) acting_as: Option<Acting>,
}

/// Another user, and why.
pub(super) struct Acting {
    pub(super) user: String,
    /// What the API server said to whoever runs the command.
    pub(super) because: String,
}

/// Finds out who may write.
pub(super) async fn who_writes(arguments: &ClusterArguments, own: &Cluster) -> Result<Account, Failure> {
    let mut found = Vec::new();
    for name in WRITTEN {
        found.extend(read(own, name).await?);
    }
    let refused = match refusal(own, &found).await? {
        None => return Ok(Account { cluster: own.clone(), acting_as: None }),
        Some(refused) => refused,
    };
    let mut refusals = format!("as who runs this: {refused}");
    let controller = format!("system:serviceaccount:{}:{}", own.namespace(), names::CONTROLLER);
    for user in [controller.as_str(), SUDO] {
        let cluster = connect_as(arguments, Some(user)).await?;
        match refusal(&cluster, &found).await? {
            None => {
                let acting = Acting { user: user.to_owned(), because: refused };
                return Ok(Account { cluster, acting_as: Some(acting) });
            }
            Some(refused) => refusals.push_str(&format!("\n  as {user}: {refused}")),
        }
    }
    Err(failure(format!("nothing was changed: what has to be written may not be\n  {refusals}")))
}

/// Why one of the Secrets may not be changed; `None`: all may.
async fn refusal(cluster: &Cluster, secrets: &[StoredSecret]) -> Result<Option<String>, Failure> {
    for secret in secrets {
        let annotations = Changes::from([(TRIED.to_owned(), Some(String::new()))]);
        let change = SecretChange { annotations, ..SecretChange::default() };
        match cluster.could_change_secret(&secret.name, &secret.version, change).await {
            Ok(()) => {}
            // The controller writes meanwhile, so it may be written.
            Err(error) if error.is_conflict() => {}
            Err(error) if error.is_forbidden() => {
                return Ok(Some(format!("Secret {}: {}", secret.name, with_causes(&error))));
            }
            Err(error) => return Err(hindered(&secret.name, &error)),
        }
    }
    Ok(None)
}

/// A webhook that nobody answers says no to every write.
fn hindered(name: &str, error: &ClusterError) -> Failure {
    if !error.to_string().contains("failed calling webhook") {
        return failed(name, error);
    }
    failure(format!(
        "nothing was changed: Secret {name} can't be written, a webhook that checks it does not answer. Where it is Deckhouse's own, \
         it answers when a pod of Deckhouse runs: {}",
        with_causes(error)
    ))
}
