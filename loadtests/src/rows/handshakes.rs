//! New TLS 1.3 connections, each with one manifest GET.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use rustls::{ClientConfig, HandshakeKind};

use super::stored::Stored;
use super::{Bench, Row, SLICE};
use crate::baseline::nginx::{Listening, Nginx, Role};
use crate::baseline::ours::{Ours, Setup, basic};
use crate::certificates::Certificate;
use crate::client::{Place, Request, Tally, Wire, fetch, histogram, nanoseconds};
use crate::compare::Measure;
use crate::engine::{Contest, Side};
use crate::report::Report;

/// Clients side by side.
const CLIENTS: usize = 4;
/// Pairs of slices.
const ROUNDS: u32 = 15;
/// Times of nginx's CPU for a connection.
const LIMIT: f64 = 1.0;

/// CPU per connection, for both keys, full and resumed; also where clients are asked for a certificate and have none.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    for (key, certificate, asks) in [
        ("P-256", &bench.p256, false),
        ("P-256, asked for a certificate", &bench.p256, true),
        ("RSA-2048", &bench.rsa, false),
    ] {
        one_key(bench, report, row, (key, certificate, asks))?;
    }
    Ok(())
}

fn one_key(
    bench: &Bench<'_>,
    report: &mut Report,
    row: Row,
    (key, certificate, asks_for_certificates): (&str, &Certificate, bool),
) -> Result<()> {
    let client = certificate.client(false)?;
    let dir = bench.dir(&format!("{}-{key}", row.name()).replace([' ', ','], "-"))?;
    let ours = Ours::start(&Setup {
        certificate: Some(certificate),
        client: Some(&client),
        asks_for_certificates,
        ..bench.setup(&bench.stored.dir, &dir.join("ours"))
    })?;
    let access_log = !bench.options.access_log_off;
    let listening = Listening { certificate: Some(certificate), client: Some(&client), access_log };
    let file = Request::get("/manifest", None);
    let nginx = Nginx::start(&dir.join("nginx"), Role::Files(&bench.stored.files), listening, &file)?;
    let request = Request::get(&Stored::tag_path(), Some(&basic()));

    let mut contest = Contest::new(row.name());
    for (how, resume) in [("full handshake", false), ("resumed", true)] {
        let sides = [(&ours.process, &ours.place, &request), (&nginx.process, &nginx.place, &file)];
        let [ours, theirs] = sides.map(|(process, place, request)| {
            contest.side(Side::kept(process.pids(), move || {
                let configs = (0..CLIENTS).map(|_| certificate.client(resume)).collect::<Result<Vec<_>>>()?;
                Ok(Box::new(move |length| connect(place, request, &configs, resume, length)))
            }))
        });
        let name = format!("new connection and a manifest GET, {key}, {how}");
        contest.pair(name, Measure::CpuMicrosecondsPerConnection, (ours, theirs), "nginx", Some(LIMIT));
    }
    contest.run(bench.plan(ROUNDS, SLICE), report)
}

/// Connects as often as goes, by clients each with its own memory for tickets.
fn connect(
    place: &Place,
    request: &Request,
    configs: &[Arc<ClientConfig>],
    resume: bool,
    duration: Duration,
) -> Result<Tally> {
    let started = Instant::now();
    let end = started + duration;
    let results = thread::scope(|scope| {
        let start = |config: &Arc<ClientConfig>| {
            let place = Place { address: place.address, tls: Some(Arc::clone(config)) };
            scope.spawn(move || client(&place, request, resume, end))
        };
        let clients: Vec<_> = configs.iter().map(start).collect();
        clients.into_iter().map(|client| client.join()).collect::<Vec<_>>()
    });
    let mut all = histogram()?;
    for result in results {
        let latency = result.ok().context("a client panicked")??;
        all.add(&latency).context("histograms can't be added")?;
    }
    Ok(Tally { answers: all.len(), bytes: 0, latency: all, took: started.elapsed() })
}

fn client(place: &Place, request: &Request, resume: bool, end: Instant) -> Result<Histogram<u64>> {
    let mut latency = histogram()?;
    let mut full = 0_u64;
    while Instant::now() < end {
        let started = Instant::now();
        let mut wire = Wire::connect(place)?;
        let reply = fetch(&mut wire, request, &[])?;
        latency.saturating_record(nanoseconds(started.elapsed()));
        ensure!(reply.status == 200, "{place:?}: {}", reply.answer.text());
        full += u64::from(wire.handshake_kind() != Some(HandshakeKind::Resumed));
    }
    // The first one has no ticket yet.
    ensure!(!resume || full <= 1 + latency.len() / 100, "{full} of {} were not resumed", latency.len());
    ensure!(resume || full == latency.len(), "some were resumed");
    Ok(latency)
}
