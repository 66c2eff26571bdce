//! Mode Proxy, lists: only one that the upstream once gave whole is ever served in its place.

use serde_json::{Value, json};

use crate::support::{ALIAS, Client, Image, REPO, Registry, Setup, Upstream, cache, header, refusal, within};

fn here(rest: &str) -> String {
    format!("/v2/{ALIAS}/{rest}")
}

fn there(rest: &str) -> String {
    format!("/v2/{REPO}/{rest}")
}

/// An upstream with three tags, and a cache before it.
async fn case() -> (Upstream, Registry) {
    let upstream = Upstream::start();
    for tag in ["a", "b", "c"] {
        upstream.put_image(REPO, tag, &Image::of(1));
    }
    let registry = Registry::start(&Setup::proxy(&upstream).config("proxy: { tagTtl: 0s, negativeTtl: 0s }"));
    // The probe of the start asks for a list too, and would take what a test prepares for its own first request.
    registry.until_metric("d8_registry_upstream_probes_total{outcome=\"ok\"}", 1.0).await;
    (upstream, registry)
}

/// The tags of a list, and how it was served.
async fn tags(client: &Client, rest: &str) -> (Vec<String>, String) {
    let response = client.get(&here(rest)).await;
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    let cache = cache(&response);
    let body: Value = response.json().await.unwrap();
    (serde_json::from_value(body["tags"].clone()).unwrap(), cache)
}

#[tokio::test]
async fn a_list_is_the_upstreams_with_all_its_pages() {
    let (upstream, registry) = case().await;
    let client = registry.client();
    for page in [1, 2, 100] {
        upstream.page(page);
        assert_eq!(
            tags(&client, "tags/list").await,
            (vec!["a".into(), "b".into(), "c".into()], "filled".into()),
            "{page}"
        );
    }
    upstream.put_image(REPO, "d", &Image::of(2));
    assert_eq!(tags(&client, "tags/list").await.0, ["a", "b", "c", "d"]);
    registry.stop();
}

#[tokio::test]
async fn pages_are_cut_here() {
    let (_upstream, registry) = case().await;
    let client = registry.client();
    let first = client.get(&here("tags/list?n=2")).await;
    let link = header(&first, "link");
    assert_eq!(first.json::<Value>().await.unwrap()["tags"], json!(["a", "b"]));
    let next = link.strip_prefix('<').unwrap().split_once('>').unwrap().0;
    let second = client.get(next).await;
    assert!(second.headers().get("link").is_none());
    assert_eq!(second.json::<Value>().await.unwrap()["tags"], json!(["c"]));
    assert_eq!(tags(&client, "tags/list?last=a").await.0, ["b", "c"]);
    registry.stop();
}

#[tokio::test]
async fn a_kept_list_is_served_stale_and_marked() {
    let (mut upstream, registry) = case().await;
    let client = registry.client();
    tags(&client, "tags/list").await;
    for status in [500, 429, 401, 403] {
        upstream.heal();
        upstream.rule("*", "/v2/*", move |answer| {
            answer.fail(status, "not today");
        });
        assert_eq!(
            tags(&client, "tags/list").await,
            (vec!["a".into(), "b".into(), "c".into()], "stale".into()),
            "{status}"
        );
    }
    upstream.down();
    let response = client.get(&here("tags/list")).await;
    header(&response, "age").parse::<u64>().unwrap();
    assert_eq!(cache(&response), "stale");
    assert_eq!(tags(&client, "tags/list?n=1&last=a").await.0, ["b"]);
    let folder = registry.folder();
    registry.stop();
    let registry = Registry::start_in(folder, &Setup::proxy(&upstream).config("proxy: { tagTtl: 0s }"));
    assert_eq!(tags(&registry.client(), "tags/list").await.1, "stale");
    registry.stop();
}

#[tokio::test]
async fn what_is_no_registry_never_takes_a_kept_lists_place() {
    let (upstream, registry) = case().await;
    let client = registry.client();
    tags(&client, "tags/list").await;
    for status in [200, 403, 404, 410, 511] {
        upstream.heal();
        upstream.rule("*", "/v2/*", move |answer| {
            answer.page(status);
        });
        let kept = (vec!["a".into(), "b".into(), "c".into()], "stale".into());
        assert_eq!(tags(&client, "tags/list").await, kept, "{status}");
    }
    upstream.heal();
    upstream.rule("*", "/v2/*", |answer| {
        answer.fail(404, "no such repository");
    });
    assert_eq!(client.get(&here("tags/list")).await.status(), 404);
    registry.stop();
}

#[tokio::test]
async fn a_fallback_tag_that_names_the_subject_lists_nothing() {
    for mode in ["Proxy", "Direct"] {
        let (upstream, children) = (Upstream::start(), [Image::of(1), Image::of(2)]);
        upstream.without_referrers();
        for child in &children {
            upstream.put_image(REPO, "child", child);
        }
        let kind = testkit::media_type::INDEX;
        let index = testkit::index(&children.map(|child| child.descriptor())).to_string();
        let subject = upstream.put_manifest(REPO, kind, index.as_bytes());
        upstream.tag(REPO, &subject.replace(':', "-"), &subject);
        let registry = Registry::start(&Setup::in_front_of(mode, &upstream.address(), "scheme: HTTP"));
        let listed: Value = registry.client().get(&here(&format!("referrers/{subject}"))).await.json().await.unwrap();
        assert_eq!(listed["manifests"], json!([]), "{mode}");
        registry.stop();
    }
}

#[tokio::test]
async fn without_a_kept_list_there_is_an_error_never_a_shorter_list() {
    let (mut upstream, registry) = case().await;
    let client = registry.client();
    for tag in ["a", "b"] {
        assert_eq!(client.get(&here(&format!("manifests/{tag}"))).await.status(), 200);
    }
    upstream.down();
    for rest in ["tags/list".to_owned(), format!("referrers/{}", Image::of(1).digest())] {
        let refusal = refusal(client.get(&here(&rest)).await).await;
        assert!([502, 503, 504].contains(&refusal.status), "{rest}: {refusal:?}");
    }
    registry.stop();
}

#[tokio::test]
async fn a_list_whose_pages_did_not_all_come_is_neither_served_nor_kept() {
    let (mut upstream, registry) = case().await;
    let client = registry.client();
    upstream.page(2);
    let broken = |upstream: &Upstream| {
        upstream.once("GET", &there("tags/list"), |_| ());
        upstream.rule("GET", &there("tags/list"), |answer| {
            answer.fail(500, "the second page is gone");
        });
    };
    broken(&upstream);
    let refused = refusal(client.get(&here("tags/list")).await).await;
    assert!([502, 503, 504].contains(&refused.status), "{refused:?}");
    upstream.heal();
    assert_eq!(tags(&client, "tags/list").await.0, ["a", "b", "c"]);
    upstream.put_image(REPO, "d", &Image::of(2));
    broken(&upstream);
    assert_eq!(tags(&client, "tags/list").await, (vec!["a".into(), "b".into(), "c".into()], "stale".into()));
    upstream.down();
    assert_eq!(tags(&client, "tags/list").await.0, ["a", "b", "c"]);
    registry.stop();
}

#[tokio::test]
async fn a_second_page_that_is_missing_is_not_the_end_of_the_list() {
    let subject = Image::of(1);
    for status in [404, 400, 405] {
        let (upstream, registry) = case().await;
        let client = registry.client();
        for seed in [5, 6] {
            let referrer = Image::with(seed, &json!({ "subject": subject.descriptor() }));
            upstream.put_manifest(REPO, referrer.media_type(), referrer.manifest());
        }
        upstream.page(1);
        for rest in ["tags/list".to_owned(), format!("referrers/{}", subject.digest())] {
            let break_second = || {
                upstream.once("GET", &there(&rest), |_| ());
                upstream.rule("GET", &there(&rest), move |answer| {
                    answer.fail(status, "the second page is gone");
                });
            };
            break_second();
            let refused = client.get(&here(&rest)).await;
            assert_eq!(refused.status(), 502, "{status} {rest}: {}", refused.text().await.unwrap());
            upstream.heal();
            let whole = client.get(&here(&rest)).await.text().await.unwrap();
            break_second();
            let kept = client.get(&here(&rest)).await;
            // Whichever it is, it is not a shorter list.
            if kept.status() == 200 {
                assert_eq!(kept.text().await.unwrap(), whole, "{status} {rest}");
            } else {
                assert_eq!(kept.status(), 502, "{status} {rest}");
            }
            upstream.heal();
            assert_eq!(client.get(&here(&rest)).await.text().await.unwrap(), whole);
        }
        registry.stop();
    }
}

#[tokio::test]
async fn a_list_that_is_cut_off_is_not_a_list() {
    let (upstream, registry) = case().await;
    upstream.rule("GET", &there("tags/list"), |answer| {
        answer.chunked().cut(10, crate::support::Cut::Fin);
    });
    let refused = refusal(registry.client().get(&here("tags/list")).await).await;
    assert_eq!(refused.status, 502, "{refused:?}");
    upstream.heal();
    upstream.rule("GET", &there("tags/list"), |answer| {
        answer.body("{\"name\": \"x\"").header("content-type", "text/html");
    });
    let refused = refusal(registry.client().get(&here("tags/list")).await).await;
    assert_eq!(refused.status, 502, "{refused:?}");
    registry.stop();
}

#[tokio::test]
async fn a_link_that_leads_elsewhere_or_in_a_circle_is_an_error() {
    let other = Upstream::start();
    for link in [
        "http://169.254.169.254/v2/x/tags/list",
        "/v2/deckhouse/ee/tags/list?last=1",
        &format!("http://{}/v2/x", other.address()),
    ] {
        let (upstream, registry) = case().await;
        let link = format!("<{link}>; rel=\"next\"");
        upstream.demand_basic("puller", "sesame");
        upstream.rule("GET", &there("tags/list"), move |answer| {
            answer.header("link", link.clone());
        });
        drop(registry);
        let keys = "scheme: HTTP, username: puller, password: sesame";
        let registry = Registry::start(&Setup::in_front_of("Proxy", &upstream.address(), keys));
        let refused = refusal(registry.client().get(&here("tags/list")).await).await;
        assert_eq!(refused.status, 502, "{refused:?}");
        registry.stop();
    }
    assert!(other.seen().iter().all(|seen| seen.header("authorization").is_none()), "the password was sent");
}

#[tokio::test]
async fn a_404_of_a_list_is_an_answer() {
    let (mut upstream, registry) = case().await;
    let client = registry.client();
    let refused = refusal(client.get(&here("none/tags/list")).await).await;
    assert_eq!((refused.status, &*refused.code), (404, "NAME_UNKNOWN"));
    tags(&client, "tags/list").await;
    upstream.rule("GET", &there("tags/list"), |answer| {
        answer.fail(404, "no such repository");
    });
    assert_eq!(refusal(client.get(&here("tags/list")).await).await.status, 404);
    upstream.heal();
    upstream.down();
    within(async { client.get(&here("tags/list")).await }).await;
    registry.stop();
}

async fn referrers(client: &Client, rest: &str) -> (Vec<String>, String) {
    let response = client.get(&here(rest)).await;
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    assert_eq!(header(&response, "content-type"), "application/vnd.oci.image.index.v1+json");
    let cache = cache(&response);
    let body: Value = response.json().await.unwrap();
    let mut digests: Vec<String> = body["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| found["digest"].as_str().unwrap().to_owned())
        .collect();
    digests.sort();
    (digests, cache)
}

#[tokio::test]
async fn referrers_are_the_upstreams_with_all_their_pages() {
    let (mut upstream, registry) = case().await;
    let client = registry.client();
    let subject = Image::of(1);
    let mut expected = Vec::new();
    for (seed, kind) in [(5, "a/sbom"), (6, "a/sbom"), (7, "a/signature")] {
        let referrer = Image::with(seed, &json!({ "subject": subject.descriptor(), "artifactType": kind }));
        upstream.put_manifest(REPO, referrer.media_type(), referrer.manifest());
        expected.push(referrer.digest());
    }
    expected.sort();
    upstream.page(2);
    let rest = format!("referrers/{}", subject.digest());
    assert_eq!(referrers(&client, &rest).await, (expected.clone(), "filled".to_owned()));
    let filtered = client.get(&here(&format!("{rest}?artifactType=a/signature"))).await;
    assert_eq!(header(&filtered, "oci-filters-applied"), "artifactType");
    assert_eq!(filtered.json::<Value>().await.unwrap()["manifests"].as_array().unwrap().len(), 1);
    upstream.down();
    assert_eq!(referrers(&client, &rest).await, (expected, "stale".to_owned()));
    registry.stop();
}

#[tokio::test]
async fn without_the_referrers_api_the_fallback_tag_is_read() {
    for status in [404, 405] {
        let (upstream, registry) = case().await;
        let client = registry.client();
        let subject = Image::of(1);
        upstream.without_referrers();
        upstream.rule("GET", &there("referrers/*"), move |answer| {
            answer.status(status);
        });
        let rest = format!("referrers/{}", subject.digest());
        assert_eq!(referrers(&client, &rest).await.0, Vec::<String>::new());
        let referrer = Image::with(5, &json!({ "subject": subject.descriptor() }));
        let kind = testkit::media_type::INDEX;
        let index = testkit::index(&[referrer.descriptor()]).to_string();
        let digest = upstream.put_manifest(REPO, kind, index.as_bytes());
        upstream.tag(REPO, &subject.digest().replace(':', "-"), &digest);
        assert_eq!(referrers(&client, &rest).await.0, [referrer.digest()]);
        registry.stop();
    }
}

#[tokio::test]
async fn the_catalog_names_what_is_stored() {
    let (mut upstream, registry) = case().await;
    upstream.put_image(&format!("{REPO}/install"), "v1", &Image::of(2));
    upstream.put_image(&format!("{REPO}/never-pulled"), "v1", &Image::of(3));
    let client = registry.client();
    for rest in ["manifests/a", "install/manifests/v1"] {
        assert_eq!(client.get(&here(rest)).await.status(), 200);
    }
    upstream.down();
    let body: Value = within(async {
        loop {
            let response = client.get("/v2/_catalog").await;
            // The index is being built.
            if response.status() != 503 {
                return response.json().await.unwrap();
            }
        }
    })
    .await;
    assert_eq!(body["repositories"], json!([ALIAS, format!("{ALIAS}/install")]));
    registry.stop();
}
