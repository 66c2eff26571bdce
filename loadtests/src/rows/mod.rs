//! The rows of `make bench`: our server against its baselines, and how its costs grow.
//!
//! Servers run on one core, clients and upstreams on the other. Every row starts what it needs, checks the digest of
//! what it is given, and can be repeated alone with `--row`.

mod cold;
mod collection;
mod direct;
mod disk;
mod handshakes;
mod hits;
mod large_store;
mod masters;
mod peers;
mod push;
mod scale;
mod scrub;
mod slow;
mod stored;
mod storm;
mod tail;
mod takeover;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use rustls::ClientConfig;

use crate::baseline::nginx::{Listening, Nginx, Role, Upstream};
use crate::baseline::ours::{Ours, Setup};
use crate::baseline::peer::Peer;
use crate::certificates::{Certificate, Key};
use crate::client::{Load, Place, Request};
use crate::cpu;
use crate::engine::Plan;
use crate::interrupt;
use crate::memory;
use crate::report::Report;
use stored::Stored;

/// Length of a slice of small answers: much shorter than the bursts of a noisy machine, and long enough for warm caches.
const SLICE: Duration = Duration::from_millis(200);
/// Length of a slice of downloads, whose connections are made anew each time.
const LONG_SLICE: Duration = Duration::from_secs(1);
/// The name that Direct and Proxy show, and that the upstream has.
const MAPPED: &str = "system/deckhouse";

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// GET of a large blob, plain HTTP, 8 connections, against nginx.
    BlobPlain,
    /// The same over TLS 1.3.
    BlobTls,
    /// GET and HEAD of a manifest by tag and by digest, Basic and Bearer, 32 connections, against a static file.
    ManifestPlain,
    /// The same over TLS 1.3.
    ManifestTls,
    /// GET of a blob of 4 KiB, 32 connections, against a static file.
    #[value(name = "blob-4k-plain")]
    Blob4kPlain,
    /// The same over TLS 1.3.
    #[value(name = "blob-4k-tls")]
    Blob4kTls,
    /// A new TLS 1.3 connection and one manifest GET: P-256 and RSA-2048, full and resumed.
    Handshake,
    /// Push of a large blob, durable, plain and TLS, against a bare loop of receive, SHA-256, write and fsync.
    Push,
    /// 8 clients pull one cold blob through Proxy, against distribution's pull-through cache.
    ColdProxy,
    /// A large blob through Direct, plain and TLS upstream, against nginx `proxy_pass` and SHA-256 of the same bytes.
    Direct,
    /// Memory: idle, with 256 slow readers of 1 GiB, with 64 pushes at once.
    SlowReaders,
    /// p99 of a manifest GET while 8 downloads saturate the server, plain and TLS, against nginx.
    P99,
    /// Latency of small durable appends on the same disk during cold fills and pushes, against distribution.
    FsyncLatency,
    /// 1, 8 and 32 clients pull a cold blob through Proxy over a line of 40 MB/s: upstream GETs, time of the last client.
    ColdStorm,
    /// 100,000 tags in 1,000 repositories: rebuild of the index, start, pages of tags, idle memory.
    StoreScale,
    /// 1,000,000 blobs and 100,000 manifests: a collection with nothing to do, one that marks a repository of 2,000 manifests.
    Collection,
    /// p99 of a manifest GET beside a collection that marks 16,000 manifests, against without.
    BesideCollection,
    /// Take-over of 100,000 tags of a distribution registry with `--move`, beside the SHA-256 of its files alone.
    #[value(name = "takeover")]
    TakeOver,
    /// How the cost of an operation grows with tags, connections, a blob's size and blobs.
    Scale,
    /// A blob that another master has, against a cold pull through Proxy from an upstream over TLS: CPU of both ends.
    ReadThrough,
    /// A push to one of three masters until each has it, against a push to one that is alone: CPU of all.
    MastersPush,
    /// Three masters with 100,000 tags while nothing happens: bytes, CPU, memory beside one alone.
    MastersIdle,
    /// A scrub by order: CPU per byte against SHA-256 alone, and p99 of a manifest GET beside it against without.
    Scrub,
}

/// Rows that are measured once more with the access logs off: those where the lines of the log are most of the work. A
/// download of 200 MiB is one line, and over TLS an answer costs more beside its line.
const LOGS_OFF: [Row; 2] = [Row::ManifestPlain, Row::Blob4kPlain];

impl Row {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Options of a run.
#[derive(Args, Clone, Debug)]
pub(crate) struct RowsOptions {
    /// The server: a release build of d8-registry.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) server: PathBuf,
    /// Only these rows (default: all).
    #[arg(long = "row", value_enum, value_name = "ROW")]
    pub(crate) rows: Vec<Row>,
    /// Rounds in times of those that each row has: 0.1 for a look whether it works.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) times: f64,
    /// Size of the large blob in MiB.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub(crate) size: u32,
    /// Measure with the access logs off, of all sides.
    #[arg(long)]
    pub(crate) access_log_off: bool,
    /// Let clients copy bodies out of the kernel instead of throwing them away there.
    #[arg(long)]
    pub(crate) copy: bool,
    /// `limits.writeBytesPerSecond` of our server in `cold-proxy`, `direct` and `fsync-latency`.
    #[arg(long, value_name = "SIZE")]
    pub(crate) write_limit: Option<String>,
    /// The greatest step of `scale`, in tags and blobs. A million blobs take about 8 GiB and some minutes.
    #[arg(long, default_value_t = 100_000)]
    pub(crate) most: u64,
    /// Directory for the stores; the disk matters (default: that of temporary files).
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
}

/// Runs the rows, and some of them once more with the access logs off if all are asked for.
pub(crate) fn run(options: &RowsOptions) -> Result<Vec<Report>> {
    let all = Row::value_variants();
    let mut reports = vec![measured(options, if options.rows.is_empty() { all } else { &options.rows })?];
    if options.rows.is_empty() && !options.access_log_off {
        reports.push(measured(&RowsOptions { access_log_off: true, ..options.clone() }, &LOGS_OFF)?);
    }
    Ok(reports)
}

/// Measures rows. One that can't be measured is named as missed, and the others go on.
fn measured(options: &RowsOptions, rows: &[Row]) -> Result<Report> {
    ensure!(options.times > 0.0 && options.times <= 100.0, "--times is more than 0, at most 100");
    let scratch = options.scratch.as_deref().map_or_else(tempfile::tempdir, tempfile::tempdir_in);
    let scratch = scratch.context("the directory for the stores can't be made")?;
    let mut report = Report::new(if options.access_log_off { "rows, access logs off" } else { "rows" });
    report.condition("rounds, in times of the planned", options.times);
    report.condition("large blob, MiB", options.size);
    report.condition("cipher suite", "TLS_AES_128_GCM_SHA256");
    report.condition("access logs", if options.access_log_off { "off" } else { "on, to files" });
    let thrown_away = "thrown away in the client's kernel (plain), decrypted (TLS)";
    report.condition("bodies", if options.copy { "copied to the client" } else { thrown_away });
    report.condition("olareg and distribution 3, where built", "without users; olareg without access log and sync");
    cpu::pin(cpu::CLIENT_CORE);
    let bench = Bench::prepare(options, scratch.path())?;
    for row in rows {
        let started = Instant::now();
        if let Err(error) = bench.row(*row, &mut report) {
            interrupt::check()?;
            report.failure(row.name(), format!("{error:#}"));
        }
        bench.clear()?;
        eprintln!("{}: {:.0} s", row.name(), started.elapsed().as_secs_f64());
    }
    scratch.close().context("the directory of the stores can't be removed")?;
    Ok(report)
}

/// As reports say it.
fn transport(tls: bool) -> &'static str {
    if tls { "TLS" } else { "plain" }
}

/// Options, certificates and content that all rows share.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    options: &'a RowsOptions,
    scratch: &'a Path,
    p256: Certificate,
    rsa: Certificate,
    stored: Stored,
}

impl<'a> Bench<'a> {
    fn prepare(options: &'a RowsOptions, scratch: &'a Path) -> Result<Self> {
        let p256 = Certificate::make(scratch, Key::P256)?;
        let rsa = Certificate::make(scratch, Key::Rsa2048)?;
        let stored = Stored::make(scratch, options.size)?;
        Ok(Self { options, scratch, p256, rsa, stored })
    }

    fn row(&self, row: Row, report: &mut Report) -> Result<()> {
        match row {
            Row::BlobPlain | Row::BlobTls => hits::blobs(self, report, row, (false, row == Row::BlobTls)),
            Row::Blob4kPlain | Row::Blob4kTls => hits::blobs(self, report, row, (true, row == Row::Blob4kTls)),
            Row::ManifestPlain | Row::ManifestTls => hits::manifests(self, report, row, row == Row::ManifestTls),
            Row::Handshake => handshakes::run(self, report, row),
            Row::Push => self.both(|tls| push::run(self, report, row, tls)),
            Row::ColdProxy => cold::run(self, report, row),
            Row::Direct => self.both(|tls| direct::run(self, report, row, tls)),
            Row::SlowReaders => slow::run(self, report, row),
            Row::P99 => self.both(|tls| tail::run(self, report, row, tls)),
            Row::FsyncLatency => disk::run(self, report, row),
            Row::ColdStorm => storm::run(self, report, row),
            Row::StoreScale => large_store::run(self, report, row),
            Row::Collection => collection::run(self, report, row),
            Row::BesideCollection => collection::beside::run(self, report, row),
            Row::TakeOver => takeover::run(self, report, row),
            Row::Scale => scale::run(self, report, row),
            Row::ReadThrough => masters::read_through(self, report, row),
            Row::MastersPush => masters::pushed(self, report, row),
            Row::MastersIdle => masters::idle(self, report, row),
            Row::Scrub => scrub::run(self, report, row),
        }
    }

    /// Plain and over TLS. The stores of both together would be large.
    fn both(&self, mut run: impl FnMut(bool) -> Result<()>) -> Result<()> {
        run(false)?;
        self.clear()?;
        run(true)
    }

    /// Rounds of a load in slices.
    fn plan(&self, rounds: u32, slice: Duration) -> Plan {
        Plan::new((f64::from(rounds) * self.options.times).ceil() as u32, slice)
    }

    /// Rounds of single operations.
    fn operations(&self, rounds: u32) -> Plan {
        Plan::operations(self.plan(rounds, Duration::ZERO).rounds)
    }

    /// One request in a closed loop.
    fn load(&self, place: &Place, request: &Request, connections: usize) -> Load {
        let (place, requests, copying) = (place.clone(), vec![request.clone()], self.options.copy);
        Load { place, requests, connections, rate: None, copying }
    }

    /// Other registries beside a plain row.
    fn peers(&self, report: &mut Report, row: Row, tls: bool, ready: impl Fn(&Peer) -> Result<()>) -> Vec<Peer> {
        if tls { Vec::new() } else { peers::start(self, report, row, ready) }
    }

    /// The client's side for the P-256 certificate, if TLS is wanted.
    fn client(&self, tls: bool) -> Result<Option<Arc<ClientConfig>>> {
        tls.then(|| self.p256.client(false)).transpose()
    }

    /// Before a large blob is stored by processes that are measured: what was done before is over, on the disk too, and
    /// there is memory for the blob and a little else.
    fn before_storing(&self, pids: &[u32]) -> Result<()> {
        rustix::fs::sync();
        cpu::settle(pids)?;
        memory::have_backed(self.scratch, self.options.size + self.options.size / 4)
    }

    fn rows_directory(&self) -> PathBuf {
        self.scratch.join("row")
    }

    /// Removes what the last row stored: all rows together would fill a disk.
    fn clear(&self) -> Result<()> {
        let dir = self.rows_directory();
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        Ok(())
    }

    /// A directory of the row that runs; it goes with the row.
    fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.rows_directory().join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(dir)
    }

    /// Our server as Local on the store with the content, with TLS by the P-256 certificate or without.
    fn ours(&self, row: Row, tls: bool) -> Result<Ours> {
        let client = self.client(tls)?;
        Ours::start(&Setup {
            certificate: tls.then_some(&self.p256),
            client: client.as_ref(),
            ..self.setup(&self.stored.dir, &self.dir(&format!("{}-ours", row.name()))?)
        })
    }

    /// Our server in front of an upstream.
    fn ours_before(&self, dir: &Path, mode: &str, upstream: &Upstream) -> Result<Ours> {
        let write_limit = self.options.write_limit.as_deref();
        let store = dir.join("store");
        Ours::start(&Setup { upstream: Some((mode, upstream)), write_limit, ..self.setup(&store, dir) })
    }

    /// Our server on a store, plain, as Local.
    fn setup<'s>(&'s self, store: &'s Path, dir: &'s Path) -> Setup<'s> {
        Setup { access_log: !self.options.access_log_off, ..Setup::local(&self.options.server, store, dir) }
    }

    /// nginx with the same content as files.
    fn nginx(&self, row: Row, tls: bool) -> Result<Nginx> {
        let client = self.client(tls)?;
        let listening = Listening {
            certificate: tls.then_some(&self.p256),
            client: client.as_ref(),
            access_log: !self.options.access_log_off,
        };
        let dir = self.dir(&format!("{}-nginx", row.name()))?;
        Nginx::start(&dir, Role::Files(&self.stored.files), listening, &Request::get("/manifest", None))
    }

    /// nginx with the directory of an upstream's blobs, on the clients' core, with its access log.
    fn upstream(&self, row: Row, (tls, rate): (bool, Option<u32>)) -> Result<(Nginx, Upstream, PathBuf)> {
        let client = self.client(tls)?;
        let certificate = tls.then_some(&self.p256);
        let listening = Listening { certificate, client: client.as_ref(), access_log: true };
        let name = format!("{}-upstream{}", row.name(), if tls { "-tls" } else { "" });
        let (dir, files) = (self.dir(&name)?, self.dir(&format!("{name}-files"))?);
        let nginx = Nginx::start(&dir, Role::Upstream(&files, rate), listening, &Request::get("/v2/", None))?;
        let upstream = nginx.as_upstream(certificate);
        let blobs = files.join("v2").join(MAPPED).join("blobs");
        std::fs::create_dir_all(&blobs).with_context(|| format!("create {}", blobs.display()))?;
        Ok((nginx, upstream, blobs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_row() {
        let page = include_str!("../../README.md");
        let missing: Vec<String> = Row::value_variants()
            .iter()
            .map(|row| format!("`{}`", row.name()))
            .filter(|row| !page.contains(row))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
