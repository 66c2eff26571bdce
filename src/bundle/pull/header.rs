//! The headers of a tar as Go's `archive/tar` writes them with `Format: GNU`. Pure.

use tar::{EntryType, Header};

/// Bytes of a block.
pub(super) const BLOCK: u64 = 512;
/// Most bytes of a name in a header; a longer one has an entry of its own.
const MOST_NAME: usize = 100;
/// The name of that entry.
const LONG_NAME: &str = "././@LongLink";

/// The blocks in front of the bytes of a file.
pub(super) fn of(name: &str, size: u64) -> Vec<u8> {
    let mut blocks = Vec::with_capacity(3 * 512);
    if name.len() > MOST_NAME {
        blocks.extend_from_slice(block(LONG_NAME, EntryType::GNULongName, name.len() as u64 + 1).as_bytes());
        blocks.extend_from_slice(name.as_bytes());
        blocks.push(0);
        blocks.resize(blocks.len().next_multiple_of(512), 0);
    }
    let short = name.get(..MOST_NAME).unwrap_or(name);
    blocks.extend_from_slice(block(short, EntryType::Regular, size).as_bytes());
    blocks
}

fn block(name: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    // Six digits, NUL, space; the crate writes seven digits.
    let sum = header.cksum().unwrap_or_default();
    header.as_mut_bytes()[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    #[test]
    fn headers_are_those_that_go_writes() {
        for name in ["index.json".to_owned(), "a/".repeat(50), format!("{}x", "a/".repeat(50)), "b".repeat(300)] {
            for size in [0, 1, 512, 8_589_934_591, 8_589_934_592, 1 << 40] {
                assert_eq!(super::of(&name, size), testkit::bundle::header(&name, size), "{name} {size}");
            }
        }
    }
}
