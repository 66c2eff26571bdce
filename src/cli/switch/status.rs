//! `switch status`: Secret `registry-state` and the nodes, as a person reads them or as JSON.

use std::io::{self, Write as _};
use std::time::Duration;

use super::super::Failure;
use super::shown::{NodesShown, Shown};
use super::{ClusterArguments, connect, failed, failure};
use crate::cluster::{Cluster, ClusterError};
use crate::controller::settings_secret;
use crate::switch::outputs::names;
use crate::switch::{BashibleConfig, RegistryState};
use crate::telemetry::with_causes;

/// Pause between two looks of `--watch`.
const EVERY: Duration = Duration::from_secs(2);

/// Flags of `switch status`.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArguments {
    /// Look again every 2 s, print what changed, and end once the wanted mode is reached.
    #[arg(long)]
    pub watch: bool,
    /// Print JSON: one line a look.
    #[arg(long)]
    pub json: bool,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

pub(super) async fn run(arguments: &StatusArguments) -> Result<(), Failure> {
    let cluster = connect(&arguments.cluster).await?;
    let mut said = String::new();
    loop {
        match look(&cluster).await {
            Ok(shown) => {
                let text = if arguments.json { format!("{}\n", shown.to_json()) } else { shown.to_string() };
                if text != said {
                    let mut out = io::stdout().lock();
                    if !said.is_empty() && !arguments.json {
                        writeln!(out)?;
                    }
                    write!(out, "{text}")?;
                    out.flush()?;
                    said = text;
                }
                if !arguments.watch || shown.is_reached() {
                    return Ok(());
                }
            }
            Err(Unseen::Passing(failure)) if arguments.watch => {
                writeln!(io::stderr(), "d8-registry: {}; looking again", failure.message)?;
            }
            Err(Unseen::Passing(failure) | Unseen::For(failure)) => return Err(failure),
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Nothing was seen.
enum Unseen {
    /// Not now.
    Passing(Failure),
    /// And another look would bring nothing else.
    For(Failure),
}

async fn look(cluster: &Cluster) -> Result<Shown, Unseen> {
    let seen = |name: &str, error: &ClusterError| {
        let failure = failed(name, error);
        if error.is_passing() { Unseen::Passing(failure) } else { Unseen::For(failure) }
    };
    let state = cluster.secret(names::STATE).await.map_err(|error| seen(names::STATE, &error))?;
    let Some(state) = state else {
        return Err(Unseen::For(failure(format!(
            "there is no Secret {} in {}: no controller has run there yet",
            names::STATE,
            cluster.namespace()
        ))));
    };
    let state = RegistryState::read(&state.data)
        .map_err(|reason| Unseen::Passing(failure(format!("Secret {} can't be read: {reason}", names::STATE))))?;
    let settings = settings_secret(cluster).await.ok().flatten().map(|secret| secret.version.0);
    Ok(Shown { state, settings, nodes: nodes(cluster).await })
}

/// How far the nodes are; a sentence where that can't be seen.
async fn nodes(cluster: &Cluster) -> Result<Option<NodesShown>, String> {
    let config = cluster.secret(names::BASHIBLE_CONFIG).await.map_err(|error| with_causes(&error))?;
    let Some(config) = config else { return Ok(None) };
    let config =
        BashibleConfig::read(&config.data).map_err(|reason| format!("{}: {reason}", names::BASHIBLE_CONFIG))?;
    let nodes = cluster.nodes().await.map_err(|error| with_causes(&error))?;
    Ok(Some(NodesShown::new(config.version, &nodes)))
}
