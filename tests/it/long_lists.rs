//! Lists that take longer than a client waits: they go on, and are not begun anew.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{ALIAS, Gate, Image, REPO, Registry, Setup, Upstream, cache, refusal, within};

fn path(rest: &str) -> String {
    format!("/v2/{ALIAS}/{rest}")
}

/// An upstream with three tags, one on a page.
fn with_tags() -> Upstream {
    let upstream = Upstream::start();
    for (seed, tag) in ["v1", "v2", "v3"].into_iter().enumerate() {
        upstream.put_image(REPO, tag, &Image::of(seed as u64));
    }
    upstream.page(1);
    upstream
}

async fn tags(registry: &Registry) -> (u16, String, Value) {
    let response = within(async { registry.client().get(&path("tags/list")).await }).await;
    let status = response.status().as_u16();
    if status != 200 {
        return (refusal(response).await.status, String::new(), Value::Null);
    }
    let outcome = cache(&response);
    (status, outcome, response.json::<Value>().await.unwrap()["tags"].clone())
}

/// The first page, or one behind it, comes after the client has left.
async fn late(mode: &str, page: usize) {
    let upstream = with_tags();
    let registry = Registry::start(&Setup::in_front_of(mode, &upstream.address(), "scheme: HTTP"));
    registry.until_metric("d8_registry_upstream_probes_total{outcome=\"ok\"}", 1.0).await;
    upstream.forget_seen();
    let list = format!("/v2/{REPO}/tags/*");
    let gate = Gate::new();
    for _ in 1..page {
        upstream.once("GET", &list, |_| ());
    }
    let held = gate.clone();
    upstream.rule("GET", &list, move |answer| {
        answer.hold_head(&held);
    });
    let clients = join_all((0..3).map(|_| tags(&registry))).await;
    assert!(clients.iter().all(|(status, ..)| *status == 504), "{mode}, page {page}: {clients:?}");
    // The upstream is slow with one list and not down.
    assert_eq!(registry.client().get(&path("manifests/v1")).await.status(), 200);
    gate.open();
    let (status, _, all) = tags(&registry).await;
    assert_eq!((status, all), (200, json!(["v1", "v2", "v3"])), "{mode}, page {page}");
    assert_eq!(upstream.count("GET", &list), 3, "{mode}, page {page}: begun anew");
    registry.stop();
}

#[tokio::test]
async fn a_list_goes_on_when_its_clients_have_left_and_the_next_one_gets_it() {
    tokio::join!(late("Proxy", 1), late("Proxy", 2), late("Direct", 1), late("Direct", 3));
}

#[tokio::test]
async fn the_list_before_serves_while_a_new_one_takes_long() {
    let upstream = with_tags();
    let registry = Registry::start(&Setup::proxy(&upstream).config("proxy: { tagTtl: 0s }"));
    assert_eq!(tags(&registry).await.0, 200);
    upstream.put_image(REPO, "v4", &Image::of(4));
    upstream.forget_seen();
    let gate = Gate::new();
    let held = gate.clone();
    let list = format!("/v2/{REPO}/tags/*");
    upstream.rule("GET", &list, move |answer| {
        answer.hold_head(&held);
    });
    for _ in 0..2 {
        let (status, outcome, all) = tags(&registry).await;
        assert_eq!((status, &*outcome, all), (200, "stale", json!(["v1", "v2", "v3"])));
    }
    assert_eq!(upstream.count("GET", &list), 1, "begun anew");
    gate.open();
    within(async { while tags(&registry).await.2 != json!(["v1", "v2", "v3", "v4"]) {} }).await;
    registry.stop();
}
