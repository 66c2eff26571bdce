//! A registry for tests that has everything, or nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::{Target, TargetOptions};
use crate::telemetry::Metrics;
use crate::upstream::{Credentials, ProxyVariables};
use crate::values::Mode;

pub(super) const ONE: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
pub(super) const TWO: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

/// Answers HEADs of manifests, one a connection.
pub(super) struct Registry {
    address: String,
    is_full: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Registry {
    /// A full one, whose answers have the header of `mode`.
    pub(super) async fn start(mode: Option<Mode>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (is_full, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (full, count) = (Arc::clone(&is_full), Arc::clone(&asked));
        let mode = mode.map(|mode| format!("d8-registry-mode: {mode}\r\n")).unwrap_or_default();
        TaskTracker::new().spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                count.fetch_add(1, Ordering::SeqCst);
                let head = String::from_utf8(head).unwrap();
                let digest = head.split_whitespace().nth(1).unwrap().rsplit('/').next().unwrap();
                let status = if full.load(Ordering::SeqCst) { "200 OK" } else { "404 Not Found" };
                let answer = format!(
                    "HTTP/1.1 {status}\r\n{mode}Docker-Content-Digest: {digest}\r\nContent-Length: 2\r\nConnection: \
                     close\r\nDocker-Distribution-Api-Version: registry/2.0\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { address, is_full, asked }
    }

    /// It as what is checked, and of which `mode` has to answer.
    pub(super) fn target(&self, mode: Option<Mode>) -> Target {
        let options = TargetOptions {
            address: format!("m=http://{}/a", self.address).parse().unwrap(),
            ca: None,
            credentials: Credentials::Anonymous,
            proxy: ProxyVariables::default(),
            mode,
        };
        Target::connect(options, Metrics::new().unwrap(), TaskTracker::new()).unwrap()
    }

    pub(super) fn empty(&self) {
        self.is_full.store(false, Ordering::SeqCst);
    }

    pub(super) fn fill(&self) {
        self.is_full.store(true, Ordering::SeqCst);
    }

    /// How often it was asked since the last call.
    pub(super) fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::SeqCst)
    }
}
