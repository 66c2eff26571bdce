//! New TLS 1.3 connections, each with one manifest GET.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustls::{ClientConfig, HandshakeKind};

use super::contest::{in_turns, new};
use super::stored::Stored;
use super::{Bench, Row};
use crate::certificates::Certificate;
use crate::compare::{Comparison, Latency, Measure, Sample};
use crate::cpu::Meter;
use crate::drive::{histogram, nanoseconds};
use crate::exchange::{Request, fetch};
use crate::report::Report;
use crate::wire::{Place, Wire};
use crate::yardstick::nginx::{Listening, Nginx, Role};
use crate::yardstick::ours::{Ours, Setup, basic};

/// Clients side by side.
const CLIENTS: usize = 4;
const WARM_UP: Duration = Duration::from_millis(300);

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

    let name = |how| format!("new connection and a manifest GET, {key}, {how}");
    let measure = Measure::CpuMicrosecondsPerConnection;
    let mut full = new(row, &name("full handshake"), measure, "nginx", Some(1.0));
    let mut resumed = new(row, &name("resumed"), measure, "nginx", Some(1.0));
    in_turns(bench.rounds(), |_, is_ours| {
        let (pids, place, request) = if is_ours {
            (ours.process.pids(), &ours.place, &request)
        } else {
            (nginx.process.pids(), &nginx.place, &file)
        };
        for (resume, comparison) in [(false, &mut full), (true, &mut resumed)] {
            let configs = (0..CLIENTS)
                .map(|_| certificate.client(bench.options.suite, resume))
                .collect::<Result<Vec<Arc<ClientConfig>>>>()?;
            connect(place, request, &configs, resume, WARM_UP, &pids)?;
            let sample = connect(place, request, &configs, resume, bench.seconds(), &pids)?;
            side(comparison, is_ours).push(sample);
        }
        Ok(())
    })?;
    report.compare(full);
    report.compare(resumed);
    Ok(())
}

/// The samples of one side.
pub(crate) fn side(comparison: &mut Comparison, is_ours: bool) -> &mut Vec<Sample> {
    if is_ours { &mut comparison.ours } else { &mut comparison.theirs }
}

/// As many connections as go, by clients with a memory of their own for tickets.
fn connect(
    place: &Place,
    request: &Request,
    configs: &[Arc<ClientConfig>],
    resume: bool,
    duration: Duration,
    pids: &[u32],
) -> Result<Sample> {
    let meter = Meter::start(pids)?;
    let end = Instant::now() + duration;
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
    let spent = meter.read()?;
    let mut all = histogram()?;
    for result in results {
        let latency = result.ok().context("a client panicked")??;
        all.add(&latency).context("histograms can't be added")?;
    }
    let figure = spent.cpu * 1e6 / all.len() as f64;
    Ok(Sample { figure, spent, answers: all.len(), bytes: 0, latency: Some(Latency::of(&all)) })
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
