//! What others set of the collection while the store is open.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::oci::Digest;
use crate::store::options::CollectionOptions;

#[derive(Debug, Default)]
pub(in crate::store) struct Settings {
    held: AtomicBool,
    options: Mutex<CollectionOptions>,
    pins: Mutex<Arc<HashSet<Digest>>>,
    /// The options are others.
    pub(in crate::store) changed: Notify,
}

impl Settings {
    /// Options in force.
    pub(in crate::store) fn options(&self) -> CollectionOptions {
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts options into force.
    pub(in crate::store) fn set_options(&self, options: CollectionOptions) {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
        self.changed.notify_one();
    }

    /// Contents that stay whatever reaches them.
    pub(in crate::store) fn pins(&self) -> Arc<HashSet<Digest>> {
        Arc::clone(&self.pins.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts pins into force. Verdicts that were found without them are the ledger's affair.
    pub(in crate::store) fn set_pins(&self, pins: HashSet<Digest>) {
        *self.pins.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(pins);
    }

    /// Whether nothing may be collected now.
    pub(in crate::store) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// Lets nothing be collected, or ends that.
    pub(in crate::store) fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }
}
