//! Ten kinds of damage: each is found, by name, and ends with what it breaks.

use testkit::bundle::{Archive, Layout, append, end};

use super::*;

/// Problems with their places.
type Found = Vec<(Problem, String)>;

/// The damage that inspection and verification find.
fn found(carried: &Carried) -> (Found, Found) {
    let owned = |findings: &[Finding]| {
        damage(findings).into_iter().map(|(problem, place)| (problem, place.to_owned())).collect::<Vec<_>>()
    };
    let bundle = carried.open();
    let (inspected, verified) = (bundle.inspect().unwrap(), verified(&bundle));
    let (one, two) = (owned(&inspected.findings), owned(&verified.findings));
    assert_eq!(inspected.whole, one.is_empty());
    assert_eq!(verified.whole, two.is_empty());
    (one, two)
}

#[track_caller]
fn assert_has(found: &[(Problem, String)], problem: Problem, place: &str) {
    let has = found.iter().any(|(found, at)| *found == problem && at == place);
    assert!(has, "{problem:?} of {place} is not among {found:#?}");
}

#[test]
fn a_chunk_that_is_missing_is_named() {
    let carried = Carried::chunks();
    std::fs::remove_file(carried.path("platform.tar.0003.chunk")).unwrap();
    let (inspected, verified) = found(&carried);
    assert_has(&inspected, Problem::ChunkMissing, "platform.tar");
    assert_has(&verified, Problem::ChunkMissing, "platform.tar");
    let bundle = carried.open();
    let says = &bundle.findings().iter().find(|finding| finding.problem == Problem::ChunkMissing).unwrap().says;
    assert!(says.contains("chunk 0003 "), "{says}");
    // The index lies behind it: nothing of that archive has a tag, all others have theirs.
    assert_eq!(bundle.tags("install").count(), 0);
    assert_eq!(bundle.tags("modules/console").count(), 3);
}

#[test]
fn the_last_chunk_that_is_missing_is_seen_by_the_end() {
    let carried = Carried::chunks();
    let mut chunks: Vec<_> =
        std::fs::read_dir(carried.dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    chunks.retain(|path| path.to_str().unwrap().contains("platform.tar."));
    chunks.sort();
    // An empty one may be behind it.
    for path in &chunks[chunks.len() - 2..] {
        std::fs::remove_file(path).unwrap();
    }
    let (inspected, _) = found(&carried);
    let is_end = |(problem, place): &(Problem, String)| {
        matches!(problem, Problem::Cut | Problem::NoEnd) && place == "platform.tar"
    };
    assert!(inspected.iter().any(is_end), "{inspected:#?}");
}

#[test]
fn chunks_that_are_swapped_are_seen_by_headers_or_by_digests() {
    let carried = Carried::chunks();
    let (one, two) = (carried.path("platform.tar.0002.chunk"), carried.path("platform.tar.0003.chunk"));
    let (first, second) = (std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
    std::fs::write(&one, second).unwrap();
    std::fs::write(&two, first).unwrap();
    let (_, verified) = found(&carried);
    assert!(!verified.is_empty());
    // Of the same length, and inside of one content, only the digest tells.
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::default();
    let layers = [(testkit::media_type::LAYER, testkit::noise(1, 50_000))];
    layout.image(Some("v1.70.1"), (testkit::media_type::CONFIG, b"{}"), &layers);
    let mut archive = Archive::default();
    archive.layout("", &layout);
    let tar = archive.tar();
    for (number, chunk) in
        [&tar[..10_000], &tar[20_000..30_000], &tar[10_000..20_000], &tar[30_000..]].iter().enumerate()
    {
        std::fs::write(dir.path().join(format!("platform.tar.{number:04}.chunk")), chunk).unwrap();
    }
    let carried = Carried { dir, edition: Edition::default() };
    let (_, verified) = found(&carried);
    assert_has(&verified, Problem::BlobBytes, ":v1.70.1");
}

#[test]
fn a_chunk_that_is_cut_is_named_by_its_length() {
    let carried = Carried { dir: tempfile::tempdir().unwrap(), edition: Edition::of(&RELEASES) };
    let mut layout = Layout::default();
    for seed in 0..8 {
        let layers = [(testkit::media_type::LAYER, testkit::noise(seed, 700_000))];
        layout.image(
            Some(&format!("v1.{seed}.0")),
            (testkit::media_type::CONFIG, format!("{seed}").as_bytes()),
            &layers,
        );
    }
    let mut archive = Archive::default();
    archive.layout("", &layout);
    testkit::bundle::write_chunks(carried.dir.path(), "platform.tar", &archive.tar(), 1_000_000).unwrap();
    assert_sound(&carried.open());
    carried.change("platform.tar.0002.chunk", |bytes| bytes.truncate(300_001));
    let (inspected, _) = found(&carried);
    assert_has(&inspected, Problem::ChunkShort, "platform.tar.0002.chunk");
}

#[test]
fn a_flipped_bit_breaks_the_tags_that_reach_it_and_no_others() {
    for carried in [Carried::whole(), Carried::chunks()] {
        let layer = testkit::noise(602, 3000);
        let chunks: Vec<_> =
            std::fs::read_dir(carried.dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        let holder = chunks.iter().filter(|path| path.is_file()).find_map(|path| {
            let bytes = std::fs::read(path).unwrap();
            let at = bytes.windows(64).position(|window| window == &layer[1000..1064])?;
            Some((path.file_name().unwrap().to_str().unwrap().to_owned(), at))
        });
        let (name, at) = holder.unwrap();
        carried.change(&name, |bytes| bytes[at] ^= 4);
        let (inspected, verified) = found(&carried);
        assert!(inspected.is_empty(), "its headers are right: {inspected:?}");
        assert_eq!(verified, [(Problem::BlobBytes, "modules/console/extra/scanner:7".to_owned())]);
    }
}

/// What of a layout is left out or has other bytes, and the problem that its tag has.
#[test]
fn a_manifest_or_blob_that_is_missing_or_has_another_length_breaks_its_tag() {
    type Harm = fn(&mut Archive, &str, &str);
    let damage: [(Problem, Harm); 4] = [
        (Problem::ManifestMissing, |archive, manifest, _| drop(archive.files.remove(manifest))),
        (Problem::Manifest, |archive, manifest, _| archive.files.get_mut(manifest).unwrap().extend(b" ")),
        (Problem::BlobMissing, |archive, _, blob| drop(archive.files.remove(blob))),
        (Problem::BlobLength, |archive, _, blob| archive.files.get_mut(blob).unwrap().truncate(10)),
    ];
    for (problem, harm) in damage {
        let (dir, mut layout) = (tempfile::tempdir().unwrap(), Layout::default());
        let layer = testkit::noise(1, 1000);
        let layers = [(testkit::media_type::LAYER, layer.clone())];
        let manifest = layout.image(Some("v1.70.1"), (testkit::media_type::CONFIG, b"{}"), &layers);
        let mut archive = Archive::default();
        archive.layout("install", &layout);
        let name = |digest: &str| format!("install/blobs/sha256/{}", testkit::bundle::hex(digest));
        harm(&mut archive, &name(&manifest), &name(&testkit::digest(&layer)));
        std::fs::write(dir.path().join("platform.tar"), archive.tar()).unwrap();
        let (inspected, _) = found(&Carried { dir, edition: Edition::default() });
        assert_eq!(inspected, [(problem, "install:v1.70.1".to_owned())]);
    }
}

#[test]
fn a_header_that_is_cut_or_no_tar_at_all_is_named() {
    let carried = Carried::whole();
    carried.change("module-console.tar", |bytes| bytes.truncate(512 * 7 + 100));
    carried.change("platform.tar", |bytes| bytes[..512].fill(7));
    // The third header lies behind the contents of two.
    carried.change("installer.tar", |bytes| bytes.truncate(bytes.len() - 1000));
    std::fs::write(carried.path("module-noise.tar"), testkit::noise(1, 5000)).unwrap();
    std::fs::write(carried.path("module-empty.tar"), []).unwrap();
    let (inspected, _) = found(&carried);
    assert!(
        inspected.iter().any(|(problem, place)| *problem == Problem::Cut && place == "module-console.tar"),
        "{inspected:?}"
    );
    assert_has(&inspected, Problem::Header, "platform.tar");
    assert_has(&inspected, Problem::Header, "module-noise.tar");
    assert_has(&inspected, Problem::NoEnd, "module-empty.tar");
    assert!(inspected.iter().any(|(_, place)| place == "installer.tar"), "{inspected:?}");
}

#[test]
fn an_entry_that_is_there_twice_is_named() {
    let carried = Carried::whole();
    let name = format!("blobs/sha256/{}", testkit::bundle::hex(&testkit::digest(b"twice")));
    let mut tar = Vec::new();
    append(&mut tar, &name, b"twice");
    append(&mut tar, &name, b"twice");
    append(&mut tar, "index.json", br#"{"manifests": null}"#);
    append(&mut tar, "index.json", br#"{"manifests": []}"#);
    end(&mut tar);
    std::fs::write(carried.path("module-twice.tar"), tar).unwrap();
    let (inspected, _) = found(&carried);
    let twice = (Problem::Duplicate, "module-twice.tar".to_owned());
    assert_eq!(inspected, [twice.clone(), twice]);
}

#[test]
fn hostile_names_and_indexes_are_named_and_the_rest_counts() {
    let carried = Carried::whole();
    let outside = carried.path("outside");
    let mut tar = Vec::new();
    for name in ["../outside", "/outside", "a/../../outside", "a//b", "x\nproblem platform.tar: fine"] {
        append(&mut tar, name, b"hostile");
    }
    append(&mut tar, &"n/".repeat(4000), b"long");
    append(&mut tar, "UPPER/index.json", br#"{"manifests": []}"#);
    let tags = r#"{"manifests": [{"digest": "sha256:00", "annotations": {"io.deckhouse.image.short_tag": "a"}},
        {"digest": "DIGEST", "annotations": {"io.deckhouse.image.short_tag": "../../a"}}]}"#;
    append(&mut tar, "index.json", tags.replace("DIGEST", &testkit::digest(b"")).as_bytes());
    append(&mut tar, "deep/index.json", "[".repeat(100_000).as_bytes());
    end(&mut tar);
    std::fs::write(carried.path("module-hostile.tar"), tar).unwrap();
    let (inspected, _) = found(&carried);
    let of = |wanted: Problem| inspected.iter().filter(|(problem, _)| *problem == wanted).count();
    assert_eq!((of(Problem::Name), of(Problem::Index), of(Problem::Tag)), (7, 2, 1), "{inspected:#?}");
    assert!(inspected.iter().all(|(_, place)| place == "module-hostile.tar"));
    assert!(!outside.exists());
    assert_eq!(carried.open().inspect().unwrap().platform.versions, RELEASES);
    // What a name has of control characters is not printed as such.
    assert!(carried.open().findings().iter().all(|finding| !finding.says.contains('\n')));
}
