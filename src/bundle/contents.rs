//! Where each content of a bundle lies.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::files::Form;
use super::finding::{Finding, Findings};
use super::index::Content as Reader;
use super::stream::{Piece, Stream};
use crate::oci::{Algorithm, Digest};

/// A bundle, as its headers show it. Keeps no content in memory.
#[derive(Debug)]
pub struct Bundle {
    pub(super) archives: Vec<ArchiveFacts>,
    /// By their path, which is the name of a repository below the one where all of it goes; `""` is that one.
    pub(super) layouts: BTreeMap<String, Layout>,
    pub(super) findings: Findings,
    /// Bytes of memory that it was opened with, and that are left of them.
    pub(super) most: usize,
    pub(super) left: usize,
}

/// An archive, and what is known of it.
#[derive(Debug)]
pub(super) struct ArchiveFacts {
    pub(super) stream: Arc<Stream>,
    pub(super) form: Form,
    pub(super) loose: Vec<(String, u64)>,
    pub(super) sums: std::collections::BTreeSet<String>,
    /// Contents of layouts.
    pub(super) contents: u64,
    /// It was read to its end.
    pub(super) is_whole: bool,
}

/// A layout, of one archive or several.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Sorted by digest, then by archive.
    pub(super) contents: Vec<Content>,
    pub(super) tags: BTreeMap<String, Digest>,
    /// Entries of its index that have no tag.
    pub(super) untagged: u64,
}

/// The bytes of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Content {
    pub(super) sha256: [u8; 32],
    pub(super) archive: u32,
    pub(super) at: u64,
    pub(super) length: u64,
}

/// A content that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The archive that has it.
    pub stream: Arc<Stream>,
    /// Where it begins in that.
    pub at: u64,
    /// Its bytes.
    pub length: u64,
}

impl Content {
    pub(super) fn digest(&self) -> Digest {
        // 32 bytes are a SHA-256.
        Digest::from_bytes(Algorithm::Sha256, &self.sha256).unwrap_or_else(|| Algorithm::Sha256.digest(&[]))
    }
}

impl Layout {
    /// The places that say that they have the content.
    pub(super) fn all(&self, digest: &Digest) -> std::ops::Range<usize> {
        let wanted = digest.as_bytes();
        let from = self.contents.partition_point(|content| content.sha256[..] < *wanted);
        let count = self.contents[from..].iter().take_while(|content| content.sha256[..] == *wanted).count();
        from..from + count
    }
}

impl Bundle {
    /// The paths of its layouts.
    pub fn repositories(&self) -> impl Iterator<Item = &str> {
        self.layouts.keys().map(String::as_str)
    }

    /// The tags of a layout.
    pub fn tags(&self, path: &str) -> impl Iterator<Item = (&str, Digest)> {
        let layout = self.layouts.get(path);
        layout.into_iter().flat_map(|layout| layout.tags.iter().map(|(tag, digest)| (tag.as_str(), *digest)))
    }

    /// Where a content lies: in the layout itself, else in another one. `None`: nowhere.
    #[must_use]
    pub fn find(&self, path: &str, digest: &Digest) -> Option<Found> {
        let (layout, index) = self.locate(path, digest)?;
        let content = self.layouts.get(layout)?.contents.get(index)?;
        let stream = Arc::clone(&self.archives.get(content.archive as usize)?.stream);
        Some(Found { stream, at: content.at, length: content.length })
    }

    /// All places that say that they have a content: those of the layout itself first.
    pub(super) fn places(&self, path: &str, digest: &Digest) -> Vec<Found> {
        if digest.algorithm() != Algorithm::Sha256 {
            return Vec::new();
        }
        let own = self.layouts.get(path).into_iter();
        let others = self.layouts.iter().filter(|(other, _)| *other != path).map(|(_, layout)| layout);
        let contents = own.chain(others).flat_map(|layout| &layout.contents[layout.all(digest)]);
        let found = contents.filter_map(|content| {
            let stream = Arc::clone(&self.archives.get(content.archive as usize)?.stream);
            Some(Found { stream, at: content.at, length: content.length })
        });
        found.collect()
    }

    /// The layout that has it, and which of its contents it is.
    pub(super) fn locate<'a>(&'a self, path: &'a str, digest: &Digest) -> Option<(&'a str, usize)> {
        if digest.algorithm() != Algorithm::Sha256 {
            return None;
        }
        let own = self.layouts.get_key_value(path).into_iter();
        let others = self.layouts.iter().filter(|(other, _)| *other != path);
        own.chain(others).find_map(|(name, layout)| {
            let all = layout.all(digest);
            (!all.is_empty()).then_some((name.as_str(), all.start))
        })
    }

    /// What was found when it was opened, as far as it is named.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings.named
    }

    /// How many of all these findings are damage.
    #[must_use]
    pub const fn damage(&self) -> u64 {
        self.findings.damage
    }

    /// Bytes that were read of its archives so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.archives.iter().map(|archive| archive.stream.bytes_read()).sum()
    }

    /// Bytes of its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.archives.iter().map(ArchiveFacts::bytes).sum()
    }

    /// The file in which a content begins: in the layout itself, else in another one. `None`: nowhere.
    #[must_use]
    pub fn file_of(&self, path: &str, digest: &Digest) -> Option<String> {
        let (layout, index) = self.locate(path, digest)?;
        let content = self.layouts.get(layout)?.contents.get(index)?;
        Some(self.archives.get(content.archive as usize)?.stream.place(content.at).0)
    }

    /// The name of an archive.
    pub(super) fn archive_name(&self, archive: u32) -> &str {
        self.archives.get(archive as usize).map(|archive| archive.stream.name.as_str()).unwrap_or_default()
    }
}

impl ArchiveFacts {
    pub(super) fn bytes(&self) -> u64 {
        self.stream.length() + self.loose.iter().map(|(_, length)| length).sum::<u64>()
    }
}

impl Found {
    /// The parts of files that it lies in, in their order, each opened when its turn comes. Blocking.
    pub fn pieces(&self) -> impl Iterator<Item = io::Result<Piece>> + '_ {
        self.stream.pieces(self.at, self.length)
    }

    /// Its bytes, to be read in order.
    pub fn reader(&self) -> impl io::Read + '_ {
        Reader { stream: &self.stream, at: self.at, left: self.length }
    }

    /// All of them, if there are at most `most`. Blocking.
    ///
    /// # Errors
    /// Of the disk, or `FileTooLarge`.
    pub fn read(&self, most: u64) -> io::Result<Vec<u8>> {
        if self.length > most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes")));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(self.length).unwrap_or(0));
        io::Read::read_to_end(&mut self.reader(), &mut bytes)?;
        Ok(bytes)
    }
}
