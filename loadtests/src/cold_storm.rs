//! The scenario of a cold start: many nodes ask a Proxy at once for a blob that it has to fetch over a narrow line.
//!
//! Each round has a blob of its own, so that it is cold. The time of a round is that of its last client; the first round
//! has one client, and the others are held against it. In the last round the first client is killed half-way.
//!
//! With `--url` it is [`cold_any`] instead: an image from any registry.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::Args;
use d8_registry::oci::Algorithm;
use http::Uri;
use indicatif::ProgressBar;
use tokio::task::JoinSet;

use crate::client::{Client, Target as Place};
use crate::cold_any;
use crate::limited::{Held, Limited};
use crate::registry::{Account, Image, Registry};
use crate::report::{Report, Target, Unit};
use crate::server::{Server, unless_interrupted};

/// The name under which clients ask, and below it the repository.
const REPOSITORY: &str = "system/deckhouse/storm";
/// Time of the last of so many clients, in times of a single one.
const RATIOS: [(u32, f64); 2] = [(8, 1.1), (32, 1.15)];

/// What to run it with.
#[derive(Args, Clone, Debug)]
pub(crate) struct ColdStormOptions {
    /// The server: a release build of d8-registry, started as Proxy before an upstream of ours.
    #[arg(long, value_name = "PROGRAM", required_unless_present = "url", conflicts_with = "url")]
    server: Option<PathBuf>,
    /// A registry that runs already, http://host:port or https://host:port, and was not asked for the image yet.
    #[arg(long)]
    url: Option<Uri>,
    #[command(flatten)]
    account: Account,
    #[command(flatten)]
    image: Image,
    /// With --url: clients that pull at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,
    /// Size of the blob in MiB.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    size: u32,
    /// What the upstream's line carries, in MB (millions of bytes) a second.
    #[arg(long, default_value_t = 40.0)]
    rate: f64,
    /// Where the store is made (default: the folder for temporary files).
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

impl ColdStormOptions {
    /// As without arguments.
    pub(crate) fn new(server: PathBuf, scratch: Option<PathBuf>) -> Self {
        let account = Account { user: None, ca: None, pid: None };
        let image = Image { repository: String::new(), tag: String::new() };
        Self { server: Some(server), url: None, account, image, clients: 8, size: 200, rate: 40.0, scratch }
    }
}

/// Runs it.
pub(crate) async fn run(options: &ColdStormOptions) -> Result<Report> {
    if let Some(url) = &options.url {
        let registry = Registry::reach(url, &options.account, &options.image.repository)?;
        let mut report = Report::new("cold-storm");
        report.condition("registry", url);
        // Its clients are threads that block; nothing else runs here meanwhile.
        tokio::task::block_in_place(|| cold_any::run(&registry, &options.image, options.clients, &mut report))?;
        return Ok(report);
    }
    let scratch = match &options.scratch {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let scratch = scratch.context("the folder for the store can't be made")?;
    let mut report = Report::new("cold-storm");
    unless_interrupted(storm(options, scratch.path(), &mut report)).await?;
    scratch.close().context("the folder of the store can't be removed")?;
    Ok(report)
}

async fn storm(options: &ColdStormOptions, scratch: &std::path::Path, report: &mut Report) -> Result<()> {
    ensure!(options.rate > 0.0, "--rate has to be more than 0");
    let upstream = Limited::start(options.rate * 1e6, held(options, 0)).await?;
    let config = scratch.join("config.yaml");
    let text = format!(
        "mode: Proxy\nupstream: {{ imagesRepo: '{}/storm', scheme: HTTP }}\nstore: {{ reserveBytes: 0 }}\n",
        upstream.address()
    );
    std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
    let program = options.server.as_deref().context("--server is missing")?;
    let mut server = Server::start_with(program, &scratch.join("store"), &scratch.join("server.log"), Some(&config))?;
    server.ready().await?;
    let bar = ProgressBar::new(RATIOS.len() as u64 + 2).with_message("cold-storm");
    bar.enable_steady_tick(Duration::from_millis(200));
    let storm = Storm { options, upstream: &upstream, place: server.target(), bar: &bar };
    report.fact("size of the blob", f64::from(options.size), Unit::MebiBytes);
    let single = storm.round(report, 1, false).await?;
    for (clients, limit) in RATIOS {
        let last = storm.round(report, clients, false).await?;
        let name = format!("last of {clients} clients in times of a single one");
        report.judge(name, last.as_secs_f64() / single.as_secs_f64(), Unit::Count, Target::Below(limit));
    }
    let (clients, limit) = RATIOS[0];
    let last = storm.round(report, clients, true).await?;
    let name = format!("the same, first of {clients} clients killed half-way");
    report.judge(name, last.as_secs_f64() / single.as_secs_f64(), Unit::Count, Target::Below(limit));
    bar.finish_and_clear();
    server.stop().await
}

struct Storm<'a> {
    options: &'a ColdStormOptions,
    upstream: &'a Limited,
    place: Place,
    bar: &'a ProgressBar,
}

impl Storm<'_> {
    /// One cold blob for so many clients; the time of the last one.
    async fn round(&self, report: &mut Report, clients: u32, kill_first: bool) -> Result<Duration> {
        let held = held(self.options, u64::from(clients) * 2 + u64::from(kill_first));
        self.upstream.hold(held.clone());
        let path = format!("/v2/{REPOSITORY}/blobs/{}", held.digest);
        let mut readers = JoinSet::new();
        let started = Instant::now();
        for index in 0..clients {
            let stop = if kill_first && index == 0 { held.content.len() / 2 } else { held.content.len() };
            let (place, path, content) = (self.place.clone(), path.clone(), held.content.clone());
            let mut client = Client::connect(&place).await?;
            readers.spawn(async move { read(&mut client, &path, &content, stop).await });
        }
        while let Some(read) = readers.join_next().await {
            read.context("a client panicked")??;
        }
        let last = started.elapsed();
        self.bar.inc(1);
        let with = if kill_first { ", the first killed" } else { "" };
        report.fact(format!("{clients} clients{with}, last done"), last.as_secs_f64() * 1000.0, Unit::Milliseconds);
        let gets = f64::from(self.upstream.gets());
        report.judge(format!("{clients} clients{with}, upstream GETs"), gets, Unit::Count, Target::Exactly(1.0));
        Ok(last)
    }
}

/// Reads the blob up to `stop` bytes, each compared with what it has to be.
async fn read(client: &mut Client, path: &str, content: &[u8], stop: usize) -> Result<()> {
    let mut at = 0;
    client
        .stream_ok(path, |chunk| {
            let end = at + chunk.len();
            ensure!(content.get(at..end) == Some(chunk), "wrong bytes at {at}");
            at = end;
            Ok(at < stop)
        })
        .await?;
    ensure!(at >= stop, "the body ended after {at} bytes of {}", content.len());
    Ok(())
}

/// A blob that no round had before.
fn held(options: &ColdStormOptions, round: u64) -> Held {
    let len = options.size as usize * (1 << 20);
    let mut state = (round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut content = Vec::with_capacity(len);
    while content.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    Held { digest: Algorithm::Sha256.digest(&content).to_string(), content: Bytes::from(content) }
}
