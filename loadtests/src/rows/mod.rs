//! The scenario of the hot paths: our server against the baselines, row by row, by turns.
//!
//! Servers run on one core, clients and upstreams on the other. Every row starts what it needs, checks the digest of
//! what it is given, and can be repeated alone with `--row`.

mod blobs;
mod cold;
mod contest;
mod direct;
mod disk;
mod handshakes;
pub(crate) mod large_store;
mod manifests;
mod peers;
pub(crate) mod push;
pub(crate) mod scale;
mod slices;
mod slow;
mod stored;
mod tail;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use rustls::ClientConfig;

use crate::certificates::{Certificate, Key, Suite};
use crate::cpu;
use crate::client::exchange::Request;
use crate::interrupt;
use crate::memory;
use crate::report::Report;
use crate::baseline::nginx::{Listening, Nginx, Role, Upstream};
use crate::baseline::ours::{Ours, Setup};
use slices::Slices;
use stored::Stored;

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
}

impl Row {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// What to run it with.
#[derive(Args, Clone, Debug)]
pub(crate) struct HotPathsOptions {
    /// The server: a release build of d8-registry.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) server: PathBuf,
    /// Only these rows (default: all).
    #[arg(long = "row", value_enum, value_name = "ROW")]
    pub(crate) rows: Vec<Row>,
    /// Rounds, each with ours and theirs; of downloads, pushes, cold pulls and p99 several for each of these.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// How long a load is measured on each side in a round, in seconds; in slices, by turns.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// Size of the large blob in MiB.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub(crate) size: u32,
    /// Cipher suite of all sides.
    #[arg(long, value_enum, default_value_t = Suite::Aes128)]
    pub(crate) suite: Suite,
    /// Measure with the access logs off, of all sides.
    #[arg(long)]
    pub(crate) access_log_off: bool,
    /// Let clients copy bodies out of the kernel instead of throwing them away there.
    #[arg(long)]
    pub(crate) copy: bool,
    /// `limits.writeBytesPerSecond` of our server in `cold-proxy`, `direct` and `fsync-latency`.
    #[arg(long, value_name = "SIZE")]
    pub(crate) write_limit: Option<String>,
    /// Where stores are made; the disk matters (default: the folder for temporary files).
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
}

/// Runs the rows. One that can't be measured is named as missed, and the others go on.
pub(crate) fn run(options: &HotPathsOptions) -> Result<Report> {
    ensure!(options.seconds > 0.0 && options.seconds <= 600.0, "--seconds has to be more than 0, at most 600");
    let scratch = match &options.scratch {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let scratch = scratch.context("the folder for the stores can't be made")?;
    let mut report = Report::new("hot-paths");
    report.condition("rounds", options.rounds);
    report.condition(
        "rounds of the row blob-plain (whole downloads), blob-tls and direct (half as long), push, cold-proxy, p99",
        [contest::WHOLE, contest::TURNS, push::TURNS, cold::TURNS, tail::TURNS]
            .map(|turns| (options.rounds * turns).to_string())
            .join(", "),
    );
    report.condition("seconds of a load, each side in a round", options.seconds);
    report.condition("large blob, MiB", options.size);
    report.condition("cipher suite", options.suite.name());
    report.condition("access logs", if options.access_log_off { "off" } else { "on, to files" });
    let bodies = if options.copy {
        "copied to the client"
    } else {
        "thrown away in the client's kernel (plain), decrypted (TLS)"
    };
    report.condition("bodies", bodies);
    report.condition("olareg and distribution 3, where built", "without users; olareg without access log and sync");
    cpu::pin(cpu::CLIENT_CORE);
    let bench = Bench::prepare(options, scratch.path())?;
    for row in rows(options) {
        eprintln!("{}", row.name());
        if let Err(error) = bench.row(row, &mut report) {
            interrupt::check()?;
            report.failure(row.name(), format!("{error:#}"));
        }
        bench.clear()?;
    }
    scratch.close().context("the folder of the stores can't be removed")?;
    Ok(report)
}

fn rows(options: &HotPathsOptions) -> Vec<Row> {
    if options.rows.is_empty() { Row::value_variants().to_vec() } else { options.rows.clone() }
}

/// What all rows share.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    options: &'a HotPathsOptions,
    scratch: &'a Path,
    p256: Certificate,
    rsa: Certificate,
    stored: Stored,
}

impl<'a> Bench<'a> {
    fn prepare(options: &'a HotPathsOptions, scratch: &'a Path) -> Result<Self> {
        let p256 = Certificate::make(scratch, Key::P256)?;
        let rsa = Certificate::make(scratch, Key::Rsa2048)?;
        let stored = Stored::make(scratch, options.size)?;
        Ok(Self { options, scratch, p256, rsa, stored })
    }

    fn row(&self, row: Row, report: &mut Report) -> Result<()> {
        match row {
            Row::BlobPlain | Row::BlobTls => blobs::large(self, report, row, row == Row::BlobTls),
            Row::Blob4kPlain | Row::Blob4kTls => blobs::small(self, report, row, row == Row::Blob4kTls),
            Row::ManifestPlain | Row::ManifestTls => manifests::run(self, report, row, row == Row::ManifestTls),
            Row::Handshake => handshakes::run(self, report, row),
            Row::Push => push::run(self, report, row),
            Row::ColdProxy => cold::run(self, report, row),
            Row::Direct => direct::run(self, report, row),
            Row::SlowReaders => slow::run(self, report, row),
            Row::P99 => tail::run(self, report, row),
            Row::FsyncLatency => disk::run(self, report, row),
        }
    }

    fn rounds(&self) -> u32 {
        self.options.rounds
    }

    fn seconds(&self) -> Duration {
        Duration::from_secs_f64(self.options.seconds)
    }

    /// How a load is measured. Slices are much shorter than the bursts of a noisy machine, and long enough for warm
    /// caches.
    fn slices(&self) -> Slices {
        Slices::cut(self.seconds(), SLICE)
    }

    /// The same for downloads in slices, which begin with every slice, in one of their shorter rounds.
    fn long_slices(&self) -> Slices {
        Slices::cut(self.seconds() / 2, LONG_SLICE)
    }

    /// The client's side for the P-256 certificate, if TLS is wanted.
    fn client(&self, tls: bool) -> Result<Option<Arc<ClientConfig>>> {
        tls.then(|| self.p256.client(self.options.suite, false)).transpose()
    }

    /// Before a large blob is stored by processes that are measured: what was done before is over, on the disk too, and
    /// there is memory for the blob and a little else.
    fn before_storing(&self, pids: &[u32]) -> Result<()> {
        rustix::fs::sync();
        cpu::settle(pids)?;
        memory::have_backed(self.scratch, self.options.size + self.options.size / 4)
    }

    fn rows_folder(&self) -> PathBuf {
        self.scratch.join("row")
    }

    /// Removes what the last row stored: all rows together would fill a disk.
    fn clear(&self) -> Result<()> {
        let dir = self.rows_folder();
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        Ok(())
    }

    /// A folder of the row that runs; it goes with the row.
    fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.rows_folder().join(name);
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

    /// Our server on a store, plain, as Local.
    fn setup<'s>(&'s self, store: &'s Path, dir: &'s Path) -> Setup<'s> {
        Setup {
            program: &self.options.server,
            store,
            dir,
            certificate: None,
            client: None,
            access_log: !self.options.access_log_off,
            upstream: None,
            write_limit: None,
        }
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

    /// nginx with the folder of an upstream's blobs, on the clients' core, with its access log.
    fn upstream(&self, row: Row, tls: bool) -> Result<(Nginx, Upstream, PathBuf)> {
        let client = self.client(tls)?;
        let certificate = tls.then_some(&self.p256);
        let listening = Listening { certificate, client: client.as_ref(), access_log: true };
        let name = format!("{}-upstream{}", row.name(), if tls { "-tls" } else { "" });
        let (dir, files) = (self.dir(&name)?, self.dir(&format!("{name}-files"))?);
        let nginx = Nginx::start(&dir, Role::Upstream(&files), listening, &Request::get("/v2/", None))?;
        let upstream = nginx.as_upstream(certificate);
        let blobs = files.join("v2").join(MAPPED).join("blobs");
        std::fs::create_dir_all(&blobs).with_context(|| format!("create {}", blobs.display()))?;
        Ok((nginx, upstream, blobs))
    }
}

/// Sides take turns so often.
const SLICE: Duration = Duration::from_millis(200);
/// The same where connections are made anew each time.
const LONG_SLICE: Duration = Duration::from_secs(1);
/// The name that Direct and Proxy show, and that the upstream has.
const MAPPED: &str = "system/deckhouse";
