//! The upstream client as seen from outside: what it puts up with, what it refuses to follow, and what it tells clients.

use futures_util::future::join_all;
use reqwest::Method;

use crate::support::{
    ALIAS, Gate, Image, REPO, Registry, Setup, Upstream, blob, cache, digest, header, refusal, within,
};

fn path(rest: &str) -> String {
    format!("/v2/{ALIAS}/{rest}")
}

fn there(rest: &str) -> String {
    format!("/v2/{REPO}/{rest}")
}

const LOGIN: &str = "scheme: HTTP, username: puller, password: sesame";

/// An image of the upstream's, under tag `v1`.
fn with_image() -> (Upstream, Image) {
    let (upstream, image) = (Upstream::start(), Image::of(1));
    upstream.put_image(REPO, "v1", &image);
    (upstream, image)
}

/// Pulls an image with all its blobs.
async fn pull(registry: &Registry, image: &Image) {
    let client = registry.client();
    assert_eq!(client.get(&path("manifests/v1")).await.bytes().await.unwrap(), image.manifest());
    for content in image.blobs() {
        let blob = client.get(&path(&format!("blobs/{}", digest(content)))).await;
        assert_eq!(blob.status(), 200);
        assert_eq!(blob.bytes().await.unwrap(), content);
    }
}

fn proxy(upstream: &Upstream, keys: &str) -> Setup {
    Setup::in_front_of("Proxy", &upstream.address(), keys).config("proxy: { tagTtl: 0s, negativeTtl: 0s }")
}

#[tokio::test]
async fn refused_credentials_are_403_with_the_upstreams_words_and_a_missing_image_is_404() {
    for mode in ["Direct", "Proxy"] {
        let (upstream, image) = with_image();
        let registry = Registry::start(
            &Setup::in_front_of(mode, &upstream.address(), "scheme: HTTP").config("proxy: { negativeTtl: 0s }"),
        );
        let layer = digest(&image.blobs()[1]);
        let paths = [
            "manifests/v1".to_owned(),
            format!("manifests/{}", image.digest()),
            format!("blobs/{layer}"),
            "tags/list".to_owned(),
        ];
        for status in [401, 403] {
            upstream.heal();
            upstream.rule("*", "/v2/*", move |answer| {
                answer.fail(status, "license has expired on Friday");
            });
            for rest in &paths {
                let response = registry.client().get(&path(rest)).await;
                assert!(response.headers().get("www-authenticate").is_none(), "401 is only our own challenge");
                let refusal = refusal(response).await;
                assert_eq!((refusal.status, &*refusal.code), (403, "DENIED"), "{mode} {status} {rest}");
                assert!(refusal.detail.to_string().contains("expired on Friday"), "{refusal:?}");
                assert!(refusal.detail.to_string().contains(&status.to_string()), "{refusal:?}");
            }
        }
        upstream.heal();
        for (rest, code) in [
            ("manifests/none".to_owned(), "MANIFEST_UNKNOWN"),
            (format!("manifests/{layer}"), "MANIFEST_UNKNOWN"),
            (format!("blobs/{}", digest(b"none")), "BLOB_UNKNOWN"),
        ] {
            let refusal = refusal(registry.client().get(&path(&rest)).await).await;
            assert_eq!((refusal.status, &*refusal.code), (404, code), "{mode} {rest}");
        }
        registry.stop();
    }
}

#[tokio::test]
async fn an_upstream_that_fails_is_502_with_the_cause() {
    for mode in ["Direct", "Proxy"] {
        let (mut upstream, image) = with_image();
        let registry = Registry::start(&Setup::in_front_of(mode, &upstream.address(), "scheme: HTTP"));
        for status in [500, 502, 503] {
            upstream.heal();
            upstream.rule("*", "/v2/*", move |answer| {
                answer.fail(status, "database is locked");
            });
            for rest in
                ["manifests/v1".to_owned(), format!("blobs/{}", digest(&image.blobs()[1])), "tags/list".to_owned()]
            {
                let refusal = refusal(registry.client().get(&path(&rest)).await).await;
                assert!([502, 503, 504].contains(&refusal.status), "{mode} {status} {rest}: {refusal:?}");
                assert!(refusal.detail.to_string().contains("5xx"), "{refusal:?}");
            }
        }
        upstream.heal();
        upstream.down();
        let refusal = refusal(registry.client().get(&path("manifests/v1")).await).await;
        assert!([502, 503, 504].contains(&refusal.status), "{mode}: {refusal:?}");
        assert!(refusal.detail.to_string().contains("unreachable"), "{refusal:?}");
        registry.stop();
    }
}

#[tokio::test]
async fn a_short_retry_after_is_waited_out() {
    for mode in ["Direct", "Proxy"] {
        let (upstream, image) = with_image();
        for status in [429, 503] {
            upstream.once("GET", &there("manifests/v1"), move |answer| {
                answer.fail(status, "slow down").header("retry-after", "0");
            });
            upstream.once("HEAD", &there("manifests/v1"), move |answer| {
                answer.fail(status, "slow down").header("retry-after", "0");
            });
        }
        let registry = Registry::start(&Setup::in_front_of(mode, &upstream.address(), "scheme: HTTP"));
        pull(&registry, &image).await;
        registry.stop();
    }
}

#[tokio::test]
async fn of_the_client_only_named_headers_go_on_and_of_the_upstream_only_named_ones_come_back() {
    for mode in ["Direct", "Proxy"] {
        let (upstream, image) = with_image();
        upstream.rule("*", "/v2/*", |answer| {
            answer.header("set-cookie", "session=1").header("x-internal", "secret").header("server", "Nexus");
        });
        let mut setup = Setup::in_front_of(mode, &upstream.address(), "scheme: HTTP");
        setup.users = true;
        let registry = Registry::start(&setup);
        for rest in ["manifests/v1".to_owned(), format!("blobs/{}", digest(&image.blobs()[1])), "tags/list".to_owned()]
        {
            let request = registry.client_as("ro").request(Method::GET, &path(&rest));
            let request =
                request.header("cookie", "a=b").header("x-forwarded-for", "1.2.3.4").header("accept", "text/plain");
            let response = request.header("accept-encoding", "gzip").send().await.unwrap();
            assert_eq!(response.status(), 200);
            for name in ["set-cookie", "x-internal", "server"] {
                assert!(
                    response.headers().get(name).is_none_or(|value| value != "Nexus" && name == "server"),
                    "{response:?}"
                );
            }
        }
        for seen in upstream.asked("*", "/v2/*") {
            for name in ["authorization", "cookie", "x-forwarded-for"] {
                assert_eq!(seen.header(name), None, "{seen:?}");
            }
            assert_eq!(seen.header("accept-encoding"), Some("identity"), "{seen:?}");
        }
        for seen in upstream.asked("*", &there("manifests/*")) {
            let accept = seen.header("accept").unwrap();
            for kind in [
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.index.v1+json",
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.distribution.manifest.list.v2+json",
            ] {
                assert!(accept.contains(kind), "{accept}");
            }
        }
        registry.stop();
    }
}

#[tokio::test]
async fn quirks_of_other_registries_are_put_up_with() {
    for mode in ["Direct", "Proxy"] {
        let (upstream, image) = with_image();
        upstream.rule("HEAD", "/v2/*", |answer| {
            answer.fail(405, "no HEAD here");
        });
        upstream.rule("GET", &there("manifests/*"), |answer| {
            answer.without("docker-content-digest").header("content-type", "text/plain").chunked();
        });
        upstream.rule("GET", &there("blobs/*"), |answer| {
            answer.without("docker-content-digest").header("content-type", "application/x-gzip").chunked();
        });
        let registry = Registry::start(&Setup::in_front_of(mode, &upstream.address(), "scheme: HTTP"));
        let client = registry.client();
        let head = client.head(&path("manifests/v1")).await;
        assert_eq!((head.status().as_u16(), header(&head, "docker-content-digest")), (200, image.digest()), "{mode}");
        let get = client.get(&path("manifests/v1")).await;
        assert_eq!(header(&get, "content-type"), image.media_type());
        assert_eq!(client.head(&path(&format!("blobs/{}", digest(&image.blobs()[1])))).await.status(), 200);
        pull(&registry, &image).await;
        registry.stop();
    }
}

#[tokio::test]
async fn an_encoded_answer_is_an_error_unless_the_digest_says_that_it_is_only_labelled_so() {
    for mode in ["Direct", "Proxy"] {
        let (upstream, image) = with_image();
        upstream.rule("GET", "/v2/*", |answer| {
            answer.header("content-encoding", "gzip");
        });
        let registry = Registry::start(&Setup::in_front_of(mode, &upstream.address(), "scheme: HTTP"));
        for rest in ["manifests/v1", "tags/list"] {
            let refusal = refusal(registry.client().get(&path(rest)).await).await;
            assert_eq!(refusal.status, 502, "{mode} {rest}: {refusal:?}");
        }
        let layer = &image.blobs()[1];
        let blob = path(&format!("blobs/{}", digest(layer)));
        upstream.heal();
        upstream.rule("GET", &there("blobs/*"), |answer| {
            answer.header("content-encoding", "gzip").body("encoded");
        });
        assert_eq!(refusal(registry.client().get(&blob).await).await.status, 502, "{mode}");
        upstream.heal();
        upstream.rule("GET", &there("blobs/*"), |answer| {
            answer.header("content-encoding", "gzip");
        });
        assert_eq!(registry.client().get(&blob).await.bytes().await.unwrap(), layer, "{mode}");
        registry.stop();
    }
}

#[tokio::test]
async fn redirects_are_followed_without_the_credentials_and_their_urls_stay_secret() {
    for mode in ["Direct", "Proxy"] {
        let (upstream, storage) = (Upstream::start(), Upstream::start());
        let content = blob(1, 300_000);
        let digest = upstream.put_blob(REPO, &content);
        storage.put_object("/bucket/x", &content);
        upstream.demand_basic("puller", "sesame");
        let location = format!("http://{}/bucket/x?X-Signature=topsecret", storage.address());
        upstream.rule("*", &there(&format!("blobs/{digest}")), move |answer| {
            answer.redirect(&location);
        });
        let setup = Setup::in_front_of(mode, &upstream.address(), LOGIN);
        let setup = setup.config("auth: { upstreamUser: false, anonymous: pull }\nlog: { level: debug, access: all }");
        let registry = Registry::start(&setup);
        let here = path(&format!("blobs/{digest}"));
        let response = registry.client().get(&here).await;
        assert_eq!(response.status(), 200, "{mode}");
        assert!(response.headers().get("location").is_none());
        assert_eq!(response.bytes().await.unwrap(), content);
        assert!(storage.seen().iter().all(|seen| seen.header("authorization").is_none()), "the password was sent");
        assert!(storage.count("GET", "/bucket/x") >= 1);
        // An object that is gone: the error does not tell the signed URL either.
        let other = upstream.put_blob(REPO, b"other");
        let location = format!("http://{}/bucket/gone?X-Signature=topsecret", storage.address());
        upstream.rule("*", &there(&format!("blobs/{other}")), move |answer| {
            answer.redirect(&location);
        });
        let refusal = refusal(registry.client().get(&path(&format!("blobs/{other}"))).await).await;
        assert!(refusal.status >= 400, "{refusal:?}");
        assert!(!format!("{refusal:?}").contains("topsecret"), "{refusal:?}");
        assert!(!refusal.head.contains("topsecret"), "{refusal:?}");
        let log = format!("{:?}", registry.stop());
        assert!(!log.contains("topsecret") && !log.contains("sesame"), "{log}");
    }
}

#[tokio::test]
async fn redirects_and_realms_to_metadata_services_are_refused() {
    for mode in ["Direct", "Proxy"] {
        let (upstream, image) = with_image();
        for status in [301, 302, 307, 308] {
            upstream.heal();
            upstream.rule("*", "/v2/*", move |answer| {
                answer.redirect("http://169.254.169.254/latest/meta-data/").status(status);
            });
            let registry = Registry::start(&Setup::in_front_of(mode, &upstream.address(), "scheme: HTTP"));
            for rest in ["manifests/v1".to_owned(), format!("blobs/{}", digest(&image.blobs()[1]))] {
                let refusal = refusal(registry.client().get(&path(&rest)).await).await;
                assert_eq!(refusal.status, 502, "{mode} {rest}: {refusal:?}");
                assert!(refusal.detail.to_string().contains("refused"), "{refusal:?}");
            }
            registry.stop();
        }
        upstream.heal();
        upstream.rule("*", "/v2/*", |answer| {
            let realm = "Bearer realm=\"http://169.254.169.254/token\",service=\"x\"";
            answer.fail(401, "sign in").header("www-authenticate", realm);
        });
        let registry = Registry::start(&Setup::in_front_of(mode, &upstream.address(), "scheme: HTTP"));
        let refusal = refusal(registry.client().get(&path("manifests/v1")).await).await;
        assert!([403, 502].contains(&refusal.status), "{refusal:?}");
        registry.stop();
    }
}

#[tokio::test]
async fn a_redirect_that_leads_in_a_circle_ends() {
    let (upstream, image) = with_image();
    let layer = format!("blobs/{}", digest(&image.blobs()[1]));
    let circle = there(&layer);
    upstream.rule("*", &there(&layer), move |answer| {
        answer.redirect(&circle);
    });
    let registry = Registry::start(&Setup::direct(&upstream));
    assert_eq!(refusal(registry.client().get(&path(&layer)).await).await.status, 502);
    assert!(upstream.count("GET", &there(&layer)) < 50);
    registry.stop();
}

#[tokio::test]
async fn a_challenge_a_token_or_a_manifest_without_end_is_an_error() {
    let huge = "x".repeat(32 << 20);
    let (upstream, image) = with_image();
    let body = huge.clone();
    upstream.rule("GET", &there("manifests/*"), move |answer| {
        answer.body(body.clone());
    });
    let registry = Registry::start(&proxy(&upstream, LOGIN));
    assert_eq!(refusal(registry.client().get(&path("manifests/v1")).await).await.status, 502);
    registry.stop();
    upstream.heal();
    upstream.demand_bearer("puller", "sesame");
    upstream.rule("GET", "/token", move |answer| {
        answer.body(format!("{{\"token\":\"{huge}\"}}"));
    });
    let registry = Registry::start(&proxy(&upstream, LOGIN));
    let refused = refusal(registry.client().get(&path("manifests/v1")).await).await;
    assert!([403, 502].contains(&refused.status), "{refused:?}");
    upstream.heal();
    pull(&registry, &image).await;
    registry.stop();
}

#[tokio::test]
async fn mirrors_stand_in_for_an_upstream_that_fails_and_never_for_a_404() {
    let (mut first, image) = with_image();
    let (second, _) = with_image();
    second.put_image("mirror", "v1", &image);
    second.put_image("mirror", "only-here", &Image::of(2));
    let keys = format!("scheme: HTTP, mirrors: [{{ imagesRepo: '{}/mirror', scheme: HTTP }}]", second.address());
    let registry = Registry::start(&proxy(&first, &keys));
    assert_eq!(registry.client().get(&path("manifests/only-here")).await.status(), 404);
    assert_eq!(second.count("*", "/v2/mirror/manifests/only-here"), 0);
    for status in [500, 429, 401, 403] {
        first.heal();
        first.rule("*", "/v2/*", move |answer| {
            answer.fail(status, "not today");
        });
        let response = registry.client().get(&path("manifests/v1")).await;
        assert_eq!(response.status(), 200, "{status}");
        assert_ne!(cache(&response), "stale", "{status}");
    }
    first.down();
    assert_eq!(registry.client().get(&path("manifests/only-here")).await.status(), 200);
    pull(&registry, &image).await;
    registry.stop();
}

#[tokio::test]
async fn headers_come_within_25_seconds_whatever_the_upstream_does() {
    let start = || {
        let upstream = Upstream::start();
        let digest = upstream.put_blob(REPO, b"content");
        let registry = Registry::start(&Setup::proxy(&upstream));
        (upstream, registry, path(&format!("blobs/{digest}")))
    };
    let (silent, silent_registry, blob) = start();
    silent.rule("*", "*", |answer| {
        answer.silent();
    });
    let (no_body, no_body_registry, _) = start();
    let shut = Gate::new();
    no_body.rule("GET", &there("blobs/*"), move |answer| {
        answer.hold(0, &shut);
    });
    let (mut hole, hole_registry, _) = start();
    hole.black_hole();
    // Its port takes connections, and no handshake follows.
    let no_tls = Upstream::start();
    no_tls.rule("*", "*", |answer| {
        answer.silent();
    });
    let tls = Registry::start(&Setup::in_front_of("Proxy", &no_tls.address(), "scheme: HTTPS"));
    let (manifest, tags) = (path("manifests/v1"), path("tags/list"));
    let mut asked = Vec::new();
    for (registry, here) in [
        (&no_body_registry, &blob),
        (&silent_registry, &blob),
        (&silent_registry, &manifest),
        (&silent_registry, &tags),
        (&hole_registry, &blob),
        (&hole_registry, &manifest),
        (&hole_registry, &tags),
        (&tls, &manifest),
    ] {
        let request = registry.client().request(Method::GET, here);
        asked.push(request.timeout(std::time::Duration::from_secs(25)).send());
    }
    for response in join_all(asked).await {
        let refusal = refusal(response.expect("headers within 25 s")).await;
        assert!([502, 503, 504].contains(&refusal.status), "{refusal:?}");
    }
}

#[tokio::test]
async fn a_host_that_is_down_opens_its_circuit_and_closes_it_when_it_is_back() {
    let (mut upstream, image) = with_image();
    let registry = Registry::start(&proxy(&upstream, "scheme: HTTP"));
    pull(&registry, &image).await;
    upstream.down();
    let open = "d8_registry_upstream_circuits_open";
    within(async {
        while registry.metric(open).await < 1.0 {
            let stale = registry.client().get(&path("manifests/v1")).await;
            assert_eq!((stale.status().as_u16(), &*cache(&stale)), (200, "stale"));
        }
    })
    .await;
    // While it is open nobody asks: what is not stored is refused with the cause.
    let refused = refusal(registry.client().get(&path("manifests/none")).await).await;
    assert!([502, 503, 504].contains(&refused.status), "{refused:?}");
    upstream.up();
    within(async { while cache(&registry.client().get(&path("manifests/v1")).await) != "revalidated" {} }).await;
    registry.until_metric(open, 0.0).await;
    registry.stop();
}
