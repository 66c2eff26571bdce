//! Mode Direct: every read passes through, and nothing is kept.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    ALIAS, Answer, Cut, End, Gate, Image, REPO, Raw, Registry, Setup, Upstream, blob, cache, digest, header, refusal,
};

fn path(rest: &str) -> String {
    format!("/v2/{ALIAS}/{rest}")
}

/// An upstream with one blob, and its path there and here.
fn with_blob(content: &[u8]) -> (Upstream, String, String) {
    let upstream = Upstream::start();
    let digest = upstream.put_blob(REPO, content);
    (upstream, format!("/v2/{REPO}/blobs/{digest}"), path(&format!("blobs/{digest}")))
}

#[tokio::test]
async fn reads_pass_through() {
    let upstream = Upstream::start();
    let image = Image::of(1);
    upstream.put_image(REPO, "v1", &image);
    let referrer = Image::with(2, &json!({ "subject": image.descriptor(), "artifactType": "a/sbom" }));
    upstream.put_image(REPO, "ref", &referrer);
    let registry = Registry::start(&Setup::direct(&upstream));
    let client = registry.client();
    for reference in ["v1", &image.digest()] {
        let manifest = path(&format!("manifests/{reference}"));
        for response in [client.head(&manifest).await, client.get(&manifest).await] {
            assert_eq!((response.status().as_u16(), &*cache(&response)), (200, "relayed"), "{reference}");
            assert_eq!(header(&response, "docker-content-digest"), image.digest());
            assert_eq!(header(&response, "content-type"), image.media_type());
            assert_eq!(header(&response, "content-length"), image.manifest().len().to_string());
        }
        assert_eq!(client.get(&manifest).await.bytes().await.unwrap(), image.manifest());
    }
    let layer = &image.blobs()[1];
    let blob = path(&format!("blobs/{}", digest(layer)));
    for response in [client.head(&blob).await, client.get(&blob).await] {
        assert_eq!((response.status().as_u16(), &*cache(&response)), (200, "relayed"));
        assert_eq!(header(&response, "docker-content-digest"), digest(layer));
        assert_eq!(header(&response, "content-length"), layer.len().to_string());
    }
    assert_eq!(client.get(&blob).await.bytes().await.unwrap(), layer);
    let tags = client.get(&path("tags/list")).await;
    assert_eq!(cache(&tags), "relayed");
    assert_eq!(tags.json::<Value>().await.unwrap(), json!({ "name": ALIAS, "tags": ["ref", "v1"] }));
    let found = client.get(&path(&format!("referrers/{}", image.digest()))).await;
    assert_eq!(cache(&found), "relayed");
    assert_eq!(found.json::<Value>().await.unwrap()["manifests"][0]["digest"], referrer.digest());
    registry.stop();
}

#[tokio::test]
async fn a_head_of_a_manifest_is_a_head_upstream_unless_it_lacks_something() {
    let (upstream, image) = (Upstream::start(), Image::of(1));
    upstream.put_image(REPO, "v1", &image);
    let registry = Registry::start(&Setup::direct(&upstream));
    let there = format!("/v2/{REPO}/manifests/*");
    type Change = fn(&mut Answer);
    let lacks: [(&str, Change); 8] = [
        ("nothing", |_| ()),
        ("digest", |answer| {
            answer.without("docker-content-digest");
        }),
        ("type", |answer| {
            answer.without("content-type");
        }),
        ("a manifest's type", |answer| {
            answer.header("content-type", "text/plain");
        }),
        ("length", |answer| {
            answer.chunked();
        }),
        ("HEAD itself", |answer| {
            answer.fail(405, "no HEAD here");
        }),
        ("HEAD, without a word", |answer| {
            answer.plain(404, "text/plain", "");
        }),
        ("the digest asked for", |answer| {
            answer.header("docker-content-digest", digest(b"other"));
        }),
    ];
    for (what, change) in lacks {
        for reference in ["v1", &image.digest()] {
            upstream.heal();
            upstream.forget_seen();
            upstream.rule("HEAD", &there, change);
            let response = registry.client().head(&path(&format!("manifests/{reference}"))).await;
            assert_eq!(response.status(), 200, "{what}");
            let gets = upstream.count("GET", &there);
            if what == "the digest asked for" && reference == "v1" {
                // Of a tag nobody else knows what it names.
                assert_eq!((header(&response, "docker-content-digest"), gets), (digest(b"other"), 0));
                continue;
            }
            assert_eq!(header(&response, "docker-content-digest"), image.digest(), "{what}");
            assert_eq!(header(&response, "content-type"), image.media_type(), "{what}");
            assert_eq!(header(&response, "content-length"), image.manifest().len().to_string(), "{what}");
            assert_eq!((upstream.count("HEAD", &there), gets), (1, usize::from(what != "nothing")), "{what}");
        }
    }
    upstream.heal();
    assert_eq!(registry.client().head(&path("manifests/none")).await.status(), 404);
    registry.stop();
}

#[tokio::test]
async fn nothing_is_kept() {
    let mut upstream = Upstream::start();
    let image = Image::of(1);
    upstream.put_image(REPO, "v1", &image);
    let registry = Registry::start(&Setup::direct(&upstream));
    let client = registry.client();
    registry.until_metric("d8_registry_upstream_probes_total{outcome=\"ok\"}", 1.0).await;
    upstream.forget_seen();
    let paths = [
        "manifests/v1".to_owned(),
        format!("manifests/{}", image.digest()),
        format!("blobs/{}", digest(&image.blobs()[1])),
        "tags/list".to_owned(),
    ];
    for rest in &paths {
        for round in 1..=2 {
            assert_eq!(client.get(&path(rest)).await.status(), 200);
            assert_eq!(upstream.count("GET", &format!("/v2/{REPO}/{rest}")), round, "{rest}");
        }
    }
    let tree = registry.data();
    assert!(!tree.join("blobs").exists() || walk(&tree.join("blobs")) == 0, "blobs are stored");
    upstream.down();
    for rest in &paths {
        let refusal = refusal(client.get(&path(rest)).await).await;
        assert!([502, 503, 504].contains(&refusal.status), "{rest}: {refusal:?}");
    }
    registry.stop();
}

/// Files below a folder.
fn walk(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| if entry.file_type().unwrap().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}

#[tokio::test]
async fn ranges_give_the_slice_and_cost_the_upstream_no_more() {
    let content = blob(1, 700_000);
    let (upstream, there, here) = with_blob(&content);
    let registry = Registry::start(&Setup::direct(&upstream));
    let client = registry.client();
    let cases = [
        ("bytes=0-", 0, 700_000),
        ("bytes=5-9", 5, 10),
        ("bytes=-7", 699_993, 700_000),
        ("bytes=600000-", 600_000, 700_000),
    ];
    for (range, start, end) in cases {
        let response = client.request(Method::GET, &here).header("range", range).send().await.unwrap();
        assert_eq!(response.status(), 206, "{range}");
        assert_eq!(header(&response, "content-range"), format!("bytes {start}-{}/700000", end - 1));
        assert_eq!(response.bytes().await.unwrap(), content[start..end], "{range}");
    }
    // All of it may be asked for as such.
    let whole = upstream.asked("GET", &there).iter().filter(|seen| seen.header("range").is_none()).count();
    assert!(whole <= 1, "a whole blob was asked for, {whole} times");
    for range in ["bytes=700000-", "bytes=500-0"] {
        let nothing = client.request(Method::GET, &here).header("range", range).send().await.unwrap();
        assert_eq!((nothing.status().as_u16(), header(&nothing, "content-range")), (416, "bytes */700000".to_owned()));
    }
    registry.stop();
}

#[tokio::test]
async fn an_upstream_that_ignores_ranges_is_whole_or_cut_to_the_range_never_wrong() {
    let content = blob(1, 300_000);
    let (upstream, there, here) = with_blob(&content);
    upstream.rule("GET", &there, |answer| {
        answer.ignore_range();
    });
    let registry = Registry::start(&Setup::direct(&upstream));
    let response =
        registry.client().request(Method::GET, &here).header("range", "bytes=1000-1999").send().await.unwrap();
    match response.status().as_u16() {
        200 => assert_eq!(response.bytes().await.unwrap(), content),
        206 => assert_eq!(response.bytes().await.unwrap(), content[1000..2000]),
        status => panic!("{status}"),
    }
    registry.stop();
}

#[tokio::test]
async fn a_part_of_nobody_knows_how_much_is_never_taken_for_the_whole() {
    let content = blob(1, 300_000);
    let (upstream, there, here) = with_blob(&content);
    upstream.once("GET", &there, |answer| {
        answer.header("content-range", "bytes 0-99/*");
    });
    let registry = Registry::start(&Setup::direct(&upstream));
    let response = registry.client().request(Method::GET, &here).header("range", "bytes=0-99").send().await.unwrap();
    match response.status().as_u16() {
        200 => assert_eq!(response.bytes().await.unwrap(), content),
        206 => assert_eq!(response.bytes().await.unwrap(), content[..100]),
        status => panic!("{status}"),
    }
    registry.stop();
}

#[tokio::test]
async fn a_range_that_the_upstream_wrongly_refuses_is_cut_out_of_the_whole() {
    let content = blob(1, 300_000);
    let (upstream, there, here) = with_blob(&content);
    upstream.once("GET", &there, |answer| {
        answer.fail(416, "no ranges here");
    });
    let registry = Registry::start(&Setup::direct(&upstream));
    let response = registry.client().request(Method::GET, &here).header("range", "bytes=1000-").send().await.unwrap();
    assert_eq!(response.status(), 206);
    assert_eq!(response.bytes().await.unwrap(), content[1000..]);
    registry.stop();
}

#[tokio::test]
async fn a_client_that_has_it_is_told_so() {
    let (upstream, _, here) = with_blob(b"content");
    let image = Image::of(1);
    upstream.put_image(REPO, "v1", &image);
    let registry = Registry::start(&Setup::direct(&upstream));
    let client = registry.client();
    for path in [here, path("manifests/v1"), path(&format!("manifests/{}", image.digest()))] {
        let etag = header(&client.get(&path).await, "etag");
        let again = client.request(Method::GET, &path).header("if-none-match", &etag).send().await.unwrap();
        assert_eq!(again.status(), 304, "{path}");
        let other = client.request(Method::GET, &path).header("if-none-match", "\"other\"").send().await.unwrap();
        assert_eq!(other.status(), 200, "{path}");
    }
    registry.stop();
}

#[tokio::test]
async fn the_first_byte_is_passed_on_when_it_arrives() {
    let content = blob(1, 300_000);
    let (upstream, there, here) = with_blob(&content);
    let gate = Gate::new();
    let held = gate.clone();
    upstream.rule("GET", &there, move |answer| {
        answer.hold(1, &held).hold(1000, &held);
    });
    let registry = Registry::start(&Setup::direct(&upstream));
    let mut raw = Raw::get(registry.address(), &here, "").await;
    raw.read(1).await;
    assert_eq!(raw.status(), 200);
    gate.open();
    raw.read(content.len()).await;
    assert_eq!(raw.body(), content);
    registry.stop();
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_upstreams_transfer() {
    // More than sockets hold.
    let (upstream, there, here) = with_blob(&blob(1, 64 << 20));
    let gate = Gate::new();
    upstream.rule("GET", &there, {
        let gate = gate.clone();
        move |answer| {
            answer.hold(1000, &gate);
        }
    });
    let registry = Registry::start(&Setup::direct(&upstream));
    let mut raw = Raw::get(registry.address(), &here, "").await;
    raw.read(1000).await;
    drop(raw);
    // Who only shut the sending side would look the same: the next bytes tell them apart.
    gate.open();
    upstream.ended(1).await;
    registry.stop();
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_upstream_back() {
    let content = blob(1, 64 << 20);
    let (upstream, _, here) = with_blob(&content);
    let registry = Registry::start(&Setup::direct(&upstream));
    let mut raw = Raw::get(registry.address(), &here, "").await;
    raw.read(1).await;
    // Many round trips through the same server: time enough to swallow the body, were it to be swallowed.
    for _ in 0..300 {
        assert_eq!(registry.client().head(&here).await.status(), 200);
    }
    assert!(upstream.sent() < content.len() / 2, "{} bytes were taken for a client that read none", upstream.sent());
    raw.read(content.len()).await;
    assert!(raw.body() == content);
    registry.stop();
}

#[tokio::test]
async fn a_body_cut_short_is_a_broken_body_that_ends_in_order() {
    let content = blob(1, 300_000);
    let (upstream, there, here) = with_blob(&content);
    let registry = Registry::start(&Setup::direct(&upstream));
    for cut in [Cut::Fin, Cut::Rst] {
        for chunked in [false, true] {
            upstream.heal();
            let gate = Gate::new();
            upstream.rule("GET", &there, {
                let gate = gate.clone();
                move |answer| {
                    answer.ignore_range().hold(100_000, &gate).cut(100_000, cut);
                    if chunked {
                        answer.chunked();
                    }
                }
            });
            let mut raw = Raw::get(registry.address(), &here, "").await;
            // Without a length what came last may be the end, which is held back.
            raw.read(if chunked { 30_000 } else { 100_000 }).await;
            gate.open();
            assert_eq!(raw.end().await, End::Orderly, "{cut:?}, chunked {chunked}");
            match raw.header("content-length") {
                Some(length) => assert!(raw.body().len() < length.parse().unwrap(), "complete"),
                None => assert!(!raw.body().ends_with(b"\r\n0\r\n\r\n"), "complete"),
            }
            assert!(registry.client().get(&here).await.bytes().await.is_err(), "{cut:?}, chunked {chunked}");
        }
    }
    upstream.heal();
    upstream.rule("GET", &there, |answer| {
        answer.declare(400_000);
    });
    assert!(registry.client().get(&here).await.bytes().await.is_err(), "the length was a lie");
    registry.stop();
}

#[tokio::test]
async fn a_body_without_a_length_arrives_whole() {
    let content = blob(1, 300_000);
    let (upstream, there, here) = with_blob(&content);
    let registry = Registry::start(&Setup::direct(&upstream));
    upstream.rule("GET", &there, |answer| {
        answer.chunked();
    });
    assert_eq!(registry.client().get(&here).await.bytes().await.unwrap(), content);
    let range = registry.client().request(Method::GET, &here).header("range", "bytes=1000-").send().await.unwrap();
    match range.status().as_u16() {
        200 => assert_eq!(range.bytes().await.unwrap(), content),
        206 => assert_eq!(range.bytes().await.unwrap(), content[1000..]),
        status => panic!("{status}"),
    }
    registry.stop();
}

#[tokio::test]
async fn a_manifest_that_is_not_what_its_digest_says_is_an_error() {
    let upstream = Upstream::start();
    let image = Image::of(1);
    upstream.put_image(REPO, "v1", &image);
    let registry = Registry::start(&Setup::direct(&upstream));
    upstream.rule("GET", &format!("/v2/{REPO}/manifests/*"), |answer| {
        answer.corrupt(40);
    });
    for reference in [&image.digest(), "v1"] {
        let refusal = refusal(registry.client().get(&path(&format!("manifests/{reference}"))).await).await;
        assert_eq!(refusal.status, 502, "{reference}: {refusal:?}");
    }
    upstream.heal();
    assert_eq!(registry.client().get(&path(&format!("manifests/{}", image.digest()))).await.status(), 200);
    registry.stop();
}

#[tokio::test]
async fn the_upstreams_users_are_the_users() {
    let upstream = Upstream::start();
    let image = Image::of(1);
    upstream.put_image(REPO, "v1", &image);
    let license = "a".repeat(200);
    upstream.demand_basic("license-token", &license);
    let keys = format!("scheme: HTTP, license: {license}");
    let registry = Registry::start(&Setup::in_front_of("Direct", &upstream.address(), &keys));
    let here = path("manifests/v1");
    assert_eq!(registry.client().get(&here).await.status(), 401);
    assert_eq!(registry.client_with("license-token", "wrong").get(&here).await.status(), 401);
    // The first 72 bytes are all that bcrypt would see.
    assert_eq!(registry.client_with("license-token", &license[..72]).get(&here).await.status(), 401);
    assert_eq!(registry.client_with("other", &license).get(&here).await.status(), 401);
    let client = registry.client_with("license-token", &license);
    assert_eq!(client.get(&here).await.bytes().await.unwrap(), image.manifest());
    let scope = format!("/auth/token?service=Deckhouse+registry&scope=repository:{ALIAS}:pull");
    let token: Value = client.get(&scope).await.json().await.unwrap();
    let token = token["token"].as_str().unwrap();
    let response = registry.client().request(Method::GET, &here).bearer_auth(token).send().await.unwrap();
    assert_eq!(response.status(), 200);
    // Role ro: it neither pushes nor sees the catalog.
    assert_eq!(client.get("/v2/_catalog").await.status(), 403);
    registry.stop();
}

#[tokio::test]
async fn those_who_ask_for_the_same_list_at_once_share_one_question() {
    let upstream = Upstream::start();
    upstream.put_image(REPO, "v1", &Image::of(1));
    let registry = Registry::start(&Setup::direct(&upstream));
    let client = registry.client();
    let theirs = format!("/v2/{REPO}/tags/list");
    // The probe of the start may ask for a list too.
    registry.until_metric("d8_registry_upstream_probes_total{outcome=\"ok\"}", 1.0).await;
    let (gate, before) = (Gate::new(), upstream.count("GET", &theirs));
    let held = gate.clone();
    upstream.rule("GET", &theirs, move |answer| {
        answer.hold(1, &held);
    });
    let asked = path("tags/list");
    let asking = futures_util::future::join_all((0..10).map(|_| client.get(&asked)));
    let opening = async {
        registry.until_metric("d8_registry_http_requests_in_flight", 10.0).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(asking, opening);
    for answer in answers {
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json::<Value>().await.unwrap()["tags"], json!(["v1"]));
    }
    // One that has come and not joined yet when the answer is through asks anew.
    let questions = upstream.count("GET", &theirs) - before;
    assert!(questions <= 2, "{questions} questions for 10 clients");
    registry.stop();
}
