//! Acts on a changed file or SIGHUP: calls what reads the configuration again, and keeps calling while a swap of
//! files is half done. What is read and put into force is the caller's.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::watch::Watcher;

/// Why the configuration is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The content of a watched file changed.
    FileChanged,
    /// SIGHUP.
    Signal,
}

/// What became of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The new configuration is in force; these paths decide about the next one.
    Applied(Vec<PathBuf>),
    /// The files don't fit each other yet, as a key and its certificate while they are swapped: try again.
    NotYet(String),
    /// It is wrong; the old one stays in force.
    Refused(String),
}

/// What a change led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The new configuration is in force.
    Applied,
    /// The old one stays in force, and why.
    Refused(String),
}

/// Reads the configuration again and puts it into force.
pub trait Reload {
    /// One attempt, all or nothing. Not dropped before it is through.
    fn attempt(&mut self, cause: Cause) -> impl Future<Output = Attempt> + Send;

    /// Told once for each change, for the log and the metric.
    fn report(&mut self, cause: Cause, outcome: &Outcome);
}

/// How often the loop looks, and how patient it is with a swap in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two looks at the files.
    pub look: Duration,
    /// Between two attempts while files don't fit each other.
    pub retry: Duration,
    /// So many more attempts are made before that is an error.
    pub retries: u32,
}

impl Default for Pace {
    /// Looks every 5 s: the kubelet itself takes up to a minute to bring a changed Secret. Retries for 10 s.
    fn default() -> Self {
        Self { look: Duration::from_secs(5), retry: Duration::from_millis(500), retries: 20 }
    }
}

/// The loop's ears: made early, so that no SIGHUP kills the process, and run when there is something to reload.
#[derive(Debug)]
pub struct Reloader {
    hangup: Signal,
    pace: Pace,
}

impl Reloader {
    /// Listens for SIGHUP from now on; needs a tokio runtime.
    ///
    /// # Errors
    /// The signal can't be taken over.
    pub fn new(pace: Pace) -> std::io::Result<Self> {
        Ok(Self { hangup: signal(SignalKind::hangup())?, pace })
    }

    /// Reloads through `reload` on each change of `paths` and on SIGHUP, until `stop` is cancelled.
    /// The first look at the paths was taken by the caller, before it read them: a change since then is seen.
    pub async fn run(mut self, watcher: Watcher, stop: CancellationToken, mut reload: impl Reload) {
        let mut watcher = Some(watcher);
        let mut tick = tokio::time::interval(self.pace.look);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let cause = tokio::select! {
                () = stop.cancelled() => return,
                heard = self.hangup.recv() => match heard {
                    Some(()) => Some(Cause::Signal),
                    // The runtime is going down.
                    None => return,
                },
                _ = tick.tick() => None,
            };
            let (looked, changed) = look(watcher.take()).await;
            watcher = looked;
            let cause = match cause {
                Some(cause) => cause,
                None if changed => Cause::FileChanged,
                None => continue,
            };
            let attempt = tokio::select! {
                () = stop.cancelled() => return,
                attempt = patiently(&mut reload, cause, self.pace) => attempt,
            };
            let outcome = match attempt {
                Attempt::Applied(paths) => {
                    watcher = follow(watcher.take(), paths).await;
                    Outcome::Applied
                }
                Attempt::NotYet(why) | Attempt::Refused(why) => Outcome::Refused(why),
            };
            reload.report(cause, &outcome);
        }
    }
}

async fn patiently(reload: &mut impl Reload, cause: Cause, pace: Pace) -> Attempt {
    for _ in 0..pace.retries {
        match reload.attempt(cause).await {
            Attempt::NotYet(_) => tokio::time::sleep(pace.retry).await,
            done => return done,
        }
    }
    reload.attempt(cause).await
}

/// One look, off the runtime's threads: the files may be on a file system that hangs.
async fn look(watcher: Option<Watcher>) -> (Option<Watcher>, bool) {
    let Some(mut watcher) = watcher else { return (None, false) };
    let looked = tokio::task::spawn_blocking(move || {
        let changed = watcher.poll_now();
        (watcher, changed)
    });
    looked.await.map_or((None, false), |(watcher, changed)| (Some(watcher), changed))
}

async fn follow(watcher: Option<Watcher>, paths: Vec<PathBuf>) -> Option<Watcher> {
    let mut watcher = watcher?;
    let followed = tokio::task::spawn_blocking(move || {
        watcher.watch(paths);
        watcher
    });
    followed.await.ok()
}
