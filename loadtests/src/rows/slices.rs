//! Loads measured slice by slice, so that what else happens on the machine hits all sides alike.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

use crate::compare::{Measure, Sample, Sum};
use crate::cpu::{self, Meter, Spent};
use crate::client::driver::{Driver, Load, Tally};

/// Connections and caches are warm after so long.
const WARM_UP: Duration = Duration::from_millis(300);

/// Asks for so long, over its own connections.
pub(crate) type Asking<'a> = Box<dyn FnMut(Duration) -> Result<Tally> + 'a>;

/// One side with its load.
pub(crate) struct Side<'a> {
    pids: Vec<u32>,
    connect: Box<dyn Fn() -> Result<Asking<'a>> + 'a>,
    connections: Connections,
    /// Charged with the SHA-256 of the bytes of its answers, which it does not compute.
    hashed: bool,
}

/// How long connections last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connections {
    /// A round: they wait while others are measured. For answers that are finished soon.
    Kept,
    /// A slice. For long downloads: one that is paused goes on filling its client's buffer, which grows to many MiB, while
    /// others are measured; and a bound on it would be another load than a client's.
    Fresh,
    /// A round. A slice is one whole answer for each connection, however long that takes: nothing is under way between
    /// two slices, and each is compared with its counterpart.
    Whole,
}

impl fmt::Debug for Side<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Side").field("pids", &self.pids).finish_non_exhaustive()
    }
}

impl<'a> Side<'a> {
    /// `connect` connects and lets all get warm; once a round, the connections wait while others are measured.
    pub(crate) fn kept(pids: Vec<u32>, connect: impl Fn() -> Result<Asking<'a>> + 'a) -> Self {
        Self { pids, connect: Box::new(connect), connections: Connections::Kept, hashed: false }
    }

    /// `connect` connects and lets all get warm, for each slice anew.
    pub(crate) fn fresh(pids: Vec<u32>, connect: impl Fn() -> Result<Asking<'a>> + 'a) -> Self {
        Self { pids, connect: Box::new(connect), connections: Connections::Fresh, hashed: false }
    }

    /// Asks for small answers.
    pub(crate) fn asked(pids: Vec<u32>, load: Load) -> Self {
        Self::kept(pids, move || warm(load.clone()))
    }

    /// Asks for downloads.
    pub(crate) fn downloaded(pids: Vec<u32>, load: Load) -> Self {
        Self::fresh(pids, move || warm(load.clone()))
    }

    /// Asks for whole downloads.
    pub(crate) fn whole(pids: Vec<u32>, load: Load) -> Self {
        let connect = move || {
            let mut driver = Driver::connect(load.clone())?;
            driver.once()?;
            let ask: Asking<'_> = Box::new(move |_| driver.once());
            Ok(ask)
        };
        Self { pids, connect: Box::new(connect), connections: Connections::Whole, hashed: false }
    }

    /// The same, charged with the SHA-256 of what it sent: it is held against somebody who proves what he passes on.
    pub(crate) fn and_sha256(self) -> Self {
        Self { hashed: true, ..self }
    }

    /// Whether its connections are made for each slice.
    pub(super) fn is_fresh(&self) -> bool {
        self.connections == Connections::Fresh
    }

    /// Whether a slice is compared with its counterpart, and not the sums of all.
    pub(super) fn is_whole(&self) -> bool {
        self.connections == Connections::Whole
    }

    /// Begins a round.
    pub(super) fn start<'s>(&'s self) -> Result<Running<'s, 'a>> {
        let ask = match self.connections {
            Connections::Kept | Connections::Whole => Some((self.connect)()?),
            Connections::Fresh => None,
        };
        cpu::rest(&self.pids)?;
        Ok(Running { side: self, ask, slices: Vec::new() })
    }
}

fn warm<'a>(load: Load) -> Result<Asking<'a>> {
    let mut driver = Driver::connect(load)?;
    driver.run(WARM_UP)?;
    Ok(Box::new(move |length| driver.run(length)))
}

/// One side in a round.
pub(super) struct Running<'s, 'a> {
    side: &'s Side<'a>,
    /// Of connections that are kept.
    ask: Option<Asking<'a>>,
    slices: Vec<Sum>,
}

impl Running<'_, '_> {
    /// Measures one slice. What the server puts off until shortly after it is the slice's, and does not disturb the next
    /// side; all sides are charged for it alike. The core's load is that of the slice itself.
    pub(super) fn slice(&mut self, length: Duration) -> Result<()> {
        let pids = &self.side.pids;
        self.slices.push(if let Some(ask) = &mut self.ask {
            let meter = Meter::start(pids)?;
            let tally = ask(length)?;
            let mut spent = meter.read()?;
            cpu::rest(pids)?;
            let late = meter.read()?.cpu - spent.cpu;
            spent.cpu += late;
            spent.machine += late;
            self.charged(spent, tally)?
        } else {
            let mut ask = (self.side.connect)()?;
            let meter = Meter::start(pids)?;
            let tally = ask(length)?;
            // What fills the buffers of clients that no longer read is nobody's.
            let spent = meter.read()?;
            drop(ask);
            cpu::rest(pids)?;
            self.charged(spent, tally)?
        });
        Ok(())
    }

    /// What a slice comes to.
    fn charged(&self, mut spent: Spent, tally: Tally) -> Result<Sum> {
        if self.side.hashed {
            let hashing = cpu::sha256(tally.bytes)?;
            spent.cpu += hashing;
            spent.machine += hashing;
        }
        Ok(Sum::of(spent, tally))
    }

    /// What counts: each slice if they are whole, else all together.
    pub(super) fn samples(&self, measure: Measure) -> Result<Vec<Sample>> {
        if self.side.is_whole() {
            return Ok(self.slices.iter().map(|slice| slice.sample(measure)).collect());
        }
        Ok(self.sample(measure)?.into_iter().collect())
    }

    /// All slices together; none without any.
    pub(super) fn sample(&self, measure: Measure) -> Result<Option<Sample>> {
        let Some((first, others)) = self.slices.split_first() else { return Ok(None) };
        let sum = others.iter().try_fold(first.clone(), Sum::and)?;
        Ok(Some(sum.sample(measure)))
    }
}

/// How many slices each side has in a round, and how long they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slices {
    pub(crate) count: u32,
    pub(crate) length: Duration,
}

impl Slices {
    /// Whole answers, so many.
    pub(crate) const fn whole(count: u32) -> Self {
        Self { count, length: Duration::ZERO }
    }

    /// `all` cut into equal slices of `length` or a little less.
    pub(crate) fn cut(all: Duration, length: Duration) -> Self {
        let count = (all.as_secs_f64() / length.as_secs_f64() - 1e-6).ceil().max(1.0) as u32;
        Self { count, length: all / count }
    }
}

/// Whose slice it is, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seat {
    Ours(usize),
    Theirs(usize),
    Beside(usize),
}

/// Who is measured after whom. `against` says for each of ours which of theirs it is held against: that one is measured
/// right before or right after it, and so between two of ours that have the same. Who stands beside comes first, next to
/// the first of ours.
pub(super) fn order(against: &[usize], beside: usize) -> Vec<Seat> {
    let mut order: Vec<Seat> = (0..beside).map(Seat::Beside).collect();
    let theirs = against.iter().max().map_or(0, |most| most + 1);
    for their in 0..theirs {
        let ours: Vec<usize> = (0..against.len()).filter(|ours| against[*ours] == their).collect();
        for two in ours.chunks(2) {
            order.push(Seat::Ours(two[0]));
            order.push(Seat::Theirs(their));
            order.extend(two.get(1).map(|second| Seat::Ours(*second)));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_ours_is_next_to_what_it_is_held_against() {
        let against = [0, 0, 0, 1, 1];
        let order = order(&against, 2);
        let neighbours = |at: usize| [order.get(at.wrapping_sub(1)), order.get(at + 1)];
        for (number, their) in against.into_iter().enumerate() {
            let at: Vec<usize> = (0..order.len()).filter(|at| order[*at] == Seat::Ours(number)).collect();
            assert_eq!(at.len(), 1, "{order:?}");
            assert!(neighbours(at[0]).contains(&Some(&Seat::Theirs(their))), "{order:?}");
        }
        assert_eq!(order[..3], [Seat::Beside(0), Seat::Beside(1), Seat::Ours(0)]);
        assert_eq!(order.len(), 2 + 5 + 3);
    }

    #[test]
    fn who_is_charged_with_hashing_is_charged_for_his_bytes_and_no_more() {
        let ask = || -> Result<Asking<'static>> {
            Ok(Box::new(|_| Ok(Tally { answers: 1, bytes: 64 << 20, ..Tally::nothing()? })))
        };
        let figure = |side: Side<'_>| {
            let mut running = side.start().unwrap();
            running.slice(Duration::ZERO).unwrap();
            running.sample(Measure::CpuSeconds).unwrap().unwrap().figure
        };
        // Of nobody: all that is charged is the hashing.
        assert_eq!(figure(Side::fresh(Vec::new(), ask)), 0.0);
        assert!(figure(Side::fresh(Vec::new(), ask).and_sha256()) > 0.0);
        assert_eq!(cpu::sha256(0).unwrap(), 0.0);
    }

    #[test]
    fn slices_fill_the_time() {
        let cut = |all, length| Slices::cut(Duration::from_millis(all), Duration::from_millis(length));
        assert_eq!(cut(2000, 200), Slices { count: 10, length: Duration::from_millis(200) });
        assert_eq!(cut(300, 200), Slices { count: 2, length: Duration::from_millis(150) });
        assert_eq!(cut(50, 200), Slices { count: 1, length: Duration::from_millis(50) });
    }
}
