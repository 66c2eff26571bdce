//! Metrics, the log, the access log and progress lines. Imports nothing of the house but the clock and the values of
//! the configuration, so that everyone may use it; what it shows of other parts is handed in as values ([`Samples`]).

pub mod access_log;
mod damage;
pub mod disk;
pub mod families;
mod fetching;
pub mod labels;
mod line;
pub mod logging;
pub mod metrics;
mod process;
pub mod progress;
pub mod repeats;
mod rfc3339;
mod samples;
mod sink;

pub use access_log::{AccessLog, AccessRecord};
pub use damage::DamageSample;
pub use disk::{DiskOperation, STANDSTILL, Standstill, disk_look, disk_moved, disk_operation, disk_standstill};
pub use families::{FAMILIES, Family, Kind, NODE_AGENT_FAMILIES, NODE_PROXY_FAMILIES, SWITCH_FAMILIES};
pub use fetching::InProgress;
pub use labels::{
    AuthFailureReason, CacheOutcome, CertificateUse, ContentKind, DamageCause, EvictionCause, FillCause, IndexLabel,
    Method, PassedOn, PeersAnswer, ProbeOutcome, ReloadOutcome, RoomLack, Route, ShortPush, TlsFailureReason,
    UpstreamCause,
};
pub(crate) use line::decimal;
pub use logging::{LogError, LogOptions, Logging, REPORT_EVERY, Reporter};
pub use metrics::{InFlight, Metrics, MetricsError};
pub use progress::ProgressLog;
pub use samples::Samples;

pub use crate::values::{AccessMode, Level, LogFormat};

/// Lines of the log that wait for a slow reader, and those that are being written.
pub const LOG_BYTES: u64 = 2 * sink::MOST as u64;

/// A moment as text: `2026-11-21T01:38:31.123Z`.
#[must_use]
pub fn written(moment: crate::clock::Timestamp) -> String {
    let mut text = Vec::with_capacity(24);
    rfc3339::push(&mut text, moment);
    String::from_utf8(text).unwrap_or_default()
}

/// An error with its causes, in one line, for the log.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
