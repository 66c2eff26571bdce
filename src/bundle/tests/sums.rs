//! GOST sums beside the files.

use super::*;

fn sum(bytes: &[u8]) -> String {
    let mut sum = GostSum::default();
    sum.update(bytes);
    sum.finish()
}

/// Writes the sum of every archive and chunk beside it, as the real client does; how many.
fn write_sums(carried: &Carried) -> u64 {
    let all = std::fs::read_dir(carried.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let is_archive = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "tar" || kind == "chunk");
    let files: Vec<PathBuf> = all.filter(is_archive).collect();
    for path in &files {
        let beside = format!("{}.gostsum", path.to_str().unwrap());
        std::fs::write(beside, sum(&std::fs::read(path).unwrap())).unwrap();
    }
    files.len() as u64
}

#[test]
fn every_sum_is_compared_and_a_file_that_was_changed_is_named() {
    for carried in [Carried::whole(), Carried::chunks()] {
        let count = write_sums(&carried);
        let bundle = carried.open();
        assert_eq!(bundle.inspect().unwrap().archives.iter().map(|archive| archive.sums as u64).sum::<u64>(), count);
        let said = verified(&bundle);
        assert!(said.whole && said.findings.iter().all(|finding| finding.problem == Problem::Ignored), "{said:?}");
        assert_eq!(said.sums, count);
        // Padding: no content has it, and no header.
        let last = if carried.path("installer.tar").exists() { "installer.tar" } else { "installer.tar.0000.chunk" };
        carried.change(last, |bytes| *bytes.last_mut().unwrap() ^= 1);
        let says = verified(&carried.open());
        let found = damage(&says.findings);
        assert!(found.contains(&(Problem::Sum, last)), "{found:?}");
        let finding = says.findings.iter().find(|finding| finding.problem == Problem::Sum).unwrap();
        assert!(finding.says.contains(&sum(&std::fs::read(carried.path(last)).unwrap())), "{finding:?}");
    }
}

#[test]
fn a_sum_that_is_none_is_damage_and_one_of_no_file_a_note() {
    let carried = Carried::whole();
    std::fs::write(carried.path("gone.tar.gostsum"), "00").unwrap();
    let said = verified(&carried.open());
    assert!(said.whole && said.findings.iter().any(|finding| finding.problem == Problem::StaleSum), "{said:?}");
    std::fs::write(carried.path("installer.tar.gostsum"), "ab").unwrap();
    let said = verified(&carried.open());
    assert_eq!(damage(&said.findings), [(Problem::Sum, "installer.tar")]);
    assert!(said.findings.iter().any(|finding| finding.says.contains("it is no sum")), "{said:?}");
    // The bytes may be right for all that is known.
    assert!(carried.open().inspect().unwrap().whole);
}

/// A gap leaves the sums of all chunks of use.
#[test]
fn chunks_behind_a_gap_are_compared_all_the_same() {
    let carried = Carried::chunks();
    let count = write_sums(&carried);
    for name in ["platform.tar.0002.chunk", "platform.tar.0002.chunk.gostsum"] {
        std::fs::remove_file(carried.path(name)).unwrap();
    }
    carried.change("platform.tar.0004.chunk", |bytes| bytes[77] ^= 1);
    let said = verified(&carried.open());
    assert_eq!(said.sums, count - 1);
    assert!(damage(&said.findings).contains(&(Problem::Sum, "platform.tar.0004.chunk")), "{said:?}");
}
