//! The entries of a tar, by its headers alone: the bytes between them are passed over unread.
//!
//! The fields of a header are read by the `tar` crate. The way from one to the next is our own, since it has to know what the
//! crate does not tell: where an entry's bytes lie, and whether the archive was cut, lacks its end or goes on behind it.

use std::io;

use tar::{EntryType, Header, PaxExtensions};

use super::finding::BundleError;
use super::stream::Stream;

const BLOCK: u64 = 512;
/// Bytes of a name or of a PAX header; Linux takes no path over 4 KiB.
const MOST_HEADER_BYTES: u64 = 64 * 1024;

/// An entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) kind: Kind,
    /// Where its bytes begin in the stream.
    pub(super) at: u64,
    pub(super) length: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    Bytes(Vec<u8>),
    /// So many bytes that it was not read.
    TooLong(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// A link of either kind, a device, a pipe.
    Special,
}

/// How an archive ends.
#[derive(Debug)]
pub(super) enum End {
    /// With its mark; what is behind it begins there.
    Whole(u64),
    /// Behind an entry, without the mark.
    NoMark,
    /// Inside an entry, or a header.
    Cut,
    /// There has to be a header at this byte, and there is none; a sentence without its end.
    Broken(u64, String),
    /// The disk refused.
    Unreadable(u64, io::Error),
}

enum Stop {
    Ended(End),
    Failed(BundleError),
}

impl From<BundleError> for Stop {
    fn from(error: BundleError) -> Self {
        Self::Failed(error)
    }
}

/// Hands every entry to `each`; says how the archive ends. Blocking.
///
/// # Errors
/// Of `each`.
pub(super) fn walk(
    stream: &Stream,
    mut each: impl FnMut(Entry) -> Result<(), BundleError>,
) -> Result<End, BundleError> {
    let mut walk = Walk { stream, at: 0, long: None, pax_size: None };
    loop {
        match walk.step(&mut each) {
            Ok(()) => {}
            Err(Stop::Ended(end)) => return Ok(end),
            Err(Stop::Failed(error)) => return Err(error),
        }
    }
}

struct Walk<'a> {
    stream: &'a Stream,
    at: u64,
    /// What the entry after this one is called.
    long: Option<Name>,
    /// What its size is.
    pax_size: Option<u64>,
}

impl Walk<'_> {
    fn step(&mut self, each: &mut impl FnMut(Entry) -> Result<(), BundleError>) -> Result<(), Stop> {
        // The padding behind the last entry may be missing where the mark is.
        if self.at >= self.stream.length() {
            return Err(Stop::Ended(End::NoMark));
        }
        let block = self.block(self.at)?.ok_or(Stop::Ended(End::Cut))?;
        if is_zero(&block) {
            let second = self.block(self.at + BLOCK)?;
            return Err(Stop::Ended(match second {
                Some(second) if is_zero(&second) => End::Whole(self.at + 2 * BLOCK),
                Some(_) => self.broken("half of an archive's end"),
                None => End::NoMark,
            }));
        }
        let header = Header::from_byte_slice(&block);
        if !has_its_sum(header, &block) {
            return Err(Stop::Ended(self.broken("no header of a tar")));
        }
        let Ok(size) = header.entry_size() else {
            return Err(Stop::Ended(self.broken("a header without a size")));
        };
        let (kind, at) = (header.entry_type(), self.at + BLOCK);
        let has_data = !matches!(
            kind,
            EntryType::Symlink
                | EntryType::Link
                | EntryType::Char
                | EntryType::Block
                | EntryType::Fifo
                | EntryType::Directory
        );
        let is_header = matches!(
            kind,
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader
        );
        let size = match (has_data, is_header) {
            (false, _) => 0,
            (true, true) => size,
            (true, false) => self.pax_size.take().unwrap_or(size),
        };
        let Some(next) = size.checked_next_multiple_of(BLOCK).and_then(|length| length.checked_add(at)) else {
            return Err(Stop::Ended(self.broken("a header with an impossible size")));
        };
        if size > self.stream.length() - at {
            return Err(Stop::Ended(End::Cut));
        }
        match kind {
            EntryType::GNULongName => self.long = Some(self.long_name(at, size)?),
            EntryType::XHeader => self.pax(at, size)?,
            EntryType::GNULongLink | EntryType::XGlobalHeader => {}
            EntryType::GNUSparse => return Err(Stop::Ended(self.broken("a sparse file, which bundles don't have"))),
            _ => {
                self.pax_size = None;
                let name = self.long.take().unwrap_or_else(|| Name::Bytes(header.path_bytes().into_owned()));
                let kind = match kind {
                    EntryType::Regular | EntryType::Continuous => Kind::File,
                    EntryType::Directory => Kind::Directory,
                    _ => Kind::Special,
                };
                each(Entry { name, kind, at, length: size })?;
            }
        }
        self.at = next;
        Ok(())
    }

    fn broken(&self, what: &str) -> End {
        End::Broken(self.at, format!("there is {what} where a header has to be"))
    }

    fn block(&self, at: u64) -> Result<Option<[u8; BLOCK as usize]>, Stop> {
        let mut block = [0; BLOCK as usize];
        let count = self.read(at, &mut block)?;
        Ok((count == block.len()).then_some(block))
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<usize, Stop> {
        self.stream.read_at(at, buffer).map_err(|error| Stop::Ended(End::Unreadable(at, error)))
    }

    fn bytes(&self, at: u64, size: u64) -> Result<Vec<u8>, Stop> {
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    fn long_name(&self, at: u64, size: u64) -> Result<Name, Stop> {
        if size > MOST_HEADER_BYTES {
            return Ok(Name::TooLong(size));
        }
        let mut bytes = self.bytes(at, size)?;
        if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            bytes.truncate(end);
        }
        Ok(Name::Bytes(bytes))
    }

    fn pax(&mut self, at: u64, size: u64) -> Result<(), Stop> {
        if size > MOST_HEADER_BYTES {
            self.long = Some(Name::TooLong(size));
            return Ok(());
        }
        let bytes = self.bytes(at, size)?;
        for record in PaxExtensions::new(&bytes) {
            let Ok(record) = record else { return Err(Stop::Ended(self.broken("a PAX header that can't be read"))) };
            match record.key_bytes() {
                b"path" => self.long = Some(Name::Bytes(record.value_bytes().to_vec())),
                b"size" => {
                    let size = record.value().ok().and_then(|text| text.parse().ok());
                    let Some(size) = size else {
                        return Err(Stop::Ended(self.broken("a PAX header without a size")));
                    };
                    self.pax_size = Some(size);
                }
                key if key.starts_with(b"GNU.sparse") => {
                    return Err(Stop::Ended(self.broken("a sparse file, which bundles don't have")));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// The sum of a header's bytes, its own field counted as spaces (POSIX.1-2008, pax, "ustar Interchange Format").
fn has_its_sum(header: &Header, block: &[u8; BLOCK as usize]) -> bool {
    let own = 148..156;
    let bytes = block.iter().enumerate().map(|(index, byte)| if own.contains(&index) { b' ' } else { *byte });
    header.cksum().is_ok_and(|sum| sum == bytes.map(u32::from).sum::<u32>())
}
