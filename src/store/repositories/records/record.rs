//! What was said of one tag or one manifest: a line of the file, and what masters tell each other. Pure.

use std::fmt;
use std::str::FromStr;

use super::clock::{Moment, number};
use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest, Reference};

/// Who wrote: a number of each store, by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store::repositories) struct WriterId(pub(super) u64);

impl WriterId {
    /// Reads 16 hexadecimal digits.
    pub(in crate::store::repositories) fn of_text(text: &str) -> Option<Self> {
        number(text).map(Self)
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What was said of a tag or a manifest of a repository. In the order of the fields the larger one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store::repositories) struct Register {
    pub(in crate::store::repositories) at: Moment,
    pub(in crate::store::repositories) writer: WriterId,
    /// The manifest that the tag names, or that is there; `None`: it was deleted. The same writer says no two things at one
    /// moment.
    pub(in crate::store::repositories) to: Option<Digest>,
}

impl Register {
    /// Whether it was deleted.
    pub(in crate::store::repositories) const fn is_deletion(&self) -> bool {
        self.to.is_none()
    }

    /// Whether nobody said it here: it was fetched for somebody, and whatever is said of it counts.
    pub(in crate::store::repositories) fn is_heard_of(&self) -> bool {
        self.at == Moment::default()
    }
}

/// What was said of a tag or a manifest of a repository, when and by whom. As text it is a line without its end, with a
/// checksum.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    pub(in crate::store::repositories) of: Reference,
    pub(in crate::store::repositories) said: Register,
}

impl Record {
    /// What it is about: a tag, or a manifest.
    #[must_use]
    pub const fn of(&self) -> &Reference {
        &self.of
    }

    /// The manifest that the tag names, or that is there; `None`: it was deleted.
    #[must_use]
    pub const fn target(&self) -> Option<Digest> {
        self.said.to
    }

    /// What the clock of the writer's wall said; it may run ahead of that.
    #[must_use]
    pub const fn wall(&self) -> Timestamp {
        self.said.at.wall()
    }

    /// Whether its clock is more than 24 h ahead of `wall`: then it is not believed.
    #[must_use]
    pub fn is_too_far_ahead(&self, wall: Timestamp) -> bool {
        self.said.at.is_too_far_ahead(wall)
    }

    /// Whether it counts and the other one, about the same, does not.
    #[must_use]
    pub fn is_later(&self, other: &Self) -> bool {
        self.said > other.said
    }

    /// What was said.
    pub(in crate::store::repositories) const fn said(&self) -> &Register {
        &self.said
    }

    /// The same about the manifest that the tag leads to: it is there since then.
    pub(in crate::store::repositories) fn about(&self, target: &Digest) -> Self {
        Self { of: Reference::Digest(*target), said: self.said }
    }

    /// The removal by `writer` of what this says is there, agreed on by all masters: the deletion at the moment behind it, which
    /// nobody says anything else at. Whatever is said by who had this record is later.
    pub(in crate::store::repositories) fn removal(&self, writer: WriterId) -> Self {
        Self { of: self.of.clone(), said: Register { at: self.said.at.removal(), writer, to: None } }
    }

    /// Whether this is the removal of what was `said`, and no deletion that a client asked for.
    pub(in crate::store::repositories) fn removes(&self, said: &Register) -> bool {
        self.said.is_deletion() && !said.is_deletion() && self.said.at == said.at.removal()
    }

    /// Of the deletion of a manifest: that of a tag which led to it, as was `said` before.
    pub(in crate::store::repositories) fn deleting(&self, tag: &Reference, said: &Register) -> Option<Self> {
        (*said < self.said).then(|| Self { of: tag.clone(), said: self.said })
    }

    /// The part of the repository's records that it belongs to.
    #[must_use]
    pub fn bucket(&self) -> u8 {
        let hash = Algorithm::Sha256.digest(self.of.to_string().as_bytes());
        hash.as_bytes().first().copied().unwrap_or_default()
    }

    /// Clock, writer, what it is about, and the digest that a tag leads to, `+` for a manifest that is there, `-` for a
    /// deletion.
    pub(in crate::store::repositories) fn text(&self) -> String {
        let Self { of, said: Register { at, writer, to } } = self;
        match (of, to) {
            (_, None) => format!("{at} {writer} {of} -"),
            (Reference::Digest(_), Some(_)) => format!("{at} {writer} {of} +"),
            (Reference::Tag(_), Some(to)) => format!("{at} {writer} {of} {to}"),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        write!(f, "{text} {}", check(&text))
    }
}

/// The text is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the line is no record")]
pub struct NoRecord;

impl FromStr for Record {
    type Err = NoRecord;

    fn from_str(line: &str) -> Result<Self, NoRecord> {
        parsed(line).ok_or(NoRecord)
    }
}

fn parsed(line: &str) -> Option<Record> {
    let (text, told) = line.rsplit_once(' ')?;
    let mut words = text.split(' ');
    let (at, writer) = (words.next()?.parse().ok()?, WriterId::of_text(words.next()?)?);
    let of: Reference = words.next()?.parse().ok()?;
    let to = match (&of, words.next()?) {
        (_, "-") => None,
        (Reference::Digest(digest), "+") => Some(*digest),
        (Reference::Digest(_), _) => return None,
        (Reference::Tag(_), to) => Some(to.parse().ok()?),
    };
    let is_whole = words.next().is_none() && check(text) == told;
    is_whole.then_some(Record { of, said: Register { at, writer, to } })
}

/// The beginning of the digest of a text.
fn check(text: &str) -> String {
    Algorithm::Sha256.digest(text.as_bytes()).hex()[..8].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also while the clock of the wall stands still, or is behind that of the records.
    #[test]
    fn whatever_is_said_by_who_had_a_record_is_later_than_its_removal() {
        let digest = Algorithm::Sha256.digest(b"content");
        let (low, high) = (WriterId(1), WriterId(u64::MAX));
        for at in ["0000000000000000", "0000019000000000", "0000019000000001", "000001900000ffff"] {
            let at: Moment = at.parse().unwrap();
            let there = Record { of: Reference::Digest(digest), said: Register { at, writer: high, to: Some(digest) } };
            for (remover, writer) in [(low, high), (high, low)] {
                let removal = there.removal(remover);
                assert!(removal.is_later(&there) && removal.removes(&there.said) && removal.target().is_none());
                for wall in [0, at.wall().as_millis(), 1 << 46] {
                    let at = at.next(Timestamp::from_millis(wall));
                    for to in [None, Some(digest)] {
                        let said = Register { at, writer, to };
                        let later = Record { of: Reference::Digest(digest), said };
                        assert!(later.is_later(&removal) && !later.removes(&there.said));
                    }
                }
            }
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_another_byte_makes_none_of_it() {
        let digest = Algorithm::Sha256.digest(b"content");
        let said = |to| Register { at: "0000019000000001".parse().unwrap(), writer: WriterId(7), to };
        let tag = || Reference::Tag("v1.2".parse().unwrap());
        for record in [
            Record { of: Reference::Digest(digest), said: said(Some(digest)) },
            Record { of: Reference::Digest(digest), said: said(None) },
            Record { of: tag(), said: said(Some(digest)) },
            Record { of: tag(), said: said(None) },
        ] {
            let line = record.to_string();
            assert_eq!(line.parse::<Record>(), Ok(record));
            for at in 0..line.len() {
                let mut wrong = line.clone().into_bytes();
                wrong[at] ^= 1;
                assert_eq!(String::from_utf8_lossy(&wrong).parse::<Record>(), Err(NoRecord), "{at}");
            }
        }
        for line in ["", " ", "- - -", "0000000000000001 0000000000000001 v1 - 00000000"] {
            assert_eq!(line.parse::<Record>(), Err(NoRecord), "{line}");
        }
    }
}
