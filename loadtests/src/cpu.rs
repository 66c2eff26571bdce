//! CPU time: of a process by its CPU clock, of the machine from `/proc/stat`. And which core runs what.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use d8_registry::oci::{Algorithm, Hasher};
use nix::time::ClockId;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

/// Servers run here.
pub(crate) const SERVER_CORE: usize = 0;
/// Clients and upstreams run here.
pub(crate) const CLIENT_CORE: usize = 1;

/// Time that was used between two moments.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spent {
    /// Seconds of CPU, user and system, of the server's processes with all their threads.
    pub(crate) cpu: f64,
    /// Seconds by the clock.
    pub(crate) wall: f64,
    /// Seconds of CPU that all cores were busy, with whatever.
    pub(crate) machine: f64,
    /// Part of the time that the server's core was busy.
    pub(crate) server_core: f64,
}

impl Spent {
    /// Both together; the share of the core is that of both times.
    pub(crate) fn and(self, more: Self) -> Self {
        let wall = self.wall + more.wall;
        let busy = self.server_core * self.wall + more.server_core * more.wall;
        Self {
            cpu: self.cpu + more.cpu,
            wall,
            machine: self.machine + more.machine,
            server_core: if wall > 0.0 { busy / wall } else { 0.0 },
        }
    }
}

/// Measures from when it is made.
#[derive(Debug)]
pub(crate) struct Meter {
    pids: Vec<u32>,
    cpu: f64,
    cores: Vec<Core>,
    started: Instant,
}

impl Meter {
    /// Of these processes.
    pub(crate) fn start(pids: &[u32]) -> Result<Self> {
        Ok(Self { pids: pids.to_vec(), cpu: cpu_seconds(pids)?, cores: cores()?, started: Instant::now() })
    }

    /// Seconds of CPU that the processes have used since.
    pub(crate) fn cpu(&self) -> Result<f64> {
        Ok(cpu_seconds(&self.pids)? - self.cpu)
    }

    /// Reads the use since the start.
    pub(crate) fn read(&self) -> Result<Spent> {
        let wall = self.started.elapsed().as_secs_f64();
        let cpu = self.cpu()?;
        let now = cores()?;
        let mut machine = 0;
        let mut server_core = 0.0;
        for (number, (before, after)) in self.cores.iter().zip(&now).enumerate() {
            let busy = after.busy.saturating_sub(before.busy);
            machine += busy;
            if number == SERVER_CORE {
                let all = after.all.saturating_sub(before.all);
                server_core = if all == 0 { 0.0 } else { busy as f64 / all as f64 };
            }
        }
        Ok(Spent { cpu, wall, machine: machine as f64 / ticks_per_second(), server_core })
    }
}

/// Waits until processes have had nothing to do for a while: what they put off belongs to the work before.
///
/// Gives up after 10 s; nginx and Go's runtime use a little now and then whatever happens.
pub(crate) fn settle(pids: &[u32]) -> Result<()> {
    const LOOK_EVERY: Duration = Duration::from_millis(200);
    let end = Instant::now() + Duration::from_secs(10);
    let mut before = cpu_seconds(pids)?;
    while Instant::now() < end {
        std::thread::sleep(LOOK_EVERY);
        let now = cpu_seconds(pids)?;
        if now - before <= 0.05 * LOOK_EVERY.as_secs_f64() {
            return Ok(());
        }
        before = now;
    }
    Ok(())
}

/// Waits until processes do nothing between two slices of a load: lines of an access log are written a little later than
/// the answers, and what a paused connection has room for is still sent. All that belongs to the slice before.
///
/// Gives up after a second; what comes later than that belongs to whoever is measured then.
pub(crate) fn rest(pids: &[u32]) -> Result<()> {
    const QUIET: Duration = Duration::from_millis(20);
    const LOOK_EVERY: Duration = Duration::from_millis(5);
    let end = Instant::now() + Duration::from_secs(1);
    let (mut before, mut since) = (cpu_seconds(pids)?, Instant::now());
    while since.elapsed() < QUIET && Instant::now() < end {
        std::thread::sleep(LOOK_EVERY);
        let now = cpu_seconds(pids)?;
        // A timer that finds nothing to do is no work.
        if now - before > 0.05 * LOOK_EVERY.as_secs_f64() {
            since = Instant::now();
        }
        before = now;
    }
    Ok(())
}

/// Seconds of CPU that SHA-256 of `bytes` bytes takes on the servers' core, with the server's own library, in pieces that
/// are in the cache as those that have just been received.
pub(crate) fn sha256(bytes: u64) -> Result<f64> {
    const PIECE: usize = 256 << 10;
    let piece = testkit::noise(3, PIECE);
    on(Some(SERVER_CORE), || {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let before = ClockId::CLOCK_THREAD_CPUTIME_ID.now()?;
        let mut left = bytes;
        while left > 0 {
            let most = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            hasher.update(&piece[..most]);
            left -= most as u64;
        }
        let _digest = std::hint::black_box(hasher.finish());
        let spent = Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now()?).saturating_sub(Duration::from(before));
        Ok(if bytes == 0 { 0.0 } else { spent.as_secs_f64() })
    })
}

/// The process and all that it started and that still run.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(parent) = found.get(at) {
        let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        let lists: Vec<String> =
            threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok()).collect();
        let children = lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse::<u32>().ok());
        found.extend(children);
        at += 1;
    }
    found
}

/// Of all threads, also those that have ended (clock_getcpuclockid(3)).
fn cpu_seconds(pids: &[u32]) -> Result<f64> {
    let mut spent = Duration::ZERO;
    for pid in pids {
        let process = nix::unistd::Pid::from_raw(i32::try_from(*pid)?);
        let now = ClockId::pid_cpu_clock_id(process).and_then(ClockId::now);
        spent += Duration::from(now.with_context(|| format!("the CPU time of process {pid}"))?);
    }
    Ok(spent.as_secs_f64())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Core {
    busy: u64,
    all: u64,
}

fn cores() -> Result<Vec<Core>> {
    let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    Ok(stat.lines().skip(1).map_while(core).collect())
}

/// user nice system idle iowait irq softirq steal; guest times are in user already (proc(5)).
fn core(line: &str) -> Option<Core> {
    let (name, fields) = line.split_once(' ')?;
    name.strip_prefix("cpu")?.parse::<usize>().ok()?;
    let fields: Vec<u64> = fields.split_whitespace().take(8).filter_map(|field| field.parse().ok()).collect();
    let all: u64 = fields.iter().sum();
    Some(Core { busy: all - fields.get(3)? - fields.get(4)?, all })
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// Moves this thread to a core; threads and processes that it starts follow. On a machine without that core nothing
/// happens: the figures are then worth less, and the report names the cores.
pub(crate) fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    // Refused where the core is missing or not ours.
    let _ = sched_setaffinity(None, &set);
}

/// Runs `work`, say the start of a process, on a core or on all, and comes back.
pub(crate) fn on<T>(core: Option<usize>, work: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None);
    core.map_or_else(unpin, pin);
    let result = work();
    if let Ok(before) = before {
        let _ = sched_setaffinity(None, &before);
    }
    result
}

/// Lets this thread run wherever it likes.
pub(crate) fn unpin() {
    let mut set = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|core| set.set(core));
    let _ = sched_setaffinity(None, &set);
}

/// Puts this thread before the others of its core, if we may: what it measures must not be its own waiting.
pub(crate) fn hurry() {
    let thread = Pid::from_raw(rustix::thread::gettid().as_raw_nonzero().get());
    let _ = rustix::process::setpriority_process(thread, -15);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_a_process_is_counted_with_that_of_threads_that_have_ended_and_nobodys_is_none() {
        let work = || {
            let meter = Meter::start(&[std::process::id()]).unwrap();
            while meter.cpu().unwrap() < 0.001 {}
        };
        let meter = Meter::start(&[std::process::id()]).unwrap();
        std::thread::spawn(work).join().unwrap();
        assert!(meter.read().unwrap().cpu >= 0.001);
        assert_eq!(Meter::start(&[]).unwrap().cpu().unwrap(), 0.0);
        // Beyond all that Linux gives.
        Meter::start(&[(1 << 22) + 1]).unwrap_err();
    }

    #[test]
    fn idle_and_waiting_for_the_disk_is_not_busy() {
        assert_eq!(core("cpu0 10 1 5 100 20 2 3 4 0 0"), Some(Core { busy: 25, all: 145 }));
        assert_eq!(core("cpu  1 2 3 4 5 6 7 8"), None);
        assert_eq!(core("intr 1 2 3"), None);
    }

    #[test]
    fn what_two_times_used_is_added_and_the_core_was_busy_for_its_part_of_both() {
        let first = Spent { cpu: 1.0, wall: 1.0, machine: 2.0, server_core: 1.0 };
        let both = first.and(Spent { cpu: 0.5, wall: 3.0, machine: 1.0, server_core: 0.2 });
        assert_eq!((both.cpu, both.wall, both.machine), (1.5, 4.0, 3.0));
        assert!((both.server_core - 0.4).abs() < 1e-9, "{both:?}");
        assert_eq!(Spent::default().and(Spent::default()).server_core, 0.0);
    }

    #[test]
    fn a_family_has_its_children() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let found = family(std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&std::process::id()) && found.contains(&child.id()), "{found:?}");
    }
}
