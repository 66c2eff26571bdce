//! A snapshot as metrics: what is asked at a scrape instead of being counted as it happens.

use super::Snapshot;
use crate::telemetry::families::{
    BUILD_INFO, CERTIFICATE_EXPIRY, CONFIG_VALID, INDEX_STATE, JOB_LAST_SUCCESS, JOB_PROGRESS_DONE,
    JOB_PROGRESS_EXPECTED, JOB_RUNNING, JOB_RUNS, LOG_DROPPED, MODE_FILE_VALID,
};
use crate::telemetry::{CertificateUse, IndexLabel, Samples};

impl Snapshot {
    /// Its numbers under their families, with those that parts sampled themselves. What is not known has no sample, rather
    /// than a zero.
    #[must_use]
    pub fn samples(&self) -> Samples {
        let mut samples = self.sampled.clone();
        samples.add(&BUILD_INFO, &[self.version, self.revision, self.mode], 1);
        for label in IndexLabel::ALL {
            samples.add(&INDEX_STATE, &[label.as_str()], u64::from(label.as_str() == self.index.state));
        }
        if let Some(expiry) = self.certificate_expiry {
            samples.add(&CERTIFICATE_EXPIRY, &[CertificateUse::Tls.as_str()], expiry);
        }
        if let Some(file) = &self.mode_file {
            samples.add(&MODE_FILE_VALID, &[], u64::from(file.error.is_none()));
        }
        samples.add(&CONFIG_VALID, &[], u64::from(self.config.valid));
        for job in &self.jobs {
            samples.add(&JOB_RUNNING, &[job.name], u64::from(job.running));
            // Zero before the first time: an alert on its age then fires, as it should.
            samples.add(&JOB_LAST_SUCCESS, &[job.name], job.last_success.unwrap_or(0));
            if let Some(progress) = job.progress {
                samples.add(&JOB_PROGRESS_DONE, &[job.name], progress.done);
                if let Some(total) = progress.total {
                    samples.add(&JOB_PROGRESS_EXPECTED, &[job.name], total);
                }
            }
            for (result, runs) in job.runs.by_result() {
                samples.add(&JOB_RUNS, &[job.name, result.as_str()], runs);
            }
        }
        samples.add(&LOG_DROPPED, &[], self.dropped_log_lines);
        samples
    }
}
