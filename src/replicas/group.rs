//! The masters of one list, with the clients that ask them.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use super::{Addresses, MasterId, ReplicaFiles};
use crate::telemetry::{Metrics, MetricsError};
use crate::upstream::{
    ClientCertificate, Credentials, EndpointOptions, Face, ProxyVariables, Scheme, Upstream, UpstreamLimits,
    UpstreamOptions, UpstreamSetupError,
};
use crate::values::{Target, TargetListError};

/// Most masters of a list: each costs a client, and each miss a question to every one.
const MOST_MASTERS: usize = 8;

/// Masters are near: who does not take a connection within this is away.
const CONNECT: Duration = Duration::from_secs(1);

/// Longest wait for the head of a peer's answer. Its store may wait for its disk.
const FIRST_BYTE: Duration = Duration::from_secs(5);

/// The files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// A file can't be read.
    #[error("can't read {path}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The list of masters is none.
    #[error("{path} is no list of masters")]
    List {
        /// Its path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: TargetListError,
    },
    /// The list is longer than a cluster has masters.
    #[error("{path} names more than {MOST_MASTERS} masters")]
    TooMany {
        /// Its path.
        path: PathBuf,
    },
    /// Certificate and key can't be used.
    #[error("{path}: {reason}")]
    Certificate {
        /// That of the certificate.
        path: PathBuf,
        /// A sentence without key material.
        reason: String,
    },
    /// A client can't be set up.
    #[error("a master can't be asked")]
    Client(#[from] UpstreamSetupError),
    /// The clients' own metrics can't be set up.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// What we prove who we are by, and whom we believe.
#[derive(Debug)]
pub(super) struct Identity {
    certificate: ClientCertificate,
    /// PEM.
    ca: String,
    addresses: Vec<IpAddr>,
    /// The bytes of the three files: other ones make other clients.
    made_of: Zeroizing<Vec<u8>>,
}

/// The masters of a list.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// A list was read, whoever stands in it.
    pub(super) is_listed: bool,
    /// Of all masters, this one too.
    pub(super) addresses: Addresses,
    /// This one, if it is in the list.
    pub(super) own: Option<MasterId>,
    /// This one has the lowest address of the list.
    pub(super) is_first: bool,
    /// The others.
    pub(super) peers: Vec<Upstream>,
    /// What is in force and probably not meant so.
    pub(super) warning: Option<String>,
    /// When our certificate stops being valid, in seconds since 1970; `None`: there is none.
    pub(super) expiry: Option<u64>,
    made_of: Zeroizing<Vec<u8>>,
}

fn read_file(path: &Path) -> Result<Vec<u8>, GroupError> {
    std::fs::read(path).map_err(|source| GroupError::Read { path: path.to_owned(), source })
}

impl Identity {
    /// Reads certificate, key and authority; blocking.
    ///
    /// # Errors
    /// [`GroupError`].
    pub(super) fn read(files: &ReplicaFiles) -> Result<Self, GroupError> {
        let ReplicaFiles { certificate: path, key, ca, .. } = files;
        let (chain, key, ca) = (read_file(path)?, Zeroizing::new(read_file(key)?), read_file(ca)?);
        let wrong = |reason: String| GroupError::Certificate { path: path.clone(), reason };
        let certificate = ClientCertificate::from_pem(&chain, &key).map_err(wrong)?;
        let addresses = certificate.addresses().to_vec();
        let mut made_of = Zeroizing::new(Vec::with_capacity(chain.len() + key.len() + ca.len()));
        for part in [&chain, &*key, &ca] {
            made_of.extend_from_slice(part);
        }
        Ok(Self { certificate, ca: String::from_utf8_lossy(&ca).into_owned(), addresses, made_of })
    }
}

impl Group {
    /// These others, whoever they are.
    #[cfg(test)]
    pub(super) fn of(peers: Vec<Upstream>) -> Self {
        Self { peers, ..Self::default() }
    }

    /// Reads the files. Masters that `before` has too keep their clients, with what those know of them. Blocking.
    ///
    /// # Errors
    /// [`GroupError`].
    pub(super) fn read(files: &ReplicaFiles, before: &Self, tasks: &TaskTracker) -> Result<Self, GroupError> {
        let identity = Identity::read(files)?;
        let path = files.peers.clone();
        let bytes = read_file(&path)?;
        let list = Target::list(&String::from_utf8_lossy(&bytes));
        let list = list.map_err(|source| GroupError::List { path: path.clone(), source })?;
        if list.len() > MOST_MASTERS {
            return Err(GroupError::TooMany { path });
        }
        let address = |target: &Target| target.host().parse::<IpAddr>().ok().map(|address| address.to_canonical());
        let addresses: Addresses = list.iter().filter_map(address).collect();
        let is_own = |target: &&Target| address(target).is_some_and(|address| identity.addresses.contains(&address));
        let own = list.iter().find(is_own).map(MasterId::of);
        let is_first = addresses.first().is_some_and(|first| identity.addresses.contains(first));
        // Counted apart from those of an upstream.
        let metrics = Metrics::new()?;
        let same = before.made_of == identity.made_of;
        let mut peers: Vec<Upstream> = Vec::new();
        for target in list.iter().filter(|target| !is_own(target)) {
            let host = target.host_port();
            let known = before.peers.iter().find(|peer| same && peer.host() == host).cloned();
            if peers.iter().any(|peer| peer.host() == host) {
                continue;
            }
            peers.push(match known {
                Some(known) => known,
                None => Upstream::new(&options(host, &identity), metrics.clone(), tasks.clone())?,
            });
        }
        let warning = own.is_none().then(|| {
            format!(
                "none of the addresses in {} is in the list: the other masters don't answer",
                files.certificate.display()
            )
        });
        let expiry = Some(identity.certificate.not_after());
        Ok(Self { is_listed: true, addresses, own, is_first, peers, warning, expiry, made_of: identity.made_of })
    }
}

/// How a master is asked: once, without proxies, by its certificate and ours.
fn options(host: String, identity: &Identity) -> UpstreamOptions {
    let endpoint = EndpointOptions {
        scheme: Scheme::Https,
        host,
        path: String::new(),
        ca: Some(identity.ca.clone()),
        credentials: Credentials::Anonymous,
    };
    UpstreamOptions {
        endpoints: vec![endpoint],
        trusted_hosts: Vec::new(),
        proxy: ProxyVariables::default(),
        limits: UpstreamLimits {
            connect: CONNECT,
            first_byte: FIRST_BYTE,
            attempts: 1,
            // A time-out opens a circuit at once. A refused connection costs nothing, and opens none: it is a master that restarts,
            // which has to be asked as soon as it listens, as it may alone have what was pushed a moment ago.
            circuit_failures: u32::MAX,
            // Nobody asks while nothing is lacking, so the first burst of pulls may be what finds out that a master is back.
            circuit_trial_shared: true,
            redirects: 0,
            ..UpstreamLimits::default()
        },
        face: Face::Peers(identity.certificate.clone()),
    }
}
