//! Who of several controllers writes: a Lease with its holder's identity, changed under an optimistic lock.
//!
//! A holder may write until its term ends, which it counts from before it asked for the Lease, by a clock that nobody sets.
//! Another one takes the Lease over only when it has seen it unchanged for a whole [`TERM`], counted from after the answer in
//! which it first saw it so. So there are never two, whatever the clocks of the machines say. A write that was sent within the
//! term and is carried out after it is caught by the optimistic lock of the object that it writes.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as LeaseObject, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff;
use kube::Api;
use kube::api::PostParams;
use tokio::time::Instant;

use super::{Cluster, ClusterError};
use crate::clock::Timestamp;

/// How long a Lease counts after it was asked for.
pub const TERM: Duration = Duration::from_secs(15);
/// From one renewal to the next; a failed one is tried again after a sixth of it.
pub const RENEWAL: Duration = Duration::from_secs(4);
/// A term ends this much earlier for its holder than for others: what it had begun by then is done.
const MARGIN: Duration = Duration::from_secs(3);

/// One that wants to be, or is, the one that writes.
#[derive(Debug)]
pub struct Candidate {
    cluster: Cluster,
    name: String,
    identity: String,
    /// The Lease of another as it was last seen to change, and when.
    seen: Option<(LeaseSpec, Instant)>,
    /// Whether another one was seen to renew it.
    renewed: bool,
    /// End of our term.
    until: Option<Instant>,
}

/// How it stands after a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// We write until then, at the latest.
    Holds(Instant),
    /// Another one does.
    Waits {
        /// Its identity.
        holder: String,
    },
}

impl Candidate {
    /// One that has not asked yet. `identity` has to be another for each process.
    #[must_use]
    pub fn new(cluster: Cluster, name: &str, identity: &str) -> Self {
        Self { cluster, name: name.to_owned(), identity: identity.to_owned(), seen: None, renewed: false, until: None }
    }

    /// Asks for the Lease, or renews it.
    ///
    /// # Errors
    /// [`ClusterError`]: nothing changed for us; a term that we had goes on to its end.
    pub async fn ask(&mut self, now: Timestamp) -> Result<Standing, ClusterError> {
        let begin = Instant::now();
        let leases = self.leases();
        let Some(mut lease) = self.cluster.call("get a Lease", leases.get_opt(&self.name)).await? else {
            let mut lease = LeaseObject::default();
            lease.metadata.name = Some(self.name.clone());
            lease.metadata.namespace = Some(self.cluster.namespace().to_owned());
            lease.spec = Some(self.spec(None, now));
            return match self.cluster.call("create a Lease", leases.create(&PostParams::default(), &lease)).await {
                Ok(_) => Ok(self.holds(begin)),
                Err(error) if error.is_conflict() => Ok(self.waits("another one")),
                Err(error) => Err(error),
            };
        };
        let spec = lease.spec.take().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        if holder != self.identity && !holder.is_empty() && !self.has_expired(&spec) {
            return Ok(self.waits(&holder));
        }
        self.take(lease, &spec, begin, now).await
    }

    /// Whether another one was seen to renew the Lease since this one last held it: somebody lives.
    #[must_use]
    pub const fn is_renewed_by_another(&self) -> bool {
        self.renewed
    }

    /// Takes the Lease although another one renews it. What that one had begun may go on until the end of its term, so whoever
    /// takes it writes nothing before a whole [`TERM`] has passed since.
    ///
    /// # Errors
    /// As of [`ask`](Self::ask).
    pub async fn seize(&mut self, now: Timestamp) -> Result<Standing, ClusterError> {
        let begin = Instant::now();
        let found = self.cluster.call("get a Lease", self.leases().get_opt(&self.name)).await?;
        match found {
            Some(mut lease) => {
                let spec = lease.spec.take().unwrap_or_default();
                self.take(lease, &spec, begin, now).await
            }
            None => self.ask(now).await,
        }
    }

    /// The object keeps its resource version: somebody who was faster is not overwritten.
    async fn take(
        &mut self,
        mut lease: LeaseObject,
        before: &LeaseSpec,
        begin: Instant,
        now: Timestamp,
    ) -> Result<Standing, ClusterError> {
        lease.spec = Some(self.spec(Some(before), now));
        let leases = self.leases();
        match self.cluster.call("take a Lease", leases.replace(&self.name, &PostParams::default(), &lease)).await {
            Ok(_) => Ok(self.holds(begin)),
            Err(error) if error.is_conflict() => Ok(self.waits("another one")),
            Err(error) => Err(error),
        }
    }

    /// Gives the Lease back at the end, so that the next one needs not wait.
    ///
    /// # Errors
    /// [`ClusterError`]: it ends by itself.
    pub async fn give_back(&mut self) -> Result<(), ClusterError> {
        if self.until.take().is_none() {
            return Ok(());
        }
        let leases = self.leases();
        let Some(mut lease) = self.cluster.call("get a Lease", leases.get_opt(&self.name)).await? else {
            return Ok(());
        };
        if let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_ref() == Some(&self.identity)) {
            spec.holder_identity = Some(String::new());
            self.cluster.call("give a Lease back", leases.replace(&self.name, &PostParams::default(), &lease)).await?;
        }
        Ok(())
    }

    fn holds(&mut self, begin: Instant) -> Standing {
        let until = begin + (TERM - MARGIN);
        (self.seen, self.renewed, self.until) = (None, false, Some(until));
        Standing::Holds(until)
    }

    fn waits(&mut self, holder: &str) -> Standing {
        self.until = None;
        Standing::Waits { holder: holder.to_owned() }
    }

    /// Whether another one's Lease has not changed for a whole term, as we saw it. Its own times are not looked at.
    fn has_expired(&mut self, spec: &LeaseSpec) -> bool {
        let now = Instant::now();
        match &self.seen {
            Some((seen, since)) if seen == spec => now.duration_since(*since) >= TERM,
            before => {
                let is_same_holder = |(seen, _): &(LeaseSpec, Instant)| seen.holder_identity == spec.holder_identity;
                self.renewed |= before.as_ref().is_some_and(is_same_holder);
                self.seen = Some((spec.clone(), now));
                false
            }
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>, now: Timestamp) -> LeaseSpec {
        let millis = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let time = jiff::Timestamp::from_millisecond(millis).ok().map(MicroTime);
        let ours = before.filter(|before| before.holder_identity.as_ref() == Some(&self.identity));
        let transitions = before.map_or(0, |before| before.lease_transitions.unwrap_or_default());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(TERM.as_secs()).ok(),
            acquire_time: ours.map_or_else(|| time.clone(), |ours| ours.acquire_time.clone()),
            renew_time: time,
            lease_transitions: Some(transitions + i32::from(before.is_some() && ours.is_none())),
            ..LeaseSpec::default()
        }
    }

    fn leases(&self) -> Api<LeaseObject> {
        Api::namespaced(self.cluster.client().clone(), self.cluster.namespace())
    }
}
