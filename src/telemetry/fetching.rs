//! Metrics of what modes Direct and Proxy do: answers by how they came about, the upstream, fills, evictions.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Registry};

use super::families::{
    CACHE_ANSWERS, EVICTED_BYTES, EVICTIONS, FILL_ERRORS, FILLS_RUNNING, Family, PEERS_ASKED, PUSHES_SHORT,
    STALE_ANSWERS, UPLOADS_PASSED_ON, UPSTREAM_ACCEPTED, UPSTREAM_CIRCUITS, UPSTREAM_DURATION, UPSTREAM_PROBES,
    UPSTREAM_RECEIVED, UPSTREAM_REQUESTS,
};
use super::labels::{
    CacheOutcome, ContentKind, EvictionCause, FillCause, PassedOn, PeersAnswer, ProbeOutcome, ShortPush, UpstreamCause,
};
use super::metrics::{Metrics, counter_vec, opts, registered};
use crate::clock::Timestamp;

/// Seconds. A registry near by answers in milliseconds; no answer is waited for longer than 25 s.
const BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0];

/// The label of a request that got a good answer; the others are causes.
const OK: &str = "ok";

pub(super) struct Fetching {
    /// By kind, then by outcome.
    answers: Vec<IntCounter>,
    received: IntCounter,
    good_requests: IntCounter,
    failed_requests: Vec<IntCounter>,
    duration: Histogram,
    circuits: IntGauge,
    probes: Vec<IntCounter>,
    accepted: IntGauge,
    fills: IntGauge,
    fill_errors: Vec<IntCounter>,
    stale: Vec<IntCounter>,
    peers_asked: Vec<IntCounter>,
    passed_on: Vec<IntCounter>,
    pushes_short: Vec<IntCounter>,
    evictions: Vec<IntCounter>,
    evicted_bytes: Vec<IntCounter>,
}

impl Fetching {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let vec = |family: &Family| registered(registry, counter_vec(family)?);
        let answers = vec(&CACHE_ANSWERS)?;
        let requests = vec(&UPSTREAM_REQUESTS)?;
        let buckets = HistogramOpts { common_opts: opts(&UPSTREAM_DURATION), buckets: BUCKETS.to_vec() };
        // Every child exists from the start: an alert on a rate needs the zero before the first fault.
        Ok(Self {
            answers: ContentKind::ALL
                .iter()
                .flat_map(|kind| CacheOutcome::ALL.iter().map(move |outcome| [kind.as_str(), outcome.as_str()]))
                .map(|labels| answers.with_label_values(&labels))
                .collect(),
            received: registered(registry, IntCounter::with_opts(opts(&UPSTREAM_RECEIVED))?)?,
            good_requests: requests.with_label_values(&[OK]),
            failed_requests: children(&requests, UpstreamCause::ALL.iter().map(|cause| cause.as_str())),
            duration: registered(registry, Histogram::with_opts(buckets)?)?,
            circuits: registered(registry, IntGauge::with_opts(opts(&UPSTREAM_CIRCUITS))?)?,
            probes: children(&vec(&UPSTREAM_PROBES)?, ProbeOutcome::ALL.iter().map(|outcome| outcome.as_str())),
            accepted: registered(registry, IntGauge::with_opts(opts(&UPSTREAM_ACCEPTED))?)?,
            fills: registered(registry, IntGauge::with_opts(opts(&FILLS_RUNNING))?)?,
            fill_errors: children(&vec(&FILL_ERRORS)?, FillCause::ALL.iter().map(|cause| cause.as_str())),
            stale: children(&vec(&STALE_ANSWERS)?, UpstreamCause::ALL.iter().map(|cause| cause.as_str())),
            peers_asked: children(&vec(&PEERS_ASKED)?, PeersAnswer::ALL.iter().map(|answer| answer.as_str())),
            passed_on: children(&vec(&UPLOADS_PASSED_ON)?, PassedOn::ALL.iter().map(|outcome| outcome.as_str())),
            pushes_short: children(&vec(&PUSHES_SHORT)?, ShortPush::ALL.iter().map(|outcome| outcome.as_str())),
            evictions: children(&vec(&EVICTIONS)?, EvictionCause::ALL.iter().map(|cause| cause.as_str())),
            evicted_bytes: children(&vec(&EVICTED_BYTES)?, EvictionCause::ALL.iter().map(|cause| cause.as_str())),
        })
    }
}

/// The children of a family with one label, in the order of its values.
fn children<'a>(family: &IntCounterVec, values: impl Iterator<Item = &'a str>) -> Vec<IntCounter> {
    values.map(|value| family.with_label_values(&[value])).collect()
}

impl Metrics {
    /// Counts an answer of mode Direct or Proxy.
    pub fn cache_answer(&self, kind: ContentKind, outcome: CacheOutcome) {
        self.fetching().answers[kind.index() * CacheOutcome::ALL.len() + outcome.index()].inc();
    }

    /// Counts bytes of bodies received from the upstream.
    pub fn upstream_received(&self, bytes: u64) {
        self.fetching().received.inc_by(bytes);
    }

    /// Counts a request to the upstream. `taken`: until the head of its answer, or until it was given up.
    pub fn upstream_request(&self, outcome: Result<(), UpstreamCause>, taken: Duration) {
        let fetching = self.fetching();
        match outcome {
            Ok(()) => fetching.good_requests.inc(),
            Err(cause) => fetching.failed_requests[cause.index()].inc(),
        }
        fetching.duration.observe(taken.as_secs_f64());
    }

    /// Says how many hosts' circuits are open.
    pub fn upstream_circuits_open(&self, open: u64) {
        self.fetching().circuits.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    /// Counts a probe of the upstream.
    pub fn upstream_probe(&self, outcome: ProbeOutcome) {
        self.fetching().probes[outcome.index()].inc();
    }

    /// Says that the upstream gave what it was asked for.
    pub fn upstream_accepted(&self, now: Timestamp) {
        self.fetching().accepted.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }

    /// Counts a fill as running until the guard is dropped.
    #[must_use]
    pub fn fill_running(&self) -> InProgress {
        self.fetching().fills.inc();
        InProgress(self.fetching().fills.clone())
    }

    /// Counts a fill that ended without its content.
    pub fn fill_error(&self, cause: FillCause) {
        self.fetching().fill_errors[cause.index()].inc();
    }

    /// Counts an answer from the store that should have been revalidated, and why it was not.
    pub fn stale_answer(&self, cause: UpstreamCause) {
        self.fetching().stale[cause.index()].inc();
    }

    /// Counts a question to all other masters.
    pub fn peers_answer(&self, answer: PeersAnswer) {
        self.fetching().peers_asked[answer.index()].inc();
    }

    /// Counts a request that was passed on to the master of its upload.
    pub fn passed_on(&self, outcome: PassedOn) {
        self.fetching().passed_on[outcome.index()].inc();
    }

    /// Counts a push that fewer masters have than have to.
    pub fn push_short(&self, is_refused: bool) {
        let outcome = if is_refused { ShortPush::Refused } else { ShortPush::Accepted };
        self.fetching().pushes_short[outcome.index()].inc();
    }

    /// Counts cached blobs that were removed, and their bytes.
    pub fn evicted(&self, cause: EvictionCause, blobs: u64, bytes: u64) {
        self.fetching().evictions[cause.index()].inc_by(blobs);
        self.fetching().evicted_bytes[cause.index()].inc_by(bytes);
    }
}

/// Something that runs, counted until it is dropped.
#[derive(Debug)]
pub struct InProgress(IntGauge);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_arrives_at_its_own_labels() {
        let metrics = Metrics::new().unwrap();
        metrics.cache_answer(ContentKind::Blob, CacheOutcome::Joined);
        metrics.cache_answer(ContentKind::Referrers, CacheOutcome::Bypassed);
        metrics.upstream_received(11);
        metrics.upstream_request(Ok(()), Duration::from_millis(20));
        metrics.upstream_request(Err(UpstreamCause::ServerError), Duration::from_millis(20));
        metrics.upstream_circuits_open(2);
        metrics.upstream_probe(ProbeOutcome::NotFound);
        metrics.upstream_accepted(Timestamp::from_millis(1_700_000_000_999));
        metrics.fill_error(FillCause::DigestMismatch);
        metrics.stale_answer(UpstreamCause::RateLimited);
        metrics.peers_answer(PeersAnswer::Unanswered);
        metrics.passed_on(PassedOn::Unanswered);
        metrics.push_short(true);
        metrics.evicted(EvictionCause::Ttl, 3, 700);
        let fill = metrics.fill_running();
        let text = metrics.render().unwrap();
        for line in [
            "d8_registry_cache_answers_total{kind=\"blob\",outcome=\"joined\"} 1",
            "d8_registry_cache_answers_total{kind=\"blob\",outcome=\"hit\"} 0",
            "d8_registry_cache_answers_total{kind=\"referrers\",outcome=\"bypassed\"} 1",
            "d8_registry_upstream_received_bytes_total 11",
            "d8_registry_upstream_requests_total{outcome=\"ok\"} 1",
            "d8_registry_upstream_requests_total{outcome=\"5xx\"} 1",
            "d8_registry_upstream_requests_total{outcome=\"refused\"} 0",
            "d8_registry_upstream_request_duration_seconds_count 2",
            "d8_registry_upstream_circuits_open 2",
            "d8_registry_upstream_probes_total{outcome=\"notFound\"} 1",
            "d8_registry_upstream_accepted_timestamp_seconds 1700000000",
            "d8_registry_fills_running 1",
            "d8_registry_fill_errors_total{cause=\"digest\"} 1",
            "d8_registry_stale_answers_total{cause=\"429\"} 1",
            "d8_registry_peers_asked_total{answer=\"unanswered\"} 1",
            "d8_registry_uploads_passed_on_total{outcome=\"unanswered\"} 1",
            "d8_registry_pushes_short_total{outcome=\"refused\"} 1",
            "d8_registry_evictions_total{cause=\"ttl\"} 3",
            "d8_registry_evictions_total{cause=\"room\"} 0",
            "d8_registry_evicted_bytes_total{cause=\"ttl\"} 700",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in:\n{text}");
        }
        drop(fill);
        assert!(metrics.render().unwrap().contains("d8_registry_fills_running 0"));
    }
}
