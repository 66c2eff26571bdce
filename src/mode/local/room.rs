//! Room in memory for manifests of other masters while what they reference comes.
//!
//! A manifest is held until all that it references is here, and a large layer may take hours. So what all images hold together that are
//! brought at once has a bound, and what finds no room waits, and holds nothing. Small manifests have room of their own: they
//! do not wait behind large ones that wait for a large layer.
//!
//! An image has room from its first manifest to its last. One that needs more on its way (the manifest of an index is held while those
//! that it lists come) gets it if there is some at that moment. Else it gives up all that it holds, waits for as much as it needs
//! at once, and begins again: what came by then is here. So nobody waits who holds room, and each time an image begins again it
//! comes further.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tokio::time::{Duration, timeout};

/// Largest small manifest in bytes, with those that are held with it; also what is taken to suffice for one of unknown length.
pub(super) const LITTLE: u64 = 64 << 10;

/// Bytes of small manifests that are held at once.
const LITTLE_ROOM: usize = 4 << 20;

/// Bytes of other manifests that are held at once.
const LARGE_ROOM: usize = 8 << 20;

/// What room is counted in. Also the least that an image takes: the work on it has a price beside its manifest.
const UNIT: usize = 4 << 10;

/// Longest wait for room. A push waits for a master on which bytes move, and those of who waits do not: behind 20 s it
/// counts this master as one that did not take it, so nobody waits for the image any more. The comparison brings it then.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes that manifests of other masters hold at once: each with its parsed form, which is about as large again, and the digests of
/// it that were looked at.
pub const BROUGHT_MANIFEST_BYTES: u64 = 3 * (LITTLE_ROOM + LARGE_ROOM) as u64;

/// The room of all.
#[derive(Debug)]
pub struct ManifestRoom {
    little: Semaphore,
    large: Semaphore,
}

impl Default for ManifestRoom {
    fn default() -> Self {
        Self { little: Semaphore::new(LITTLE_ROOM / UNIT), large: Semaphore::new(LARGE_ROOM / UNIT) }
    }
}

/// There is no room now for so many bytes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom {
    /// All that the image has to hold at once, as far as it is known.
    pub(super) bytes: u64,
}

/// The room of one image. Dropped, others have it.
#[derive(Debug)]
pub(super) struct Held<'a> {
    semaphore: &'a Semaphore,
    /// All units that there are.
    all: u32,
    /// Most bytes for which there is room here.
    most: u64,
    /// It is not known yet how much is needed.
    is_guess: bool,
    has: Mutex<Has>,
}

#[derive(Debug)]
struct Has {
    units: u32,
    /// Bytes that are held now.
    bytes: u64,
}

/// The part of an image's room that one manifest takes. Dropped, the image has it for others.
#[derive(Debug)]
pub(super) struct Place<'a> {
    held: &'a Held<'a>,
    bytes: u64,
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT as u64)).unwrap_or(u32::MAX)
}

impl ManifestRoom {
    /// Waits for room for an image that holds `bytes` at once, or as many as a small manifest has if that is not known yet. What is
    /// larger than all room gets all of it. Gives nothing where others have had all room for 20 s. Safe to drop.
    pub(super) async fn enter(&self, bytes: Option<u64>) -> Option<Held<'_>> {
        let wanted = bytes.unwrap_or(LITTLE);
        let (semaphore, room, most) =
            if wanted <= LITTLE { (&self.little, LITTLE_ROOM, LITTLE) } else { (&self.large, LARGE_ROOM, u64::MAX) };
        let all = units(room as u64);
        let units = units(wanted).clamp(1, all);
        // It is never closed.
        timeout(PATIENCE, semaphore.acquire_many(units)).await.ok()?.ok()?.forget();
        Some(Held { semaphore, all, most, is_guess: bytes.is_none(), has: Mutex::new(Has { units, bytes: 0 }) })
    }
}

impl Held<'_> {
    /// Bytes for which there is room yet.
    pub(super) fn free(&self) -> u64 {
        let has = self.lock();
        (u64::from(has.units) * UNIT as u64).saturating_sub(has.bytes)
    }

    /// Room for a manifest of so many bytes, which can be changed later. Waits for nothing.
    pub(super) fn place(&self, bytes: u64) -> Result<Place<'_>, NoRoom> {
        self.change(0, bytes)?;
        Ok(Place { held: self, bytes })
    }

    /// Gives back what the first manifest turned out not to need. Of an image that began again nothing: it is known to need more.
    pub(super) fn fit(&self) {
        let mut has = self.lock();
        let needed = units(has.bytes).max(1);
        if self.is_guess && needed < has.units {
            self.semaphore.add_permits((has.units - needed) as usize);
            has.units = needed;
        }
    }

    fn change(&self, before: u64, after: u64) -> Result<(), NoRoom> {
        let mut has = self.lock();
        let bytes = has.bytes.saturating_sub(before).saturating_add(after);
        let needed = units(bytes).min(self.all);
        if needed > has.units {
            if bytes > self.most {
                return Err(NoRoom { bytes });
            }
            let more = self.semaphore.try_acquire_many(needed - has.units);
            more.map_err(|_| NoRoom { bytes })?.forget();
            has.units = needed;
        }
        has.bytes = bytes;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Has> {
        self.has.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let units = self.lock().units;
        self.semaphore.add_permits(units as usize);
    }
}

impl Place<'_> {
    /// Its bytes.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it as large as that. Waits for nothing.
    pub(super) fn resize(&mut self, bytes: u64) -> Result<(), NoRoom> {
        self.held.change(self.bytes, bytes)?;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut has = self.held.lock();
        has.bytes = has.bytes.saturating_sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Room that is there without a wait.
    fn now(room: &ManifestRoom, bytes: Option<u64>) -> Option<Held<'_>> {
        room.enter(bytes).now_or_never().flatten()
    }

    #[tokio::test]
    async fn large_manifests_hold_no_more_than_their_room_and_small_ones_do_not_wait_for_them() {
        let room = ManifestRoom::default();
        let held: Vec<Held<'_>> = (0..100).map_while(|_| now(&room, Some(4 * MIB))).collect();
        assert_eq!(held.len(), 2);
        assert!(now(&room, Some(LITTLE + 1)).is_none());
        // What is not known to be large is not taken to be.
        let guess = now(&room, None).unwrap();
        let mut place = guess.place(LITTLE).unwrap();
        assert_eq!(place.resize(4 * MIB), Err(NoRoom { bytes: 4 * MIB }));
        place.resize(2000).unwrap();
        guess.fit();
        assert_eq!(room.little.available_permits(), LITTLE_ROOM / UNIT - 1);
        let small: Vec<Held<'_>> = (0..100).map_while(|_| now(&room, Some(LITTLE))).collect();
        assert_eq!(small.len(), LITTLE_ROOM / usize::try_from(LITTLE).unwrap() - 1);
        drop(place);
        drop((held, guess, small));
        assert!(now(&room, Some(u64::MAX)).is_some(), "all of it is there again");
        assert_eq!(room.little.available_permits(), LITTLE_ROOM / UNIT);
        assert_eq!(room.large.available_permits(), LARGE_ROOM / UNIT);
    }

    #[tokio::test]
    async fn an_image_that_finds_no_room_on_its_way_gets_as_much_as_it_needs_when_it_begins_again() {
        let room = ManifestRoom::default();
        let (other, one) = (now(&room, Some(5 * MIB)).unwrap(), now(&room, Some(2 * MIB)).unwrap());
        let first = one.place(2 * MIB).unwrap();
        let second = one.place(MIB).unwrap();
        let wanted = one.place(MIB).unwrap_err();
        assert_eq!(wanted, NoRoom { bytes: 4 * MIB });
        // What is held one after the other needs room once.
        drop(second);
        drop(one.place(MIB).unwrap());
        drop(first);
        drop(one);
        assert!(now(&room, Some(wanted.bytes)).is_none());
        drop(other);
        let again = now(&room, Some(wanted.bytes)).unwrap();
        let places = [2 * MIB, MIB, MIB].map(|bytes| again.place(bytes).unwrap());
        again.fit();
        assert_eq!(again.free(), 0);
        drop(places);
        assert_eq!(again.free(), 4 * MIB);
    }

    #[tokio::test]
    async fn what_is_larger_than_all_room_is_alone_in_it() {
        let room = ManifestRoom::default();
        let alone = now(&room, Some(64 * MIB)).unwrap();
        assert_eq!(room.large.available_permits(), 0);
        let place = alone.place(64 * MIB).unwrap();
        alone.place(64 * MIB).unwrap();
        assert!(now(&room, Some(MIB)).is_none());
        drop(place);
        drop(alone);
        assert!(now(&room, Some(MIB)).is_some());
    }
}
