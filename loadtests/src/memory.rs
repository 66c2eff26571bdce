//! Memory that a host has taken back from its virtual machine.
//!
//! A host that is told which pages are free takes them, and gives each again when it is next touched. Who writes a file then
//! pays two to five times what copying costs, by the moment: CPU of the measured side that it has no hand in.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};

const MEBIBYTE: usize = 1 << 20;

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
    fn as_much_is_touched_as_was_asked_for() {
        let mut file = tempfile::tempfile().unwrap();
        touch(&mut file, 3).unwrap();
        let found = file.metadata().unwrap();
        assert_eq!(found.len(), 3 * MEBIBYTE as u64);
        assert!(found.blocks() * 512 >= found.len(), "a hole touches nothing");
    }
}
