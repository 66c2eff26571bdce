//! Order between a test and the scripted upstream, without any time in it.

use std::sync::Arc;

use tokio::sync::watch;

/// A gate in an answer's way: the answer stops before it until the test opens it. Clones are the same gate.
#[derive(Clone)]
pub(crate) struct Gate(Arc<State>);

struct State {
    open: watch::Sender<bool>,
    arrived: watch::Sender<usize>,
}

impl Gate {
    /// A shut one.
    pub(crate) fn new() -> Self {
        Self(Arc::new(State { open: watch::Sender::new(false), arrived: watch::Sender::new(0) }))
    }

    /// Lets through what waits and what will come.
    pub(crate) fn open(&self) {
        self.0.open.send_replace(true);
    }

    /// Waits until `count` answers have come to the gate, those that went through counted too.
    pub(crate) async fn arrived(&self, count: usize) {
        let mut arrived = self.0.arrived.subscribe();
        super::super::within(arrived.wait_for(|arrived| *arrived >= count)).await.unwrap();
    }

    /// The upstream's side: arrives and waits.
    pub(super) async fn pass(&self) {
        self.0.arrived.send_modify(|arrived| *arrived += 1);
        // The sender is in `self`.
        let _ = self.0.open.subscribe().wait_for(|open| *open).await;
    }
}
