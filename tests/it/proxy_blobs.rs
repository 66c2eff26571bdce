//! Mode Proxy, blobs: one fill per digest whatever the clients do, and nothing handed out that is not what it says.

use futures_util::future::join_all;
use reqwest::Method;

use crate::support::{
    ALIAS, Answer, Cut, End, Gate, REPO, Raw, Registry, Setup, Upstream, blob, cache, digest, header, refusal, within,
};

const FILLS: &str = "d8_registry_fills_running";

fn path(rest: &str) -> String {
    format!("/v2/{ALIAS}/{rest}")
}

/// An upstream with one blob, a cache before it, and the blob's path there and here.
struct Case {
    content: Vec<u8>,
    upstream: Upstream,
    registry: Registry,
    there: String,
    here: String,
}

impl Case {
    fn new(len: usize) -> Self {
        let content = blob(len as u64, len);
        let upstream = Upstream::start();
        let digest = upstream.put_blob(REPO, &content);
        let registry = Registry::start(&Setup::proxy(&upstream).config("proxy: { negativeTtl: 0s }"));
        let there = format!("/v2/{REPO}/blobs/{digest}");
        Self { content, upstream, registry, there, here: path(&format!("blobs/{digest}")) }
    }

    /// Changes the answers to GETs of the blob.
    fn rule(&self, change: impl Fn(&mut Answer) + Send + 'static) {
        self.upstream.rule("GET", &self.there, change);
    }

    fn once(&self, change: impl Fn(&mut Answer) + Send + 'static) {
        self.upstream.once("GET", &self.there, change);
    }

    /// Holds all GETs of the blob at a place.
    fn hold(&self, at: usize) -> Gate {
        let gate = Gate::new();
        let held = gate.clone();
        self.rule(move |answer| {
            answer.hold(at, &held);
        });
        gate
    }

    fn gets(&self) -> usize {
        self.upstream.count("GET", &self.there)
    }

    async fn raw(&self, headers: &str) -> Raw {
        Raw::get(self.registry.address(), &self.here, headers).await
    }

    /// Reads the blob, which has to be right, and how it was served.
    async fn read(&self) -> String {
        let response = self.registry.client().get(&self.here).await;
        assert_eq!(response.status(), 200);
        assert_eq!(header(&response, "content-length"), self.content.len().to_string());
        let cache = cache(&response);
        assert!(response.bytes().await.unwrap() == self.content, "not the content");
        cache
    }

    async fn idle(&self) {
        self.registry.until_metric(FILLS, 0.0).await;
    }
}

#[tokio::test]
async fn a_blob_is_fetched_once_and_kept() {
    for len in [0, 1, 4096, 262_144, 262_145, 3_000_000] {
        let mut case = Case::new(len);
        assert_eq!(case.read().await, "filled", "{len}");
        case.idle().await;
        assert_eq!(case.read().await, "hit", "{len}");
        case.upstream.down();
        assert_eq!(case.read().await, "hit", "{len}");
        assert_eq!(case.gets(), 1);
        let head = case.registry.client().head(&case.here).await;
        assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, len.to_string()));
        case.registry.stop();
    }
}

#[tokio::test]
async fn many_clients_at_once_cost_one_get() {
    for clients in [8, 200] {
        let case = Case::new(3_000_000);
        let gate = case.hold(1000);
        let readers = join_all((0..clients).map(|_| case.read()));
        let opening = async {
            gate.arrived(1).await;
            gate.open();
        };
        let (outcomes, ()) = tokio::join!(readers, opening);
        assert_eq!(outcomes.iter().filter(|outcome| *outcome == "filled").count(), 1, "{outcomes:?}");
        assert!(outcomes.iter().all(|outcome| ["filled", "joined", "hit"].contains(&&**outcome)), "{outcomes:?}");
        assert_eq!(case.gets(), 1);
        case.registry.stop();
    }
}

#[tokio::test]
async fn every_client_gets_at_once_what_has_arrived() {
    let case = Case::new(3_000_000);
    let gate = case.hold(2_000_000);
    let mut first = case.raw("").await;
    first.read(1_500_000).await;
    let mut second = case.raw("").await;
    second.read(1_500_000).await;
    assert_eq!(
        (first.header("d8-registry-cache"), second.header("d8-registry-cache")),
        (Some("filled".into()), Some("joined".into()))
    );
    gate.open();
    for client in [&mut first, &mut second] {
        client.read(case.content.len()).await;
        assert!(client.body() == case.content);
    }
    assert_eq!(case.gets(), 1);
    case.registry.stop();
}

#[tokio::test]
async fn a_range_of_what_is_being_filled_does_not_wait_for_the_rest() {
    let case = Case::new(3_000_000);
    let gate = case.hold(2_000_000);
    let mut first = case.raw("").await;
    first.read(1).await;
    gate.arrived(1).await;
    for (range, start, end) in [("0-9", 0, 10), ("500000-999999", 500_000, 1_000_000)] {
        let ranged = case.registry.client().request(Method::GET, &case.here).header("range", format!("bytes={range}"));
        let ranged = within(ranged.send()).await.unwrap();
        assert_eq!((ranged.status().as_u16(), &*cache(&ranged)), (206, "joined"));
        assert_eq!(header(&ranged, "content-range"), format!("bytes {start}-{}/3000000", end - 1));
        assert!(within(ranged.bytes()).await.unwrap() == case.content[start..end]);
    }
    let open_ended = case.registry.client().request(Method::GET, &case.here).header("range", "bytes=2500000-").send();
    let (tail, ()) = tokio::join!(async { open_ended.await.unwrap().bytes().await.unwrap() }, async { gate.open() });
    assert!(tail == case.content[2_500_000..]);
    assert_eq!(case.gets(), 1);
    case.registry.stop();
}

#[tokio::test]
async fn the_first_client_leaving_changes_nothing_for_the_others() {
    let case = Case::new(3_000_000);
    let gate = case.hold(1_000_000);
    let mut first = case.raw("").await;
    first.read(1000).await;
    let mut second = case.raw("").await;
    second.read(1000).await;
    drop(first);
    gate.open();
    second.read(case.content.len()).await;
    assert!(second.body() == case.content);
    case.idle().await;
    assert_eq!((case.read().await.as_str(), case.gets()), ("hit", 1));
    case.registry.stop();
}

#[tokio::test]
async fn a_fill_goes_on_when_all_clients_have_left() {
    let case = Case::new(3_000_000);
    let gate = case.hold(1_000_000);
    let mut only = case.raw("").await;
    only.read(1000).await;
    drop(only);
    gate.open();
    case.idle().await;
    assert_eq!((case.read().await.as_str(), case.gets()), ("hit", 1));
    case.registry.stop();
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody() {
    // More than the kernel's buffers take.
    let case = Case::new(32 << 20);
    let mut stalled = case.raw("").await;
    stalled.read(1).await;
    case.read().await;
    assert_eq!(case.gets(), 1);
    case.idle().await;
    stalled.read(case.content.len()).await;
    assert!(stalled.body() == case.content);
    case.registry.stop();
}

#[tokio::test]
async fn a_body_cut_by_the_upstream_is_resumed_where_it_broke() {
    for cut in [Cut::Fin, Cut::Rst] {
        let case = Case::new(3_000_000);
        case.once(move |answer| {
            answer.cut(1_000_000, cut);
        });
        case.once(move |answer| {
            answer.cut(500_000, cut);
        });
        assert_eq!(case.read().await, "filled", "{cut:?}");
        let asked = case.upstream.asked("GET", &case.there);
        let begins: Vec<u64> = asked
            .iter()
            .map(|seen| seen.header("range").map_or(0, |range| range[6..].split_once('-').unwrap().0.parse().unwrap()))
            .collect();
        assert_eq!(begins.len(), 3, "{begins:?}");
        assert!(begins[1] > 0 && begins[2] >= begins[1], "{cut:?}: begun anew: {begins:?}");
        case.idle().await;
        assert_eq!(case.read().await, "hit");
        case.registry.stop();
    }
}

#[tokio::test]
async fn a_cut_that_the_upstream_cannot_resume_still_ends_well_or_broken_never_wrong() {
    let case = Case::new(3_000_000);
    case.once(|answer| {
        answer.cut(1_000_000, Cut::Fin);
    });
    case.rule(|answer| {
        answer.ignore_range();
    });
    let response = case.registry.client().get(&case.here).await;
    if let Ok(body) = response.bytes().await {
        assert!(body == case.content);
    }
    case.idle().await;
    case.read().await;
    case.registry.stop();
}

#[tokio::test]
async fn what_clients_have_read_is_never_gone_on_with_in_other_bytes() {
    let case = Case::new(3_000_000);
    case.once(|answer| {
        answer.corrupt(10).chunked().cut(1_000_000, Cut::Fin);
    });
    case.once(|answer| {
        answer.fail(416, "nothing lies behind that");
    });
    let response = case.registry.client().get(&case.here).await;
    assert_eq!(response.status(), 200);
    assert!(response.bytes().await.is_err(), "a mixture of two answers was completed");
    case.idle().await;
    assert_eq!(case.read().await, "filled");
    case.registry.stop();
}

#[tokio::test]
async fn wrong_bytes_are_never_completed_nor_kept() {
    let case = Case::new(3_000_000);
    for at in [0, 1_500_000, 2_999_999] {
        case.once(move |answer| {
            answer.corrupt(at);
        });
        let mut raw = case.raw("").await;
        assert_eq!(raw.end().await, End::Orderly);
        assert!(raw.body().len() < case.content.len(), "the last bytes were handed out");
        case.idle().await;
    }
    assert_eq!(case.registry.metric("d8_registry_fill_errors_total{cause=\"digest\"}").await, 3.0);
    assert_eq!(case.read().await, "filled");
    assert_eq!(case.gets(), 4);
    case.registry.stop();
}

#[tokio::test]
async fn lengths_that_lie_break_the_body() {
    let case = Case::new(300_000);
    for declared in [200_000, 400_000] {
        case.rule(move |answer| {
            answer.ignore_range().declare(declared);
        });
        let response = case.registry.client().get(&case.here).await;
        if response.status() == 200 {
            let body = response.bytes().await;
            assert!(body.is_err(), "declared {declared}: {} bytes as if whole", body.unwrap().len());
        } else {
            assert_eq!(refusal(response).await.status, 502);
        }
        case.idle().await;
        case.upstream.heal();
    }
    assert_eq!(case.read().await, "filled");
    case.registry.stop();
}

#[tokio::test]
async fn no_length_of_the_upstreams_is_no_hindrance() {
    for range in ["bytes=0-", "bytes=1000-1999", "bytes=-10"] {
        let case = Case::new(300_000);
        case.rule(|answer| {
            answer.ignore_range().chunked();
        });
        let ranged =
            case.registry.client().request(Method::GET, &case.here).header("range", range).send().await.unwrap();
        let whole = ranged.status() == 200;
        assert!(whole || ranged.status() == 206);
        let body = ranged.bytes().await.unwrap();
        let wanted = match range {
            _ if whole || range == "bytes=0-" => &case.content[..],
            "bytes=-10" => &case.content[299_990..],
            _ => &case.content[1000..2000],
        };
        assert!(body == wanted, "{range}");
        case.idle().await;
        assert_eq!((case.read().await.as_str(), case.gets()), ("hit", 1));
        case.registry.stop();
    }
}

#[tokio::test]
async fn a_broken_body_ends_in_order() {
    for cut in [Cut::Fin, Cut::Rst] {
        let case = Case::new(3_000_000);
        let gate = Gate::new();
        let held = gate.clone();
        case.once(move |answer| {
            answer.hold(1_000_000, &held).cut(1_000_000, cut);
        });
        case.rule(|answer| {
            answer.fail(500, "the disk is gone");
        });
        let mut raw = case.raw("").await;
        raw.read(900_000).await;
        gate.open();
        assert_eq!(raw.end().await, End::Orderly, "{cut:?}");
        assert!(raw.body().len() <= 1_000_000 && raw.body() == &case.content[..raw.body().len()]);
        case.upstream.heal();
        case.idle().await;
        case.read().await;
        case.registry.stop();
    }
}

#[tokio::test]
async fn there_is_no_200_before_the_first_byte() {
    let case = Case::new(300_000);
    for cut in [Cut::Fin, Cut::Rst] {
        case.upstream.heal();
        case.rule(move |answer| {
            answer.cut(0, cut);
        });
        let refusal = refusal(case.registry.client().get(&case.here).await).await;
        assert!([502, 504].contains(&refusal.status), "{refusal:?}");
        case.idle().await;
    }
    case.upstream.heal();
    case.read().await;
    case.registry.stop();
}

#[tokio::test]
async fn ranges_dropped_after_a_chunk_cost_nothing_and_are_no_errors() {
    let case = Case::new(8 << 20);
    for round in 0..4 {
        let mut raw = case.raw(if round % 2 == 0 { "Range: bytes=0-\r\n" } else { "Range: bytes=1048576-\r\n" }).await;
        assert_eq!(raw.status(), 206);
        raw.read(1000).await;
        drop(raw);
    }
    case.idle().await;
    assert_eq!((case.read().await.as_str(), case.gets()), ("hit", 1));
    // Beside it only what the probe of the upstream asked for.
    assert!(case.upstream.sent() < case.content.len() + 10_000);
    let metrics = case.registry.admin().get("/metrics").await.text().await.unwrap();
    let errors =
        metrics.lines().filter(|line| line.starts_with("d8_registry_fill_errors_total") && !line.ends_with(" 0"));
    assert_eq!(errors.count(), 0, "{metrics}");
    case.registry.stop();
}

#[tokio::test]
async fn a_fill_survives_a_kill() {
    let case = Case::new(8 << 20);
    let gate = case.hold(4 << 20);
    let mut raw = case.raw("").await;
    raw.read(3 << 20).await;
    gate.arrived(1).await;
    let Case { content, upstream, registry, there, here } = case;
    let folder = registry.folder();
    registry.kill();
    upstream.heal();
    upstream.forget_seen();
    let registry = Registry::start_in(folder, &Setup::proxy(&upstream));
    let response = registry.client().get(&here).await;
    assert!(response.bytes().await.unwrap() == content);
    let asked = upstream.asked("GET", &there);
    assert_eq!(asked.len(), 1);
    let range = asked[0].header("range").expect("begun anew");
    assert!(range[6..].split_once('-').unwrap().0.parse::<u64>().unwrap() > 0, "{range}");
    registry.stop();
}

#[tokio::test]
async fn a_fill_that_cannot_be_resumed_after_a_kill_begins_anew() {
    for disagree in [false, true] {
        let case = Case::new(8 << 20);
        let gate = case.hold(4 << 20);
        if disagree {
            case.once(move |answer| {
                answer.corrupt(10).hold(4 << 20, &gate);
            });
        }
        let mut raw = case.raw("").await;
        raw.read(3 << 20).await;
        let Case { content, upstream, registry, there, here } = case;
        let folder = registry.folder();
        registry.kill();
        upstream.heal();
        if !disagree {
            upstream.rule("GET", &there, |answer| {
                answer.ignore_range();
            });
        }
        let registry = Registry::start_in(folder, &Setup::proxy(&upstream));
        let client = registry.client();
        if let Ok(body) = client.get(&here).await.bytes().await {
            assert!(body == content, "disagree {disagree}");
        }
        registry.until_metric(FILLS, 0.0).await;
        assert!(client.get(&here).await.bytes().await.unwrap() == content, "disagree {disagree}");
        registry.stop();
    }
}

#[tokio::test]
async fn head_of_a_blob_fetches_nothing_and_promises_nothing_that_get_does_not_keep() {
    let case = Case::new(300_000);
    let client = case.registry.client();
    let head = client.head(&case.here).await;
    assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, "300000".to_owned()));
    assert_eq!(case.gets(), 0);
    assert_eq!(client.head(&path(&format!("blobs/{}", digest(b"none")))).await.status(), 404);
    case.upstream.rule("*", &case.there, |answer| {
        answer.fail(500, "out of order");
    });
    let head = client.head(&case.here).await;
    assert!([502, 503, 504].contains(&head.status().as_u16()), "{head:?}");
    case.registry.stop();
}

#[tokio::test]
async fn it_starts_and_serves_what_it_has_with_the_upstream_down() {
    let case = Case::new(300_000);
    case.read().await;
    case.idle().await;
    let Case { content, mut upstream, registry, here, .. } = case;
    let folder = registry.folder();
    registry.stop();
    upstream.down();
    let registry = Registry::start_in(folder, &Setup::proxy(&upstream));
    let response = registry.client().get(&here).await;
    assert_eq!(cache(&response), "hit");
    assert!(response.bytes().await.unwrap() == content);
    assert_eq!(registry.admin().get("/readyz").await.status(), 200);
    let refused = refusal(registry.client().get(&path(&format!("blobs/{}", digest(b"none")))).await).await;
    assert!([502, 503, 504].contains(&refused.status), "{refused:?}");
    registry.stop();
}

#[tokio::test]
async fn what_is_stored_is_read_in_ranges_and_conditionally() {
    let case = Case::new(700_000);
    case.read().await;
    case.idle().await;
    let client = case.registry.client();
    for (range, start, end) in [("bytes=0-", 0, 700_000), ("bytes=5-9", 5, 10), ("bytes=-7", 699_993, 700_000)] {
        let response = client.request(Method::GET, &case.here).header("range", range).send().await.unwrap();
        assert_eq!((response.status().as_u16(), &*cache(&response)), (206, "hit"), "{range}");
        assert!(response.bytes().await.unwrap() == case.content[start..end], "{range}");
    }
    let etag = header(&client.head(&case.here).await, "etag");
    let again = client.request(Method::GET, &case.here).header("if-none-match", etag).send().await.unwrap();
    assert_eq!(again.status(), 304);
    assert_eq!(case.gets(), 1);
    case.registry.stop();
}
