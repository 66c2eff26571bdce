//! A running server: whatever comes over its connections it neither panics, nor fails on its own account, nor stores or
//! serves what is not what its name says; and it stays a registry for everybody else.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use super::Cases;
use super::mutate::{Random, mutate};
use crate::support::{Image, Registry, Setup, assert_store_is_tidy, blob, digest};

/// `rw:secret`.
const BASIC: &str = "Authorization: Basic cnc6c2VjcmV0\r\n";

/// Enough for the cases to meet a full store now and then.
const CONFIG: &str = "store: { dir: $DIR, reserveBytes: 0, maxBytes: 16MiB }\nlimits: { stallTimeout: 1s }";

/// Longer than any of the server's own limits: who waits so long hangs.
const HANG: Duration = Duration::from_secs(60);

/// Connections at once.
const THREADS: usize = 4;

/// What goes over one connection: whole requests, one after the other.
struct Seeds(Vec<Vec<Vec<u8>>>);

fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{BASIC}{headers}").into_bytes();
    if !body.is_empty() || matches!(method, "PUT" | "POST" | "PATCH") {
        bytes.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes
}

fn chunked(method: &str, path: &str, chunks: &[&str]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: h\r\n{BASIC}Transfer-Encoding: chunked\r\n\r\n");
    for chunk in chunks {
        text.push_str(&format!("{:x}\r\n{chunk}\r\n", chunk.len()));
    }
    (text + "0\r\n\r\n").into_bytes()
}

impl Seeds {
    fn new(image: &Image, token: &str) -> Self {
        let (config, layer) = (&image.blobs()[0], &image.blobs()[1]);
        let get = |path: &str, headers: &str| vec![request("GET", path, headers, b"")];
        let kind = format!("Content-Type: {}\r\n", image.media_type());
        let layer_path = format!("/v2/fuzz/app/blobs/{}", digest(layer));
        let form = "grant_type=password&service=x&scope=repository:fuzz/app:pull,push&username=rw&password=secret";
        let is_form = "Content-Type: application/x-www-form-urlencoded\r\n";
        let bearer = format!("GET /v2/fuzz/app/tags/list HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n");
        Self(vec![
            get("/v2/", ""),
            get("/v2/_catalog?n=10&last=fuzz", "Accept-Encoding: gzip\r\n"),
            get("/v2/fuzz/app/tags/list?n=2&last=a", ""),
            get("/v2/fuzz/app/manifests/v1?ns=docker.io", "Accept: */*\r\n"),
            get(&layer_path, "Range: bytes=0-9\r\n"),
            get(
                &layer_path,
                &format!("If-None-Match: \"x\"\r\nRange: bytes=-5\r\nIf-Range: \"{}\"\r\n", digest(layer)),
            ),
            get(&format!("/v2/fuzz/app/referrers/{}?artifactType=a%2Fb", image.digest()), ""),
            get("/auth/token?service=x&scope=repository:fuzz/app:pull&scope=registry:catalog:*", ""),
            vec![request("POST", "/auth/token", is_form, form.as_bytes())],
            vec![bearer.into_bytes()],
            vec![request("HEAD", "/v2/fuzz/app/manifests/v1", "", b"")],
            vec![request("POST", &format!("/v2/fuzz/app/blobs/uploads/?digest={}", digest(config)), "", config)],
            vec![request(
                "POST",
                &format!("/v2/fuzz/two/blobs/uploads/?mount={}&from=fuzz/app", digest(layer)),
                "",
                b"",
            )],
            vec![request("POST", "/v2/fuzz/app/blobs/uploads/?digest-algorithm=sha512", "", b"")],
            vec![request("PUT", "/v2/fuzz/app/manifests/v1", &kind, image.manifest())],
            vec![request(
                "PUT",
                &format!("/v2/fuzz/app/manifests/{}?tag=a&tag=b", image.digest()),
                &kind,
                image.manifest(),
            )],
            vec![request("PUT", "/v2/fuzz/app/manifests/v2", "Expect: 100-continue\r\n", image.manifest())],
            vec![request("DELETE", "/v2/fuzz/app/manifests/v2", "", b"")],
            vec![
                request("DELETE", &layer_path, "", b""),
                request("POST", &format!("/v2/fuzz/app/blobs/uploads/?digest={}", digest(layer)), "", layer),
            ],
            vec![chunked(
                "POST",
                &format!("/v2/fuzz/app/blobs/uploads/?digest={}", digest(b"onetwo")),
                &["one", "two"],
            )],
            // `$LOCATION` is where the last answer said.
            vec![
                request("POST", "/v2/fuzz/app/blobs/uploads/", "", b""),
                request("PATCH", "$LOCATION", "Content-Range: 0-99\r\n", &blob(1, 100)),
                request("GET", "$LOCATION", "", b""),
                request("PATCH", "$LOCATION", "Content-Range: 100-199\r\n", &blob(2, 100)),
                request(
                    "PUT",
                    &format!("$LOCATION?digest={}", digest(&[blob(1, 100), blob(2, 100)].concat())),
                    "",
                    b"",
                ),
            ],
            vec![
                request("POST", "/v2/fuzz/app/blobs/uploads/", "", b""),
                chunked("PATCH", "$LOCATION", &["three", "four"]),
                request("PUT", &format!("$LOCATION?digest={}", digest(b"threefourfive")), "", b"five"),
            ],
            vec![
                request("POST", "/v2/fuzz/app/blobs/uploads/", "", b""),
                request("PATCH", "$LOCATION", "", &blob(3, 3000)),
                request("DELETE", "$LOCATION", "", b""),
            ],
        ])
    }

    /// The requests of one case, one or more of them changed, or in another order.
    fn case(&self, random: &mut Random) -> Vec<Vec<u8>> {
        let mut case = self.0[random.below(self.0.len())].clone();
        let flat: Vec<&[u8]> = self.0.iter().flatten().map(Vec::as_slice).collect();
        for request in &mut case {
            if random.one_in(2) {
                *request = mutate(random, request, &flat);
            }
        }
        if random.one_in(4) {
            let (from, to) = (random.below(case.len()), random.below(case.len()));
            case.swap(from, to);
        }
        if random.one_in(4) {
            let seed = random.pick(&flat);
            case.push(mutate(random, seed, &flat));
        }
        case
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

/// The value of a header in a head.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

/// Whether the bytes seem to be one whole request. If not, the client ends its side and the server what waits for more.
fn seems_whole(request: &[u8]) -> bool {
    let Some(end) = find(request, b"\r\n\r\n") else { return false };
    // Empty lines in front are no request; the server goes on waiting for one.
    if !request[0].is_ascii_graphic() {
        return false;
    }
    let head = String::from_utf8_lossy(&request[..end]);
    let length = header(&head, "content-length").map_or(Some(0), |text| text.parse::<usize>().ok());
    header(&head, "transfer-encoding").is_none() && length.is_some_and(|length| length == request.len() - end - 4)
        || request.ends_with(b"\r\n0\r\n\r\n")
}

/// One answer.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

/// Reads one answer; `None` if the connection ends before it.
fn read_answer(stream: &mut TcpStream, request: &[u8]) -> Result<Option<Answer>, String> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        while let Some(end) = find(&bytes, b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).map_err(|_| "a head that is no text".to_owned())?;
            let status = head.get(9..12).and_then(|text| text.parse().ok()).ok_or(format!("no status: {head}"))?;
            if status == 100 {
                bytes.drain(..end + 4);
                continue;
            }
            let body = &bytes[end + 4..];
            let bodyless = request.starts_with(b"HEAD ") || status == 204 || status == 304;
            let length =
                if bodyless { Some(0) } else { header(&head, "content-length").and_then(|text| text.parse().ok()) };
            let whole = length.map_or(body.ends_with(b"0\r\n\r\n"), |length: usize| body.len() >= length);
            if whole {
                let body = body[..length.unwrap_or(body.len())].to_vec();
                return Ok(Some(Answer { status, head, body }));
            }
            break;
        }
        match stream.read(&mut piece) {
            Ok(0) => return Ok(None),
            Ok(read) => bytes.extend(&piece[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err("the server neither answers nor closes".into());
            }
            // It closed before it read all that was sent.
            Err(_) => return Ok(None),
        }
    }
}

/// What is wrong with an answer.
fn fault(request: &[u8], answer: &Answer) -> Option<String> {
    let Answer { status, head, body } = answer;
    if *status >= 500 && !matches!(status, 503 | 505 | 507) {
        return Some(format!("status {status}"));
    }
    let named = header(head, "docker-content-digest").filter(|named| named.starts_with("sha256:"));
    if *status == 200
        && request.starts_with(b"GET ")
        && let Some(named) = named
        && digest(body) != named
    {
        return Some(format!("content of {named} is {}", digest(body)));
    }
    if *status >= 400 && !body.is_empty() && header(head, "content-type") == Some("application/json") {
        let json: Result<serde_json::Value, _> = serde_json::from_slice(body);
        if !json.is_ok_and(|json| json["errors"][0]["code"].is_string()) {
            return Some("an error without the specification's body".into());
        }
    }
    None
}

/// Sends the requests of a case over one connection as long as it lasts.
fn run(address: &str, case: &[Vec<u8>]) -> Result<(), String> {
    let connect = || {
        let stream = TcpStream::connect(address).map_err(|error| format!("nobody listens: {error}"))?;
        stream.set_read_timeout(Some(HANG)).map_err(|error| error.to_string())?;
        Ok::<_, String>(stream)
    };
    let mut location = "/v2/fuzz/app/blobs/uploads/9f86d081-0000-4000-8000-000000000000".to_owned();
    let mut stream = connect()?;
    for request in case {
        let mut request = request.clone();
        if let Some(at) = find(&request, b"$LOCATION") {
            drop(request.splice(at..at + 9, location.bytes()));
        }
        // A server that has had enough closes; what it said before is read all the same.
        let sent = stream.write_all(&request);
        if !seems_whole(&request) {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let answer = read_answer(&mut stream, &request)
            .map_err(|fault| format!("{fault}, to {:?}", String::from_utf8_lossy(&request)))?;
        let goes_on = sent.is_ok()
            && seems_whole(&request)
            && answer.as_ref().is_some_and(|answer| header(&answer.head, "connection") != Some("close"));
        if let Some(answer) = answer {
            if let Some(fault) = fault(&request, &answer) {
                return Err(format!("{fault}, to {:?}: {}", String::from_utf8_lossy(&request), answer.head));
            }
            if let Some(given) = header(&answer.head, "location").filter(|given| given.contains("/uploads/")) {
                given.clone_into(&mut location);
            }
        }
        if !goes_on {
            stream = connect()?;
        }
    }
    Ok(())
}

/// A token for the Bearer seed.
async fn token(registry: &Registry) -> String {
    let path = "/auth/token?scope=repository:fuzz/app:pull,push";
    let issued: serde_json::Value = registry.client_as("rw").get(path).await.json().await.unwrap();
    issued["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn no_bytes_bring_the_server_down() {
    let registry = Registry::start(&Setup::with_users().config(CONFIG));
    let client = registry.client_as("rw");
    let (kept, image) = (Image::of(1), Image::of(2));
    client.push_image("kept/app", "v1", &kept).await;
    client.push_image("fuzz/app", "v1", &image).await;
    let seeds = Seeds::new(&image, &token(&registry).await);
    let cases = Cases::new("server", 600);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while failed.lock().unwrap().is_none()
                    && let Some((seed, mut random)) = cases.next()
                {
                    if let Err(fault) = run(registry.address(), &seeds.case(&mut random)) {
                        failed.lock().unwrap().get_or_insert(format!("FUZZ_SEED={seed}: {fault}"));
                    }
                }
            });
        }
    });
    cases.report("server");
    if let Some(failed) = failed.into_inner().unwrap() {
        panic!("{failed}");
    }

    let response = client.get("/v2/kept/app/manifests/v1").await;
    assert_eq!((response.status().as_u16(), &response.bytes().await.unwrap()[..]), (200, kept.manifest()));
    for content in kept.blobs() {
        let response = client.get(&format!("/v2/kept/app/blobs/{}", digest(content))).await;
        assert_eq!(response.bytes().await.unwrap(), content);
    }
    let (folder, data) = (registry.folder(), registry.data());
    let mut statuses = BTreeMap::new();
    for line in registry.stop() {
        // Lines of a panic outside of the log are no JSON.
        assert!(line.is_object(), "{line}");
        let message = line["message"].as_str().unwrap_or_default();
        assert!(!message.contains("panic"), "{line}");
        let status = line["status"].as_u64().unwrap_or(0);
        assert!(status < 500 || matches!(status, 503 | 505 | 507), "{line}");
        *statuses.entry(status).or_insert(0) += 1;
    }
    eprintln!("server: answers by status {statuses:?}");
    // Mutations that only ever meet the first check find nothing.
    for status in [200, 201, 202, 204, 206, 400, 401, 404, 405] {
        assert!(statuses.contains_key(&status), "no answer {status}: {statuses:?}");
    }
    assert_store_is_tidy(&data);
    drop(folder);
}
