//! Secret `registry-pins`: which digests and releases the cluster runs, so that no server gives their contents away.
//!
//! Written by the controller that leads, when something is otherwise and before it is an hour old: its age says whether
//! somebody looks. All is read anew each time, nothing is kept between two looks but what was said.
//!
//! # Decisions
//! - A look that failed at any page writes nothing: what was not read may run. The Secret of before gets older, and after a day
//!   servers remove nothing by it (`Pins::MAX_AGE`).
//! - Everything that exists counts, a finished Job and the ReplicaSets of a Deployment's past too: a rollback starts those.
//! - Of releases: what is deployed, the newest that was superseded, whatever is pending, and the one that Deployment
//!   `deckhouse` runs, whatever the objects say.
//! - Nothing is left out where it is too much for a Secret: then it is not written, and an Event says so.
//! - An image by tag that never ran has no digest here: its release keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::figures::Shown;
use super::leadership::Term;
use super::look::DECKHOUSE_MODULE;
use super::sources::running_release;
use crate::clock::{self, Timestamp};
use crate::cluster::{Cluster, ClusterError, DeckhouseRelease, NewSecret, SecretChange, StoredSecret, Version};
use crate::oci::Digest;
use crate::switch::outputs::names;
use crate::telemetry::with_causes;
use crate::values::{Age, Pins, Release};

/// What is written at the latest when it is this old: with the pause before the next look it stays below an hour.
const REWRITTEN: Duration = Duration::from_secs(1800);
/// Most bytes of a Secret (`MaxSecretSize` of Kubernetes).
const MAX_SECRET: usize = 1 << 20;

/// What keeps the Secret.
#[derive(Debug)]
pub(super) struct PinsKeeper {
    pub(super) cluster: Cluster,
    /// From one look to the next, within [`PINS_INTERVALS`](super::PINS_INTERVALS).
    pub(super) interval: Duration,
    pub(super) may_write: watch::Receiver<Term>,
    pub(super) shown: Arc<Shown>,
    pub(super) stop: CancellationToken,
}

/// What a look came to.
#[derive(Debug, PartialEq, Eq)]
enum Kept {
    /// The Secret says it, since then.
    Fits(Timestamp),
    /// It was written now.
    Written(Timestamp),
    /// Deckhouse's own module is on, or another controller leads or has written meanwhile: it is not ours to write.
    NotOurs,
}

/// The Secret was not kept.
#[derive(Debug, thiserror::Error)]
enum PinsError {
    #[error("not all that the cluster runs can be read")]
    Look(#[source] ClusterError),
    #[error("it can't be written")]
    Write(#[source] ClusterError),
    #[error("{images} images and {releases} releases are more than a Secret holds")]
    TooLarge { images: usize, releases: usize },
    #[error("no answer before the Lease ended")]
    Late,
}

impl PinsKeeper {
    /// Goes on until the stop.
    pub(super) async fn go(mut self) {
        let mut said: Option<String> = None;
        while let Some(until) = self.term().await {
            let kept = self.stop.run_until_cancelled(Box::pin(self.keep(until))).await;
            match kept {
                None => return,
                Some(Ok(Kept::NotOurs)) => said = None,
                Some(Ok(kept @ (Kept::Written(at) | Kept::Fits(at)))) => {
                    if said.take().is_some() {
                        tracing::info!("registry-pins says again what the cluster runs");
                    }
                    if kept == Kept::Written(at) {
                        self.shown.written(names::PINS);
                    }
                    self.shown.pinned(at);
                }
                Some(Err(error)) => {
                    self.shown.write_failed(names::PINS);
                    let sentence = with_causes(&error);
                    if said.as_ref() != Some(&sentence) {
                        tracing::warn!(error = sentence, "registry-pins stays as it is");
                        self.tell(&error).await;
                        said = Some(sentence);
                    }
                }
            }
            let pause = tokio::time::sleep(self.interval);
            if self.stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Waits until this process may write; `None` at the stop.
    async fn term(&mut self) -> Option<Instant> {
        loop {
            let until = *self.may_write.borrow_and_update();
            if let Some(until) = until.filter(|until| *until > Instant::now()) {
                return Some(until);
            }
            self.stop.run_until_cancelled(self.may_write.changed()).await?.ok()?;
        }
    }

    /// Tells people of what they alone can mend.
    async fn tell(&self, error: &PinsError) {
        let PinsError::TooLarge { .. } = error else { return };
        let message = format!(
            "registry-pins stays as it is: {error}. Once it is a day old nothing is collected and no rule of retention removes \
             anything"
        );
        let told = self.cluster.publish(names::STATE, true, "PinsTooLarge", &message, clock::now());
        if let Some(Err(error)) = self.stop.run_until_cancelled(told).await {
            tracing::warn!(error = with_causes(&error), "an Event can't be published");
        }
    }

    /// Looks at everything, then writes where the Secret says something else or is old.
    async fn keep(&self, until: Instant) -> Result<Kept, PinsError> {
        let look = async {
            if self.cluster.is_module_enabled(DECKHOUSE_MODULE).await? {
                return Ok(None);
            }
            let images = self.cluster.digests_in_use().await?;
            let releases = releases(&self.cluster.deckhouse_releases().await?, self.runs().await?);
            // Last: what was written meanwhile by another one has another version.
            Ok(Some((images, releases, self.cluster.secret(names::PINS).await?)))
        };
        let Some((images, releases, found)) = look.await.map_err(PinsError::Look)? else { return Ok(Kept::NotOurs) };
        let now = clock::now();
        if let Some(written_at) = found.as_ref().and_then(|found| holds(found, &releases, &images, now)) {
            return Ok(Kept::Fits(written_at));
        }
        let text = document(&Pins { written_at: now, releases, images })?;
        // A renewal meanwhile makes the term longer.
        let Some(until) = self.may_write.borrow().map(|newer| newer.max(until)) else { return Ok(Kept::NotOurs) };
        match tokio::time::timeout_at(until, self.write(found, text)).await.map_err(|_| PinsError::Late)? {
            Ok(()) => Ok(Kept::Written(now)),
            Err(error) if error.is_conflict() => Ok(Kept::NotOurs),
            Err(error) => Err(PinsError::Write(error)),
        }
    }

    /// The release that Deployment `deckhouse` runs; `None` for a build that is none.
    async fn runs(&self) -> Result<Option<Release>, ClusterError> {
        let registry = self.cluster.secret(names::DECKHOUSE_REGISTRY).await?;
        let field = |key| registry.as_ref().and_then(|secret| secret.text(key)).unwrap_or_default().trim();
        let base = format!("{}/{}", field("address"), field("path").trim_matches('/'));
        let running = running_release(&self.cluster, base.trim_end_matches('/').to_owned()).await?;
        Ok(running.and_then(|running| Release::of_tag(&running.tag().ok()?)))
    }

    async fn write(&self, found: Option<StoredSecret>, text: Vec<u8>) -> Result<(), ClusterError> {
        let key = names::PINS_KEY.to_owned();
        match found {
            None => {
                let secret = NewSecret {
                    name: names::PINS.to_owned(),
                    kind: "Opaque".to_owned(),
                    labels: BTreeMap::from([("app".to_owned(), "d8-registry".to_owned())]),
                    annotations: BTreeMap::from([("helm.sh/resource-policy".to_owned(), "keep".to_owned())]),
                    data: BTreeMap::from([(key, text)]),
                };
                self.cluster.create_secret(secret).await.map(drop)
            }
            Some(StoredSecret { version: Version(version), .. }) => {
                let data = BTreeMap::from([(key, Some(text))]);
                let change = SecretChange { data, ..SecretChange::default() };
                self.cluster.change_secret(names::PINS, &Version(version), change).await.map(drop)
            }
        }
    }
}

/// What is written; all of it, or nothing.
fn document(pins: &Pins) -> Result<Vec<u8>, PinsError> {
    let (images, releases) = (pins.images.len(), pins.releases.len());
    let fits = images <= Pins::MAX_IMAGES && releases <= Pins::MAX_RELEASES;
    let text = if fits { pins.render_within(MAX_SECRET) } else { None };
    text.ok_or(PinsError::TooLarge { images, releases })
}

/// Since when a Secret has said this, if it does and is young enough.
fn holds(
    found: &StoredSecret,
    releases: &BTreeSet<Release>,
    images: &BTreeSet<Digest>,
    now: Timestamp,
) -> Option<Timestamp> {
    let pins = Pins::parse(found.data.get(names::PINS_KEY)?).ok()?;
    let is_young = matches!(pins.age(now), Age::Fresh(age) if age < REWRITTEN);
    (is_young && pins.releases == *releases && pins.images == *images).then_some(pins.written_at)
}

/// Releases that stay.
fn releases(found: &[DeckhouseRelease], runs: Option<Release>) -> BTreeSet<Release> {
    let of = |wanted: &'static [&'static str]| {
        let found = found.iter().filter(|release| wanted.contains(&release.phase.as_str()));
        found.filter_map(|release| release.version.parse::<Release>().ok())
    };
    // One that Deckhouse has not looked at yet is none that it has done with.
    let mut kept: BTreeSet<Release> = of(&["Deployed", "Pending", ""]).chain(runs).collect();
    kept.extend(of(&["Superseded"]).max());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn release(version: &str, phase: &str) -> DeckhouseRelease {
        DeckhouseRelease { version: version.to_owned(), phase: phase.to_owned() }
    }

    #[test]
    fn what_is_deployed_what_was_before_and_what_comes_stay() {
        let found = [
            release("v1.68.9", "Superseded"),
            release("v1.69.12", "Superseded"),
            release("v1.69.2", "Superseded"),
            release("v1.70.1", "Deployed"),
            release("v1.70.3", "Pending"),
            release("v1.71.0", ""),
            release("v1.70.2", "Skipped"),
            release("v1.70.0", "Suspended"),
            release("no version", "Deployed"),
        ];
        let all = |runs: Option<&str>| -> Vec<String> {
            let kept = releases(&found, runs.map(|runs| runs.parse().unwrap()));
            kept.iter().map(ToString::to_string).collect()
        };
        assert_eq!(all(Some("v1.70.1")), ["v1.69.12", "v1.70.1", "v1.70.3", "v1.71.0"]);
        // Deckhouse still runs with the one before, or with one that was put there by hand.
        assert_eq!(all(Some("v1.67.0")), ["v1.67.0", "v1.69.12", "v1.70.1", "v1.70.3", "v1.71.0"]);
        assert_eq!(all(None), ["v1.69.12", "v1.70.1", "v1.70.3", "v1.71.0"]);
    }

    #[test]
    fn what_a_secret_does_not_hold_is_an_error_with_its_numbers_and_no_shorter_list() {
        let pins = |count: u32| Pins {
            written_at: Timestamp::from_millis(1_795_966_200_000),
            releases: BTreeSet::from(["v1.70.1".parse().unwrap()]),
            images: (0..count).map(|number| Algorithm::Sha256.digest(&number.to_le_bytes())).collect(),
        };
        for count in [10, 13_700, 13_900, 25_000] {
            let written = document(&pins(count)).unwrap();
            assert!(written.len() <= MAX_SECRET);
            assert_eq!(Pins::parse(&written), Ok(pins(count)));
        }
        let refused = document(&pins(40_000)).unwrap_err();
        assert_eq!(refused.to_string(), "40000 images and 1 releases are more than a Secret holds");
    }

    #[test]
    fn a_secret_is_written_again_for_other_digests_and_before_it_is_an_hour_old() {
        let now = Timestamp::from_millis(1_795_966_200_000);
        let (releases, images) =
            (BTreeSet::from(["v1.70.1".parse().unwrap()]), BTreeSet::from([Algorithm::Sha256.digest(b"a")]));
        let secret = |text: String| StoredSecret {
            name: names::PINS.to_owned(),
            version: Version("1".to_owned()),
            uid: String::new(),
            kind: "Opaque".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            data: BTreeMap::from([(names::PINS_KEY.to_owned(), text.into_bytes())]),
        };
        let pins = |ago: u64| Pins {
            written_at: Timestamp::from_millis(now.as_millis() - ago * 1000),
            releases: releases.clone(),
            images: images.clone(),
        };
        assert_eq!(holds(&secret(pins(1799).render()), &releases, &images, now), Some(pins(1799).written_at));
        assert_eq!(holds(&secret(pins(1800).render()), &releases, &images, now), None);
        assert!(REWRITTEN + *super::super::PINS_INTERVALS.end() <= Duration::from_secs(3600));
        assert_eq!(holds(&secret(pins(0).render()), &BTreeSet::new(), &images, now), None);
        assert_eq!(holds(&secret(pins(0).render()), &releases, &BTreeSet::new(), now), None);
        assert_eq!(holds(&secret("garbled".to_owned()), &releases, &images, now), None);
        // Written by a clock that was wrong.
        let ahead = Pins { written_at: Timestamp::from_millis(now.as_millis() + 3_600_000), ..pins(0) };
        assert_eq!(holds(&secret(ahead.render()), &releases, &images, now), None);
    }
}
