//! A register: what was last said of one thing, wherever it was said. Pure.
//!
//! Of two values the one with the larger clock counts, and of two with the same clock that of the larger writer: so those who hear
//! the same, in whatever order and however often, end with the same. A deletion is a value like any other and is never
//! taken for nothing.

use std::collections::HashMap;

use super::clock::Moment;
use super::record::{Record, Register};
use super::sums::{Sum, Sums};
use crate::clock::Timestamp;
use crate::oci::{Digest, Reference, RepoName, Tag};

/// The registers of a repository's tags and manifests, with the sums over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store::repositories) struct Registers {
    all: HashMap<Reference, Register>,
    sums: Sums,
    /// Of them that say that something was deleted.
    deletions: usize,
}

impl Registers {
    /// None yet.
    pub(in crate::store::repositories) fn of(repo: &RepoName) -> Self {
        Self { all: HashMap::new(), sums: Sums::of(repo), deletions: 0 }
    }

    /// Takes in what was said; what was said later stays. Says whether it is another value now.
    pub(in crate::store::repositories) fn merge(&mut self, record: &Record) -> bool {
        let is_later = self.all.get(&record.of).is_none_or(|known| *known < record.said);
        if is_later {
            self.set(record.clone());
        }
        is_later
    }

    /// Takes in what was said in the place of what was, whenever that was.
    pub(in crate::store::repositories) fn set(&mut self, record: Record) {
        self.sums.change(&record);
        self.deletions += usize::from(record.said.is_deletion());
        if let Some(before) = self.all.insert(record.of.clone(), record.said) {
            self.deletions -= usize::from(before.is_deletion());
            self.sums.change(&Record { of: record.of, said: before });
        }
    }

    /// Forgets what was said of one thing.
    pub(in crate::store::repositories) fn remove(&mut self, of: &Reference) {
        if let Some((of, said)) = self.all.remove_entry(of) {
            self.deletions -= usize::from(said.is_deletion());
            self.sums.change(&Record { of, said });
        }
    }

    pub(in crate::store::repositories) fn get(&self, of: &Reference) -> Option<&Register> {
        self.all.get(of)
    }

    /// What was said of one thing, as it is told to others.
    pub(in crate::store::repositories) fn record(&self, of: &Reference) -> Option<Record> {
        self.get(of).map(|said| Record { of: of.clone(), said: *said })
    }

    pub(in crate::store::repositories) fn iter(&self) -> impl Iterator<Item = Record> {
        self.all.iter().map(|(of, said)| Record { of: of.clone(), said: *said })
    }

    pub(in crate::store::repositories) fn len(&self) -> usize {
        self.all.len()
    }

    /// How many say that something was deleted.
    pub(in crate::store::repositories) const fn deletions(&self) -> usize {
        self.deletions
    }

    /// What was deleted, as was said before `moment` by the clock of the wall.
    pub(in crate::store::repositories) fn deleted_before(&self, moment: Timestamp) -> Vec<Reference> {
        let is_old = |said: &Register| said.is_deletion() && said.at.wall() < moment;
        self.all.iter().filter(|(_, said)| is_old(said)).map(|(of, _)| of.clone()).collect()
    }

    /// The tags that are there, and where each leads.
    pub(in crate::store::repositories) fn tags(&self) -> impl Iterator<Item = (&Tag, &Digest)> {
        self.all.iter().filter_map(|(of, said)| match (of, &said.to) {
            (Reference::Tag(tag), Some(to)) => Some((tag, to)),
            (Reference::Tag(_), None) | (Reference::Digest(_), _) => None,
        })
    }

    /// Tags that lead to a manifest, and when that was said.
    pub(in crate::store::repositories) fn tags_of(
        &self,
        digest: &Digest,
    ) -> impl Iterator<Item = (&Reference, &Register)> {
        let is_of = move |(of, said): &(&Reference, &Register)| {
            matches!(of, Reference::Tag(_)) && said.to.as_ref() == Some(digest)
        };
        self.all.iter().filter(is_of)
    }

    /// Tags that lead to one of some manifests, with where, and when that was said. One look at all registers, for however many.
    pub(in crate::store::repositories) fn tags_of_any<'a, V: 'a>(
        &'a self,
        digests: &'a HashMap<Digest, V>,
    ) -> impl Iterator<Item = (&'a Reference, &'a Register, &'a V)> {
        let of_one = move |(of, said): (&'a Reference, &'a Register)| match (of, said.to) {
            (Reference::Tag(_), Some(to)) => digests.get(&to).map(|value| (of, said, value)),
            (Reference::Tag(_) | Reference::Digest(_), _) => None,
        };
        self.all.iter().filter_map(of_one)
    }

    /// The sum over all of them.
    pub(in crate::store::repositories) const fn sum(&self) -> Sum {
        self.sums.all()
    }

    /// The sums of the buckets.
    pub(in crate::store::repositories) fn buckets(&self) -> &[Sum] {
        self.sums.buckets()
    }

    /// The latest moment of all.
    pub(in crate::store::repositories) fn latest(&self) -> Moment {
        self.all.values().map(|register| register.at).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;
    use crate::store::repositories::records::record::WriterId;

    fn repo() -> RepoName {
        "a/b".parse().unwrap()
    }

    fn said() -> impl Strategy<Value = Record> {
        // Few of each, so that they meet.
        (0_u8..3, 0_u64..6, 0_u64..3, 0_u8..3, any::<bool>()).prop_map(|(thing, at, writer, to, is_tag)| {
            let at = format!("{at:016x}").parse().unwrap();
            let content = |number: u8| Algorithm::Sha256.digest(&[number]);
            let (of, to) = if is_tag {
                (Reference::Tag(format!("v{thing}").parse().unwrap()), (to > 0).then(|| content(to)))
            } else {
                (Reference::Digest(content(thing)), (to > 0).then(|| content(thing)))
            };
            Record { of, said: Register { at, writer: WriterId(writer), to } }
        })
    }

    fn merged<'a>(all: impl IntoIterator<Item = &'a Record>) -> Registers {
        let mut registers = Registers::of(&repo());
        for record in all {
            registers.merge(record);
        }
        registers
    }

    proptest! {
        #[test]
        fn whatever_the_order_and_however_often_all_end_with_the_same(
            all in proptest::collection::vec(said(), 0..40),
            order in any::<prop::sample::Index>(),
        ) {
            let in_order = merged(&all);
            prop_assert_eq!(&merged(all.iter().rev()), &in_order);
            prop_assert_eq!(&merged(all.iter().chain(&all)), &in_order);
            // What two groups know, told to each other either way.
            let at = if all.is_empty() { 0 } else { order.index(all.len()) };
            let (mut one, mut other) = (merged(&all[..at]), merged(&all[at..]));
            let (first, second) = (one.clone(), other.clone());
            for record in second.iter() {
                one.merge(&record);
            }
            for record in first.iter() {
                other.merge(&record);
            }
            prop_assert_eq!(&one, &in_order);
            prop_assert_eq!(&other, &in_order);
        }

        #[test]
        fn a_deletion_stays_until_something_later_is_said(all in proptest::collection::vec(said(), 1..40)) {
            let registers = merged(&all);
            for record in &all {
                let known = registers.get(&record.of).unwrap();
                prop_assert!(*known >= record.said);
                if record.said.is_deletion() && !known.is_deletion() {
                    prop_assert!((known.at, known.writer) >= (record.said.at, record.said.writer));
                }
            }
        }

        #[test]
        fn sums_are_equal_where_all_records_are_and_say_which_buckets_differ(
            all in proptest::collection::vec(said(), 0..40),
            more in said(),
        ) {
            let (one, mut other) = (merged(&all), merged(all.iter().rev()));
            prop_assert_eq!(one.sum(), other.sum());
            let is_new = other.merge(&more);
            prop_assert_eq!(one.sum() != other.sum(), is_new);
            let differ = one.buckets().iter().zip(other.buckets()).enumerate().filter(|(_, (one, other))| one != other);
            let differ: Vec<usize> = differ.map(|(bucket, _)| bucket).collect();
            prop_assert_eq!(differ, if is_new { vec![usize::from(more.bucket())] } else { Vec::new() });
            let deleted = other.iter().filter(|record| record.said.is_deletion()).count();
            prop_assert_eq!(other.deletions(), deleted);
            other.remove(&more.of);
            if one.get(&more.of).is_none() {
                prop_assert_eq!(one.sum(), other.sum());
            }
        }
    }
}
