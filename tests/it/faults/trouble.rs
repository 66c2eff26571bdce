//! What is wrong with a master, with its disk, or with its way to the others.

use super::bed::MASTERS;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    Killed,
    /// It does not run and its system takes connections.
    Stopped,
    /// Neither of the other two can be asked, nor asks.
    Alone,
    /// Nobody can ask anybody.
    AllApart,
    /// What goes to the others and comes from them is lost now and then.
    Lossy,
    /// Its cable is slow.
    Slow,
    /// It is killed, and its disk lost; it comes back with an empty one.
    Lost,
    /// The other two are.
    OthersLost,
    /// Its wall clock is wrong by so many hours; killed before, and when it is put right.
    WrongClock(i8),
    /// Nothing more goes on its disk.
    Full,
    /// The same, as nobody may write there.
    ReadOnly,
    /// Contents on its disk are not what was written.
    Damaged,
    /// Its certificates are made anew.
    Renewed,
}

impl Trouble {
    pub(super) const ALL: [Self; 14] = [
        Self::Killed,
        Self::Alone,
        Self::Full,
        Self::Stopped,
        Self::WrongClock(3),
        Self::AllApart,
        Self::Lost,
        Self::ReadOnly,
        Self::Lossy,
        Self::Damaged,
        Self::WrongClock(-5),
        Self::Slow,
        Self::Renewed,
        Self::OthersLost,
    ];

    /// Whether two masters may not be able to ask each other meanwhile.
    pub(super) fn parts(self, victim: usize, one: usize, other: usize) -> bool {
        let is_between = match self {
            // Of two masters one at least is another one than the victim.
            Self::AllApart | Self::OthersLost => true,
            Self::Killed
            | Self::Stopped
            | Self::Alone
            | Self::Lossy
            | Self::Slow
            | Self::Lost
            | Self::WrongClock(_) => one == victim || other == victim,
            Self::Full | Self::ReadOnly | Self::Damaged | Self::Renewed => false,
        };
        is_between && one != other
    }

    /// Which masters lose their disks.
    pub(super) fn lost(self, victim: usize) -> Vec<usize> {
        let is_lost = |master: &usize| match self {
            Self::Lost => *master == victim,
            Self::OthersLost => *master != victim,
            Self::Killed
            | Self::Stopped
            | Self::Alone
            | Self::AllApart
            | Self::Lossy
            | Self::Slow
            | Self::WrongClock(_)
            | Self::Full
            | Self::ReadOnly
            | Self::Damaged
            | Self::Renewed => false,
        };
        (0..MASTERS).filter(is_lost).collect()
    }
}
