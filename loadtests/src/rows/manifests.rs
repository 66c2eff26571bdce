//! Hits on a manifest: GET and HEAD, by tag and by digest, with a password and with a token.

use anyhow::{Result, ensure};

use super::blobs::transport;
use super::contest::{Beside, Contest, Ours};
use super::slices::Side;
use super::stored::{REPOSITORY, Stored};
use super::{Bench, Row, peers};
use crate::compare::Measure;
use crate::client::driver::Load;
use crate::client::exchange::{self, Request};
use crate::report::Report;
use crate::client::wire::Place;
use crate::baseline::ours::basic;

const METHODS: [&str; 2] = ["GET", "HEAD"];

/// Answers per CPU time, each way of asking against nginx's answers to the same method.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row, tls: bool) -> Result<()> {
    let (server, nginx) = (bench.ours(row, tls)?, bench.nginx(row, tls)?);
    let bearer = server.bearer(REPOSITORY)?;
    let load = |place: &Place, request: &Request| Load {
        place: place.clone(),
        requests: vec![request.clone()],
        connections: 32,
        rate: None,
        copying: bench.options.copy,
    };
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for (against, method) in METHODS.into_iter().enumerate() {
        let file = Request::new(method, "/manifest", None, "");
        theirs.push(Side::asked(nginx.process.pids(), load(&nginx.place, &file)));
        for (by, path) in [("tag", Stored::tag_path()), ("digest", bench.stored.manifest_path())] {
            for (sign_in, authorization) in [("Basic", basic()), ("Bearer", bearer.clone())] {
                let request = Request::new(method, &path, Some(&authorization), "");
                ensure_right(bench, &server.place, &request)?;
                let name = format!("manifest {method} by {by}, {sign_in}, {}", transport(tls));
                let side = Side::asked(server.process.pids(), load(&server.place, &request));
                ours.push(Ours { name, side, against, limit: Some(1.0) });
            }
        }
    }
    exchange::verify(&nginx.place, &Request::get("/manifest", None), &bench.stored.manifest)?;
    let others =
        if tls { Vec::new() } else { peers::start(bench, report, |peer| peers::give_image(peer, &bench.stored)) };
    let beside = others
        .iter()
        .map(|peer| {
            let load = load(&peer.place, &peers::get_manifest());
            Beside { name: peer.kind.name(), side: Side::asked(peer.process.pids(), load) }
        })
        .collect();
    let measure = Measure::AnswersPerCpuSecond;
    Contest { row, measure, baseline: "nginx", ours, theirs, beside }.run(bench, report)
}

fn ensure_right(bench: &Bench<'_>, place: &Place, request: &Request) -> Result<()> {
    if !request.head_only() {
        return exchange::verify(place, request, &bench.stored.manifest);
    }
    let digest = exchange::ask(place, request)?.answer.header("docker-content-digest");
    ensure!(digest == Some(bench.stored.manifest.to_string()), "a HEAD says digest {digest:?}");
    Ok(())
}
