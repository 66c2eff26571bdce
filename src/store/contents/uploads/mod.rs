//! Uploads in progress: their bytes on the disk, who holds one, what is left when one ends. Whom a finished one is for is
//! the caller's.
//!
//! An upload is a folder with the bytes so far (`data`) and a note (`state`) of the hash at some earlier offset. The
//! length of `data` is the truth: after a restart the note saves hashing again what lies before it. One request at a
//! time holds an upload; the hold lasts as long as any work for it, also on a blocking thread after the request is gone.

mod state;
pub(in crate::store) mod table;
pub(in crate::store) mod upload;
mod writing;
