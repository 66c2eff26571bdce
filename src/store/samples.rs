//! The store's numbers as metrics. What a part of the store counts becomes a metric here and nowhere else: a new count is a
//! row in `telemetry/families.rs` and a line below.

use super::face::Store;
use super::pins::PinsState;
use crate::clock::Timestamp;
use crate::telemetry::families::{
    DAMAGE_FOUND, DAMAGED_BYTES, DAMAGED_CONTENTS, DAMAGED_NEEDED, DISK_FAULT, GC_FREED, GC_HELD, GC_KEPT_BY_MASTERS,
    GC_LEFT_ALONE, GC_MASTERS_AWAY, GC_REMOVED, GC_SUSPECTS, PINS_USABLE, RETENTION_GIVEN_UP, RETENTION_REMOVED,
    SCRUB_BEGAN, SCRUB_BYTES, SCRUB_CONTENTS, SCRUB_ENDED, SCRUB_FOUND, SCRUB_INTERVAL, SNAPSHOT_BYTES, SNAPSHOTS,
    STORE_BUDGET, STORE_FREE, STORE_RESERVE, STORE_UPLOADS, STORE_USED, STORE_WRITABLE, UNUSED_BYTES,
};
use crate::telemetry::{DamageCause, Samples};
use crate::values::StoringMode;

impl Store {
    /// The store at this moment. What is not known has no sample, rather than a zero. Does not block.
    #[must_use]
    pub fn samples(&self) -> Samples {
        let (usage, damage) = (self.usage(), self.damage());
        let mut samples = Samples::default();
        if let Some(used) = usage.used {
            samples.add(&STORE_USED, &[], used);
        }
        if let Some(budget) = usage.budget {
            samples.add(&STORE_BUDGET, &[], budget);
        }
        if let Some(held) = usage.held {
            samples.add(&SNAPSHOT_BYTES, &[], held);
        }
        samples.add(&SNAPSHOTS, &[], usage.snapshots as u64);
        samples.add(&STORE_FREE, &[], usage.free);
        samples.add(&STORE_RESERVE, &[], usage.reserve);
        samples.add(&STORE_WRITABLE, &[], u64::from(usage.refusal.is_none()));
        samples.add(&STORE_UPLOADS, &[], usage.uploads as u64);
        samples.add(&DAMAGED_CONTENTS, &[], damage.contents);
        samples.add(&DAMAGED_BYTES, &[], damage.bytes);
        samples.add(&DISK_FAULT, &[], u64::from(damage.disk_fault));
        for cause in DamageCause::ALL {
            samples.add(&DAMAGE_FOUND, &[cause.as_str()], damage.found[*cause as usize]);
        }
        if let Some((found, _)) = self.unused_data() {
            for mode in StoringMode::ALL {
                let bytes = found.iter().find(|data| data.mode == mode).map_or(0, |data| data.all.bytes);
                samples.add(&UNUSED_BYTES, &[mode.as_str()], bytes);
            }
        }
        let broken = self.broken();
        samples.add(&DAMAGED_NEEDED, &[], broken.iter().filter(|content| !content.images.is_empty()).count() as u64);
        let scrub = self.scrub();
        let families = [&SCRUB_CONTENTS, &SCRUB_BYTES, &SCRUB_FOUND];
        for (family, count) in families.into_iter().zip(scrub.since_start) {
            samples.add(family, &[], count);
        }
        samples.add(&SCRUB_INTERVAL, &[], scrub.interval.map_or(0, |interval| interval.as_secs()));
        samples.add(&SCRUB_BEGAN, &[], scrub.began.as_secs());
        samples.add(&SCRUB_ENDED, &[], scrub.ended.map_or(0, Timestamp::as_secs));
        let collection = self.collection();
        let pins = self.pins();
        if pins != PinsState::Absent {
            samples.add(&PINS_USABLE, &[], u64::from(pins.fault().is_none()));
        }
        samples.add(&GC_HELD, &[], u64::from(collection.held));
        samples.add(&GC_MASTERS_AWAY, &[], u64::from(collection.masters_away.is_some()));
        samples.add(&GC_KEPT_BY_MASTERS, &[], collection.kept_by_masters);
        samples.add(&GC_SUSPECTS, &[], collection.suspects);
        samples.add(&GC_LEFT_ALONE, &[], collection.left_alone.len() as u64);
        for (kind, removed) in ["blob", "manifest"].into_iter().zip(collection.removed) {
            samples.add(&GC_REMOVED, &[kind], removed);
        }
        samples.add(&RETENTION_REMOVED, &[], collection.removed_tags);
        samples.add(&RETENTION_GIVEN_UP, &[], collection.given_up);
        samples.add(&GC_FREED, &[], collection.freed_bytes);
        samples
    }
}
