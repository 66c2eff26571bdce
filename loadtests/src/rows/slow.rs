//! Memory: idle, with many slow readers, with many pushes at once.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::push::REPOSITORY;
use super::stored::Stored;
use super::{Bench, Row, peers, transport};
use crate::baseline::Process;
use crate::baseline::ours::{Ours, Setup, basic};
use crate::baseline::peer::Peer;
use crate::client::upload::{Fresh, Upload};
use crate::client::{Place, Received, Request, Wire, fetch, would_block};
use crate::interrupt;
use crate::proc::{self, Memory, mebibytes};
use crate::report::Report;

const READERS: usize = 256;
const PUSHES: usize = 64;
/// Size of the blob that is read slowly.
const LARGE_MIB: u32 = 1024;
/// Size of a push.
const PUSH_MIB: u32 = 16;
/// Limits in MiB: idle; under load.
const IDLE: f64 = 15.0;
const LOADED: f64 = 64.0;
/// Most bytes that a reader takes at once, the pause between two rounds over all readers, and how long they read.
const SIP: usize = 16 * 1024;
const PAUSE: Duration = Duration::from_millis(100);
const READING: Duration = Duration::from_secs(2);
/// Time after its start from which on a server is called idle.
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
        let ours = start(bench, &large.dir, &dir.join(format!("readers-{}", transport(tls))), tls)?;
        let (served, peak) = read(&ours.process, &ours.place, &large, Some(&basic()))?;
        ensure!(served == READERS, "only {served} of {READERS} readers got something");
        peak.judge(report, &format!(", {READERS} slow readers of {LARGE_MIB} MiB, {}", transport(tls)), LOADED);
    }
    for tls in [false, true] {
        let dir = dir.join(format!("pushes-{}", transport(tls)));
        let ours = start(bench, &dir.join("store"), &dir, tls)?;
        let peak = peak_while(&ours.process, || all_at_once(&ours.place, Some(&basic())))?.1;
        let when = format!(", {PUSHES} pushes of {PUSH_MIB} MiB at once, {}", transport(tls));
        peak.judge(report, &when, LOADED);
        report.fact(format!("threads{when}"), proc::threads(ours.process.pids()[0])? as f64, "");
    }
    // The same of other registries, plain, without a target.
    for peer in peers::start(bench, report, row, |_| Ok(())) {
        if let Err(error) = other(report, &large, &peer) {
            report.absence(peer.kind.name(), format!("memory: {error:#}"));
        }
    }
    Ok(())
}

fn start(bench: &Bench<'_>, store: &Path, dir: &Path, tls: bool) -> Result<Ours> {
    let client = bench.client(tls)?;
    let certificate = tls.then_some(&bench.p256);
    Ours::start(&Setup { certificate, client: client.as_ref(), ..bench.setup(store, dir) })
}

fn other(report: &mut Report, large: &Stored, peer: &Peer) -> Result<()> {
    let name = peer.kind.name();
    thread::sleep(SETTLE);
    peer.process.memory()?.add_to(report, &format!(", idle, empty store, {name}"));
    // All at once first: the large blob would be in what they hold.
    let pushing = peak_while(&peer.process, || all_at_once(&peer.place, None))?.1;
    pushing.add_to(report, &format!(", {PUSHES} pushes of {PUSH_MIB} MiB at once, plain, {name}"));
    peers::give_blob(peer, large, &large.blob)?;
    let (served, reading) = read(&peer.process, &peer.place, large, None)?;
    let all = if served == READERS { String::new() } else { format!(" ({served} of them got something in time)") };
    reading.add_to(report, &format!(", {READERS} slow readers{all} of {LARGE_MIB} MiB, plain, {name}"));
    Ok(())
}

/// Readers that take a little of the answer once in a while: how many of them got any of the body, and the memory meanwhile.
fn read(process: &Process, place: &Place, large: &Stored, authorization: Option<&str>) -> Result<(usize, Memory)> {
    let request = Request::get(&Stored::blob_path(&large.blob), authorization);
    peak_while(process, || {
        let mut wires = Vec::new();
        for _ in 0..READERS {
            let mut wire = Wire::connect(place)?;
            wire.send(request.bytes())?;
            wire.make_nonblocking()?;
            wires.push((wire, 0));
        }
        let (mut scratch, end) = (vec![0; SIP], Instant::now() + READING);
        while Instant::now() < end {
            interrupt::check()?;
            for (wire, read) in &mut wires {
                let received = wire.receive(0, &mut scratch, &mut |piece| {
                    *read += piece.len();
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
        // A head alone is shorter than this.
        Ok(wires.iter().filter(|(_, read)| *read > 1000).count())
    })
}

/// Keeps all pushes under way from one thread: the first half of each, then the second halves by turns.
fn all_at_once(place: &Place, authorization: Option<&str>) -> Result<()> {
    let mut fresh = Fresh::new(PUSH_MIB);
    let mut under_way = Vec::new();
    for number in 0..PUSHES {
        let (content, digest) = fresh.content(number as u64);
        let mut wire = Wire::connect(place)?;
        let upload = Upload::begin(&mut wire, REPOSITORY, authorization)?;
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
    let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
    let reply = fetch(&mut last, &Request::new("HEAD", &path, authorization, ""), &[])?;
    ensure!(reply.status == 200, "what was pushed is not there: {}", reply.answer.text());
    Ok(())
}

/// The result of `work` and the most memory that the process held meanwhile. An error has the server's last words.
fn peak_while<T>(process: &Process, work: impl FnOnce() -> Result<T>) -> Result<(T, Memory)> {
    let (result, peak) = proc::peak_while(&process.pids(), work);
    let result = result.with_context(|| {
        let held = peak.as_ref().map_or(0.0, |peak| mebibytes(peak.own));
        format!("the server held {held:.0} MiB and said:\n{}", process.last_words())
    })?;
    Ok((result, peak?))
}
