//! The node's containerd: whether it runs with the configuration that its files hold, and its restart.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

/// The kernel tells the start of the machine in whole seconds.
const COARSE: Duration = Duration::from_secs(2);
/// Name of the process.
const NAME: &str = "containerd";
/// The parent of a service.
const INIT: i32 = 1;

/// A running containerd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Running {
    pid: i32,
    started: SystemTime,
}

/// How the running containerd stands to its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// It is not seen which process it is.
    Unknown,
    /// It was started after the last change.
    Current,
    /// This file, below the root, was changed since it was started.
    Older(Running, PathBuf),
}

/// By `/proc` at `proc` and the last change of its files. Blocking.
pub(super) fn age(proc: &Path, changed: Option<(PathBuf, SystemTime)>) -> Age {
    let Some((file, changed)) = changed else { return Age::Unknown };
    // Of several that are services nobody knows which one the kubelet asks.
    let running = match found(proc).as_deref() {
        Ok([one]) => *one,
        Ok(_) | Err(_) => return Age::Unknown,
    };
    if changed > running.started + COARSE { Age::Older(running, file) } else { Age::Current }
}

/// Asks it to end; its service starts it anew. Containers go on.
pub(super) fn restart(running: Running) -> io::Result<()> {
    let pid = Pid::from_raw(running.pid).ok_or(io::ErrorKind::NotFound)?;
    Ok(kill_process(pid, Signal::TERM)?)
}

/// The services of this name.
fn found(proc: &Path) -> io::Result<Vec<Running>> {
    let booted = booted(&std::fs::read_to_string(proc.join("stat"))?).ok_or(io::ErrorKind::InvalidData)?;
    let ticks = rustix::param::clock_ticks_per_second();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(proc)? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // It may have ended meanwhile.
        let Ok(stat) = std::fs::read_to_string(proc.join(&name).join("stat")) else { continue };
        if let Some((NAME, INIT, after)) = parsed(&stat) {
            found.push(Running { pid, started: booted + Duration::from_millis(after.saturating_mul(1000) / ticks) });
        }
    }
    Ok(found)
}

/// Name, parent, and ticks from the start of the machine to its own (proc(5), `/proc/pid/stat`).
fn parsed(stat: &str) -> Option<(&str, i32, u64)> {
    let (before, behind) = stat.rsplit_once(')')?;
    let (_, name) = before.split_once('(')?;
    let mut fields = behind.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    // Field 22; the parent is field 4.
    let after = fields.nth(17)?.parse().ok()?;
    Some((name, parent, after))
}

fn booted(stat: &str) -> Option<SystemTime> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A `/proc` of a machine that was started 1000 s after 1970.
    fn proc(processes: &[(i32, &str, i32, u64)]) -> TempDir {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("stat"), "cpu 1 2 3\nbtime 1000\nprocesses 7\n").unwrap();
        std::fs::create_dir(folder.path().join("sys")).unwrap();
        for (pid, name, parent, seconds) in processes {
            let folder = folder.path().join(pid.to_string());
            std::fs::create_dir(&folder).unwrap();
            let ticks = seconds * rustix::param::clock_ticks_per_second();
            let text = format!("{pid} ({name}) S {parent} 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 {ticks} 1 2 3\n");
            std::fs::write(folder.join("stat"), text).unwrap();
        }
        folder
    }

    fn at(seconds: u64) -> Option<(PathBuf, SystemTime)> {
        Some((PathBuf::from("etc/containerd/config.toml"), UNIX_EPOCH + Duration::from_secs(seconds)))
    }

    #[test]
    fn a_file_that_is_newer_than_the_process_needs_a_restart() {
        let proc = proc(&[
            (7, "containerd", 1, 500),
            (8, "containerd-shim", 1, 1),
            (9, "containerd", 40, 1),
            (3, "a) (b", 1, 2),
        ]);
        assert_eq!(age(proc.path(), at(1499)), Age::Current);
        assert_eq!(age(proc.path(), at(1502)), Age::Current);
        let running = Running { pid: 7, started: UNIX_EPOCH + Duration::from_secs(1500) };
        assert_eq!(age(proc.path(), at(1503)), Age::Older(running, "etc/containerd/config.toml".into()));
        assert_eq!(age(proc.path(), None), Age::Unknown);
    }

    #[test]
    fn nothing_is_said_where_none_or_several_are_services() {
        for processes in [&[(9, "containerd", 40, 1)][..], &[(7, "containerd", 1, 1), (8, "containerd", 1, 1)], &[]] {
            assert_eq!(age(proc(processes).path(), at(99_999)), Age::Unknown);
        }
        assert_eq!(age(Path::new("/none"), at(99_999)), Age::Unknown);
    }

    #[test]
    fn this_process_is_read_as_the_kernel_writes_it() {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let (_, parent, after) = parsed(&stat).unwrap();
        assert!(parent >= 0 && after > 0, "{stat}");
        assert!(booted(&std::fs::read_to_string("/proc/stat").unwrap()).unwrap() > UNIX_EPOCH);
    }
}
