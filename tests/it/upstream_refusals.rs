//! What an upstream refuses is not asked for on and on, and what it says of us goes no further.

use serde_json::Value;

use crate::support::{ALIAS, Image, REPO, Registry, Setup, Upstream, cache, digest, header, refusal, within};

fn path(rest: &str) -> String {
    format!("/v2/{ALIAS}/{rest}")
}

fn there(rest: &str) -> String {
    format!("/v2/{REPO}/{rest}")
}

/// An image of the upstream's, under tag `v1`.
fn with_image() -> (Upstream, Image) {
    let (upstream, image) = (Upstream::start(), Image::of(1));
    upstream.put_image(REPO, "v1", &image);
    (upstream, image)
}

fn in_front_of(mode: &str, upstream: &Upstream, keys: &str) -> Setup {
    Setup::in_front_of(mode, &upstream.address(), &format!("scheme: HTTP, {keys}"))
        .config("proxy: { tagTtl: 0s, negativeTtl: 0s }")
}

const LOGIN: &str = "username: puller, password: sesame";

#[tokio::test]
async fn a_rotated_password_gets_in_under_load_and_few_sign_ins_are_refused() {
    for basic in [true, false] {
        let (upstream, _) = with_image();
        let demand = |password: &str| match basic {
            true => upstream.demand_basic("puller", password),
            false => upstream.demand_bearer("puller", password),
        };
        demand("sesame");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "sesame").unwrap();
        let keys = format!("username: puller, passwordFile: {}", file.display());
        let registry = Registry::start(&in_front_of("Proxy", &upstream, &keys));
        let client = registry.client();
        assert_eq!(client.get(&path("manifests/v1")).await.status(), 200);
        registry.until_metric("d8_registry_upstream_probes_total{outcome=\"ok\"}", 1.0).await;

        demand("open");
        upstream.revoke_tokens();
        upstream.forget_seen();
        for _ in 0..50 {
            let response = client.get(&path("manifests/v1")).await;
            assert_eq!((response.status().as_u16(), &*cache(&response)), (200, "stale"));
        }
        let signed = |method: &str, at: &str| {
            upstream.asked(method, at).iter().filter(|seen| seen.header("authorization").is_some()).count()
        };
        let refused = if basic { signed("*", "/v2/*") } else { signed("GET", "/token") };
        assert!((1..=2).contains(&refused), "{refused} refused sign-ins for 50 pulls");
        let told = refusal(client.get(&path("manifests/v2")).await).await;
        assert_eq!((told.status, &*told.code), (403, "DENIED"), "{told:?}");

        std::fs::write(&file, "open").unwrap();
        within(async { while cache(&client.get(&path("manifests/v1")).await) != "revalidated" {} }).await;
        registry.stop();
    }
}

#[tokio::test]
async fn a_limit_is_kept_to_and_told() {
    for mode in ["Direct", "Proxy"] {
        let (upstream, image) = with_image();
        let registry = Registry::start(&in_front_of(mode, &upstream, ""));
        registry.until_metric("d8_registry_upstream_probes_total{outcome=\"ok\"}", 1.0).await;
        upstream.rule("*", "/v2/*", |answer| {
            answer.fail(429, "too many pulls").header("retry-after", "600");
        });
        upstream.forget_seen();
        let layer = digest(&image.blobs()[1]);
        for rest in ["manifests/v1", "manifests/v2", &format!("blobs/{layer}"), "tags/list"] {
            let response = registry.client().get(&path(rest)).await;
            let wait: u64 = header(&response, "retry-after").parse().unwrap();
            assert!((500..=600).contains(&wait), "{mode} {rest}: {wait}");
            let refusal = refusal(response).await;
            assert_eq!((refusal.status, &*refusal.code), (503, "UNAVAILABLE"), "{mode} {rest}");
            assert!(refusal.detail.to_string().contains("too many pulls"), "{refusal:?}");
        }
        assert_eq!(upstream.count("*", "/v2/*"), 1, "{mode}");
        registry.stop();
    }
}

#[tokio::test]
async fn what_the_upstream_shows_of_our_credentials_reaches_nobody() {
    for basic in [true, false] {
        let (upstream, _) = with_image();
        match basic {
            true => upstream.demand_basic("puller", "licence-4711-geheim"),
            false => upstream.demand_bearer("puller", "licence-4711-geheim"),
        }
        // "puller:licence-4711-geheim", and the first token of the scripted upstream.
        let secrets = ["cHVsbGVyOmxpY2VuY2UtNDcxMS1nZWhlaW0", "licence-4711-geheim", "licence%2D4711", "token-1"];
        let said = format!("bad header: Basic {0}=, Bearer token-1 ({0}) licence%2D4711-geheim", secrets[0]);
        upstream.rule("*", "/v2/*", move |answer| {
            answer.fail(400, &said);
        });
        let registry =
            Registry::start(&in_front_of("Proxy", &upstream, "username: puller, password: licence-4711-geheim"));
        let answer = registry.client().get(&path("manifests/v1")).await.text().await.unwrap();
        let status = within(async {
            loop {
                let status: Value = registry.admin().get("/status").await.json().await.unwrap();
                if status["upstream"]["message"].is_string() {
                    return status.to_string();
                }
            }
        })
        .await;
        assert!(answer.contains("bad header") && status.contains("bad header"), "{answer} {status}");
        let log: String = registry.stop().iter().map(Value::to_string).collect();
        for (text, place) in [(&answer, "the answer"), (&status, "/status"), (&log, "the log")] {
            for secret in secrets {
                assert!(!text.contains(secret), "{secret} in {place}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn tokens_and_lists_are_read_as_they_are_written() {
    for life in ["\"300\"", "null", "300.5", "-1", "\"5m\"", "[]"] {
        let (upstream, image) = with_image();
        upstream.demand_bearer("puller", "sesame");
        upstream.rule("GET", "/token", move |answer| {
            let body = format!(r#"{{"access_token":"token-1","token":null,"expires_in":{life},"issued_at":7}}"#);
            answer.body(body);
        });
        let registry = Registry::start(&in_front_of("Proxy", &upstream, LOGIN));
        let response = registry.client().get(&path("manifests/v1")).await;
        assert_eq!(response.status(), 200, "{life}");
        assert_eq!(response.bytes().await.unwrap(), image.manifest());
        registry.stop();
    }
    let (upstream, _) = with_image();
    let registry = Registry::start(&in_front_of("Direct", &upstream, ""));
    registry.until_metric("d8_registry_upstream_probes_total{outcome=\"ok\"}", 1.0).await;
    upstream.once("GET", &there("tags/list"), |answer| {
        let next = format!("<https://inside.example:5000{}>; rel=\"next\"", there("tags/list?last=1&n=2"));
        answer.field("link", format!("<{}>; rel=\"first\"", there("tags/list?n=2"))).field("link", next);
        answer.body(r#"{"name":null,"tags":["a",null,7],"x":[]}"#);
    });
    upstream.once("GET", &there("tags/list"), |answer| {
        answer.body(r#"{"tags":["c"],"errors":null}"#);
    });
    let list: Value = registry.client().get(&path("tags/list")).await.json().await.unwrap();
    assert_eq!(list["tags"], serde_json::json!(["7", "a", "c"]));
    registry.stop();
}

#[tokio::test]
async fn a_manifest_that_no_push_could_bring_is_kept_by_its_digest() {
    let (mut upstream, image) = with_image();
    let config = digest(&image.blobs()[0]);
    let odd = [
        format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":"9"}},"layers":null,"annotations":null,"x":[]}}"#
        ),
        r#"{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[],"history":[]}"#.to_owned(),
        r#"{"schemaVersion":2,"mediaType":"application/vnd.example.new+json","things":[1]}"#.to_owned(),
    ];
    let types = [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.example.new+json",
    ];
    for (number, (text, kind)) in odd.iter().zip(types).enumerate() {
        let digest = upstream.put_manifest(REPO, kind, text.as_bytes());
        upstream.tag(REPO, &format!("odd{number}"), &digest);
    }
    let setup = Setup::proxy(&upstream).config("proxy: { tagTtl: 1h }");
    let registry = Registry::start(&setup);
    let names: Vec<String> =
        odd.iter().enumerate().flat_map(|(number, text)| [format!("odd{number}"), digest(text.as_bytes())]).collect();
    for name in &names {
        assert_eq!(registry.client().get(&path(&format!("manifests/{name}"))).await.status(), 200, "{name}");
    }
    upstream.down();
    let folder = registry.folder();
    registry.stop();
    // From the disk too.
    let registry = Registry::start_in(folder, &setup);
    for (at, name) in names.iter().enumerate() {
        let response = registry.client().get(&path(&format!("manifests/{name}"))).await;
        assert_eq!((response.status().as_u16(), &*cache(&response)), (200, "hit"), "{name}");
        assert_eq!(header(&response, "content-type"), types[at / 2]);
        assert_eq!(response.text().await.unwrap(), odd[at / 2]);
    }
    // A push is read strictly.
    let local = Registry::start(&Setup::open());
    for (text, kind) in odd.iter().zip(types) {
        let request = local.client().request(reqwest::Method::PUT, "/v2/a/manifests/v1");
        let response = request.header("content-type", kind).body(text.clone()).send().await.unwrap();
        assert_eq!(response.status(), 400, "{text}");
    }
    local.stop();
    registry.stop();
}
