//! `node-agent`: from flags to the agent's options.

use std::path::PathBuf;
use std::time::Duration;

use super::Failure;
use crate::cluster::Access;
use crate::config::Address;
use crate::node_agent::{self, NodeAgentError, Options, PinnedImage};
use crate::telemetry::with_causes;

/// Flags of `node-agent`.
#[derive(Clone, Debug, clap::Args)]
pub struct NodeAgentArguments {
    /// The folder below which the node's files are.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// The mounted Secret registry-bashible-config (config), and beside it the word of d8-registry-masters (settled).
    #[arg(long, value_name = "DIR", default_value = "/etc/d8-registry/node-agent")]
    pub mount: PathBuf,
    /// The folder of the copy of it, on the node's disk.
    #[arg(long, value_name = "DIR", default_value = "/etc/kubernetes/d8-registry-node-agent")]
    pub files: PathBuf,
    /// The node's /proc, which shows when containerd was started.
    #[arg(long, value_name = "DIR", default_value = "/proc")]
    pub proc: PathBuf,
    /// The name of the Node [default: NODE_NAME, else the name of the host].
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// The namespace of Deckhouse's objects.
    #[arg(long, value_name = "NAME", default_value = "d8-system")]
    pub namespace: String,
    /// A kubeconfig [default: KUBECONFIG, the pod's ServiceAccount, ~/.kube/config].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Ask for this image as containerd would, below the repository of the configuration in force: `[CHILD]@sha256:DIGEST`
    /// [default: ask for none].
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<PinnedImage>,
    /// Restart containerd once its configuration, changed since it was started, has nothing in it that is in the way.
    #[arg(long)]
    pub restart_containerd: bool,
    /// From one round on the node, and one question for the image's manifest, to the next; 1s to 10m. The blob is asked for at
    /// every tenth question.
    #[arg(long, value_name = "SPAN", default_value = "1m", value_parser = interval)]
    pub interval: Duration,
    /// Address of /metrics, /healthz and /readyz; can be given more than once [default: 127.0.0.1:5009].
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Vec<Address>,
}

/// Where metrics and health are told.
const METRICS: &str = "127.0.0.1:5009";

/// A span within bounds: more often than that is load for nothing, less often is too late for an alert.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let bounds = Duration::from_secs(1)..=Duration::from_secs(600);
    if bounds.contains(&interval) { Ok(interval) } else { Err("not from 1s to 10m".to_owned()) }
}

impl From<NodeAgentError> for Failure {
    fn from(error: NodeAgentError) -> Self {
        let exit = if error.is_configuration() { super::EXIT_USAGE } else { super::EXIT_FAILED };
        Self { exit, message: with_causes(&error) }
    }
}

pub(super) fn run(arguments: NodeAgentArguments) -> Result<(), Failure> {
    if !arguments.root.is_dir() {
        return Err(Failure::usage(format!("--root {} is no folder", arguments.root.display())));
    }
    let listen = match arguments.metrics_listen.as_slice() {
        [] => vec![METRICS.parse::<Address>().map_err(|error| Failure::usage(error.to_string()))?],
        given => given.to_vec(),
    };
    let node = arguments.node.or_else(|| std::env::var("NODE_NAME").ok()).unwrap_or_else(super::controller::host_name);
    Ok(node_agent::run(Options {
        root: arguments.root,
        mount: arguments.mount,
        files: arguments.files,
        proc: arguments.proc,
        node,
        access: Access { kubeconfig: arguments.kubeconfig, context: None, acting_as: None },
        namespace: arguments.namespace,
        restart_containerd: arguments.restart_containerd,
        image: arguments.image,
        interval: arguments.interval,
        metrics_listen: listen.into_iter().map(|address| address.0).collect(),
    })?)
}
