//! A tar as a stream of entries, with bounds on everything that its author chooses. Pure: reads what it is given.
//!
//! Headers are the `tar` crate's, read raw: left to itself it would read a name of any length into memory. Names over 100
//! bytes come in an entry of their own before the entry that they belong to: GNU `L`, or a PAX header with `path`.

use std::io::{self, Read};

use tar::{Archive, EntryType, PaxExtensions};

/// Bytes of a name or a PAX header; Linux takes no path over 4 KiB.
const MOST_HEADER_BYTES: u64 = 64 * 1024;

/// Why an archive is not read on.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It ends early, is compressed wrongly, is no tar, or is larger than it may be.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// More than may be looked at.
    #[error("it has more than {0} entries")]
    Entries(u64),
    /// An extension of tar that container images don't have, or a name that leads out of the image.
    #[error("{0}")]
    Refused(String),
}

/// The kinds of entry that a reader of files tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// A link of either kind.
    Link,
    /// A device, a pipe.
    Other,
}

/// An entry, whose content can be read.
pub(super) struct Entry<'a> {
    /// The parts of its name.
    pub(super) path: Vec<Vec<u8>>,
    pub(super) kind: Kind,
    /// Bytes of its content.
    pub(super) size: u64,
    pub(super) content: &'a mut dyn Read,
}

/// Hands every entry of `tar` to `each`, at most `most` of them; their number. Blocking.
///
/// # Errors
/// [`ArchiveError`], of `each` too.
pub(super) fn each_entry<E: From<ArchiveError>>(
    tar: impl Read,
    most: u64,
    mut each: impl FnMut(Entry<'_>) -> Result<(), E>,
) -> Result<u64, E> {
    let mut archive = Archive::new(tar);
    let entries = archive.entries().map_err(ArchiveError::Read)?.raw(true);
    let (mut count, mut long_name) = (0, None);
    for entry in entries {
        let mut entry = entry.map_err(ArchiveError::Read)?;
        count += 1;
        if count > most {
            return Err(ArchiveError::Entries(most).into());
        }
        let (kind, size) = (entry.header().entry_type(), entry.size());
        match kind {
            EntryType::GNULongName => {
                let name = header_bytes(&mut entry, size)?;
                long_name = Some(name.split(|byte| *byte == 0).next().unwrap_or_default().to_vec());
            }
            EntryType::XHeader => {
                if let Some(name) = pax_name(&header_bytes(&mut entry, size)?)? {
                    long_name = Some(name);
                }
            }
            // The target of a link, and what holds for all entries: neither names a file.
            EntryType::GNULongLink | EntryType::XGlobalHeader => {}
            EntryType::GNUSparse => return Err(ArchiveError::Refused("it has a sparse file".to_owned()).into()),
            _ => {
                let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                let kind = match kind {
                    EntryType::Regular | EntryType::Continuous => Kind::File,
                    EntryType::Directory => Kind::Directory,
                    EntryType::Symlink | EntryType::Link => Kind::Link,
                    _ => Kind::Other,
                };
                // Before POSIX a directory was a file whose name ends so.
                let kind = if kind == Kind::File && name.ends_with(b"/") { Kind::Directory } else { kind };
                each(Entry { path: parts(&name)?, kind, size, content: &mut entry })?;
            }
        }
    }
    Ok(count)
}

/// The content of an entry that belongs to the next one.
fn header_bytes(entry: &mut impl Read, size: u64) -> Result<Vec<u8>, ArchiveError> {
    if size > MOST_HEADER_BYTES {
        return Err(ArchiveError::Refused(format!("it has a name or header of {size} bytes")));
    }
    let mut bytes = Vec::new();
    entry.take(MOST_HEADER_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The name in a PAX header, if there is one.
fn pax_name(bytes: &[u8]) -> Result<Option<Vec<u8>>, ArchiveError> {
    let mut name = None;
    for record in PaxExtensions::new(bytes) {
        let record = record?;
        match record.key_bytes() {
            b"path" => name = Some(record.value_bytes().to_vec()),
            // Readers differ on where the next entry begins if it contradicts the header's.
            b"size" => return Err(ArchiveError::Refused("it has an entry of 8 GiB or more".to_owned())),
            key if key.starts_with(b"GNU.sparse") => {
                return Err(ArchiveError::Refused("it has a sparse file".to_owned()));
            }
            _ => {}
        }
    }
    Ok(name)
}

/// The parts of a name. One that leads upwards is refused: readers differ on what it names.
fn parts(name: &[u8]) -> Result<Vec<Vec<u8>>, ArchiveError> {
    let parts = name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
    if parts.iter().any(|part| part == b"..") {
        let shown: String = String::from_utf8_lossy(name).chars().take(200).collect();
        return Err(ArchiveError::Refused(format!("it has an entry {shown:?}")));
    }
    Ok(parts)
}

/// A reader that gives at most `most` bytes and fails when there are more.
pub(super) struct Bounded<R> {
    inner: R,
    left: u64,
    /// `left` at the beginning, for the error.
    most: u64,
}

impl<R> Bounded<R> {
    pub(super) const fn new(inner: R, most: u64) -> Self {
        Self { inner, left: most, most }
    }

    /// Bytes that may still come.
    pub(super) const fn left(&self) -> u64 {
        self.left
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => {
                self.left = left;
                Ok(count)
            }
            None => Err(io::Error::other(TooMany(self.most))),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it unpacks to more than {0} bytes")]
struct TooMany(u64);
