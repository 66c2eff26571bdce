//! What is known of damage in the store, as the store tells it.

use super::labels::DamageCause;

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
