//! What the balancer says of itself to the kubelet and Prometheus.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::pool::Pool;
use super::port::Port;
use crate::health::Health;
use crate::telemetry::Samples;
use crate::telemetry::families::{NODE_PROXY_BACKEND_UP, NODE_PROXY_CONNECTIONS, NODE_PROXY_LISTENING};

/// What is asked for.
#[derive(Debug)]
pub(super) struct Status {
    /// The addresses of clients.
    pub(super) ports: Arc<[Arc<Port>]>,
    pub(super) pool: Arc<Pool>,
    /// Cancelled when the process ends.
    pub(super) stop: CancellationToken,
}

impl Health for Status {
    /// Another one on the port is no fault of this process.
    fn alive(&self) -> String {
        format!("ok{}", self.waiting().map(|why| format!(", {why}")).unwrap_or_default())
    }

    fn ready(&self) -> Result<String, String> {
        if self.stop.is_cancelled() {
            return Err("stopping".to_owned());
        }
        self.waiting().map_or_else(|| Ok("ok".to_owned()), Err)
    }

    fn samples(&self) -> Samples {
        let mut samples = Samples::default();
        for port in &*self.ports {
            samples.add(&NODE_PROXY_LISTENING, &[&port.address().to_string()], u64::from(port.is_held()));
        }
        for backend in self.pool.backends() {
            let name = backend.target().to_string();
            samples.add(&NODE_PROXY_BACKEND_UP, &[&name], u64::from(!backend.is_down()));
            samples.add(&NODE_PROXY_CONNECTIONS, &[&name], backend.connections() as u64);
        }
        samples
    }
}

impl Status {
    /// Which addresses another process holds, as a sentence.
    fn waiting(&self) -> Option<String> {
        let others = self.ports.iter().filter(|port| !port.is_held());
        let others: Vec<String> = others.map(|port| port.address().to_string()).collect();
        (!others.is_empty()).then(|| format!("waiting beside another process that holds {}", others.join(", ")))
    }
}
