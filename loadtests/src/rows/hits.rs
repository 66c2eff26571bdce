//! Hits: large and small blobs, and manifests, against files of nginx.

use anyhow::{Result, ensure};

use super::stored::{REPOSITORY, Stored};
use super::{Bench, LONG_SLICE, Row, SLICE, peers, transport};
use crate::baseline::ours::basic;
use crate::client::{Place, Request, ask, verify};
use crate::compare::Measure;
use crate::engine::{Contest, Side};
use crate::report::Report;

/// Large blobs: times of nginx's CPU per byte, plain and over TLS.
const LIMIT: f64 = 1.15;
const TLS_LIMIT: f64 = 1.0;
/// Small answers: times of nginx's answers per CPU second, plain and over TLS. Plain ones were 0.92-1.5 of them by the
/// processor.
const ANSWERS_LIMITS: [f64; 2] = [0.85, 1.0];
/// Pairs of whole downloads. One takes 0.25 s, and two that cost the same differ by a tenth on a machine with neighbours.
const WHOLE: u32 = 40;
/// Pairs of slices of downloads over TLS.
const DOWNLOADED: u32 = 10;
/// Pairs of slices of small answers.
const ASKED: u32 = 25;
/// Rounds to one in which other registries are measured too.
const PEERS_EVERY: u32 = 5;
/// Connections: of downloads, and of small answers.
const FEW: usize = 8;
const MANY: usize = 32;

/// CPU per byte of a large blob, or answers per CPU time of a small one.
pub(crate) fn blobs(bench: &Bench<'_>, report: &mut Report, row: Row, (small, tls): (bool, bool)) -> Result<()> {
    let (ours, nginx) = (bench.ours(row, tls)?, bench.nginx(row, tls)?);
    let (size, digest, file, connections) = if small {
        ("4 KiB".to_owned(), &bench.stored.small, "/small", MANY)
    } else {
        (format!("{} MiB", bench.options.size), &bench.stored.blob, "/blob", FEW)
    };
    let path = Stored::blob_path(digest);
    let (request, file) = (Request::get(&path, Some(&basic())), Request::get(file, None));
    verify(&ours.place, &request, digest)?;
    verify(&nginx.place, &file, digest)?;
    let others = bench.peers(report, row, tls, |peer| peers::give_blob(peer, &bench.stored, digest));
    let (side, plan, limit): (fn(_, _) -> Side<'static>, _, _) = match (small, tls) {
        (true, _) => (Side::asked, bench.plan(ASKED, SLICE), ANSWERS_LIMITS[usize::from(tls)]),
        (false, true) => (Side::downloaded, bench.plan(DOWNLOADED, LONG_SLICE), TLS_LIMIT),
        // Too close to nginx's for slices.
        (false, false) => (Side::whole, bench.plan(WHOLE, SLICE), LIMIT),
    };
    let measure = if small { Measure::AnswersPerCpuSecond } else { Measure::CpuSecondsPerGigabyte };
    let mut contest = Contest::new(row.name());
    let sides = (
        contest.side(side(ours.process.pids(), bench.load(&ours.place, &request, connections))),
        contest.side(side(nginx.process.pids(), bench.load(&nginx.place, &file, connections))),
    );
    let name = format!("blob of {size}, {connections} connections, {}", transport(tls));
    contest.pair(name, measure, sides, "nginx", Some(limit));
    for peer in &others {
        let load = bench.load(&peer.place, &Request::get(&path, None), connections);
        contest.beside(peer.kind.name(), side(peer.process.pids(), load).every(PEERS_EVERY));
    }
    contest.run(plan, report)?;
    verify(&ours.place, &request, digest)
}

/// Answers per CPU time of a manifest: GET and HEAD, by tag and by digest, with a password and with a token, each against
/// nginx's answers to the same method.
pub(crate) fn manifests(bench: &Bench<'_>, report: &mut Report, row: Row, tls: bool) -> Result<()> {
    let (server, nginx) = (bench.ours(row, tls)?, bench.nginx(row, tls)?);
    let bearer = server.bearer(REPOSITORY)?;
    verify(&nginx.place, &Request::get("/manifest", None), &bench.stored.manifest)?;
    let others = bench.peers(report, row, tls, |peer| peers::give_image(peer, &bench.stored));
    let measure = Measure::AnswersPerCpuSecond;
    let mut contest = Contest::new(row.name());
    for method in ["GET", "HEAD"] {
        let mut ours = Vec::new();
        for (by, path) in [("tag", Stored::tag_path()), ("digest", bench.stored.manifest_path())] {
            for (sign_in, authorization) in [("Basic", basic()), ("Bearer", bearer.clone())] {
                let request = Request::new(method, &path, Some(&authorization), "");
                ensure_right(bench, &server.place, &request)?;
                let load = bench.load(&server.place, &request, MANY);
                let side = contest.side(Side::asked(server.process.pids(), load));
                ours.push((format!("manifest {method} by {by}, {sign_in}, {}", transport(tls)), side));
            }
        }
        let load = bench.load(&nginx.place, &Request::new(method, "/manifest", None, ""), MANY);
        let theirs = contest.side(Side::asked(nginx.process.pids(), load));
        for (name, ours) in ours {
            contest.pair(name, measure, (ours, theirs), "nginx", Some(ANSWERS_LIMITS[usize::from(tls)]));
        }
    }
    for peer in &others {
        let load = bench.load(&peer.place, &peers::get_manifest(), MANY);
        contest.beside(peer.kind.name(), Side::asked(peer.process.pids(), load).every(PEERS_EVERY));
    }
    contest.run(bench.plan(ASKED, SLICE), report)
}

fn ensure_right(bench: &Bench<'_>, place: &Place, request: &Request) -> Result<()> {
    if !request.head_only() {
        return verify(place, request, &bench.stored.manifest);
    }
    let digest = ask(place, request)?.answer.header("docker-content-digest");
    ensure!(digest == Some(bench.stored.manifest.to_string()), "a HEAD says digest {digest:?}");
    Ok(())
}
