//! The scripted upstream does what its script says: what the laws stand on.

use std::net::Ipv4Addr;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::{Cut, Gate, Upstream};
use crate::support::{Client, End, Image, Raw, blob, header};

fn client(upstream: &Upstream) -> Client {
    Client::new(&format!("http://{}", upstream.address()), None)
}

#[tokio::test]
async fn it_is_a_registry() {
    let upstream = Upstream::start();
    let (client, image) = (client(&upstream), Image::of(1));
    upstream.put_image("a/b", "v1", &image);
    let manifest = client.get("/v2/a/b/manifests/v1").await;
    assert_eq!(header(&manifest, "docker-content-digest"), image.digest());
    assert_eq!(manifest.bytes().await.unwrap(), image.manifest());
    let digest = crate::support::digest(&image.blobs()[1]);
    let path = format!("/v2/a/b/blobs/{digest}");
    let range = client.request(Method::GET, &path).header("range", "bytes=10-19").send().await.unwrap();
    assert_eq!((range.status().as_u16(), header(&range, "content-range")), (206, "bytes 10-19/1000".to_owned()));
    assert_eq!(range.bytes().await.unwrap(), image.blobs()[1][10..20]);
    assert_eq!(client.head(&path).await.headers()["content-length"], "1000");
    assert_eq!(client.get("/v2/a/b/manifests/v2").await.status(), 404);
    assert_eq!((upstream.count("GET", &path), upstream.count("*", "/v2/a/b/*")), (1, 4));
    assert_eq!(upstream.asked("GET", &path)[0].header("range"), Some("bytes=10-19"));
}

#[tokio::test]
async fn lists_come_in_pages() {
    let upstream = Upstream::start();
    let client = client(&upstream);
    upstream.page(2);
    for tag in ["a", "b", "c"] {
        upstream.put_image("x", tag, &Image::of(1));
    }
    let first = client.get("/v2/x/tags/list").await;
    assert_eq!(header(&first, "link"), "</v2/x/tags/list?last=2>; rel=\"next\"");
    let second: Value = client.get("/v2/x/tags/list?last=2").await.json().await.unwrap();
    assert_eq!(second["tags"], serde_json::json!(["c"]));
    let subject = Image::of(1);
    let referrer = Image::with(2, &serde_json::json!({ "subject": subject.descriptor(), "artifactType": "a/b" }));
    upstream.put_manifest("x", referrer.media_type(), referrer.manifest());
    let path = format!("/v2/x/referrers/{}", subject.digest());
    let found: Value = client.get(&path).await.json().await.unwrap();
    assert_eq!(found["manifests"][0]["digest"], referrer.digest());
    upstream.without_referrers();
    assert_eq!(client.get(&path).await.status(), 404);
}

#[tokio::test]
async fn a_gate_holds_a_body_where_it_stands() {
    let upstream = Upstream::start();
    let content = blob(1, 300_000);
    let digest = upstream.put_blob("a", &content);
    let path = format!("/v2/a/blobs/{digest}");
    let gate = Gate::new();
    upstream.once("GET", &path, {
        let gate = gate.clone();
        move |answer| {
            answer.hold(1000, &gate);
        }
    });
    let mut raw = Raw::get(&upstream.address(), &path, "").await;
    raw.read(1000).await;
    gate.arrived(1).await;
    assert_eq!(upstream.sent(), 1000);
    gate.open();
    raw.read(content.len()).await;
    assert_eq!(raw.body(), content);
    // The rule was for one answer.
    assert_eq!(client(&upstream).get(&path).await.bytes().await.unwrap(), content);
}

#[tokio::test]
async fn it_sees_a_client_go_away() {
    let upstream = Upstream::start();
    let digest = upstream.put_blob("a", &blob(1, 300_000));
    let path = format!("/v2/a/blobs/{digest}");
    let gate = Gate::new();
    upstream.rule("GET", &path, {
        let gate = gate.clone();
        move |answer| {
            answer.hold(1000, &gate);
        }
    });
    let mut raw = Raw::get(&upstream.address(), &path, "").await;
    raw.read(1000).await;
    drop(raw);
    upstream.ended(1).await;
}

#[tokio::test]
async fn bodies_are_cut_by_either_end_and_lengths_lie() {
    let upstream = Upstream::start();
    let content = blob(1, 300_000);
    let digest = upstream.put_blob("a", &content);
    let path = format!("/v2/a/blobs/{digest}");
    for (cut, end) in [(Cut::Fin, End::Orderly), (Cut::Rst, End::Reset)] {
        let gate = Gate::new();
        upstream.once("GET", &path, {
            let gate = gate.clone();
            move |answer| {
                answer.hold(5000, &gate).cut(5000, cut);
            }
        });
        let mut raw = Raw::get(&upstream.address(), &path, "").await;
        // A reset throws away what the client has not read yet.
        raw.read(5000).await;
        gate.open();
        assert_eq!(raw.end().await, end);
        assert_eq!(raw.body(), &content[..5000]);
    }
    for (declared, got) in [(400_000, 300_000), (100, 300_000)] {
        upstream.once("GET", &path, move |answer| {
            answer.declare(declared);
        });
        let mut raw = Raw::get(&upstream.address(), &path, "").await;
        assert_eq!(raw.header("content-length"), Some(declared.to_string()));
        assert_eq!((raw.end().await, raw.body().len()), (End::Orderly, got));
    }
    upstream.once("GET", &path, |answer| {
        answer.chunked().drip(70_000);
    });
    let chunked = client(&upstream).get(&path).await;
    assert_eq!((chunked.content_length(), chunked.bytes().await.unwrap().len()), (None, content.len()));
    upstream.once("GET", &path, |answer| {
        answer.chunked().cut(5000, Cut::Fin);
    });
    assert!(client(&upstream).get(&path).await.bytes().await.is_err());
    upstream.once("GET", &path, |answer| {
        answer.until_close();
    });
    assert_eq!(client(&upstream).get(&path).await.bytes().await.unwrap(), content);
}

#[tokio::test]
async fn rules_change_answers() {
    let upstream = Upstream::start();
    let content = blob(1, 1000);
    let digest = upstream.put_blob("a", &content);
    let path = format!("/v2/a/blobs/{digest}");
    let client = client(&upstream);
    upstream.rule("HEAD", "/v2/a/*", |answer| {
        answer.fail(405, "no HEAD here");
    });
    upstream.once("GET", &path, |answer| {
        answer.corrupt(7).without("docker-content-digest").header("content-type", "text/plain");
    });
    assert_eq!(client.head(&path).await.status(), 405);
    let spoilt = client.get(&path).await;
    assert_eq!(
        (header(&spoilt, "content-type"), spoilt.headers().get("docker-content-digest")),
        ("text/plain".into(), None)
    );
    let spoilt = spoilt.bytes().await.unwrap();
    assert!(spoilt[..7] == content[..7] && spoilt[7] != content[7] && spoilt[8..] == content[8..]);
    upstream.once("GET", &path, |answer| {
        answer.ignore_range();
    });
    let whole = client.request(Method::GET, &path).header("range", "bytes=500-").send().await.unwrap();
    assert_eq!((whole.status().as_u16(), whole.bytes().await.unwrap().len()), (200, 1000));
    upstream.put_object("/bucket/x", b"stored elsewhere");
    upstream.once("GET", &path, |answer| {
        answer.redirect("/bucket/x?signature=secret");
    });
    let redirect = client.get(&path).await;
    assert_eq!((redirect.status().as_u16(), header(&redirect, "location")), (307, "/bucket/x?signature=secret".into()));
    assert_eq!(client.get("/bucket/x").await.text().await.unwrap(), "stored elsewhere");
    upstream.heal();
    assert_eq!(client.head(&path).await.status(), 200);
}

#[tokio::test]
async fn it_demands_a_login_or_a_token() {
    let (upstream, tokens) = (Upstream::start(), Upstream::start_at(Ipv4Addr::new(127, 0, 0, 2)));
    upstream.put_image("a/b", "v1", &Image::of(1));
    upstream.demand_basic("user", "password");
    let base = format!("http://{}", upstream.address());
    let anonymous = Client::new(&base, None);
    let signed_in = Client::new(&base, Some(("user".into(), "password".into())));
    assert_eq!(anonymous.get("/v2/a/b/manifests/v1").await.status(), 401);
    assert_eq!(signed_in.get("/v2/a/b/manifests/v1").await.status(), 200);
    upstream.demand_bearer_of(&tokens, "user", "password");
    upstream.token_life(Some(300));
    let refusal = anonymous.get("/v2/a/b/manifests/v1").await;
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"upstream\",scope=\"repository:a/b:pull\"",
        tokens.address()
    );
    assert_eq!(header(&refusal, "www-authenticate"), challenge);
    let desk = Client::new(&format!("http://{}", tokens.address()), Some(("user".into(), "password".into())));
    assert_eq!(client(&tokens).get("/token").await.status(), 401);
    let body: Value = desk.get("/token?scope=repository%3Aa%2Fb%3Apull").await.json().await.unwrap();
    assert_eq!(body["expires_in"], 300);
    let token = body["token"].as_str().unwrap();
    let ask = |path: &str| anonymous.request(Method::GET, path).bearer_auth(token).send();
    assert_eq!(ask("/v2/a/b/manifests/v1").await.unwrap().status(), 200);
    assert_eq!(ask("/v2/a/c/manifests/v1").await.unwrap().status(), 401);
    upstream.revoke_tokens();
    assert_eq!(ask("/v2/a/b/manifests/v1").await.unwrap().status(), 401);
    assert_eq!(tokens.count("GET", "/token"), 2);
}

#[tokio::test]
async fn it_goes_away_and_comes_back() {
    let mut upstream = Upstream::start();
    assert_eq!(client(&upstream).get("/v2/").await.status(), 200);
    upstream.down();
    assert!(client(&upstream).request(Method::GET, "/v2/").send().await.unwrap_err().is_connect());
    upstream.up();
    assert_eq!(client(&upstream).get("/v2/").await.status(), 200);
    upstream.black_hole();
    let dialled = client(&upstream).request(Method::GET, "/v2/").timeout(Duration::from_millis(200)).send().await;
    assert!(dialled.unwrap_err().is_timeout());
    upstream.up();
    assert_eq!(client(&upstream).get("/v2/").await.status(), 200);
    upstream.once("GET", "/v2/", |answer| {
        answer.silent();
    });
    let waited = client(&upstream).request(Method::GET, "/v2/").timeout(Duration::from_millis(200)).send().await;
    assert!(waited.unwrap_err().is_timeout());
    assert!(upstream.connections() >= 3);
}
