//! Costs of the parts of a request by themselves: its path, digests, ranges, sign-in, and joining a fill that runs.
//!
//! `make microbench`, or `make microbench PART=digest` for those with that in their name.

use std::hint::black_box;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use criterion::{Criterion, Throughput};
use d8_registry::api::is_route;
use d8_registry::auth::{Anonymous, AuthOptions, Authenticator, Role, TokenOptions, UserSpec, hash_password};
use d8_registry::clock;
use d8_registry::fetch::{Evictor, FillOptions, Fills, Opened, Source};
use d8_registry::oci::{Algorithm, Digest, RangeSpec, RepoName};
use d8_registry::store::{Store, StoreOptions};
use d8_registry::telemetry::Metrics;
use d8_registry::upstream::{
    Credentials, EndpointOptions, Face, ProxyVariables, Scheme, Upstream, UpstreamLimits, UpstreamOptions,
};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const MEBIBYTE: usize = 1 << 20;
const USER: &str = "loadtests";
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PASSWORD: &str = "loadtests-password";
/// Of the blob whose fill is joined, and how much of it the upstream has sent when it stops for ever.
const HELD_BYTES: usize = 64 * MEBIBYTE;
const SENT_BYTES: usize = MEBIBYTE;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut criterion = Criterion::default().configure_from_args();
    routes(&mut criterion);
    digests(&mut criterion)?;
    ranges(&mut criterion);
    who_asks(&mut criterion, &runtime)?;
    joins(&mut criterion, &runtime)?;
    criterion.final_summary();
    Ok(())
}

/// A path taken apart and its names checked.
fn routes(criterion: &mut Criterion) {
    let digest = Algorithm::Sha256.digest(b"");
    let mut group = criterion.benchmark_group("route");
    for (name, path) in [
        ("manifest by tag", "/v2/system/deckhouse/manifests/v1.68.3".to_owned()),
        ("manifest by digest", format!("/v2/system/deckhouse/manifests/{digest}")),
        ("blob", format!("/v2/system/deckhouse/blobs/{digest}")),
        ("encoded blob", format!("/v2/system/deckhouse/blobs/{}", digest.to_string().replace(':', "%3A"))),
        ("base", "/v2/".to_owned()),
        ("nothing", "/v2/system/deckhouse".to_owned()),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| is_route(black_box(&path))));
    }
    group.finish();
}

/// A digest as text, and of content.
fn digests(criterion: &mut Criterion) -> Result<()> {
    let content = vec![7; MEBIBYTE];
    let text = Algorithm::Sha256.digest(&content).to_string();
    let parsed: Digest = text.parse()?;
    let mut group = criterion.benchmark_group("digest");
    group.bench_function("parse", |bencher| bencher.iter(|| black_box(&text).parse::<Digest>().is_ok()));
    group.bench_function("print", |bencher| bencher.iter(|| black_box(&parsed).to_string()));
    group.throughput(Throughput::Bytes(MEBIBYTE as u64));
    for algorithm in Algorithm::ALL {
        let name = format!("{} of 1 MiB", algorithm.as_str());
        group.bench_function(name, |bencher| bencher.iter(|| algorithm.digest(black_box(&content))));
    }
    group.finish();
    Ok(())
}

/// A `Range` header held against a length, as far as the answer's header.
fn ranges(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("range");
    for (name, header) in [("closed", "bytes=1000-1999"), ("from", "bytes=1000-"), ("suffix", "bytes=-1000")] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| RangeSpec::parse(black_box(header)).map(|spec| spec.resolve(black_box(1 << 30))));
        });
    }
    group.bench_function("closed, and its Content-Range", |bencher| {
        bencher.iter(|| {
            let range = RangeSpec::parse(black_box("bytes=1000-1999"))?.resolve(1 << 30).ok()??;
            Some(range.content_range(1 << 30))
        });
    });
    group.finish();
}

/// A token, and a password that was right before.
fn who_asks(criterion: &mut Criterion, runtime: &Runtime) -> Result<()> {
    let keys = tempfile::tempdir()?;
    let options = AuthOptions {
        anonymous: Anonymous::None,
        users: vec![UserSpec {
            name: USER.to_owned(),
            password_hash: hash_password(PASSWORD, 4)?.into(),
            role: Role::Rw,
        }],
        users_dir: None,
        token: TokenOptions {
            enabled: Some(true),
            ttl: Duration::from_secs(3600),
            signing_key_file: None,
            signing_cert_file: None,
            key_dir: Some(keys.path().to_owned()),
        },
    };
    let auth = Authenticator::load(&options, 1)?;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let basic = format!("Basic {pair}");
    // Proven and remembered from here on.
    let who = runtime.block_on(auth.authenticate(Some(basic.as_bytes()), HERE)).map_err(|why| failed(why.as_str()))?;
    let scopes = ["repository:system/deckhouse:pull".to_owned()];
    let bearer = format!("Bearer {}", auth.issue_token(&who, &scopes, clock::now())?.token);
    let mut group = criterion.benchmark_group("who asks");
    for (name, header) in [("Bearer", bearer), ("Basic, remembered", basic)] {
        runtime.block_on(auth.authenticate(Some(header.as_bytes()), HERE)).map_err(|why| failed(why.as_str()))?;
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                runtime.block_on(async {
                    let started = Instant::now();
                    for _ in 0..times {
                        let _ = black_box(auth.authenticate(Some(black_box(header.as_bytes())), HERE).await);
                    }
                    started.elapsed()
                })
            });
        });
    }
    group.finish();
    Ok(())
}

fn failed(why: &str) -> anyhow::Error {
    anyhow::anyhow!("a check that has to succeed says {why}")
}

/// One more reader of a blob that is on its way in.
fn joins(criterion: &mut Criterion, runtime: &Runtime) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let content = vec![3; HELD_BYTES];
    let digest = Algorithm::Sha256.digest(&content);
    let port = stalling_upstream(content)?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let _context = runtime.enter();
    let (fills, source) = fills(dir.path(), port, &tasks, &stop)?;
    let repository: RepoName = "system/deckhouse".parse()?;
    let open = || async {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        fills.open(&source, &repository, digest, true, deadline).await
    };
    let first = runtime.block_on(open())?;
    let is_whole = |length: Option<u64>| length == Some(HELD_BYTES as u64);
    let has_begun = matches!(first, Opened::Filling { began: true, length, .. } if is_whole(length));
    anyhow::ensure!(has_begun, "the fill did not begin: {first:?}");
    let joined = runtime.block_on(open())?;
    anyhow::ensure!(matches!(joined, Opened::Filling { began: false, .. }), "a fill of its own began");
    drop(joined);
    criterion.bench_function("fill/join", |bencher| {
        bencher.iter_custom(|times| {
            runtime.block_on(async {
                let started = Instant::now();
                for _ in 0..times {
                    // The reader is closed again at once.
                    let _ = black_box(open().await);
                }
                started.elapsed()
            })
        });
    });
    let last = runtime.block_on(open())?;
    anyhow::ensure!(matches!(last, Opened::Filling { began: false, .. }), "the fill ended while it was measured");
    stop.cancel();
    tasks.close();
    drop((first, last));
    runtime.block_on(tasks.wait());
    Ok(())
}

fn fills(dir: &std::path::Path, port: u16, tasks: &TaskTracker, stop: &CancellationToken) -> Result<(Fills, Source)> {
    let store = Store::open(&StoreOptions::at(&dir.join("store")))?;
    let metrics = Metrics::new()?;
    let endpoint = EndpointOptions {
        scheme: Scheme::Http,
        host: format!("127.0.0.1:{port}"),
        path: "held".to_owned(),
        ca: None,
        credentials: Credentials::Anonymous,
    };
    let options = UpstreamOptions {
        endpoints: vec![endpoint],
        trusted_hosts: Vec::new(),
        proxy: ProxyVariables::default(),
        limits: UpstreamLimits { stall: Duration::from_secs(3600), ..UpstreamLimits::default() },
        face: Face::Clients,
    };
    let upstream = Upstream::new(&options, metrics.clone(), tasks.clone())?;
    let evictor = Evictor::new(store.clone(), metrics.clone());
    let fills = Fills::new(store, evictor, metrics, FillOptions::default(), tasks.clone(), stop.clone());
    Ok((fills, Source { upstream, child: Arc::from("") }))
}

/// Answers every request with the head and the first bytes of a content, and then says nothing more.
fn stalling_upstream(content: Vec<u8>) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            // The head of the request ends with an empty line.
            while lines.next().is_some_and(|line| !line.is_empty()) {}
            drop(lines);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {HELD_BYTES}\r\n\r\n");
            let mut writer = &stream;
            if writer.write_all(head.as_bytes()).is_ok() && writer.write_all(&content[..SENT_BYTES]).is_ok() {
                open.push(stream);
            }
        }
    });
    Ok(port)
}
