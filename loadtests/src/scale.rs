//! How the cost of an operation grows: with the blobs of a store, the tags of a repository, connections, and a blob's size.
//! All lines but those of bytes ought to be flat.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use d8_registry::oci::{Algorithm, Digest, Hasher, RepoName};
use d8_registry::store::{BulkWriter, Store};
use indicatif::ProgressBar;

use crate::cpu::{self, Meter};
use crate::drive::{Driver, Load};
use crate::exchange::{self, Request};
use crate::interrupt;
use crate::proc::mebibytes;
use crate::report::Report;
use crate::seed::{self, SeedOptions};
use crate::yardstick::ours::{Ours, Setup, basic};

const WARM_UP: Duration = Duration::from_millis(200);

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Axis {
    /// Blobs of the store, in repositories of 100.
    Blobs,
    /// Tags of one repository.
    Tags,
    /// Connections.
    Connections,
    /// Size of a blob.
    Sizes,
}

impl Axis {
    const fn over(self) -> &'static str {
        match self {
            Self::Blobs => "blobs",
            Self::Tags => "tags of a repository",
            Self::Connections => "connections",
            Self::Sizes => "KiB of a blob",
        }
    }

    const fn steps(self) -> &'static [u64] {
        match self {
            Self::Blobs => &[100, 10_000, 1_000_000],
            Self::Tags => &[10, 1000, 100_000],
            Self::Connections => &[1, 10, 100, 1000, 2000],
            Self::Sizes => &[1, 32, 1024, 32 * 1024, 1024 * 1024, 4 * 1024 * 1024],
        }
    }
}

/// What to run it with.
#[derive(Args, Clone, Debug)]
pub(crate) struct ScaleOptions {
    /// The server: a release build of d8-registry.
    #[arg(long, value_name = "PROGRAM")]
    server: PathBuf,
    /// Only these (default: all).
    #[arg(long = "axis", value_enum)]
    axes: Vec<Axis>,
    /// No step above this. A million blobs take about 8 GiB and some minutes.
    #[arg(long)]
    most: Option<u64>,
    /// Length of one measurement in seconds.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Where stores are made (default: the folder for temporary files).
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

/// Runs it.
pub(crate) fn run(options: &ScaleOptions) -> Result<Report> {
    ensure!(options.seconds > 0.0 && options.seconds <= 600.0, "--seconds has to be more than 0, at most 600");
    let mut report = Report::new("scale");
    report.condition("seconds of a measurement", options.seconds);
    cpu::pin(cpu::CLIENT_CORE);
    let axes = if options.axes.is_empty() { Axis::value_variants().to_vec() } else { options.axes.clone() };
    let all = axes.into_iter().flat_map(|axis| axis.steps().iter().map(move |step| (axis, *step)));
    let steps: Vec<(Axis, u64)> = all.filter(|(_, step)| options.most.is_none_or(|most| *step <= most)).collect();
    let bar = ProgressBar::new(steps.len() as u64);
    for (axis, step) in steps {
        interrupt::check()?;
        bar.set_message(format!("{step} {}", axis.over()));
        // A folder for each: what one step wrote must not fill the disk of the next.
        let scratch = match &options.scratch {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        };
        let scratch = scratch.context("the folder for the store can't be made")?;
        let measured = Step { options, dir: scratch.path(), axis, step }.run(&mut report);
        if let Err(error) = measured {
            interrupt::check()?;
            report.failure(format!("{step} {}", axis.over()), format!("{error:#}"));
        }
        scratch.close().context("the folder of the store can't be removed")?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(report)
}

struct Step<'a> {
    options: &'a ScaleOptions,
    dir: &'a Path,
    axis: Axis,
    step: u64,
}

impl Step<'_> {
    fn run(&self, report: &mut Report) -> Result<()> {
        match self.axis {
            Axis::Blobs => {
                // Each repository: 98 layers, a configuration and a manifest.
                self.seeded(report, u32::try_from(self.step / 100)?, 98, 1, 8)
            }
            Axis::Tags => self.seeded(report, 1, 1, u32::try_from(self.step)?, 8),
            Axis::Connections => self.seeded(report, 1, 1, 100, usize::try_from(self.step)?),
            Axis::Sizes => self.sized(report),
        }
    }

    fn point(&self, report: &mut Report, name: &str, value: f64) {
        report.point(name, self.axis.over(), self.step as f64, value);
    }

    fn server(&self, store: &Path) -> Result<Ours> {
        Ours::start(&Setup {
            program: &self.options.server,
            store,
            dir: self.dir,
            certificate: None,
            client: None,
            access_log: true,
            upstream: None,
            write_limit: None,
        })
    }

    fn seeded(&self, report: &mut Report, repositories: u32, blobs: u32, tags: u32, connections: usize) -> Result<()> {
        let store = self.dir.join("store");
        let wanted =
            SeedOptions { dir: store.clone(), repositories, tags: repositories * tags, blobs, blob_size: 1024 };
        seed::seed(&wanted, &AtomicBool::new(false))?;
        let rebuilt = rebuild(&self.options.server, &store)?;
        self.point(report, "rebuild of the index, ms", rebuilt.as_secs_f64() * 1e3);
        self.point(report, "index on the disk, KiB", folder_size(&store.join("index"))? as f64 / 1024.0);
        let ours = self.server(&store)?;
        self.point(report, "start until ready, ms", ours.start.as_secs_f64() * 1e3);
        self.point(report, "idle, RssAnon+RssShmem, MiB", mebibytes(ours.process.memory()?.own));

        // The one in the middle: nothing is found sooner for having been written first.
        let repository = seed::repository(repositories / 2);
        let by_tag = format!("/v2/{repository}/manifests/{}", seed::tag(tags / 2));
        let manifest = exchange::ask(&ours.place, &Request::get(&by_tag, Some(&basic())))?.body;
        let digest = Algorithm::Sha256.digest(&manifest);
        let parsed = d8_registry::oci::Manifest::parse(None, &manifest)?;
        let layer = parsed.required_blobs().last().context("an image without layers")?.digest;
        let asked = [
            ("manifest GET by tag", by_tag),
            ("manifest GET by digest", format!("/v2/{repository}/manifests/{digest}")),
            ("blob GET, 1 KiB", format!("/v2/{repository}/blobs/{layer}")),
            ("page of 10 tags", format!("/v2/{repository}/tags/list?n=10&last={}", seed::tag(tags / 2))),
        ];
        for (name, path) in asked {
            let (cpu, _) = self.cost(&ours, &path, connections)?;
            self.point(report, &format!("{name}, CPU-us"), cpu);
        }
        self.point(report, "after the load, RssAnon+RssShmem, MiB", mebibytes(ours.process.memory()?.own));
        Ok(())
    }

    fn sized(&self, report: &mut Report) -> Result<()> {
        let store = self.dir.join("store");
        let digest = one_blob(&store, self.step * 1024)?;
        let ours = self.server(&store)?;
        let path = format!("/v2/load/sized/blobs/{digest}");
        // Checked, and in memory from then on.
        exchange::verify(&ours.place, &Request::get(&path, Some(&basic())), &digest)?;
        let (_, gigabyte) = self.cost(&ours, &path, 8)?;
        self.point(report, "blob GET, CPU-s/GB", gigabyte);
        self.point(report, "after the load, RssAnon+RssShmem, MiB", mebibytes(ours.process.memory()?.own));
        Ok(())
    }

    /// CPU microseconds of an answer, CPU seconds of a gigabyte.
    fn cost(&self, ours: &Ours, path: &str, connections: usize) -> Result<(f64, f64)> {
        let requests = vec![Request::get(path, Some(&basic()))];
        let place = ours.place.clone();
        let mut driver = Driver::connect(Load { place, requests, connections, rate: None, copying: false })?;
        driver.run(WARM_UP)?;
        let pids = ours.process.pids();
        let meter = Meter::start(&pids)?;
        let tally = driver.run(Duration::from_secs_f64(self.options.seconds))?;
        let cpu = meter.read()?.cpu;
        Ok((cpu * 1e6 / tally.answers as f64, cpu / (tally.bytes as f64 / 1e9)))
    }
}

/// A store with one blob of zeroes, as a file with no data in it: 4 GiB need no room that way.
fn one_blob(store: &Path, size: u64) -> Result<Digest> {
    Store::init(store)?;
    let repository: RepoName = "load/sized".parse()?;
    let mut writer = BulkWriter::open(store)?;
    // A small one makes the folders; it goes again below.
    let small = writer.blob(&repository, b"small")?;
    writer.finish()?;
    let piece = vec![0; 1 << 20];
    let (mut hasher, mut left) = (Hasher::new(Algorithm::Sha256), size);
    while left > 0 {
        let count = left.min(1 << 20);
        hasher.update(&piece[..usize::try_from(count)?]);
        left -= count;
    }
    let digest = hasher.finish();
    let (small, hex) = (small.hex(), digest.hex());
    let content = store.join("blobs/sha256").join(&hex[..2]).join(&hex);
    fs::File::create(&content)?.set_len(size)?;
    let member = store.join("repositories/load/sized/_blobs/sha256");
    fs::hard_link(&content, member.join(&hex)).context("link the blob")?;
    fs::remove_file(member.join(&small))?;
    Ok(digest)
}

fn rebuild(program: &Path, store: &Path) -> Result<Duration> {
    let started = Instant::now();
    let output = Command::new(program)
        .args(["index", "rebuild", "--data-dir"])
        .arg(store)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {} index rebuild", program.display()))?;
    let took = started.elapsed();
    ensure!(output.status.success(), "index rebuild: {}", String::from_utf8_lossy(&output.stderr));
    Ok(took)
}

fn folder_size(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { folder_size(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}
