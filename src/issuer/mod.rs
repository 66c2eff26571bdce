//! A certificate that is kept in a Secret: `d8-registry pki issue --secret`.
//!
//! Runs where the authority's key is mounted, for a program elsewhere that must not have that key. Looks at the Secret again
//! and again, and writes a new pair when the one in it no longer fits: none, another authority's, another name's, or a third
//! of its life before its end. Several of them, one on each master, may look after one Secret: a write names the version that
//! was read. Never makes the Secret, and reads and writes no other.
//!
//! With a name for it the authority's certificate is published in a ConfigMap where there is none: what was interrupted between
//! the Secret with the key and that ConfigMap is made whole here, as nobody else has the authority. One that is there is never
//! changed: nodes trust it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::cluster::{Access, Cluster, ClusterError, SecretChange, StoredSecret};
use crate::jobs::{Job, JobError, Run, Runner, Schedule};
use crate::pki::{Authority, PkiError, Renewal, Subject};
use crate::telemetry::{AccessMode, Level, LogError, LogFormat, LogOptions, Logging, with_causes};

/// Keys of the Secret: those of Secrets of type `kubernetes.io/tls`, and the authority that signed.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITY: &str = "ca.crt";
/// Pause between two looks, and what chance adds to it: the masters' looks spread.
const EVERY: Duration = Duration::from_secs(60);
const JITTER: Duration = Duration::from_secs(30);
/// The first pause behind a failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// The wanted certificate.
#[derive(Clone, Debug)]
pub struct Order {
    /// PEM of the authority's certificate, and of those above it.
    pub ca_cert: PathBuf,
    /// PEM of the authority's key.
    pub ca_key: PathBuf,
    /// Whom it is for.
    pub subject: Subject,
    /// The longest life; `None`: until an hour before the authority's end.
    pub life: Option<Duration>,
    /// The Secret's name.
    pub secret: String,
    /// The ConfigMap that has to have the authority's certificate under `ca.crt`; `None`: it is not looked at.
    pub publish: Option<String>,
    /// How long [`keep`] has to have missed that ConfigMap before it makes it: a Secret that was replaced has to be what
    /// kubelets have mounted by then.
    pub publish_after: Duration,
}

/// What a look came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The certificate in the Secret fits.
    Fits {
        /// Its end, in seconds since 1970.
        not_after: u64,
    },
    /// A new one was written.
    Issued {
        /// Why; the end of a sentence.
        reason: String,
        /// The new one's end, in seconds since 1970.
        not_after: u64,
    },
}

/// Why the Secret has no certificate that fits. No variant shows a key.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The authority can't be read, or can't sign.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The API server did not do its part.
    #[error("the Secret {secret} can't be kept")]
    Cluster {
        /// Which.
        secret: String,
        /// Why.
        source: ClusterError,
    },
    /// The authority's certificate could not be published.
    #[error("the ConfigMap {name} can't be kept")]
    Publish {
        /// The ConfigMap.
        name: String,
        /// Why.
        source: ClusterError,
    },
    /// Somebody else has to make it, with the right to do so.
    #[error("there is no Secret {0}")]
    Absent(String),
    /// What it was asked to do in the background was dropped.
    #[error("the program ends")]
    Ends,
    /// The log can't be set up.
    #[error("log")]
    Log(#[from] LogError),
    /// The process can't wait for signals.
    #[error("signals")]
    Signals(#[source] std::io::Error),
}

/// Publishes the authority's certificate where it is not published. `true`: it was done now.
///
/// # Errors
/// [`IssuerError`].
async fn publish(cluster: &Cluster, order: &Order, name: &str) -> Result<bool, IssuerError> {
    let failed = |source| IssuerError::Publish { name: name.to_owned(), source };
    if cluster.config_map(name).await.map_err(failed)?.is_some() {
        return Ok(false);
    }
    let order = order.clone();
    let read = move || {
        // Only one whose key is there, and can sign.
        let authority = Authority::read(&order.ca_cert, &order.ca_key, clock::now())?;
        // As the Secret has it: the chart compares both.
        let text = std::fs::read_to_string(&order.ca_cert).ok();
        Ok::<_, PkiError>(text.map_or_else(|| authority.certificate(), |text| format!("{}\n", text.trim())))
    };
    let certificate = tokio::task::spawn_blocking(read).await.map_err(|_| IssuerError::Ends)??;
    let data = BTreeMap::from([(AUTHORITY.to_owned(), certificate)]);
    match cluster.create_config_map(name, BTreeMap::new(), data).await {
        Ok(()) => Ok(true),
        // Another master's was quicker.
        Err(error) if error.is_conflict() => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// Looks once, and writes where it is needed. A write that another issuer was quicker with is looked at again. Dropped
/// between two calls it leaves the Secret as the last of them did.
///
/// # Errors
/// [`IssuerError`]; the Secret is then what it was, unless the API server's answer was lost.
pub async fn keep_once(cluster: &Cluster, order: &Order) -> Result<Kept, IssuerError> {
    let failed = |source| IssuerError::Cluster { secret: order.secret.clone(), source };
    loop {
        let secret = cluster.secret(&order.secret).await.map_err(failed)?;
        let secret = secret.ok_or_else(|| IssuerError::Absent(order.secret.clone()))?;
        let version = secret.version.clone();
        let wanted = order.clone();
        // RSA keys take a second, files wait for a disk.
        let held = tokio::task::spawn_blocking(move || hold_against(&wanted, &secret));
        let (change, kept) = held.await.map_err(|_| IssuerError::Ends)??;
        let Some(change) = change else { return Ok(kept) };
        match cluster.change_secret(&order.secret, &version, change).await {
            Ok(_) => return Ok(kept),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

/// What has to be written, if anything.
fn hold_against(order: &Order, secret: &StoredSecret) -> Result<(Option<SecretChange>, Kept), PkiError> {
    let now = clock::now();
    let authority = Authority::read(&order.ca_cert, &order.ca_key, now)?;
    let present = |key: &str| secret.data.get(key).map(Vec::as_slice);
    let pair = present(CERTIFICATE).zip(present(KEY));
    let trusted = authority.certificate();
    let mut data = BTreeMap::new();
    let kept = match authority.renew(&order.subject, order.life, pair, now)? {
        Renewal::Fits { not_after } => Kept::Fits { not_after },
        Renewal::Made { pair, reason, not_after } => {
            data.insert(CERTIFICATE.to_owned(), Some(pair.certificate.into_bytes()));
            data.insert(KEY.to_owned(), Some(pair.key.as_bytes().to_vec()));
            Kept::Issued { reason, not_after }
        }
    };
    if present(AUTHORITY) != Some(trusted.as_bytes()) {
        data.insert(AUTHORITY.to_owned(), Some(trusted.into_bytes()));
    }
    let change = SecretChange { data, ..SecretChange::default() };
    Ok(((!change.data.is_empty()).then_some(change), kept))
}

/// Keeps the certificate until SIGTERM or SIGINT. A failure is logged once and tried again, be it the API server's or the
/// authority's; blocking.
///
/// # Errors
/// [`IssuerError`] if it can't start.
pub fn keep(access: &Access, namespace: &str, order: &Order) -> Result<(), IssuerError> {
    let log = LogOptions { format: LogFormat::suitable(), level: Level::Info, access: AccessMode::Off };
    let _logging = Logging::start(log)?;
    run(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(IssuerError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(IssuerError::Signals)?;
        let cluster = connect(access, namespace, order).await?;
        tracing::info!(secret = order.secret, "keeping a certificate");
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        Runner::new(tasks.clone(), stop.clone()).start(KeepCertificate {
            cluster,
            order: order.clone(),
            said: None,
            missing: None,
        });
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

/// Looks once, as [`keep_once`], and publishes the authority at once; in a runtime of its own, blocking.
///
/// # Errors
/// As [`keep_once`], and if there is no way to an API server.
pub fn issue(access: &Access, namespace: &str, order: &Order) -> Result<Kept, IssuerError> {
    run(async {
        let cluster = connect(access, namespace, order).await?;
        if let Some(name) = &order.publish {
            publish(&cluster, order, name).await?;
        }
        keep_once(&cluster, order).await
    })
}

async fn connect(access: &Access, namespace: &str, order: &Order) -> Result<Cluster, IssuerError> {
    let connected = Cluster::connect(access, namespace).await;
    connected.map_err(|source| IssuerError::Cluster { secret: order.secret.clone(), source })
}

fn run<T>(work: impl Future<Output = Result<T, IssuerError>>) -> Result<T, IssuerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(IssuerError::Signals)?.block_on(work)
}

/// Looks again and again.
#[derive(Debug)]
struct KeepCertificate {
    cluster: Cluster,
    order: Order,
    /// Why there was no certificate the last time.
    said: Option<String>,
    /// Since when the ConfigMap has been missing.
    missing: Option<Instant>,
}

impl KeepCertificate {
    /// Publishes the authority once its ConfigMap has been missing for long enough.
    async fn publish(&mut self) -> Result<(), IssuerError> {
        let Some(name) = &self.order.publish else { return Ok(()) };
        let failed = |source| IssuerError::Publish { name: name.clone(), source };
        if self.cluster.config_map(name).await.map_err(failed)?.is_some() {
            self.missing = None;
        } else if self.missing.get_or_insert_with(Instant::now).elapsed() >= self.order.publish_after {
            if publish(&self.cluster, &self.order, name).await? {
                tracing::warn!(config_map = name, "the authority was not published, and is now");
            }
            self.missing = None;
        }
        Ok(())
    }

    async fn keep(&mut self) -> Result<Kept, IssuerError> {
        let kept = keep_once(&self.cluster, &self.order).await;
        self.publish().await?;
        kept
    }
}

impl Job for KeepCertificate {
    const NAME: &'static str = "certificate";

    fn schedule(&self) -> Schedule {
        Schedule::every(EVERY).jitter(JITTER).retry(RETRY.0, RETRY.1)
    }

    async fn run(&mut self, _: Run) -> Result<(), JobError> {
        match self.keep().await {
            Ok(Kept::Issued { reason, .. }) => {
                tracing::info!(secret = self.order.secret, %reason, "a certificate is issued");
                self.said = None;
                Ok(())
            }
            Ok(Kept::Fits { .. }) => {
                if self.said.take().is_some() {
                    tracing::info!(secret = self.order.secret, "the certificate fits");
                }
                Ok(())
            }
            Err(error) => {
                let reason = with_causes(&error);
                if self.said.as_ref() != Some(&reason) {
                    tracing::error!(%reason, "there may be no certificate that fits");
                }
                self.said = Some(reason.clone());
                Err(JobError::logged(reason))
            }
        }
    }
}
