//! A way to a server that lets as many bytes of its answers through as a test says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The most that passes at once.
const PIECE: usize = 16 * 1024;

/// Stands before a server; open at first.
pub(crate) struct Valve {
    address: String,
    /// Bytes that may pass in all.
    allowed: watch::Sender<u64>,
    /// Bytes that each connection may pass.
    each: watch::Sender<u64>,
    passed: Arc<AtomicU64>,
}

impl Valve {
    /// One before the server at `target`, on an address of its host.
    pub(crate) async fn before(target: String) -> Self {
        let host = target.rsplit_once(':').unwrap().0.to_owned();
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (allowed, passed) = (watch::channel(u64::MAX).0, Arc::new(AtomicU64::new(0)));
        let each = watch::channel(u64::MAX).0;
        let (seen, seen_each, counted) = (allowed.clone(), each.clone(), Arc::clone(&passed));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&target).await else { continue };
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
                let (mut allowed, mut each, passed) = (seen.subscribe(), seen_each.subscribe(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let (mut piece, mut own) = (vec![0; PIECE], 0);
                    loop {
                        if each.wait_for(|each| *each > own).await.is_err() {
                            return;
                        }
                        let is_open = |allowed: &u64| *allowed > passed.load(Ordering::SeqCst);
                        if allowed.wait_for(is_open).await.is_err() {
                            return;
                        }
                        let Ok(read @ 1..) = from_server.read(&mut piece).await else { return };
                        own += read as u64;
                        passed.fetch_add(read as u64, Ordering::SeqCst);
                        if to_client.write_all(&piece[..read]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, allowed, each, passed }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Lets about so many bytes more through, and no others.
    pub(crate) fn let_through(&self, bytes: u64) {
        self.allowed.send_replace(self.passed.load(Ordering::SeqCst) + bytes);
    }

    /// Lets each connection pass about so many bytes, and no more: small answers come, and large ones stand still.
    pub(crate) fn let_each(&self, bytes: u64) {
        self.each.send_replace(bytes);
    }

    /// Lets all through.
    pub(crate) fn open(&self) {
        self.allowed.send_replace(u64::MAX);
        self.each.send_replace(u64::MAX);
    }

    /// Whether as many have passed as may.
    pub(crate) fn is_shut(&self) -> bool {
        self.passed.load(Ordering::SeqCst) >= *self.allowed.borrow()
    }
}
