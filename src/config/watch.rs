//! Sees that the content of a few files and folders changed, by looking at them. It never acts on it.
//!
//! No file system events: Kubernetes swaps a symlink (`..data`) that the watched names go through, so an event on the
//! file never comes, and network file systems send none. A look costs one `stat` per file; content is read
//! only where the `stat` differs or is too young to be trusted.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;

/// Folders are followed so deep: `usersDir/<secret>/<key>`.
const MAX_DEPTH: usize = 2;
/// Entries looked at below one watched path; what is behind them is not seen.
const MAX_ENTRIES: usize = 10_000;
/// So much of a file is compared: a document of pins is no longer, a Kubernetes Secret holds 1 MiB.
const MAX_BYTES: u64 = 8 << 20;
/// A file changed so recently may change again without a difference in its `stat`: time stamps are
/// as coarse as 10 ms, on network file systems a second.
const SETTLED_MILLIS: u64 = 3000;

/// Remembers what a set of paths held. All methods block on the file system.
#[derive(Debug)]
pub struct Watcher {
    paths: Vec<PathBuf>,
    seen: Snapshot,
}

type Snapshot = BTreeMap<PathBuf, Seen>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// Not there, not readable, or neither file nor folder.
    Nothing,
    /// A folder; its entries are in the snapshot too.
    Folder,
    /// A file.
    File { stamp: Stamp, content: [u8; 32] },
}

/// What a `stat` says; symlinks are followed, so a swapped link shows as another inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Whether it was old enough to be trusted when it was taken.
    settled: bool,
}

impl Watcher {
    /// Looks at `paths` (files, or folders of files and folders) for the first time.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let seen = look(&paths, &Snapshot::new(), crate::clock::now());
        Self { paths, seen }
    }

    /// Whether any content, or the set of entries, differs from the last look.
    pub fn poll_now(&mut self) -> bool {
        let now = look(&self.paths, &self.seen, crate::clock::now());
        let changed = !same_content(&self.seen, &now);
        self.seen = now;
        changed
    }

    /// Watches other paths from now on. What changed in paths that stay is still seen by the next
    /// [`Watcher::poll_now`]; new ones are looked at here for the first time.
    pub fn watch(&mut self, paths: Vec<PathBuf>) {
        if paths == self.paths {
            return;
        }
        let mut seen = look(&paths, &Snapshot::new(), crate::clock::now());
        for (path, old) in &self.seen {
            if paths.iter().any(|root| path.starts_with(root)) {
                seen.insert(path.clone(), old.clone());
            }
        }
        self.paths = paths;
        self.seen = seen;
    }
}

fn same_content(before: &Snapshot, after: &Snapshot) -> bool {
    before.len() == after.len()
        && before.iter().zip(after).all(|((path, old), (other, new))| {
            path == other
                && match (old, new) {
                    (Seen::File { content: old, .. }, Seen::File { content: new, .. }) => old == new,
                    (old, new) => old == new,
                }
        })
}

fn look(paths: &[PathBuf], before: &Snapshot, now: Timestamp) -> Snapshot {
    let mut snapshot = Snapshot::new();
    for path in paths {
        let room = snapshot.len() + MAX_ENTRIES;
        look_at(path, 0, room, before, now, &mut snapshot);
    }
    snapshot
}

fn look_at(path: &Path, depth: usize, room: usize, before: &Snapshot, now: Timestamp, snapshot: &mut Snapshot) {
    if snapshot.len() >= room {
        return;
    }
    let seen = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => file(path, &metadata, before.get(path), now),
        Ok(metadata) if metadata.is_dir() => Seen::Folder,
        _ => Seen::Nothing,
    };
    let is_folder = seen == Seen::Folder;
    snapshot.insert(path.to_path_buf(), seen);
    if !is_folder || depth == MAX_DEPTH {
        return;
    }
    let Ok(entries) = std::fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        // `..data` and the folders it points to; what is visible is reached through them.
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            look_at(&entry.path(), depth + 1, room, before, now, snapshot);
        }
    }
}

fn file(path: &Path, metadata: &Metadata, before: Option<&Seen>, now: Timestamp) -> Seen {
    let stamp = Stamp::of(metadata, now);
    match before {
        Some(Seen::File { stamp: old, content }) if *old == stamp && stamp.settled => {
            Seen::File { stamp, content: *content }
        }
        _ => digest(path).map_or(Seen::Nothing, |content| Seen::File { stamp, content }),
    }
}

fn digest(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut content = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut content)?;
    let digest = Sha256::digest(&content).into();
    // A key may have been in it.
    zeroize::Zeroize::zeroize(&mut content);
    Ok(digest)
}

impl Stamp {
    fn of(metadata: &Metadata, now: Timestamp) -> Self {
        let changed_millis = u64::try_from(metadata.ctime()).unwrap_or(0).saturating_mul(1000);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            settled: changed_millis.saturating_add(SETTLED_MILLIS) < now.as_millis(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A volume as the kubelet writes it: names link to `..data/<name>`, `..data` to a folder with a time in its name.
    struct Mounted {
        dir: PathBuf,
        generation: u32,
    }

    impl Mounted {
        fn new(dir: PathBuf, files: &[(&str, &str)]) -> Self {
            fs::create_dir_all(&dir).unwrap();
            let mut volume = Self { dir, generation: 0 };
            volume.swap(files);
            for (name, _) in files {
                symlink(format!("..data/{name}"), volume.dir.join(name)).unwrap();
            }
            volume
        }

        #[expect(clippy::disallowed_methods, reason = "the kubelet moves the link this way")]
        fn swap(&mut self, files: &[(&str, &str)]) {
            let old = self.dir.join(format!("..gen_{}", self.generation));
            self.generation += 1;
            let name = format!("..gen_{}", self.generation);
            fs::create_dir(self.dir.join(&name)).unwrap();
            for (file, content) in files {
                fs::write(self.dir.join(&name).join(file), content).unwrap();
            }
            symlink(&name, self.dir.join("..data_tmp")).unwrap();
            fs::rename(self.dir.join("..data_tmp"), self.dir.join("..data")).unwrap();
            let _ = fs::remove_dir_all(old);
        }
    }

    #[test]
    fn a_swapped_link_is_a_change_only_if_the_content_is_another() {
        let temp = tempfile::tempdir().unwrap();
        let mut volume = Mounted::new(temp.path().join("tls"), &[("tls.crt", "one"), ("tls.key", "key")]);
        let files = vec![volume.dir.join("tls.crt"), volume.dir.join("tls.key")];
        let mut watcher = Watcher::new(files);
        assert!(!watcher.poll_now());
        volume.swap(&[("tls.crt", "two"), ("tls.key", "key")]);
        assert!(watcher.poll_now());
        assert!(!watcher.poll_now());
        volume.swap(&[("tls.crt", "two"), ("tls.key", "key")]);
        assert!(!watcher.poll_now(), "the kubelet wrote the same again");
    }

    #[test]
    fn a_folder_of_secrets_is_watched_two_levels_deep() {
        let temp = tempfile::tempdir().unwrap();
        let mut ro = Mounted::new(temp.path().join("ro"), &[("name", "ro"), ("password", "aaaa")]);
        let mut watcher = Watcher::new(vec![temp.path().to_path_buf()]);
        assert!(!watcher.poll_now());
        ro.swap(&[("name", "ro"), ("password", "bbbb")]);
        assert!(watcher.poll_now());
        let rw = Mounted::new(temp.path().join("rw"), &[("name", "rw")]);
        assert!(watcher.poll_now());
        fs::remove_dir_all(&rw.dir).unwrap();
        assert!(watcher.poll_now());
        assert!(!watcher.poll_now());
    }

    #[test]
    fn same_size_written_in_place_at_once_is_seen() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("config.yaml");
        fs::write(&path, "a").unwrap();
        let mut watcher = Watcher::new(vec![path.clone()]);
        for content in ["b", "c", "d"] {
            fs::write(&path, content).unwrap();
            assert!(watcher.poll_now(), "{content}");
        }
        assert!(!watcher.poll_now());
    }

    #[test]
    fn an_old_file_is_not_read_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("config.yaml");
        fs::write(&path, "a").unwrap();
        let metadata = fs::metadata(&path).unwrap();
        let later = Timestamp::from_millis((metadata.ctime().unsigned_abs() + 60) * 1000);
        let first = file(&path, &metadata, None, later);
        let Seen::File { stamp, .. } = first else { panic!("a file") };
        let remembered = Seen::File { stamp, content: [7; 32] };
        assert_eq!(file(&path, &metadata, Some(&remembered), later), remembered, "the stamp is trusted");
        let young = Timestamp::from_millis(metadata.ctime().unsigned_abs() * 1000);
        assert_ne!(file(&path, &metadata, Some(&remembered), young), remembered, "a young stamp is not");
    }

    #[test]
    fn a_file_may_go_and_come() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("config.yaml");
        let mut watcher = Watcher::new(vec![path.clone()]);
        assert!(!watcher.poll_now());
        fs::write(&path, "a").unwrap();
        assert!(watcher.poll_now());
        fs::remove_file(&path).unwrap();
        assert!(watcher.poll_now());
    }

    #[test]
    fn new_paths_join_and_old_ones_keep_their_memory() {
        let temp = tempfile::tempdir().unwrap();
        let (one, two) = (temp.path().join("one"), temp.path().join("two"));
        fs::write(&one, "1").unwrap();
        fs::write(&two, "2").unwrap();
        let mut watcher = Watcher::new(vec![one.clone()]);
        fs::write(&one, "1 changed").unwrap();
        watcher.watch(vec![one, two.clone()]);
        assert!(watcher.poll_now(), "the change before the paths changed is not lost");
        assert!(!watcher.poll_now());
        fs::write(&two, "2 changed").unwrap();
        assert!(watcher.poll_now());
    }
}
