//! What clients of several masters did and saw, and whether masters that are one registry may have answered so. Pure.
//!
//! A key is a register: a tag, or an image that is asked for by its digest. A write says what stands there (`None`: it was
//! deleted), and of two writes the one with the larger clock stays. Clocks are not seen from here; a write that ended
//! before another one began has the smaller one, since all masters here have one wall. Where the wall of one was wrong that is
//! so for two writes of one master alone.
//!
//! What may be answered by a master that does not know of a write yet is anything older. What must not: bytes that are not
//! what was asked for; a value that nobody wrote; less than the master itself has acknowledged; no, for an image that a
//! master has acknowledged which can be asked; and, when all is quiet, a value that a later acknowledged write has replaced,
//! or different ones on two masters.

use std::collections::HashMap;
use std::fmt;

/// Microseconds since the run began.
pub(super) type At = u64;

/// Two writes nearer than this have clocks of which either may be the larger: a clock has milliseconds.
const TIE: At = 2_000;

/// What is written and read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) enum Key {
    Tag(u32),
    /// By digest.
    Image(u32),
}

/// The number of an image; `None`: it is not there.
pub(super) type Value = Option<u32>;

/// How a write ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Acknowledged,
    /// Its master died; what it had not done by then is never done.
    Cut,
    /// It was refused, or nobody waited any more: it may have its effect at any time.
    Open,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Write {
    pub(super) key: Key,
    pub(super) value: Value,
    pub(super) master: usize,
    pub(super) began: At,
    pub(super) ended: At,
    pub(super) end: End,
    /// Masters that had it when it was acknowledged, as far as is known.
    pub(super) copies: usize,
}

/// An answer to a read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    Value(Value),
    /// Neither yes nor no, and why.
    Refused(String),
    /// Bytes that are not what was asked for, and which.
    Wrong(String),
}

#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) key: Key,
    pub(super) seen: Seen,
    pub(super) master: usize,
    pub(super) began: At,
    pub(super) ended: At,
}

/// Masters whose disks were lost at once, and until they had empty ones.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    pub(super) masters: Vec<usize>,
    pub(super) from: At,
    pub(super) to: At,
}

/// A master with contents that are not what was written, until they are mended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Damage {
    pub(super) master: usize,
    pub(super) from: At,
    pub(super) to: At,
}

/// Which masters were up and could ask each other, from some moments on. Before the first one: all.
#[derive(Clone, Debug, Default)]
pub(super) struct Links(Vec<(At, Vec<Vec<bool>>)>);

impl Links {
    /// From now on. A cut is told before it is made, and its end behind it.
    pub(super) fn change(&mut self, at: At, links: Vec<Vec<bool>>) {
        self.0.push((at, links));
    }

    /// Whether two of them could ask each other all the time.
    pub(super) fn held(&self, one: usize, other: usize, from: At, to: At) -> bool {
        let begin = self.0.iter().rposition(|(at, _)| *at <= from).unwrap_or_default();
        self.0[begin..].iter().take_while(|(at, _)| *at <= to).all(|(_, links)| links[one][other])
    }
}

/// What is asked of the masters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// How long two masters have to have been linked until one surely asks the other: longer than a circuit's pause.
    pub(super) settled: At,
    /// Whether tags and deletions are told to other masters.
    pub(super) converging: bool,
}

/// All that happened with the keys of a round.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) writes: Vec<Write>,
    pub(super) reads: Vec<Read>,
    /// When all was quiet: of each key at each master.
    pub(super) last: Vec<Read>,
    pub(super) links: Links,
    pub(super) losses: Vec<Loss>,
    pub(super) damages: Vec<Damage>,
    /// Whether the wall clock of a master was wrong.
    pub(super) is_skewed: bool,
}

/// An answer that must not be, in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    WrongBytes,
    NobodyWroteIt,
    OlderThanItsOwn,
    GoneWhileHeld,
    RefusedWhileHeld,
    LostAtTheEnd,
    BackAtTheEnd,
    DifferentAtTheEnd,
}

#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    pub(super) read: Read,
    /// The write that contradicts it.
    pub(super) write: Option<Write>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?}", self.kind, self.read)?;
        self.write.iter().try_for_each(|write| write!(f, "\n    against {write:?}"))
    }
}

/// The faults, and how many reads could have shown one of those that depend on the moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict {
    pub(super) faults: Vec<Fault>,
    /// Of an image that another master had and could be asked for.
    pub(super) of_others: usize,
    /// Of what the same master had acknowledged.
    pub(super) of_own: usize,
}

impl History {
    /// All that happened with a key, a line each, in the order in which it began.
    pub(super) fn of(&self, key: Key) -> String {
        let writes =
            self.writes.iter().filter(|write| write.key == key).map(|write| (write.began, format!("{write:?}")));
        let reads = self.reads.iter().chain(&self.last).filter(|read| read.key == key);
        let mut all: Vec<_> = writes.chain(reads.map(|read| (read.began, format!("{read:?}")))).collect();
        all.sort();
        all.into_iter().map(|(_, line)| format!("    {line}\n")).collect()
    }

    pub(super) fn judge(&self, rules: Rules) -> Verdict {
        let mut verdict = Verdict::default();
        let mut by_key: HashMap<Key, Vec<&Write>> = HashMap::new();
        for write in &self.writes {
            by_key.entry(write.key).or_default().push(write);
        }
        for read in &self.reads {
            let writes = by_key.get(&read.key).map_or(&[][..], Vec::as_slice);
            self.judge_read(read, writes, rules, &mut verdict);
        }
        for read in &self.last {
            let writes = by_key.get(&read.key).map_or(&[][..], Vec::as_slice);
            self.judge_last(read, writes, rules, &mut verdict);
        }
        verdict
    }

    fn judge_read(&self, read: &Read, writes: &[&Write], rules: Rules, verdict: &mut Verdict) {
        let mut fault = |kind, write: Option<&Write>| {
            verdict.faults.push(Fault { kind, read: read.clone(), write: write.copied() });
        };
        let holder = self.holder(read, writes, rules);
        let value = match &read.seen {
            // A client finds it out by the digest, and the master by a scrub.
            Seen::Wrong(_) if self.was_damaged(read) => return,
            Seen::Wrong(_) => return fault(Kind::WrongBytes, None),
            Seen::Refused(_) => {
                if let Some(holder) = holder {
                    fault(Kind::RefusedWhileHeld, Some(holder));
                }
                return;
            }
            Seen::Value(value) => *value,
        };
        if value.is_some() && !writes.iter().any(|write| write.value == value && write.began <= read.ended) {
            return fault(Kind::NobodyWroteIt, None);
        }
        // Own writes: the master has this one, or a later one.
        let own = writes.iter().filter(|write| write.master == read.master && write.ended <= read.began);
        let own = own.filter(|write| !self.was_lost(read.master, write.began, read.ended));
        let own: Vec<&&Write> = own.filter(|write| write.end == End::Acknowledged).collect();
        if let Some(newer) = own.iter().find(|own| self.is_replaced(value, own, writes, read)) {
            return fault(Kind::OlderThanItsOwn, Some(newer));
        }
        if let Some(holder) = holder.filter(|_| value.is_none()) {
            return fault(Kind::GoneWhileHeld, Some(holder));
        }
        verdict.of_own += usize::from(!own.is_empty());
        verdict.of_others += usize::from(holder.is_some_and(|holder| holder.master != read.master));
    }

    /// The acknowledged write by which an image has to be had: nobody has deleted it, and its master is this one or could be
    /// asked all the time.
    fn holder<'a>(&self, read: &Read, writes: &[&'a Write], rules: Rules) -> Option<&'a Write> {
        let is_deleted = writes.iter().any(|write| write.value.is_none() && write.began <= read.ended);
        if matches!(read.key, Key::Tag(_)) || is_deleted {
            return None;
        }
        let from = read.began.saturating_sub(rules.settled);
        let could_be_asked = |write: &&&Write| {
            let is_linked = || self.links.held(write.master, read.master, from, read.ended);
            (write.master == read.master || is_linked()) && !self.was_lost(write.master, write.began, read.ended)
        };
        let acknowledged = writes.iter().filter(|write| write.end == End::Acknowledged && write.ended <= read.began);
        acknowledged.filter(could_be_asked).copied().next()
    }

    fn judge_last(&self, read: &Read, writes: &[&Write], rules: Rules, verdict: &mut Verdict) {
        let mut fault = |kind, write: Option<&Write>| {
            verdict.faults.push(Fault { kind, read: read.clone(), write: write.copied() });
        };
        let Seen::Value(value) = read.seen else { return fault(Kind::RefusedWhileHeld, None) };
        if !rules.converging {
            let has_to_be = self.holder(read, writes, rules).filter(|_| value.is_none());
            return has_to_be.into_iter().for_each(|holder| fault(Kind::LostAtTheEnd, Some(holder)));
        }
        let kept = writes.iter().filter(|write| write.end == End::Acknowledged && self.survives(write));
        if let Some(newer) = kept.copied().find(|newer| self.is_replaced(value, newer, writes, read)) {
            let kind = if newer.value.is_none() { Kind::BackAtTheEnd } else { Kind::LostAtTheEnd };
            return fault(kind, Some(newer));
        }
        let same_key = self.last.iter().filter(|other| other.key == read.key && other.master < read.master);
        if same_key.clone().any(|other| other.seen != read.seen) {
            fault(Kind::DifferentAtTheEnd, None);
        }
    }

    /// Whether each write that explains the value is smaller than this one.
    fn is_replaced(&self, value: Value, newer: &Write, writes: &[&Write], read: &Read) -> bool {
        let mut explaining = writes.iter().filter(|write| write.value == value && write.began <= read.ended);
        newer.value != value && explaining.all(|write| self.is_before(write, newer))
    }

    /// Whether the clock of `one` is smaller for certain.
    fn is_before(&self, one: &Write, other: &Write) -> bool {
        // A clock goes on by itself as long as its disk does.
        let is_same = one.master == other.master && !self.was_lost(one.master, one.began, other.ended);
        !matches!(one.end, End::Open) && one.ended + TIE < other.began && (!self.is_skewed || is_same)
    }

    /// Whether a master's disk was lost meanwhile.
    fn was_lost(&self, master: usize, from: At, to: At) -> bool {
        self.losses.iter().any(|loss| loss.masters.contains(&master) && loss.from <= to && from <= loss.to)
    }

    /// Whether contents of a master may have been damaged when it was asked.
    fn was_damaged(&self, read: &Read) -> bool {
        let of_master = self.damages.iter().filter(|damage| damage.master == read.master);
        of_master.clone().any(|damage| damage.from <= read.ended && read.began <= damage.to)
    }

    /// Whether what was acknowledged is on a disk for certain: where it was written, or on one of its copies, of which each
    /// lost disk may have had one.
    fn survives(&self, write: &Write) -> bool {
        let (mut is_with_its_master, mut copies) = (true, write.copies);
        for loss in self.losses.iter().filter(|loss| write.began <= loss.to) {
            is_with_its_master &= !loss.masters.contains(&write.master);
            copies = copies.saturating_sub(loss.masters.len());
            if is_with_its_master {
                copies = copies.max(1);
            }
        }
        copies > 0
    }
}

#[cfg(test)]
mod tests;
