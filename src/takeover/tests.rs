//! Imports and exports as a whole, on real directories.

mod bundles;
#[cfg(feature = "failpoints")]
mod crash;
mod memory;
mod random;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use serde_json::json;
use testkit::distribution::Tree;
use testkit::media_type::{CONFIG, IMAGE, LAYER};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::oci::{Digest, Reference, RepoName};
use crate::store::tests::{assert_tidy, quick_dir, store};
use crate::store::{Store, StoreView};

/// Runs what blocks inside a runtime.
fn inside<T>(work: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    work()
}

fn run(store: &Store, source: &Path, options: &ImportOptions) -> Result<Report, ImportError> {
    let source = Source::distribution(source).unwrap();
    inside(|| import(store, &source, options, &CancellationToken::new(), &|_| {}))
}

fn options(moves: bool) -> ImportOptions {
    ImportOptions { moves, ..ImportOptions::default() }
}

/// Writes an image of these blobs; the digest of its manifest.
fn write_image(tree: &Tree, repository: &str, tag: Option<&str>, blobs: &[Vec<u8>]) -> String {
    for blob in blobs {
        let digest = tree.content(blob).unwrap();
        tree.layer(repository, &digest).unwrap();
    }
    let layers: Vec<_> = blobs[1..].iter().map(|blob| testkit::descriptor(LAYER, blob)).collect();
    let manifest = testkit::image(&testkit::descriptor(CONFIG, &blobs[0]), &layers).to_string();
    write_manifest(tree, repository, tag, manifest.as_bytes())
}

fn write_manifest(tree: &Tree, repository: &str, tag: Option<&str>, bytes: &[u8]) -> String {
    let digest = tree.content(bytes).unwrap();
    tree.revision(repository, &digest).unwrap();
    if let Some(tag) = tag {
        tree.tag(repository, tag, &digest).unwrap();
    }
    digest
}

/// Every tag of a store, with its digest.
fn tags(dir: &Path) -> BTreeMap<String, String> {
    let view = StoreView::open(dir).unwrap();
    let tagged = view.repositories().into_iter().flat_map(|repo| {
        let tags = view.tags(&repo).unwrap();
        tags.into_iter().map(move |(tag, digest)| (format!("{repo}:{tag}"), digest.to_string()))
    });
    tagged.collect()
}

/// All that must not change of a file or directory: kind and mode, owner, links, times, content.
type Facts = (u32, u32, u32, u64, i64, i64, i64, i64, Vec<u8>);

fn facts(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let facts = std::fs::symlink_metadata(&path).unwrap();
        // Before its content: to read it here changes when it was read.
        let times = (facts.mtime(), facts.mtime_nsec(), facts.ctime(), facts.ctime_nsec());
        let content = if facts.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        if facts.is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let (mtime, mtime_nsec, ctime, ctime_nsec) = times;
        let facts =
            (facts.mode(), facts.uid(), facts.gid(), facts.nlink(), mtime, mtime_nsec, ctime, ctime_nsec, content);
        found.insert(path, facts);
    }
    found
}

fn reason<'a>(report: &'a Report, image: &str) -> &'a str {
    let left = report.left.iter().find(|left| left.image == image);
    &left.unwrap_or_else(|| panic!("{image} is not named: {report:?}")).reason
}

#[test]
fn a_tree_comes_whole_and_is_not_written_unless_it_is_given_up() {
    for moves in [false, true] {
        let dir = quick_dir();
        let (source, data) = (dir.path().join("source"), dir.path().join("data"));
        let tree = Tree::new(&source).unwrap();
        let (config, shared, large) = (b"config".to_vec(), b"shared".to_vec(), testkit::noise(1, 3_000_000));
        let one = write_image(&tree, "system/deckhouse", Some("v1"), &[config.clone(), shared.clone(), large.clone()]);
        let two = write_image(&tree, "system/deckhouse/install", Some("v1"), &[config.clone(), shared.clone()]);
        let signature = testkit::with(
            testkit::image(&testkit::descriptor(CONFIG, &config), &[]),
            &json!({"subject": testkit::descriptor_of(IMAGE, &one, 1), "artifactType": "a/signature"}),
        );
        let signature = write_manifest(&tree, "system/deckhouse", None, signature.to_string().as_bytes());
        tree.upload("system/deckhouse", "0-0").unwrap();
        let unnamed = tree.content(b"named by nothing").unwrap();
        tree.layer("system/deckhouse", &unnamed).unwrap();
        let before = facts(&source);
        let store = store(&data);

        let look = run(&store, &source, &ImportOptions { dry_run: true, ..options(moves) }).unwrap();
        assert!(look.dry_run && tags(&data).is_empty());
        let report = run(&store, &source, &options(moves)).unwrap();
        assert!(report.is_whole() && report.left.is_empty(), "{report:?}");
        assert_eq!((report.tags.taken, report.manifests.taken, report.unfinished_uploads), (2, 3, 1));
        assert_eq!(report.bytes, (config.len() + shared.len() + large.len()) as u64, "each once");
        assert_eq!(report.moved_bytes, if moves { report.bytes } else { 0 });
        assert_eq!((look.tags, look.manifests, look.bytes), (report.tags, report.manifests, report.bytes));
        let expected = [("system/deckhouse/install:v1", &two), ("system/deckhouse:v1", &one)];
        assert_eq!(tags(&data), expected.map(|(tag, digest)| (tag.to_owned(), digest.clone())).into());
        assert_tidy(&store);
        let repo: RepoName = "system/deckhouse".parse().unwrap();
        let digest: Digest = signature.parse().unwrap();
        let found = inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(store.manifest(&repo, &Reference::Digest(digest)))
        });
        assert_eq!(found.unwrap().manifest.subject.as_ref().unwrap().digest.to_string(), one);
        // No name of a content that came is a further one of a file outside.
        assert!(facts(&source).values().filter(|facts| !facts.8.is_empty()).all(|facts| facts.3 == 1));
        if moves {
            assert!(!tree.data(&testkit::digest(&large)).exists() && tree.data(&unnamed).exists());
        } else {
            assert_eq!(facts(&source), before);
        }

        let again = run(&store, &source, &options(moves)).unwrap();
        assert_eq!((again.bytes, again.tags.present, again.manifests.present), (0, 2, 3), "{again:?}");
        assert_eq!((again.tags.taken, again.manifests.taken, again.blobs.taken), (0, 0, 0));
    }
}

#[test]
fn what_is_broken_is_named_and_stays_behind_and_the_rest_comes() {
    let dir = quick_dir();
    let (source, data, outside) = (dir.path().join("source"), dir.path().join("data"), dir.path().join("outside"));
    let tree = Tree::new(&source).unwrap();
    let image = |tag: &str| write_image(&tree, "a", Some(tag), &[tag.into(), format!("layer of {tag}").into_bytes()]);
    let layer_of = |tag: &str| tree.data(&testkit::digest(format!("layer of {tag}").as_bytes()));
    let good = image("good");
    image("missing-blob");
    std::fs::remove_file(layer_of("missing-blob")).unwrap();
    image("wrong-bytes");
    std::fs::write(layer_of("wrong-bytes"), "LAYER OF wrong-bytes").unwrap();
    image("cut");
    std::fs::write(layer_of("cut"), "layer").unwrap();
    let missing = image("missing-manifest");
    std::fs::remove_file(tree.data(&missing)).unwrap();
    let deleted = image("deleted");
    std::fs::remove_file(tree.revision_link("a", &deleted)).unwrap();
    image("untagged");
    std::fs::remove_file(tree.repository("a").join("_manifests/tags/untagged/current/link")).unwrap();
    image("dangling");
    std::fs::write(tree.repository("a").join("_manifests/tags/dangling/current/link"), "nowhere").unwrap();
    image("linked");
    std::fs::write(&outside, "layer of linked").unwrap();
    std::fs::remove_file(layer_of("linked")).unwrap();
    symlink(&outside, layer_of("linked")).unwrap();
    let changed = image("changed");
    std::fs::write(tree.data(&changed), "{}").unwrap();
    write_manifest(&tree, "a", Some("no-json"), b"<html>");
    write_manifest(&tree, "a", Some("schema1"), br#"{"schemaVersion":1,"name":"a","fsLayers":[]}"#);
    let child = write_image(&tree, "a", None, &[b"child".to_vec()]);
    let index = |children: &[&str]| {
        let children: Vec<_> = children.iter().map(|child| testkit::descriptor_of(IMAGE, child, 1)).collect();
        testkit::index(&children).to_string()
    };
    // As a cache has it: an index, and of its children the one that was pulled.
    write_manifest(&tree, "a", Some("partial"), index(&[&child, &testkit::digest(b"none")]).as_bytes());
    write_manifest(&tree, "a", Some("whole-index"), index(&[&child]).as_bytes());
    write_manifest(&tree, "a", Some("-no-tag"), index(&[&child, &child]).as_bytes());
    write_image(&tree, "UPPER", Some("v1"), &[b"upper".to_vec()]);
    symlink(tree.repository("a"), tree.repository("b")).unwrap();
    std::fs::write(source.join("scheduler-state.json"), "{}").unwrap();

    let store = store(&data);
    let report = run(&store, &source, &options(false)).unwrap();
    for (image, says) in [
        ("a:missing-blob", "is not there"),
        ("a:wrong-bytes", "are not those of its digest"),
        ("a:cut", "are not those of its digest"),
        ("a:missing-manifest", "is not there"),
        ("a:deleted", "was deleted"),
        ("a:dangling", "has no digest"),
        ("a:linked", "a symbolic link"),
        ("a:changed", "are not those of its digest"),
        ("a:no-json", "can't be read"),
        ("a:schema1", "schema 1"),
        ("a:partial", "stays behind: manifest sha256:"),
        ("a:-no-tag", "none that a registry can have"),
        ("UPPER", "none that a registry can have"),
        ("b", "can't be read"),
    ] {
        assert!(reason(&report, image).contains(says), "{image}: {}", reason(&report, image));
    }
    assert_eq!(report.tags.left, 14);
    let found = tags(&data);
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), ["a:good", "a:whole-index"]);
    assert_eq!(found["a:good"], good);
    assert_tidy(&store);
    let dry = run(&self::store(&dir.path().join("other")), &source, &ImportOptions { dry_run: true, ..options(false) });
    // What has the right length is not hashed.
    assert_eq!(dry.unwrap().tags.left, 13);
}

#[test]
fn a_tag_that_the_store_has_with_another_digest_stays_unless_it_is_to_be_overwritten() {
    let dir = quick_dir();
    let (source, data) = (dir.path().join("source"), dir.path().join("data"));
    let tree = Tree::new(&source).unwrap();
    let first = write_image(&tree, "a", Some("v1"), &[b"first".to_vec()]);
    let store = store(&data);
    run(&store, &source, &options(false)).unwrap();
    let second = write_image(&tree, "a", Some("v1"), &[b"second".to_vec()]);
    let report = run(&store, &source, &options(false)).unwrap();
    assert!(!report.is_whole() && reason(&report, "a:v1").contains(&first), "{report:?}");
    assert_eq!(tags(&data)["a:v1"], first);
    let report = run(&store, &source, &ImportOptions { overwrite: true, ..options(false) }).unwrap();
    assert!(report.is_whole());
    assert_eq!(tags(&data)["a:v1"], second);
}

/// A client deletes an image between the coming of its manifest and of its tag.
#[test]
fn what_is_deleted_while_it_comes_leaves_no_tag_to_nothing() {
    let dir = quick_dir();
    let (source, data) = (dir.path().join("source"), dir.path().join("data"));
    let tree = Tree::new(&source).unwrap();
    let gone: Digest = write_image(&tree, "a", Some("gone"), &[b"one".to_vec()]).parse().unwrap();
    let stays = write_image(&tree, "a", Some("stays"), &[b"two".to_vec()]);
    let store = store(&data);
    let deletes = Cell::new(0);
    let told = |far: Far| {
        if far.manifests > 0 && far.tags == 0 && deletes.replace(1) == 0 {
            let delete = || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(store.delete_manifest(&"a".parse().unwrap(), &Reference::Digest(gone))).unwrap();
            };
            std::thread::scope(|scope| scope.spawn(delete).join().unwrap());
        }
    };
    let from = Source::distribution(&source).unwrap();
    let report = inside(|| import(&store, &from, &options(false), &CancellationToken::new(), &told)).unwrap();
    assert_eq!((deletes.get(), report.tags.taken, report.tags.left), (1, 1, 1), "{report:?}");
    assert!(reason(&report, "a:gone").contains("was deleted from the store"), "{report:?}");
    assert_eq!(tags(&data), [("a:stays".to_owned(), stays)].into());
    assert_tidy(&store);
}

/// Its memory has a bound there: what is more is named, and comes where no server runs.
#[test]
fn a_running_server_leaves_a_repository_that_is_too_large_for_its_memory() {
    let dir = quick_dir();
    let (source, data) = (dir.path().join("source"), dir.path().join("data"));
    let tree = Tree::new(&source).unwrap();
    for number in 0..20 {
        write_image(&tree, "large", Some(&format!("v{number}")), &[format!("config {number}").into_bytes()]);
    }
    write_image(&tree, "small", Some("v1"), &[b"config".to_vec()]);
    let store = store(&data);
    let bound = |most_surveyed| ImportOptions { most_surveyed, ..options(false) };
    let report = run(&store, &source, &bound(Some(10_000))).unwrap();
    assert_eq!((report.tags.taken, report.tags.left), (1, 20), "{report:?}");
    assert!(reason(&report, "large").contains("stop the server"), "{report:?}");
    let report = run(&store, &source, &bound(None)).unwrap();
    assert_eq!((report.tags.taken, report.tags.present, report.tags.left), (20, 1, 0), "{report:?}");
    assert_tidy(&store);
}

#[test]
fn repositories_get_the_names_that_are_asked_for_and_tags_keep_their_times() {
    let dir = quick_dir();
    let (source, data) = (dir.path().join("source"), dir.path().join("data"));
    let tree = Tree::new(&source).unwrap();
    for name in ["deckhouse/ee", "deckhouse/ee/install", "other"] {
        write_image(&tree, name, Some("v1"), &[name.into()]);
    }
    let link = tree.repository("deckhouse/ee").join("_manifests/tags/v1/current/link");
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    std::fs::File::options().write(true).open(link).unwrap().set_modified(long_ago).unwrap();
    let names = "deckhouse/ee=system/deckhouse".parse().unwrap();
    run(&store(&data), &source, &ImportOptions { names, ..options(false) }).unwrap();
    let found: Vec<_> = tags(&data).into_keys().collect();
    assert_eq!(found, ["system/deckhouse/install:v1", "system/deckhouse:v1"]);
    let tag = data.join("repositories/system/deckhouse/_tags/v1");
    assert_eq!(std::fs::metadata(tag).unwrap().modified().unwrap(), long_ago);
}

#[test]
fn a_run_that_is_stopped_anywhere_leaves_no_tag_to_half_an_image_and_the_next_goes_on() {
    for moves in [false, true] {
        let dir = quick_dir();
        let (source, data) = (dir.path().join("source"), dir.path().join("data"));
        let tree = Tree::new(&source).unwrap();
        for number in 0..4_u64 {
            let blobs = [format!("config {number}").into_bytes(), testkit::noise(number, 2_500_000)];
            write_image(&tree, if number % 2 == 0 { "a" } else { "b" }, Some(&format!("v{number}")), &blobs);
        }
        let (mut runs, mut bytes) = (0, 0);
        loop {
            let store = store(&data);
            let (stop, told) = (CancellationToken::new(), Cell::new(0));
            let source = Source::distribution(&source).unwrap();
            let told = |_| {
                told.set(told.get() + 1);
                if told.get() == 7 {
                    stop.cancel();
                }
            };
            let ended = inside(|| import(&store, &source, &options(moves), &stop, &told));
            runs += 1;
            assert_tidy_but_moved(&store, &data);
            match ended {
                Ok(report) => {
                    bytes += report.bytes;
                    assert!(report.is_whole());
                    break;
                }
                Err(ImportError::Stopped) => assert!(runs < 20, "it never ends"),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(runs > 1 && bytes > 0);
        let found: Vec<_> = tags(&data).into_keys().collect();
        assert_eq!(found, ["a:v0", "a:v2", "b:v1", "b:v3"]);
        assert_tidy(&store(&data));
        assert!(files_below(&data.join("takeover")).is_empty());
    }
}

/// The store is tidy; files that wait in `takeover/` are no contents.
fn assert_tidy_but_moved(store: &Store, data: &Path) {
    assert_tidy(store);
    for path in files_below(&data.join("takeover")) {
        assert_eq!(std::fs::metadata(&path).unwrap().nlink(), 1, "{}", path.display());
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn a_file_with_further_names_is_copied_although_it_is_given_up() {
    let dir = quick_dir();
    let (source, data) = (dir.path().join("source"), dir.path().join("data"));
    let tree = Tree::new(&source).unwrap();
    write_image(&tree, "a", Some("v1"), &[b"config".to_vec()]);
    let blob = tree.data(&testkit::digest(b"config"));
    link(&blob, &dir.path().join("backup"));
    let store = store(&data);
    let report = run(&store, &source, &options(true)).unwrap();
    assert_eq!((report.bytes, report.moved_bytes), (6, 0));
    assert!(blob.exists());
    assert_tidy(&store);
}

/// As a backup by links would have it.
fn link(from: &Path, to: &Path) {
    let linked = std::process::Command::new("ln").arg(from).arg(to).status().unwrap();
    assert!(linked.success());
}

#[test]
fn the_budget_holds_also_for_what_is_moved() {
    let dir = quick_dir();
    let (source, data) = (dir.path().join("source"), dir.path().join("data"));
    let tree = Tree::new(&source).unwrap();
    write_image(&tree, "a", Some("v1"), &[testkit::noise(1, 100_000)]);
    for moves in [false, true] {
        let store = store(&data);
        store.set_limits(crate::store::StoreLimits { max_bytes: Some(50_000), ..crate::store::StoreLimits::UNBOUNDED });
        let refused = run(&store, &source, &options(moves));
        assert!(matches!(refused, Err(ImportError::Store(crate::store::StoreError::Full(_)))), "{refused:?}");
        assert!(tree.data(&testkit::digest(&testkit::noise(1, 100_000))).exists());
        assert_tidy(&store);
    }
}

#[test]
fn what_is_exported_is_imported_the_same() {
    let dir = quick_dir();
    let (source, data, layout) = (dir.path().join("source"), dir.path().join("data"), dir.path().join("layout"));
    let tree = Tree::new(&source).unwrap();
    let one = write_image(&tree, "a/b", Some("v1"), &[b"config".to_vec(), testkit::noise(1, 2_000_000)]);
    tree.tag("a/b", "v1-again", &one).unwrap();
    let child = write_image(&tree, "c", None, &[b"child".to_vec()]);
    let index = testkit::index(&[testkit::descriptor_of(IMAGE, &child, 1)]).to_string();
    write_manifest(&tree, "c", Some("multi"), index.as_bytes());
    let signature = testkit::with(
        testkit::image(&testkit::descriptor(CONFIG, b"config"), &[]),
        &json!({"subject": testkit::descriptor_of(IMAGE, &one, 1)}),
    );
    let signature = write_manifest(&tree, "a/b", None, signature.to_string().as_bytes());
    run(&store(&data), &source, &options(false)).unwrap();

    let view = StoreView::open(&data).unwrap();
    let exported = |images: &[&str]| {
        let images = images.iter().map(|image| image.parse().unwrap()).collect();
        export(&view, &ExportOptions { dir: layout.clone(), images }, &|_| {}).unwrap()
    };
    // One image first, with what refers to it; then all: what is there is not copied again.
    let first = exported(&["a/b:v1"]);
    assert_eq!((first.tags, first.manifests, first.bytes), (1, 2, 2_000_006), "{first:?}");
    let rest = exported(&[]);
    assert_eq!((rest.tags, rest.present_bytes, rest.bytes), (3, 2_000_006, 5), "{rest:?}");
    let (again, names) = (exported(&[]), |at: &Path| std::fs::read(at.join("index.json")).unwrap());
    assert_eq!((again.bytes, again.present_bytes), (0, 2_000_011));
    let index: serde_json::Value = serde_json::from_slice(&names(&layout)).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    let named = entries.iter().filter_map(|entry| entry["annotations"][layouts::REF_NAME].as_str());
    let by_digest = format!("a/b@{signature}");
    assert_eq!(named.collect::<Vec<_>>(), ["a/b:v1", "a/b:v1-again", &by_digest, "c:multi"]);

    let second = dir.path().join("second");
    let target = store(&second);
    let report = inside(|| {
        let source = Source::layouts(&layout).unwrap();
        import(&target, &source, &ImportOptions::default(), &CancellationToken::new(), &|_| {})
    });
    assert!(report.unwrap().is_whole());
    assert_eq!(tags(&second), tags(&data));
    assert_tidy(&target);
    let restored = StoreView::open(&second).unwrap().manifests(&"a/b".parse().unwrap());
    let has_signature = |found: &[Digest]| found.iter().any(|digest| digest.to_string() == signature);
    assert!(has_signature(&restored), "{restored:?}");
    assert!(matches!(
        export(&view, &ExportOptions { dir: source, images: Vec::new() }, &|_| {}),
        Err(ExportError::Foreign(_))
    ));
}

/// A layout beside another one has copies of its own; what can't be entered beside it is passed by.
#[test]
fn a_bad_copy_in_one_layout_leaves_the_image_of_another_whole() {
    let dir = quick_dir();
    let (source, data, layouts) = (dir.path().join("source"), dir.path().join("data"), dir.path().join("layouts"));
    let tree = Tree::new(&source).unwrap();
    let layer = testkit::noise(1, 10_000);
    for repository in ["a", "b"] {
        write_image(&tree, repository, Some("v1"), &[repository.as_bytes().to_vec(), layer.clone()]);
    }
    run(&store(&data), &source, &options(false)).unwrap();
    let view = StoreView::open(&data).unwrap();
    for repository in ["a", "b"] {
        let images = vec![format!("{repository}:v1").parse().unwrap()];
        export(&view, &ExportOptions { dir: layouts.join(repository), images }, &|_| {}).unwrap();
    }
    let hex = testkit::digest(&layer).split_off("sha256:".len());
    std::fs::write(layouts.join("a/blobs/sha256").join(hex), testkit::noise(2, 10_000)).unwrap();
    std::os::unix::fs::symlink("b", layouts.join("latest")).unwrap();
    let second = dir.path().join("second");
    let target = store(&second);
    let report = inside(|| {
        let source = Source::layouts(&layouts).unwrap();
        import(&target, &source, &ImportOptions::default(), &CancellationToken::new(), &|_| {})
    });
    let report = report.unwrap();
    assert_eq!((report.tags.taken, report.tags.left), (1, 1), "{report:?}");
    let found = tags(&second);
    assert!(found.len() == 1 && found.keys().all(|name| name.starts_with("b/")), "{found:?}");
    assert_tidy(&target);
}
