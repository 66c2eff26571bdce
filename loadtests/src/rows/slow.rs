//! Memory: idle, with many slow readers, with many pushes at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::blobs::transport;
use super::push::{self, Fresh};
use super::stored::{REPOSITORY, Stored};
use super::{Bench, Row, peers};
use crate::client::exchange::{Request, fetch};
use crate::interrupt;
use crate::proc::{Memory, mebibytes};
use crate::report::{Report, Unit};
use crate::client::wire::{Place, Received, Wire, would_block};
use crate::baseline::Process;
use crate::baseline::ours::{Ours, Setup, basic};
use crate::baseline::peer::Peer;

const READERS: usize = 256;
const PUSHES: usize = 64;
/// Of the blob that is read slowly.
const LARGE_MIB: u32 = 1024;
/// Of each push.
const PUSH_MIB: u32 = 16;
/// Below this, in MiB: idle; under load.
const IDLE: f64 = 15.0;
const LOADED: f64 = 64.0;
/// Each reader reads so much at a time, and all of them once in a while.
const SIP: usize = 16 * 1024;
const PAUSE: Duration = Duration::from_millis(100);
/// A server is called idle so long after its start.
const SETTLE: Duration = Duration::from_secs(2);

/// Each with a server of its own.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let dir = bench.dir(&row.name())?;
    let empty = Ours::start(&bench.setup(&dir.join("empty"), &dir.join("idle")))?;
    thread::sleep(SETTLE);
    empty.process.memory()?.judge(report, ", idle, empty store", IDLE);
    drop(empty);
    let large = Stored::make(&dir.join("large"), LARGE_MIB)?;
    for tls in [false, true] {
        readers(bench, report, &large, tls)?;
    }
    for tls in [false, true] {
        pushes(bench, report, &dir, tls)?;
    }
    others(bench, report, &large);
    Ok(())
}

/// The same of other registries, plain, without a target.
fn others(bench: &Bench<'_>, report: &mut Report, large: &Stored) {
    for peer in peers::start(bench, report, |_| Ok(())) {
        let name = peer.kind.name();
        if let Err(error) = other(bench, report, large, &peer) {
            report.absence(name, format!("memory: {error:#}"));
        }
    }
}

fn other(bench: &Bench<'_>, report: &mut Report, large: &Stored, peer: &Peer) -> Result<()> {
    let name = peer.kind.name();
    thread::sleep(SETTLE);
    peer.process.memory()?.add_to(report, &format!(", idle, empty store, {name}"));
    // All at once first: the large blob would be in what they hold.
    let mut fresh = Fresh::new(PUSH_MIB);
    let pushing = peak_while(&peer.process, || all_at_once(&peer.place, None, &mut fresh))?;
    pushing.add_to(report, &format!(", {PUSHES} pushes of {PUSH_MIB} MiB at once, plain, {name}"));
    peers::give_blob(peer, large, &large.blob)?;
    let request = Request::get(&format!("/v2/{REPOSITORY}/blobs/{}", large.blob), None);
    let mut served = 0;
    let reading = peak_while(&peer.process, || {
        served = sip(bench, &peer.place, &request)?;
        Ok(())
    })?;
    let all = if served == READERS { String::new() } else { format!(" ({served} of them got something in time)") };
    reading.add_to(report, &format!(", {READERS} slow readers{all} of {LARGE_MIB} MiB, plain, {name}"));
    Ok(())
}

fn readers(bench: &Bench<'_>, report: &mut Report, large: &Stored, tls: bool) -> Result<()> {
    let client = bench.client(tls)?;
    let dir = bench.dir(&format!("slow-readers-{}", transport(tls)))?;
    let ours = Ours::start(&Setup {
        certificate: tls.then_some(&bench.p256),
        client: client.as_ref(),
        ..bench.setup(&large.dir, &dir)
    })?;
    let request = Request::get(&format!("/v2/{REPOSITORY}/blobs/{}", large.blob), Some(&basic()));
    let peak = peak_while(&ours.process, || {
        let served = sip(bench, &ours.place, &request)?;
        ensure!(served == READERS, "only {served} of {READERS} readers got something");
        Ok(())
    })?;
    peak.judge(report, &format!(", {READERS} slow readers of {LARGE_MIB} MiB, {}", transport(tls)), LOADED);
    Ok(())
}

/// Readers that take a little of the answer once in a while; how many of them got any of the body.
fn sip(bench: &Bench<'_>, place: &Place, request: &Request) -> Result<usize> {
    let mut wires = Vec::new();
    for _ in 0..READERS {
        let mut wire = Wire::connect(place)?;
        wire.send(request.bytes())?;
        wire.make_nonblocking()?;
        wires.push(wire);
    }
    let mut scratch = vec![0; SIP];
    let mut read = vec![0_u64; READERS];
    let end = Instant::now() + bench.seconds().max(Duration::from_secs(2));
    while Instant::now() < end {
        interrupt::check()?;
        for (wire, read) in wires.iter_mut().zip(&mut read) {
            let received = wire.receive(0, &mut scratch, &mut |piece| {
                *read += piece.len() as u64;
                Ok(())
            });
            match received {
                Ok(received) => ensure!(received != Received::End, "a reader was cut off"),
                Err(error) if would_block(&error) => (),
                Err(error) => return Err(error),
            }
        }
        thread::sleep(PAUSE);
    }
    Ok(read.iter().filter(|read| **read > 1000).count())
}

fn pushes(bench: &Bench<'_>, report: &mut Report, dir: &std::path::Path, tls: bool) -> Result<()> {
    let client = bench.client(tls)?;
    let dir = dir.join(format!("pushes-{}", transport(tls)));
    let ours = Ours::start(&Setup {
        certificate: tls.then_some(&bench.p256),
        client: client.as_ref(),
        ..bench.setup(&dir.join("store"), &dir)
    })?;
    let mut fresh = Fresh::new(PUSH_MIB);
    let peak = peak_while(&ours.process, || all_at_once(&ours.place, Some(&basic()), &mut fresh))?;
    let when = format!(", {PUSHES} pushes of {PUSH_MIB} MiB at once, {}", transport(tls));
    peak.judge(report, &when, LOADED);
    report.fact(format!("threads{when}"), crate::proc::threads(ours.process.pids()[0])? as f64, Unit::Count);
    Ok(())
}

/// One thread keeps them all under way: the first half of each, then the second halves by turns.
fn all_at_once(place: &Place, authorization: Option<&str>, fresh: &mut Fresh) -> Result<()> {
    let mut under_way = Vec::new();
    for number in 0..PUSHES {
        let (content, digest) = fresh.content(number as u64);
        let mut wire = Wire::connect(place)?;
        let upload = push::begin(&mut wire, push::REPOSITORY, authorization)?;
        upload.patch_head(&mut wire, content.len())?;
        wire.send(&content[..content.len() / 2])?;
        under_way.push((wire, upload, digest));
    }
    let (content, _) = fresh.content(0);
    for piece in content[content.len() / 2..].chunks(1 << 20) {
        interrupt::check()?;
        for (wire, _, _) in &mut under_way {
            wire.send(piece)?;
        }
    }
    for (wire, upload, _) in &mut under_way {
        upload.patched(wire)?;
    }
    let mut last = None;
    for (mut wire, upload, digest) in under_way {
        upload.finish(&mut wire, &digest)?;
        last = Some((wire, digest));
    }
    let (mut last, digest) = last.context("no push")?;
    let path = format!("/v2/{}/blobs/{digest}", push::REPOSITORY);
    let reply = fetch(&mut last, &Request::new("HEAD", &path, authorization, ""), &[])?;
    ensure!(reply.status == 200, "what was pushed is not there: {}", reply.answer.text());
    Ok(())
}

/// The most that the process held at any look while `work` ran.
fn peak_while(process: &Process, work: impl FnOnce() -> Result<()>) -> Result<Memory> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut peak = process.memory()?;
            while !done.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20));
                let now = process.memory()?;
                peak = peak.most(now);
            }
            anyhow::Ok(peak)
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        let peak = looking.join().ok().context("the looking panicked")?;
        result.with_context(|| {
            let held = peak.as_ref().map_or(0.0, |peak| mebibytes(peak.own));
            format!("the server held {held:.0} MiB and said:\n{}", process.last_words())
        })?;
        peak
    })
}
