//! The masters' disks: file systems of their own, which can be full, read-only, empty and damaged.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::network::sh;

/// Contents that are damaged at once, at most: more than 16 within ten minutes are taken for a disk that is at fault, and a scrub ends
/// at half of them.
const MOST_DAMAGED: usize = 2;

/// Longest wait until damage is mended.
const PATIENCE: Duration = Duration::from_secs(60);

/// More than a round writes.
const SIZE: &str = "1g";

/// An empty one. What is mounted ends with the test's mounts.
pub(super) fn empty() -> Arc<TempDir> {
    let folder = TempDir::new().unwrap();
    let data = data(&folder);
    std::fs::create_dir(&data).unwrap();
    sh(&format!("mount -t tmpfs -o size={SIZE} tmpfs {}", data.display()));
    Arc::new(folder)
}

/// Lets one go that nobody uses any more.
pub(super) fn let_go(folder: Arc<TempDir>) {
    sh(&format!("umount -l {}", data(&folder).display()));
    drop(folder);
}

pub(super) fn data(folder: &TempDir) -> PathBuf {
    folder.path().join("data")
}

/// Leaves no room for another byte.
pub(super) fn fill(folder: &TempDir) {
    let data = data(folder);
    let data = data.display();
    // What was written before the server stood still has it refused.
    sh(&format!(
        "for try in 1 2 3 4 5 6 7 8 9 10; do \
         mount -o remount,size=$(df -k --output=used {data} | tail -n 1 | tr -d ' ')k {data} && exit 0; done; exit 1"
    ));
}

pub(super) fn make_room(folder: &TempDir) {
    sh(&format!("mount -o remount,size={SIZE} {}", data(folder).display()));
}

/// Lets nobody write, by whatever is opened from now on.
pub(super) fn close(folder: &TempDir) {
    let (data, aside) = (data(folder), folder.path().join("aside"));
    let (data, aside) = (data.display(), aside.display());
    // In one step: what somebody has open for writing can't be made read-only.
    sh(&format!(
        "mkdir -p {aside} && mount --bind {data} {aside} && mount -o remount,ro,bind {aside} && mount --move {aside} {data}"
    ));
}

pub(super) fn open(folder: &TempDir) {
    // What was opened meanwhile may be open still.
    sh(&format!("umount -l {}", data(folder).display()));
}

/// Turns a bit over in contents that one of `others` has under all of their names: it is them that the damage is mended from.
pub(super) fn damage(folder: &TempDir, others: &[&TempDir]) {
    let repositories = |folder: &TempDir| data(folder).join("repositories");
    let mut contents: HashMap<OsString, Vec<PathBuf>> = HashMap::new();
    for name in names(&repositories(folder)) {
        contents.entry(name.file_name().unwrap().to_owned()).or_default().push(name);
    }
    let has_all =
        |other: &&TempDir, names: &[PathBuf]| names.iter().all(|name| repositories(other).join(name).exists());
    let elsewhere = contents.into_values().filter(|names| others.iter().any(|other| has_all(other, names)));
    for names in elsewhere.take(MOST_DAMAGED) {
        let path = repositories(folder).join(&names[0]);
        // Deleted meanwhile.
        let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else { continue };
        let (at, mut byte) = (file.metadata().unwrap().len() / 2, [0]);
        if file.read_exact_at(&mut byte, at).is_ok() {
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        }
    }
}

/// The names of blobs and manifests below a directory, from there.
fn names(repositories: &Path) -> Vec<PathBuf> {
    let (mut found, mut directories) = (Vec::new(), vec![repositories.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(path);
            } else if ["_blobs/sha256", "_manifests/sha256"].iter().any(|end| directory.ends_with(end)) {
                found.push(path.strip_prefix(repositories).unwrap().to_owned());
            }
        }
    }
    found
}

/// Has the server of a disk read everything, until no image needs what it finds.
pub(super) fn scrub(folder: &TempDir) {
    let patience = Instant::now() + PATIENCE;
    loop {
        let mut scrub = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
        let done = scrub.args(["scrub", "--json", "--data-dir"]).arg(data(folder)).output().unwrap();
        let told: serde_json::Value = serde_json::from_slice(&done.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&done.stderr)));
        let is_needed = |content: &serde_json::Value| content["images"].as_array().is_some_and(|all| !all.is_empty());
        if done.status.success() && !told["damaged"].as_array().into_iter().flatten().any(is_needed) {
            return;
        }
        assert!(Instant::now() < patience, "{told:#}");
    }
}
