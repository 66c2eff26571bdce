//! Mode Proxy: what is known of names, what is remembered of misses, and how answers are counted.

use serde_json::Value;

use crate::support::{ALIAS, Image, REPO, Registry, Setup, Upstream, blob, cache, digest, header, refusal, within};

const FILLS: &str = "d8_registry_fills_running";

fn path(rest: &str) -> String {
    format!("/v2/{ALIAS}/{rest}")
}

#[tokio::test]
async fn a_digest_is_served_only_under_names_that_have_it() {
    let mut upstream = Upstream::start();
    let content = blob(1, 300_000);
    let digest = upstream.put_blob(REPO, &content);
    upstream.put_image(&format!("{REPO}/empty"), "v1", &Image::of(1));
    upstream.put_blob(&format!("{REPO}/also"), &content);
    let registry = Registry::start(&Setup::proxy(&upstream).config("proxy: { negativeTtl: 0s }"));
    let client = registry.client();
    assert!(client.get(&path(&format!("blobs/{digest}"))).await.bytes().await.unwrap() == content);
    registry.until_metric(FILLS, 0.0).await;
    let refused = refusal(client.get(&path(&format!("empty/blobs/{digest}"))).await).await;
    assert_eq!((refused.status, &*refused.code), (404, "BLOB_UNKNOWN"));
    for _ in 0..3 {
        let also = client.get(&path(&format!("also/blobs/{digest}"))).await;
        assert_eq!((also.status().as_u16(), also.bytes().await.unwrap() == content), (200, true));
    }
    // Asked once and remembered, and the bytes were there already.
    assert_eq!(upstream.count("*", &format!("/v2/{REPO}/also/blobs/*")), 1);
    assert_eq!(upstream.count("GET", &format!("/v2/{REPO}/also/blobs/*")), 0);
    upstream.down();
    assert_eq!(client.get(&path(&format!("also/blobs/{digest}"))).await.status(), 200);
    assert_ne!(client.get(&path(&format!("empty/blobs/{digest}"))).await.status(), 200);
    registry.stop();
}

#[tokio::test]
async fn a_blob_that_a_stored_manifest_names_is_under_its_name_without_asking() {
    let upstream = Upstream::start();
    let image = Image::of(1);
    for repo in [REPO.to_owned(), format!("{REPO}/other")] {
        upstream.put_image(&repo, "v1", &image);
    }
    let registry = Registry::start(&Setup::proxy(&upstream));
    let client = registry.client();
    let layer = digest(&image.blobs()[1]);
    for name in ["", "other/"] {
        assert_eq!(client.get(&path(&format!("{name}manifests/v1"))).await.status(), 200);
        assert_eq!(client.get(&path(&format!("{name}blobs/{layer}"))).await.bytes().await.unwrap(), image.blobs()[1]);
    }
    registry.until_metric(FILLS, 0.0).await;
    assert_eq!(upstream.count("*", &format!("/v2/{REPO}/other/blobs/*")), 0);
    assert_eq!(upstream.count("HEAD", "/v2/*/blobs/*"), 0);
    registry.stop();
}

#[tokio::test]
async fn a_404_is_remembered_as_long_as_it_may_be() {
    for (ttl, asked) in [("1h", 1), ("0s", 2)] {
        let upstream = Upstream::start();
        upstream.put_image(REPO, "v1", &Image::of(1));
        let registry = Registry::start(&Setup::proxy(&upstream).config(&format!("proxy: {{ negativeTtl: {ttl} }}")));
        let client = registry.client();
        let none = digest(b"none");
        for rest in [format!("blobs/{none}"), format!("manifests/{none}"), "manifests/none".to_owned()] {
            for _ in 0..2 {
                assert_eq!(client.get(&path(&rest)).await.status(), 404);
            }
            assert_eq!(upstream.count("GET", &format!("/v2/{REPO}/{rest}")), asked, "{ttl} {rest}");
        }
        registry.stop();
    }
}

#[tokio::test]
async fn a_404_is_forgotten_with_the_upstream_and_the_credentials() {
    let (first, second) = (Upstream::start(), Upstream::start());
    first.put_image(REPO, "v1", &Image::of(1));
    second.put_image(REPO, "v2", &Image::of(2));
    let setup = |upstream: &Upstream| Setup::proxy(upstream).config("proxy: { negativeTtl: 1h }");
    let registry = Registry::start(&setup(&first));
    let client = registry.client();
    assert_eq!(client.get(&path("manifests/v2")).await.status(), 404);
    registry.reconfigure(&setup(&second));
    within(async { while client.get(&path("manifests/v2")).await.status() != 200 {} }).await;
    registry.stop();
}

#[tokio::test]
async fn outcomes_are_in_the_metrics_and_the_access_log() {
    let upstream = Upstream::start();
    let image = Image::of(1);
    upstream.put_image(REPO, "v1", &image);
    let setup = Setup::proxy(&upstream).config("proxy: { tagTtl: 1h }\nlog: { access: all }");
    let registry = Registry::start(&setup);
    let client = registry.client();
    let layer = path(&format!("blobs/{}", digest(&image.blobs()[1])));
    for expected in ["filled", "hit"] {
        for here in [&path("manifests/v1"), &layer] {
            let response = client.get(here).await;
            assert_eq!(cache(&response), expected, "{here}");
            response.bytes().await.unwrap();
            registry.until_metric(FILLS, 0.0).await;
        }
    }
    for kind in ["manifest", "blob"] {
        for outcome in ["filled", "hit"] {
            let sample = format!("d8_registry_cache_answers_total{{kind=\"{kind}\",outcome=\"{outcome}\"}}");
            registry.until_metric(&sample, 1.0).await;
        }
    }
    let received = registry.metric("d8_registry_upstream_received_bytes_total").await;
    assert!(received >= (1000 + image.manifest().len()) as f64, "{received}");
    assert!(registry.metric("d8_registry_upstream_requests_total{outcome=\"ok\"}").await >= 2.0);
    let log = registry.stop();
    let words: Vec<&str> = log.iter().filter_map(|line| line["cache"].as_str()).collect();
    assert_eq!(words, ["filled", "filled", "hit", "hit"]);
}

#[tokio::test]
async fn a_change_of_mode_wipes_nothing() {
    let upstream = Upstream::start();
    let image = Image::of(1);
    upstream.put_image(REPO, "v1", &image);
    let proxy = || Setup::proxy(&upstream).config("proxy: { tagTtl: 1h }");
    let registry = Registry::start(&proxy());
    let (client, admin) = (registry.client(), registry.admin());
    let until_mode = |mode: &'static str| {
        let admin = admin.clone();
        within(async move { while admin.get("/status").await.json::<Value>().await.unwrap()["mode"] != mode {} })
    };
    let layer = path(&format!("blobs/{}", digest(&image.blobs()[1])));
    // The configuration is never pulled.
    for here in [&path("manifests/v1"), &layer] {
        assert_eq!(cache(&client.get(here).await), "filled");
    }
    registry.until_metric(FILLS, 0.0).await;
    registry.reconfigure(&Setup::open());
    until_mode("Local").await;
    client.push_image(ALIAS, "v1", &image).await;
    assert_eq!(client.get(&path("manifests/v1")).await.bytes().await.unwrap(), image.manifest());
    for content in image.blobs() {
        let blob = client.get(&path(&format!("blobs/{}", digest(content)))).await;
        assert_eq!(blob.bytes().await.unwrap(), content);
    }
    upstream.forget_seen();
    registry.reconfigure(&proxy());
    until_mode("Proxy").await;
    for here in [&path("manifests/v1"), &layer] {
        assert_eq!(cache(&client.get(here).await), "hit");
    }
    assert_eq!(upstream.count("GET", &format!("/v2/{REPO}/blobs/*")), 0);
    registry.reconfigure(&Setup::direct(&upstream));
    until_mode("Direct").await;
    assert_eq!(cache(&client.get(&layer).await), "relayed");
    registry.stop();
}

#[tokio::test]
async fn during_an_outage_a_404_is_repeated_with_its_age_until_the_upstream_answers() {
    let (mut upstream, image) = (Upstream::start(), Image::of(1));
    upstream.put_image(REPO, "v1", &image);
    let registry = Registry::start(&Setup::proxy(&upstream).config("proxy: { negativeTtl: 0s, tagTtl: 0s }"));
    let client = registry.client();
    let path = |rest: &str| format!("/v2/{ALIAS}/{rest}");
    let absent = ["manifests/none", "manifests/neither", "none/tags/list"].map(path);
    for path in &absent {
        assert_eq!(client.get(path).await.status(), 404, "{path}");
    }
    upstream.down();
    for _ in 0..2 {
        for path in &absent {
            let response = client.get(path).await;
            assert_eq!((response.status().as_u16(), &*cache(&response)), (404, "stale"), "{path}");
            header(&response, "age").parse::<u64>().unwrap();
            assert_eq!(client.head(path).await.status(), 404, "{path}");
        }
    }
    // What was never asked for is not known.
    assert!([502, 503, 504].contains(&client.get(&path("manifests/unasked")).await.status().as_u16()));
    upstream.up();
    within(async { while client.get(&path("manifests/v1")).await.status() != 200 {} }).await;
    upstream.down();
    // The repository answered since, the other did not.
    assert!([502, 503, 504].contains(&client.get(&absent[0]).await.status().as_u16()));
    assert_eq!(client.get(&absent[2]).await.status(), 404);
    registry.stop();
}

#[tokio::test]
async fn a_404_is_not_repeated_where_that_is_off_or_somebody_else_said_it() {
    let (mut upstream, image) = (Upstream::start(), Image::of(1));
    upstream.put_image(REPO, "v1", &image);
    let start =
        |keys: &str| Registry::start(&Setup::proxy(&upstream).config(&format!("proxy: {{ negativeTtl: 0s, {keys} }}")));
    let (off, on) = (start("staleNegative: 0s"), start("staleNegative: 1h"));
    let none = format!("/v2/{ALIAS}/manifests/none");
    assert_eq!(off.client().get(&none).await.status(), 404);
    upstream.rule("*", "/v2/*", |answer| {
        answer.page(404);
    });
    assert_eq!(on.client().get(&none).await.status(), 404);
    upstream.down();
    for registry in [&off, &on] {
        assert!([502, 503, 504].contains(&registry.client().get(&none).await.status().as_u16()));
    }
    off.stop();
    on.stop();
}
