//! How a program beside the server starts and hears of its end: its log, its threads, SIGTERM.

use std::future::Future;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::serve::BindError;
use crate::telemetry::{AccessMode, Level, LogError, LogFormat, LogOptions, Logging};

/// A program could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken or not ours.
    #[error("listen")]
    Bind(#[from] BindError),
    /// The log can't be set up.
    #[error("log")]
    Log(#[from] LogError),
    /// The system refused threads or signals.
    #[error("the system refused {what}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// The threads of a program.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    /// Their name.
    pub name: &'static str,
    /// How many work.
    pub workers: usize,
    /// How many there may be for what blocks.
    pub blocking: usize,
}

impl Threads {
    /// Does the work of a program to its end, with its log; blocking.
    ///
    /// # Errors
    /// [`StartError`], and those of the work.
    pub fn run<E: From<StartError>>(self, work: impl Future<Output = Result<(), E>>) -> Result<(), E> {
        let log = LogOptions { format: LogFormat::suitable(), level: Level::Info, access: AccessMode::Off };
        let _logging = Logging::start(log).map_err(StartError::Log)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.workers)
            .max_blocking_threads(self.blocking)
            .thread_name(self.name)
            .enable_all()
            .build()
            .map_err(|source| StartError::System { what: "threads", source })?;
        let ended = runtime.block_on(Box::pin(work));
        // A look-up of a name may still wait for its server.
        runtime.shutdown_background();
        ended
    }
}

/// SIGTERM and SIGINT, from the moment at which it was made.
#[derive(Debug)]
pub struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl End {
    /// From now on these signals end nothing by themselves. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`StartError::System`].
    pub fn new() -> Result<Self, StartError> {
        let system = |what| move |source| StartError::System { what, source };
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(system("SIGTERM"))?,
            interrupt: signal(SignalKind::interrupt()).map_err(system("SIGINT"))?,
        })
    }

    /// Waits for one of them.
    pub async fn come(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        tracing::info!("stopping");
    }
}
