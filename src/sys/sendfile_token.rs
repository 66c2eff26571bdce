//! Tokens: `Bytes` that stand for a part of a file, to be sent with `sendfile`.
//!
//! hyper's bodies are bytes, so a file on its way to a plain socket would be read into memory only to be written from
//! there. A token is a `Bytes` whose addresses are reserved and belong to a part of an open file. hyper queues it
//! without reading it; the connection's I/O recognises a slice inside the reserved addresses and sends the file itself.
//! Nothing is mapped at these addresses: code that read a token would end the process, and never send wrong bytes.
//! So tokens are made only for connections whose I/O knows them (`serve/socket.rs`), where no other code reads bodies.

use std::fs::File;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};

/// Most bytes of a file that one token stands for.
pub(crate) const MAX_BYTES: usize = 8 << 20;

/// Most tokens at once. Answers beyond it are read and written.
const SLOTS: usize = 8192;

/// Reserved addresses, cut into slots of [`MAX_BYTES`].
struct Reserve {
    base: usize,
    free: Mutex<Vec<u32>>,
    parts: Box<[Mutex<Option<FilePart>>]>,
}

/// Hears why a part of a file can't be read. Dropped when the last token of its file is sent or given up.
pub(crate) trait FileWatch: std::fmt::Debug + Send + Sync {
    /// The file could not be read.
    fn failed(&self, file: &Arc<File>, error: &std::io::Error);
}

/// A part of an open file.
#[derive(Clone, Debug)]
pub(crate) struct FilePart {
    /// The file.
    pub(crate) file: Arc<File>,
    /// The part's first byte in the file.
    pub(crate) offset: u64,
    /// Behind the last byte in the file that the same answer sends at once: with the part's own last byte it ends, or further
    /// parts follow up to here.
    pub(crate) end: u64,
    /// Hears that the file can't be read.
    pub(crate) watch: Option<Arc<dyn FileWatch>>,
}

static RESERVE: OnceLock<Option<Reserve>> = OnceLock::new();

/// The process's reserve, made with the first token. `None`: the system gives no addresses.
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

    /// The slot that `address` lies in, and the distance from the slot's beginning.
    fn slot_of(&self, address: usize) -> Option<(usize, usize)> {
        let distance = address.checked_sub(self.base).filter(|distance| *distance < SLOTS * MAX_BYTES)?;
        Some((distance / MAX_BYTES, distance % MAX_BYTES))
    }
}

/// A slot in use: given back when the last `Bytes` of it is dropped.
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
        // overlaps nothing. It is never read: tokens go only to I/O that recognises them by `file_part_of`, and a read
        // that happened all the same would fault, as nothing is mapped there.
        unsafe { std::slice::from_raw_parts(start, self.length) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The part goes before the slot is free: whoever takes the slot next must find none, or put his own there.
        let part = self.reserve.parts[self.index as usize].lock().unwrap_or_else(PoisonError::into_inner).take();
        self.reserve.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.index);
        // The file may be closed here, which can take long: outside of both locks.
        drop(part);
    }
}

/// As [`token_for`], with nobody who watches.
#[cfg(test)]
pub(crate) fn unwatched(file: &Arc<File>, offset: u64, length: usize, end: u64) -> Option<Bytes> {
    token_for(file, offset, length, end, None)
}

/// A token for `length` bytes of `file` from `offset` on. Further parts of the answer follow at once up to `end`. `watch`:
/// hears that the file can't be read. `None`: `length` is 0 or over [`MAX_BYTES`], or no slot is free.
pub(crate) fn token_for(
    file: &Arc<File>,
    offset: u64,
    length: usize,
    end: u64,
    watch: Option<Arc<dyn FileWatch>>,
) -> Option<Bytes> {
    if length == 0 || length > MAX_BYTES {
        return None;
    }
    let reserve = reserve()?;
    let index = reserve.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
    let part = FilePart { file: Arc::clone(file), offset, end, watch };
    *reserve.parts[index as usize].lock().unwrap_or_else(PoisonError::into_inner) = Some(part);
    Some(Bytes::from_owner(Slot { reserve, index, length }))
}

/// The part of a file that `bytes`, a token or a slice of one, stands for. `None`: ordinary bytes.
pub(crate) fn file_part_of(bytes: &[u8]) -> Option<FilePart> {
    // Nothing was ever reserved: nothing is a token.
    let reserve = RESERVE.get()?.as_ref()?;
    let (slot, within) = reserve.slot_of(bytes.as_ptr().addr())?;
    let part = reserve.parts[slot].lock().unwrap_or_else(PoisonError::into_inner).clone()?;
    Some(FilePart { offset: part.offset + within as u64, ..part })
}

/// Whether `bytes` is a token, or a slice of one. Takes no lock.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    let reserve = RESERVE.get().and_then(Option::as_ref);
    reserve.is_some_and(|reserve| reserve.slot_of(bytes.as_ptr().addr()).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_of_a_token_stands_for_the_same_bytes() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let mut bytes = unwatched(&file, 1000, 5000, 6000).unwrap();
        let rest = bytes.split_off(2000);
        let deep = rest.slice(10..20);
        assert_eq!(file_part_of(&bytes).unwrap().offset, 1000);
        assert_eq!(file_part_of(&rest).unwrap().offset, 3000);
        assert_eq!(file_part_of(&deep).unwrap().offset, 3010);
        assert_eq!((bytes.len(), rest.len(), deep.len()), (2000, 3000, 10));
        assert!(Arc::ptr_eq(&file_part_of(&deep).unwrap().file, &file));
        drop((bytes, rest));
        assert_eq!(Arc::strong_count(&file), 2, "the last slice keeps the file open");
        drop(deep);
        assert_eq!(Arc::strong_count(&file), 1);
    }

    #[test]
    fn ordinary_bytes_are_no_tokens() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let _some = unwatched(&file, 0, 1, 1).unwrap();
        assert!(file_part_of(b"text").is_none() && !is_token(b"text"));
        assert!(unwatched(&file, 0, MAX_BYTES + 1, u64::MAX).is_none() && unwatched(&file, 0, 0, 0).is_none());
    }

    #[test]
    fn tokens_at_once_have_a_slot_each() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let all: Vec<_> = (0..100).map(|i| unwatched(&file, i * 7, MAX_BYTES, u64::MAX).unwrap()).collect();
        for (i, bytes) in (0_u64..).zip(&all) {
            assert_eq!(file_part_of(bytes).unwrap().offset, i * 7);
            assert_eq!(file_part_of(&bytes[MAX_BYTES - 1..]).unwrap().offset, i * 7 + MAX_BYTES as u64 - 1);
        }
    }
}
