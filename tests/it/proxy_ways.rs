//! Mode Proxy, blobs: other ways to ask for the rest of one, whose failures are whose, and what waits for whom.

use futures_util::future::join_all;
use reqwest::Method;

use crate::support::{
    ALIAS, Answer, Cut, Gate, Image, REPO, Registry, Setup, Upstream, blob, digest, header, refusal, within,
};

const FILLS: &str = "d8_registry_fills_running";
const LEN: usize = 3_000_000;
const CUT: usize = 1_000_000;

type Change = Box<dyn Fn(&mut Answer) + Send>;

fn path(rest: &str) -> String {
    format!("/v2/{ALIAS}/{rest}")
}

/// What an upstream may answer to a range, by the bytes of the blob.
fn oddities(content: &[u8]) -> Vec<(&'static str, Change)> {
    let refused = |status: u16| -> Change {
        Box::new(move |answer| {
            if answer.asked().is_some() {
                answer.fail(status, "no ranges here");
            }
        })
    };
    let open_refused = |status: u16| -> Change {
        Box::new(move |answer| {
            if answer.asked().is_some_and(|range| range.ends_with('-')) {
                answer.fail(status, "no open ranges here");
            }
        })
    };
    let relabelled = |content_range: &'static str| -> Change {
        Box::new(move |answer| {
            if answer.asked().is_some() {
                answer.header("content-range", content_range);
            }
        })
    };
    let misplaced = content.to_vec();
    vec![
        ("an open range: 416", open_refused(416)),
        ("an open range: 400", open_refused(400)),
        ("416", refused(416)),
        ("400", refused(400)),
        ("403", refused(403)),
        ("404", refused(404)),
        ("405", refused(405)),
        ("500", refused(500)),
        ("501", refused(501)),
        ("503", refused(503)),
        (
            "the whole",
            Box::new(|answer| {
                answer.ignore_range();
            }),
        ),
        (
            "the whole, no length",
            Box::new(|answer| {
                answer.ignore_range().chunked();
            }),
        ),
        ("the whole as 206", {
            let whole = content.to_vec();
            Box::new(move |answer| {
                if answer.asked().is_some() {
                    answer.body(whole.clone()).without("content-range");
                }
            })
        }),
        ("no Content-Range", {
            Box::new(|answer| {
                if answer.asked().is_some() {
                    answer.without("content-range");
                }
            })
        }),
        ("another start", {
            Box::new(move |answer| {
                if let Some((from, _)) = answer.asked_bytes() {
                    let from = from - 100;
                    answer.header("content-range", format!("bytes {from}-{}/{LEN}", LEN - 1));
                    answer.body(misplaced[from..].to_vec());
                }
            })
        }),
        ("another total", {
            Box::new(|answer| {
                if let Some((from, _)) = answer.asked_bytes() {
                    answer.header("content-range", format!("bytes {from}-{}/9999999", LEN - 1));
                }
            })
        }),
        ("another unit", relabelled("items 0-1/3")),
        ("nonsense", relabelled("yes")),
        ("several parts", {
            Box::new(|answer| {
                if answer.asked().is_some() {
                    answer.header("content-type", "multipart/byteranges; boundary=x").without("content-range");
                }
            })
        }),
        ("a page", {
            Box::new(|answer| {
                if answer.asked().is_some() {
                    answer.page(200);
                }
            })
        }),
        ("slices of 300,000 bytes", {
            let whole = content.to_vec();
            Box::new(move |answer| {
                if let Some((from, to)) = answer.asked_bytes() {
                    let end = to.map_or(LEN, |to| to + 1).min(from + 300_000);
                    answer.header("content-range", format!("bytes {from}-{}/{LEN}", end - 1));
                    answer.body(whole[from..end].to_vec());
                }
            })
        }),
        ("a part of nobody knows how much", {
            Box::new(|answer| {
                if let Some((from, _)) = answer.asked_bytes() {
                    answer.header("content-range", format!("bytes {from}-{}/*", LEN - 1));
                }
            })
        }),
    ]
}

#[tokio::test]
async fn the_rest_of_a_blob_comes_in_whatever_the_upstream_says_to_a_range() {
    let names: Vec<_> = oddities(&blob(0, LEN)).into_iter().map(|(name, _)| name).collect();
    let upstream = Upstream::start();
    let registry = Registry::start(&Setup::proxy(&upstream).config("proxy: { negativeTtl: 0s }"));
    for (seed, name) in names.into_iter().enumerate() {
        let content = blob(seed as u64 + 1, LEN);
        let digest = upstream.put_blob(REPO, &content);
        let there = format!("/v2/{REPO}/blobs/{digest}");
        upstream.once("GET", &there, |answer| {
            answer.cut(CUT, Cut::Fin);
        });
        let (_, change) = oddities(&content).swap_remove(seed);
        upstream.rule("GET", &there, change);
        let response = registry.client().get(&path(&format!("blobs/{digest}"))).await;
        assert_eq!(header(&response, "content-length"), LEN.to_string());
        let body = within(response.bytes()).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(body == content, "{name}");
        let asked = upstream.asked("GET", &there);
        assert!(asked[1..].iter().all(|seen| seen.header("range").is_none_or(|range| range != "bytes=0-")), "{name}");
        if name.starts_with("an open range") {
            let ranges: Vec<_> = asked.iter().map(|seen| seen.header("range").unwrap_or("")).collect();
            assert!(ranges[1].ends_with('-') && ranges.len() == 3, "{name}: {ranges:?}");
            assert!(ranges[2].ends_with(&(LEN - 1).to_string()), "the whole was asked for: {ranges:?}");
        }
        registry.until_metric(FILLS, 0.0).await;
    }
    assert_eq!(registry.metric("d8_registry_fill_errors_total{cause=\"digest\"}").await, 0.0);
    registry.stop();
}

#[tokio::test]
async fn a_part_is_cut_out_of_what_an_upstream_gives_instead() {
    let content = blob(1, LEN);
    let upstream = Upstream::start();
    let digest = upstream.put_blob(REPO, &content);
    let (there, here) = (format!("/v2/{REPO}/blobs/{digest}"), path(&format!("blobs/{digest}")));
    let registry = Registry::start(&Setup::direct(&upstream));
    for (name, change) in oddities(&content) {
        upstream.rule("GET", &there, change);
        for (range, start, end) in [("bytes=1000000-", CUT, LEN), ("bytes=1000000-1000999", CUT, CUT + 1000)] {
            let request = registry.client().request(Method::GET, &here).header("range", range);
            let response = request.send().await.unwrap();
            match (response.status().as_u16(), name) {
                (206, _) => match response.bytes().await {
                    Ok(bytes) => assert!(bytes == content[start..end], "{name}, {range}"),
                    Err(_) => assert_eq!(name, "a page", "{range}"),
                },
                (200, _) => assert!(response.bytes().await.unwrap() == content, "{name}, {range}"),
                // What is not known to be there is not looked for twice, and a server's fault is one.
                (404, "404") | (502..=504, "500" | "503" | "a page") => {}
                (status, _) => panic!("{name}, {range}: {status}"),
            }
        }
        upstream.heal();
    }
    registry.stop();
}

#[tokio::test]
async fn what_came_is_kept_whatever_is_said_in_the_place_of_the_rest() {
    let content = blob(1, LEN);
    for (name, fails) in [
        (
            "a page",
            Box::new(|answer: &mut Answer| {
                answer.page(200);
            }) as Change,
        ),
        (
            "404",
            Box::new(|answer| {
                answer.fail(404, "gone");
            }),
        ),
        (
            "400",
            Box::new(|answer| {
                answer.fail(400, "what?");
            }),
        ),
        (
            "401",
            Box::new(|answer| {
                answer.fail(401, "who?");
            }),
        ),
    ] {
        let upstream = Upstream::start();
        let digest = upstream.put_blob(REPO, &content);
        let (there, here) = (format!("/v2/{REPO}/blobs/{digest}"), path(&format!("blobs/{digest}")));
        let registry = Registry::start(&Setup::proxy(&upstream).config("proxy: { negativeTtl: 0s }"));
        upstream.once("GET", &there, |answer| {
            answer.cut(CUT, Cut::Fin);
        });
        upstream.rule("*", &there, fails);
        assert!(registry.client().get(&here).await.bytes().await.is_err(), "{name}");
        registry.until_metric(FILLS, 0.0).await;
        // A process that has forgotten how long it was.
        let folder = registry.folder();
        registry.stop();
        let registry = Registry::start_in(folder, &Setup::proxy(&upstream).config("proxy: { negativeTtl: 0s }"));
        let refused = registry.client().get(&here).await;
        assert!(refused.status() != 200 || refused.bytes().await.is_err(), "{name}");
        registry.until_metric(FILLS, 0.0).await;
        upstream.heal();
        upstream.forget_seen();
        assert!(registry.client().get(&here).await.bytes().await.unwrap() == content, "{name}");
        let asked = upstream.asked("GET", &there);
        assert!(asked.iter().all(|seen| seen.header("range").is_some()), "{name}: begun anew");
        registry.stop();
    }
}

#[tokio::test]
async fn a_fill_of_another_upstream_does_not_answer_for_ours() {
    // Another path of the same host, or the same path with other credentials.
    for keys in [["", ""], ["license: old", "license: new"]] {
        for status in [404, 403, 500] {
            let content = blob(1, LEN);
            let upstream = Upstream::start();
            let repos = if keys[0].is_empty() { ["one", "two"] } else { ["one", "one"] };
            let digest = upstream.put_blob(repos[1], &content);
            for repo in repos {
                upstream.put_image(repo, "v1", &Image::of(9));
            }
            let there = |repo: &str| format!("/v2/{repo}/blobs/{digest}");
            let setup = |number: usize| {
                let keys = format!("scheme: HTTP, {}", keys[number]);
                Setup::in_front_of_repo("Proxy", &format!("{}/{}", upstream.address(), repos[number]), &keys)
                    .config("proxy: { negativeTtl: 0s }\nauth: { anonymous: pull, upstreamUser: false }")
            };
            let registry = Registry::start(&setup(0));
            registry.until_metric("d8_registry_upstream_probes_total{outcome=\"ok\"}", 1.0).await;
            let gate = Gate::new();
            let held = gate.clone();
            upstream.once("GET", &there(repos[0]), move |answer| {
                answer.fail(status, "not with those").hold_head(&held);
            });
            let here = path(&format!("blobs/{digest}"));
            let client = registry.client();
            let first = client.get(&here);
            let then = async {
                gate.arrived(1).await;
                registry.reconfigure(&setup(1));
                registry.until_metric("d8_registry_upstream_probes_total{outcome=\"ok\"}", 2.0).await;
                let client = registry.client();
                let second = client.get(&here);
                let opening = async { gate.open() };
                let (second, ()) = tokio::join!(second, opening);
                assert_eq!(second.status(), 200, "{keys:?}, {status}");
                assert!(second.bytes().await.unwrap() == content, "{keys:?}, {status}");
            };
            let (first, ()) = tokio::join!(first, then);
            drop(first);
            registry.stop();
        }
    }
}

#[tokio::test]
async fn no_part_of_a_small_blob_is_handed_out_before_all_of_it_is_right() {
    for (len, held) in [(1 << 20, true), ((1 << 20) + 1, false), (1000, true)] {
        let content = blob(1, len);
        let upstream = Upstream::start();
        let digest = upstream.put_blob(REPO, &content);
        let (there, here) = (format!("/v2/{REPO}/blobs/{digest}"), path(&format!("blobs/{digest}")));
        let registry = Registry::start(&Setup::proxy(&upstream));
        for chunked in [false, true] {
            upstream.heal();
            // Without its rest nobody can know that the digest is wrong, so the part of a large one is handed out.
            let gate = Gate::new();
            let rest = (!held && !chunked).then(|| gate.clone());
            upstream.rule("GET", &there, move |answer| {
                answer.corrupt(15);
                if chunked {
                    answer.chunked();
                }
                if let Some(gate) = &rest {
                    answer.hold(len / 2, gate);
                }
            });
            let request = registry.client().request(Method::GET, &here).header("range", "bytes=10-99");
            let response = within(request.send()).await.unwrap();
            if held {
                assert_eq!(refusal(response).await.status, 502, "{len}, chunked {chunked}");
            } else if !chunked {
                assert_eq!(within(response.bytes()).await.unwrap().len(), 90);
            }
            gate.open();
            registry.until_metric(FILLS, 0.0).await;
        }
        registry.stop();
    }
}

#[tokio::test]
async fn a_first_byte_later_than_any_client_waits_is_waited_for_by_the_fill() {
    let upstream = Upstream::start();
    let image = Image::of(9);
    upstream.put_image(REPO, "v1", &image);
    // One more than may wait so long at once.
    let contents: Vec<_> = (1..=33).map(|seed| blob(seed, 1000)).collect();
    let digests: Vec<_> = contents.iter().map(|content| upstream.put_blob(REPO, content)).collect();
    let gate = Gate::new();
    let held = gate.clone();
    upstream.rule("GET", &format!("/v2/{REPO}/blobs/*"), move |answer| {
        answer.hold_head(&held);
    });
    let registry = Registry::start(&Setup::proxy(&upstream));
    let client = registry.client();
    let here = |digest: &String| path(&format!("blobs/{digest}"));
    let asked = join_all(digests.iter().map(|digest| client.request(Method::GET, &here(digest)).send()));
    for response in within(asked).await {
        assert_eq!(refusal(response.unwrap()).await.status, 504);
    }
    // The upstream is slow with blobs and not down.
    assert_eq!(client.get(&path("manifests/v1")).await.status(), 200);
    registry.until_metric(FILLS, 32.0).await;
    upstream.ended(1).await;
    let joining = join_all(digests.iter().map(|digest| client.request(Method::GET, &here(digest)).send()));
    let opening = async {
        gate.arrived(34).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(within(joining), opening);
    for (answer, content) in answers.into_iter().zip(&contents) {
        assert!(answer.unwrap().bytes().await.unwrap() == *content);
    }
    assert_eq!(upstream.count("GET", &format!("/v2/{REPO}/blobs/*")), 34, "begun anew");
    assert_eq!(digest(&contents[0]), digests[0]);
    registry.stop();
}
