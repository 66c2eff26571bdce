//! Whole bundles of a synthetic edition, sound and damaged.

mod bounds;
mod damaged;
mod forms;
mod sums;

use std::path::PathBuf;

use testkit::bundle::{Edition, RELEASES};

use super::*;

/// An edition in a directory of its own.
struct Carried {
    dir: tempfile::TempDir,
    edition: Edition,
}

impl Carried {
    fn whole() -> Self {
        let carried = Self { dir: tempfile::tempdir().unwrap(), edition: Edition::of(&RELEASES) };
        carried.edition.write(carried.dir.path()).unwrap();
        carried
    }

    /// In chunks that split headers, names and contents.
    fn chunks() -> Self {
        let carried = Self { dir: tempfile::tempdir().unwrap(), edition: Edition::of(&RELEASES) };
        carried.edition.write_chunks(carried.dir.path(), 10_001).unwrap();
        carried
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self) -> Bundle {
        open(&[self.dir.path().to_path_buf()], MOST_BYTES, &|| false).unwrap()
    }

    /// Changes the bytes of a file.
    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.path(name)).unwrap();
        change(&mut bytes);
        std::fs::write(self.path(name), bytes).unwrap();
    }
}

fn verified(bundle: &Bundle) -> Verification {
    verify(bundle, &|_| {}).unwrap()
}

/// The problems that are damage, each with its place.
fn damage(findings: &[Finding]) -> Vec<(Problem, &str)> {
    let found = findings.iter().filter(|finding| finding.damage);
    found.map(|finding| (finding.problem, finding.place.as_str())).collect()
}

#[track_caller]
fn assert_sound(bundle: &Bundle) {
    let said = bundle.inspect().unwrap();
    assert!(said.whole, "{:#?}", damage(&said.findings));
    let said = verified(bundle);
    assert!(said.whole, "{:#?}", damage(&said.findings));
}
