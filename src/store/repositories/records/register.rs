//! A register: what was last said of one thing, wherever it was said. Pure.
//!
//! Of two values the one with the larger clock counts, and of two with the same clock that of the larger writer: so those who hear
//! the same, in whatever order and however often, end with the same. A deletion is a value like any other and is never
//! taken for nothing.

use std::collections::HashMap;
use std::fmt;

use super::clock::{Moment, number};
use crate::oci::Digest;

/// Who wrote: a number of each store, by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct WriterId(pub(super) u64);

impl WriterId {
    /// Reads 16 hexadecimal digits.
    pub(super) fn of_text(text: &str) -> Option<Self> {
        number(text).map(Self)
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What was said of a manifest of a repository. In the order of the fields the larger one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Register {
    pub(super) at: Moment,
    pub(super) writer: WriterId,
    /// Whether it was deleted, else it is there. The same writer says no two things at one moment.
    pub(super) is_deleted: bool,
}

/// The registers of a repository's manifests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Registers(HashMap<Digest, Register>);

impl Registers {
    /// Takes in what was said; what was said later stays.
    pub(super) fn merge(&mut self, digest: Digest, said: Register) {
        let known = self.0.entry(digest).or_insert(said);
        *known = (*known).max(said);
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<&Register> {
        self.0.get(digest)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Digest, &Register)> {
        self.0.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The latest moment of all.
    pub(super) fn latest(&self) -> Moment {
        self.0.values().map(|register| register.at).max().unwrap_or_default()
    }

    /// Leaves the `most` that were said last.
    pub(super) fn cut(&mut self, most: usize) {
        if self.0.len() > most {
            let mut moments: Vec<Moment> = self.0.values().map(|register| register.at).collect();
            moments.sort_unstable_by(|one, other| other.cmp(one));
            let oldest = moments.get(most).copied().unwrap_or_default();
            self.0.retain(|_, register| register.at > oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    fn said() -> impl Strategy<Value = (Digest, Register)> {
        // Few of each, so that they meet.
        (0_u8..3, 0_u64..6, 0_u64..3, any::<bool>()).prop_map(|(content, at, writer, is_deleted)| {
            let at = format!("{at:016x}").parse().unwrap();
            (Algorithm::Sha256.digest(&[content]), Register { at, writer: WriterId(writer), is_deleted })
        })
    }

    fn merged<'a>(all: impl IntoIterator<Item = &'a (Digest, Register)>) -> Registers {
        let mut registers = Registers::default();
        all.into_iter().for_each(|(digest, said)| registers.merge(*digest, *said));
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
            second.iter().for_each(|(digest, said)| one.merge(*digest, *said));
            first.iter().for_each(|(digest, said)| other.merge(*digest, *said));
            prop_assert_eq!(&one, &in_order);
            prop_assert_eq!(&other, &in_order);
        }

        #[test]
        fn a_deletion_stays_until_something_later_is_said(all in proptest::collection::vec(said(), 1..40)) {
            let registers = merged(&all);
            for (digest, said) in &all {
                let known = registers.get(digest).unwrap();
                prop_assert!(known >= said);
                if said.is_deleted && !known.is_deleted {
                    prop_assert!((known.at, known.writer) >= (said.at, said.writer));
                }
            }
        }
    }

    #[test]
    fn of_more_than_there_is_room_for_the_latest_stay() {
        let register =
            |at: u64| Register { at: format!("{at:016x}").parse().unwrap(), writer: WriterId(1), is_deleted: true };
        let mut registers = Registers::default();
        for number in 0..10_u8 {
            registers.merge(Algorithm::Sha256.digest(&[number]), register(u64::from(number)));
        }
        registers.cut(4);
        let mut left: Vec<_> = registers.iter().map(|(_, register)| register.at).collect();
        left.sort_unstable();
        assert_eq!(left, [6, 7, 8, 9].map(|at| register(at).at));
    }
}
