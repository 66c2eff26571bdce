//! The queue of passwords that wait for a check, and its order.
//!
//! Nobody knows which password is right before it was checked, so the wait is shared out: addresses take turns, and at
//! an address the names that are tried there. Whether a name exists plays no part in it. When all places are taken, the
//! place that goes is the newest one of who holds most; only who holds most himself is turned away.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

/// Places in all. A check costs tens of milliseconds, so the last of them waits for a minute, and one that comes from
/// another address for the checks of as many addresses as there are before it.
pub(super) const MOST: usize = 1024;

/// One source of passwords: an address, of IPv6 its first 64 bits, the least that one host has (RFC 4291, 2.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Net(IpAddr);

impl Net {
    pub(super) const fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self(IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)))
            }
            address => Self(address),
        }
    }
}

/// A name, hashed: it may be as long as a request's head.
pub(super) type Name = [u8; 32];

/// Places of one address, by name.
#[derive(Debug)]
struct Names<T> {
    turns: VecDeque<Name>,
    places: HashMap<Name, VecDeque<T>>,
    held: usize,
}

/// The places of all.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    turns: VecDeque<Net>,
    nets: HashMap<Net, Names<T>>,
    held: usize,
    most: usize,
}

/// No place: who asks holds most of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crowded;

impl<T> Names<T> {
    fn new() -> Self {
        Self { turns: VecDeque::new(), places: HashMap::new(), held: 0 }
    }

    fn push(&mut self, name: Name, item: T) {
        let turns = &mut self.turns;
        self.places
            .entry(name)
            .or_insert_with(|| {
                turns.push_back(name);
                VecDeque::new()
            })
            .push_back(item);
        self.held += 1;
    }

    fn pop(&mut self) -> Option<T> {
        let name = self.turns.pop_front()?;
        let places = self.places.get_mut(&name)?;
        let item = places.pop_front();
        if places.is_empty() {
            self.places.remove(&name);
        } else {
            self.turns.push_back(name);
        }
        self.held -= usize::from(item.is_some());
        item
    }

    fn held_by(&self, name: &Name) -> usize {
        self.places.get(name).map_or(0, VecDeque::len)
    }

    /// The name with most places, and how many.
    fn largest(&self) -> Option<(Name, usize)> {
        self.places.iter().map(|(name, places)| (*name, places.len())).max_by_key(|(_, held)| *held)
    }

    /// Takes back the newest place of `name`.
    fn take_newest(&mut self, name: &Name) -> Option<T> {
        let places = self.places.get_mut(name)?;
        let item = places.pop_back();
        if places.is_empty() {
            self.places.remove(name);
            self.turns.retain(|turn| turn != name);
        }
        self.held -= usize::from(item.is_some());
        item
    }
}

impl<T> Waiting<T> {
    /// `most`: places in all, at least 1.
    pub(super) fn new(most: usize) -> Self {
        Self { turns: VecDeque::new(), nets: HashMap::new(), held: 0, most }
    }

    /// Whether the next one to come finds no place that is free.
    pub(super) const fn is_full(&self) -> bool {
        self.held >= self.most
    }

    /// Whether there are places enough for who has one already and wants a better one.
    pub(super) const fn is_roomy(&self) -> bool {
        self.held < self.most / 2
    }

    /// Gives `item` a place; whose place it took comes back.
    ///
    /// # Errors
    /// [`Crowded`]: nobody holds more than who asks.
    pub(super) fn push(&mut self, net: Net, name: Name, item: T) -> Result<Option<T>, Crowded> {
        let gone = if self.is_full() { Some(self.make_room(net, &name)?) } else { None };
        let turns = &mut self.turns;
        self.nets
            .entry(net)
            .or_insert_with(|| {
                turns.push_back(net);
                Names::new()
            })
            .push(name, item);
        self.held += 1;
        Ok(gone)
    }

    /// Takes the next one: the oldest place of the name whose turn it is at the address whose turn it is.
    pub(super) fn pop(&mut self) -> Option<T> {
        let net = self.turns.pop_front()?;
        let names = self.nets.get_mut(&net)?;
        let item = names.pop();
        if names.held == 0 {
            self.nets.remove(&net);
        } else {
            self.turns.push_back(net);
        }
        self.held -= usize::from(item.is_some());
        item
    }

    /// Takes away every place that `keep` does not want.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for names in self.nets.values_mut() {
            names.places.retain(|_, places| {
                places.retain(&mut keep);
                !places.is_empty()
            });
            let places = &names.places;
            names.turns.retain(|name| places.contains_key(name));
            names.held = places.values().map(VecDeque::len).sum();
        }
        self.nets.retain(|_, names| names.held > 0);
        let nets = &self.nets;
        self.turns.retain(|net| nets.contains_key(net));
        self.held = nets.values().map(|names| names.held).sum();
    }

    fn make_room(&mut self, net: Net, name: &Name) -> Result<T, Crowded> {
        let own = self.nets.get(&net);
        let (own_held, name_held) = own.map_or((0, 0), |names| (names.held, names.held_by(name)));
        let (largest, held) =
            self.nets.iter().map(|(net, names)| (*net, names.held)).max_by_key(|(_, held)| *held).ok_or(Crowded)?;
        // One more than the newcomer would hold: otherwise two would take the same place from each other for ever.
        let from = if held > own_held + 1 { largest } else { net };
        let names = self.nets.get_mut(&from).ok_or(Crowded)?;
        let (most, most_held) = names.largest().ok_or(Crowded)?;
        if from == net && most_held <= name_held + 1 {
            return Err(Crowded);
        }
        let gone = names.take_newest(&most).ok_or(Crowded)?;
        if names.held == 0 {
            self.nets.remove(&from);
            self.turns.retain(|turn| *turn != from);
        }
        self.held -= 1;
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(last: u8) -> Net {
        Net::of(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn a_host_is_one_address_however_it_is_written() {
        let of = |text: &str| Net::of(text.parse().unwrap());
        assert_eq!(of("::ffff:10.0.0.1"), net(1));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }

    #[test]
    fn who_comes_late_is_next_after_one_of_each_other() {
        let mut waiting = Waiting::new(1000);
        for n in 0..900 {
            waiting.push(net(1), [1; 32], n).unwrap();
        }
        waiting.push(net(1), [2; 32], 1000).unwrap();
        waiting.push(net(2), [1; 32], 2000).unwrap();
        let first: Vec<_> = (0..4).filter_map(|_| waiting.pop()).collect();
        assert_eq!(first, [0, 2000, 1000, 1]);
    }

    #[test]
    fn only_who_holds_most_is_turned_away() {
        let mut waiting = Waiting::new(8);
        for n in 0..8 {
            waiting.push(net(1), [1; 32], n).unwrap();
        }
        assert_eq!(waiting.push(net(1), [1; 32], 8), Err(Crowded));
        // Another name of the same address, another address: each takes the newest place of who holds most.
        assert_eq!(waiting.push(net(1), [2; 32], 10), Ok(Some(7)));
        assert_eq!(waiting.push(net(2), [3; 32], 20), Ok(Some(6)));
        assert_eq!(waiting.pop(), Some(0));
        assert_eq!(waiting.pop(), Some(20));
    }

    proptest! {
        /// Held against a plain list: nothing is lost or doubled, the bound holds, order within a name is kept, and who
        /// is turned away holds as many places as anybody.
        #[test]
        fn places_are_kept_by_the_rules(steps in proptest::collection::vec((0..4_u8, 0..3_u8, 0..4_u8), 1..200)) {
            let mut waiting = Waiting::new(12);
            let mut model: Vec<(u8, u8, usize)> = Vec::new();
            for (number, (host, name, what)) in steps.into_iter().enumerate() {
                let held = |model: &[(u8, u8, usize)], host: u8| model.iter().filter(|at| at.0 == host).count();
                if what == 0 {
                    match waiting.pop() {
                        Some(taken) => {
                            let at = model.iter().position(|at| at.2 == taken).unwrap();
                            let (host, name, _) = model.remove(at);
                            let older = model[..at].iter().any(|other| (other.0, other.1) == (host, name));
                            prop_assert!(!older, "an older one of the same name waits on");
                        }
                        None => prop_assert!(model.is_empty()),
                    }
                    continue;
                }
                match waiting.push(net(host), [name; 32], number) {
                    Ok(gone) => {
                        if let Some(gone) = gone {
                            let at = model.iter().position(|at| at.2 == gone).unwrap();
                            let victim = model.remove(at).0;
                            prop_assert!(victim == host || held(&model, victim) > held(&model, host));
                        }
                        model.push((host, name, number));
                    }
                    Err(Crowded) => {
                        prop_assert_eq!(model.len(), 12);
                        prop_assert!((0..4).all(|other| held(&model, other) <= held(&model, host) + 1));
                    }
                }
                prop_assert!(model.len() <= 12);
            }
            waiting.retain(|number| number % 2 == 0);
            model.retain(|at| at.2 % 2 == 0);
            let mut left: Vec<_> = std::iter::from_fn(|| waiting.pop()).collect();
            left.sort_unstable();
            prop_assert_eq!(left, model.iter().map(|at| at.2).collect::<Vec<_>>());
        }
    }
}
