//! Memory of processes, and the machine: from `/proc`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fmt, fs, thread};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::report::{Report, Target};

/// Pause between two looks at the memory of a process.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Anonymous and shared memory: what the process itself holds. Pages of files are the kernel's to take back.
    pub(crate) own: u64,
    /// All that is resident, file pages too.
    pub(crate) resident: u64,
}

impl Memory {
    /// Of a running process.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        Self::parse(&status).with_context(|| format!("{path} lacks the memory fields"))
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| field(status, name)?.strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024);
        Some(Self { own: field("RssAnon")? + field("RssShmem")?, resident: field("VmRSS")? })
    }

    /// Of processes together.
    pub(crate) fn of_all(pids: &[u32]) -> Result<Self> {
        let mut sum = Self { own: 0, resident: 0 };
        for pid in pids {
            let one = Self::of(*pid)?;
            sum = Self { own: sum.own + one.own, resident: sum.resident + one.resident };
        }
        Ok(sum)
    }

    /// The greater of each figure.
    pub(crate) fn most(self, other: Self) -> Self {
        Self { own: self.own.max(other.own), resident: self.resident.max(other.resident) }
    }

    /// Adds both figures without targets; `when` goes into their names.
    pub(crate) fn add_to(self, report: &mut Report, when: &str) {
        report.fact(format!("RssAnon+RssShmem{when}"), mebibytes(self.own), "MiB");
        report.fact(format!("VmRSS{when}"), mebibytes(self.resident), "MiB");
    }

    /// Adds both figures; the process's own memory has to be below `limit` MiB.
    pub(crate) fn judge(self, report: &mut Report, when: &str, limit: f64) {
        report.judge(format!("RssAnon+RssShmem{when}"), mebibytes(self.own), "MiB", Target::Below(limit));
        report.fact(format!("VmRSS{when}"), mebibytes(self.resident), "MiB");
    }
}

/// The most memory that processes held at any look while `work` ran, with the result of that.
pub(crate) fn peak_while<T>(pids: &[u32], work: impl FnOnce() -> Result<T>) -> (Result<T>, Result<Memory>) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut peak = Memory::of_all(pids)?;
            while !done.load(Ordering::Relaxed) {
                thread::sleep(LOOK_EVERY);
                peak = peak.most(Memory::of_all(pids)?);
            }
            anyhow::Ok(peak)
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, looking.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the looking panicked"))))
    })
}

/// Threads of a process.
pub(crate) fn threads(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    field(&status, "Threads").and_then(|text| text.parse().ok()).with_context(|| format!("{path} lacks Threads"))
}

/// Bytes as MiB.
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim()))
}

/// The machine that figures were taken on: without it they mean nothing.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// Of the network that this process is in.
    pub(crate) congestion_control: String,
}

impl Machine {
    /// This one; what can't be read is `unknown` or 0.
    pub(crate) fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let processor = field(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown processor").to_owned();
        let memory = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok())
            .unwrap_or(0);
        Self {
            processor,
            // All of them: we may have moved to one.
            cores: read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count(),
            memory_mib: memory / 1024,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            congestion_control: match read("/proc/sys/net/ipv4/tcp_congestion_control").trim() {
                "" => "unknown".to_owned(),
                name => name.to_owned(),
            },
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, cores, memory_mib, kernel, congestion_control } = self;
        write!(f, "{processor}, {cores} cores, {memory_mib} MiB, Linux {kernel}, TCP {congestion_control}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_status_are_read() {
        let status =
            "Name:\tx\nVmRSS:\t    3000 kB\nRssAnon:\t    1000 kB\nRssFile:\t 500 kB\nRssShmem:\t      24 kB\n";
        assert_eq!(Memory::parse(status), Some(Memory { own: 1024 * 1024, resident: 3000 * 1024 }));
        assert_eq!(Memory::parse("VmRSS:\t1 kB\n"), None);
    }

    #[test]
    fn a_machine_is_named_with_its_congestion_control() {
        let available = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap();
        let machine = Machine::here();
        assert!(available.split_whitespace().any(|name| name == machine.congestion_control), "{machine}");
        assert!(machine.to_string().ends_with(&format!(", TCP {}", machine.congestion_control)));
    }

    #[test]
    fn this_process_has_memory_and_threads() {
        let pid = std::process::id();
        let (result, peak) = peak_while(&[pid], || Ok(7));
        let peak = peak.unwrap();
        assert!(result.unwrap() == 7 && peak.own > 0 && peak.resident >= peak.own);
        assert_eq!(Memory::of_all(&[]).unwrap().own, 0);
        assert!(threads(pid).unwrap() > 0);
    }
}
