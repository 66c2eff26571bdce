//! New TLS 1.3 connections, each with one manifest GET.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustls::{ClientConfig, HandshakeKind};

use super::contest::{self, Contest};
use super::slices::Side;
use super::stored::Stored;
use super::{Bench, Row};
use crate::certificates::Certificate;
use crate::compare::Measure;
use crate::client::driver::{Tally, histogram, nanoseconds};
use crate::client::exchange::{Request, fetch};
use crate::report::Report;
use crate::client::wire::{Place, Wire};
use crate::baseline::nginx::{Listening, Nginx, Role};
use crate::baseline::ours::{Ours, Setup, basic};

/// Clients side by side.
const CLIENTS: usize = 4;

/// CPU per connection, for both keys, full and resumed.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    for (key, certificate) in [("P-256", &bench.p256), ("RSA-2048", &bench.rsa)] {
        one_key(bench, report, row, (key, certificate))?;
    }
    Ok(())
}

fn one_key(bench: &Bench<'_>, report: &mut Report, row: Row, (key, certificate): (&str, &Certificate)) -> Result<()> {
    let client = certificate.client(bench.options.suite, false)?;
    let dir = bench.dir(&format!("{}-{key}", row.name()))?;
    let ours = Ours::start(&Setup {
        certificate: Some(certificate),
        client: Some(&client),
        ..bench.setup(&bench.stored.dir, &dir.join("ours"))
    })?;
    let access_log = !bench.options.access_log_off;
    let listening = Listening { certificate: Some(certificate), client: Some(&client), access_log };
    let file = Request::get("/manifest", None);
    let nginx = Nginx::start(&dir.join("nginx"), Role::Files(&bench.stored.files), listening, &file)?;
    let request = Request::get(&Stored::tag_path(), Some(&basic()));

    let configs = |resume| {
        let all = (0..CLIENTS).map(|_| certificate.client(bench.options.suite, resume));
        all.collect::<Result<Vec<Arc<ClientConfig>>>>()
    };
    let sides = |resume: bool| {
        [(&ours.process, &ours.place, &request), (&nginx.process, &nginx.place, &file)].map(
            |(process, place, request)| {
                Side::kept(process.pids(), move || {
                    let configs = configs(resume)?;
                    Ok(Box::new(move |length| connect(place, request, &configs, resume, length)))
                })
            },
        )
    };
    let (mut sides_of_ours, mut theirs) = (Vec::new(), Vec::new());
    for (against, (how, resume)) in [("full handshake", false), ("resumed", true)].into_iter().enumerate() {
        let name = format!("new connection and a manifest GET, {key}, {how}");
        let [side, their] = sides(resume);
        sides_of_ours.push(contest::Ours { name, side, against, limit: Some(1.0) });
        theirs.push(their);
    }
    let measure = Measure::CpuMicrosecondsPerConnection;
    Contest { row, measure, baseline: "nginx", ours: sides_of_ours, theirs, beside: Vec::new() }.run(bench, report)
}

/// As many connections as go, by clients with a memory of their own for tickets.
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
        let clients: Vec<_> = configs
            .iter()
            .map(|config| {
                let place = Place { address: place.address, tls: Some(Arc::clone(config)) };
                scope.spawn(move || client(&place, request, resume, end))
            })
            .collect();
        clients.into_iter().map(|client| client.join()).collect::<Vec<_>>()
    });
    let mut all = histogram()?;
    for result in results {
        let latency = result.ok().context("a client panicked")??;
        all.add(&latency).context("histograms can't be added")?;
    }
    Ok(Tally { answers: all.len(), bytes: 0, latency: all, took: started.elapsed() })
}

fn client(place: &Place, request: &Request, resume: bool, end: Instant) -> Result<hdrhistogram::Histogram<u64>> {
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
