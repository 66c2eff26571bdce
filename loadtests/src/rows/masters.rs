//! Several masters with a Local each: a blob that another one has, a push, and what they cost while nothing happens.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{slice, thread};

use anyhow::{Context as _, Result, ensure};
use d8_registry::oci::{Algorithm, Digest};

use super::cold::{empty, place_upstream, pull_at_once};
use super::{Bench, MAPPED, Row};
use crate::baseline::masters::Master;
use crate::baseline::ours::{Ours, Setup, basic};
use crate::client::upload::Fresh;
use crate::client::{Request, Tally, Wire, fetch, push, verify};
use crate::compare::{Measure, Sample, Sum, median};
use crate::cpu::{self, Meter};
use crate::engine::{Contest, Side};
use crate::interrupt;
use crate::proc::{Memory, mebibytes};
use crate::registry::Registry;
use crate::report::{Report, Target};
use crate::seed::{self, SeedOptions};

/// Pulls of each side.
const ROUNDS: u32 = 8;
/// Times of the CPU of a cold pull through Proxy, both ends of either.
const LIMIT: f64 = 1.3;

/// Pushes of each side.
const PUSHES: u32 = 6;
/// Times of the CPU of a push to one that is alone, all three.
const PUSH_LIMIT: f64 = 4.5;
/// How often the last master is asked whether it has it: its answers count.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest wait for the last master, which no client waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Of the idle ones, and of those that are pushed to.
const MASTERS: u8 = 3;
const TAGS: u32 = 100_000;
const REPOSITORIES: u32 = 1000;
/// Of the images that are pushed.
const CONFIG: &[u8] = b"{}";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// How long nothing happens, in times of `--times`.
const IDLE: Duration = Duration::from_secs(60);
/// What is left of a start.
const SETTLE: Duration = Duration::from_secs(15);
/// Limits for each master: bytes a second, parts of a core, MiB more than one that is alone.
const BYTES_PER_SECOND: f64 = 1000.0;
/// Bytes a second of all masters from which on they count as having the same records: far above what idle ones may send.
const QUIET: f64 = 30.0 * BYTES_PER_SECOND;
/// Longest wait for that.
const JOINED: Duration = Duration::from_secs(600);
const CORE: f64 = 0.001;
const MORE_MIB: f64 = 24.0;

/// One client pulls a blob that another master has, beside a cold pull of the same size through Proxy from an upstream over
/// TLS: the CPU of whoever gives and whoever passes on.
pub(crate) fn read_through(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let dir = bench.dir(&row.name())?;
    let masters = Master::several(2, &dir)?;
    let start = |number: usize| {
        let own = dir.join(format!("master-{number}"));
        Ours::start(&Setup { master: Some(&masters[number]), ..bench.setup(&own.join("store"), &own) })
    };
    let (asked, holder) = (start(0)?, start(1)?);
    let (nginx, upstream, blobs) = bench.upstream(row, (true, None))?;
    let client = bench.client(true)?;
    let proxy = Ours::start(&Setup {
        certificate: Some(&bench.p256),
        client: client.as_ref(),
        upstream: Some(("Proxy", &upstream)),
        ..bench.setup(&dir.join("proxy/store"), &dir.join("proxy"))
    })?;
    let fresh = RefCell::new(Fresh::new(bench.options.size));
    let measured = |round: u32, is_ours: bool| {
        let number = u64::from(round) * 2 + u64::from(is_ours);
        let (digest, place, mut pids) = if is_ours {
            let mut fresh = fresh.borrow_mut();
            let (content, digest) = fresh.content(number);
            push(&mut Wire::connect(&holder.place)?, MAPPED, content, &digest, Some(&basic()))?;
            (digest, &asked.place, asked.process.pids())
        } else {
            (place_upstream(&mut fresh.borrow_mut(), number, &blobs)?, &proxy.place, proxy.process.pids())
        };
        pids.extend(if is_ours { holder.process.pids() } else { nginx.process.pids() });
        let request = Request::get(&format!("/v2/{MAPPED}/blobs/{digest}"), Some(&basic()));
        bench.before_storing(&pids)?;
        let meter = Meter::start(&pids)?;
        let wall = pull_at_once(&[(place.clone(), request.clone())], None)?;
        // Work that is done after the last byte was sent, such as a sync, belongs to the pull.
        cpu::settle(&pids)?;
        let mut spent = meter.read()?;
        spent.wall = wall.as_secs_f64();
        verify(place, &request, &digest)?;
        empty(&blobs)?;
        let bytes = u64::from(bench.options.size) << 20;
        Ok(Sum::of(spent, Tally { answers: 1, bytes, ..Tally::nothing()? }))
    };
    let name = format!("pull of {} MiB that another master has, both ends", bench.options.size);
    let mut contest = Contest::new(row.name());
    let sides = (
        contest.side(Side::operation(|round| measured(round, true))),
        contest.side(Side::operation(|round| measured(round, false))),
    );
    contest.pair(name, Measure::CpuSeconds, sides, "Proxy and its upstream", Some(LIMIT));
    let comparisons = contest.measured(bench.operations(ROUNDS), report)?;
    let walls = |side: &[Sample]| median(&side.iter().map(|sample| sample.spent.wall * 1000.0).collect::<Vec<_>>());
    for comparison in &comparisons {
        report.fact("pull from another master: time, median", walls(&comparison.ours), "ms");
        report.fact("the same through Proxy, cold", walls(&comparison.theirs), "ms");
    }
    report.comparisons.extend(comparisons);
    Ok(())
}

/// One client pushes an image to one of three masters, beside a push to one that is alone: the CPU of all until each has it. Two have
/// it when the push is answered (`replicas.minCopies`), the third takes it all the same.
pub(crate) fn pushed(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let dir = bench.dir(&row.name())?;
    let masters = Master::several(MASTERS, &dir)?;
    let start = |number: usize| {
        let own = dir.join(format!("master-{number}"));
        Ours::start(&Setup { master: Some(&masters[number]), ..bench.setup(&own.join("store"), &own) })
    };
    let several = (0..masters.len()).map(start).collect::<Result<Vec<_>>>()?;
    let (own, client) = (dir.join("alone"), bench.client(true)?);
    let alone = Ours::start(&Setup {
        certificate: Some(&bench.p256),
        client: client.as_ref(),
        ..bench.setup(&own.join("store"), &own)
    })?;
    let fresh = RefCell::new(Fresh::new(bench.options.size));
    let measured = |round: u32, is_ours: bool| {
        let servers = if is_ours { &several[..] } else { slice::from_ref(&alone) };
        let pids: Vec<u32> = servers.iter().flat_map(|server| server.process.pids()).collect();
        let mut fresh = fresh.borrow_mut();
        let (content, digest) = fresh.content(u64::from(round) * 2 + u64::from(is_ours));
        let image = PushedImage::of(&servers[0], content, &digest);
        bench.before_storing(&pids)?;
        let meter = Meter::start(&pids)?;
        image.push(content, &digest)?;
        servers.iter().try_for_each(|server| image.until_at(server))?;
        // Work that is done after the last byte was sent, such as a sync, belongs to the push.
        cpu::settle(&pids)?;
        let sum = Sum::of(
            meter.read()?,
            Tally { answers: 1, bytes: u64::from(bench.options.size) << 20, ..Tally::nothing()? },
        );
        for server in servers {
            verify(
                &server.place,
                &Request::get(&image.registry.path(&format!("blobs/{digest}")), Some(&basic())),
                &digest,
            )?;
        }
        image.delete(&digest)?;
        Ok(sum)
    };
    let name = format!("push of {} MiB to three masters, until each has it", bench.options.size);
    let mut contest = Contest::new(row.name());
    let sides = (
        contest.side(Side::operation(|round| measured(round, true))),
        contest.side(Side::operation(|round| measured(round, false))),
    );
    contest.pair(name, Measure::CpuSecondsPerGigabyteStored, sides, "one that is alone", Some(PUSH_LIMIT));
    contest.run(bench.operations(PUSHES), report)
}

/// An image of one layer.
struct PushedImage {
    /// Where it is pushed.
    registry: Registry,
    manifest: String,
    name: Digest,
}

impl PushedImage {
    fn of(server: &Ours, content: &[u8], layer: &Digest) -> Self {
        let layer = testkit::descriptor_of("application/vnd.oci.image.layer.v1.tar", layer, content.len());
        let config = testkit::descriptor("application/vnd.oci.image.config.v1+json", CONFIG);
        let manifest = testkit::image(&config, &[layer]).to_string();
        let registry = Registry {
            place: server.place.clone(),
            repository: MAPPED.to_owned(),
            authorization: Some(basic()),
            pids: Vec::new(),
        };
        let name = Algorithm::Sha256.digest(manifest.as_bytes());
        Self { registry, manifest, name }
    }

    fn push(&self, content: &[u8], layer: &Digest) -> Result<()> {
        let mut wire = Wire::connect(&self.registry.place)?;
        for (content, digest) in [(content, layer), (CONFIG, &Algorithm::Sha256.digest(CONFIG))] {
            push(&mut wire, MAPPED, content, digest, Some(&basic()))?;
        }
        self.registry.put_manifest(&mut wire, "pushed", MANIFEST, self.manifest.as_bytes())
    }

    /// Waits until a server has all of it.
    fn until_at(&self, server: &Ours) -> Result<()> {
        let path = self.registry.path(&format!("manifests/{}", self.name));
        let own = Request::new("HEAD", &path, Some(&basic()), "d8-hop: 1\r\n");
        let (mut wire, end) = (Wire::connect(&server.place)?, Instant::now() + PATIENCE);
        while fetch(&mut wire, &own, &[])?.status != 200 {
            ensure!(Instant::now() < end, "a master does not take it: {:?}", server.place);
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// At all masters: a disk has room for one at a time.
    fn delete(&self, layer: &Digest) -> Result<()> {
        let mut wire = Wire::connect(&self.registry.place)?;
        for what in [format!("manifests/{}", self.name), format!("blobs/{layer}")] {
            let delete = Request::new("DELETE", &self.registry.path(&what), Some(&basic()), "");
            let deleted = fetch(&mut wire, &delete, &[])?;
            ensure!(deleted.status == 202, "DELETE: {}", deleted.answer.text());
        }
        Ok(())
    }
}

/// Three masters with the same 100,000 tags, of which nobody wants anything, beside one alone. All cores.
pub(crate) fn idle(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let dir = bench.dir(&row.name())?;
    cpu::on(None, || idle_measured(bench, report, &dir))
}

fn idle_measured(bench: &Bench<'_>, report: &mut Report, dir: &Path) -> Result<()> {
    let when = format!(", {TAGS} tags, idle");
    let program = &bench.options.server;
    let masters = Master::several(MASTERS, dir)?;
    let stores: Vec<_> = (0..masters.len()).map(|number| dir.join(format!("store-{number}"))).collect();
    for store in &stores {
        let wanted =
            SeedOptions { dir: store.clone(), repositories: REPOSITORIES, tags: TAGS, blobs: 1, blob_size: 1024 };
        seed::seed(&wanted, interrupt::flag())?;
    }
    let alone = Ours::start(&Setup { all_cores: true, ..Setup::local(program, &stores[0], &dir.join("alone")) })?;
    thread::sleep(SETTLE);
    let alone_own = Memory::of_all(&alone.process.pids())?.own;
    drop(alone);
    let start = |number: usize| {
        let own = dir.join(format!("master-{number}"));
        let setup = Setup::local(program, &stores[number], &own);
        Ours::start(&Setup { all_cores: true, master: Some(&masters[number]), ..setup })
    };
    let running = (0..masters.len()).map(start).collect::<Result<Vec<_>>>()?;
    let joined = until_quiet()?;
    report.fact(
        format!("until three masters with stores of their own have the same records, {TAGS} tags"),
        joined,
        "s",
    );
    let pids: Vec<u32> = running.iter().flat_map(|master| master.process.pids()).collect();
    let (meter, before) = (Meter::start(&pids)?, loopback_bytes()?);
    thread::sleep(IDLE.mul_f64(bench.options.times));
    let (spent, bytes) = (meter.read()?, loopback_bytes()? - before);
    let each = f64::from(MASTERS) * spent.wall;
    report.judge(format!("bytes of a master{when}"), bytes as f64 / each, "/s", Target::Below(BYTES_PER_SECOND));
    report.judge(format!("CPU of a master{when}"), spent.cpu / each * 100.0, "%", Target::Below(CORE * 100.0));
    let most = running.iter().map(|master| Memory::of_all(&master.process.pids()));
    let most = most.collect::<Result<Vec<_>>>()?.into_iter().map(|memory| memory.own).max().unwrap_or_default();
    report.fact(format!("RssAnon+RssShmem, alone{when}"), mebibytes(alone_own), "MiB");
    let more = mebibytes(most) - mebibytes(alone_own);
    report.judge(format!("the most of three masters, more than that{when}"), more, "MiB", Target::Below(MORE_MIB));
    drop(running);
    stores.iter().try_for_each(|store| seed::remove(store))
}

/// Waits until masters have told each other what they have: stores that were filled apart differ in the clock of each record. Says how
/// long that took, in seconds and steps of 15.
fn until_quiet() -> Result<f64> {
    let began = Instant::now();
    loop {
        let before = loopback_bytes()?;
        thread::sleep(SETTLE);
        let bytes = loopback_bytes()? - before;
        if bytes as f64 / SETTLE.as_secs_f64() < QUIET {
            return Ok(began.elapsed().as_secs_f64());
        }
        ensure!(began.elapsed() < JOINED, "masters go on telling each other their records");
    }
}

/// Bytes that went over the loopback, frames and all: in a network of the row's own nobody else speaks.
fn loopback_bytes() -> Result<u64> {
    // `/sys` would tell of the network in which it was mounted.
    let path = "/proc/net/dev";
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let counts = text.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    // Eight of what was received stand before it.
    let sent = counts.and_then(|counts| counts.split_ascii_whitespace().nth(8));
    sent.and_then(|sent| sent.parse().ok()).with_context(|| format!("{path} has no number"))
}
