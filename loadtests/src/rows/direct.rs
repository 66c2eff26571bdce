//! A large blob through Direct, against a proxy that keeps nothing, and the SHA-256 of the same bytes: Direct holds whole blobs
//! against their digest, which nginx does not.

use anyhow::{Context as _, Result};

use super::blobs::transport;
use super::cold::ours_before;
use super::contest::{Contest, Ours};
use super::slices::Side;
use super::{Bench, MAPPED, Row};
use crate::compare::Measure;
use crate::client::driver::Load;
use crate::client::exchange::{self, Request};
use crate::report::Report;
use crate::client::wire::Place;
use crate::baseline::nginx::{Listening, Nginx, Role};
use crate::baseline::ours::basic;

/// Times of the CPU per byte of nginx and SHA-256 together.
const LIMIT: f64 = 1.3;

/// CPU per byte, with a plain and a TLS upstream; clients are plain.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    for tls in [false, true] {
        one(bench, report, row, tls)?;
    }
    Ok(())
}

fn one(bench: &Bench<'_>, report: &mut Report, row: Row, tls: bool) -> Result<()> {
    let (_running, upstream, blobs) = bench.upstream(row, tls)?;
    let digest = &bench.stored.blob;
    std::fs::hard_link(bench.stored.files.join("blob"), blobs.join(digest.to_string()))
        .context("link the upstream's blob")?;
    let dir = bench.dir(&format!("{}-{}", row.name(), transport(tls)))?;
    let ours = ours_before(bench, &dir.join("ours"), "Direct", &upstream)?;
    let listening = Listening { certificate: None, client: None, access_log: !bench.options.access_log_off };
    let ready = Request::get("/v2/", None);
    let nginx = Nginx::start(&dir.join("nginx"), Role::Proxy(&upstream), listening, &ready)?;

    let path = format!("/v2/{MAPPED}/blobs/{digest}");
    let (request, passed) = (Request::get(&path, Some(&basic())), Request::get(&path, None));
    exchange::verify(&ours.place, &request, digest)?;
    exchange::verify(&nginx.place, &passed, digest)?;
    let load = |place: &Place, request| Load {
        place: place.clone(),
        requests: vec![request],
        connections: 8,
        rate: None,
        copying: bench.options.copy,
    };
    let name = format!("blob of {} MiB through Direct, 8 connections, upstream {}", bench.options.size, transport(tls));
    let side = Side::downloaded(ours.process.pids(), load(&ours.place, request));
    Contest {
        row,
        measure: Measure::CpuSecondsPerGigabyte,
        baseline: "nginx proxy_pass and SHA-256",
        ours: vec![Ours { name, side, against: 0, limit: Some(LIMIT) }],
        beside: Vec::new(),
        theirs: vec![Side::downloaded(nginx.process.pids(), load(&nginx.place, passed)).and_sha256()],
    }
    .run(bench, report)
}
