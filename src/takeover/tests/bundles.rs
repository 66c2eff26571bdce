//! Bundles taken into a store: tags that stay, channels of every form, bounds, and a stop.

use testkit::bundle::{Archive, Edition, Layout, RELEASES};

use super::*;
use crate::store::StoredManifest;

const MOST: usize = 16 << 20;

fn import_bundle(store: &Store, dir: &Path, options: &ImportOptions) -> Report {
    let source = Source::bundle(&[dir.to_path_buf()], MOST, &|| false).unwrap();
    inside(|| import(store, &source, options, &CancellationToken::new(), &|_| {})).unwrap()
}

fn below(root: &str) -> ImportOptions {
    ImportOptions { names: root.parse().unwrap(), overwrite: true, ..ImportOptions::default() }
}

fn put(store: &Store, repo: &str, tag: &str) -> Digest {
    let bytes = testkit::image(&testkit::descriptor(CONFIG, b"pushed"), &[]).to_string().into_bytes();
    put_bytes(store, repo, tag, &bytes)
}

fn put_bytes(store: &Store, repo: &str, tag: &str, bytes: &[u8]) -> Digest {
    let digest = crate::oci::Algorithm::Sha256.digest(bytes);
    let manifest = crate::oci::Manifest::parse(None, bytes).unwrap().into();
    let stored = StoredManifest { digest, bytes: bytes.to_vec().into(), manifest };
    let (repo, tag) = (repo.parse().unwrap(), tag.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(store.put_manifest(&repo, stored, vec![tag])).unwrap();
    digest
}

/// A bundle of one archive for each path.
fn written(dir: &Path, layouts: &[(&str, &Layout)]) {
    let mut archive = Archive::default();
    for (path, layout) in layouts {
        archive.layout(path, layout);
    }
    std::fs::write(dir.join("platform.tar"), archive.tar()).unwrap();
}

#[test]
fn tags_that_are_to_stay_stay_with_what_the_store_has() {
    let (dir, bundle) = (quick_dir(), quick_dir());
    Edition::of(&RELEASES).write(bundle.path()).unwrap();
    let store = store(dir.path());
    let pushed = put(&store, "d8/install", "v1.70.1");
    let keeping = ImportOptions { overwrite: false, ..below("d8") };
    let report = import_bundle(&store, bundle.path(), &keeping);
    assert!(reason(&report, "install:v1.70.1").contains(&pushed.to_string()), "{report:?}");
    assert_eq!((report.tags.left, report.is_whole()), (1, false));
    assert_eq!(tags(dir.path())["d8/install:v1.70.1"], pushed.to_string());
    let report = import_bundle(&store, bundle.path(), &below("d8"));
    assert_eq!((report.tags.left, report.tags.taken), (0, 1), "{report:?}");
    assert_ne!(tags(dir.path())["d8/install:v1.70.1"], pushed.to_string());
}

/// A package of which only the versions were carried is found all the same, as behind a real push.
#[test]
fn a_package_with_its_versions_alone_is_discovered() {
    let (dir, bundle) = (quick_dir(), quick_dir());
    let edition = Edition::of(&RELEASES);
    written(bundle.path(), &[("packages/shop/version", &edition.layouts["packages/shop/version"])]);
    let report = import_bundle(&store(dir.path()), bundle.path(), &below("d8"));
    assert!(report.is_whole(), "{report:?}");
    assert!(tags(dir.path()).contains_key("d8/packages:shop"));
}

/// A layout of channels, of an edition with these releases.
fn channels(releases: &[&str]) -> Layout {
    Edition::of(releases).layouts["release-channel"].clone()
}

/// As of old: the images of Deckhouse themselves have the tags of channels.
fn of_old(releases: &[&str]) -> Layout {
    let mut layout = Edition::of(releases).layouts[""].clone();
    let newest = layout.tagged(releases.last().unwrap()).unwrap().to_owned();
    layout.tag("alpha", &newest);
    layout
}

#[test]
fn a_channel_of_any_form_is_not_moved_back() {
    let (old, new) = (["v1.69.0", "v1.70.1"], ["v1.70.1", "v1.71.0"]);
    let forms = [
        ("release-channel", channels(&old), channels(&new)),
        ("modules/console/release", channels(&old), channels(&new)),
        ("packages/shop/version", channels(&old), channels(&new)),
        // A mirror of a ModuleSource.
        ("console/release", channels(&old), channels(&new)),
        ("", of_old(&old), of_old(&["v1.69.0", "v1.70.1", "v1.71.0"])),
        ("install", of_old(&old), of_old(&["v1.69.0", "v1.70.1", "v1.71.0"])),
    ];
    for (path, older, newer) in forms {
        let (dir, one, two) = (quick_dir(), quick_dir(), quick_dir());
        written(one.path(), &[(path, &older)]);
        written(two.path(), &[(path, &newer)]);
        let store = store(dir.path());
        let name = if path.is_empty() { "d8:alpha".to_owned() } else { format!("d8/{path}:alpha") };
        import_bundle(&store, two.path(), &below("d8"));
        let report = import_bundle(&store, one.path(), &below("d8"));
        assert_eq!(tags(dir.path())[&name], newer.tagged("alpha").unwrap(), "{path}");
        assert!(reason(&report, &format!("{path}:alpha")).contains("v1.71.0"), "{path}: {report:?}");
        let back = ImportOptions { channels_back: true, ..below("d8") };
        import_bundle(&store, one.path(), &back);
        assert_eq!(tags(dir.path())[&name], older.tagged("alpha").unwrap(), "{path}");
    }
}

/// Law: a channel that a push moves to a newer release while an import of an older one runs leads there in the end.
#[test]
fn a_push_beside_an_import_is_not_undone_by_it() {
    let (dir, base, carried) = (quick_dir(), quick_dir(), quick_dir());
    let layout = |release: &str| channels(&[release]);
    written(base.path(), &[("release-channel", &layout("v1.69.0"))]);
    written(carried.path(), &[("release-channel", &layout("v1.70.0"))]);
    let newest = layout("v1.71.0");
    let bytes = &newest.contents[testkit::bundle::hex(newest.tagged("stable").unwrap())];
    for round in 0..20 {
        let data = dir.path().join(round.to_string());
        let store = store(&data);
        import_bundle(&store, base.path(), &below("d8"));
        // What the push needs is there.
        let all = quick_dir();
        written(all.path(), &[("release-channel", &newest)]);
        import_bundle(&store, all.path(), &ImportOptions { overwrite: false, ..below("d8") });
        std::thread::scope(|scope| {
            scope.spawn(|| import_bundle(&store, carried.path(), &below("d8")));
            put_bytes(&store, "d8/release-channel", "stable", bytes);
        });
        assert_eq!(tags(&data)["d8/release-channel:stable"], newest.tagged("stable").unwrap(), "round {round}");
    }
}

#[test]
fn what_a_server_may_not_keep_of_a_bundle_and_a_stop_end_its_opening() {
    let bundle = quick_dir();
    Edition::of(&RELEASES).write(bundle.path()).unwrap();
    let order = SourceOrder::Bundle(vec![bundle.path().to_path_buf()]);
    let stop = CancellationToken::new();
    let metrics = crate::telemetry::Metrics::new().unwrap();
    let open = |most: usize| order.open(most, (&metrics, &tokio_util::task::TaskTracker::new(), &stop));
    open(MOST).unwrap();
    let error = open(8 << 10).unwrap_err().to_string();
    assert!(error.contains("more entries than are kept in 8192 bytes"), "{error}");
    stop.cancel();
    let error = open(MOST).unwrap_err().to_string();
    assert_eq!(error, "it was stopped");
}

/// Damage that is not named counts as well.
#[test]
fn all_damage_of_the_files_leaves_something_out() {
    let (dir, bundle) = (quick_dir(), quick_dir());
    let mut tar = Vec::new();
    for number in 0..2000 {
        testkit::bundle::append(&mut tar, &format!("../{number}"), b"");
    }
    testkit::bundle::append(&mut tar, "oci-layout", b"{}");
    testkit::bundle::append(&mut tar, "index.json", br#"{"manifests": null}"#);
    testkit::bundle::end(&mut tar);
    std::fs::write(bundle.path().join("platform.tar"), tar).unwrap();
    let source = Source::bundle(&[bundle.path().to_path_buf()], 1 << 20, &|| false).unwrap();
    let store = store(dir.path());
    let report = inside(|| import(&store, &source, &below("d8"), &CancellationToken::new(), &|_| {})).unwrap();
    assert_eq!((report.tags.left, report.left.len() as u64 + report.more_left), (2000, 2000));
    assert!(report.more_left > 0);
}
