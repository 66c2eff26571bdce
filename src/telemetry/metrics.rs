//! The metrics that are counted as things happen, in a registry of their own. Handles of children are kept in arrays by
//! label, so that a request costs a few atomic additions and no look-up.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use super::families::{
    AUTH_FAILURES, CONFIG_RELOADS, DISK_ERRORS, Family, HTTP_DURATION, HTTP_IN_FLIGHT, HTTP_RECEIVED, HTTP_REQUESTS,
    HTTP_SENT, PREVIOUS_ANSWERS, PUSHES_REFUSED, TLS_FAILURES,
};
use super::fetching::Fetching;
use super::labels::{
    AuthFailureReason, Method, ReloadOutcome, RoomLack, Route, STATUS_LABELS, TlsFailureReason, status,
};
use super::process::ProcessCollector;
use super::samples::Samples;

/// Seconds. A HEAD is answered in well under a millisecond; a layer of some gigabytes takes minutes, and uploads that
/// take longer than ten are worth telling apart from nothing else.
const BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0];

/// The metrics can't be set up: two families with one name, a fault of the program.
#[derive(Debug, thiserror::Error)]
#[error("can't set up the metrics")]
pub struct MetricsError(#[from] prometheus::Error);

/// The metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    requests: Requests,
    in_flight: IntGauge,
    received: IntCounter,
    sent: IntCounter,
    auth_failures: Vec<IntCounter>,
    pushes_refused: Vec<IntCounter>,
    tls_failures: Vec<IntCounter>,
    disk_errors: IntCounter,
    previous_answers: IntCounter,
    config_reloads: Vec<IntCounter>,
    fetching: Fetching,
}

struct Requests {
    counter: IntCounterVec,
    counters: Box<[OnceLock<IntCounter>]>,
    histogram: HistogramVec,
    histograms: Box<[OnceLock<Histogram>]>,
}

impl Metrics {
    /// Registers the families of [`super::FAMILIES`] that are no [`Samples`].
    ///
    /// # Errors
    /// [`MetricsError`], never in a correct program.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::new()?))?;
        let auth_failures = registered(&registry, counter_vec(&AUTH_FAILURES)?)?;
        let pushes_refused = registered(&registry, counter_vec(&PUSHES_REFUSED)?)?;
        let tls_failures = registered(&registry, counter_vec(&TLS_FAILURES)?)?;
        let config_reloads = registered(&registry, counter_vec(&CONFIG_RELOADS)?)?;
        let inner = Inner {
            requests: Requests::new(&registry)?,
            in_flight: registered(&registry, IntGauge::with_opts(opts(&HTTP_IN_FLIGHT))?)?,
            received: registered(&registry, IntCounter::with_opts(opts(&HTTP_RECEIVED))?)?,
            sent: registered(&registry, IntCounter::with_opts(opts(&HTTP_SENT))?)?,
            auth_failures: AuthFailureReason::ALL
                .iter()
                .map(|reason| auth_failures.with_label_values(&[reason.as_str()]))
                .collect(),
            disk_errors: registered(&registry, IntCounter::with_opts(opts(&DISK_ERRORS))?)?,
            previous_answers: registered(&registry, IntCounter::with_opts(opts(&PREVIOUS_ANSWERS))?)?,
            pushes_refused: RoomLack::ALL
                .iter()
                .map(|room| pushes_refused.with_label_values(&[room.as_str()]))
                .collect(),
            tls_failures: TlsFailureReason::ALL
                .iter()
                .map(|reason| tls_failures.with_label_values(&[reason.as_str()]))
                .collect(),
            config_reloads: ReloadOutcome::ALL
                .iter()
                .map(|outcome| config_reloads.with_label_values(&[outcome.as_str()]))
                .collect(),
            fetching: Fetching::new(&registry)?,
            registry,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Counts a request as in flight until the guard is dropped; that should be at the end of its answer's body.
    #[must_use]
    pub fn in_flight(&self) -> InFlight {
        self.0.in_flight.inc();
        InFlight(self.0.in_flight.clone())
    }

    /// Counts an answered request. `taken`: from its head to the last byte of the answer.
    pub fn request(&self, method: Method, route: Route, status: u16, taken: Duration) {
        self.0.requests.count(method, route, status, taken);
    }

    /// Counts an answer that failed or broke off because the store's disk did.
    pub fn disk_error(&self) {
        self.0.disk_errors.inc();
    }

    /// Counts an answer by a mode before the one in force.
    pub fn previous_answer(&self) {
        self.0.previous_answers.inc();
    }

    /// Such answers since the process began.
    #[must_use]
    pub fn previous_answers(&self) -> u64 {
        self.0.previous_answers.get()
    }

    /// Counts bytes of request bodies.
    pub fn received(&self, bytes: u64) {
        self.0.received.inc_by(bytes);
    }

    /// Counts bytes of response bodies.
    pub fn sent(&self, bytes: u64) {
        self.0.sent.inc_by(bytes);
    }

    /// Counts a request that was not let through.
    pub fn auth_failure(&self, reason: AuthFailureReason) {
        self.0.auth_failures[reason.index()].inc();
    }

    /// Counts a push that was refused for lack of room.
    pub fn push_refused(&self, room: RoomLack) {
        self.0.pushes_refused[room.index()].inc();
    }

    /// Counts a TLS handshake that came to nothing.
    pub fn tls_failure(&self, reason: TlsFailureReason) {
        self.0.tls_failures[reason.index()].inc();
    }

    /// Counts a reload.
    pub fn config_reload(&self, outcome: ReloadOutcome) {
        self.0.config_reloads[outcome.index()].inc();
    }

    pub(super) fn fetching(&self) -> &Fetching {
        &self.0.fetching
    }

    /// What was counted, in the text format, version 0.0.4.
    ///
    /// # Errors
    /// [`MetricsError`] of the encoder.
    pub fn render(&self) -> Result<String, MetricsError> {
        self.render_with(Samples::default())
    }

    /// The same with what was asked for this scrape. Families are in the order of their names.
    ///
    /// # Errors
    /// [`MetricsError`] of the encoder.
    pub fn render_with(&self, samples: Samples) -> Result<String, MetricsError> {
        let mut families = self.0.registry.gather();
        families.extend(samples.into_families());
        families.sort_by(|one, other| one.name().cmp(other.name()));
        Ok(TextEncoder::new().encode_to_string(&families)?)
    }

    /// Samples alone, in the same format: of a program that counts nothing else.
    ///
    /// # Errors
    /// [`MetricsError`] of the encoder.
    pub fn render_only(samples: Samples) -> Result<String, MetricsError> {
        Ok(TextEncoder::new().encode_to_string(&samples.into_families())?)
    }

    /// The content type of [`Metrics::render`].
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A request in flight.
#[derive(Debug)]
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Requests {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let buckets = HistogramOpts { common_opts: opts(&HTTP_DURATION), buckets: BUCKETS.to_vec() };
        let pairs = Method::ALL.len() * Route::ALL.len();
        Ok(Self {
            counter: registered(registry, counter_vec(&HTTP_REQUESTS)?)?,
            counters: (0..pairs * STATUS_LABELS).map(|_| OnceLock::new()).collect(),
            histogram: registered(registry, HistogramVec::new(buckets, HTTP_DURATION.labels)?)?,
            histograms: (0..pairs).map(|_| OnceLock::new()).collect(),
        })
    }

    fn count(&self, method: Method, route: Route, code: u16, taken: Duration) {
        let pair = method.index() * Route::ALL.len() + route.index();
        let (place, label) = status(code);
        // Children come into being with their first request: few of the combinations ever occur.
        self.counters[pair * STATUS_LABELS + place]
            .get_or_init(|| self.counter.with_label_values(&[method.as_str(), route.as_str(), label]))
            .inc();
        self.histograms[pair]
            .get_or_init(|| self.histogram.with_label_values(&[method.as_str(), route.as_str()]))
            .observe(taken.as_secs_f64());
    }
}

/// The options of a family without its labels.
pub(super) fn opts(family: &Family) -> Opts {
    Opts::new(family.name, family.help)
}

pub(super) fn counter_vec(family: &Family) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(opts(family), family.labels)
}

pub(super) fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests;
