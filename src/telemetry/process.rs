//! What the kernel says about this process. The collector of the prometheus crate counts CPU time in whole seconds,
//! which is useless for a server that needs less.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntGauge};
use rustix::process::{Resource, getrlimit};

use super::families::{
    Family, PROCESS_CPU, PROCESS_MAX_FDS, PROCESS_OPEN_FDS, PROCESS_RESIDENT, PROCESS_START, PROCESS_THREADS,
    PROCESS_VIRTUAL,
};
use super::metrics::opts;

#[derive(Debug)]
pub(super) struct ProcessCollector {
    cpu: Counter,
    open_fds: IntGauge,
    max_fds: IntGauge,
    virtual_memory: IntGauge,
    resident: IntGauge,
    start: Gauge,
    threads: IntGauge,
}

/// The fields of `/proc/self/stat` that are shown (proc(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: i64,
    start_ticks: u64,
    virtual_bytes: i64,
    resident_pages: i64,
}

impl ProcessCollector {
    pub(super) fn new() -> Result<Self, prometheus::Error> {
        let gauge = |family: &Family| IntGauge::with_opts(opts(family));
        Ok(Self {
            cpu: Counter::with_opts(opts(&PROCESS_CPU))?,
            open_fds: gauge(&PROCESS_OPEN_FDS)?,
            max_fds: gauge(&PROCESS_MAX_FDS)?,
            virtual_memory: gauge(&PROCESS_VIRTUAL)?,
            resident: gauge(&PROCESS_RESIDENT)?,
            start: Gauge::with_opts(opts(&PROCESS_START))?,
            threads: gauge(&PROCESS_THREADS)?,
        })
    }

    fn parts(&self) -> [&dyn Collector; 7] {
        [&self.cpu, &self.open_fds, &self.max_fds, &self.virtual_memory, &self.resident, &self.start, &self.threads]
    }

    #[expect(clippy::cast_precision_loss, reason = "seconds of CPU time and of the epoch fit a double")]
    fn refresh(&self) {
        // The folder's own descriptor is open while it is read, and not counted.
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            self.open_fds.set(i64::try_from(entries.count()).unwrap_or(i64::MAX).saturating_sub(1));
        }
        let most = getrlimit(Resource::Nofile).current;
        self.max_fds.set(most.map_or(i64::MAX, |most| i64::try_from(most).unwrap_or(i64::MAX)));
        let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(parse_stat) else { return };
        let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
        let cpu = stat.cpu_ticks as f64 / ticks;
        // A scrape beside this one may have been faster; the kernel's count never falls.
        self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
        self.threads.set(stat.threads);
        self.virtual_memory.set(stat.virtual_bytes);
        let page = i64::try_from(rustix::param::page_size()).unwrap_or(4096);
        self.resident.set(stat.resident_pages.saturating_mul(page));
        if let Some(boot) = fs::read_to_string("/proc/stat").ok().as_deref().and_then(boot_time) {
            self.start.set(boot as f64 + stat.start_ticks as f64 / ticks);
        }
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        let [cpu, open, most, virtual_memory, resident, start, threads] = self.parts();
        [cpu, open, most, virtual_memory, resident, start, threads].into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The second field is the program's name in brackets and may hold blanks; field 3 follows the last bracket.
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(Stat {
        cpu_ticks: field(14)?.parse::<u64>().ok()?.saturating_add(field(15)?.parse().ok()?),
        threads: field(20)?.parse().ok()?,
        start_ticks: field(22)?.parse().ok()?,
        virtual_bytes: field(23)?.parse().ok()?,
        resident_pages: field(24)?.parse().ok()?,
    })
}

fn boot_time(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_blanks_and_brackets_is_no_trap() {
        let text = "42 (a b) c)) S 1 2 3 4 5 6 7 8 9 10 100 20 0 0 20 0 7 0 555 8192 3 0";
        assert_eq!(
            parse_stat(text),
            Some(Stat { cpu_ticks: 120, threads: 7, start_ticks: 555, virtual_bytes: 8192, resident_pages: 3 })
        );
        assert_eq!(parse_stat("42 (x) S 1"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000));
    }

    #[test]
    fn this_process_has_threads_and_memory() {
        let collector = ProcessCollector::new().unwrap();
        assert_eq!(collector.collect().len(), collector.desc().len());
        assert!(collector.threads.get() > 0);
        assert!(collector.resident.get() > 0);
        assert!(collector.start.get() > 0.0);
        assert!(collector.open_fds.get() > 0);
    }
}
