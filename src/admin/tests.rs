use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::socket::Client;
use super::*;
use crate::clock::Timestamp;
use crate::jobs::{Job, JobError, Run, Schedule};
use crate::telemetry::families::STORE_UPLOADS;
use crate::telemetry::{self, Samples};

/// What a part sampled itself.
fn sampled() -> Samples {
    let mut samples = Samples::default();
    samples.add(&STORE_UPLOADS, &[], 4);
    samples
}

/// A server that is as it is told to be.
struct Scripted {
    usable: AtomicBool,
    jobs: Runner,
}

impl Source for Arc<Scripted> {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            version: "1.2.3",
            revision: "abc",
            mode: "Proxy",
            uptime_seconds: 12,
            connections: 3,
            users: 2,
            upstream: Some(UpstreamStatus {
                host: "registry.example.com".to_owned(),
                outcome: Some("auth"),
                message: Some("it refuses us".to_owned()),
                probed: Some(6),
                last_accepted: Some(5),
                refused: None,
            }),
            store: StoreStatus {
                snapshot_bytes: Some(18),
                snapshots: 19,
                budget_bytes: Some(9),
                free_bytes: 5,
                reserve_bytes: 3,
                writable: false,
                refusal: Some("ReadOnly"),
                damaged_contents: 2,
                damaged_bytes: 30,
                damaged: vec![DamagedContent {
                    digest: "sha256:00".to_owned(),
                    images: vec!["a/secret/name:v1".to_owned()],
                    more_images: 3,
                }],
                disk_fault: true,
                ..StoreStatus::default()
            },
            collection: CollectionStatus {
                schedule: "off".to_owned(),
                held: true,
                suspects: 13,
                changed_repositories: Some(14),
                left_alone: vec![LeftAlone {
                    repository: Some("a/secret/name".to_owned()),
                    reason: Some("tag v1 leads to nothing".to_owned()),
                }],
                removed_blobs: 15,
                removed_manifests: 16,
                freed_bytes: 17,
                masters_away: Some("it is away".to_owned()),
                kept_by_masters: 18,
            },
            scrub: ScrubStatus {
                interval_seconds: Some(18),
                began: 19,
                last_ended: Some(20),
                permille: 21,
                contents: 22,
                bytes: 23,
                found: 24,
                found_since_start: 25,
            },
            index: IndexStatus { state: "rebuilding", objects_done: Some(4) },
            certificate_expiry: Some(8),
            config: ConfigStatus::in_force(Timestamp::from_millis(7_000)).refused("line 3".to_owned()),
            jobs: self.jobs.status(),
            dropped_log_lines: 11,
            sampled: sampled(),
            ..Snapshot::default()
        }
    }

    async fn ready(&self) -> Result<(), String> {
        if self.usable.load(Ordering::Relaxed) { Ok(()) } else { Err("the directory is gone".to_owned()) }
    }

    fn jobs(&self) -> &Runner {
        &self.jobs
    }

    fn give_way(&self) -> Result<(), &'static str> {
        if self.usable.load(Ordering::Relaxed) { Ok(()) } else { Err("it stays") }
    }

    fn place_import(&self, order: serde_json::Value) -> Result<(), String> {
        if order.is_null() { Err("no order".to_owned()) } else { Ok(()) }
    }

    fn import(&self) -> serde_json::Value {
        serde_json::json!({})
    }

    async fn collection(&self, asked: CollectionQuestion) -> Result<serde_json::Value, String> {
        match asked {
            CollectionQuestion::Why(digest) if digest.is_empty() => Err("no digest".to_owned()),
            asked => Ok(format!("{asked:?}").into()),
        }
    }

    async fn verify(&self, asked: VerifyQuestion) -> Result<serde_json::Value, String> {
        Ok(format!("{} {:?}", asked.quick, asked.repository).into())
    }

    async fn unused_data(&self, asked: DropQuestion) -> Result<serde_json::Value, DropError> {
        match asked {
            DropQuestion::Want(StoringMode::Proxy) => Err(DropError::Used(StoringMode::Proxy)),
            asked => Ok(format!("{asked:?}").into()),
        }
    }

    async fn snapshots(&self, order: SnapshotOrder) -> Result<serde_json::Value, SnapshotRefusal> {
        match order {
            SnapshotOrder::Create(name) if name == "taken" => Err(SnapshotRefusal::Refused("it is taken".to_owned())),
            SnapshotOrder::Remove(name) if name == "none" => Err(SnapshotRefusal::Unknown("there is none".to_owned())),
            order => Ok(format!("{order:?}").into()),
        }
    }
}

/// Fails at every second run, with a repository in its words.
struct Failing(bool);

impl Job for Failing {
    const NAME: &'static str = "failing";

    fn schedule(&self) -> Schedule {
        Schedule::when_called()
    }

    async fn run(&mut self, _: Run) -> Result<(), JobError> {
        self.0 = !self.0;
        if self.0 { Err(JobError::logged("a/secret/name can't be read".to_owned())) } else { Ok(()) }
    }
}

/// Says how far it is, and runs until the server ends.
struct Counting;

impl Job for Counting {
    const NAME: &'static str = "counting";

    fn schedule(&self) -> Schedule {
        Schedule::continuous()
    }

    async fn run(&mut self, run: Run) -> Result<(), JobError> {
        run.progress().set(3, Some(5));
        run.stop().cancelled().await;
        Ok(())
    }
}

fn scripted() -> (Admin<Arc<Scripted>>, Arc<Scripted>) {
    let jobs = Runner::new(TaskTracker::new(), CancellationToken::new());
    let source = Arc::new(Scripted { usable: AtomicBool::new(true), jobs });
    (Admin::new(Arc::clone(&source), Metrics::new().unwrap()), source)
}

async fn ask(router: &Router, method: Method, path: &str) -> (StatusCode, String, Response<()>) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let (parts, body) = router.clone().oneshot(request).await.unwrap().into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    (parts.status, text, Response::from_parts(parts, ()))
}

async fn get(router: &Router, path: &str) -> (StatusCode, String, Response<()>) {
    ask(router, Method::GET, path).await
}

/// The socket's routes, as its connections have them.
fn orders(admin: Admin<Arc<Scripted>>) -> Router {
    order_router(admin).layer(axum::Extension(Client { uid: 0, pid: None }))
}

#[tokio::test]
async fn ready_only_when_the_source_is_but_alive_always() {
    let (admin, source) = scripted();
    for router in [router(admin.clone()), probe_router(admin.clone()), orders(admin.clone())] {
        source.usable.store(true, Ordering::Relaxed);
        assert_eq!(get(&router, "/readyz").await.0, StatusCode::OK);
        source.usable.store(false, Ordering::Relaxed);
        let (status, text, response) = get(&router, "/readyz").await;
        assert_eq!((status, text.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "the directory is gone\n"));
        assert!(response.headers().contains_key(RETRY_AFTER));
        assert_eq!(get(&router, "/healthz").await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn the_status_document() {
    let (admin, _) = scripted();
    let (status, text, response) = get(&router(admin), "/status").await;
    assert_eq!((status, &response.headers()[CACHE_CONTROL]), (StatusCode::OK, &"no-store".parse().unwrap()));
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        document,
        serde_json::json!({
            "version": "1.2.3",
            "mode": "Proxy",
            "previousAnswers": 0,
            "retention": { "rules": 0, "removedTags": 0, "givenUp": 0, "leftAlone": [] },
            "uptimeSeconds": 12,
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
            "store": {
                "snapshotBytes": 18, "snapshots": 19, "budgetBytes": 9, "freeBytes": 5, "reserveBytes": 3, "writable": false, "refusal": "ReadOnly",
                "damagedContents": 2, "damagedBytes": 30, "diskFault": true,
            },
            "collection": {
                "schedule": "off", "held": true, "suspects": 13, "changedRepositories": 14, "leftAlone": [{}],
                "removedBlobs": 15, "removedManifests": 16, "freedBytes": 17,
                "mastersAway": "not all masters could be asked", "keptByMasters": 18,
            },
            "scrub": {
                "intervalSeconds": 18, "began": 19, "lastEnded": 20, "permille": 21, "contents": 22, "bytes": 23, "found": 24,
                "foundSinceStart": 25,
            },
            "index": { "state": "rebuilding", "objectsDone": 4 },
            "certificateExpiry": 8,
            "config": { "valid": false, "loaded": 7, "error": "line 3" },
            "jobs": [],
        })
    );
}

#[tokio::test]
async fn orders_run_jobs_and_what_they_say_of_names_is_for_the_socket_alone() {
    let (admin, source) = scripted();
    source.jobs.start(Failing(false));
    let socket = orders(admin.clone());
    let (status, text, _) = ask(&socket, Method::POST, "/jobs/failing/run").await;
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &report["result"]), (StatusCode::OK, &"failed".into()));
    assert_eq!(report["error"], "a/secret/name can't be read");
    let (status, text, _) = ask(&socket, Method::POST, "/jobs/failing/run").await;
    assert_eq!(status, StatusCode::OK);
    assert!(text.contains("\"result\":\"ok\""), "{text}");
    assert_eq!(ask(&socket, Method::GET, "/jobs/failing/run").await.0, StatusCode::METHOD_NOT_ALLOWED);
    let (status, text, _) = ask(&socket, Method::POST, "/reload").await;
    assert_eq!((status, text.as_str()), (StatusCode::NOT_FOUND, "there is no job \"reload\"\n"));

    let shown = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["jobs"][0].clone();
    let whole = shown(&get(&socket, "/status").await.1);
    let public = shown(&get(&router(admin), "/status").await.1);
    assert_eq!(whole["lastError"]["message"], "a/secret/name can't be read");
    assert_eq!(
        (&public["lastError"]["message"], &public["lastError"]["at"]),
        (&serde_json::Value::Null, &whole["lastError"]["at"])
    );
    assert_eq!(public["runs"], serde_json::json!({ "ok": 1, "failed": 1, "panicked": 0 }));
    assert_eq!((&public["name"], &public["schedule"]), (&"failing".into(), &"when called".into()));
    let listed: serde_json::Value = serde_json::from_str(&get(&socket, "/jobs").await.1).unwrap();
    assert_eq!(listed, serde_json::json!([whole]));
}

#[tokio::test]
async fn questions_about_the_collection_are_for_the_socket_alone() {
    let (admin, _) = scripted();
    let socket = orders(admin.clone());
    for (path, asked) in [("/gc", "Last"), ("/gc/look", "Look"), ("/gc/why/sha256:00", "Why(\\\"sha256:00\\\")")] {
        let (status, text, _) = get(&socket, path).await;
        assert_eq!((status, text), (StatusCode::OK, format!("\"{asked}\"")), "{path}");
        for open in [router(admin.clone()), probe_router(admin.clone())] {
            assert_eq!(get(&open, path).await.0, StatusCode::NOT_FOUND, "{path}");
        }
    }
    let (status, text, _) = ask(&socket, Method::POST, "/gc").await;
    assert_eq!((status, text.as_str()), (StatusCode::NOT_FOUND, "there is no job \"collection\"\n"));
    let shown = get(&socket, "/status").await.1;
    assert!(shown.contains("a/secret/name") && shown.contains("leads to nothing"), "{shown}");
    assert!(!get(&router(admin), "/status").await.1.contains("secret"));
}

#[tokio::test]
async fn a_verification_and_the_images_that_damage_breaks_are_for_the_socket_alone() {
    let (admin, _) = scripted();
    let socket = orders(admin.clone());
    for (path, said) in [
        ("/verify", "\"false None\""),
        ("/verify?quick=true", "\"true None\""),
        ("/verify?quick=false&repository=a/b", "\"false Some(\\\"a/b\\\")\""),
    ] {
        let (status, text, _) = get(&socket, path).await;
        assert_eq!((status, text.as_str()), (StatusCode::OK, said), "{path}");
        for open in [router(admin.clone()), probe_router(admin.clone())] {
            assert_eq!(get(&open, path).await.0, StatusCode::NOT_FOUND, "{path}");
        }
    }
    assert_eq!(get(&socket, "/verify?slow=true").await.0, StatusCode::BAD_REQUEST);
    let shown: serde_json::Value = serde_json::from_str(&get(&socket, "/status").await.1).unwrap();
    let damaged = serde_json::json!([{ "digest": "sha256:00", "images": ["a/secret/name:v1"], "moreImages": 3 }]);
    assert_eq!(shown["store"]["damaged"], damaged);
}

#[tokio::test]
async fn the_data_of_a_mode_is_dropped_over_the_socket_alone_and_not_while_it_is_used() {
    let (admin, _) = scripted();
    let socket = orders(admin.clone());
    let (status, text, _) = get(&socket, "/store/drop/local").await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, "\"Look(Local)\""));
    assert_eq!(get(&socket, "/store/drop/Direct").await.0, StatusCode::NOT_FOUND);
    let (status, text, _) = ask(&socket, Method::POST, "/store/drop/Proxy").await;
    assert!(status == StatusCode::CONFLICT && text.contains("is in force"), "{status} {text}");
    let (status, text, _) = ask(&socket, Method::POST, "/store/drop/Local").await;
    assert_eq!((status, text.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "there is no job \"unused-data\"\n"));
    assert_eq!(get(&router(admin), "/store/drop/Local").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn orders_about_snapshots_are_for_the_socket_alone() {
    let (admin, _) = scripted();
    let socket = orders(admin.clone());
    let restore = |dry_run, exact| SnapshotOrder::Restore { name: "a".to_owned(), dry_run, exact };
    for (method, path, order) in [
        (Method::GET, "/snapshots", SnapshotOrder::List),
        (Method::POST, "/snapshots/a", SnapshotOrder::Create("a".to_owned())),
        (Method::DELETE, "/snapshots/a", SnapshotOrder::Remove("a".to_owned())),
        (Method::GET, "/snapshots/a/restore", restore(true, false)),
        (Method::POST, "/snapshots/a/restore", restore(false, false)),
        (Method::GET, "/snapshots/a/restore/exact", restore(true, true)),
        (Method::POST, "/snapshots/a/restore/exact", restore(false, true)),
    ] {
        let (status, text, _) = ask(&socket, method.clone(), path).await;
        assert_eq!(status, StatusCode::OK, "{method} {path}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), format!("{order:?}"), "{method} {path}");
        for open in [router(admin.clone()), probe_router(admin.clone())] {
            let status = ask(&open, method.clone(), path).await.0;
            assert!(matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED), "{method} {path}");
        }
    }
    let refused = ask(&socket, Method::POST, "/snapshots/taken").await;
    assert_eq!((refused.0, refused.1.as_str()), (StatusCode::CONFLICT, "it is taken\n"));
    assert_eq!(ask(&socket, Method::DELETE, "/snapshots/none").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_open_to_anyone_takes_no_order_whatever_its_path() {
    let (admin, source) = scripted();
    source.jobs.start(Failing(false));
    for router in [router(admin.clone()), probe_router(admin.clone())] {
        for path in [PROBE_PATHS, ADMIN_PATHS, SOCKET_PATHS, &["/", "/any"]].concat() {
            let path = &path.replace("{name}", "failing");
            for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"] {
                let method = Method::from_bytes(method.as_bytes()).unwrap();
                let (status, _, response) = ask(&router, method.clone(), path).await;
                assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
                assert_eq!(response.headers()["allow"], "GET, HEAD", "{method} {path}");
            }
            let (read, head) = (get(&router, path).await.0, ask(&router, Method::HEAD, path).await);
            assert_eq!((head.0, head.1.as_str()), (read, ""), "{path}");
        }
        for path in [SOCKET_PATHS, &["/v2/"]].concat() {
            let path = path.replace("{name}", "failing");
            assert_eq!(get(&router, &path).await.0, StatusCode::NOT_FOUND, "{path}");
        }
    }
    for path in ADMIN_PATHS {
        assert_eq!(get(&probe_router(admin.clone()), path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(source.jobs.status()[0].last_start, None, "nothing was ordered");
}

async fn metrics_text() -> String {
    let (admin, source) = scripted();
    source.jobs.start(Failing(true));
    source.jobs.run_now("failing").await.unwrap();
    source.jobs.start(Counting);
    while source.jobs.status()[1].progress.is_none() {
        tokio::task::yield_now().await;
    }
    admin.metrics.request(telemetry::Method::Get, telemetry::Route::Blob, 206, Duration::from_millis(3));
    let (status, text, response) = get(&router(admin), "/metrics").await;
    assert_eq!(
        (status, response.headers()[CONTENT_TYPE].as_bytes()),
        (StatusCode::OK, Metrics::CONTENT_TYPE.as_bytes())
    );
    text
}

#[tokio::test]
async fn a_snapshot_s_numbers_arrive_where_they_belong() {
    let text = metrics_text().await;
    for line in [
        "d8_registry_build_info{mode=\"Proxy\",revision=\"abc\",version=\"1.2.3\"} 1",
        "d8_registry_store_uploads 4",
        "d8_registry_index_state{state=\"rebuilding\"} 1",
        "d8_registry_index_state{state=\"ready\"} 0",
        "d8_registry_certificate_expiry_timestamp_seconds{use=\"tls\"} 8",
        "d8_registry_config_valid 0",
        "d8_registry_log_lines_dropped_total 11",
        "d8_registry_job_running{name=\"failing\"} 0",
        "d8_registry_job_running{name=\"counting\"} 1",
        "d8_registry_job_progress_done{name=\"counting\"} 3",
        "d8_registry_job_progress_expected{name=\"counting\"} 5",
        "d8_registry_job_runs_total{name=\"failing\",result=\"ok\"} 1",
        "d8_registry_job_runs_total{name=\"failing\",result=\"panicked\"} 0",
        "d8_registry_http_requests_total{method=\"GET\",route=\"blob\",status=\"206\"} 1",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is missing in:\n{text}");
    }
    assert!(!text.contains("job_progress_done{name=\"failing\"}"), "it does not run");
}
