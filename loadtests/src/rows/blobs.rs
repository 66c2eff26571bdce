//! Hits on blobs, large and small.

use anyhow::Result;

use super::contest::{Beside, Contest, Ours};
use super::slices::Side;
use super::{Bench, Row, peers};
use crate::compare::Measure;
use crate::client::driver::Load;
use crate::client::exchange::{self, Request};
use crate::report::Report;
use crate::baseline::ours::basic;

/// Times of nginx's CPU per byte, plain and over TLS.
const LIMIT: f64 = 1.15;
const TLS_LIMIT: f64 = 1.0;

/// CPU per byte of a large blob.
pub(crate) fn large(bench: &Bench<'_>, report: &mut Report, row: Row, tls: bool) -> Result<()> {
    let limit = if tls { TLS_LIMIT } else { LIMIT };
    let name = format!("blob of {} MiB, 8 connections, {}", bench.options.size, transport(tls));
    let what = What { path: bench.stored.blob_path(), file: "/blob", connections: 8 };
    run(bench, report, (row, tls), &what, (name, Measure::CpuSecondsPerGigabyte, limit))
}

/// Answers per CPU time of a small blob.
pub(crate) fn small(bench: &Bench<'_>, report: &mut Report, row: Row, tls: bool) -> Result<()> {
    let name = format!("blob of 4 KiB, 32 connections, {}", transport(tls));
    let what = What { path: bench.stored.small_path(), file: "/small", connections: 32 };
    run(bench, report, (row, tls), &what, (name, Measure::AnswersPerCpuSecond, 1.0))
}

/// As reports say it.
pub(crate) fn transport(tls: bool) -> &'static str {
    if tls { "TLS" } else { "plain" }
}

struct What {
    path: String,
    file: &'static str,
    connections: usize,
}

fn run(
    bench: &Bench<'_>,
    report: &mut Report,
    (row, tls): (Row, bool),
    what: &What,
    (name, measure, limit): (String, Measure, f64),
) -> Result<()> {
    let (ours, nginx) = (bench.ours(row, tls)?, bench.nginx(row, tls)?);
    let request = Request::get(&what.path, Some(&basic()));
    let file = Request::get(what.file, None);
    let digest = if what.connections == 8 { &bench.stored.blob } else { &bench.stored.small };
    exchange::verify(&ours.place, &request, digest)?;
    exchange::verify(&nginx.place, &file, digest)?;
    let side = match (what.connections, tls) {
        // Too close to nginx's for a few rounds of slices.
        (8, false) => Side::whole,
        (8, true) => Side::downloaded,
        _ => Side::asked,
    };
    let load = |place: &crate::client::wire::Place, request| Load {
        place: place.clone(),
        requests: vec![request],
        connections: what.connections,
        rate: None,
        copying: bench.options.copy,
    };
    let others = if tls {
        Vec::new()
    } else {
        peers::start(bench, report, |peer| peers::give_blob(peer, &bench.stored, digest))
    };
    let beside = others.iter().map(|peer| {
        let side = side(peer.process.pids(), load(&peer.place, Request::get(&what.path, None)));
        Beside { name: peer.kind.name(), side }
    });
    let contest = Contest {
        row,
        measure,
        baseline: "nginx",
        ours: vec![Ours {
            name,
            side: side(ours.process.pids(), load(&ours.place, request.clone())),
            against: 0,
            limit: Some(limit),
        }],
        theirs: vec![side(nginx.process.pids(), load(&nginx.place, file))],
        beside: beside.collect(),
    };
    contest.run(bench, report)?;
    exchange::verify(&ours.place, &request, digest)
}
