//! Blobs that lie inside a larger file, at no page's boundary: each way out gives their bytes and no neighbour's.

use std::convert::Infallible;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, Method, Request, Version};
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;

use super::*;
use crate::mode::{Local, MissingReferences, Mode};
use crate::oci::Algorithm;
use crate::serve::Peer;
use crate::serve::{ConnectionLimits, RequestBody, Server, Tls, TlsOptions, bind};
use crate::store::{Blob, Store, StoreOptions};
use crate::telemetry::Metrics;

/// What surrounds the blobs. It is in none of them, and no text of an answer has it.
const FOREIGN: u8 = 0xFF;

/// What a file that can't be read is told to; it asks an empty store.
fn reading(dir: &TempDir) -> Arc<Reading> {
    let store = Store::open(&StoreOptions::at(&dir.path().join("data")));
    let mode = Mode::Local(Local::new(store.unwrap(), MissingReferences::Allow));
    Reading::new(Arc::new(mode), Metrics::new().unwrap(), "a".parse().unwrap(), Algorithm::Sha256.digest(b""))
}

/// A file with several contents, as a tar is.
#[derive(Clone)]
struct Shared {
    file: Arc<File>,
    contents: Arc<Vec<(u64, Vec<u8>)>>,
    reading: Arc<Reading>,
}

impl Shared {
    /// Contents of these lengths, with bytes before, between and behind them.
    fn new(reading: &Arc<Reading>, lengths: &[usize]) -> Self {
        let mut file = tempfile::tempfile().unwrap();
        let (mut at, mut contents) = (0_u64, Vec::new());
        for length in lengths {
            let content: Vec<u8> = (0..*length).map(|at| (at % 251) as u8).collect();
            // An odd number of bytes before each.
            let gap = 4097 + at as usize % 2;
            file.write_all(&vec![FOREIGN; gap]).unwrap();
            file.write_all(&content).unwrap();
            at += gap as u64;
            contents.push((at, content));
            at += *length as u64;
        }
        file.write_all(&[FOREIGN; 70_000]).unwrap();
        Self { file: Arc::new(file), contents: Arc::new(contents), reading: Arc::clone(reading) }
    }

    fn blob(&self, number: usize) -> Blob {
        let (at, content) = &self.contents[number];
        Blob::part_of(Arc::clone(&self.file), *at, content.len() as u64).unwrap()
    }

    fn answer(&self, number: usize, method: &Method, headers: &HeaderMap, way: BodyTransport) -> Response {
        let digest = Algorithm::Sha256.digest(&self.contents[number].1);
        let conditions = Conditions::of(method, headers, &digest);
        let answer = respond(self.blob(number).into(), &conditions, way, &self.reading);
        answer.unwrap_or_else(ApiError::into_response)
    }

    /// Answers `/0` with the first blob, and so on.
    fn serve(&self, limits: ConnectionLimits, tls: Option<Arc<Tls>>) -> (Server, SocketAddr) {
        let server = Server::new(limits);
        let [listener] = bind(&[SocketAddr::from(([127, 0, 0, 1], 0))]).unwrap().try_into().unwrap();
        let (address, shared) = (listener.address(), self.clone());
        let service = tower::service_fn(move |request: Request<RequestBody>| {
            let number = request.uri().path()[1..].parse().unwrap();
            let way = request.extensions().get::<Peer>().unwrap().body_transport;
            let answer = shared.answer(number, request.method(), request.headers(), way);
            async move { Ok::<_, Infallible>(answer) }
        });
        server.listen(listener, tls, service, None);
        (server, address)
    }
}

/// Each way in which bytes of a file reach a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Sendfile,
    Copied,
    TlsHttp1,
    TlsHttp2,
}

/// A server with `shared` on one way, and a client of it.
struct Running {
    base: String,
    client: reqwest::Client,
    version: Version,
    _server: Server,
}

impl Running {
    fn start(dir: &TempDir, shared: &Shared, way: Way) -> Self {
        let is_tls = matches!(way, Way::TlsHttp1 | Way::TlsHttp2);
        let limits = ConnectionLimits {
            max_connections: 8192,
            handshake_timeout: Duration::from_secs(10),
            first_head_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(100),
            stall_timeout: Duration::from_secs(60),
            max_header_bytes: 64 * 1024,
            max_streams: 200,
            accelerate: way != Way::Copied,
            linger_time: Duration::from_secs(5),
        };
        let (server, address) = shared.serve(limits, is_tls.then(|| tls(dir)));
        let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy();
        let client = if way == Way::TlsHttp2 { client } else { client.http1_only() };
        Self {
            base: format!("{}://{address}", if is_tls { "https" } else { "http" }),
            client: client.build().unwrap(),
            version: if way == Way::TlsHttp2 { Version::HTTP_2 } else { Version::HTTP_11 },
            _server: server,
        }
    }

    async fn ask(&self, method: Method, number: usize, range: Option<&str>) -> reqwest::Response {
        let request = self.client.request(method, format!("{}/{number}", self.base));
        let request = range.into_iter().fold(request, |request, range| request.header(RANGE, range));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.version(), self.version);
        answer
    }
}

fn tls(dir: &TempDir) -> Arc<Tls> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let options = TlsOptions {
        cert_file: dir.path().join("tls.crt"),
        key_file: dir.path().join("tls.key"),
        client_ca_file: None,
        trusted_proxy_names: Vec::new(),
        controller_ca_file: None,
        peer_ca_file: None,
    };
    std::fs::write(&options.cert_file, cert.pem()).unwrap();
    std::fs::write(&options.key_file, signing_key.serialize_pem()).unwrap();
    Arc::new(Tls::load(&options).unwrap())
}

/// The ranges that an answer of status 206 gives, each with its bytes.
fn parts(headers: &HeaderMap, body: &[u8]) -> Vec<(String, Vec<u8>)> {
    if let Some(range) = headers.get(CONTENT_RANGE) {
        return vec![(range.to_str().unwrap().to_owned(), body.to_vec())];
    }
    let content_type = headers[CONTENT_TYPE].to_str().unwrap();
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let find = |text: &[u8], wanted: &[u8]| text.windows(wanted.len()).position(|window| window == wanted).unwrap();
    let mut rest = &body[format!("--{boundary}\r\n").len()..];
    let mut parts = Vec::new();
    while rest != b"--\r\n" {
        let head = find(rest, b"\r\n\r\n");
        let text = std::str::from_utf8(&rest[..head]).unwrap();
        let range = text.lines().find_map(|line| line.strip_prefix("Content-Range: ")).unwrap().to_owned();
        rest = &rest[head + 4..];
        let end = find(rest, format!("\r\n--{boundary}").as_bytes());
        parts.push((range, rest[..end].to_vec()));
        rest = &rest[end + boundary.len() + 4..];
        rest = rest.strip_prefix(b"\r\n".as_slice()).unwrap_or(rest);
    }
    parts
}

/// What a part from byte `first` to `last` says and holds.
fn part(content: &[u8], first: usize, last: usize) -> (String, Vec<u8>) {
    (format!("bytes {first}-{last}/{}", content.len()), content[first..=last].to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_inside_a_file_leaves_whole_and_in_parts_on_every_way_out() {
    // One that leaves with its head, one that is one part of a file, one that is several.
    let lengths = [3, 100_003, 9_000_001];
    for way in [Way::Sendfile, Way::Copied, Way::TlsHttp1, Way::TlsHttp2] {
        let dir = TempDir::new().unwrap();
        let shared = Shared::new(&reading(&dir), &lengths);
        let running = Running::start(&dir, &shared, way);
        for (number, length) in lengths.into_iter().enumerate() {
            let content = &shared.contents[number].1;
            let head = running.ask(Method::HEAD, number, None).await;
            assert_eq!(head.headers()[CONTENT_LENGTH], length.to_string());
            let whole = running.ask(Method::GET, number, None).await;
            assert_eq!(whole.status(), 200);
            assert!(whole.bytes().await.unwrap() == *content, "{way:?}: {length} bytes");

            let (half, last) = (length / 2, length - 1);
            for (range, first, last) in [
                ("bytes=0-".to_owned(), 0, last),
                ("bytes=0-0".to_owned(), 0, 0),
                (format!("bytes={last}-"), last, last),
                (format!("bytes={last}-{}", u64::MAX), last, last),
                ("bytes=-2".to_owned(), length - 2, last),
                (format!("bytes=-{}", length + 1), 0, last),
                (format!("bytes={half}-{}", last - 1), half, last - 1),
            ] {
                let answer = running.ask(Method::GET, number, Some(&range)).await;
                assert_eq!(answer.status(), 206, "{range}");
                let headers = answer.headers().clone();
                let found = parts(&headers, &answer.bytes().await.unwrap());
                assert!(found == [part(content, first, last)], "{way:?}: {range} of {length}");
            }
            let behind = running.ask(Method::GET, number, Some(&format!("bytes={length}-"))).await;
            assert_eq!(
                (behind.status().as_u16(), behind.headers()[CONTENT_RANGE].to_str().unwrap()),
                (416, &*format!("bytes */{length}"))
            );

            let several = format!("bytes={half}-{},0-0,-1", last - 1);
            let answer = running.ask(Method::GET, number, Some(&several)).await;
            if length < 1000 {
                // The parts' headers are longer than the blob.
                assert_eq!(answer.status(), 200);
                assert!(answer.bytes().await.unwrap() == *content);
                continue;
            }
            assert_eq!(answer.status(), 206);
            let headers = answer.headers().clone();
            let body = answer.bytes().await.unwrap();
            assert_eq!(headers[CONTENT_LENGTH], body.len().to_string());
            let expected = [part(content, half, last - 1), part(content, 0, 0), part(content, last, last)];
            assert!(parts(&headers, &body) == expected, "{way:?}: {several} of {length}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_ends_inside_a_blob_breaks_the_answer() {
    const LENGTH: usize = 9_000_001;
    for way in [Way::Sendfile, Way::Copied, Way::TlsHttp1, Way::TlsHttp2] {
        let dir = TempDir::new().unwrap();
        let shared = Shared::new(&reading(&dir), &[LENGTH, 5]);
        let begin = shared.contents[0].0;
        shared.file.set_len(begin + LENGTH as u64 - 1).unwrap();
        let running = Running::start(&dir, &shared, way);
        // Its head promises all of it; nothing takes the place of the byte that is missing.
        let answer = running.ask(Method::GET, 0, None).await;
        assert_eq!(answer.headers()[CONTENT_LENGTH], LENGTH.to_string());
        answer.bytes().await.unwrap_err();
        let part = running.ask(Method::GET, 0, Some("bytes=0-99999")).await;
        assert!(part.bytes().await.unwrap() == shared.contents[0].1[..100_000], "{way:?}");
    }
}

#[test]
fn whatever_ranges_are_asked_for_only_bytes_of_the_blob_come() {
    let dir = TempDir::new().unwrap();
    let reading = reading(&dir);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let specs = proptest::collection::vec((0_usize..3500, 0_usize..3500, 0_u8..3), 1..5);
    proptest!(|(length in 1_usize..3000, specs in specs)| {
        let shared = Shared::new(&reading, &[7, length, 7]);
        let content = &shared.contents[1].1;
        let specs = specs.iter().map(|(first, last, form)| match form {
            0 => format!("{first}-{last}"),
            1 => format!("{first}-"),
            _ => format!("-{last}"),
        });
        let range = format!("bytes={}", specs.collect::<Vec<_>>().join(","));
        let headers = HeaderMap::from_iter([(RANGE, range.parse().unwrap())]);
        let (head, body) = shared.answer(1, &Method::GET, &headers, BodyTransport::Copy).into_parts();
        let body = runtime.block_on(body.collect()).unwrap().to_bytes();
        prop_assert!(!body.contains(&FOREIGN), "a byte that is not the blob's left");
        match head.status.as_u16() {
            200 => prop_assert_eq!(&body[..], &content[..]),
            206 => {
                for (range, bytes) in parts(&head.headers, &body) {
                    let (first, last) = range.strip_prefix("bytes ").unwrap().split_once('-').unwrap();
                    let (last, of) = last.split_once('/').unwrap();
                    prop_assert_eq!(of.parse::<usize>().unwrap(), length);
                    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
                    prop_assert_eq!(&bytes[..], &content[first..=last]);
                }
            }
            status => prop_assert_eq!(status, 416),
        }
    });
}

#[test]
fn the_blobs_of_these_tests_lie_among_foreign_bytes() {
    let dir = TempDir::new().unwrap();
    let shared = Shared::new(&reading(&dir), &[3, 100_003]);
    for (at, content) in &*shared.contents {
        assert_ne!(at % 4096, 0);
        assert!(!content.contains(&FOREIGN));
        let mut around = [0; 2];
        shared.file.read_exact_at(&mut around[..1], at - 1).unwrap();
        shared.file.read_exact_at(&mut around[1..], at + content.len() as u64).unwrap();
        assert_eq!(around, [FOREIGN; 2]);
    }
}
