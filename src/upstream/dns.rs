//! Names to addresses: the system's own resolver on threads of its own, one look-up per name at a time, remembered for
//! a while, and the last answer used on when the next does not come.
//!
//! The guard in front of it for hosts that an upstream sent us to is here too: what is checked is what is connected to.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::address::{AddressClass, AddressRefused, check, check_name};

/// Look-ups at the same time; an upstream that names hosts without end gets no more threads.
const MAX_THREADS: usize = 16;
/// Names that are remembered.
const MAX_NAMES: usize = 512;

/// A blocking look-up.
pub(super) type Lookup = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// Looks names up. Cheap to clone.
#[derive(Clone)]
pub(super) struct Resolver(Arc<Inner>);

struct Inner {
    lookup: Lookup,
    ttl: Duration,
    patience: Duration,
    names: Mutex<HashMap<String, Entry>>,
}

#[derive(Default)]
struct Entry {
    known: Option<Known>,
    running: Option<watch::Receiver<Outcome>>,
}

#[derive(Clone)]
struct Known {
    addresses: Arc<[IpAddr]>,
    until: Instant,
}

type Found = Result<Arc<[IpAddr]>, LookupFailed>;
type Outcome = Option<Found>;

/// A name without addresses.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the name {name} can't be looked up: {reason}")]
pub(super) struct LookupFailed {
    name: String,
    reason: String,
}

/// The system's resolver (getaddrinfo), which knows the hosts file, search domains and the order of addresses.
pub(super) fn system() -> Lookup {
    Arc::new(|name| Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect()))
}

impl Resolver {
    pub(super) fn new(lookup: Lookup, ttl: Duration, patience: Duration) -> Self {
        Self(Arc::new(Inner { lookup, ttl, patience, names: Mutex::default() }))
    }

    /// The addresses of `name`, in the order in which to try them. Safe to drop: the look-up goes on for others.
    pub(super) async fn addresses(&self, name: &str) -> Found {
        let name = name.trim_matches(['[', ']']).to_ascii_lowercase();
        let (known, mut running) = match self.known_or_running(&name) {
            Ok(fresh) => return Ok(fresh),
            Err(pair) => pair,
        };
        let wait = async {
            match running.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(failed(&name, "the look-up was given up"))),
                Err(_) => Err(failed(&name, "the look-up was given up")),
            }
        };
        let Some(known) = known else { return wait.await };
        // An old address that still works beats a name server that does not.
        match timeout(self.0.patience, wait).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(_)) | Err(_) => Ok(known.addresses),
        }
    }

    /// The next request for `name` looks it up again: its addresses could not be connected to.
    pub(super) fn expire(&self, name: &str) {
        if let Some(known) = self.0.names().get_mut(name).and_then(|entry| entry.known.as_mut()) {
            known.until = Instant::now();
        }
    }

    /// Fresh addresses, or the old ones and a look-up that runs.
    #[expect(clippy::type_complexity, reason = "said in one place")]
    fn known_or_running(&self, name: &str) -> Result<Arc<[IpAddr]>, (Option<Known>, watch::Receiver<Outcome>)> {
        let mut names = self.0.names();
        let running = names.values().filter(|entry| entry.running.is_some()).count();
        if names.len() >= MAX_NAMES && !names.contains_key(name) {
            let now = Instant::now();
            names.retain(|_, entry| entry.running.is_some() || entry.known.as_ref().is_some_and(|k| k.until > now));
        }
        let entry = names.entry(name.to_owned()).or_default();
        if let Some(known) = &entry.known
            && known.until > Instant::now()
        {
            return Ok(Arc::clone(&known.addresses));
        }
        let known = entry.known.clone();
        if let Some(running) = &entry.running {
            return Err((known, running.clone()));
        }
        let (sender, receiver) = watch::channel(None);
        if running >= MAX_THREADS {
            sender.send_replace(Some(Err(failed(name, "too many look-ups are running"))));
            return Err((known, receiver));
        }
        entry.running = Some(receiver.clone());
        let (inner, wanted) = (Arc::clone(&self.0), name.to_owned());
        let thread = std::thread::Builder::new().name("dns".to_owned());
        if let Err(error) = thread.spawn(move || inner.look_up(&wanted, &sender)) {
            entry.running = None;
            let (sender, receiver) = watch::channel(None);
            sender.send_replace(Some(Err(failed(name, &error.to_string()))));
            return Err((known, receiver));
        }
        Err((known, receiver))
    }
}

impl Inner {
    fn names(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_up(&self, name: &str, sender: &watch::Sender<Outcome>) {
        let found: Found = match (self.lookup)(name) {
            Ok(addresses) if addresses.is_empty() => Err(failed(name, "it has no address")),
            Ok(addresses) => Ok(addresses.into()),
            Err(error) => Err(failed(name, said(&error).as_str())),
        };
        let mut names = self.names();
        let entry = names.entry(name.to_owned()).or_default();
        entry.running = None;
        if let Ok(addresses) = &found {
            entry.known = Some(Known { addresses: Arc::clone(addresses), until: Instant::now() + self.ttl });
        } else if entry.known.is_none() {
            names.remove(name);
        }
        drop(names);
        sender.send_replace(Some(found));
    }
}

fn failed(name: &str, reason: &str) -> LookupFailed {
    LookupFailed { name: name.to_owned(), reason: reason.to_owned() }
}

/// The words of getaddrinfo, without the prefix that Rust adds.
fn said(error: &io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ").unwrap_or(&text).to_owned()
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move { Ok(sockets(resolver.addresses(name.as_str()).await?.to_vec())) })
    }
}

fn sockets(addresses: Vec<IpAddr>) -> Addrs {
    Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)))
}

/// The class of an upstream's own address.
#[derive(Clone, Debug)]
pub(super) enum OwnClass {
    /// Known without asking.
    Fixed(AddressClass),
    /// That of a name: the most public of its addresses.
    Named(String, Resolver),
}

impl OwnClass {
    pub(super) async fn find(&self) -> AddressClass {
        match self {
            Self::Fixed(class) => *class,
            // A name that can't be looked up gets the strictest class.
            Self::Named(name, resolver) => match resolver.addresses(name).await {
                Ok(found) => found.iter().map(|ip| AddressClass::of(*ip)).max().unwrap_or(AddressClass::Public),
                Err(_) => AddressClass::Public,
            },
        }
    }
}

/// A resolver that gives only addresses which the upstream may send us to.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) resolver: Resolver,
    pub(super) own: OwnClass,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (resolver, own) = (self.resolver.clone(), self.own.clone());
        Box::pin(async move {
            let class = own.find().await;
            check_name(name.as_str(), class)?;
            let found = resolver.addresses(name.as_str()).await?;
            let mut allowed = Vec::with_capacity(found.len());
            let mut refused: Option<AddressRefused> = None;
            for address in found.iter() {
                match check(*address, class) {
                    Ok(()) => allowed.push(*address),
                    Err(reason) => refused = Some(reason),
                }
            }
            match refused {
                Some(reason) if allowed.is_empty() => Err(reason.into()),
                _ => Ok(sockets(allowed)),
            }
        })
    }
}
