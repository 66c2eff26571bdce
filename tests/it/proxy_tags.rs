//! Mode Proxy, manifests and tags: how long a tag is believed, and what is served when nobody can be asked.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;

use crate::support::{
    ALIAS, Answer, Gate, Image, REPO, Registry, Setup, Upstream, cache, descriptor, digest, header, refusal, within,
};

fn here(rest: &str) -> String {
    format!("/v2/{ALIAS}/{rest}")
}

fn there(rest: &str) -> String {
    format!("/v2/{REPO}/{rest}")
}

/// An upstream with an image under `v1`, a cache before it with these keys of `proxy`, and the tag pulled once.
async fn pulled(keys: &str) -> (Upstream, Registry, Image) {
    let (upstream, image) = (Upstream::start(), Image::of(1));
    upstream.put_image(REPO, "v1", &image);
    let registry = Registry::start(&Setup::proxy(&upstream).config(&format!("proxy: {{ {keys} }}")));
    assert_eq!(pull(&registry, &image).await, "filled");
    upstream.forget_seen();
    (upstream, registry, image)
}

/// Pulls `v1`, which has to be the image; how it was served.
async fn pull(registry: &Registry, image: &Image) -> String {
    let response = registry.client().get(&here("manifests/v1")).await;
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    assert_eq!(header(&response, "docker-content-digest"), image.digest());
    assert_eq!(header(&response, "content-type"), image.media_type());
    let cache = cache(&response);
    assert_eq!(response.bytes().await.unwrap(), image.manifest());
    cache
}

#[tokio::test]
async fn a_fresh_tag_asks_nobody() {
    let (mut upstream, registry, image) = pulled("tagTtl: 1h").await;
    assert_eq!(pull(&registry, &image).await, "hit");
    assert_eq!(registry.client().head(&here("manifests/v1")).await.status(), 200);
    assert_eq!(upstream.count("*", &there("manifests/*")), 0);
    upstream.down();
    assert_eq!(pull(&registry, &image).await, "hit");
    registry.stop();
}

#[tokio::test]
async fn an_old_tag_is_revalidated_by_a_head() {
    let (upstream, registry, image) = pulled("tagTtl: 0s").await;
    assert_eq!(pull(&registry, &image).await, "revalidated");
    assert_eq!((upstream.count("HEAD", &there("manifests/v1")), upstream.count("GET", &there("manifests/*"))), (1, 0));
    registry.stop();
}

#[tokio::test]
async fn a_tag_that_moved_is_fetched_and_moved() {
    let (upstream, registry, old) = pulled("tagTtl: 0s").await;
    let new = Image::of(2);
    upstream.put_image(REPO, "v1", &new);
    assert_eq!(pull(&registry, &new).await, "filled");
    assert_eq!(pull(&registry, &new).await, "revalidated");
    // The old one is still there by its digest.
    let before = registry.client().get(&here(&format!("manifests/{}", old.digest()))).await;
    assert_eq!((before.status().as_u16(), &*cache(&before)), (200, "hit"));
    registry.stop();
}

#[tokio::test]
async fn one_revalidation_serves_all_who_wait() {
    let (upstream, registry, image) = pulled("tagTtl: 0s").await;
    upstream.put_image(REPO, "v2", &image);
    let gate = Gate::new();
    let held = gate.clone();
    upstream.rule("HEAD", &there("manifests/v1"), move |answer| {
        answer.hold_head(&held);
    });
    let clients = join_all((0..20).map(|_| pull(&registry, &image)));
    let opening = async {
        gate.arrived(1).await;
        // All of them are in: the gauge counts requests that are being answered, this one of the admin's not.
        registry.until_metric("d8_registry_http_requests_in_flight", 20.0).await;
        // And all have come to ask, as others do that came behind them on the same way.
        for _ in 0..20 {
            assert_eq!(registry.client().get(&here("manifests/v2")).await.status(), 200);
        }
        gate.open();
    };
    let (outcomes, ()) = tokio::join!(clients, opening);
    assert!(outcomes.iter().all(|outcome| outcome == "revalidated"), "{outcomes:?}");
    assert_eq!(upstream.count("HEAD", &there("manifests/v1")), 1);
    registry.stop();
}

#[tokio::test]
async fn a_first_pull_of_a_tag_by_many_is_one_get() {
    let (upstream, image) = (Upstream::start(), Image::of(1));
    upstream.put_image(REPO, "v1", &image);
    let registry = Registry::start(&Setup::proxy(&upstream));
    join_all((0..50).map(|_| pull(&registry, &image))).await;
    assert_eq!(upstream.count("GET", &there("manifests/*")), 1);
    assert!(upstream.count("HEAD", &there("manifests/*")) <= 1);
    registry.stop();
}

#[tokio::test]
async fn what_is_stored_is_served_while_the_upstream_fails() {
    for (status, cause) in [(500, "5xx"), (503, "5xx"), (429, "429"), (401, "401"), (403, "403")] {
        // Each its own: a limit counts on for as long as it says.
        let (upstream, registry, image) = pulled("tagTtl: 0s").await;
        upstream.rule("*", "/v2/*", move |answer| {
            answer.fail(status, "not today").header("retry-after", "3600");
        });
        let response = registry.client().get(&here("manifests/v1")).await;
        assert_eq!((response.status().as_u16(), &*cache(&response)), (200, "stale"), "{status}");
        header(&response, "age").parse::<u64>().unwrap();
        assert_eq!(response.bytes().await.unwrap(), image.manifest());
        let head = registry.client().head(&here("manifests/v1")).await;
        assert_eq!((head.status().as_u16(), &*cache(&head)), (200, "stale"), "{status}");
        let counted = registry.metric(&format!("d8_registry_stale_answers_total{{cause=\"{cause}\"}}")).await;
        assert!(counted >= 2.0, "{cause}: {counted}");
        registry.stop();
    }
    let (mut upstream, registry, image) = pulled("tagTtl: 0s").await;
    upstream.down();
    assert_eq!(pull(&registry, &image).await, "stale");
    upstream.up();
    within(async { while pull(&registry, &image).await != "revalidated" {} }).await;
    registry.stop();
}

/// What makes an answer another one.
type Change = fn(&mut Answer);

/// Every way in which something that is no registry answers in the upstream's place.
fn impostors() -> Vec<(&'static str, Change)> {
    vec![
        ("a page", |answer| {
            answer.page(200);
        }),
        ("a login", |answer| {
            answer.redirect("/login");
        }),
        ("another service's JSON", |answer| {
            answer.plain(200, "application/json", r#"{"message":"blocked"}"#);
        }),
        ("text", |answer| {
            answer.plain(200, "text/plain", "ok");
        }),
        ("nothing", |answer| {
            answer.plain(200, "text/plain", "");
        }),
        ("a portal", |answer| {
            answer.page(511);
        }),
        ("a page that says 404", |answer| {
            answer.page(404);
        }),
        ("a 404 of nobody", |answer| {
            answer.plain(404, "text/plain", "");
        }),
        ("a gateway's 404", |answer| {
            answer.plain(404, "application/json", r#"{"message":"no Route matched"}"#);
        }),
        ("a page that says 403", |answer| {
            answer.page(403);
        }),
        ("402", |answer| {
            answer.fail(402, "pay");
        }),
        ("405", |answer| {
            answer.fail(405, "not so");
        }),
        ("410", |answer| {
            answer.fail(410, "gone");
        }),
        ("418", |answer| {
            answer.fail(418, "teapot");
        }),
        ("451", |answer| {
            answer.fail(451, "law");
        }),
        ("204", |answer| {
            answer.plain(204, "text/plain", "");
        }),
        ("a redirect away", |answer| {
            answer.redirect("http://[::1]:9/portal");
        }),
    ]
}

#[tokio::test]
async fn what_is_no_registry_never_takes_a_cached_tags_place() {
    let (upstream, registry, image) = pulled("tagTtl: 0s, negativeTtl: 0s").await;
    for (what, change) in impostors() {
        upstream.heal();
        upstream.rule("*", "/v2/*", change);
        upstream.rule("*", "/login", |answer| {
            answer.page(200);
        });
        let response = registry.client().get(&here("manifests/v1")).await;
        assert_eq!((response.status().as_u16(), &*cache(&response)), (200, "stale"), "{what}");
        assert_eq!(response.bytes().await.unwrap(), image.manifest(), "{what}");
        let head = registry.client().head(&here("manifests/v1")).await;
        assert_eq!((head.status().as_u16(), &*cache(&head)), (200, "stale"), "{what}");
    }
    upstream.heal();
    assert_eq!(pull(&registry, &image).await, "revalidated");
    // The registry's own word ends it.
    upstream.untag(REPO, "v1");
    assert_eq!(registry.client().get(&here("manifests/v1")).await.status(), 404);
    registry.stop();
}

#[tokio::test]
async fn what_is_no_registry_is_an_error_where_nothing_is_cached() {
    let (upstream, registry, _) = pulled("tagTtl: 0s, negativeTtl: 0s, staleOn: [5xx]").await;
    upstream.rule("*", "/v2/*", |answer| {
        answer.page(200);
    });
    for tag in ["v1", "v2"] {
        let refusal = refusal(registry.client().get(&here(&format!("manifests/{tag}"))).await).await;
        assert_eq!(refusal.status, 502, "{tag}: {refusal:?}");
    }
    upstream.heal();
    upstream.rule("*", "/v2/*", |answer| {
        answer.page(404);
    });
    // Of what is not cached nobody knows better, and static registries say it so.
    assert_eq!(registry.client().get(&here("manifests/v2")).await.status(), 404);
    registry.stop();
}

#[tokio::test]
async fn a_head_that_is_404_to_everything_does_not_end_a_tag() {
    let (upstream, registry, image) = pulled("tagTtl: 0s").await;
    upstream.rule("HEAD", "/v2/*", |answer| {
        answer.plain(404, "text/plain", "");
    });
    assert_eq!(pull(&registry, &image).await, "revalidated");
    registry.stop();
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_is_waited_for_a_few_seconds_only() {
    let (upstream, registry, image) = pulled("tagTtl: 0s").await;
    upstream.rule("*", "/v2/*", |answer| {
        answer.silent();
    });
    assert_eq!(pull(&registry, &image).await, "stale");
    registry.stop();
}

#[tokio::test]
async fn a_404_is_an_answer_and_never_stale() {
    let (upstream, registry, _) = pulled("tagTtl: 0s, negativeTtl: 0s").await;
    upstream.untag(REPO, "v1");
    for _ in 0..2 {
        let refusal = refusal(registry.client().get(&here("manifests/v1")).await).await;
        assert_eq!((refusal.status, &*refusal.code), (404, "MANIFEST_UNKNOWN"));
        assert_eq!(registry.client().head(&here("manifests/v1")).await.status(), 404);
    }
    registry.stop();
}

#[tokio::test]
async fn nothing_is_served_beyond_max_stale() {
    let (mut upstream, registry, _) = pulled("tagTtl: 0s, maxStale: 0s").await;
    upstream.down();
    let refusal = refusal(registry.client().get(&here("manifests/v1")).await).await;
    assert!([502, 503, 504].contains(&refusal.status), "{refusal:?}");
    registry.stop();
}

#[tokio::test]
async fn only_causes_that_are_chosen_make_stale_answers() {
    let (mut upstream, registry, image) = pulled("tagTtl: 0s, staleOn: [unreachable]").await;
    for (status, answer) in [(500, 502), (403, 403)] {
        upstream.heal();
        upstream.rule("*", "/v2/*", move |answer| {
            answer.fail(status, "not today");
        });
        let refusal = refusal(registry.client().get(&here("manifests/v1")).await).await;
        assert!(refusal.status == answer || (answer == 502 && refusal.status == 504), "{refusal:?}");
    }
    upstream.heal();
    upstream.down();
    assert_eq!(pull(&registry, &image).await, "stale");
    registry.stop();
}

#[tokio::test]
async fn a_stored_digest_never_asks() {
    let (upstream, registry, image) = pulled("tagTtl: 0s").await;
    for _ in 0..3 {
        let response = registry.client().get(&here(&format!("manifests/{}", image.digest()))).await;
        assert_eq!((response.status().as_u16(), &*cache(&response)), (200, "hit"));
    }
    assert_eq!(upstream.count("*", &there("manifests/*")), 0);
    registry.stop();
}

#[tokio::test]
async fn tags_outlive_a_restart() {
    let (mut upstream, registry, image) = pulled("tagTtl: 0s").await;
    let folder = registry.folder();
    registry.stop();
    upstream.down();
    let registry = Registry::start_in(folder, &Setup::proxy(&upstream).config("proxy: { tagTtl: 0s }"));
    assert_eq!(pull(&registry, &image).await, "stale");
    registry.stop();
}

#[tokio::test]
async fn a_narrow_accept_of_one_client_decides_nothing() {
    let upstream = Upstream::start();
    let kind = testkit::media_type::INDEX;
    let child = Image::of(1);
    upstream.put_image(REPO, "child", &child);
    let index = testkit::index(&[child.descriptor()]).to_string();
    let index_digest = upstream.put_manifest(REPO, kind, index.as_bytes());
    upstream.tag(REPO, "v1", &index_digest);
    let registry = Registry::start(&Setup::proxy(&upstream));
    let narrow = registry.client().request(Method::GET, &here("manifests/v1")).header("accept", child.media_type());
    narrow.send().await.unwrap();
    let wide = registry.client().get(&here("manifests/v1")).await;
    assert_eq!(
        (header(&wide, "docker-content-digest"), header(&wide, "content-type")),
        (index_digest, kind.to_owned())
    );
    assert_eq!(wide.text().await.unwrap(), index);
    for seen in upstream.asked("*", &there("manifests/v1")) {
        assert!(seen.header("accept").unwrap().contains(kind), "{seen:?}");
    }
    registry.stop();
}

#[tokio::test]
async fn a_manifest_that_is_not_what_it_says_is_neither_served_nor_stored() {
    let (upstream, image) = (Upstream::start(), Image::of(1));
    upstream.put_image(REPO, "v1", &image);
    let registry = Registry::start(&Setup::proxy(&upstream).config("proxy: { tagTtl: 0s }"));
    upstream.rule("GET", &there("manifests/*"), |answer| {
        answer.corrupt(40);
    });
    for reference in ["v1", &image.digest()] {
        let refusal = refusal(registry.client().get(&here(&format!("manifests/{reference}"))).await).await;
        assert_eq!(refusal.status, 502, "{reference}: {refusal:?}");
    }
    upstream.heal();
    assert_eq!(pull(&registry, &image).await, "filled");
    registry.stop();
}

#[tokio::test]
async fn a_tag_whose_new_manifest_cannot_be_had_is_not_promised_by_head() {
    let (upstream, registry, _) = pulled("tagTtl: 0s").await;
    let new = Image::of(2);
    upstream.put_image(REPO, "v1", &new);
    upstream.rule("GET", &there("manifests/*"), |answer| {
        answer.corrupt(40);
    });
    let head = registry.client().head(&here("manifests/v1")).await;
    if head.status() == 200 {
        // Then it is the old one, which can be delivered.
        assert_ne!(header(&head, "docker-content-digest"), new.digest());
    }
    registry.stop();
}

#[tokio::test]
async fn head_promises_only_what_get_can_deliver() {
    let (upstream, image) = (Upstream::start(), Image::of(1));
    upstream.put_image(REPO, "v1", &image);
    upstream.rule("GET", &there("manifests/*"), |answer| {
        answer.fail(500, "out of order");
    });
    let registry = Registry::start(&Setup::proxy(&upstream));
    for reference in ["v1", &image.digest()] {
        let head = registry.client().head(&here(&format!("manifests/{reference}"))).await;
        assert!([502, 503, 504].contains(&head.status().as_u16()), "{reference}: {head:?}");
    }
    registry.stop();
}

#[tokio::test]
async fn a_manifest_is_served_before_its_layers_are_there() {
    let (mut upstream, registry, image) = pulled("tagTtl: 0s").await;
    // Unlike Local, a cache answers for what the upstream has.
    assert_eq!(upstream.count("*", &there("blobs/*")), 0);
    assert_eq!(pull(&registry, &image).await, "revalidated");
    upstream.down();
    assert_eq!(pull(&registry, &image).await, "stale");
    let layer = refusal(registry.client().get(&here(&format!("blobs/{}", digest(&image.blobs()[1])))).await).await;
    assert!([502, 503, 504].contains(&layer.status), "{layer:?}");
    registry.stop();
}

#[tokio::test]
async fn signatures_and_attestations_go_through_the_cache() {
    let (mut upstream, registry, image) = pulled("tagTtl: 0s").await;
    let name = image.digest().replace(':', "-");
    let signature = Image::with(7, &json!({ "annotations": { "signature": "x" } }));
    let fields = json!({ "artifactType": "application/vnd.in-toto+json", "subject": image.descriptor() });
    let config = descriptor("application/vnd.oci.empty.v1+json", b"{}");
    let attestation = testkit::with(testkit::image(&config, &[]), &fields).to_string();
    upstream.put_image(REPO, &format!("{name}.sig"), &signature);
    let attested = upstream.put_manifest(REPO, image.media_type(), attestation.as_bytes());
    upstream.tag(REPO, &format!("{name}.att"), &attested);
    for (tag, bytes) in [(format!("{name}.sig"), signature.manifest()), (format!("{name}.att"), attestation.as_bytes())]
    {
        let manifest = here(&format!("manifests/{tag}"));
        assert_eq!(cache(&registry.client().get(&manifest).await), "filled", "{tag}");
        assert_eq!(cache(&registry.client().get(&manifest).await), "revalidated", "{tag}");
        upstream.down();
        let stale = registry.client().get(&manifest).await;
        assert_eq!((cache(&stale).as_str(), stale.bytes().await.unwrap() == bytes), ("stale", true), "{tag}");
        upstream.up();
        within(async { while cache(&registry.client().get(&manifest).await) != "revalidated" {} }).await;
    }
    registry.stop();
}

#[tokio::test]
async fn a_cache_in_front_of_a_cache_serves_what_the_first_one_has() {
    let (mut upstream, first, image) = pulled("tagTtl: 1h").await;
    let keys = "scheme: HTTP";
    let setup = Setup::in_front_of_repo("Proxy", &format!("{}/{ALIAS}", first.address()), keys);
    let second = Registry::start(&setup.config("proxy: { tagTtl: 0s }"));
    upstream.down();
    assert_eq!(pull(&second, &image).await, "filled");
    assert_eq!(pull(&second, &image).await, "revalidated");
    first.kill();
    assert_eq!(pull(&second, &image).await, "stale");
    second.stop();
}
