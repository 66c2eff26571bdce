//! Memory that a host has taken back from its virtual machine.
//!
//! A host that is told which pages are free takes them, and gives each again when it is next touched. That costs whoever
//! writes a file up to ten times what copying does, and by the moment: CPU of the measured side that it has no hand in.

use std::io::{self, BufWriter, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result};

/// What is written at once.
const PIECE: usize = 1 << 20;

/// Leaves so many bytes of page cache free and backed by the host, for what is written next: a file of that length is
/// written in `dir` and removed before the system has sent it to the disk.
pub(crate) fn have_backed(dir: &Path, bytes: u64) -> Result<()> {
    let mut file = tempfile::tempfile_in(dir).context("a file to touch memory with")?;
    io::copy(&mut io::repeat(0).take(bytes), &mut BufWriter::with_capacity(PIECE, &mut file))
        .context("touch memory")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_it() {
        let dir = tempfile::tempdir().unwrap();
        have_backed(dir.path(), 3 << 20).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
