//! Buffers that file content is read into, used again instead of being zeroed and freed each time.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Bytes of one read, and what a slow reader holds. Small enough that what was read is still in the core's cache when it
/// is encrypted and written.
pub(in crate::api) const BUFFER_BYTES: usize = 64 * 1024;

/// Buffers kept for later: 1 MiB at most.
const KEPT: usize = 16;

static POOL: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// A buffer of [`BUFFER_BYTES`] that goes back to the pool when the last slice of it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Option<Box<[u8]>>,
    filled: usize,
}

impl Buffer {
    /// A kept buffer, or a new one.
    pub(super) fn take() -> Self {
        let kept = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self { memory: Some(kept.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())), filled: 0 }
    }

    /// The whole of it, to be read into; what is in it is left over from before.
    pub(super) fn space(&mut self) -> &mut [u8] {
        self.memory.as_deref_mut().unwrap_or_default()
    }

    /// Its first `filled` bytes, shared without copying.
    pub(super) fn freeze(mut self, filled: usize) -> Bytes {
        self.filled = filled.min(BUFFER_BYTES);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.memory.as_deref().map_or(&[], |memory| &memory[..self.filled])
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            if pool.len() < KEPT {
                pool.push(memory);
            }
        }
    }
}
