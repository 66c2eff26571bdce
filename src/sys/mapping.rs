//! Stored files as memory, for connections that have to look at every byte: TLS encrypts straight from the page cache,
//! instead of from a copy.
//!
//! All readers of a file share one mapping, so in a storm of pulls its pages are mapped once. A mapped page that can't
//! be read any more ends the process (SIGBUS), so only stored contents are mapped: nobody writes to them or cuts them
//! once they have their name, and their pages are asked for before they are touched (`api/body/file.rs`).

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// A file: its device and number.
type Identity = (u64, u64);

/// A whole stored file as memory.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: usize,
    length: usize,
    identity: Identity,
}

fn shared() -> MutexGuard<'static, HashMap<Identity, Weak<Mapping>>> {
    static SHARED: OnceLock<Mutex<HashMap<Identity, Weak<Mapping>>>> = OnceLock::new();
    SHARED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mapping {
    /// Maps a stored content, or shares the mapping that there is. `None`: it is empty, or the system refuses.
    pub(crate) fn of(file: &File) -> Option<Arc<Self>> {
        let facts = file.metadata().ok()?;
        let identity = (facts.dev(), facts.ino());
        let mut shared = shared();
        if let Some(mapping) = shared.get(&identity).and_then(Weak::upgrade) {
            return Some(mapping);
        }
        let length = usize::try_from(facts.len()).ok().filter(|length| *length > 0)?;
        // SAFETY: a new mapping at an address of the system's choice touches no memory of anyone.
        let mapped = unsafe { mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, file, 0) };
        let mapped = mapped.ok()?;
        // Advice only: a reader goes from front to back.
        // SAFETY: the range was mapped just now.
        let _ = unsafe { madvise(mapped, length, Advice::Sequential) };
        let mapping = Arc::new(Self { address: mapped.expose_provenance(), length, identity });
        shared.insert(identity, Arc::downgrade(&mapping));
        Some(mapping)
    }

    /// The bytes from `start` up to `end`, without copying them. `None`: they are not all in the file.
    pub(crate) fn bytes(self: &Arc<Self>, start: u64, end: u64) -> Option<Bytes> {
        let (start, end) = (usize::try_from(start).ok()?, usize::try_from(end).ok()?);
        (start < end && end <= self.length).then(|| Bytes::from_owner(Part { mapping: Arc::clone(self), start, end }))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let mut shared = shared();
        // Another may have taken its place since its last reader went.
        if shared.get(&self.identity).is_some_and(|listed| listed.strong_count() == 0) {
            shared.remove(&self.identity);
        }
        drop(shared);
        let address = std::ptr::with_exposed_provenance_mut(self.address);
        // SAFETY: this value made the mapping, and every slice of it holds this value.
        let _ = unsafe { munmap(address, self.length) };
    }
}

/// A part of a mapping that is being sent.
struct Part {
    mapping: Arc<Mapping>,
    start: usize,
    end: usize,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        let start = std::ptr::with_exposed_provenance::<u8>(self.mapping.address + self.start);
        // SAFETY: `bytes` checked that the range lies in the mapping, which lives as long as this value. A stored content
        // is never written to nor cut, so the bytes don't change while they are borrowed.
        unsafe { std::slice::from_raw_parts(start, self.end - self.start) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn stored(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn readers_of_one_file_share_its_mapping_and_outlive_each_other() {
        let content: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        let file = stored(&content);
        let (one, other) = (Mapping::of(&file).unwrap(), Mapping::of(&file.try_clone().unwrap()).unwrap());
        assert!(Arc::ptr_eq(&one, &other));
        let part = one.bytes(70_000, 100_000).unwrap();
        drop((one, other, file));
        assert_eq!(part, content[70_000..]);
        let slice = part.slice(5..10);
        drop(part);
        assert_eq!(slice, content[70_005..70_010]);
    }

    #[test]
    fn a_mapping_is_made_anew_when_its_last_reader_is_gone() {
        let file = stored(b"content");
        drop(Mapping::of(&file).unwrap());
        assert_eq!(Mapping::of(&file).unwrap().bytes(0, 7).unwrap(), "content");
    }

    #[test]
    fn nothing_outside_of_the_file_is_given() {
        let mapping = Mapping::of(&stored(b"content")).unwrap();
        assert!(mapping.bytes(0, 8).is_none() && mapping.bytes(7, 7).is_none() && mapping.bytes(5, 3).is_none());
        assert!(Mapping::of(&stored(b"")).is_none());
    }
}
