//! What is answered where: a path is one line of one of the tables below, and a function.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, Path, Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};

use super::socket::Client;
use super::{
    Admin, CollectionQuestion, DropError, DropQuestion, SnapshotOrder, SnapshotRefusal, Source, VerifyQuestion,
};
use crate::jobs::{OrderError, RunReport, RunResult};
use crate::telemetry::{Metrics, with_causes};

/// Routes, and the list of their paths: the reference and the tests of what is served follow from it.
macro_rules! routes {
    ($(#[doc = $doc:literal])+ $paths:ident, $routes:ident { $($path:literal => $methods:expr,)+ }) => {
        $(#[doc = $doc])+
        pub const $paths: &[&str] = &[$($path),+];

        fn $routes<S: Source>() -> Router<Admin<S>> {
            Router::new()$(.route($path, $methods))+
        }
    };
}

routes! {
    /// What everybody who reaches a listener may read: the probe listener has nothing else.
    PROBE_PATHS, probes {
        "/healthz" => get(healthy),
        "/readyz" => get(ready::<S>),
    }
}

routes! {
    /// What the admin listener answers beside [`PROBE_PATHS`], and the socket too.
    ADMIN_PATHS, readings {
        "/status" => get(status::<S>),
        "/metrics" => get(metrics::<S>),
    }
}

routes! {
    /// What the socket alone answers: orders, and what may name repositories.
    SOCKET_PATHS, orders {
        "/jobs" => get(jobs::<S>),
        "/jobs/{name}/run" => post(run::<S>),
        "/reload" => post(reload::<S>),
        "/give-way" => post(give_way::<S>),
        "/gc" => get(last_collection::<S>).post(collect::<S>),
        "/gc/look" => get(look::<S>),
        "/gc/why/{digest}" => get(why::<S>),
        "/store/drop/{mode}" => get(look_at_drop::<S>).post(drop_data::<S>),
        "/snapshots" => get(list_snapshots::<S>),
        "/snapshots/{name}" => post(create_snapshot::<S>).delete(remove_snapshot::<S>),
        "/snapshots/{name}/restore" => get(look_at_restore::<S>).post(restore_snapshot::<S>),
        "/snapshots/{name}/restore/exact" => get(look_at_exact_restore::<S>).post(restore_snapshot_exactly::<S>),
        "/verify" => get(verify::<S>),
        "/import" => get(import::<S>).post(start_import::<S>),
        "/retention/preview" => get(preview::<S>),
    }
}

/// The admin listener's routes; GET and HEAD alone.
pub fn router<S: Source>(admin: Admin<S>) -> Router {
    only_reading(probes().merge(readings()).with_state(admin))
}

/// The probe listener's routes; GET and HEAD alone. Whoever reaches them learns nothing else.
pub fn probe_router<S: Source>(admin: Admin<S>) -> Router {
    only_reading(probes().with_state(admin))
}

/// The socket's routes: those of the admin listener, with all that a snapshot has, and the orders.
pub fn order_router<S: Source>(admin: Admin<S>) -> Router {
    probes().merge(readings()).merge(orders()).with_state(admin)
}

/// Refuses every method that could be an order, whatever the path: no route that comes to these listeners can take one.
fn only_reading(routes: Router) -> Router {
    routes.layer(middleware::from_fn(read_or_refuse))
}

async fn read_or_refuse(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let text = "GET and HEAD only: orders go over admin.sock in the data directory\n";
    (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")], text).into_response()
}

async fn healthy() -> Response {
    plain(StatusCode::OK, "ok\n".to_owned())
}

async fn ready<S: Source>(State(admin): State<Admin<S>>) -> Response {
    match admin.source.ready().await {
        Ok(()) => plain(StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => unavailable(format!("{reason}\n")),
    }
}

/// Only a client of the socket has proven who it is.
async fn status<S: Source>(State(admin): State<Admin<S>>, client: Option<Extension<Client>>) -> Response {
    let snapshot = admin.source.snapshot();
    fresh(Json(if client.is_some() { snapshot } else { snapshot.for_anyone() }))
}

async fn metrics<S: Source>(State(admin): State<Admin<S>>) -> Response {
    match admin.metrics.render_with(admin.source.snapshot().samples()) {
        Ok(text) => ([(CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(error = with_causes(&error), "can't render the metrics");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be rendered\n".to_owned())
        }
    }
}

async fn jobs<S: Source>(State(admin): State<Admin<S>>) -> Response {
    fresh(Json(admin.source.jobs().status()))
}

async fn run<S: Source>(
    State(admin): State<Admin<S>>,
    Extension(client): Extension<Client>,
    Path(name): Path<String>,
) -> Response {
    order(&admin, client, &name).await
}

async fn reload<S: Source>(State(admin): State<Admin<S>>, Extension(client): Extension<Client>) -> Response {
    order(&admin, client, "reload").await
}

/// Ends for another server of this data directory; 409 if that was not agreed at its start.
async fn give_way<S: Source>(State(admin): State<Admin<S>>, Extension(client): Extension<Client>) -> Response {
    match admin.source.give_way() {
        Ok(()) => {
            tracing::info!(uid = client.uid, pid = client.pid, "gives way to another server of this data directory");
            plain(StatusCode::OK, "it ends\n".to_owned())
        }
        Err(why) => plain(StatusCode::CONFLICT, format!("{why}\n")),
    }
}

async fn last_collection<S: Source>(State(admin): State<Admin<S>>) -> Response {
    collection(&admin, CollectionQuestion::Last).await
}

async fn look<S: Source>(State(admin): State<Admin<S>>) -> Response {
    collection(&admin, CollectionQuestion::Look).await
}

async fn preview<S: Source>(State(admin): State<Admin<S>>) -> Response {
    collection(&admin, CollectionQuestion::Rules).await
}

async fn why<S: Source>(State(admin): State<Admin<S>>, Path(digest): Path<String>) -> Response {
    collection(&admin, CollectionQuestion::Why(digest)).await
}

/// Has what nothing reaches collected, and answers with what that came to.
async fn collect<S: Source>(State(admin): State<Admin<S>>, Extension(client): Extension<Client>) -> Response {
    let ordered = order(&admin, client, "collection").await;
    if ordered.status() == StatusCode::OK { collection(&admin, CollectionQuestion::Last).await } else { ordered }
}

async fn import<S: Source>(State(admin): State<Admin<S>>) -> Response {
    fresh(Json(admin.source.import()))
}

/// Has images taken over, and answers at the end with what that came to; a client that leaves meanwhile changes nothing.
async fn start_import<S: Source>(
    State(admin): State<Admin<S>>,
    Extension(client): Extension<Client>,
    body: Bytes,
) -> Response {
    let parsed = serde_json::from_slice(&body).map_err(|error| error.to_string());
    if let Err(error) = parsed.and_then(|asked| admin.source.place_import(asked)) {
        return plain(StatusCode::CONFLICT, format!("{error}\n"));
    }
    let ordered = order(&admin, client, "import").await;
    if ordered.status() == StatusCode::OK { fresh(Json(admin.source.import())) } else { ordered }
}

async fn collection<S: Source>(admin: &Admin<S>, asked: CollectionQuestion) -> Response {
    match admin.source.collection(asked).await {
        Ok(answer) => fresh(Json(answer)),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// Looks the store through; a client that leaves ends it.
async fn verify<S: Source>(State(admin): State<Admin<S>>, uri: Uri) -> Response {
    let Some(asked) = VerifyQuestion::parse(uri.query().unwrap_or_default()) else {
        return plain(
            StatusCode::BAD_REQUEST,
            "the query has quick=true, and repository=NAME, and nothing else\n".to_owned(),
        );
    };
    match admin.source.verify(asked).await {
        Ok(answer) => fresh(Json(answer)),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

async fn look_at_drop<S: Source>(State(admin): State<Admin<S>>, Path(mode): Path<String>) -> Response {
    match mode.parse() {
        Ok(mode) => unused_data(&admin, DropQuestion::Look(mode)).await,
        Err(_) => no_data(),
    }
}

/// Has the data of a mode dropped, and answers with what that came to.
async fn drop_data<S: Source>(
    State(admin): State<Admin<S>>,
    Extension(client): Extension<Client>,
    Path(mode): Path<String>,
) -> Response {
    let Ok(mode) = mode.parse() else { return no_data() };
    if let Err(error) = admin.source.unused_data(DropQuestion::Want(mode)).await {
        return refused(&error);
    }
    tracing::info!(%mode, uid = client.uid, pid = client.pid, "the data of a mode is ordered to go");
    match admin.source.jobs().run_now("unused-data").await {
        Ok(RunReport { result: RunResult::Ok, .. }) => unused_data(&admin, DropQuestion::Last(mode)).await,
        Ok(report) => refused(&DropError::Failed(report.error.unwrap_or_else(|| report.result.as_str().to_owned()))),
        Err(error) => unavailable(format!("{error}\n")),
    }
}

async fn unused_data<S: Source>(admin: &Admin<S>, asked: DropQuestion) -> Response {
    match admin.source.unused_data(asked).await {
        Ok(answer) => fresh(Json(answer)),
        Err(error) => refused(&error),
    }
}

fn refused(error: &DropError) -> Response {
    let status = match error {
        DropError::Used(_) => StatusCode::CONFLICT,
        DropError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    plain(status, format!("{error}\n"))
}

fn no_data() -> Response {
    plain(StatusCode::NOT_FOUND, "only the modes Local and Proxy keep data\n".to_owned())
}

async fn list_snapshots<S: Source>(State(admin): State<Admin<S>>) -> Response {
    snapshots(&admin, SnapshotOrder::List).await
}

async fn create_snapshot<S: Source>(
    State(admin): State<Admin<S>>,
    Extension(client): Extension<Client>,
    Path(name): Path<String>,
) -> Response {
    tracing::info!(snapshot = name, uid = client.uid, pid = client.pid, "a snapshot is ordered");
    snapshots(&admin, SnapshotOrder::Create(name)).await
}

async fn remove_snapshot<S: Source>(
    State(admin): State<Admin<S>>,
    Extension(client): Extension<Client>,
    Path(name): Path<String>,
) -> Response {
    tracing::info!(snapshot = name, uid = client.uid, pid = client.pid, "the removal of a snapshot is ordered");
    snapshots(&admin, SnapshotOrder::Remove(name)).await
}

async fn look_at_restore<S: Source>(State(admin): State<Admin<S>>, Path(name): Path<String>) -> Response {
    snapshots(&admin, SnapshotOrder::Restore { name, dry_run: true, exact: false }).await
}

async fn look_at_exact_restore<S: Source>(State(admin): State<Admin<S>>, Path(name): Path<String>) -> Response {
    snapshots(&admin, SnapshotOrder::Restore { name, dry_run: true, exact: true }).await
}

async fn restore_snapshot<S: Source>(
    State(admin): State<Admin<S>>,
    Extension(client): Extension<Client>,
    Path(name): Path<String>,
) -> Response {
    tracing::info!(snapshot = name, uid = client.uid, pid = client.pid, "a restore is ordered");
    snapshots(&admin, SnapshotOrder::Restore { name, dry_run: false, exact: false }).await
}

async fn restore_snapshot_exactly<S: Source>(
    State(admin): State<Admin<S>>,
    Extension(client): Extension<Client>,
    Path(name): Path<String>,
) -> Response {
    tracing::info!(snapshot = name, uid = client.uid, pid = client.pid, "an exact restore is ordered");
    snapshots(&admin, SnapshotOrder::Restore { name, dry_run: false, exact: true }).await
}

async fn snapshots<S: Source>(admin: &Admin<S>, order: SnapshotOrder) -> Response {
    match admin.source.snapshots(order).await {
        Ok(answer) => fresh(Json(answer)),
        Err(SnapshotRefusal::Unknown(text)) => plain(StatusCode::NOT_FOUND, format!("{text}\n")),
        Err(SnapshotRefusal::Refused(text)) => plain(StatusCode::CONFLICT, format!("{text}\n")),
        Err(SnapshotRefusal::Failed(text)) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{text}\n")),
    }
}

/// Has a job run and answers with what that came to; a client that leaves meanwhile changes nothing.
async fn order<S: Source>(admin: &Admin<S>, client: Client, job: &str) -> Response {
    tracing::info!(job, uid = client.uid, pid = client.pid, "a job is ordered");
    match admin.source.jobs().run_now(job).await {
        Ok(report) => fresh(Json(report)),
        Err(error @ OrderError::Unknown(_)) => plain(StatusCode::NOT_FOUND, format!("{error}\n")),
        Err(error @ OrderError::Ending) => unavailable(format!("{error}\n")),
    }
}

fn fresh(answer: impl IntoResponse) -> Response {
    ([(CACHE_CONTROL, "no-store")], answer).into_response()
}

fn plain(status: StatusCode, text: String) -> Response {
    (status, [(CACHE_CONTROL, "no-store")], text).into_response()
}

fn unavailable(text: String) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(CACHE_CONTROL, "no-store"), (RETRY_AFTER, "5")], text).into_response()
}
