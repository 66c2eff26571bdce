//! A push against the floor: the bare loop.

use std::cell::RefCell;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use d8_registry::oci::Digest;

use super::{Bench, Row, transport};
use crate::baseline::ours::{Ours, Setup, basic};
use crate::baseline::{Process, free_port};
use crate::client::upload::Fresh;
use crate::client::{Place, Received, Request, Tally, Wire, fetch, push, verify};
use crate::compare::{Measure, Sum};
use crate::cpu::{self, Meter};
use crate::engine::{Contest, Side};
use crate::report::Report;

/// Times of the bare loop's CPU per byte.
const LIMIT: f64 = 1.35;
/// Pushes of each side.
const ROUNDS: u32 = 11;
/// Rounds to one in which other registries are pushed to: they keep all of it.
const PEERS_EVERY: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(10);
/// The repository that is pushed to.
pub(crate) const REPOSITORY: &str = "load/pushed";

/// CPU per byte.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row, tls: bool) -> Result<()> {
    let client = bench.client(tls)?;
    let dir = bench.dir(&format!("{}-{}", row.name(), transport(tls)))?;
    let ours = Ours::start(&Setup {
        certificate: tls.then_some(&bench.p256),
        client: client.as_ref(),
        ..bench.setup(&dir.join("store"), &dir)
    })?;
    let (bare, place) = bare_loop(bench, &dir, tls)?;
    let others = bench.peers(report, row, tls, |_| Ok(()));
    let fresh = RefCell::new(Fresh::new(bench.options.size));
    let authorization = basic();
    let push_ours = |round: u32| {
        let mut fresh = fresh.borrow_mut();
        let (content, digest) = fresh.content(u64::from(round));
        let sum = measured(bench, &ours.process.pids(), content.len(), || {
            push(&mut Wire::connect(&ours.place)?, REPOSITORY, content, &digest, Some(&authorization))
        })?;
        let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
        verify(&ours.place, &Request::get(&path, Some(&authorization)), &digest)?;
        // As the bare loop does: pages that are kept would leave the next push others, which the host may have taken.
        let delete = Request::new("DELETE", &path, Some(&authorization), "");
        let removed = fetch(&mut Wire::connect(&ours.place)?, &delete, &[])?;
        ensure!(removed.status == 202, "DELETE: {}", removed.answer.text());
        Ok(sum)
    };
    let push_theirs = |round: u32| {
        let mut fresh = fresh.borrow_mut();
        let (content, digest) = fresh.content(u64::from(round));
        measured(bench, &bare.pids(), content.len(), || push_bare(&mut Wire::connect(&place)?, content, &digest))
    };
    let name = format!("push of {} MiB, PATCH and PUT, durable, {}", bench.options.size, transport(tls));
    let mut contest = Contest::new(row.name());
    let sides = (contest.side(Side::operation(push_ours)), contest.side(Side::operation(push_theirs)));
    contest.pair(name, Measure::CpuSecondsPerGigabyteStored, sides, "bare loop", Some(LIMIT));
    for peer in &others {
        let fresh = &fresh;
        let side = Side::operation(move |round| {
            let mut fresh = fresh.borrow_mut();
            let (content, digest) = fresh.content(u64::from(round));
            measured(bench, &peer.process.pids(), content.len(), || {
                push(&mut Wire::connect(&peer.place)?, REPOSITORY, content, &digest, None)
            })
        });
        contest.beside(peer.kind.name(), side.every(PEERS_EVERY));
    }
    contest.run(bench.operations(ROUNDS), report)
}

/// CPU of processes for a push of `bytes` bytes.
fn measured(bench: &Bench<'_>, pids: &[u32], bytes: usize, work: impl FnOnce() -> Result<()>) -> Result<Sum> {
    bench.before_storing(pids)?;
    let meter = Meter::start(pids)?;
    work()?;
    let spent = meter.read()?;
    Ok(Sum::of(spent, Tally { answers: 1, bytes: bytes as u64, ..Tally::nothing()? }))
}

/// Starts the bare loop: this program, with another command.
fn bare_loop(bench: &Bench<'_>, dir: &Path, tls: bool) -> Result<(Process, Place)> {
    let port = free_port()?;
    let files = dir.join("bare");
    std::fs::create_dir_all(&files).with_context(|| format!("create {}", files.display()))?;
    let mut arguments = vec!["bare-loop".into(), "--port".into(), port.to_string(), "--dir".into()];
    arguments.push(files.display().to_string());
    if tls {
        let certificate = &bench.p256;
        let (cert, key) = (certificate.cert_file.display(), certificate.key_file.display());
        arguments.extend(["--cert".into(), cert.to_string(), "--key".into(), key.to_string()]);
    }
    let program = std::env::current_exe().context("where this program is")?;
    let process = Process::start(&program, arguments, Some(cpu::SERVER_CORE), &dir.join("bare.log"))?;
    let place = Place::local(port, bench.client(tls)?);
    let end = Instant::now() + PATIENCE;
    while let Err(error) = Wire::connect(&place) {
        ensure!(Instant::now() < end, "the bare loop does not listen: {error:#}\n{}", process.last_words());
        thread::sleep(Duration::from_millis(5));
    }
    Ok((process, place))
}

fn push_bare(wire: &mut Wire, content: &[u8], digest: &Digest) -> Result<()> {
    wire.send(&(content.len() as u64).to_be_bytes())?;
    wire.send(content)?;
    let (mut answer, mut scratch) = (Vec::new(), [0; 256]);
    while !answer.ends_with(b"\n") {
        let received = wire.receive(0, &mut scratch, &mut |piece| {
            answer.extend_from_slice(piece);
            Ok(())
        })?;
        ensure!(received == Received::Data, "the bare loop broke off");
    }
    ensure!(answer.trim_ascii_end() == digest.to_string().as_bytes(), "the bare loop received something else");
    Ok(())
}
