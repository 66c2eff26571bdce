//! Bodies: files on their way out, and the count of what goes through.

mod blob;
mod buffer;
mod counted;
mod file;
mod parts;
mod reading;
mod relay;

pub(super) use blob::{blob_body, parts_body};
pub(super) use buffer::BUFFER_BYTES;
pub(super) use counted::{CountedBody, Finish, RequestProgress, ResponseBody};
pub(super) use parts::Parts;
pub(super) use reading::Reading;
pub(super) use relay::{GATHERED_BYTES, LARGE_CHUNK, TAIL_BYTES};
