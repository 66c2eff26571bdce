//! Sends a part of a file to the disk, which no safe library offers without syncing the whole file.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// Writes the changed pages of `length` bytes from `from` to the disk and waits for them. Blocking.
///
/// Neither the file's length nor the disk's cache is made durable: a sync does that, and finds little left to do.
/// See `sync_file_range(2)`.
///
/// # Errors
/// Of the disk. The system tells an error of writing once: a later sync of the same descriptor may not repeat it.
pub(crate) fn write_back(file: &File, from: u64, length: u64) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let (Ok(from), Ok(length)) = (i64::try_from(from), i64::try_from(length)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    loop {
        // SAFETY: the call takes numbers only; the descriptor is open as long as `file` is borrowed.
        let done = unsafe { libc::sync_file_range(file.as_raw_fd(), from, length, flags) };
        if done == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            // Not known to this kernel or file system: the sync at the end does all of the work.
            Some(libc::ENOSYS | libc::ESPIPE | libc::EINVAL) => return Ok(()),
            _ => return Err(error),
        }
    }
}
