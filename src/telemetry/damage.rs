//! Metrics of damage that was found in the store.

use std::sync::{Arc, OnceLock};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGauge};

use super::families::{DAMAGE_FOUND, DAMAGED_BYTES, DAMAGED_CONTENTS, DISK_FAULT};
use super::labels::DamageCause;
use super::metrics::{counter_vec, opts};

/// What is known of damage at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DamageSample {
    /// Damaged contents, which count as absent.
    pub contents: u64,
    /// Bytes of them that lie on the disk.
    pub bytes: u64,
    /// More than 16 files were found damaged within ten minutes: the disk is at fault.
    pub disk_fault: bool,
    /// Files found damaged since the start, by cause.
    pub found: [u64; DamageCause::ALL.len()],
}

type Source = Box<dyn Fn() -> DamageSample + Send + Sync>;

/// Asks at each scrape.
#[derive(Clone)]
pub(super) struct Damage(Arc<Inner>);

struct Inner {
    source: OnceLock<Source>,
    contents: IntGauge,
    bytes: IntGauge,
    disk_fault: IntGauge,
    found: IntCounterVec,
}

impl Damage {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        Ok(Self(Arc::new(Inner {
            source: OnceLock::new(),
            contents: IntGauge::with_opts(opts(&DAMAGED_CONTENTS))?,
            bytes: IntGauge::with_opts(opts(&DAMAGED_BYTES))?,
            disk_fault: IntGauge::with_opts(opts(&DISK_FAULT))?,
            found: counter_vec(&DAMAGE_FOUND)?,
        })))
    }

    pub(super) fn observe(&self, source: impl Fn() -> DamageSample + Send + Sync + 'static) {
        let _ = self.0.source.set(Box::new(source));
    }
}

impl Collector for Damage {
    fn desc(&self) -> Vec<&Desc> {
        let me = &*self.0;
        let parts: [&dyn Collector; 4] = [&me.contents, &me.bytes, &me.disk_fault, &me.found];
        parts.into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let me = &*self.0;
        let Some(sample) = me.source.get().map(|source| source()) else { return Vec::new() };
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        me.contents.set(gauge(sample.contents));
        me.bytes.set(gauge(sample.bytes));
        me.disk_fault.set(i64::from(sample.disk_fault));
        for cause in DamageCause::ALL {
            let counter = me.found.with_label_values(&[cause.as_str()]);
            counter.inc_by(sample.found[*cause as usize].saturating_sub(counter.get()));
        }
        let parts: [&dyn Collector; 4] = [&me.contents, &me.bytes, &me.disk_fault, &me.found];
        parts.into_iter().flat_map(Collector::collect).collect()
    }
}
