//! What an import leaves in memory.

use rustix::fs::{Advice, fadvise, fdatasync};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::*;

/// Whether the first byte of a file is in memory; `None`: the file system can't tell.
fn is_cached(path: &Path) -> Option<bool> {
    let file = std::fs::File::open(path).unwrap();
    match preadv2(&file, &mut [std::io::IoSliceMut::new(&mut [0])], 0, ReadWriteFlags::NOWAIT) {
        Ok(read) => Some(read > 0),
        Err(Errno::AGAIN) => Some(false),
        Err(_) => None,
    }
}

/// Imports a layer that was not in memory, and says whether it is afterwards; `None`: this file system can't tell, or shares it.
fn is_left(moves: bool) -> Option<bool> {
    let dir = tempfile::tempdir().unwrap();
    let (source, data) = (dir.path().join("source"), dir.path().join("data"));
    let tree = Tree::new(&source).unwrap();
    let layer = testkit::noise(7, 3_000_000);
    write_image(&tree, "a", Some("v1"), &[b"config".to_vec(), layer.clone()]);
    let path = tree.data(&testkit::digest(&layer));
    let drop_pages = |path: &Path| {
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        // A page that is not on the disk can't be dropped.
        fdatasync(&file).unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    };
    // The look has a page read that is not there: each file is looked at once.
    let other = dir.path().join("looked at");
    std::fs::write(&other, &layer).unwrap();
    drop_pages(&other);
    if is_cached(&other) != Some(false) {
        return None;
    }
    drop_pages(&path);
    let store = store(&data);
    // At the pace of a running server's.
    let report = run(&store, &source, &ImportOptions { is_served: true, ..options(moves) }).unwrap();
    assert_eq!((report.bytes, report.tags.taken), (3_000_006, 1));
    if report.shared_bytes > 0 {
        return None;
    }
    is_cached(&if moves { content(&data, &testkit::digest(&layer)) } else { path })
}

#[test]
fn a_source_that_is_read_does_not_stay_in_memory() {
    for moves in [false, true] {
        // On a busy machine the kernel keeps a page now and then that it was told to drop.
        let mut can_tell = false;
        let is_gone = (0..20).any(|_| {
            let is_left = is_left(moves);
            can_tell |= is_left.is_some();
            is_left == Some(false)
        });
        if !can_tell {
            eprintln!("this file system keeps its pages or can't tell: nothing is tested");
            return;
        }
        assert!(is_gone, "moves: {moves}");
    }
}

fn content(data: &Path, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    data.join("blobs/sha256").join(&hex[..2]).join(hex)
}
