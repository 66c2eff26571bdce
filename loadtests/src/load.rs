//! Scenarios against any registry that runs already, ours or another: `pull-storm`, `manifests`, `handshakes`, `push`,
//! `mixed` and `soak`. Closed loop, or open loop at `--rate`.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::ToSocketAddrs as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use clap::Args;
use d8_registry::oci::Manifest;
use hdrhistogram::Histogram;
use http::Uri;
use indicatif::ProgressBar;
use serde::Deserialize;

use crate::certificates::{Certificate, Suite};
use crate::compare::Latency;
use crate::cpu::{self, Meter, Spent};
use crate::drive::{Driver, Load, Tally, histogram, nanoseconds};
use crate::exchange::{self, Request, fetch};
use crate::hot_paths::push::{Fresh, push};
use crate::interrupt;
use crate::proc::{Memory, mebibytes};
use crate::report::{Report, Unit};
use crate::wire::{Place, Wire};

/// What manifests may be asked for as.
const ACCEPT: &str = "accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json, \
                      application/vnd.docker.distribution.manifest.list.v2+json\r\n";
/// Looks at the memory of a soaking server.
const SOAK_SLICES: u32 = 50;

/// What to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// All layers of an image, again and again.
    PullStorm,
    /// Its manifest: GET and HEAD, by tag and by digest.
    Manifests,
    /// A new connection for each GET of the manifest.
    Handshakes,
    /// New blobs.
    Push,
    /// Manifests and layers.
    Mixed,
    /// The same for long, with the server's memory over the time.
    Soak,
}

impl Scenario {
    const fn name(self) -> &'static str {
        match self {
            Self::PullStorm => "pull-storm",
            Self::Manifests => "manifests",
            Self::Handshakes => "handshakes",
            Self::Push => "push",
            Self::Mixed => "mixed",
            Self::Soak => "soak",
        }
    }
}

/// Against what, and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadOptions {
    /// The registry, as http://host:port or https://host:port.
    #[arg(long)]
    url: Uri,
    /// User and password; a token is fetched where the registry asks for one.
    #[arg(short, long, value_name = "USER:PASSWORD")]
    user: Option<String>,
    /// The authority, or the certificate itself, that an https registry is trusted by.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The repository: of the image, or pushed to.
    #[arg(long, default_value = "load/r00000")]
    repository: String,
    /// The image's tag.
    #[arg(long, default_value = "v000000")]
    tag: String,
    /// Connections side by side.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Requests a second (open loop; not `push` and `handshakes`). Without it: as many as go (closed loop).
    #[arg(long, value_name = "PER-SECOND")]
    rate: Option<f64>,
    /// How long.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Size of a blob that is pushed, in MiB.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=2000))]
    size: u32,
    /// The server's process, for its CPU and memory; its children count too.
    #[arg(long)]
    pid: Option<u32>,
}

/// Runs it.
pub(crate) fn run(scenario: Scenario, options: &LoadOptions) -> Result<Report> {
    ensure!(
        options.seconds > 0.0 && options.rate.is_none_or(|rate| rate > 0.0),
        "--seconds and --rate are more than 0"
    );
    let registry = Registry::reach(options)?;
    let mut report = Report::new(scenario.name());
    report.condition("registry", &options.url);
    report.condition("connections", options.connections);
    report.condition("loop", options.rate.map_or("closed".into(), |rate| format!("open, {rate} a second")));
    let bar = ProgressBar::new_spinner().with_message(scenario.name());
    bar.enable_steady_tick(Duration::from_millis(200));
    let result = match scenario {
        Scenario::Push => registry.push(&mut report),
        Scenario::Handshakes => registry.handshakes(&mut report),
        Scenario::Soak => registry.soak(&mut report),
        Scenario::PullStorm => registry.layers().and_then(|requests| registry.drive(requests, &mut report)),
        Scenario::Manifests => registry.manifests().and_then(|requests| registry.drive(requests, &mut report)),
        Scenario::Mixed => registry.mixed().and_then(|requests| registry.drive(requests, &mut report)),
    };
    bar.finish_and_clear();
    result.map(|()| report)
}

/// A registry that was reached, and how to sign in.
struct Registry<'a> {
    options: &'a LoadOptions,
    place: Place,
    authorization: Option<String>,
    pids: Vec<u32>,
}

impl<'a> Registry<'a> {
    fn reach(options: &'a LoadOptions) -> Result<Self> {
        let https = match options.url.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => bail!("the URL has to begin with http:// or https://"),
        };
        let authority = options.url.authority().context("the URL has no host")?;
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        let address = (authority.host(), port).to_socket_addrs()?.next().context("the host has no address")?;
        let tls = if https {
            let cert_file = options.ca.clone().context("https needs --ca")?;
            let trusted = Certificate { key_file: PathBuf::new(), cert_file };
            Some(trusted.client(Suite::Aes128, false)?)
        } else {
            None
        };
        let place = Place { address, tls };
        let pids = options.pid.map(cpu::family).unwrap_or_default();
        let basic = options
            .user
            .as_ref()
            .map(|user| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(user)));
        let authorization = sign_in(&place, options, basic)?;
        Ok(Self { options, place, authorization, pids })
    }

    fn request(&self, method: &str, path: &str) -> Request {
        Request::new(method, path, self.authorization.as_deref(), ACCEPT)
    }

    fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.options.repository)
    }

    fn manifests(&self) -> Result<Vec<Request>> {
        let by_tag = self.path(&format!("manifests/{}", self.options.tag));
        let reply = exchange::ask(&self.place, &self.request("GET", &by_tag))?;
        let digest = d8_registry::oci::Algorithm::Sha256.digest(&reply.body);
        let by_digest = self.path(&format!("manifests/{digest}"));
        let asked = [("GET", &by_tag), ("HEAD", &by_tag), ("GET", &by_digest), ("HEAD", &by_digest)];
        Ok(asked.map(|(method, path)| self.request(method, path)).to_vec())
    }

    /// GETs of all layers, each checked once.
    fn layers(&self) -> Result<Vec<Request>> {
        let mut reference = self.options.tag.clone();
        loop {
            let path = self.path(&format!("manifests/{reference}"));
            let reply = exchange::ask(&self.place, &self.request("GET", &path))?;
            let manifest = Manifest::parse(None, &reply.body).context("the manifest")?;
            if let Some(child) = manifest.manifests.first() {
                reference = child.digest.to_string();
                continue;
            }
            let blobs = manifest.required_blobs().map(|blob| {
                let request =
                    Request::get(&self.path(&format!("blobs/{}", blob.digest)), self.authorization.as_deref());
                exchange::verify(&self.place, &request, &blob.digest).map(|()| request)
            });
            return blobs.collect();
        }
    }

    fn mixed(&self) -> Result<Vec<Request>> {
        let mut requests = self.manifests()?;
        requests.extend(self.layers()?);
        Ok(requests)
    }

    fn load(&self, requests: Vec<Request>) -> Result<Load> {
        Ok(Load {
            place: self.place.clone(),
            requests,
            connections: usize::try_from(self.options.connections)?,
            rate: self.options.rate,
            copying: true,
        })
    }

    fn drive(&self, requests: Vec<Request>, report: &mut Report) -> Result<()> {
        let mut driver = Driver::connect(self.load(requests)?)?;
        let meter = Meter::start(&self.pids)?;
        let tally = driver.run(Duration::from_secs_f64(self.options.seconds))?;
        let spent = meter.read()?;
        self.tell(report, &tally, spent)
    }

    fn soak(&self, report: &mut Report) -> Result<()> {
        let mut driver = Driver::connect(self.load(self.mixed()?)?)?;
        let slice = Duration::from_secs_f64(self.options.seconds / f64::from(SOAK_SLICES));
        let mut all = Tally { answers: 0, bytes: 0, latency: histogram()?, took: Duration::ZERO };
        let meter = Meter::start(&self.pids)?;
        let mut held = Vec::new();
        for _ in 0..SOAK_SLICES {
            let tally = driver.run(slice)?;
            all.answers += tally.answers;
            all.bytes += tally.bytes;
            all.took += tally.took;
            all.latency.add(&tally.latency).context("histograms can't be added")?;
            if let Some(pid) = self.options.pid {
                held.push(mebibytes(Memory::of(pid)?.own));
            }
        }
        self.tell(report, &all, meter.read()?)?;
        for (when, index) in [("after a tenth", held.len() / 10), ("half-way", held.len() / 2)] {
            if let Some(value) = held.get(index) {
                report.fact(format!("RssAnon+RssShmem {when}"), *value, Unit::MebiBytes);
            }
        }
        if let Some(most) = held.iter().copied().reduce(f64::max) {
            report.fact("RssAnon+RssShmem, most", most, Unit::MebiBytes);
        }
        Ok(())
    }

    fn tell(&self, report: &mut Report, tally: &Tally, spent: Spent) -> Result<()> {
        let seconds = tally.took.as_secs_f64();
        report.fact("answers", tally.answers as f64, Unit::Count);
        report.fact("answers per second", tally.answers as f64 / seconds, Unit::PerSecond);
        report.fact("bodies", tally.bytes as f64 / 1e6 / seconds, Unit::MegabytesPerSecond);
        let latency = Latency::of(&tally.latency);
        let quantiles = [
            ("p50", latency.p50),
            ("p90", latency.p90),
            ("p99", latency.p99),
            ("p99.9", latency.p999),
            ("max", latency.max),
        ];
        for (name, value) in quantiles {
            report.fact(format!("latency, {name}"), value, Unit::Milliseconds);
        }
        report.fact("CPU of the machine per answer", spent.machine * 1e3 / tally.answers as f64, Unit::Milliseconds);
        if let Some(pid) = self.options.pid {
            report.fact("CPU of the server per answer", spent.cpu * 1e3 / tally.answers as f64, Unit::Milliseconds);
            Memory::of(pid)?.add_to(report, ", at the end");
        }
        Ok(())
    }

    fn handshakes(&self, report: &mut Report) -> Result<()> {
        let requests = self.manifests()?;
        self.repeat(report, |_, latency| {
            let started = Instant::now();
            let reply = fetch(&mut Wire::connect(&self.place)?, &requests[0], &[])?;
            latency.saturating_record(nanoseconds(started.elapsed()));
            ensure!(reply.status == 200, "{}", reply.answer.text());
            Ok(reply.body.len() as u64)
        })
    }

    fn push(&self, report: &mut Report) -> Result<()> {
        // Contents that no run before had.
        let base = RandomState::new().build_hasher().finish();
        let fresh = Fresh::new(self.options.size);
        self.repeat(report, |number, latency| {
            let mut fresh = fresh.clone();
            let (content, digest) = fresh.content(base.wrapping_add(number));
            let started = Instant::now();
            let authorization = self.authorization.as_deref();
            push(&mut Wire::connect(&self.place)?, &self.options.repository, content, &digest, authorization)?;
            latency.saturating_record(nanoseconds(started.elapsed()));
            Ok(content.len() as u64)
        })
    }

    /// `work` over and over, on as many threads as there are to be connections.
    fn repeat(&self, report: &mut Report, work: impl Fn(u64, &mut Histogram<u64>) -> Result<u64> + Sync) -> Result<()> {
        ensure!(self.options.rate.is_none(), "this scenario has no open loop");
        let started = Instant::now();
        let end = started + Duration::from_secs_f64(self.options.seconds);
        let meter = Meter::start(&self.pids)?;
        let work = &work;
        let threads = u64::from(self.options.connections);
        let one = |thread: u64| {
            let (mut latency, mut bytes, mut number) = (histogram()?, 0, thread);
            while Instant::now() < end {
                interrupt::check()?;
                bytes += work(number, &mut latency)?;
                number += threads;
            }
            anyhow::Ok((latency, bytes))
        };
        let results = thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
            running.into_iter().map(|one| one.join()).collect::<Vec<_>>()
        });
        let spent = meter.read()?;
        let mut all = Tally { answers: 0, bytes: 0, latency: histogram()?, took: started.elapsed() };
        for result in results {
            let (latency, bytes) = result.ok().context("a client panicked")??;
            all.latency.add(&latency).context("histograms can't be added")?;
            all.bytes += bytes;
        }
        all.answers = all.latency.len();
        self.tell(report, &all, spent)
    }
}

/// What to send as `Authorization`: the password, or a token where the registry offers one at its own address.
fn sign_in(place: &Place, options: &LoadOptions, basic: Option<String>) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Token {
        token: String,
    }
    let reply = fetch(&mut Wire::connect(place)?, &Request::get("/v2/", None), &[])?;
    let challenge = reply.answer.header("www-authenticate").unwrap_or_default();
    let value = |name: &str| challenge.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split('"').next());
    let Some(realm) = value("realm").filter(|_| challenge.starts_with("Bearer")) else { return Ok(basic) };
    let realm: Uri = realm.parse().context("the realm")?;
    let path = format!(
        "{}?service={}&scope=repository:{}:pull,push",
        realm.path(),
        encoded(value("service").unwrap_or_default()),
        options.repository
    );
    let reply = exchange::ask(place, &Request::get(&path, basic.as_deref())).context("the token service")?;
    let token: Token = serde_json::from_slice(&reply.body).context("the token service's answer")?;
    Ok(Some(format!("Bearer {}", token.token)))
}

/// For a query: all but letters, digits and a few marks as percent and two digits (RFC 3986).
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_may_have_spaces() {
        assert_eq!(encoded("Docker registry/1.0~x"), "Docker%20registry%2F1.0~x");
    }
}
