//! Bundles pushed into registries: what comes there, what is not sent twice, and what a push does when it is refused, cut or killed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::Value;
use tempfile::TempDir;
use testkit::bundle::{Edition, RELEASES};

use crate::bundles::{ROOT, held, push, text, with_a_flipped_bit, written};
use crate::support::{Registry, Setup, Valve, assert_store_is_tidy, within};

/// Everything that a client can pull.
type Held = BTreeMap<String, (String, Vec<u8>)>;

fn command(words: &[&str], to: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    command.args(["bundle", "import", "--json", "--to", to]).args(words);
    command
}

fn ended(output: &Output, code: i32) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error} {}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {error}"))
}

/// The report of a push that ends with `code`. The runtime serves what it is pushed to meanwhile.
async fn pushed(code: i32, words: &[&str], to: &str) -> Value {
    let mut command = command(words, to);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    ended(&output, code)
}

fn address(registry: &Registry) -> String {
    format!("http://{}/{ROOT}", registry.address())
}

/// What the push of the real client leaves.
async fn expected(edition: &Edition) -> Held {
    let registry = Registry::start(&Setup::open());
    push(&registry.client(), edition).await;
    held(&registry.client()).await
}

fn assert_same(one: &Held, other: &Held) {
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (name, held) in one {
        assert!(*held == other[name], "{name} differs");
    }
}

fn password(dir: &TempDir) -> String {
    let file = dir.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    text(&file).to_owned()
}

/// Law: image by image and tag by tag what the push of the real client leaves; signed in, with one token for each repository.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_leaves_what_the_real_client_leaves_and_sends_nothing_twice() {
    let edition = Edition::of(&RELEASES);
    let expected = expected(&edition).await;
    let registry = Registry::start(&Setup::with_users());
    let (bundle, secrets) = (written(&edition, Some(10_001)), TempDir::new().unwrap());
    let login = ["--username", "rw", "--password-file", &password(&secrets), text(bundle.path())];
    let look = pushed(0, &[&["--dry-run"], &login[..]].concat(), &address(&registry)).await;
    let report = pushed(0, &login, &address(&registry)).await;
    assert_eq!(
        (&look["bytes"], &look["tags"]["taken"]),
        (&report["bytes"], &report["tags"]["taken"]),
        "{look} {report}"
    );
    // The base layer lies in nearly all repositories, and goes over the wire once.
    assert!(report["mounted"].as_u64().unwrap() > 5, "{report}");
    let unique: BTreeMap<_, _> = edition.layouts.values().flat_map(|layout| &layout.contents).collect();
    let all: usize = unique.values().map(|bytes| bytes.len()).sum();
    assert!(report["bytes"].as_u64().unwrap() < all as u64, "{report}");
    let again = pushed(0, &login, &address(&registry)).await;
    let none = Value::from(0);
    assert_eq!(
        (&again["bytes"], &again["tags"]["taken"], &again["manifests"]["taken"]),
        (&none, &none, &none),
        "{again}"
    );
    assert_eq!(again["tags"]["present"], report["tags"]["taken"], "{again}");
    let (data, folder) = (registry.data(), registry.folder());
    registry.stop();
    assert_store_is_tidy(&data);
    // Behind it nobody has to sign in, for what is to be compared.
    let registry = Registry::start_in(folder, &Setup::open());
    assert_same(&held(&registry.client()).await, &expected);
}

/// A front that answers some requests itself, with a status that passes, and hands the others on.
async fn failing(target: String, statuses: &'static [u16]) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (count, client) = (Arc::new(AtomicUsize::new(0)), reqwest::Client::new());
    let front = axum::Router::new().fallback(move |request: Request| {
        let (count, client, target) = (Arc::clone(&count), client.clone(), target.clone());
        async move {
            let number = count.fetch_add(1, Ordering::SeqCst);
            if number % 7 == 3 {
                let status = StatusCode::from_u16(statuses[number / 7 % statuses.len()]).unwrap();
                return (status, [("retry-after", "0")], "not now").into_response();
            }
            let (parts, body) = request.into_parts();
            let sent = client
                .request(parts.method, format!("http://{target}{}", parts.uri))
                .headers(parts.headers)
                .body(reqwest::Body::wrap_stream(body.into_data_stream()))
                .send();
            match sent.await {
                Ok(answer) => {
                    let (status, headers) = (answer.status(), answer.headers().clone());
                    let mut response = Response::new(Body::from_stream(answer.bytes_stream()));
                    (*response.status_mut(), *response.headers_mut()) = (status, headers);
                    response
                }
                Err(_) => StatusCode::BAD_GATEWAY.into_response(),
            }
        }
    });
    tokio::spawn(async move { axum::serve(listener, front).await });
    address
}

/// A registry that fails, or is asked too often, now and then costs time and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_pass_are_waited_for() {
    let edition = Edition::of(&RELEASES);
    let registry = Registry::start(&Setup::open());
    let bundle = written(&edition, None);
    let front = failing(registry.address().to_owned(), &[503, 500, 502, 504]).await;
    let report = within(pushed(0, &[text(bundle.path())], &format!("http://{front}/{ROOT}"))).await;
    assert_eq!(report["tags"]["left"], 0, "{report}");
    assert_same(&held(&registry.client()).await, &expected(&edition).await);
}

/// Killed at any byte and run again: the same, and no tag leads to half an image meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_killed_goes_on() {
    let edition = Edition::of(&RELEASES);
    let expected = expected(&edition).await;
    let bundle = written(&edition, None);
    let registry = Registry::start(&Setup::open());
    for answers in [0, 3_000, 20_000, 60_000] {
        let valve = Valve::before(registry.address().to_owned()).await;
        valve.let_through(answers);
        let mut command = command(&[text(bundle.path())], &format!("http://{}/{ROOT}", valve.address()));
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        within(async {
            while !valve.is_shut() && process.try_wait().unwrap().is_none() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        process.kill().unwrap();
        process.wait().unwrap();
        // All that is tagged can be pulled.
        let there = held(&registry.client()).await;
        assert!(there.iter().all(|(name, held)| expected.get(name) == Some(held)), "after {answers}");
    }
    pushed(0, &[text(bundle.path())], &address(&registry)).await;
    assert_same(&held(&registry.client()).await, &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_not_sent_and_leaves_out_the_tags_that_reach_it() {
    let bundle = with_a_flipped_bit(&Edition::of(&RELEASES));
    let registry = Registry::start(&Setup::open());
    let report = pushed(1, &[text(bundle.path())], &address(&registry)).await;
    assert_eq!((&report["tags"]["left"], &report["blobs"]["left"]), (&1.into(), &1.into()), "{report}");
    assert_eq!(report["left"][0]["image"], "modules/console/extra/scanner:7", "{report}");
    let there = held(&registry.client()).await;
    assert!(there.contains_key("system/deckhouse/modules/console:v1.2.3"));
    assert!(!there.contains_key("system/deckhouse/modules/console/extra/scanner:7"));
    let report = pushed(0, &["--allow-missing", text(bundle.path())], &address(&registry)).await;
    assert_eq!(report["tags"]["left"], 1, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_sign_in_ends_the_run_and_a_user_who_may_not_push_hears_it() {
    let registry = Registry::start(&Setup::with_users());
    let (bundle, secrets) = (written(&Edition::of(&RELEASES), None), TempDir::new().unwrap());
    let wrong = secrets.path().join("wrong");
    std::fs::write(&wrong, "not-the-secret").unwrap();
    let to = address(&registry);
    let run = async |words: &[&str]| {
        let mut command = command(words, &to);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    let output = run(&["--username", "rw", "--password-file", text(&wrong), text(bundle.path())]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("refuses the user") && !error.contains("not-the-secret"), "{error}");
    let output = run(&["--username", "ro", "--password-file", &password(&secrets), text(bundle.path())]).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("may not write this"), "{error}");
    let nobody = run(&[text(bundle.path())]).await;
    assert_eq!(nobody.status.code(), Some(1));
    let folder = registry.folder();
    registry.stop();
    assert!(held(&Registry::start_in(folder, &Setup::open()).client()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_do_not_go_back_and_tags_are_kept_where_that_is_asked_for() {
    let registry = Registry::start(&Setup::open());
    let to = address(&registry);
    let channel =
        |releases: &[&str]| Edition::of(releases).layouts["release-channel"].tagged("alpha").unwrap().to_owned();
    let stable = async || {
        let response = registry.client().head(&format!("/v2/{ROOT}/release-channel/manifests/alpha")).await;
        crate::support::header(&response, "docker-content-digest")
    };
    let (old, new) = (["v1.69.0", "v1.70.1"], ["v1.70.1", "v1.71.0"]);
    let (older, newer) = (written(&Edition::of(&old), None), written(&Edition::of(&new), None));
    pushed(0, &[text(newer.path())], &to).await;
    let report = pushed(0, &[text(older.path())], &to).await;
    let left = report["left"].as_array().unwrap().iter().find(|left| left["image"] == "release-channel:alpha").unwrap();
    assert!(left["reason"].as_str().unwrap().contains("v1.71.0"), "{report}");
    assert_eq!(stable().await, channel(&new));
    let report = pushed(1, &["--keep-tags", "--channels-back", text(older.path())], &to).await;
    assert!(report["tags"]["left"].as_u64().unwrap() >= 5, "{report}");
    assert_eq!(stable().await, channel(&new));
    pushed(0, &["--channels-back", text(older.path())], &to).await;
    assert_eq!(stable().await, channel(&old));
}

/// Over TLS, by an authority that is named in either way; and the object for the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_trusted_by_flag_or_variable_and_the_module_source_has_it() {
    let registry = Registry::start(&Setup::with_users().over_tls());
    let (bundle, secrets) = (written(&Edition::of(&RELEASES), None), TempDir::new().unwrap());
    let to = format!("https://{}/{ROOT}", registry.address());
    let ca = registry.folder().path().join("tls.crt");
    let source = secrets.path().join("module_source.yml");
    let login = ["--username", "rw", "--password-file", &password(&secrets), text(bundle.path())];
    let with_variable = async |name: &str| {
        let mut command = command(&[&["--dry-run"], &login[..]].concat(), &to);
        command.env(name, &ca);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    };
    assert_eq!(ended(&with_variable("SSL_CERT_FILE").await, 0)["tags"]["left"], 0);
    assert_eq!(with_variable("NOTHING").await.status.code(), Some(1));
    let words = [&["--ca-file", text(&ca), "--module-source", text(&source)], &login[..]].concat();
    pushed(0, &words, &to).await;
    let written = std::fs::read_to_string(&source).unwrap();
    let field = |name: &str| {
        let line = written.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}: "))).unwrap();
        line.trim_matches('"').replace("\\n", "\n")
    };
    assert_eq!(field("repo"), format!("{}/{ROOT}/modules", registry.address()));
    assert_eq!(field("ca"), std::fs::read_to_string(&ca).unwrap());
    let config: Value = serde_json::from_slice(&STANDARD.decode(field("dockerCfg")).unwrap()).unwrap();
    assert_eq!(config["auths"][registry.address()]["username"], "rw");
    // What somebody else wrote is not written over.
    std::fs::write(&source, "mine").unwrap();
    let mut again = command(&words, &to);
    let output = tokio::task::spawn_blocking(move || again.output().unwrap()).await.unwrap();
    assert_eq!((output.status.code(), std::fs::read_to_string(&source).unwrap().as_str()), (Some(1), "mine"));
    assert!(Path::new(&source).exists());
}
