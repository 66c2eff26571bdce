//! That the fast path answers at all. `tests/it/fast_path.rs` holds its answers against those of the slow path.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::api::{CopyRules, GateSizes, Settings};
use crate::auth::{Anonymous, AuthOptions, Authenticator, TokenOptions};
use crate::mode::{Local, MissingReferences, Mode};
use crate::oci::{Algorithm, Manifest};
use crate::serve::{BodyTransport, Standing, Watch};
use crate::store::{Store, StoreOptions, StoredManifest};
use crate::telemetry::{AccessLog, Metrics};
use crate::values::{MinCopies, WhenShort};

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
const PATH: &str = "/v2/a/b/manifests/v1";

/// An open registry with one manifest, tagged `v1`.
async fn app(dir: &TempDir, manifest: &str) -> App {
    app_with(dir, manifest, Vec::new()).await
}

/// The same with users; their names prove something, and anonymous may pull.
async fn app_with(dir: &TempDir, manifest: &str, users: Vec<crate::auth::UserSpec>) -> App {
    let store = Store::open(&StoreOptions::at(&dir.path().join("data"))).unwrap();
    let stored = StoredManifest {
        digest: Algorithm::Sha256.digest(manifest.as_bytes()),
        bytes: manifest.to_owned().into(),
        manifest: Arc::new(Manifest::parse(None, manifest.as_bytes()).unwrap()),
    };
    let local = Local::new(store, MissingReferences::Refuse);
    local.put_manifest(&"a/b".parse().unwrap(), stored, vec!["v1".parse().unwrap()]).await.unwrap();
    let token = TokenOptions {
        enabled: None,
        ttl: Duration::ZERO,
        signing_key_file: None,
        signing_cert_file: None,
        key_dir: Some(dir.path().to_path_buf()),
    };
    let auth = AuthOptions { anonymous: Anonymous::Pull, users, users_dir: None, token };
    let copies = CopyRules { min: MinCopies::Count(1), when_short: WhenShort::Accept };
    let gates = GateSizes { pulls: 1, uploads: 1, listings: 1, queue_wait: Duration::ZERO };
    App::new(
        Mode::Local(local),
        Authenticator::load(&auth, 1).unwrap(),
        Settings { manifest_max_bytes: 1 << 20, gates, copies },
        Metrics::new().unwrap(),
        AccessLog::unread(),
        CancellationToken::new(),
    )
}

fn peer(trusted_proxy: bool) -> Peer {
    let (address, standing) = ("192.0.2.1:5000".parse().unwrap(), Standing::default());
    Peer {
        address,
        tls: false,
        trusted_proxy,
        controller: false,
        master: None,
        body_transport: BodyTransport::Copy,
        stream: Arc::default(),
        standing,
    }
}

fn request(method: &str, target: &str, headers: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{headers}\r\n")
}

#[tokio::test]
async fn memory_answers_and_the_rest_is_left() {
    let dir = TempDir::new().unwrap();
    let app = app(&dir, MANIFEST).await;
    let mut connection = FastPath::new(app.clone()).connection(&peer(false), 1000).unwrap();
    let mut ask = |text: &str| {
        let mut head = Vec::new();
        let verdict = connection.answer(text.as_bytes(), &mut head);
        assert_eq!(head.is_empty(), !matches!(verdict, Early::Answered(_)));
        verdict
    };
    let get = request("GET", PATH, "");
    assert_eq!(ask(&get), Early::Request, "not in memory yet");
    let modes = app.0.modes.load_full();
    modes.in_force().manifest(&"a/b".parse().unwrap(), &"v1".parse().unwrap()).await.unwrap();

    assert_eq!(ask(&get), Early::Answered(MANIFEST.into()));
    assert_eq!(ask(&request("HEAD", PATH, "Accept: */*\r\n")), Early::Answered(Bytes::new()));
    let by_digest = format!("/v2/a/b/manifests/{}", Algorithm::Sha256.digest(MANIFEST.as_bytes()));
    assert_eq!(ask(&request("GET", &by_digest, "")), Early::Answered(MANIFEST.into()));
    assert_eq!(ask(&request("GET", &format!("{PATH}?ns=r.example%3A5001"), "")), Early::Answered(MANIFEST.into()));

    for (target, headers) in [
        ("/v2/a/b/manifests/v2", ""),
        ("/v2/a/b/manifests/v1%32", ""),
        ("/v2/a/b/tags/list", ""),
        ("/v2/", ""),
        (PATH, "Range: bytes=0-1\r\n"),
        (PATH, "Authorization: Basic eDp4\r\n"),
        (&*format!("{PATH}?ns=a&n=1"), ""),
        ("http://h/v2/a/b/manifests/v1", ""),
    ] {
        assert_eq!(ask(&request("GET", target, headers)), Early::Request, "{target} {headers}");
    }
    for text in [
        format!("{get}{get}"),
        get[..get.len() - 1].to_owned(),
        request("PUT", PATH, ""),
        request("GET", PATH, &format!("X: {}\r\n", "x".repeat(1000))),
        request("GET", PATH, "Content-Length: 1\r\n"),
        get.replace("1.1", "1.0"),
        get.replace("Host: h", "Host h"),
    ] {
        assert_eq!(ask(&text), Early::Other, "{text}");
    }
    assert_eq!(ask(&get.replace("Host: h\r\n", "")), Early::Request, "no host");
    assert_eq!(ask(&get), Early::Answered(MANIFEST.into()));
}

#[tokio::test]
async fn what_a_trusted_proxy_says_of_others_goes_to_the_slow_path() {
    let dir = TempDir::new().unwrap();
    assert!(FastPath::new(app(&dir, MANIFEST).await).connection(&peer(true), 1000).is_none());
}

/// Notes what it is told.
#[derive(Debug, Default)]
struct Told(std::sync::Mutex<Vec<String>>);

impl Told {
    fn note(&self, what: &str) {
        self.0.lock().unwrap().push(what.to_owned());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Watch for Told {
    fn speaks_for(&self, client: IpAddr) {
        self.note(&format!("for {client}"));
    }

    fn signed_in(&self) {
        self.note("signed in");
    }

    fn let_in(&self) {
        self.note("let in");
    }

    fn let_out(&self) {
        self.note("let out");
    }
}

#[tokio::test]
async fn a_connection_is_told_who_asks_on_it() {
    const RIGHT: &str = "Basic cm86c2VjcmV0";
    let dir = TempDir::new().unwrap();
    let hash = crate::auth::hash_password("secret", 4).unwrap();
    let spec = crate::auth::UserSpec { name: "ro".to_owned(), password_hash: hash.into(), role: crate::auth::Role::Ro };
    let app = app_with(&dir, MANIFEST, vec![spec]).await;
    let told = Arc::new(Told::default());
    let standing = Standing::new(Arc::clone(&told) as Arc<dyn Watch>);
    let mut edge = crate::api::Edge::new(app.clone());
    for (trusted_proxy, path, authorization, expected) in [
        (false, PATH, "", &["let in", "let out"][..]),
        (false, PATH, RIGHT, &["signed in", "let in", "let out"]),
        (false, PATH, "Basic cm86d3Jvbmc=", &[]),
        (false, "/", "", &[]),
        (false, "/auth/token", RIGHT, &["signed in"]),
        (false, "/auth/token", "", &[]),
        (true, PATH, RIGHT, &["for 203.0.113.5", "signed in", "let in", "let out"]),
        (true, PATH, "", &["for 203.0.113.5", "let in", "let out"]),
    ] {
        let mut request = http::Request::get(path).header("host", "h").header("x-forwarded-for", "203.0.113.5");
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        let mut request = request.body(axum::body::Body::empty()).unwrap();
        request.extensions_mut().insert(Peer { standing: standing.clone(), ..peer(trusted_proxy) });
        let answer = tower::Service::call(&mut edge, request).await.unwrap();
        drop(answer);
        assert_eq!(told.take(), expected, "{trusted_proxy} {path} {authorization}");
    }
    // The fast path says it once.
    let mut connection = FastPath::new(app).connection(&Peer { standing, ..peer(false) }, 1000).unwrap();
    for (headers, expected) in [
        ("", &[][..]),
        (&*format!("Authorization: {RIGHT}\r\n"), &["signed in"]),
        (&*format!("Authorization: {RIGHT}\r\n"), &[]),
    ] {
        let verdict = connection.answer(request("GET", PATH, headers).as_bytes(), &mut Vec::new());
        assert_eq!(verdict, Early::Answered(MANIFEST.into()));
        assert_eq!(told.take(), expected);
    }
}

#[test]
fn dates_are_those_of_http() {
    for (seconds, text) in [(0, "Thu, 01 Jan 1970 00:00:00 GMT"), (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT")] {
        assert_eq!(date(Timestamp::from_millis(seconds * 1000)), *text.as_bytes());
    }
}

#[test]
fn what_could_have_a_body_or_a_condition_is_not_for_the_fast_path() {
    let verdict =
        |name, value: &'static str| RequestHead::of(&[httparse::Header { name, value: value.as_bytes() }]).err();
    for (name, value) in
        [("Content-Length", "0"), ("TRANSFER-ENCODING", "chunked"), ("expect", "x"), ("Upgrade", "h2c")]
    {
        assert_eq!(verdict(name, value), Some(Early::Other), "{name}");
    }
    for (name, value) in [("Range", "bytes=0-1"), ("if-none-match", "*"), ("If-Range", "x"), ("Connection", "close")] {
        assert_eq!(verdict(name, value), Some(Early::Request), "{name}");
    }
    for (name, value) in [("Accept", "*/*"), ("Connection", "Keep-Alive"), ("Accept-Encoding", "gzip")] {
        assert_eq!(verdict(name, value), None, "{name}");
    }
}
