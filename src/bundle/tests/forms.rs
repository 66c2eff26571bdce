//! Every form in which bundles come.

use std::collections::BTreeMap;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;

use testkit::bundle::{Archive, Layout, append, end, header};

use super::*;

/// Every tag with its digest.
fn tags(bundle: &Bundle) -> BTreeMap<String, String> {
    let paths: Vec<&str> = bundle.repositories().collect();
    let tagged = paths
        .iter()
        .flat_map(|path| bundle.tags(path).map(move |(tag, digest)| (format!("{path}:{tag}"), digest.to_string())));
    tagged.collect()
}

#[test]
fn whole_files_and_chunks_say_the_same_and_every_content_is_found_with_its_bytes() {
    for carried in [Carried::whole(), Carried::chunks()] {
        let bundle = carried.open();
        assert_eq!(tags(&bundle), carried.edition.tags());
        for (path, layout) in &carried.edition.layouts {
            for (hex, bytes) in &layout.contents {
                let digest = format!("sha256:{hex}").parse().unwrap();
                let found = bundle.find(path, &digest).unwrap_or_else(|| panic!("{path}: {hex}"));
                assert_eq!(&found.read(u64::MAX).unwrap(), bytes);
                let mut joined = Vec::new();
                for piece in found.pieces() {
                    let piece = piece.unwrap();
                    let mut part = vec![0; usize::try_from(piece.length).unwrap()];
                    std::os::unix::fs::FileExt::read_exact_at(&*piece.file, &mut part, piece.at).unwrap();
                    joined.extend(part);
                }
                assert_eq!(&joined, bytes);
            }
        }
        assert_sound(&bundle);
    }
}

#[test]
fn an_inspection_names_what_is_there_and_what_no_tag_reaches() {
    let carried = Carried::whole();
    let said = carried.open().inspect().unwrap();
    assert_eq!(said.platform.versions, RELEASES);
    let channels: Vec<_> =
        said.platform.channels.iter().map(|channel| (channel.channel.as_str(), channel.version.as_deref())).collect();
    // Of the bold ones only the layer of their image says it.
    let (old, new) = (Some(RELEASES[0]), Some(RELEASES[1]));
    assert_eq!(channels, [("alpha", new), ("beta", new), ("early-access", old), ("stable", old), ("rock-solid", old)]);
    assert_eq!(said.installer, ["latest"]);
    assert_eq!(said.security, ["trivy-bdu:1", "trivy-checks:0", "trivy-db:2", "trivy-java-db:1"]);
    let console = said.modules.iter().find(|module| module.name == "console").unwrap();
    assert_eq!(
        (console.versions.as_slice(), console.extra.as_slice()),
        (["v1.2.3".to_owned()].as_slice(), ["scanner:7".to_owned()].as_slice())
    );
    assert_eq!(console.channels.len(), 5);
    assert_eq!(
        (said.modules.len(), said.packages[0].name.as_str(), said.plugins[0].name.as_str()),
        (2, "shop", "stronghold")
    );
    assert!(said.others.is_empty(), "{:?}", said.others);
    assert_eq!(said.tags, carried.edition.tags().len() as u64);
    let archive = |name: &str| said.archives.iter().find(|archive| archive.name == name).unwrap();
    assert_eq!((archive("platform.tar").unreached, archive("platform.tar").unreached_bytes), (1, 900));
    assert_eq!((archive("security.tar").unreached, archive("security.tar").unreached_bytes), (1, 20_000));
    // What a killed pull left is told, and is no damage.
    let notes: Vec<_> = said.findings.iter().map(|finding| (finding.problem, finding.damage)).collect();
    assert_eq!(notes, [(Problem::Ignored, false)]);
}

/// 28 GB, of which a disk has nothing but the headers and manifests.
#[test]
fn of_28_gigabytes_only_headers_and_manifests_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (large, config) = (28_u64 << 30, b"{}".to_vec());
    let layer = format!("sha256:{}", "5a".repeat(32));
    let manifest = testkit::image(
        &testkit::descriptor(testkit::media_type::CONFIG, &config),
        &[testkit::descriptor_of(testkit::media_type::LAYER, &layer, usize::try_from(large).unwrap())],
    );
    let mut layout = Layout::default();
    layout.content(&config);
    let digest = layout.content(manifest.to_string().as_bytes());
    layout.tag("v1.70.1", &digest);
    let mut file = std::fs::File::create(dir.path().join("platform.tar")).unwrap();
    file.write_all(&header(&format!("blobs/sha256/{}", "5a".repeat(32)), large)).unwrap();
    file.seek(SeekFrom::Current(i64::try_from(large).unwrap())).unwrap();
    let mut archive = Archive::default();
    archive.layout("", &layout);
    file.write_all(&archive.tar()).unwrap();
    let facts = file.metadata().unwrap();
    assert!(facts.len() > large && facts.blocks() * 512 < 1 << 20, "the disk keeps holes");
    let said = open(&[dir.path().to_path_buf()], MOST_BYTES, &|| false).unwrap().inspect().unwrap();
    assert!(said.whole, "{:?}", said.findings);
    assert_eq!((said.tags, said.platform.versions.as_slice()), (1, ["v1.70.1".to_owned()].as_slice()));
    assert!(said.content_bytes > large && said.read_bytes < 16 * 1024, "{} bytes were read", said.read_bytes);
}

#[test]
fn files_can_be_named_one_by_one_and_a_chunk_brings_the_others() {
    let carried = Carried::chunks();
    let named = [carried.path("module-console.tar.0001.chunk"), carried.path("module-console.tar.0000.chunk")];
    let said = open(&named, MOST_BYTES, &|| false).unwrap().inspect().unwrap();
    assert!(said.whole && said.archives.len() == 1, "{said:?}");
    assert_eq!(said.modules.iter().map(|module| module.name.as_str()).collect::<Vec<_>>(), ["console"]);
    let nothing = open(&[carried.path(".tmp")], MOST_BYTES, &|| false).unwrap_err();
    assert!(matches!(nothing, BundleError::Nothing(_)), "{nothing}");
    assert!(matches!(open(&[carried.path("none.tar")], MOST_BYTES, &|| false), Err(BundleError::Read { .. })));
    assert!(matches!(open(&[carried.dir.path().to_path_buf()], 1000, &|| false), Err(BundleError::TooMuch(1000))));
}

#[test]
fn a_directory_of_layouts_is_read_as_it_is_and_no_link_in_it_is_followed() {
    let carried = Carried { dir: tempfile::tempdir().unwrap(), edition: Edition::of(&RELEASES) };
    for (path, layout) in &carried.edition.layouts {
        let mut archive = Archive::default();
        archive.layout(path, layout);
        archive.write(carried.dir.path()).unwrap();
    }
    let bundle = carried.open();
    assert_eq!(tags(&bundle), carried.edition.tags());
    assert_sound(&bundle);
    let config = testkit::bundle::hex(&testkit::digest(b"{}")).to_owned();
    let blob = carried.path(&format!("security/trivy-db/blobs/sha256/{config}"));
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), "{}").unwrap();
    std::fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink(outside.path(), &blob).unwrap();
    let said = carried.open().inspect().unwrap();
    assert!(damage(&said.findings).iter().any(|(problem, _)| *problem == Problem::Unreadable), "{said:?}");
}

/// Go's default format: `prefix` for long names, PAX where that does not do; one archive; no mark of the end.
#[test]
fn an_archive_of_old_is_read_with_its_names_and_without_an_end() {
    let edition = Edition::of(&RELEASES);
    let dir = tempfile::tempdir().unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut expected = BTreeMap::new();
    for (path, layout) in edition.layouts.iter().filter(|(path, _)| path.is_empty() || !path.starts_with("modules")) {
        let mut archive = Archive::default();
        archive.layout(path, layout);
        for name in archive.names() {
            let bytes = &archive.files[name];
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            // The crate's builder would split a long name; PAX is what Go takes where it can't.
            let long = format!("path={name}\n");
            let length = long.len() + 4;
            if name.len() > 90 {
                let record = format!("{length:03} {long}");
                let mut pax = tar::Header::new_ustar();
                pax.set_entry_type(tar::EntryType::XHeader);
                pax.set_size(record.len() as u64);
                pax.set_path("PaxHeaders.0/x").unwrap();
                pax.set_cksum();
                tar.append(&pax, record.as_bytes()).unwrap();
                header.set_path("short").unwrap();
            } else {
                header.set_path(name).unwrap();
            }
            header.set_cksum();
            tar.append(&header, bytes.as_slice()).unwrap();
        }
        for (tag, digest, _) in &layout.tags {
            expected.insert(format!("{path}:{tag}"), digest.clone());
        }
    }
    let mut bytes = tar.into_inner().unwrap();
    bytes.truncate(bytes.len() - 1024);
    std::fs::write(dir.path().join("d8.tar"), &bytes).unwrap();
    let bundle = open(&[dir.path().join("d8.tar")], MOST_BYTES, &|| false).unwrap();
    assert_eq!(tags(&bundle), expected);
    assert_sound(&bundle);
    // In chunks, with one sum for all of them.
    std::fs::remove_file(dir.path().join("d8.tar")).unwrap();
    bytes.resize(bytes.len() + 1024, 0);
    testkit::bundle::write_chunks(dir.path(), "d8.tar", &bytes, 50_000).unwrap();
    let sum = |bytes: &[u8]| {
        let mut sum = GostSum::default();
        sum.update(bytes);
        sum.finish()
    };
    std::fs::write(dir.path().join("d8.tar.gostsum"), sum(&bytes)).unwrap();
    let bundle = open(&[dir.path().to_path_buf()], MOST_BYTES, &|| false).unwrap();
    assert_eq!(tags(&bundle), expected);
    let said = verified(&bundle);
    assert!(said.whole && said.sums == 1, "{said:?}");
    // What a reader of headers does not miss, the sum does.
    bytes.push(0);
    std::fs::write(dir.path().join("d8.tar.gostsum"), sum(&bytes)).unwrap();
    assert_eq!(damage(&verified(&bundle).findings), [(Problem::Sum, "d8.tar")]);
}

#[test]
fn a_module_of_old_has_its_layouts_at_the_root() {
    let edition = Edition::of(&RELEASES);
    let dir = tempfile::tempdir().unwrap();
    let mut archive = Archive::default();
    archive.layout("", &edition.layouts["modules/console"]);
    archive.layout("release", &edition.layouts["modules/console/release"]);
    std::fs::write(dir.path().join("module-console.tar"), archive.tar()).unwrap();
    let bundle = open(&[dir.path().to_path_buf()], MOST_BYTES, &|| false).unwrap();
    assert_eq!(bundle.repositories().collect::<Vec<_>>(), ["modules/console", "modules/console/release"]);
    assert_sound(&bundle);
}

#[test]
fn a_layout_of_several_archives_has_the_tags_of_all_and_the_last_word_counts() {
    let (dir, mut one, mut two) = (tempfile::tempdir().unwrap(), Layout::default(), Layout::default());
    let image =
        |layout: &mut Layout, tag: &str, seed: u8| layout.image(Some(tag), (testkit::media_type::CONFIG, &[seed]), &[]);
    image(&mut one, "v1.0.0", 1);
    let old = image(&mut one, "stable", 2);
    image(&mut two, "v2.0.0", 3);
    let new = image(&mut two, "stable", 4);
    // Twice in one index too.
    let last = image(&mut two, "beta", 5);
    two.tags.insert(0, ("beta".to_owned(), new.clone(), testkit::media_type::IMAGE.to_owned()));
    for (name, layout) in [("package-shop.tar", &one), ("package-versions.tar", &two)] {
        let mut archive = Archive::default();
        archive.layout("packages/shop/version", layout);
        std::fs::write(dir.path().join(name), archive.tar()).unwrap();
    }
    let bundle = open(&[dir.path().to_path_buf()], MOST_BYTES, &|| false).unwrap();
    let found: BTreeMap<_, _> =
        bundle.tags("packages/shop/version").map(|(tag, digest)| (tag, digest.to_string())).collect();
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), ["beta", "stable", "v1.0.0", "v2.0.0"]);
    assert_eq!((&found["stable"], &found["beta"]), (&new, &last));
    assert_ne!(found["stable"], old);
    assert_sound(&bundle);
}

#[test]
fn the_end_of_a_tar_may_be_padded_and_what_is_behind_it_is_not_read() {
    let carried = Carried::whole();
    carried.change("installer.tar", |bytes| bytes.resize(bytes.len().next_multiple_of(10_240), 0));
    let mut behind = Vec::new();
    append(&mut behind, "index.json", b"{}");
    end(&mut behind);
    carried.change("platform.tar", |bytes| bytes.extend(behind));
    assert_sound(&carried.open());
    assert_eq!(tags(&carried.open()), carried.edition.tags());
}
