//! The fences between the parts, held by a machine. `architecture/planted.rs` breaks each rule and sees it found.
//!
//! A new part is a row of [`MAY_USE`]; a directory in a part may have a row of its own (`store/contents`) and is then a part
//! itself, which its parent may use and may be used by only as the rows say.

mod planted;
mod rules;
mod source;

use std::path::Path;

use self::rules::{circles, crowded, fences, floors, named_badly, words};
use self::source::Tree;

/// The parts, from the ground up, and the parts that each may use. What may be used is also what may be re-exported.
const MAY_USE: &[(&str, &[&str])] = &[
    ("oci", &[]),
    ("clock", &[]),
    ("sys", &[]),
    ("yaml", &[]),
    ("values", &["oci", "clock"]),
    ("telemetry", &["values", "clock"]),
    ("jobs", &["clock", "telemetry"]),
    ("serve", &["jobs", "sys", "clock", "telemetry"]),
    ("health", &["serve", "values", "telemetry"]),
    ("fs", &["sys", "clock", "telemetry"]),
    ("store", &["jobs", "fs", "oci", "sys", "values", "clock", "telemetry"]),
    ("upstream", &["oci", "values", "clock", "telemetry"]),
    ("auth", &["oci", "values", "clock", "telemetry"]),
    ("config", &["jobs", "oci", "values", "clock", "telemetry"]),
    ("fetch", &["jobs", "store", "upstream", "oci", "clock", "telemetry"]),
    ("replicas", &["jobs", "config", "fetch", "upstream", "oci", "values", "clock", "telemetry"]),
    ("mode", &["bundle", "store", "fetch", "replicas", "upstream", "oci", "values", "clock", "telemetry"]),
    ("comparison", &["jobs", "mode", "replicas", "store", "upstream", "oci", "clock", "telemetry"]),
    (
        "api",
        &[
            "comparison",
            "mode",
            "fetch",
            "replicas",
            "upstream",
            "auth",
            "store",
            "serve",
            "oci",
            "sys",
            "values",
            "clock",
            "telemetry",
        ],
    ),
    ("admin", &["jobs", "values", "clock", "telemetry"]),
    ("release", &["upstream", "oci", "clock", "telemetry"]),
    ("retention", &["jobs", "release", "store", "oci", "values", "clock", "telemetry"]),
    ("expected", &["config", "jobs", "release", "retention", "store", "oci", "values", "clock", "telemetry"]),
    ("checker", &["release", "upstream", "oci", "values", "clock", "telemetry"]),
    ("bundle", &["fs", "release", "oci", "values"]),
    ("bundle/pull", &["bundle", "fs", "upstream", "release", "oci", "values", "telemetry", "yaml"]),
    (
        "takeover",
        &["jobs", "bundle", "fs", "store", "upstream", "release", "checker", "oci", "values", "clock", "telemetry"],
    ),
    ("switch", &["release", "oci", "values", "clock", "yaml"]),
    ("pki", &["fs", "clock", "telemetry"]),
    ("cluster", &["switch", "oci", "clock", "telemetry"]),
    ("issuer", &["jobs", "pki", "cluster", "values", "clock", "telemetry"]),
    ("node_files", &["jobs", "fs", "values", "clock", "telemetry"]),
    ("node_proxy", &["jobs", "config", "health", "serve", "values", "clock", "telemetry"]),
    ("node_config", &["config", "fs", "values", "clock", "telemetry"]),
    (
        "node_agent",
        &[
            "jobs",
            "config",
            "fs",
            "health",
            "serve",
            "upstream",
            "node_config",
            "cluster",
            "oci",
            "values",
            "clock",
            "telemetry",
        ],
    ),
    (
        "controller",
        &[
            "jobs",
            "config",
            "health",
            "serve",
            "upstream",
            "release",
            "checker",
            "pki",
            "switch",
            "cluster",
            "oci",
            "values",
            "clock",
            "telemetry",
        ],
    ),
    (
        "server",
        &[
            "jobs",
            "admin",
            "api",
            "auth",
            "bundle",
            "comparison",
            "config",
            "expected",
            "fetch",
            "mode",
            "replicas",
            "retention",
            "serve",
            "store",
            "takeover",
            "upstream",
            "oci",
            "values",
            "clock",
            "telemetry",
        ],
    ),
    (
        "cli",
        &[
            "admin",
            "auth",
            "bundle",
            "bundle/pull",
            "checker",
            "cluster",
            "config",
            "controller",
            "fs",
            "issuer",
            "node_agent",
            "node_config",
            "node_files",
            "node_proxy",
            "oci",
            "pki",
            "release",
            "retention",
            "server",
            "store",
            "switch",
            "takeover",
            "upstream",
            "sys",
            "values",
            "clock",
            "telemetry",
        ],
    ),
    ("lib", &[]),
    ("main", &["cli"]),
];

/// Circles of imports between files of one part that stand today. The list may only shrink: a circle that is gone, or has
/// lost a file, is taken out or shortened here.
const CIRCLES: &[&[&str]] = &[
    &["auth/own_key.rs", "auth/tokens.rs"],
    &["fetch/fill.rs", "fetch/filler.rs", "fetch/fills.rs", "fetch/reader.rs"],
    &["node_config/plan.rs", "node_config/state.rs"],
    &["telemetry/fetching.rs", "telemetry/metrics.rs", "telemetry/process.rs"],
    &["upstream/endpoint.rs", "upstream/sign_in.rs", "upstream/token_server.rs"],
    &["upstream/error.rs", "upstream/options.rs", "upstream/proxy.rs", "upstream/secrets.rs"],
];

/// A word, and the beginnings of the only paths in which it may stand.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("unsafe ", &["sys/"]),
    ("allow(unsafe_code", &["sys/"]),
    ("axum::", &["api/", "admin/"]),
    ("reqwest::", &["upstream/"]),
    ("kube::", &["cluster/"]),
    ("k8s_openapi::", &["cluster/"]),
    ("sled::", &["store/repositories/index.rs", "store/repositories/index/"]),
    ("std::fs::rename", &["fs/durable.rs"]),
    ("fs::rename(", &["fs/durable.rs"]),
    (".sync_all()", &["fs/durable.rs"]),
    (".sync_data()", &["fs/durable.rs"]),
    ("hard_link(", &["fs/durable.rs"]),
    ("SystemTime::now", &["clock.rs"]),
    // The lower floor of the store is given paths and never asks whose they are.
    ("Membership", &["store/layout.rs", "store/repositories/"]),
    (
        "repositories::",
        &[
            "store/mod.rs",
            "store/face.rs",
            "store/reads.rs",
            "store/writes.rs",
            "store/cached.rs",
            "store/collection.rs",
            "store/expected.rs",
            "store/intake.rs",
            "store/records.rs",
            "store/retention.rs",
            "store/maintenance.rs",
            "store/snapshots.rs",
            "store/verify.rs",
            "store/view.rs",
            "store/repositories/",
        ],
    ),
    ("\"_manifests\"", &["store/layout.rs"]),
    ("\"_blobs\"", &["store/layout.rs"]),
    ("\"_tags\"", &["store/layout.rs"]),
];

/// Names of files and directories that say nothing.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "common", "manager", "service", "models", "types", "misc"];

/// Most lines of a file, tests included.
const MAX_LINES: usize = 500;

fn tree() -> Tree {
    let tree = Tree::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(tree.files().len() > 200, "the source is not where this test looks");
    tree
}

#[track_caller]
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn parts_use_only_what_they_may() {
    assert_none(&fences(&tree(), MAY_USE));
}

#[test]
fn parts_stand_on_floors() {
    assert_none(&floors(MAY_USE));
}

#[test]
fn files_of_a_part_import_each_other_in_no_new_circle() {
    assert_none(&circles(&tree(), MAY_USE, CIRCLES));
}

#[test]
fn dangerous_words_stand_only_in_their_files() {
    assert_none(&words(&tree(), ONLY_IN));
}

#[test]
fn file_names_are_nouns_of_the_field() {
    assert_none(&named_badly(&tree(), EMPTY_NAMES));
}

#[test]
fn files_are_short() {
    assert_none(&crowded(&tree(), MAX_LINES));
}
