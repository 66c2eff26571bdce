//! A large blob through Direct, against a proxy that keeps nothing, and the SHA-256 of the same bytes: Direct holds whole
//! blobs against their digest, which nginx does not.

use anyhow::{Context as _, Result};

use super::{Bench, LONG_SLICE, MAPPED, Row, transport};
use crate::baseline::nginx::{Listening, Nginx, Role};
use crate::baseline::ours::basic;
use crate::client::{Request, verify};
use crate::compare::Measure;
use crate::engine::{Contest, Side};
use crate::report::Report;

/// Times of the CPU per byte of nginx and SHA-256 together.
const LIMIT: f64 = 1.3;
/// Pairs of slices.
const ROUNDS: u32 = 8;
const CONNECTIONS: usize = 8;

/// CPU per byte; clients are plain, `tls` is the upstream's.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row, tls: bool) -> Result<()> {
    let (_running, upstream, blobs) = bench.upstream(row, (tls, None))?;
    let digest = &bench.stored.blob;
    std::fs::hard_link(bench.stored.files.join("blob"), blobs.join(digest.to_string()))
        .context("link the upstream's blob")?;
    let dir = bench.dir(&format!("{}-{}", row.name(), transport(tls)))?;
    let ours = bench.ours_before(&dir.join("ours"), "Direct", &upstream)?;
    let listening = Listening { certificate: None, client: None, access_log: !bench.options.access_log_off };
    let ready = Request::get("/v2/", None);
    let nginx = Nginx::start(&dir.join("nginx"), Role::Proxy(&upstream), listening, &ready)?;

    let path = format!("/v2/{MAPPED}/blobs/{digest}");
    let (request, passed) = (Request::get(&path, Some(&basic())), Request::get(&path, None));
    verify(&ours.place, &request, digest)?;
    verify(&nginx.place, &passed, digest)?;
    let size = bench.options.size;
    let name = format!("blob of {size} MiB through Direct, {CONNECTIONS} connections, upstream {}", transport(tls));
    let mut contest = Contest::new(row.name());
    let sides = (
        contest.side(Side::downloaded(ours.process.pids(), bench.load(&ours.place, &request, CONNECTIONS))),
        contest
            .side(Side::downloaded(nginx.process.pids(), bench.load(&nginx.place, &passed, CONNECTIONS)).and_sha256()),
    );
    contest.pair(name, Measure::CpuSecondsPerGigabyte, sides, "nginx proxy_pass and SHA-256", Some(LIMIT));
    contest.run(bench.plan(ROUNDS, LONG_SLICE), report)
}
