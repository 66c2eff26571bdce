//! Lists and layers, right and hostile.

use proptest::prelude::*;
use serde_json::json;
use testkit::layer::{Tar, gzip, zstd};

use super::lists::once_each;
use super::*;
use crate::oci::Reference;

const LIST: &str = "deckhouse/candi/images_digests.json";
const AMPLE: Budget = Budget { bytes: 64 << 20, entries: 1000 };

fn digest(content: &str) -> String {
    testkit::digest(content.as_bytes())
}

fn said(layer: &[u8]) -> Result<FileInLayer, LayerError> {
    let mut budget = AMPLE;
    scan(layer, &[LIST], &mut budget).map(|mut said| said.remove(0))
}

fn has(layer: Tar) -> FileInLayer {
    said(&layer.finish()).unwrap()
}

fn content(text: &str) -> FileInLayer {
    FileInLayer::Content(text.as_bytes().to_vec())
}

#[test]
fn a_list_names_every_image_with_its_label() {
    let (a, b) = (digest("a"), digest("b"));
    let json = json!({"nodeManager": {"bashibleApiserver": a}, "common": {"alpine": b, "pause": a}}).to_string();
    let named = ListFile::Digests.images(json.as_bytes()).unwrap();
    let images: Vec<_> = named.iter().map(RequiredImage::from).collect();
    let labels: Vec<_> = images.iter().map(|image| image.source.as_str()).collect();
    assert_eq!(labels, ["module/common/alpine", "module/common/pause", "module/node-manager/bashible-apiserver"]);
    assert!(images.iter().all(|image| image.child.is_empty() && image.expected.is_none()));
    let tags = ListFile::Tags.images(br#"{"common":{"alpine":"abc-1649"}}"#).unwrap();
    assert_eq!(tags[0].reference, Reference::Tag("abc-1649".parse().unwrap()));
    // As often as it is needed, an image is there once: under the label that comes first.
    let once = once_each(images);
    let labels: Vec<_> = once.iter().map(|image| image.source.as_str()).collect();
    assert_eq!(labels.len(), 2);
    assert!(labels.contains(&"module/common/alpine") && labels.contains(&"module/common/pause"));
    assert!(once.is_sorted_by_key(|image| image.reference.to_string()));
}

#[test]
fn a_list_that_is_wrong_in_one_place_is_no_list() {
    let good = digest("a");
    for wrong in [
        String::new(),
        "{}".to_owned(),
        r#"{"a":{}}"#.to_owned(),
        "[]".to_owned(),
        format!(r#"{{"a":"{good}"}}"#),
        format!(r#"{{"a":{{"b":{{"c":"{good}"}}}}}}"#),
        format!(r#"{{"a":{{"b":"{good}","c":null}}}}"#),
        format!(r#"{{"a":{{"b":"{good}","c":""}}}}"#),
        format!(r#"{{"a":{{"b":"{good}","c":"v1"}}}}"#),
        format!(r#"{{"a":{{"b":"{good}","b":"{good}"}}}}"#),
        format!(r#"{{"a":{{"b":"{good}"}},"a":{{"c":"{good}"}}}}"#),
        format!(r#"{{"a":{{"b":"{good}"}}}} trailing"#),
        format!(r#"{{"a":{{"b":"{good}""#),
        "[".repeat(100_000),
    ] {
        assert!(ListFile::Digests.images(wrong.as_bytes()).is_err(), "{}", &wrong[..wrong.len().min(100)]);
    }
    assert!(ListFile::Tags.images(br#"{"a":{"b":"no tag"}}"#).is_err());
    // An error names the place and not the whole of what stands there.
    let long = format!(r#"{{"nodeManager":{{"b":"{}"}}}}"#, "x".repeat(10_000));
    let error = ListFile::Digests.images(long.as_bytes()).unwrap_err().to_string();
    assert!(error.starts_with("module/node-manager/b is \"xxx") && error.len() < 200, "{error}");
}

#[test]
fn a_layer_may_be_compressed_or_not_and_name_things_in_any_way() {
    for name in [LIST, "./deckhouse/candi/images_digests.json", "/deckhouse//candi/./images_digests.json"] {
        let tar = Tar::new().directory("deckhouse/").directory("deckhouse/candi/").file(name, "{}").finish();
        let two_members = [gzip(&tar[..700]).unwrap(), gzip(&tar[700..]).unwrap()].concat();
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], &zstd(&tar).unwrap()[..]].concat();
        for layer in [tar.clone(), gzip(&tar).unwrap(), zstd(&tar).unwrap(), two_members, skipped] {
            assert_eq!(said(&layer).unwrap(), content("{}"), "{name}");
        }
    }
    // Long names stand in an entry of their own; they count once.
    let record = |key: &str, value: &str| {
        let length = key.len() + value.len() + 3;
        let length = length + (length + 2).to_string().len();
        format!("{length} {key}={value}\n")
    };
    let pax = record("path", LIST);
    let long = Tar::new().entry(b'L', "././@LongLink", format!("{LIST}\0")).file("short", "{}").file("other", "x");
    assert_eq!(has(long), content("{}"));
    assert_eq!(has(Tar::new().entry(b'x', "PaxHeaders/0", &pax).file("short", "{}").file("other", "x")), content("{}"));
    assert_eq!(has(Tar::new().entry(b'g', "global", &pax).file("short", "{}")), FileInLayer::Unmentioned);
}

#[test]
fn the_last_of_several_entries_counts() {
    assert_eq!(has(Tar::new().file(LIST, "1").file("x", "").file(LIST, "2")), content("2"));
    assert_eq!(has(Tar::new().file(LIST, "1").directory(LIST)), FileInLayer::Removed);
    assert_eq!(has(Tar::new().file(LIST, "1").file("deckhouse", "")), FileInLayer::Removed);
}

#[test]
fn what_is_removed_is_removed_from_the_layers_below_alone() {
    for gone in [
        "deckhouse/candi/.wh.images_digests.json",
        "deckhouse/.wh.candi",
        ".wh.deckhouse",
        "deckhouse/candi/.wh..wh..opq",
        "./deckhouse/.wh..wh..opq",
        ".wh..wh..opq",
    ] {
        assert_eq!(has(Tar::new().file(gone, "")), FileInLayer::Removed, "{gone}");
        assert_eq!(has(Tar::new().file(LIST, "1").file(gone, "")), content("1"), "{gone}");
        assert_eq!(has(Tar::new().file(gone, "").file(LIST, "1")), content("1"), "{gone}");
    }
    for other in [
        "deckhouse/candi/.wh.images_tags.json",
        "deckhouse/candi/.wh.images_digests.json/x",
        "candi/.wh.images_digests.json",
        "deckhouse/candi/images_digests.json/.wh..wh..opq",
        "deckhouse/other/.wh..wh..opq",
        "deckhouse/candi/.wh..wh.plnk",
        ".wh.",
    ] {
        assert_eq!(has(Tar::new().file(other, "")), FileInLayer::Unmentioned, "{other}");
    }
}

#[test]
fn what_leads_elsewhere_is_refused() {
    for links in [
        Tar::new().link(LIST),
        Tar::new().entry(b'1', LIST, ""),
        Tar::new().link("deckhouse/candi"),
        Tar::new().link("./deckhouse"),
    ] {
        assert!(matches!(said(&links.finish()), Err(LayerError::Link(path)) if path == LIST));
    }
    for upwards in ["../deckhouse/candi/images_digests.json", "deckhouse/x/../candi/images_digests.json", ".."] {
        let error = said(&Tar::new().file(upwards, "{}").finish()).unwrap_err();
        assert!(matches!(error, LayerError::Archive(ArchiveError::Refused(_))), "{upwards}: {error}");
    }
    // Links beside the way are nothing to us.
    assert_eq!(has(Tar::new().link("deckhouse/candi2").link("bin").file(LIST, "1")), content("1"));
}

#[test]
fn nothing_that_a_layer_says_is_believed_without_a_bound() {
    let refused = |layer: Vec<u8>| said(&layer).unwrap_err();
    // A file of 4 MiB and a byte, said and real.
    let large = vec![b' '; (4 << 20) + 1];
    let error = refused(Tar::new().file(LIST, &large).finish());
    assert!(matches!(error, LayerError::FileSize { size, .. } if size == large.len() as u64));
    // A name of that length, of either kind.
    for kind in [b'L', b'x'] {
        assert!(matches!(
            refused(Tar::new().entry(kind, "long", &large).file("short", "").finish()),
            LayerError::Archive(ArchiveError::Refused(_))
        ));
    }
    // Extensions that readers understand in different ways.
    let size = "20 size=10000000000\n";
    let sparse = "22 GNU.sparse.major=1\n";
    for (kind, content) in [(b'x', size), (b'x', sparse), (b'S', "")] {
        let layer = Tar::new().entry(kind, "odd", content).file(LIST, "1").finish();
        assert!(matches!(refused(layer), LayerError::Archive(ArchiveError::Refused(_))), "{content}");
    }
    // Many entries.
    let many = (0..1001).fold(Tar::new(), |tar, _| tar.file("x", ""));
    assert!(matches!(refused(many.finish()), LayerError::Archive(ArchiveError::Entries(1000))));
    // A bomb: 65 MiB of zeros in some KiB.
    for bomb in [gzip(&vec![0; 65 << 20]).unwrap(), zstd(&vec![0; 65 << 20]).unwrap()] {
        assert!(bomb.len() < 1 << 20);
        let tar = Tar::new().entry_of(b'0', "zeros", 65 << 20, &[]).cut();
        let head = if bomb.starts_with(&[0x1f]) { gzip(&tar).unwrap() } else { zstd(&tar).unwrap() };
        let error = refused([head, bomb].concat()).to_string();
        assert!(error.contains("it unpacks to more than 67108864 bytes"), "{error}");
    }
}

#[test]
fn what_is_spent_on_a_layer_is_missing_for_the_next() {
    let layer = Tar::new().file(LIST, vec![b' '; 100_000]).file("x", "").finish();
    let mut budget = Budget { bytes: 250_000, entries: 5 };
    for left in [3, 1] {
        scan(&layer[..], &[LIST], &mut budget).unwrap();
        assert_eq!(budget.entries, left);
    }
    assert!(budget.bytes < 50_000);
    assert!(scan(&layer[..], &[LIST], &mut budget).is_err());
}

#[test]
fn what_is_cut_or_no_archive_is_an_error() {
    let tar = Tar::new().file("before", vec![1; 3000]).file(LIST, "{}").finish();
    for whole in [gzip(&tar).unwrap(), zstd(&tar).unwrap()] {
        for cut in [1, 3, 10, whole.len() / 2] {
            assert!(said(&whole[..cut]).is_err(), "{cut} of {}", whole.len());
        }
    }
    assert!(said(&tar[..700]).is_err());
    assert!(said(&[7; 2000]).is_err());
    assert!(said(b"{\"architecture\":\"amd64\"}").is_err());
    // Nothing at all is a layer without entries.
    assert_eq!(said(b"").unwrap(), FileInLayer::Unmentioned);
}

proptest! {
    /// However a layer is spoilt, reading it ends, with a list that stands in it or without one.
    #[test]
    fn no_bytes_do_harm(spoil in proptest::collection::vec((0_usize..6000, any::<u8>()), 1..20), which in 0..3_u8) {
        let tar = Tar::new().directory("deckhouse/").entry(b'L', "long", format!("{LIST}\0")).file("short", "{}").finish();
        let mut layer = match which {
            0 => tar,
            1 => gzip(&tar).unwrap(),
            _ => zstd(&tar).unwrap(),
        };
        for (at, byte) in spoil {
            let at = at % layer.len();
            layer[at] = byte;
        }
        let mut budget = Budget { bytes: 1 << 20, entries: 100 };
        if let Ok(said) = scan(&layer[..], &[LIST, "short"], &mut budget) {
            prop_assert_eq!(said.len(), 2);
        }
    }

    /// A list is read as it was written, or not at all.
    #[test]
    fn lists_come_back_whole(modules in proptest::collection::btree_map("[a-z][a-zA-Z]{0,8}", proptest::collection::btree_map("[a-z][a-zA-Z0-9]{0,8}", any::<u64>(), 1..5), 1..5)) {
        let modules: std::collections::BTreeMap<_, std::collections::BTreeMap<_, _>> = modules.into_iter().map(|(module, images)| {
            (module, images.into_iter().map(|(image, seed)| (image, digest(&seed.to_string()))).collect())
        }).collect();
        let images = ListFile::Digests.images(json!(modules).to_string().as_bytes()).unwrap();
        let images: Vec<_> = images.iter().map(RequiredImage::from).collect();
        let written: Vec<_> = modules.values().flat_map(|images| images.values().cloned()).collect();
        prop_assert_eq!(images.iter().map(|image| image.reference.to_string()).collect::<Vec<_>>(), written);
    }
}
