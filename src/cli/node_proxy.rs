//! `node-proxy`: from flags to the balancer's options.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::Address;
use crate::node_proxy::{self, Backends, NodeProxyError, Options, Target};
use crate::telemetry::with_causes;

use super::{EXIT_FAILED, EXIT_USAGE, Failure};

/// Flags of `node-proxy`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("servers").required(true).args(["backend", "backends_file"]))]
pub struct NodeProxyArguments {
    /// Address to listen on; can be given more than once. One that another process holds is waited for, and taken over when it
    /// is free.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5001")]
    pub listen: Vec<Address>,
    /// Address of /healthz, /readyz and /metrics, in clear; can be given more than once [default: none].
    #[arg(long, value_name = "ADDR")]
    pub admin_listen: Vec<Address>,
    /// A server: `HOST:PORT`, `http://HOST:PORT` or `https://HOST:PORT`; can be given more than once.
    #[arg(long, value_name = "SERVER")]
    pub backend: Vec<Target>,
    /// A file with a server a line, read again when it changes; a bad list is refused and the old one stays.
    #[arg(long, value_name = "FILE")]
    pub backends_file: Option<PathBuf>,
    /// Ask for health over HTTPS where a server has no scheme.
    #[arg(long)]
    pub backend_tls: bool,
    /// Connections at once; more wait.
    #[arg(long, value_name = "COUNT", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// How long connections may go on after SIGTERM.
    #[arg(long, value_name = "TIME", default_value = "25s", value_parser = humantime::parse_duration)]
    pub drain_deadline: Duration,
    /// How long after SIGTERM connections are still taken, until another node-proxy waits for the address. The drain deadline
    /// begins then.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    pub hand_over: Duration,
}

impl From<NodeProxyError> for Failure {
    fn from(error: NodeProxyError) -> Self {
        let exit = if error.is_configuration() { EXIT_USAGE } else { EXIT_FAILED };
        Self { exit, message: with_causes(&error) }
    }
}

pub(super) fn run(arguments: NodeProxyArguments) -> Result<(), Failure> {
    Ok(node_proxy::run(Options {
        listen: arguments.listen.into_iter().map(|address| address.0).collect(),
        admin_listen: arguments.admin_listen.into_iter().map(|address| address.0).collect(),
        backends: arguments.backends_file.map_or(Backends::Fixed(arguments.backend), Backends::File),
        backend_tls: arguments.backend_tls,
        max_connections: usize::try_from(arguments.max_connections).unwrap_or(usize::MAX),
        drain_deadline: arguments.drain_deadline,
        hand_over: arguments.hand_over,
    })?)
}
