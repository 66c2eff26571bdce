//! Files that a node needs before a pod can be started there: `d8-registry static-pod` and `own-folder`.
//!
//! A static pod can read neither Secrets nor ConfigMaps. So a pod that has them mounted keeps copies of them on the
//! node, and the pod's manifest where the kubelet looks for it. Owns the folders that carry its mark and that one
//! manifest; never writes into a folder that somebody else filled, and knows nothing of what the files mean.
//!
//! # Decisions
//!
//! - A DaemonSet that runs our own image puts the manifest and the copies on the node. A shell script in another image
//!   is one more image that has to be there before the registry. A file per Secret by hand is changed by nobody after a
//!   rotation. The directories carry a mark; in one without it nothing is changed.
//! - A copied directory is replaced by another one, in one rename (`RENAME_EXCHANGE`). File by file, the server read the new
//!   name of an upstream with the password of the old one. A link that is swapped, as the kubelet does it, is one that whoever owns
//!   the directory may swap too. So what reads the copies has to have the directory above them mounted.
//! - A change is taken up when two looks have seen the same: the kubelet brings Secrets of one change one after the other.
//! - `own-folder` gives away only a store's directory or an empty one. Any directory: a path that is one segment short
//!   would take the present registry's data from it.
//! - In a copied directory links are files and are removed; `own-folder` gives away the links themselves. Following
//!   them, root would remove, write or give away files where the copies' owner points.

mod copy;
mod owner;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use owner::{InvalidOwner, Owner, own_folder};

use crate::fs::{self, FsError};
use crate::jobs::{Job, JobError, Run, Runner, Schedule};
use crate::telemetry::{AccessMode, Level, LogError, LogFormat, LogOptions, Logging, with_causes};

/// Pause between two comparisons. The kubelet itself brings a changed Secret only after a minute.
const EVERY: Duration = Duration::from_secs(2);
/// Manifests in `/etc/kubernetes/manifests` are root's alone.
const MANIFEST_MODE: u32 = 0o600;

/// A source and its target, `SOURCE=TARGET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The mounted file or directory.
    pub source: PathBuf,
    /// Its place on the node.
    pub target: PathBuf,
}

/// No `SOURCE=TARGET`.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0:?} is not SOURCE=TARGET")]
pub struct InvalidPlaced(String);

impl FromStr for Placed {
    type Err = InvalidPlaced;

    fn from_str(text: &str) -> Result<Self, InvalidPlaced> {
        match text.split_once('=') {
            Some((source, target)) if !source.is_empty() && !target.is_empty() => {
                Ok(Self { source: source.into(), target: target.into() })
            }
            _ => Err(InvalidPlaced(text.to_owned())),
        }
    }
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.source.display(), self.target.display())
    }
}

/// The files wanted on the node.
#[derive(Clone, Debug)]
pub struct Order {
    /// Folders that are kept the same as others.
    pub copies: Vec<Placed>,
    /// The manifest: put last and removed first.
    pub manifest: Option<Placed>,
    /// Owner of the copies; `None`: this process's user.
    pub owner: Option<Owner>,
    /// Whether all of it is to be gone.
    pub remove: bool,
}

/// Why a node's files are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum NodeFilesError {
    /// A file or folder can't be read, removed or given away.
    #[error("can't {action} {}", path.display())]
    Io {
        /// The attempt, as a verb.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file can't be written.
    #[error("a file can't be written")]
    Write(#[from] FsError),
    /// The folder has files and not our mark.
    #[error("{} has files that are not ours; nothing in it was changed", path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// A file, or a symbolic link to who knows where.
    #[error("{} is a file or a symbolic link where a folder has to be; nothing was changed", path.display())]
    NoFolder {
        /// Which.
        path: PathBuf,
    },
    /// More than a mounted Secret can hold.
    #[error("{} is larger than {} bytes", path.display(), copy::MAX_BYTES)]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// The log can't be set up.
    #[error("log")]
    Log(#[from] LogError),
}

impl NodeFilesError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Brings the node's files to what is wanted; the number of files that were written or removed. Blocking.
///
/// # Errors
/// [`NodeFilesError`]; the manifest is then what it was, unless it is to be removed.
pub fn place(order: &Order) -> Result<usize, NodeFilesError> {
    let mut changed = 0;
    if order.remove {
        if let Some(manifest) = &order.manifest {
            changed += usize::from(copy::remove_file(&manifest.target)?);
        }
        for copy in &order.copies {
            changed += copy::remove_folder(&copy.target)?;
        }
        return Ok(changed);
    }
    // All of them are ready before the first one is put: whoever reads two folders sees both of before or both of now, but for
    // the moment of some renames.
    let ready: Result<Vec<_>, _> = order.copies.iter().map(|copy| copy::prepare(copy, order.owner)).collect();
    for ready in ready? {
        changed += ready.put()?;
    }
    if let Some(Placed { source, target }) = &order.manifest {
        let content = copy::read(source)?;
        if copy::read(target).ok().as_ref() != Some(&content) {
            fs::replace_file(target, &content, MANIFEST_MODE)?;
            changed += 1;
        }
    }
    Ok(changed)
}

/// SHA-256 over all that the node's files are made of.
fn fingerprint(order: &Order) -> Result<[u8; 32], NodeFilesError> {
    let mut sum = Sha256::new();
    let mut add = |bytes: &[u8]| {
        sum.update((bytes.len() as u64).to_le_bytes());
        sum.update(bytes);
    };
    for copy in &order.copies {
        for (name, content) in copy::wanted(&copy.source)? {
            add(name.as_os_str().as_encoded_bytes());
            add(&content);
        }
        add(b"");
    }
    if let Some(manifest) = &order.manifest {
        add(&copy::read(&manifest.source)?);
    }
    Ok(sum.finalize().into())
}

/// Keeps the node's files as wanted until SIGTERM or SIGINT; what was placed stays then. A failure is logged once and
/// tried again; blocking.
///
/// # Errors
/// [`NodeFilesError`] if it can't start.
pub fn keep(order: &Order) -> Result<(), NodeFilesError> {
    let log = LogOptions { format: LogFormat::suitable(), level: Level::Info, access: AccessMode::Off };
    let _logging = Logging::start(log)?;
    let system = |what| NodeFilesError::io(what, Path::new("/proc/self"));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("begin to wait in"))?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(system("await SIGTERM in"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system("await SIGINT in"))?;
        tracing::info!(remove = order.remove, "keeping the node's files");
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        Runner::new(tasks.clone(), stop.clone()).start(KeepFiles { order: order.clone(), seen: None, said: None });
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        Ok(())
    })
}

/// Brings the node's files to what is wanted, again and again.
#[derive(Debug)]
struct KeepFiles {
    order: Order,
    /// What the last look has seen.
    seen: Option<[u8; 32]>,
    /// Why they were not as they should be the last time.
    said: Option<String>,
}

impl KeepFiles {
    /// `None`: something has changed since the last look, and may go on changing.
    fn settle_and_place(&mut self) -> Result<Option<usize>, NodeFilesError> {
        if !self.order.remove {
            let now = fingerprint(&self.order)?;
            // At the first look everything was mounted before this process began.
            if self.seen.replace(now).is_some_and(|before| before != now) {
                return Ok(None);
            }
        }
        place(&self.order).map(Some)
    }
}

impl Job for KeepFiles {
    const NAME: &'static str = "node-files";

    fn schedule(&self) -> Schedule {
        Schedule::every(EVERY)
    }

    async fn run(&mut self, _: Run) -> Result<(), JobError> {
        // Small files, and nothing else runs on this thread.
        match self.settle_and_place() {
            Ok(None) => Ok(()),
            Ok(Some(changed)) => {
                if changed > 0 || self.said.is_some() {
                    tracing::info!(files = changed, "the node's files are as they should be");
                }
                self.said = None;
                Ok(())
            }
            Err(error) => {
                let reason = with_causes(&error);
                if self.said.as_ref() != Some(&reason) {
                    tracing::error!(%reason, "the node's files are not as they should be");
                }
                self.said = Some(reason.clone());
                Err(JobError::logged(reason))
            }
        }
    }
}
