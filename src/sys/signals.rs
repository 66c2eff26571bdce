//! A signal that no safe library ignores.

/// Lets a write beyond the process's limit on file sizes (`RLIMIT_FSIZE`) fail with `EFBIG`, where the system would end the
/// process by SIGXFSZ; see `setrlimit(2)`. Called before the first write.
pub(crate) fn let_long_writes_fail() {
    // SAFETY: no function is installed, so none can run at a wrong moment; the call changes nothing but the disposition of
    // this signal, which nobody else here sets. It can fail only for a number that is no signal's.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}
