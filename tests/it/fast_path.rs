//! The fast path and the slow path give the same answers, counts and log lines.
//!
//! Two servers of the same content, one with `limits.acceleration: off`, are asked the same, byte for byte, on
//! connections that live on from request to request.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{ALIAS, Image, REPO, Registry, Setup, Upstream, blob, digest};

const OFF: &str = "limits: { acceleration: off }";

/// An answer, as far as two servers can agree on it.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    line: String,
    /// Sorted, without the date and the number of the request.
    headers: Vec<String>,
    body: Vec<u8>,
}

/// A connection that is used for many requests.
struct Line(TcpStream);

impl Line {
    fn to(registry: &Registry) -> Self {
        let stream = TcpStream::connect(registry.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        // A lost answer ends the test, and does not stop it for ever.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self(stream)
    }

    /// Sends a request and reads its answer to the end. `None`: the connection was closed.
    fn ask(&mut self, request: &str) -> Option<Answer> {
        self.0.write_all(request.as_bytes()).ok()?;
        self.answer(request.starts_with("HEAD "))
    }

    fn answer(&mut self, head_only: bool) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if self.0.read(&mut byte).ok()? == 0 {
                return None;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().lines();
        let line = lines.next().unwrap().to_owned();
        let all: Vec<&str> = lines.collect();
        let names = |name: &'static str| move |line: &&&str| line.split(':').next().unwrap().eq_ignore_ascii_case(name);
        assert_eq!(all.iter().filter(names("date")).count(), 1, "{head}");
        assert_eq!(all.iter().filter(names("x-request-id")).count(), 1, "{head}");
        let length = all.iter().find(names("content-length")).map_or(0, |line| line[15..].trim().parse().unwrap());
        let mut body = vec![0; if head_only || line.contains(" 304 ") { 0 } else { length }];
        self.0.read_exact(&mut body).unwrap();
        let kept = all.iter().filter(|line| !names("date")(line) && !names("x-request-id")(line));
        let mut headers: Vec<String> = kept.map(|line| (*line).to_owned()).collect();
        headers.sort();
        Some(Answer { line, headers, body })
    }
}

/// What was logged of the requests, as far as two servers can agree on it.
fn logged(registry: Registry) -> Vec<Value> {
    let lines = registry.stop().into_iter().filter(|line| line["target"] == "access" && line["message"] == "request");
    let kept = lines.map(|mut line| {
        for name in ["timestamp", "id", "seconds"] {
            assert!(!line.as_object_mut().unwrap().remove(name).unwrap().is_null());
        }
        line
    });
    kept.collect()
}

/// The samples of the registry's own counters, without those of time.
async fn counted(registry: &Registry) -> BTreeMap<String, f64> {
    let text = registry.admin().get("/metrics").await.text().await.unwrap();
    let counts = |line: &&str| {
        let of_requests = ["http_request", "cache_", "auth_failures"].iter().any(|name| line.contains(name))
            || line.contains("_bytes_total");
        of_requests && !line.starts_with('#') && !line.contains("_bucket") && !line.contains("seconds_sum")
    };
    let samples = text.lines().filter(counts).map(|line| line.rsplit_once(' ').unwrap());
    samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// By how much counters grew, those that did.
fn grown(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let growth = after.iter().map(|(name, value)| (name.clone(), value - before.get(name).unwrap_or(&0.0)));
    growth.filter(|(_, growth)| *growth != 0.0).collect()
}

async fn push(registry: &Registry, image: &Image) {
    let client = registry.client_as("rw");
    client.push_image("a/b", "v1", image).await;
    client.push_blob("a/b", &blob(7, 4096)).await;
    client.push_blob("a/b", &blob(8, 300_000)).await;
}

fn request(method: &str, target: &str, headers: &[&str]) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: registry.example:5001\r\nUser-Agent: it/1\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text + "\r\n"
}

fn basic(user: &str, password: &str) -> String {
    format!("Authorization: Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

async fn bearer(registry: &Registry, repo: &str) -> String {
    let path = format!("/auth/token?service=registry&scope=repository:{repo}:pull");
    let token: Value = registry.client_as("ro").get(&path).await.json().await.unwrap();
    format!("Authorization: Bearer {}", token["token"].as_str().unwrap())
}

/// Targets, answered from memory and otherwise.
fn targets(image: &Image) -> Vec<String> {
    let (by_digest, small, large) = (image.digest(), digest(&blob(7, 4096)), digest(&blob(8, 300_000)));
    vec![
        "/v2/a/b/manifests/v1".to_owned(),
        format!("/v2/a/b/manifests/{by_digest}"),
        format!("/v2/a/b/manifests/{}", by_digest.replace(':', "%3A")),
        format!("/v2/a/b/blobs/{small}"),
        format!("/v2/a/b/blobs/{large}"),
        format!("/v2/a/b/blobs/{by_digest}"),
        "/v2/a/b/manifests/v1?ns=registry.example%3A5001".to_owned(),
        "/v2/a/b/manifests/v1?ns=a%20b".to_owned(),
        format!("/v2/a/b/blobs/{small}?ns=registry.example&ns=other"),
        "/v2/a/b/manifests/v2".to_owned(),
        "/v2/a/c/manifests/v1".to_owned(),
        "/v2/A/manifests/v1".to_owned(),
        "/v2/a/b/tags/list".to_owned(),
        "/v2/".to_owned(),
        "/".to_owned(),
    ]
}

/// Header lines beside those of the sign-in.
const EXTRAS: &[&str] = &[
    "Accept: application/vnd.oci.image.manifest.v1+json",
    "Connection: keep-alive",
    "Connection: Keep-Alive, x",
    "Range: bytes=1-5",
    "range: bytes=900000-",
    "If-None-Match: *",
    "If-Range: \"x\"",
    "X-Forwarded-For: 192.0.2.9",
    "X-Request-Id: mine",
    "Content-Length: 0",
    "User-Agent: second",
    "Host: other.example",
    "TE: trailers",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_say_count_and_log_the_same() {
    let image = Image::of(3);
    let (fast, general) = (Registry::start(&Setup::with_users()), Registry::start(&Setup::with_users().config(OFF)));
    push(&fast, &image).await;
    push(&general, &image).await;
    let (of_fast, of_general) = (bearer(&fast, "a/b").await, bearer(&general, "a/b").await);
    let sign_ins = |bearer: &str| {
        let mut all = vec![Vec::new(), vec![bearer.to_owned()]];
        for (user, password) in
            [("ro", "secret"), ("rw", "secret"), ("mirror-pusher", "secret"), ("ro", "wrong"), ("no", "x")]
        {
            all.push(vec![basic(user, password)]);
        }
        all.push(vec!["Authorization: Basic ?".to_owned()]);
        all
    };
    let before = (counted(&fast).await, counted(&general).await);
    let (mut line, mut twin) = (Line::to(&fast), Line::to(&general));
    let mut asked = 0;
    for target in targets(&image) {
        for (mine, theirs) in sign_ins(&of_fast).iter().zip(sign_ins(&of_general)) {
            for method in ["GET", "HEAD"] {
                let with = |sign_in: &[String]| {
                    request(method, &target, &sign_in.iter().map(String::as_str).collect::<Vec<_>>())
                };
                let (answer, expected) = (line.ask(&with(mine)), twin.ask(&with(&theirs)));
                assert_eq!(answer, expected, "{method} {target} {mine:?}");
                assert!(answer.is_some());
                asked += 1;
            }
        }
        for extra in EXTRAS {
            for method in ["GET", "HEAD"] {
                let text = request(method, &target, &[&basic("ro", "secret"), extra]);
                assert_eq!(line.ask(&text), twin.ask(&text), "{method} {target} {extra}");
                asked += 1;
            }
            // What has a body ends the fast path of a connection for good.
            if extra.starts_with("Content-Length") {
                (line, twin) = (Line::to(&fast), Line::to(&general));
            }
        }
    }
    drop((line, twin));
    let growth = grown(&before.0, &counted(&fast).await);
    assert_eq!(growth, grown(&before.1, &counted(&general).await));
    assert!(growth.len() > 10, "{growth:?}");
    let (lines, expected) = (logged(fast), logged(general));
    // Refused sign-ins are held back by the clock.
    let comparable = |lines: Vec<Value>| {
        lines.into_iter().filter(|line| line["status"] != 401 && line["status"] != 429).collect::<Vec<_>>()
    };
    let (lines, expected) = (comparable(lines), comparable(expected));
    assert!(lines.len() > asked / 2, "{} lines of {asked} requests", lines.len());
    assert_eq!(lines, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_the_cache_too() {
    let upstream = Upstream::start();
    let image = Image::of(5);
    upstream.put_image(REPO, "v1", &image);
    let setup = || Setup::proxy(&upstream);
    let (fast, general) = (Registry::start(&setup()), Registry::start(&setup().config(OFF)));
    let targets = [
        format!("/v2/{ALIAS}/manifests/v1"),
        format!("/v2/{ALIAS}/manifests/{}", image.digest()),
        format!("/v2/{ALIAS}/blobs/{}", digest(&image.blobs()[0])),
        "/v2/elsewhere/manifests/v1".to_owned(),
    ];
    let (mut line, mut twin) = (Line::to(&fast), Line::to(&general));
    // A content that was just fetched may be on its way into the store for a moment.
    for connection in [&mut line, &mut twin] {
        for target in &targets[..3] {
            until(|| is_hit(&connection.ask(&request("GET", target, &[])).unwrap()));
        }
    }
    let before = (counted(&fast).await, counted(&general).await);
    let mut asked = 0;
    for _ in 0..2 {
        for (place, target) in targets.iter().enumerate() {
            for method in ["GET", "HEAD"] {
                let text = request(method, target, &[]);
                let answer = line.ask(&text).unwrap();
                assert_eq!(is_hit(&answer), place < 3, "{answer:?}");
                assert_eq!(Some(answer), twin.ask(&text), "{method} {target}");
                asked += 1;
            }
        }
    }
    drop((line, twin));
    assert_eq!(grown(&before.0, &counted(&fast).await), grown(&before.1, &counted(&general).await));
    let last = |mut lines: Vec<Value>| lines.split_off(lines.len() - asked);
    assert_eq!(last(logged(fast)), last(logged(general)));
}

/// Asks again until it is so.
fn until(mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "something that has to happen does not");
    }
}

fn is_hit(answer: &Answer) -> bool {
    answer.headers.contains(&"d8-registry-cache: hit".to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_is_believed_at_once() {
    let registry = Registry::start(&Setup::with_users());
    let (first, second) = (Image::of(1), Image::of(2));
    let client = registry.client_as("rw");
    client.push_image("a/b", "v1", &first).await;
    let mut line = Line::to(&registry);
    let text = request("GET", "/v2/a/b/manifests/v1", &[&basic("ro", "secret")]);
    for _ in 0..3 {
        assert_eq!(line.ask(&text).unwrap().body, first.manifest());
    }
    client.push_image("a/b", "v1", &second).await;
    assert_eq!(line.ask(&text).unwrap().body, second.manifest());
    assert_eq!(client.delete("/v2/a/b/manifests/v1").await.status(), 202);
    assert!(line.ask(&text).unwrap().line.contains(" 404 "));
    client.push_image("a/b", "v1", &first).await;
    assert_eq!(line.ask(&text).unwrap().body, first.manifest());

    // A part of the image goes: what was whole a moment ago is refused.
    let layer = digest(&first.blobs()[1]);
    assert_eq!(client.delete(&format!("/v2/a/b/blobs/{layer}")).await.status(), 202);
    assert!(line.ask(&text).unwrap().line.contains(" 404 "));
    client.push_blob("a/b", &first.blobs()[1]).await;
    assert_eq!(line.ask(&text).unwrap().body, first.manifest());

    // Nobody is known any more, and the connection remembers nobody.
    registry.reconfigure(&Setup::open().config("auth: { anonymous: none, users: [{ name: other, role: ro, passwordHash: $2y$04$6LkUk9iQoONEdXK3HZE.SeQ2EpsbuPuk2oSSfsIHz4kN4cXieH.BG }] }"));
    until(|| line.ask(&text).unwrap().line.contains(" 401 "));
    assert!(
        line.ask(&request("HEAD", "/v2/a/b/manifests/v1", &[&basic("other", "secret")]))
            .unwrap()
            .line
            .contains(" 200 ")
    );
    assert!(line.ask(&text).unwrap().line.contains(" 401 "));
    registry.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_goes_to_and_fro() {
    let registry = Registry::start(&Setup::open());
    let image = Image::of(3);
    let (small, large) = (blob(7, 4096), blob(8, 3_000_000));
    let client = registry.client();
    client.push_image("a/b", "v1", &image).await;
    client.push_blob("a/b", &small).await;
    client.push_blob("a/b", &large).await;
    let mut line = Line::to(&registry);
    let get = |target: &str| request("GET", target, &[]);
    let (manifest, blob_of) = ("/v2/a/b/manifests/v1", |content: &[u8]| format!("/v2/a/b/blobs/{}", digest(content)));
    for _ in 0..20 {
        assert_eq!(line.ask(&get(manifest)).unwrap().body, image.manifest());
        assert_eq!(line.ask(&get(&blob_of(&large))).unwrap().body, large);
        assert_eq!(line.ask(&get(&blob_of(&small))).unwrap().body, small);
        assert!(line.ask(&request("HEAD", &blob_of(&large), &[])).unwrap().body.is_empty());
        assert!(line.ask(&get("/v2/a/b/manifests/none")).unwrap().line.contains(" 404 "));
    }

    // Many at once on one connection come back in their order, whoever answers them.
    let all = [get(manifest), get(&blob_of(&large)), get(manifest), get(&blob_of(&small)), get("/v2/"), get(manifest)];
    line.0.write_all(all.concat().as_bytes()).unwrap();
    let expected: [&[u8]; 6] = [image.manifest(), &large, image.manifest(), &small, b"{}", image.manifest()];
    for body in expected {
        assert_eq!(line.answer(false).unwrap().body, body);
    }
    assert_eq!(line.ask(&get(manifest)).unwrap().body, image.manifest());

    // A body that nobody announced as one is the next request, and no other.
    let mut line = Line::to(&registry);
    let smuggled =
        format!("POST /v2/a/b/blobs/uploads/ HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", get(manifest).len());
    assert!(line.ask(&(smuggled + &get(manifest))).unwrap().line.contains(" 202 "));
    assert!(
        line.ask(&request("HEAD", "/v2/a/b/manifests/none", &[])).is_none_or(|answer| answer.line.contains(" 404 "))
    );
}

/// How a request is cut into pieces on its way.
fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..4)
}

#[test]
fn requests_in_any_pieces_and_order_get_their_own_answers() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let registry = Registry::start(&Setup::open());
    let (image, small) = (Image::of(3), blob(7, 4096));
    runtime.block_on(async {
        registry.client().push_image("a/b", "v1", &image).await;
        registry.client().push_blob("a/b", &small).await;
    });
    let choices: Vec<(String, Vec<u8>, &str)> = vec![
        (request("GET", "/v2/a/b/manifests/v1", &[]), image.manifest().to_vec(), " 200 "),
        (request("HEAD", "/v2/a/b/manifests/v1", &[]), Vec::new(), " 200 "),
        (request("GET", &format!("/v2/a/b/blobs/{}", digest(&small)), &[]), small, " 200 "),
        (request("GET", "/v2/a/b/manifests/v1", &["Range: bytes=0-9"]), image.manifest()[..10].to_vec(), " 206 "),
        (request("GET", "/v2/", &[]), b"{}".to_vec(), " 200 "),
    ];
    let requests = prop::collection::vec((0..choices.len(), cuts(), any::<bool>()), 1..12);
    proptest!(ProptestConfig::with_cases(64), |(requests in requests)| {
        let mut line = Line::to(&registry);
        let mut waiting: Vec<usize> = Vec::new();
        for (choice, cuts, wait) in requests {
            let text = choices[choice].0.as_bytes();
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).chain([text.len()]).collect();
            ends.sort_unstable();
            let mut start = 0;
            for end in ends {
                line.0.write_all(&text[start..end]).unwrap();
                start = end;
            }
            waiting.push(choice);
            if wait {
                for choice in waiting.drain(..) {
                    let answer = line.answer(choices[choice].0.starts_with("HEAD")).unwrap();
                    prop_assert_eq!(&answer.body, &choices[choice].1);
                    prop_assert!(answer.line.contains(choices[choice].2));
                }
            }
        }
        for choice in waiting {
            let answer = line.answer(choices[choice].0.starts_with("HEAD")).unwrap();
            prop_assert_eq!(&answer.body, &choices[choice].1);
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ends_closes_connections_that_only_the_fast_path_knows() {
    let registry = Registry::start(&Setup::open());
    let image = Image::of(3);
    registry.client().push_image("a/b", "v1", &image).await;
    let mut line = Line::to(&registry);
    assert_eq!(line.ask(&request("GET", "/v2/a/b/manifests/v1", &[])).unwrap().body, image.manifest());
    registry.signal(Signal::TERM);
    let mut rest = Vec::new();
    line.0.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    registry.stop();
}
