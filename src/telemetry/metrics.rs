//! The metrics of the process, in a registry of their own. Handles of children are kept in arrays by label, so that a
//! request costs a few atomic additions and no look-up.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::damage::{Damage, DamageSample};
use super::families::{
    AUTH_FAILURES, BUILD_INFO, CERTIFICATE_EXPIRY, CONFIG_RELOADS, CONFIG_VALID, DISK_ERRORS, Family, HTTP_DURATION,
    HTTP_IN_FLIGHT, HTTP_RECEIVED, HTTP_REQUESTS, HTTP_SENT, INDEX_STATE, LOG_DROPPED, PUSHES_REFUSED, STORE_BUDGET,
    STORE_FREE, STORE_RESERVE, STORE_UPLOADS, STORE_USED, STORE_WRITABLE, TLS_FAILURES,
};
use super::fetching::Fetching;
use super::labels::{
    AuthFailureReason, CertificateUse, IndexLabel, Method, ReloadOutcome, RoomLack, Route, STATUS_LABELS,
    TlsFailureReason, status,
};
use super::process::ProcessCollector;
use crate::clock::Timestamp;

/// Seconds. A HEAD is answered in well under a millisecond; a layer of some gigabytes takes minutes, and uploads that
/// take longer than ten are worth telling apart from nothing else.
const BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0];

/// The metrics can't be set up: two families with one name, a fault of the program.
#[derive(Debug, thiserror::Error)]
#[error("can't set up the metrics")]
pub struct MetricsError(#[from] prometheus::Error);

/// The store's room at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSample {
    /// Bytes in use; `None` until they are counted.
    pub used: Option<u64>,
    /// The budget, if one is set.
    pub budget: Option<u64>,
    /// Free bytes of the file system.
    pub free: u64,
    /// Bytes of it that stay free.
    pub reserve: u64,
    /// Uploads that are open.
    pub uploads: usize,
    /// Why a write would not be taken; `None`: it would.
    pub refusal: Option<&'static str>,
}

/// What the index does at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexSample {
    /// Not opened yet.
    Closed,
    /// Being rebuilt; `done` objects are through.
    Rebuilding {
        /// Manifests and tags read so far.
        done: u64,
    },
    /// Answers.
    Ready,
}

impl IndexSample {
    /// Its label.
    #[must_use]
    pub const fn label(self) -> IndexLabel {
        match self {
            Self::Closed => IndexLabel::Closed,
            Self::Rebuilding { .. } => IndexLabel::Rebuilding,
            Self::Ready => IndexLabel::Ready,
        }
    }
}

/// The metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    sampled: Sampled,
    damage: Damage,
    requests: Requests,
    in_flight: IntGauge,
    received: IntCounter,
    sent: IntCounter,
    auth_failures: Vec<IntCounter>,
    pushes_refused: Vec<IntCounter>,
    tls_failures: Vec<IntCounter>,
    disk_errors: IntCounter,
    certificate_expiry: IntGaugeVec,
    config_valid: IntGauge,
    config_reloads: Vec<IntCounter>,
    build_info: IntGaugeVec,
    /// Version and revision, once they are known.
    build: OnceLock<(String, String)>,
    fetching: Fetching,
}

struct Requests {
    counter: IntCounterVec,
    counters: Box<[OnceLock<IntCounter>]>,
    histogram: HistogramVec,
    histograms: Box<[OnceLock<Histogram>]>,
}

impl Metrics {
    /// Registers every family of [`super::FAMILIES`].
    ///
    /// # Errors
    /// [`MetricsError`], never in a correct program.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let sampled = Sampled::new()?;
        registry.register(Box::new(sampled.clone()))?;
        let damage = Damage::new()?;
        registry.register(Box::new(damage.clone()))?;
        registry.register(Box::new(ProcessCollector::new()?))?;
        let auth_failures = registered(&registry, counter_vec(&AUTH_FAILURES)?)?;
        let pushes_refused = registered(&registry, counter_vec(&PUSHES_REFUSED)?)?;
        let tls_failures = registered(&registry, counter_vec(&TLS_FAILURES)?)?;
        let config_reloads = registered(&registry, counter_vec(&CONFIG_RELOADS)?)?;
        let config_valid = registered(&registry, IntGauge::with_opts(opts(&CONFIG_VALID))?)?;
        config_valid.set(1);
        let inner = Inner {
            sampled,
            damage,
            requests: Requests::new(&registry)?,
            in_flight: registered(&registry, IntGauge::with_opts(opts(&HTTP_IN_FLIGHT))?)?,
            received: registered(&registry, IntCounter::with_opts(opts(&HTTP_RECEIVED))?)?,
            sent: registered(&registry, IntCounter::with_opts(opts(&HTTP_SENT))?)?,
            auth_failures: AuthFailureReason::ALL
                .iter()
                .map(|reason| auth_failures.with_label_values(&[reason.as_str()]))
                .collect(),
            disk_errors: registered(&registry, IntCounter::with_opts(opts(&DISK_ERRORS))?)?,
            pushes_refused: RoomLack::ALL
                .iter()
                .map(|room| pushes_refused.with_label_values(&[room.as_str()]))
                .collect(),
            tls_failures: TlsFailureReason::ALL
                .iter()
                .map(|reason| tls_failures.with_label_values(&[reason.as_str()]))
                .collect(),
            certificate_expiry: registered(&registry, gauge_vec(&CERTIFICATE_EXPIRY)?)?,
            config_valid,
            config_reloads: ReloadOutcome::ALL
                .iter()
                .map(|outcome| config_reloads.with_label_values(&[outcome.as_str()]))
                .collect(),
            build_info: registered(&registry, gauge_vec(&BUILD_INFO)?)?,
            build: OnceLock::new(),
            fetching: Fetching::new(&registry)?,
            registry,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Says what is running. `mode`: one of the modes' names.
    pub fn set_build(&self, version: &str, revision: &str, mode: &str) {
        let _ = self.0.build.set((version.to_owned(), revision.to_owned()));
        self.0.build_info.with_label_values(&[version, revision, mode]).set(1);
    }

    /// Says that the mode is another one now.
    pub fn set_mode(&self, mode: &str) {
        let Some((version, revision)) = self.0.build.get() else { return };
        self.0.build_info.reset();
        self.0.build_info.with_label_values(&[version.as_str(), revision.as_str(), mode]).set(1);
    }

    /// Where the store's room is asked at each scrape; the first call counts.
    pub fn observe_store(&self, sample: impl Fn() -> StoreSample + Send + Sync + 'static) {
        let _ = self.0.sampled.0.store.set(Box::new(sample));
    }

    /// Where damage is asked for at each scrape; the first call counts.
    pub fn observe_damage(&self, sample: impl Fn() -> DamageSample + Send + Sync + 'static) {
        self.0.damage.observe(sample);
    }

    /// Where the index is asked at each scrape; the first call counts.
    pub fn observe_index(&self, sample: impl Fn() -> IndexSample + Send + Sync + 'static) {
        let _ = self.0.sampled.0.index.set(Box::new(sample));
    }

    /// Where the number of lost log lines is asked at each scrape; the first call counts.
    pub fn observe_dropped_lines(&self, total: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.0.sampled.0.dropped.set(Box::new(total));
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

    /// Counts a push that was answered with 507.
    pub fn push_refused(&self, room: RoomLack) {
        self.0.pushes_refused[room.index()].inc();
    }

    /// Counts a TLS handshake that came to nothing.
    pub fn tls_failure(&self, reason: TlsFailureReason) {
        self.0.tls_failures[reason.index()].inc();
    }

    /// Says when a certificate in force ends.
    pub fn set_certificate_expiry(&self, certificate: CertificateUse, expiry: Timestamp) {
        let seconds = i64::try_from(expiry.as_secs()).unwrap_or(i64::MAX);
        self.0.certificate_expiry.with_label_values(&[certificate.as_str()]).set(seconds);
    }

    /// Counts a reload, and says whether what lies on disk is in force.
    pub fn config_reload(&self, outcome: ReloadOutcome) {
        self.0.config_reloads[outcome.index()].inc();
        self.0.config_valid.set(i64::from(outcome == ReloadOutcome::Applied));
    }

    pub(super) fn fetching(&self) -> &Fetching {
        &self.0.fetching
    }

    /// Every family in the text format, version 0.0.4.
    ///
    /// # Errors
    /// [`MetricsError`] of the encoder.
    pub fn render(&self) -> Result<String, MetricsError> {
        Ok(TextEncoder::new().encode_to_string(&self.0.registry.gather())?)
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

type Source<T> = OnceLock<Box<dyn Fn() -> T + Send + Sync>>;

/// What is asked at each scrape instead of being kept up to date.
#[derive(Clone)]
struct Sampled(Arc<SampledInner>);

struct SampledInner {
    store: Source<StoreSample>,
    index: Source<IndexSample>,
    dropped: Source<u64>,
    used: IntGauge,
    budget: IntGauge,
    free: IntGauge,
    reserve: IntGauge,
    writable: IntGauge,
    uploads: IntGauge,
    index_state: IntGaugeVec,
    dropped_lines: IntCounter,
}

impl Sampled {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self(Arc::new(SampledInner {
            store: OnceLock::new(),
            index: OnceLock::new(),
            dropped: OnceLock::new(),
            used: IntGauge::with_opts(opts(&STORE_USED))?,
            budget: IntGauge::with_opts(opts(&STORE_BUDGET))?,
            free: IntGauge::with_opts(opts(&STORE_FREE))?,
            reserve: IntGauge::with_opts(opts(&STORE_RESERVE))?,
            writable: IntGauge::with_opts(opts(&STORE_WRITABLE))?,
            uploads: IntGauge::with_opts(opts(&STORE_UPLOADS))?,
            index_state: gauge_vec(&INDEX_STATE)?,
            dropped_lines: IntCounter::with_opts(opts(&LOG_DROPPED))?,
        })))
    }
}

impl SampledInner {
    fn store(&self, found: &mut Vec<MetricFamily>) {
        let Some(sample) = self.store.get().map(|source| source()) else { return };
        let mut show = |gauge: &IntGauge, value: Option<u64>| {
            if let Some(value) = value {
                gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
                found.extend(gauge.collect());
            }
        };
        show(&self.used, sample.used);
        show(&self.budget, sample.budget);
        show(&self.free, Some(sample.free));
        show(&self.reserve, Some(sample.reserve));
        show(&self.uploads, u64::try_from(sample.uploads).ok());
        show(&self.writable, Some(u64::from(sample.refusal.is_none())));
    }
}

impl Collector for Sampled {
    fn desc(&self) -> Vec<&Desc> {
        let me = &*self.0;
        let parts: [&dyn Collector; 8] = [
            &me.used,
            &me.budget,
            &me.free,
            &me.reserve,
            &me.writable,
            &me.uploads,
            &me.index_state,
            &me.dropped_lines,
        ];
        parts.into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let me = &*self.0;
        let mut found = Vec::new();
        me.store(&mut found);
        if let Some(state) = me.index.get().map(|source| source().label()) {
            for label in IndexLabel::ALL {
                me.index_state.with_label_values(&[label.as_str()]).set(i64::from(*label == state));
            }
            found.extend(me.index_state.collect());
        }
        if let Some(total) = me.dropped.get().map(|source| source()) {
            me.dropped_lines.inc_by(total.saturating_sub(me.dropped_lines.get()));
            found.extend(me.dropped_lines.collect());
        }
        found
    }
}

/// The options of a family without its labels.
pub(super) fn opts(family: &Family) -> Opts {
    Opts::new(family.name, family.help)
}

pub(super) fn counter_vec(family: &Family) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(opts(family), family.labels)
}

fn gauge_vec(family: &Family) -> Result<IntGaugeVec, prometheus::Error> {
    IntGaugeVec::new(opts(family), family.labels)
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
