//! What is found in a bundle that is wrong, or worth to be told.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

/// Most findings that are named; of those beyond, the number.
const MOST_NAMED: usize = 10_000;
/// Most characters of a foreign name that are shown.
const MOST_SHOWN: usize = 120;

/// The kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Problem {
    /// A chunk is not there, and with it all that follows in its archive.
    ChunkMissing,
    /// A chunk is too short to be of its archive whole.
    ChunkShort,
    /// A file goes on where its archive has ended.
    ChunkForeign,
    /// There is no header where one has to be.
    Header,
    /// The archive ends inside an entry.
    Cut,
    /// The archive lacks the mark of its end.
    NoEnd,
    /// The disk, or the system, refuses.
    Unreadable,
    /// An archive has a name twice.
    Duplicate,
    /// The name of an entry can't be meant well, or the entry is a link.
    Name,
    /// An `index.json` can't be used, or one that there has to be is missing.
    Index,
    /// A manifest is not there.
    ManifestMissing,
    /// A manifest can't be used, or has other bytes than its digest says.
    Manifest,
    /// A blob is not there.
    BlobMissing,
    /// A blob has another length than its manifest says.
    BlobLength,
    /// A blob that a tag reaches has other bytes than its digest says.
    BlobBytes,
    /// A tag, or a repository, can't be called so.
    Tag,
    /// What a pull that was killed left behind, or another file of no use. No damage.
    Ignored,
    /// A sum whose file is not there. No damage.
    StaleSum,
    /// An archive has GOST sums, which are not compared. No damage.
    SumsUnread,
    /// Bytes under a wrong name that no tag reaches. No damage.
    UnreachedBytes,
}

impl Problem {
    /// Whether something that ought to be there is not, or can't be trusted.
    #[must_use]
    pub const fn is_damage(self) -> bool {
        !matches!(self, Self::Ignored | Self::StaleSum | Self::SumsUnread | Self::UnreachedBytes)
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What kind it is of.
    pub problem: Problem,
    /// Whether it is damage.
    pub damage: bool,
    /// The file, or the image.
    pub place: String,
    /// A sentence without its end.
    pub says: String,
}

/// Findings, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) named: Vec<Finding>,
    /// How many more there are.
    pub(super) more: u64,
    /// How many of all are damage.
    pub(super) damage: u64,
}

impl Findings {
    pub(super) fn add(&mut self, problem: Problem, place: impl Into<String>, says: impl Into<String>) {
        let damage = problem.is_damage();
        self.damage += u64::from(damage);
        if self.named.len() < MOST_NAMED {
            self.named.push(Finding { problem, damage, place: place.into(), says: says.into() });
        } else {
            self.more += 1;
        }
    }

    pub(super) fn append(&mut self, other: &Self) {
        for finding in &other.named {
            self.add(finding.problem, finding.place.clone(), finding.says.clone());
        }
        let named = other.named.iter().filter(|finding| finding.damage).count() as u64;
        self.more += other.more;
        self.damage += other.damage - named;
    }
}

/// A name of elsewhere, as it can be shown.
pub(super) fn shown(name: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(name).chars().take(MOST_SHOWN).collect();
    format!("{text:?}")
}

/// A bundle can't be looked at. Displayed: a sentence.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file or directory that was named.
    #[error("{} can't be read by user {user}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Who tried.
        user: u32,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// There is nothing of a bundle.
    #[error("{} has no *.tar, no *.tar.NNNN.chunk and no OCI layout", .0.display())]
    Nothing(PathBuf),
    /// More than is kept in memory.
    #[error("it has more entries than are kept in {0} bytes of memory")]
    TooMuch(usize),
}

impl BundleError {
    pub(super) fn read(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, user: rustix::process::geteuid().as_raw(), source }
    }
}

/// Bytes of memory that are left.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
    most: usize,
}

impl Budget {
    pub(super) const fn new(most: usize) -> Self {
        Self { left: most, most }
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<(), BundleError> {
        self.left = self.left.checked_sub(bytes).ok_or(BundleError::TooMuch(self.most))?;
        Ok(())
    }
}
