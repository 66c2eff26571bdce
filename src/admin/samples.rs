//! A snapshot as metrics: what is asked at a scrape instead of being counted as it happens.

use super::Snapshot;
use crate::telemetry::families::{
    BUILD_INFO, CERTIFICATE_EXPIRY, CONFIG_VALID, DAMAGE_FOUND, DAMAGED_BYTES, DAMAGED_CONTENTS, DISK_FAULT,
    INDEX_STATE, JOB_LAST_SUCCESS, JOB_RUNNING, JOB_RUNS, LOG_DROPPED, STORE_BUDGET, STORE_FREE, STORE_RESERVE,
    STORE_UPLOADS, STORE_USED, STORE_WRITABLE,
};
use crate::telemetry::{CertificateUse, DamageCause, IndexLabel, Samples};

impl Snapshot {
    /// Its numbers under their families. What is not known has no sample, rather than a zero.
    #[must_use]
    pub fn samples(&self) -> Samples {
        let mut samples = Samples::default();
        samples.add(&BUILD_INFO, &[self.version, self.revision, self.mode], 1);
        self.store_samples(&mut samples);
        for label in IndexLabel::ALL {
            samples.add(&INDEX_STATE, &[label.as_str()], u64::from(label.as_str() == self.index.state));
        }
        if let Some(expiry) = self.certificate_expiry {
            samples.add(&CERTIFICATE_EXPIRY, &[CertificateUse::Tls.as_str()], expiry);
        }
        samples.add(&CONFIG_VALID, &[], u64::from(self.config.valid));
        for job in &self.jobs {
            samples.add(&JOB_RUNNING, &[job.name], u64::from(job.running));
            // Zero before the first time: an alert on its age then fires, as it should.
            samples.add(&JOB_LAST_SUCCESS, &[job.name], job.last_success.unwrap_or(0));
            for (result, runs) in job.runs.by_result() {
                samples.add(&JOB_RUNS, &[job.name, result.as_str()], runs);
            }
        }
        samples.add(&LOG_DROPPED, &[], self.dropped_log_lines);
        samples
    }

    fn store_samples(&self, samples: &mut Samples) {
        let store = &self.store;
        if let Some(used) = store.used_bytes {
            samples.add(&STORE_USED, &[], used);
        }
        if let Some(budget) = store.budget_bytes {
            samples.add(&STORE_BUDGET, &[], budget);
        }
        samples.add(&STORE_FREE, &[], store.free_bytes);
        samples.add(&STORE_RESERVE, &[], store.reserve_bytes);
        samples.add(&STORE_WRITABLE, &[], u64::from(store.writable));
        samples.add(&STORE_UPLOADS, &[], store.uploads as u64);
        samples.add(&DAMAGED_CONTENTS, &[], store.damaged_contents);
        samples.add(&DAMAGED_BYTES, &[], store.damaged_bytes);
        samples.add(&DISK_FAULT, &[], u64::from(store.disk_fault));
        for cause in DamageCause::ALL {
            samples.add(&DAMAGE_FOUND, &[cause.as_str()], store.damage_found[*cause as usize]);
        }
    }
}
