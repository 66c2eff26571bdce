//! What is counted as used, against what is there.

use std::time::Duration;

use super::finding::{Mend, Problem};
use super::{How, Verifier};
use crate::fs::{is_absence, stat};
use crate::oci::{Algorithm, Digest};
use crate::store::contents::fills::bytes_on_disk;
use crate::store::contents::uploads::table::bytes_charged;
use crate::store::error::StoreError;
use crate::store::opening;

/// How often it is tried to look while no change goes on, and the time between: 100 ms together.
const TRIES: u32 = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(2);

const COUNT: How =
    (Mend::Start, "stop the server, remove `usage` in the data directory and start it: all is counted anew");

impl Verifier<'_> {
    pub(super) fn room(&mut self) -> Result<(), StoreError> {
        if self.is_running { self.charged() } else { self.noted() }
    }

    /// The note of a clean stop.
    fn noted(&mut self) -> Result<(), StoreError> {
        let noted = opening::usage(self.layout(), &self.tree().snapshots.all());
        match noted.map(|noted| noted.contents) {
            None => self.note("what the store uses is counted at the next start"),
            Some(noted) if noted != self.content_bytes => {
                let what = format!("{noted} bytes of contents are noted, {} are there", self.content_bytes);
                self.found(Problem::UsageWrong, &self.layout().usage(), what, COUNT);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// What a running server charges.
    fn charged(&mut self) -> Result<(), StoreError> {
        let contents = self.tree();
        if !contents.capacity.all_counted() {
            self.note("what the store uses is being counted and was not compared");
            return Ok(());
        }
        if contents.damage.is_doubtful() {
            self.note("damage was found since the start: what the store uses is counted anew at the next one");
            return Ok(());
        }
        let compared = contents.capacity.compare_contents(|folder, through| {
            self.go_on()?;
            let _locked = contents.lock_folder(folder);
            let sum = self.sum(u8::try_from(folder).unwrap_or(u8::MAX))?;
            through(sum);
            Ok::<bool, StoreError>(true)
        })?;
        if let Some((charged, there)) = compared
            && charged != there
            && !contents.damage.is_doubtful()
        {
            let what = format!("{charged} bytes of contents are counted, {there} are there");
            self.found(Problem::UsageWrong, &self.layout().usage(), what, COUNT);
        }
        let compared = (0..TRIES).find_map(|try_number| {
            if try_number > 0 {
                std::thread::sleep(BETWEEN_TRIES);
            }
            let _paused = contents.changes.try_pause()?;
            let charged = contents.capacity.uploads();
            let there = bytes_charged(self.layout()).and_then(|bytes| Ok(bytes + bytes_on_disk(self.layout())?));
            // A take-over charges what it has in hand beside uploads and fills, before the change that names it.
            (contents.capacity.charges() == 0).then(|| there.map(|there| (charged, there)))
        });
        let Some((charged, there)) = compared.transpose()? else {
            self.note("changes went on all the time: what uploads and fills are charged was not compared");
            return Ok(());
        };
        if charged != there {
            let what = format!("{charged} bytes of uploads and fills are counted, {there} are there");
            self.found(Problem::UsageWrong, &self.layout().uploads(), what, COUNT);
        }
        Ok(())
    }

    /// Bytes of the contents of a directory.
    fn sum(&self, first: u8) -> Result<u64, StoreError> {
        let mut sum = 0;
        for algorithm in Algorithm::ALL {
            let folder = self.layout().content_folder(algorithm, first);
            let entries = match std::fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) if is_absence(&error) => continue,
                Err(error) => return Err(StoreError::io("read", &folder)(error)),
            };
            for entry in entries {
                let path = entry.map_err(StoreError::io("read", &folder))?.path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let Ok(digest) = Digest::from_hex(algorithm, name) else { continue };
                let Some(facts) = stat(&path)?.filter(std::fs::Metadata::is_file) else { continue };
                if !self.tree().damage.is_listed(&digest, std::os::unix::fs::MetadataExt::ino(&facts)) {
                    sum += facts.len();
                }
            }
        }
        Ok(sum)
    }
}
