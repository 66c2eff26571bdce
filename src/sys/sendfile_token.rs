//! Bytes that stand for a part of a file.
//!
//! hyper's bodies are bytes, so a file on its way to a plain socket would be read into memory only to be written from
//! there. A stand-in is a `Bytes` whose addresses are reserved and belong to a part of an open file; hyper queues it
//! without looking into it, and the connection's I/O, which sees a slice inside the reserved addresses, sends the file
//! itself. Nothing is mapped there: whoever looked into a stand-in would end the process, and never send wrong bytes.
//! So it is made only for connections whose I/O knows it (`serve/socket.rs`), where no other code touches bodies.

use std::fs::File;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// Longest stand-in, in bytes.
pub(crate) const MAX_BYTES: usize = 8 << 20;

/// Stand-ins that there can be at once; further answers are read and written.
const SLOTS: usize = 8192;

/// Reserved addresses, cut into slots of [`MAX_BYTES`].
struct Reserve {
    base: usize,
    free: Mutex<Vec<u32>>,
    parts: Box<[Mutex<Option<FilePart>>]>,
}

/// Hears why a part of a file can't be read. Dropped when the last of its parts is sent or given up.
pub(crate) trait Watch: std::fmt::Debug + Send + Sync {
    /// The file could not be read.
    fn failed(&self, file: &File, error: &std::io::Error);
}

/// A part of an open file.
#[derive(Clone, Debug)]
pub(crate) struct FilePart {
    /// The file.
    pub(crate) file: Arc<File>,
    /// Where the part begins in it.
    pub(crate) offset: u64,
    /// No further part follows at once.
    pub(crate) last: bool,
    /// Who hears that it can't be read.
    pub(crate) watch: Option<Arc<dyn Watch>>,
}

static RESERVE: OnceLock<Option<Reserve>> = OnceLock::new();

/// `None`: the system gives no addresses.
fn reserve() -> Option<&'static Reserve> {
    RESERVE.get_or_init(Reserve::new).as_ref()
}

impl Reserve {
    fn new() -> Option<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: an anonymous mapping at an address of the system's choice touches no memory of anyone.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), SLOTS * MAX_BYTES, ProtFlags::empty(), flags) };
        let slots = u32::try_from(SLOTS).unwrap_or(0);
        Some(Self {
            base: base.ok()?.expose_provenance(),
            free: Mutex::new((0..slots).rev().collect()),
            parts: (0..SLOTS).map(|_| Mutex::new(None)).collect(),
        })
    }

    fn slot_of(&self, address: usize) -> Option<(usize, usize)> {
        let distance = address.checked_sub(self.base).filter(|distance| *distance < SLOTS * MAX_BYTES)?;
        Some((distance / MAX_BYTES, distance % MAX_BYTES))
    }
}

/// Holds a slot while a `Bytes` of it lives.
struct Slot {
    reserve: &'static Reserve,
    index: u32,
    length: usize,
}

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        let address = self.reserve.base + self.index as usize * MAX_BYTES;
        let start = std::ptr::with_exposed_provenance::<u8>(address);
        // SAFETY: the addresses are reserved for the life of the process and belong to this slot alone, so the slice
        // overlaps nothing. It is never read: stand-ins go only to I/O that recognises them by `behind`, and a read
        // that happened all the same would fault, as nothing is mapped there.
        unsafe { std::slice::from_raw_parts(start, self.length) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let part = self.reserve.parts[self.index as usize].lock().unwrap_or_else(PoisonError::into_inner).take();
        self.reserve.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
        // The file may be closed here: outside of both locks.
        drop(part);
    }
}

/// As [`watched`], with nobody who watches.
#[cfg(test)]
pub(crate) fn stand_in(file: &Arc<File>, offset: u64, length: usize, last: bool) -> Option<Bytes> {
    watched(file, offset, length, last, None)
}

/// Bytes that stand for `length` bytes of `file` from `offset` on; `last`: no further part follows at once; `watch`: hears
/// that the file can't be read. `None`: too long, or no slot is free.
pub(crate) fn watched(
    file: &Arc<File>,
    offset: u64,
    length: usize,
    last: bool,
    watch: Option<Arc<dyn Watch>>,
) -> Option<Bytes> {
    if length == 0 || length > MAX_BYTES {
        return None;
    }
    let reserve = reserve()?;
    let index = reserve.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
    let part = FilePart { file: Arc::clone(file), offset, last, watch };
    *reserve.parts[index as usize].lock().unwrap_or_else(PoisonError::into_inner) = Some(part);
    Some(Bytes::from_owner(Slot { reserve, index, length }))
}

/// The part of a file that `bytes` stands for; `None`: ordinary bytes.
pub(crate) fn behind(bytes: &[u8]) -> Option<FilePart> {
    // Nothing was ever reserved: nothing is a stand-in.
    let reserve = RESERVE.get()?.as_ref()?;
    let (slot, within) = reserve.slot_of(bytes.as_ptr().addr())?;
    let part = reserve.parts[slot].lock().unwrap_or_else(PoisonError::into_inner).clone()?;
    Some(FilePart { offset: part.offset + within as u64, ..part })
}

/// Whether `bytes` stands for a part of a file.
pub(crate) fn is_stand_in(bytes: &[u8]) -> bool {
    let reserve = RESERVE.get().and_then(Option::as_ref);
    reserve.is_some_and(|reserve| reserve.slot_of(bytes.as_ptr().addr()).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_from_a_stand_in_stands_for_the_same_bytes() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let mut bytes = stand_in(&file, 1000, 5000, true).unwrap();
        let rest = bytes.split_off(2000);
        let deep = rest.slice(10..20);
        assert_eq!(behind(&bytes).unwrap().offset, 1000);
        assert_eq!(behind(&rest).unwrap().offset, 3000);
        assert_eq!(behind(&deep).unwrap().offset, 3010);
        assert_eq!((bytes.len(), rest.len(), deep.len()), (2000, 3000, 10));
        assert!(Arc::ptr_eq(&behind(&deep).unwrap().file, &file));
        drop((bytes, rest));
        assert_eq!(Arc::strong_count(&file), 2, "the last slice keeps the file open");
        drop(deep);
        assert_eq!(Arc::strong_count(&file), 1);
    }

    #[test]
    fn ordinary_bytes_are_no_stand_ins() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let _some = stand_in(&file, 0, 1, true).unwrap();
        assert!(behind(b"text").is_none() && !is_stand_in(b"text"));
        assert!(stand_in(&file, 0, MAX_BYTES + 1, true).is_none() && stand_in(&file, 0, 0, true).is_none());
    }

    #[test]
    fn two_at_once_are_two_places() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let all: Vec<_> = (0..100).map(|i| stand_in(&file, i * 7, MAX_BYTES, false).unwrap()).collect();
        for (i, bytes) in (0_u64..).zip(&all) {
            assert_eq!(behind(bytes).unwrap().offset, i * 7);
            assert_eq!(behind(&bytes[MAX_BYTES - 1..]).unwrap().offset, i * 7 + MAX_BYTES as u64 - 1);
        }
    }
}
