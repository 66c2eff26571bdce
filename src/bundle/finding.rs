//! What is found in a bundle that is wrong, or worth to be told.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

/// Most findings of damage that are named, and most notes; of those beyond, the number. Damage is never dropped for notes.
const MOST_NAMED: usize = 10_000;
/// Most characters of a foreign name that are shown.
const MOST_SHOWN: usize = 120;
/// Most characters of a place or a sentence.
const MOST_SAID: usize = 512;
/// About what a finding takes in memory.
const FINDING_BYTES: usize = 512;

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
    /// A file has other bytes than its GOST sum says, or the sum can't be read.
    Sum,
    /// What a pull that was killed left behind, or another file of no use. No damage.
    Ignored,
    /// A sum whose file is not there. No damage.
    StaleSum,
    /// Bytes under a wrong name that no tag reaches. No damage.
    UnreachedBytes,
}

impl Problem {
    /// Whether something that ought to be there is not, or can't be trusted.
    #[must_use]
    pub const fn is_damage(self) -> bool {
        !matches!(self, Self::Ignored | Self::StaleSum | Self::UnreachedBytes)
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

/// Findings, in the order in which they were made. Damage and notes have a bound each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Findings {
    pub(super) named: Vec<Finding>,
    /// Findings of damage, named or not.
    pub(super) damage: u64,
    /// Notes, named or not.
    notes: u64,
    /// Most of each that are named.
    most: u64,
}

impl Default for Findings {
    fn default() -> Self {
        Self { named: Vec::new(), damage: 0, notes: 0, most: MOST_NAMED as u64 }
    }
}

impl Findings {
    /// None yet. What they may take is taken from the budget: at most an eighth of it.
    pub(super) fn within(budget: &mut Budget) -> Result<Self, BundleError> {
        let most = (budget.left / 16 / FINDING_BYTES).min(MOST_NAMED);
        budget.take(2 * most * FINDING_BYTES)?;
        Ok(Self { most: most as u64, ..Self::default() })
    }

    pub(super) fn add(&mut self, problem: Problem, place: impl AsRef<str>, says: impl AsRef<str>) {
        let damage = problem.is_damage();
        let count = if damage { &mut self.damage } else { &mut self.notes };
        *count += 1;
        if *count <= self.most {
            let (place, says) = (plain(place.as_ref()), plain(says.as_ref()));
            self.named.push(Finding { problem, damage, place, says });
        }
    }

    /// How many there are beyond those that are named.
    pub(super) fn more(&self) -> u64 {
        self.damage + self.notes - self.named.len() as u64
    }

    pub(super) fn append(&mut self, other: &Self) {
        let (mut damage, mut notes) = (other.damage, other.notes);
        for finding in &other.named {
            self.add(finding.problem, &finding.place, &finding.says);
            let counted = if finding.damage { &mut damage } else { &mut notes };
            *counted -= 1;
        }
        self.damage += damage;
        self.notes += notes;
    }
}

/// A text of elsewhere, as a terminal can be given it: what is no letter, mark or plain space stands there by its number.
/// At most 512 characters of it.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MOST_SAID));
    for (count, char) in text.chars().enumerate() {
        match char {
            _ if count == MOST_SAID => {
                out.push('…');
                break;
            }
            '"' | '\'' | '\\' => out.push(char),
            _ => out.extend(char.escape_debug()),
        }
    }
    out
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
    #[error("{} can't be read by user {user}", plain(&path.to_string_lossy()))]
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
    #[error("{} is and has no *.tar, no *.tar.NNNN.chunk and no OCI layout", plain(&.0.to_string_lossy()))]
    Nothing(PathBuf),
    /// It was told to stop.
    #[error("it was stopped")]
    Stopped,
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

    pub(super) const fn left(&self) -> usize {
        self.left
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<(), BundleError> {
        self.left = self.left.checked_sub(bytes).ok_or_else(|| self.too_much())?;
        Ok(())
    }

    pub(super) const fn too_much(&self) -> BundleError {
        BundleError::TooMuch(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_named_whatever_number_of_notes_came_before_and_none_of_it_is_forgotten() {
        let mut findings = Findings::default();
        for number in 0..MOST_NAMED + 7 {
            findings.add(Problem::Ignored, number.to_string(), "a note");
        }
        findings.add(Problem::Cut, "platform.tar", "it was cut");
        assert_eq!(findings.named.last().unwrap().problem, Problem::Cut);
        assert_eq!((findings.damage, findings.more()), (1, 7));
        for number in 0..MOST_NAMED + 2 {
            findings.add(Problem::BlobMissing, number.to_string(), "gone");
        }
        assert_eq!((findings.damage, findings.more()), (MOST_NAMED as u64 + 3, 10));
        let mut all = Findings::within(&mut Budget::new(1 << 20)).unwrap();
        all.append(&findings);
        assert_eq!(
            (all.damage, all.named.len() as u64 + all.more()),
            (MOST_NAMED as u64 + 3, 2 * MOST_NAMED as u64 + 10)
        );
        assert_eq!(all.named.len(), 2 * ((1 << 20) / 16 / FINDING_BYTES));
    }

    #[test]
    fn a_text_of_elsewhere_says_nothing_to_a_terminal() {
        assert_eq!(plain("plattform-ä \"x\" 'y' \\z.tar"), "plattform-ä \"x\" 'y' \\z.tar");
        let hostile = plain("a\u{1b}]0;title\u{7}\r\n\u{9b}2J\u{202e}rat\u{2028}");
        assert!(hostile.chars().all(|char| char.is_ascii_graphic()), "{hostile}");
        assert_eq!(plain(&"x".repeat(10_000)).chars().count(), MOST_SAID + 1);
    }
}
