//! Bodies: files on their way out, and the count of what goes through.

mod buffer;
mod counted;
mod file;

pub(super) use counted::{Finish, RequestBody, RequestProgress, ResponseBody};
pub(super) use file::file_body;
