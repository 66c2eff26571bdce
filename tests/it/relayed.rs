//! Blobs that pass unstored: whole ones are the digest's content or a broken answer, in Direct and where the cache has no
//! room for them.

use d8_registry::oci::Algorithm;
use reqwest::Method;

use crate::support::{ALIAS, Answer, End, REPO, Raw, Registry, Setup, Upstream, blob, cache, header, refusal};

const TAIL: usize = 64 * 1024;

type Change = Box<dyn Fn(&mut Answer) + Send>;

/// A side that passes blobs on without storing them.
struct Side {
    name: &'static str,
    upstream: Upstream,
    registry: Registry,
    /// The least length of a blob that is not stored.
    least: usize,
}

fn sides() -> Vec<Side> {
    let side = |name, least, setup: fn(&Upstream) -> Setup| {
        let upstream = Upstream::start();
        let registry = Registry::start(&setup(&upstream).config("proxy: { negativeTtl: 0s }"));
        Side { name, upstream, registry, least }
    };
    vec![
        side("direct", 0, Setup::direct),
        side("direct over HTTP/2", 0, |upstream| Setup::direct(upstream).over_tls()),
        side("no room", 0, |upstream| Setup::proxy(upstream).config("store: { dir: $DIR, reserveBytes: 1000000Gi }")),
        side("room runs out", 2 << 20, |upstream| {
            Setup::proxy(upstream).config("store: { dir: $DIR, reserveBytes: 0, maxBytes: 1Mi }")
        }),
    ]
}

/// What a client has in the end, if it may take it for the blob.
async fn whole(registry: &Registry, path: &str) -> Option<Vec<u8>> {
    // A broken stream of HTTP/2 may take the head with it.
    let response = registry.client().request(Method::GET, path).send().await.ok()?;
    if response.status() != 200 {
        let refused = refusal(response).await;
        assert!([502, 504].contains(&refused.status), "{refused:?}");
        return None;
    }
    response.bytes().await.ok().map(|bytes| bytes.to_vec())
}

/// Ways to send other bytes than the blob's.
fn wrong(content: &[u8]) -> Vec<(&'static str, Change)> {
    let last = content.len() - 1;
    let flip = |at: usize| -> Change {
        Box::new(move |answer| {
            answer.corrupt(at);
        })
    };
    let (short, long) = (content[..last].to_vec(), [content, b"more"].concat());
    let (short_chunked, long_chunked) = (short.clone(), long.clone());
    vec![
        ("first byte", flip(0)),
        ("last byte", flip(last)),
        (
            "page",
            Box::new(|answer| {
                answer.page(200);
            }),
        ),
        (
            "short, its length is told",
            Box::new(move |answer| {
                answer.body(short.clone());
            }),
        ),
        (
            "short, no length",
            Box::new(move |answer| {
                answer.body(short_chunked.clone()).chunked();
            }),
        ),
        ("short, ends with the connection", {
            let short = content[..last].to_vec();
            Box::new(move |answer| {
                answer.body(short.clone()).until_close();
            })
        }),
        (
            "empty",
            Box::new(|answer| {
                answer.body("").until_close();
            }),
        ),
        (
            "long",
            Box::new(move |answer| {
                answer.body(long.clone());
            }),
        ),
        (
            "long, no length",
            Box::new(move |answer| {
                answer.body(long_chunked.clone()).chunked();
            }),
        ),
        (
            "flipped, no length",
            Box::new(move |answer| {
                answer.corrupt(last / 2).chunked();
            }),
        ),
    ]
}

/// Odd ways to send the blob.
fn right(content: &[u8]) -> Vec<(&'static str, Change)> {
    let (length, more) = (content.len(), [content, b"more"].concat());
    vec![
        ("plain", Box::new(|_| ())),
        (
            "no length",
            Box::new(|answer| {
                answer.chunked();
            }),
        ),
        (
            "ends with the connection",
            Box::new(|answer| {
                answer.until_close();
            }),
        ),
        (
            "labelled gzip",
            Box::new(|answer| {
                answer.header("content-encoding", "gzip");
            }),
        ),
        (
            "labelled text/html",
            Box::new(|answer| {
                answer.header("content-type", "text/html");
            }),
        ),
        (
            "more than its length",
            Box::new(move |answer| {
                answer.body(more.clone()).declare(length);
            }),
        ),
        (
            "in small pieces",
            Box::new(|answer| {
                answer.drip(7000);
            }),
        ),
    ]
}

#[tokio::test]
async fn a_whole_blob_is_the_digests_content_or_a_broken_answer() {
    for Side { name, upstream, registry, least } in sides() {
        for (seed, len) in [1, 1000, TAIL - 1, TAIL, TAIL + 1, 3_000_000].into_iter().enumerate() {
            if len < least {
                continue;
            }
            for algorithm in Algorithm::ALL {
                let content = blob(seed as u64, len);
                let digest = upstream.put_blob_as(REPO, algorithm.digest(&content).to_string(), &content);
                let (there, here) = (format!("/v2/{REPO}/blobs/{digest}"), format!("/v2/{ALIAS}/blobs/{digest}"));
                for (how, change) in wrong(&content) {
                    upstream.rule("GET", &there, change);
                    let taken = whole(&registry, &here).await;
                    assert!(taken.is_none(), "{name}, {how}: {} of {len} bytes, {algorithm:?}", taken.unwrap().len());
                    upstream.heal();
                }
                for (how, change) in right(&content) {
                    upstream.rule("GET", &there, change);
                    assert!(whole(&registry, &here).await.as_ref() == Some(&content), "{name}, {how}, {len}");
                    upstream.heal();
                }
            }
        }
        registry.stop();
    }
}

#[tokio::test]
async fn the_last_64_kib_are_not_sent_before_the_digest_is_right() {
    for Side { name, upstream, registry, .. } in sides().into_iter().filter(|side| !side.name.contains("HTTP/2")) {
        let content = blob(1, 3_000_000);
        let digest = upstream.put_blob(REPO, &content);
        let (there, here) = (format!("/v2/{REPO}/blobs/{digest}"), format!("/v2/{ALIAS}/blobs/{digest}"));
        for at in [0, 2_999_999] {
            upstream.heal();
            upstream.rule("GET", &there, move |answer| {
                answer.corrupt(at);
            });
            let mut raw = Raw::get(registry.address(), &here, "").await;
            assert_eq!((raw.status(), raw.end().await), (200, End::Orderly), "{name}");
            assert!(raw.body().len() <= content.len() - TAIL, "{name}: {}", raw.body().len());
        }
        registry.stop();
    }
}

#[tokio::test]
async fn a_small_blob_that_is_wrong_is_an_error_and_no_broken_body() {
    let upstream = Upstream::start();
    let digest = upstream.put_blob(REPO, &blob(1, 1000));
    for setup in [Setup::direct(&upstream), Setup::proxy(&upstream)] {
        let registry = Registry::start(&setup);
        upstream.rule("GET", &format!("/v2/{REPO}/blobs/*"), |answer| {
            answer.page(200);
        });
        let refused = refusal(registry.client().get(&format!("/v2/{ALIAS}/blobs/{digest}")).await).await;
        assert_eq!(refused.status, 502, "{refused:?}");
        registry.stop();
        upstream.heal();
    }
}

#[tokio::test]
async fn parts_are_the_ones_that_were_asked_for_or_broken() {
    let content = blob(1, 300_000);
    let upstream = Upstream::start();
    let digest = upstream.put_blob(REPO, &content);
    let (there, here) = (format!("/v2/{REPO}/blobs/{digest}"), format!("/v2/{ALIAS}/blobs/{digest}"));
    let registry = Registry::start(&Setup::direct(&upstream));
    let part = async |range: &str| {
        let request = registry.client().request(Method::GET, &here).header("range", range);
        let response = request.send().await.unwrap();
        let (status, length) = (response.status().as_u16(), response.content_length());
        if status == 206 {
            assert_eq!(cache(&response), "relayed");
            assert!(header(&response, "content-range").ends_with("/300000"));
        }
        (status, length, response.bytes().await.ok())
    };
    // Fewer and more bytes than announced, without a length that would tell.
    for bytes in [900, 1000, 1100] {
        upstream.heal();
        let body = content[1000..1000 + bytes].to_vec();
        upstream.rule("GET", &there, move |answer| {
            if answer.asked().is_some() {
                answer.body(body.clone()).chunked();
            }
        });
        let (status, length, taken) = part("bytes=1000-1999").await;
        match (status, taken) {
            (206, Some(taken)) => assert!(length == Some(1000) && taken == content[1000..2000], "{bytes}"),
            (206 | 502, _) => assert_ne!(bytes, 1000),
            (status, _) => panic!("{bytes}: {status}"),
        }
    }
    // A part that reaches the end of what came whole is proven.
    upstream.heal();
    upstream.rule("GET", &there, |answer| {
        answer.ignore_range().corrupt(5);
    });
    assert_eq!(part("bytes=200000-").await.2, None);
    assert_eq!(part("bytes=0-").await.2, None);
    registry.stop();
}

#[tokio::test]
async fn a_page_in_the_place_of_a_blobs_head_says_nothing_of_the_blob() {
    let content = blob(1, 300_000);
    let upstream = Upstream::start();
    let digest = upstream.put_blob(REPO, &content);
    upstream.rule("*", &format!("/v2/{REPO}/blobs/*"), |answer| {
        answer.page(200);
    });
    for setup in [Setup::direct(&upstream), Setup::proxy(&upstream)] {
        let registry = Registry::start(&setup);
        assert_eq!(registry.client().head(&format!("/v2/{ALIAS}/blobs/{digest}")).await.status(), 502);
        registry.stop();
    }
    // Nor does it vouch for a digest under another name.
    upstream.heal();
    let registry = Registry::start(&Setup::proxy(&upstream).config("proxy: { negativeTtl: 0s }"));
    assert!(whole(&registry, &format!("/v2/{ALIAS}/blobs/{digest}")).await.as_ref() == Some(&content));
    registry.until_metric("d8_registry_fills_running", 0.0).await;
    let (there, here) = (format!("/v2/{REPO}/other/blobs/{digest}"), format!("/v2/{ALIAS}/other/blobs/{digest}"));
    assert_eq!(registry.client().get(&here).await.status(), 404);
    upstream.rule("*", &there, |answer| {
        answer.page(200);
    });
    assert_eq!(refusal(registry.client().get(&here).await).await.status, 502);
    registry.stop();
    // A registry that labels its blobs so tells the digest beside it.
    upstream.heal();
    upstream.rule("*", &format!("/v2/{REPO}/blobs/*"), |answer| {
        answer.header("content-type", "text/html");
    });
    let registry = Registry::start(&Setup::direct(&upstream));
    let head = registry.client().head(&format!("/v2/{ALIAS}/blobs/{digest}")).await;
    assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, "300000".to_owned()));
    registry.stop();
}
