//! A cold start: many nodes ask a Proxy at once for a blob that it has to fetch over a narrow line.
//!
//! Each round has a blob of its own, so that it is cold. The time of a round is that of its last client; the first round
//! has one client, and the others are held against it. In the last round the first client is killed half-way.

use anyhow::Result;

use super::cold::{empty, place_upstream, pull_at_once};
use super::{Bench, MAPPED, Row};
use crate::baseline::ours::basic;
use crate::client::upload::Fresh;
use crate::client::{Request, verify};
use crate::report::{Report, Target};

/// Rate of the upstream's line in bytes a second.
const RATE: u32 = 40_000_000;
/// Clients, whether the first is killed, and the most that the last may take in times of a single one.
const ROUNDS: [(usize, bool, f64); 3] = [(8, false, 1.1), (32, false, 1.15), (8, true, 1.1)];

/// Upstream GETs, and the time of the last client.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let (nginx, upstream, blobs) = bench.upstream(row, (false, Some(RATE)))?;
    let ours = bench.ours_before(&bench.dir(&row.name())?, "Proxy", &upstream)?;
    let mut fresh = Fresh::new(bench.options.size);
    let mut number = 0;
    let mut round = |report: &mut Report, clients: usize, kill: bool| {
        number += 1;
        let digest = place_upstream(&mut fresh, number, &blobs)?;
        let path = format!("/v2/{MAPPED}/blobs/{digest}");
        let request = Request::get(&path, Some(&basic()));
        let half = u64::from(bench.options.size) << 19;
        let last = pull_at_once(&vec![(ours.place.clone(), request.clone()); clients], kill.then_some(half))?;
        verify(&ours.place, &request, &digest)?;
        let with = if kill { ", the first killed" } else { "" };
        report.fact(format!("cold storm: {clients} clients{with}, last done"), last.as_secs_f64() * 1e3, "ms");
        let gets = nginx.gets(&path)? as f64;
        report.judge(format!("cold storm: {clients} clients{with}, upstream GETs"), gets, "", Target::Exactly(1.0));
        empty(&blobs)?;
        anyhow::Ok(last.as_secs_f64())
    };
    let single = round(report, 1, false)?;
    for (clients, kill, limit) in ROUNDS {
        let last = round(report, clients, kill)?;
        let with = if kill { ", the first killed half-way" } else { "" };
        let name = format!("cold storm: last of {clients} clients{with}, in times of a single one");
        report.judge(name, last / single, "", Target::Below(limit));
    }
    Ok(())
}
