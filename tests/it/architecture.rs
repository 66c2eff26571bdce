//! The fences between the parts, held by a machine.

use std::path::{Path, PathBuf};

/// Which parts may use which (everyone may use `clock` and `telemetry`).
const MAY_USE: &[(&str, &[&str])] = &[
    ("oci", &[]),
    ("clock", &[]),
    ("telemetry", &[]),
    ("fs", &[]),
    ("store", &["fs", "oci"]),
    ("upstream", &["oci"]),
    ("auth", &["oci"]),
    ("config", &["oci"]),
    ("fetch", &["store", "upstream", "oci"]),
    ("mode", &["store", "fetch", "upstream", "oci"]),
    ("api", &["mode", "fetch", "upstream", "auth", "store", "oci"]),
    ("serve", &["api", "mode"]),
    ("checker", &["upstream", "oci"]),
    ("pki", &["fs"]),
    ("node_files", &["fs"]),
    ("node_proxy", &["config", "serve"]),
    ("node_config", &["config", "fs"]),
];

/// A word, and the only files in which it may stand.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("unsafe ", &["sys/"]),
    ("allow(unsafe_code", &["sys/"]),
    ("axum::", &["api/"]),
    ("reqwest::", &["upstream/"]),
    ("sled::", &["store/index.rs", "store/index/"]),
    ("std::fs::rename", &["fs/durable.rs"]),
    ("fs::rename(", &["fs/durable.rs"]),
    (".sync_all()", &["fs/durable.rs"]),
    (".sync_data()", &["fs/durable.rs"]),
    ("hard_link(", &["fs/durable.rs"]),
    ("SystemTime::now", &["clock.rs"]),
    ("\"_manifests\"", &["store/layout.rs"]),
    ("\"_blobs\"", &["store/layout.rs"]),
    ("\"_tags\"", &["store/layout.rs"]),
];

/// File names that say nothing.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "common", "manager", "service", "models", "types", "misc"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file by its path below `src`, without comments and without its tests.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    rust_files(&source(), &mut files);
    let mut sources: Vec<_> = files
        .iter()
        .map(|file| {
            let name = file.strip_prefix(source()).unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(file).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            (name, code)
        })
        .filter(|(name, _)| !name.ends_with("tests.rs") && !name.contains("/tests/"))
        .collect();
    sources.sort();
    assert!(sources.len() > 40, "the source is not where this test looks");
    sources
}

#[test]
fn parts_use_only_what_they_may() {
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        let part = file.split(['/', '.']).next().unwrap();
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == part) else { continue };
        for (other, _) in MAY_USE {
            let always = ["clock", "telemetry", part].contains(other) && part != "oci";
            if !always && !allowed.contains(other) && code.contains(&format!("crate::{other}")) {
                wrong.push(format!("{file} uses {other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn dangerous_words_stand_only_in_their_files() {
    let mut wrong = Vec::new();
    for (file, code) in sources() {
        for (word, places) in ONLY_IN {
            if code.contains(word) && !places.iter().any(|place| file.starts_with(place)) {
                wrong.push(format!("{file} has {word:?}, which belongs in {places:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn file_names_are_nouns_of_the_field() {
    for (file, _) in sources() {
        let stem = Path::new(&file).file_stem().unwrap().to_str().unwrap();
        assert!(!EMPTY_NAMES.contains(&stem), "{file} says nothing");
    }
}
