//! Taking a folder into use: laying it out, recognising it, keeping a second server out.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::contents::capacity::Noted;
use super::error::StoreError;
use super::layout::{Layout, SnapshotFolder};
use crate::fs::{Disk, is_absence, stat};
use crate::oci::Algorithm;

/// The layout that this version writes. A layout of the same major and a lower minor is read as it is.
const MAJOR: u32 = 1;
const MINOR: u32 = 0;

/// The minors that this version reads: its own and all before.
const MINORS: std::ops::RangeInclusive<u32> = 0..=MINOR;

/// A folder that was recognised and locked.
#[derive(Debug)]
pub(super) struct Opened {
    /// Keeps a second server out as long as it is open.
    pub(super) lock: File,
    /// Whether the folder was laid out just now.
    pub(super) fresh: bool,
}

/// The directories without marker that may become a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LayOut {
    /// Nowhere: `store.mustExist`.
    Never,
    /// In an empty folder.
    WhereEmpty,
    /// Also beside the tree of another registry: asked for by `d8-registry init`.
    BesideOthers,
}

/// Recognises the folder, or lays it out where that is allowed; locks it; empties `tmp/`.
pub(super) fn open(layout: &Layout, disk: &Disk, allowed: LayOut) -> Result<Opened, StoreError> {
    let fresh = !layout.marker().is_file();
    if fresh {
        let foreign = layout.foreign().is_dir();
        if foreign && allowed != LayOut::BesideOthers {
            return Err(StoreError::Layout(format!(
                "{} is not a store of d8-registry, but holds that of another registry ({}), which is left alone: name another \
                 folder, or run `d8-registry init` to have a store beside it",
                layout.root().display(),
                layout.foreign().display()
            )));
        }
        if allowed == LayOut::Never {
            return Err(StoreError::Layout(format!(
                "{} is not a store of d8-registry: at the first start run `d8-registry init --data-dir {0}`; if this server \
                 has stored content before, its disk is not mounted there",
                layout.root().display()
            )));
        }
        lay_out(layout, disk)?;
    }
    let lock = lock(layout)?;
    check_version(layout)?;
    if layout.foreign().is_dir() {
        tracing::warn!(
            path = %layout.foreign().display(),
            "the store of another registry lies in the data folder; it is neither served nor changed"
        );
    }
    let emptied =
        empty_temporaries(layout, disk).and_then(|()| Ok(disk.unlink(&layout.marker_in_making()).map(drop)?));
    match emptied {
        // They cost room that nobody can use meanwhile.
        Err(error) if error.is_read_only() => {}
        emptied => emptied?,
    }
    Ok(Opened { lock, fresh })
}

/// Recognises a folder and locks it, for work on it without a server.
pub(super) fn hold(layout: &Layout) -> Result<File, StoreError> {
    recognise(layout)?;
    lock(layout)
}

/// Recognises a folder, for reading beside whoever has it.
pub(super) fn recognise(layout: &Layout) -> Result<(), StoreError> {
    if !layout.marker().is_file() {
        return Err(StoreError::Layout(format!("{} is not a store of d8-registry", layout.root().display())));
    }
    check_version(layout)
}

/// Whether the folder can be read and still is the one that `lock` was taken on.
pub(super) fn check(layout: &Layout, lock: &File) -> Result<(), StoreError> {
    let path = layout.marker();
    let held = lock.metadata().map_err(StoreError::io("stat", &path))?;
    let changed = |what| {
        StoreError::Layout(format!(
            "{} {what} since the server took it into use; put the store's disk back in its place, or restart the server",
            layout.root().display()
        ))
    };
    match stat(&path)? {
        None => return Err(changed("is gone or was emptied")),
        Some(found) if (found.dev(), found.ino()) != (held.dev(), held.ino()) => {
            return Err(changed("was replaced by another folder"));
        }
        Some(_) => {}
    }
    let path = layout.version();
    std::fs::read(&path).map(drop).map_err(StoreError::io("read", &path))
}

/// Lays out an empty folder, or goes on with one whose laying out was cut off.
fn lay_out(layout: &Layout, disk: &Disk) -> Result<(), StoreError> {
    let root = layout.root();
    disk.make_directory(root)?;
    if !layout.marker_in_making().is_file()
        && let Some(found) = stranger(layout)?
    {
        return Err(StoreError::Layout(format!(
            "{} is neither empty nor a store of d8-registry, it holds {found}; name an empty folder",
            root.display()
        )));
    }
    // One that a killed start left, before the marker in the making took its place.
    disk.unlink(&layout.laying_out())?;
    disk.replace(layout.laying_out(), &layout.marker_in_making(), b"")?;
    for folder in [layout.repositories(), layout.uploads(), layout.temporaries()] {
        disk.make_directory(&folder)?;
    }
    for algorithm in Algorithm::ALL {
        disk.make_directory(&layout.blobs_of(algorithm))?;
        for first in 0..=u8::MAX {
            match std::fs::create_dir(layout.content_folder(algorithm, first)) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(StoreError::io("make folder in", &layout.blobs_of(algorithm))(error));
                }
                _ => {}
            }
        }
        disk.sync_directory(&layout.blobs_of(algorithm))?;
    }
    disk.replace(layout.temporary(), &layout.version(), format!("{MAJOR}.{MINOR}\n").as_bytes())?;
    check_hard_links(layout, disk)?;
    disk.replace(layout.temporary(), &layout.marker(), b"d8-registry\n")?;
    disk.unlink(&layout.marker_in_making())?;
    Ok(disk.sync_directory(root)?)
}

/// The first thing in the folder that is not ours to be beside.
fn stranger(layout: &Layout) -> Result<Option<String>, StoreError> {
    let root = layout.root();
    for entry in std::fs::read_dir(root).map_err(StoreError::io("read", root))? {
        let name = entry.map_err(StoreError::io("read", root))?.file_name();
        let foreign = name == "docker" && layout.foreign().is_dir();
        if name != "lost+found" && layout.laying_out().file_name() != Some(&name) && !foreign {
            return Ok(Some(name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

fn check_hard_links(layout: &Layout, disk: &Disk) -> Result<(), StoreError> {
    let link = layout.temporary();
    disk.link(&layout.version(), &link).map_err(|error| {
        StoreError::Layout(format!(
            "the file system of {} makes no hard links ({error}), by which repositories hold their content",
            layout.root().display()
        ))
    })?;
    disk.unlink(&link)?;
    Ok(())
}

fn lock(layout: &Layout) -> Result<File, StoreError> {
    let path = layout.marker();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from(rustix::fs::OFlags::CLOEXEC.bits()).unwrap_or(0))
        .open(&path)
        .map_err(StoreError::io("open", &path))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        if error == rustix::io::Errno::WOULDBLOCK {
            StoreError::InUse(layout.root().to_owned())
        } else {
            StoreError::io("lock", &path)(error.into())
        }
    })?;
    Ok(file)
}

fn check_version(layout: &Layout) -> Result<(), StoreError> {
    let path = layout.version();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if is_absence(&error) => {
            return Err(StoreError::Layout(format!("{} is missing, the folder is not a whole store", path.display())));
        }
        Err(error) => return Err(StoreError::io("read", &path)(error)),
    };
    let known = parse_version(text.trim()).is_some_and(|(major, minor)| major == MAJOR && MINORS.contains(&minor));
    if known {
        return Ok(());
    }
    Err(StoreError::Layout(format!(
        "{} says {:?}, this version reads the layouts {MAJOR}.0 to {MAJOR}.{MINOR}; start the version that wrote it",
        path.display(),
        text.trim()
    )))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Files without a name of their own are left from a crash.
fn empty_temporaries(layout: &Layout, disk: &Disk) -> Result<(), StoreError> {
    let path = layout.temporaries();
    for entry in std::fs::read_dir(&path).map_err(StoreError::io("read", &path))? {
        disk.unlink(&entry.map_err(StoreError::io("read", &path))?.path())?;
    }
    Ok(())
}

/// The note of a clean stop: bytes of all contents, and where there were `snapshots` what they have alone. Without it, or if
/// others are there now, all is counted.
pub(super) fn usage(layout: &Layout, snapshots: &[SnapshotFolder]) -> Option<Noted> {
    let text = std::fs::read_to_string(layout.usage()).ok()?;
    let mut lines = text.lines();
    let contents = lines.next()?.trim().parse().ok()?;
    let Some(held) = lines.next() else {
        return snapshots.is_empty().then_some(Noted { contents, held: 0 });
    };
    let (held, names) = held.split_once(' ')?;
    let are_these = names.split(' ').eq(snapshots.iter().map(SnapshotFolder::file_name));
    are_these.then_some(Noted { contents, held: held.parse().ok()? })
}

/// What [`usage`] reads.
pub(super) fn note_of(noted: Noted, snapshots: &[SnapshotFolder]) -> String {
    let mut text = format!("{}\n", noted.contents);
    if !snapshots.is_empty() {
        let names: Vec<String> = snapshots.iter().map(SnapshotFolder::file_name).collect();
        text.push_str(&format!("{} {}\n", noted.held, names.join(" ")));
    }
    text
}

/// The folder of keys that the server makes, laid out where it is missing. On a read-only file system it may be missing:
/// keys are kept in memory then.
pub(super) fn keys(layout: &Layout, disk: &Disk) -> Result<std::path::PathBuf, StoreError> {
    let path = layout.keys();
    match disk.make_directory(&path).map_err(StoreError::from).and_then(|()| restrict(&path)) {
        Err(error) if !error.is_read_only() => Err(error),
        _ => Ok(path),
    }
}

fn restrict(path: &Path) -> Result<(), StoreError> {
    let mode = PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(path, mode).map_err(StoreError::io("restrict", path))
}
