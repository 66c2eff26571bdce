//! Memory of the machine: a file system in it, and what a host has taken back from its virtual machine.
//!
//! A host that is told which pages are free takes them, and gives each again when it is next touched. Who writes a file then
//! pays two to five times what copying costs, by the moment: CPU of the measured side that it has no hand in.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

const MEBIBYTE: usize = 1 << 20;

/// Where Linux has a file system in memory.
const SHARED: &str = "/dev/shm";

/// What `statfs` says of a file system in memory (`TMPFS_MAGIC`, linux/magic.h).
const TMPFS: i128 = 0x0102_1994;

/// The directory in memory, if `files` files that take `bytes` with all that belongs to them have room in it and leave the
/// machine half of its free memory.
pub(crate) fn directory_for(files: u64, bytes: u64) -> Option<&'static Path> {
    let shared = Path::new(SHARED);
    let (kind, room) = (rustix::fs::statfs(shared).ok()?, rustix::fs::statvfs(shared).ok()?);
    let available = available(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let fits = room.f_bavail * room.f_frsize >= bytes && room.f_favail >= files && available / 2 >= bytes;
    (i128::from(kind.f_type) == TMPFS && fits).then_some(shared)
}

/// Bytes that `/proc/meminfo` says can be had without swapping.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Leaves `mebibytes` MiB of page cache free and backed by the host, for what is written next: a file of that length is
/// written in `dir` and removed before the system has sent it to the disk.
pub(crate) fn have_backed(dir: &Path, mebibytes: u32) -> Result<()> {
    let mut file = tempfile::tempfile_in(dir).context("a file to touch memory with")?;
    touch(&mut file, mebibytes).context("touch memory")
}

fn touch(file: &mut File, mebibytes: u32) -> io::Result<()> {
    let piece = vec![0; MEBIBYTE];
    (0..mebibytes).try_for_each(|_| file.write_all(&piece))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn what_is_available_is_read_and_more_than_that_has_no_room() {
        assert_eq!(available("MemFree: 5 kB\nMemAvailable:   24000 kB\n"), Some(24_000 * 1024));
        assert_eq!(available("MemFree: 5 kB\n"), None);
        assert!(directory_for(1, u64::MAX).is_none() && directory_for(u64::MAX, 1).is_none());
    }

    #[test]
    fn as_much_is_touched_as_was_asked_for() {
        let mut file = tempfile::tempfile().unwrap();
        touch(&mut file, 3).unwrap();
        let found = file.metadata().unwrap();
        assert_eq!(found.len(), 3 * MEBIBYTE as u64);
        assert!(found.blocks() * 512 >= found.len(), "a hole touches nothing");
    }
}
