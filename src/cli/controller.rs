//! `controller`: the program that switches a cluster's mode.

use std::path::PathBuf;
use std::time::Duration;

use super::Failure;
use crate::cluster::Access;
use crate::config::Address;
use crate::controller::{self, ControllerError, Identity, Options};
use crate::switch::{SwitchOptions, UnreadyNodes};
use crate::telemetry::with_causes;

/// Flags of `controller`.
#[derive(Clone, Debug, clap::Args)]
pub struct ControllerArguments {
    /// The namespace of Deckhouse's objects, and of ours.
    #[arg(long, value_name = "NAME", default_value = "d8-system")]
    pub namespace: String,
    /// The namespace that the chart is installed in; it has to be the same one.
    #[arg(long, value_name = "NAME")]
    pub release_namespace: Option<String>,
    /// A kubeconfig [default: KUBECONFIG, the pod's ServiceAccount, ~/.kube/config].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// This process, as the Lease and the log name it [default: POD_NAME, else the name of the host].
    #[arg(long, value_name = "NAME")]
    pub identity: Option<String>,
    /// Port of the registry on the masters.
    #[arg(long, value_name = "PORT", default_value_t = 5001)]
    pub registry_port: u16,
    /// Address of /metrics, /healthz and /readyz; can be given more than once [default: 127.0.0.1:5003].
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Vec<Address>,
    /// PEM: the certificate with URI d8-registry:controller, which the servers ask for.
    #[arg(long, value_name = "FILE")]
    pub cert: PathBuf,
    /// PEM: its key.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// PEM: the authority that signed the servers' certificates.
    #[arg(long, value_name = "FILE")]
    pub ca: PathBuf,
    /// How long no answer may come from a mode of before until a switch ends.
    #[arg(long, value_name = "SPAN", default_value = "10m", value_parser = humantime::parse_duration)]
    pub settle: Duration,
    /// Least time between the two scans for references that end a switch.
    #[arg(long, value_name = "SPAN", default_value = "30s", value_parser = humantime::parse_duration)]
    pub scan_interval: Duration,
    /// From one look at what the cluster runs (Secret registry-pins) to the next; 1s to 30m.
    #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = pins_interval)]
    pub pins_interval: Duration,
    /// What is done about nodes that are NotReady: wait for them, or skip them, which then keep their old source.
    #[arg(long, value_name = "WORD", default_value = "wait", value_parser = unready_nodes())]
    pub unready_nodes: UnreadyNodes,
}

/// Where metrics and health are told.
const METRICS: &str = "127.0.0.1:5003";

/// A span within [`controller::PINS_INTERVALS`].
fn pins_interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if controller::PINS_INTERVALS.contains(&interval) { Ok(interval) } else { Err("not from 1s to 30m".to_owned()) }
}

fn unready_nodes() -> impl clap::builder::TypedValueParser<Value = UnreadyNodes> {
    use clap::builder::TypedValueParser as _;
    clap::builder::PossibleValuesParser::new(["wait", "skip"])
        .map(|word| if word == "skip" { UnreadyNodes::Skip } else { UnreadyNodes::Wait })
}

impl From<ControllerError> for Failure {
    fn from(error: ControllerError) -> Self {
        let exit = if error.is_configuration() { super::EXIT_USAGE } else { super::EXIT_FAILED };
        Self { exit, message: with_causes(&error) }
    }
}

pub(super) fn run(arguments: ControllerArguments) -> Result<(), Failure> {
    if arguments.release_namespace.as_ref().is_some_and(|release| *release != arguments.namespace) {
        return Err(Failure::usage(
            "--release-namespace: Deckhouse finds its objects in one namespace, and ours are among them; install the chart there",
        ));
    }
    let listen = match arguments.metrics_listen.as_slice() {
        [] => vec![METRICS.parse::<Address>().map_err(|error| Failure::usage(error.to_string()))?],
        given => given.to_vec(),
    };
    let name = arguments.identity.or_else(|| std::env::var("POD_NAME").ok()).unwrap_or_else(host_name);
    Ok(controller::run(Options {
        access: Access { kubeconfig: arguments.kubeconfig, context: None, acting_as: None },
        namespace: arguments.namespace,
        // A container that is started anew in its pod is another process: its Lease is not ours to renew.
        identity: format!("{name}_{}_{}", std::process::id(), crate::clock::now().as_millis()),
        registry_port: arguments.registry_port,
        metrics_listen: listen.into_iter().map(|address| address.0).collect(),
        certificate: Identity::Files { cert: arguments.cert, key: arguments.key, ca: arguments.ca },
        switch: SwitchOptions {
            settle: arguments.settle,
            scan_interval: arguments.scan_interval,
            unready_nodes: arguments.unready_nodes,
        },
        pins_interval: arguments.pins_interval,
    })?)
}

/// The machine's name.
pub(super) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_out_of_range_is_refused_and_not_made_to_fit() {
        for (text, read) in [("1s", Some(1)), ("5m", Some(300)), ("30m", Some(1800))] {
            assert_eq!(pins_interval(text).ok().map(|interval| interval.as_secs()), read, "{text}");
        }
        for text in ["999ms", "0s", "30m 1s", "1day", "soon", ""] {
            assert!(pins_interval(text).is_err(), "{text}");
        }
    }
}
