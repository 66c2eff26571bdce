//! Hybrid clocks: the wall clock where it goes on, a counter where it stands still or goes back. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::clock::Timestamp;

/// A moment that is farther ahead of the wall is not believed.
const FARTHEST_AHEAD: Duration = Duration::from_secs(24 * 3600);

/// Bits of the counter.
const COUNTER: u32 = 16;

/// A moment of a hybrid clock: milliseconds since 1970 in the upper 48 bits, a counter in the others. Of two moments the larger
/// one is later, wherever they were made. What somebody says is at an even one; the odd one behind it is that of a removal, which
/// counts against what was said at the even one and against nothing that is said later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store::repositories) struct Moment(u64);

impl Moment {
    /// The first moment at `wall` by the clock of the wall.
    pub(in crate::store::repositories) const fn of_wall(wall: Timestamp) -> Self {
        Self(wall.as_millis().saturating_mul(1 << COUNTER))
    }

    /// The next moment behind `self` and its removal, at `wall` by the clock of the wall: that, where it has gone on. Even.
    pub(in crate::store::repositories) fn next(self, wall: Timestamp) -> Self {
        Self::of_wall(wall).max(self.behind())
    }

    /// The even moment behind it and its removal.
    pub(in crate::store::repositories) const fn behind(self) -> Self {
        // Versions before made odd ones too.
        Self(self.0.saturating_add(3) & !1)
    }

    /// The moment of the removal of what was said at this one. Odd.
    pub(in crate::store::repositories) const fn removal(self) -> Self {
        Self(self.0.saturating_add(1) | 1)
    }

    /// Whether it is that of a removal.
    pub(in crate::store::repositories) const fn is_removal(self) -> bool {
        self.0 & 1 == 1
    }

    /// Whether it is more than 24 h ahead of `wall`: then it is not believed.
    pub(in crate::store::repositories) fn is_too_far_ahead(self, wall: Timestamp) -> bool {
        self.wall().since(wall).is_some_and(|ahead| ahead > FARTHEST_AHEAD)
    }

    /// What the clock of the wall said.
    pub(in crate::store::repositories) const fn wall(self) -> Timestamp {
        Timestamp::from_millis(self.0 >> COUNTER)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text is no moment.
#[derive(Debug)]
pub(in crate::store::repositories) struct NoMoment;

impl FromStr for Moment {
    type Err = NoMoment;

    fn from_str(text: &str) -> Result<Self, NoMoment> {
        number(text).map(Self).ok_or(NoMoment)
    }
}

/// 16 hexadecimal digits in lower case.
pub(super) fn number(text: &str) -> Option<u64> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (text.len() == 16 && text.bytes().all(is_hex)).then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_clock_goes_on_whatever_the_wall_does(walls in proptest::collection::vec(any::<u64>(), 1..50)) {
            let mut last = Moment::default();
            for wall in walls {
                // The last one that there can be is a million years ahead.
                let next = last.next(Timestamp::from_millis(wall % (1 << 47)));
                prop_assert!(next > last.removal() && last.removal() > last);
                prop_assert!(last.removal().is_removal() && !next.is_removal());
                prop_assert!(next >= Moment((wall % (1 << 47)) << COUNTER));
                prop_assert!(next.wall().as_millis() >= wall % (1 << 47));
                prop_assert_eq!(next.to_string().parse::<Moment>().unwrap(), next);
                last = next;
            }
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in ["", "0", "000000000000000g", "000000000000000A", "+00000000000001", "00000000000000000"] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }
}
