//! The users of upstreams, who may sign in here too: a cluster's clients have such a pair when requests pass through. There
//! is more than one while a cluster changes from one upstream to another.
//!
//! No bcrypt: the password is known in plain, may be longer than what bcrypt reads, and is as strong as the upstream
//! made it. Kept is a digest of the pair; what clients send is held against it in constant time.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA256};

/// A pair is accepted for 15 minutes after another took its place: clients learn of the change one after another.
pub(super) const GRACE: Duration = Duration::from_secs(15 * 60);

/// Pairs that are remembered beside the present ones; a source that changes more often forgets the oldest.
const BEFORE: usize = 16;

/// SHA-256 of name and password, of a form that no user's password has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct PairId([u8; 32]);

/// A pair that is accepted.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) name: Arc<str>,
    pub(super) id: PairId,
}

/// The pairs in force and those before them that still count. Time is an argument: it never goes back.
#[derive(Debug, Default)]
pub(super) struct UpstreamUser(ArcSwap<Pairs>);

#[derive(Clone, Debug, Default)]
struct Pairs {
    present: Vec<Pair>,
    /// The latest first, each with the moment at which it ends.
    before: Vec<(Pair, Instant)>,
}

impl PairId {
    fn of(name: &str, password: &str) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(b"the upstream's user\0");
        for part in [name, password] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut id = [0; 32];
        id.copy_from_slice(context.finish().as_ref());
        Self(id)
    }

    /// Bytes that change when name or password do, the same in every process.
    pub(super) const fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PairId {
    /// Not even the digest: a weak password could be guessed from it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Pairs {
    fn accepted(&self, now: Instant) -> impl Iterator<Item = &Pair> {
        let before = self.before.iter().filter(move |(_, end)| now < *end).map(|(pair, _)| pair);
        self.present.iter().chain(before)
    }

    fn replaced(&self, present: Vec<Pair>, now: Instant) -> Self {
        let is_in = |pairs: &[Pair], id: PairId| pairs.iter().any(|pair| pair.id == id);
        let mut before = self.before.clone();
        for old in self.present.iter().filter(|old| !is_in(&present, old.id)) {
            before.insert(0, (old.clone(), now + GRACE));
        }
        before.retain(|(pair, end)| now < *end && !is_in(&present, pair.id));
        before.truncate(BEFORE);
        Self { present, before }
    }
}

impl UpstreamUser {
    /// Puts pairs into force; none: nobody is accepted any more, at once.
    pub(super) fn set(&self, pairs: &[(&str, &str)], now: Instant) {
        let mut present: Vec<Pair> = Vec::with_capacity(pairs.len());
        for (name, password) in pairs {
            let pair = Pair { name: Arc::from(*name), id: PairId::of(name, password) };
            if !present.iter().any(|other| other.id == pair.id) {
                present.push(pair);
            }
        }
        self.0.rcu(|pairs| if present.is_empty() { Pairs::default() } else { pairs.replaced(present.clone(), now) });
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.load().present.len()
    }

    /// The pair, if it is accepted. Takes as long for a wrong one as for a right one.
    pub(super) fn find(&self, name: &str, password: &str, now: Instant) -> Option<Pair> {
        let pairs = self.0.load();
        let mut found = None;
        if !pairs.present.is_empty() {
            let id = PairId::of(name, password);
            for pair in pairs.accepted(now) {
                if verify_slices_are_equal(&pair.id.0, &id.0).is_ok() {
                    found = Some(pair.clone());
                }
            }
        }
        found
    }

    /// The name, if an accepted pair has it.
    pub(super) fn named(&self, name: &str, now: Instant) -> Option<Arc<str>> {
        self.0.load().accepted(now).find(|pair| *pair.name == *name).map(|pair| Arc::clone(&pair.name))
    }

    /// Whether a pair that was accepted still is.
    pub(super) fn accepts(&self, id: PairId, now: Instant) -> bool {
        self.0.load().accepted(now).any(|pair| pair.id == id)
    }

    /// The accepted pair of this name for which `is_it` says yes.
    pub(super) fn find_by(&self, name: &str, now: Instant, is_it: impl Fn(PairId) -> bool) -> Option<Pair> {
        self.0.load().accepted(now).find(|pair| *pair.name == *name && is_it(pair.id)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn accepted(user: &UpstreamUser, password: &str, now: Instant) -> bool {
        let found = user.find("license-token", password, now);
        if let Some(pair) = &found {
            assert!(user.accepts(pair.id, now));
        }
        found.is_some()
    }

    #[test]
    fn the_pair_before_is_accepted_for_fifteen_minutes() {
        let (user, start) = (UpstreamUser::default(), Instant::now());
        assert!(user.count() == 0 && !accepted(&user, "one", start));
        user.set(&[("license-token", "one")], start);
        assert!(user.count() == 1 && accepted(&user, "one", start));
        // The same again is no change.
        user.set(&[("license-token", "one")], start + SECOND);
        let change = start + 100 * SECOND;
        user.set(&[("license-token", "two")], change);
        let (last, over) = (change + GRACE - SECOND, change + GRACE);
        for now in [change, last] {
            assert!(accepted(&user, "one", now) && accepted(&user, "two", now));
        }
        assert!(!accepted(&user, "one", over) && accepted(&user, "two", over));
        let old = user.find("license-token", "one", last).unwrap();
        assert!(user.accepts(old.id, last) && !user.accepts(old.id, over));
    }

    #[test]
    fn each_pair_has_its_own_end_and_one_that_comes_back_has_none() {
        let (user, start) = (UpstreamUser::default(), Instant::now());
        user.set(&[("license-token", "one")], start);
        user.set(&[("license-token", "two")], start + SECOND);
        user.set(&[("license-token", "three")], start + 61 * SECOND);
        let end_of_one = start + SECOND + GRACE;
        assert!(!accepted(&user, "one", end_of_one) && accepted(&user, "two", end_of_one));
        user.set(&[("license-token", "two")], start + 62 * SECOND);
        let much_later = start + 100 * GRACE;
        assert!(accepted(&user, "two", much_later) && !accepted(&user, "three", much_later));
        for n in 0..100 {
            user.set(&[("license-token", &n.to_string())], start + 63 * SECOND);
        }
        assert!(user.0.load().before.len() <= BEFORE);
    }

    #[test]
    fn none_ends_all_at_once() {
        let (user, start) = (UpstreamUser::default(), Instant::now());
        user.set(&[("license-token", "one")], start);
        user.set(&[("license-token", "two")], start);
        user.set(&[], start);
        assert!(user.count() == 0 && !accepted(&user, "one", start) && !accepted(&user, "two", start));
        user.set(&[("license-token", "three")], start);
        assert!(!accepted(&user, "two", start), "what was ended does not come back");
    }

    #[test]
    fn several_are_accepted_at_once_and_each_ends_by_itself() {
        let (user, start) = (UpstreamUser::default(), Instant::now());
        user.set(&[("license-token", "one"), ("license-token", "two"), ("license-token", "one")], start);
        assert_eq!(user.count(), 2);
        assert!(accepted(&user, "one", start) && accepted(&user, "two", start));
        user.set(&[("license-token", "two"), ("license-token", "three")], start);
        let over = start + GRACE;
        assert!(accepted(&user, "one", over - SECOND) && !accepted(&user, "one", over));
        assert!(accepted(&user, "two", over) && accepted(&user, "three", over));
    }

    #[test]
    fn nothing_is_shown() {
        let user = UpstreamUser::default();
        user.set(&[("license-token", "hunter2")], Instant::now());
        let shown = format!("{user:?}");
        assert!(shown.contains("***") && !shown.contains("hunter2"), "{shown}");
        let PairId(bytes) = PairId::of("license-token", "hunter2");
        assert!(!shown.contains(&format!("{bytes:?}")), "{shown}");
    }

    proptest! {
        #[test]
        fn only_the_very_pair_is_accepted(name in ".{0,8}", password in ".{0,8}", other in ".{0,8}", text in ".{0,8}") {
            let (user, now) = (UpstreamUser::default(), Instant::now());
            user.set(&[(&name, &password)], now);
            prop_assert!(user.find(&name, &password, now).is_some());
            let same = (&other, &text) == (&name, &password);
            prop_assert_eq!(user.find(&other, &text, now).is_some(), same);
            // Where the name ends is part of the pair.
            if let Some(first) = password.chars().next() {
                let moved = format!("{name}{first}");
                prop_assert!(user.find(&moved, &password[first.len_utf8()..], now).is_none());
            }
        }
    }
}
