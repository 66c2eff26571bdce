//! Bundles as an administrator uses them: looked at and verified.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use testkit::bundle::{Edition, RELEASES};

fn run(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_d8-registry")).args(words).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn written(edition: &Edition, chunks: Option<usize>) -> TempDir {
    let dir = TempDir::new().unwrap();
    match chunks {
        Some(size) => edition.write_chunks(dir.path(), size).unwrap(),
        None => edition.write(dir.path()).unwrap(),
    }
    dir
}

#[test]
fn inspect_and_verify_end_with_what_they_found() {
    let edition = Edition::of(&RELEASES);
    let bundle = written(&edition, Some(20_000));
    let inspect = |code: i32| {
        let output = run(&["bundle", "inspect", "--json", text(bundle.path())]);
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let said = inspect(0);
    assert_eq!((&said["whole"], &said["platform"]["versions"]), (&true.into(), &serde_json::json!(RELEASES)));
    let shown = String::from_utf8(run(&["bundle", "inspect", text(bundle.path())]).stdout).unwrap();
    assert!(shown.contains("platform: v1.70.1 v1.71.0 (alpha v1.71.0, beta v1.71.0, early-access v1.70.1"), "{shown}");
    assert!(shown.contains("module console: v1.2.3 (") && shown.contains("with scanner:7"), "{shown}");
    let verified = run(&["bundle", "verify", text(bundle.path())]);
    let shown = String::from_utf8_lossy(&verified.stdout);
    assert!(verified.status.success() && shown.contains(" contents were compared"), "{shown}");
    std::fs::remove_file(bundle.path().join("platform.tar.0001.chunk")).unwrap();
    assert_eq!(inspect(1)["findings"][0]["problem"], "chunkMissing");
    let failed = run(&["bundle", "verify", text(bundle.path())]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stdout).contains("problem platform.tar: chunk 0001 is missing"));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("damaged or not all there"));
    for words in [vec!["bundle", "inspect", "/nowhere"], vec!["bundle", "verify"]] {
        assert_eq!(run(&words).status.code(), Some(2), "{words:?}");
    }
}
