use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;

struct Knobs {
    usable: AtomicBool,
    draining: AtomicBool,
}

fn admin() -> (Router, Arc<Knobs>) {
    let knobs = Arc::new(Knobs { usable: AtomicBool::new(true), draining: AtomicBool::new(false) });
    let (usable, draining) = (Arc::clone(&knobs), Arc::clone(&knobs));
    let state = AdminState {
        version: "1.2.3",
        mode: Arc::new(|| "Proxy"),
        upstream: Arc::new(|| {
            Some(UpstreamState {
                host: "registry.example.com".to_owned(),
                outcome: Some("auth"),
                message: Some("it refuses us".to_owned()),
                probed: Some(6),
                last_accepted: Some(5),
                refused: None,
            })
        }),
        started: Instant::now(),
        check: Arc::new(move || {
            let usable = usable.usable.load(Ordering::Relaxed);
            Box::pin(async move { if usable { Ok(()) } else { Err("the folder is gone".to_owned()) } })
        }),
        draining: Arc::new(move || draining.draining.load(Ordering::Relaxed)),
        store: Arc::new(|| StoreSample { used: None, budget: Some(9), free: 5, reserve: 3, uploads: 0, refusal: None }),
        damage: Arc::new(crate::telemetry::DamageSample::default),
        index: Arc::new(|| IndexSample::Rebuilding { done: 4 }),
        users: Arc::new(|| 2),
        connections: Arc::new(|| 3),
        certificate_expiry: Arc::new(|| Some(Timestamp::from_millis(8_000))),
        config: Arc::new(|| ConfigState { loaded: Timestamp::from_millis(7_000), error: Some("line 3".to_owned()) }),
        metrics: Metrics::new().unwrap(),
    };
    (router(state), knobs)
}

async fn ask(router: &Router, path: &str) -> (StatusCode, String, Response<()>) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    (parts.status, text, Response::from_parts(parts, ()))
}

#[tokio::test]
async fn ready_only_with_a_usable_folder_and_while_not_draining_but_alive_always() {
    let (router, knobs) = admin();
    assert_eq!(ask(&router, "/readyz").await.0, StatusCode::OK, "a rebuilding index does not count");
    knobs.usable.store(false, Ordering::Relaxed);
    let (status, text, response) = ask(&router, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(text, "the folder is gone\n");
    assert!(response.headers().contains_key(RETRY_AFTER));
    knobs.usable.store(true, Ordering::Relaxed);
    knobs.draining.store(true, Ordering::Relaxed);
    assert_eq!(ask(&router, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask(&router, "/healthz").await.0, StatusCode::OK);
}

#[tokio::test]
async fn the_status_document() {
    let (router, _) = admin();
    let (status, text, _) = ask(&router, "/status").await;
    assert_eq!(status, StatusCode::OK);
    let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
    document["uptimeSeconds"] = 0.into();
    assert_eq!(
        document,
        serde_json::json!({
            "version": "1.2.3",
            "mode": "Proxy",
            "uptimeSeconds": 0,
            "draining": false,
            "connections": 3,
            "users": 2,
            "upstream": {
                "host": "registry.example.com",
                "outcome": "auth",
                "message": "it refuses us",
                "probed": 6,
                "lastAccepted": 5,
            },
            "store": { "budgetBytes": 9, "freeBytes": 5, "reserveBytes": 3, "writable": true, "damagedContents": 0, "damagedBytes": 0, "diskFault": false },
            "index": { "state": "rebuilding", "objectsDone": 4 },
            "certificateExpiry": 8,
            "config": { "valid": false, "loaded": 7, "error": "line 3" },
        })
    );
}

#[tokio::test]
async fn metrics_are_text_and_nothing_else_is_served() {
    let (router, _) = admin();
    let (status, text, response) = ask(&router, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(response.headers()[CONTENT_TYPE], Metrics::CONTENT_TYPE);
    assert!(text.contains("d8_registry_http_requests_in_flight 0"));
    assert_eq!(ask(&router, "/v2/").await.0, StatusCode::NOT_FOUND);
}
