//! What a bundle may take of memory and descriptors, where its opening ends, and what is none.

use std::cell::Cell;

use testkit::bundle::{Archive, Layout, append, end};
use testkit::media_type::{CONFIG, LAYER};

use super::*;

fn opened(dir: &tempfile::TempDir, most: usize) -> Result<Bundle, BundleError> {
    open(&[dir.path().to_path_buf()], most, &|| false)
}

fn written(name: &str, tar: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), tar).unwrap();
    dir
}

/// Descriptors of this process that lead below a directory.
fn descriptors(dir: &std::path::Path) -> usize {
    let all =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    all.filter(|target| target.starts_with(dir) && target != dir).count()
}

#[test]
fn a_bundle_of_many_chunks_and_archives_takes_few_descriptors() {
    let (dir, mut layout) = (tempfile::tempdir().unwrap(), Layout::default());
    let layer = testkit::noise(1, 300_000);
    layout.image(Some("v1.70.1"), (CONFIG, b"{}"), &[(LAYER, layer.clone())]);
    let mut archive = Archive::default();
    archive.layout("", &layout);
    testkit::bundle::write_chunks(dir.path(), "platform.tar", &archive.tar(), 300).unwrap();
    for number in 0..50 {
        let mut archive = Archive::default();
        archive.layout(&format!("modules/m{number}"), &layout);
        std::fs::write(dir.path().join(format!("module-m{number}.tar")), archive.tar()).unwrap();
    }
    let root = std::fs::canonicalize(dir.path()).unwrap();
    let bundle = opened(&dir, MOST_BYTES).unwrap();
    assert_sound(&bundle);
    assert!(descriptors(&root) <= 16, "{}", descriptors(&root));
    let found = bundle.find("", &testkit::digest(&layer).parse().unwrap()).unwrap();
    let mut pieces = 0;
    for piece in found.pieces() {
        pieces += 1;
        assert!(piece.unwrap().length > 0 && descriptors(&root) <= 17, "{}", descriptors(&root));
    }
    assert!(pieces > 900, "{pieces}");
    assert_eq!(found.read(u64::MAX).unwrap(), layer);
}

#[test]
fn whatever_there_is_much_of_ends_at_the_bound_of_memory() {
    const MOST: usize = 256 << 10;
    let too_much = |dir: &tempfile::TempDir, of: &str| match opened(dir, MOST) {
        Err(BundleError::TooMuch(MOST)) => {}
        other => panic!("{of}: {other:?}"),
    };
    // Contents.
    let mut tar = Vec::new();
    for number in 0..5000_u32 {
        let digest = testkit::digest(&number.to_le_bytes());
        append(&mut tar, &format!("blobs/sha256/{}", testkit::bundle::hex(&digest)), b"");
    }
    end(&mut tar);
    too_much(&written("platform.tar", &tar), "contents");
    // Layouts.
    let mut tar = Vec::new();
    for number in 0..2000 {
        append(&mut tar, &format!("modules/m{number}/oci-layout"), b"{}");
    }
    end(&mut tar);
    too_much(&written("platform.tar", &tar), "layouts");
    // Tags, of one manifest.
    let mut layout = Layout::default();
    let digest = layout.image(Some("v1.0.0"), (CONFIG, b"{}"), &[]);
    for number in 0..3000 {
        layout.tag(&format!("v1.{number}.0"), &digest);
    }
    let mut archive = Archive::default();
    archive.layout("", &layout);
    too_much(&written("platform.tar", &archive.tar()), "tags");
    // Names of files.
    let dir = tempfile::tempdir().unwrap();
    for number in 0..1500 {
        std::fs::write(dir.path().join(format!("platform.tar.{number:04}.chunk")), [0]).unwrap();
    }
    let names = opened(&dir, 100 << 10);
    assert!(matches!(names, Err(BundleError::TooMuch(_))), "{names:?}");
    // Discovery tags: each is an image that is kept.
    let mut archive = Archive::default();
    for number in 0..150 {
        archive.layout(&format!("modules/m{number}"), &layout_of_one());
    }
    let dir = written("platform.tar", &archive.tar());
    let made = opened(&dir, MOST).unwrap().discovery();
    assert!(matches!(made, Err(BundleError::TooMuch(_))));
    assert_eq!(opened(&dir, 8 * MOST).unwrap().discovery().unwrap().len(), 150);
}

fn layout_of_one() -> Layout {
    let mut layout = Layout::default();
    layout.image(Some("v1.0.0"), (CONFIG, b"{}"), &[]);
    layout
}

/// What tags reach of few manifests can be much.
#[test]
fn what_tags_reach_is_bounded_as_well() {
    let mut layout = Layout::default();
    let layers: Vec<_> = (0..700_u32).map(|number| (LAYER, number.to_le_bytes().to_vec())).collect();
    layout.image(Some("v1.0.0"), (CONFIG, b"{}"), &layers);
    let mut archive = Archive::default();
    archive.layout("", &layout);
    let dir = written("platform.tar", &archive.tar());
    let bundle = opened(&dir, 128 << 10).unwrap();
    assert!(matches!(bundle.inspect(), Err(BundleError::TooMuch(_))));
    assert!(matches!(verify(&bundle, &|_| {}), Err(BundleError::TooMuch(_))));
    assert_sound(&opened(&dir, MOST_BYTES).unwrap());
}

#[test]
fn the_opening_ends_soon_after_it_is_told_to() {
    for carried in [Carried::whole(), Carried::chunks()] {
        let asked = Cell::new(0);
        open(&[carried.dir.path().to_path_buf()], MOST_BYTES, &|| {
            asked.set(asked.get() + 1);
            false
        })
        .unwrap();
        let all = asked.get();
        assert!(all > 50, "{all}");
        for after in [0, 3, all - 1] {
            asked.set(0);
            let ended = open(&[carried.dir.path().to_path_buf()], MOST_BYTES, &|| {
                asked.set(asked.get() + 1);
                asked.get() > after
            });
            assert!(matches!(ended, Err(BundleError::Stopped)), "{after}: {ended:?}");
            assert_eq!(asked.get(), after + 1);
        }
    }
}

#[test]
fn a_file_that_is_no_archive_is_no_whole_bundle() {
    let carried = Carried::whole();
    let mut other = Vec::new();
    append(&mut other, "home/user/notes.txt", b"notes");
    end(&mut other);
    std::fs::write(carried.path("other.tar"), other).unwrap();
    std::fs::write(carried.path("zeros.bin"), [0; 10_240]).unwrap();
    std::fs::write(carried.path("platform.tar.gostsum"), "ab".repeat(32)).unwrap();
    std::fs::write(carried.path("platform.tar.0001.chunk.tmp"), [0; 700]).unwrap();
    for name in ["other.tar", "zeros.bin", "platform.tar.gostsum", "platform.tar.0001.chunk.tmp"] {
        let error = open(&[carried.path(name)], MOST_BYTES, &|| false).unwrap_err();
        assert!(matches!(error, BundleError::Nothing(_)), "{name}: {error}");
    }
    for (name, bytes) in [("README", &b"read me"[..]), ("d8.tar", b""), ("noise", &testkit::noise(1, 2000))] {
        std::fs::write(carried.path(name), bytes).unwrap();
        let said = open(&[carried.path(name)], MOST_BYTES, &|| false).unwrap().inspect().unwrap();
        assert!(!said.whole && said.damage == 1, "{name}: {said:?}");
    }
}

#[test]
fn names_of_files_say_nothing_to_a_terminal() {
    let carried = Carried::whole();
    let hostile = "module-\u{1b}[2Jx.tar";
    std::fs::write(carried.path(hostile), testkit::noise(1, 2000)).unwrap();
    std::fs::write(carried.path("\u{1b}]0;x\u{7}"), "x").unwrap();
    let said = carried.open().inspect().unwrap();
    let all: Vec<&str> = said.findings.iter().flat_map(|finding| [&*finding.place, &*finding.says]).collect();
    let names = said.archives.iter().map(|archive| archive.name.as_str());
    assert!(all.into_iter().chain(names).all(|text| !text.chars().any(char::is_control)), "{said:?}");
    assert_eq!(damage(&said.findings), [(Problem::Header, "module-\\u{1b}[2Jx.tar")]);
    let missing = open(&[carried.path("\u{1b}")], MOST_BYTES, &|| false).unwrap_err().to_string();
    assert!(!missing.contains('\u{1b}'), "{missing}");
}

#[test]
fn an_index_with_a_text_that_does_not_end_is_refused_and_its_tags_with_it() {
    let mut layout = layout_of_one();
    layout.content(b"x");
    let mut archive = Archive::default();
    archive.layout("", &layout);
    let index = String::from_utf8(archive.files.remove("index.json").unwrap()).unwrap();
    let long = format!("{}, \"x\": \"{}\"}}", index.trim_end().trim_end_matches('}'), "x".repeat(70_000));
    archive.files.insert("index.json".to_owned(), long.into_bytes());
    let bundle = opened(&written("platform.tar", &archive.tar()), MOST_BYTES).unwrap();
    assert_eq!(bundle.tags("").count(), 0);
    let said = bundle.inspect().unwrap();
    assert_eq!(damage(&said.findings), [(Problem::Index, "platform.tar")]);
    assert!(said.findings[0].says.contains("a text has more than"), "{said:?}");
}
