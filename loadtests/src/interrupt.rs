//! Ctrl-C and SIGTERM as a flag: the measuring thread looks at it, ends in order and so leaves nothing behind.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Sets the flag at the first signal.
pub(crate) async fn watch() -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => (),
        _ = terminate.recv() => (),
    }
    INTERRUPTED.store(true, Ordering::Relaxed);
    Ok(())
}

/// An error once a signal has come.
pub(crate) fn check() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}
