//! All that lies in the data directory beside contents and repositories.

use std::path::Path;
use std::time::Duration;

use super::finding::{Mend, Problem};
use super::{How, Verifier};
use crate::clock;
use crate::fs::stat;
use crate::oci::{Algorithm, Digest, UploadId};
use crate::store::contents::damage::directory::entry_of;
use crate::store::contents::uploads::table::{can_go_on, older};
use crate::store::layout::Layout;

/// What is removed by its age is removed within this time.
const REAPED_WITHIN: Duration = Duration::from_secs(600);

/// Oldest temporary file of a running server: the copy of a large content.
const OLDEST_TEMPORARY: Duration = Duration::from_secs(86_400);

const AT_START: How = (Mend::Start, "it goes at the next start");
const BY_ITSELF: How = (Mend::Itself, "the next run of the collection writes it anew");

impl Verifier<'_> {
    /// The contents of which only damaged files are there.
    pub(super) fn damaged(&mut self) {
        for (digest, path) in self.tree().unmended() {
            let what = "it was found to be damaged, and counts as absent";
            self.bad(Problem::Damaged, &digest, &path, None, what);
        }
    }

    /// The data directory itself, and the directories of which nothing else was looked at.
    pub(super) fn places(&mut self) {
        let layout = self.layout();
        let is_beside = layout.foreign().is_dir();
        for (name, path) in self.entries(layout.root()) {
            if !(Layout::is_known(&name) || name == "docker" && is_beside) {
                self.foreign(&path, "no version of this program has such a file here");
            }
        }
        self.algorithms(&layout.blobs());
        for algorithm in Algorithm::ALL {
            for (name, path) in self.entries(&layout.blobs_of(algorithm)) {
                let is_byte =
                    name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
                if !is_byte || !path.is_dir() {
                    self.foreign(&path, "contents lie in directories of two hex digits");
                }
            }
            let listed = layout.damaged_of(algorithm);
            for entry in std::fs::read_dir(&listed).into_iter().flatten().flatten() {
                if entry_of(&entry, algorithm).is_none() && stat(&entry.path()).is_ok_and(|facts| facts.is_some()) {
                    self.foreign(&entry.path(), "it is no entry of the list of damaged contents");
                }
            }
        }
        for (name, path) in self.entries(&layout.records()) {
            let is_hash =
                name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
            if !(is_hash || name == "writer" || name == "heard") {
                self.foreign(&path, "it is no file of records");
            }
        }
        self.uploads();
        self.fills();
        self.temporaries();
        for path in self.manifests.ledger.unreadable() {
            let what = "it was cut or damaged: what collection knows is partly lost, and found again";
            self.found(Problem::CollectionUnreadable, &path, what, BY_ITSELF);
        }
    }

    fn algorithms(&mut self, folder: &Path) {
        for (name, path) in self.entries(folder) {
            if name.parse::<Algorithm>().is_err() || !path.is_dir() {
                self.foreign(&path, "it is no directory of an algorithm");
            }
        }
    }

    fn uploads(&mut self) {
        let layout = self.layout();
        for (name, path) in self.entries(&layout.uploads()) {
            let Ok(id) = name.parse::<UploadId>() else {
                self.foreign(&path, "no upload has such a name");
                continue;
            };
            let (lost, dated) = (!can_go_on(layout, id), layout.upload_data(id));
            let dated = if dated.exists() { dated } else { path.clone() };
            // One that begins has no bytes and no note for a moment.
            let is_left = if self.is_running { self.is_overdue(&dated) } else { lost };
            if is_left {
                let what = if lost { "an upload that nobody can go on with" } else { "an upload that was given up" };
                self.found(Problem::LeftOver, &path, what, AT_START);
            }
        }
    }

    fn fills(&mut self) {
        let layout = self.layout();
        for algorithm in Algorithm::ALL {
            for (name, path) in self.entries(&layout.fills_of(algorithm)) {
                if Digest::from_hex(algorithm, &name).is_err() || !path.is_file() {
                    if stat(&path).is_ok_and(|facts| facts.is_some()) {
                        self.foreign(&path, "its name is no digest");
                    }
                } else if self.is_running && self.is_overdue(&path) {
                    self.found(Problem::LeftOver, &path, "a fill that was given up", AT_START);
                }
            }
        }
    }

    /// Whether a server should have removed it for its age.
    fn is_overdue(&self, path: &Path) -> bool {
        let idle = self.tree().capacity.limits().upload_idle + REAPED_WITHIN;
        older(stat(path).unwrap_or(None), idle, clock::now())
    }

    fn temporaries(&mut self) {
        for (_, path) in self.entries(&self.layout().temporaries()) {
            let is_left = !self.is_running || older(stat(&path).unwrap_or(None), OLDEST_TEMPORARY, clock::now());
            if is_left {
                self.found(Problem::LeftOver, &path, "a file that a killed server had not named yet", AT_START);
            }
        }
    }
}
