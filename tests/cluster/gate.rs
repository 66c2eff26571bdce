//! A gate in front of the API server, for the controller alone: it lets some writes through and stops the next one, so that the
//! controller can be killed between any two.
//!
//! Only writes of outputs count: the Lease, Events and tries (`dryRun`) always pass, as do reads and watches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Request, Response, StatusCode, Uri};
use reqwest::{Certificate, Client};
use tokio::task::JoinSet;

/// A body of an object; the largest Secret has 1 MiB.
const BODY_MAX: usize = 4 << 20;

/// The gate; it closes for good with its handle.
pub(crate) struct Gate {
    state: Arc<Shared>,
    _serving: JoinSet<()>,
    /// Leads to the gate.
    pub(crate) kubeconfig: PathBuf,
}

struct Shared {
    client: Client,
    server: String,
    passing: Mutex<Passing>,
}

#[derive(Default)]
struct Passing {
    /// How many more writes may pass; `None`: all.
    left: Option<usize>,
    /// Whether those of `registry-state` count too: a controller writes it whenever it has found anything out.
    states: bool,
    /// Objects whose next write is stopped whatever else may pass.
    next_of: BTreeSet<String>,
    /// Whether one was stopped since the last [`Gate::stop_after`].
    has_stopped: bool,
    /// How often each object's write was stopped.
    counts: BTreeMap<String, usize>,
}

impl Gate {
    /// In front of the API server of this kubeconfig; all passes.
    pub(crate) async fn open(kubeconfig: &Path) -> Self {
        let text = std::fs::read_to_string(kubeconfig).unwrap();
        let between = |from: &str, to: &str| {
            let rest = text.split_once(from).unwrap().1;
            rest.split_once(to).unwrap().0.trim_matches([' ', '"', '}']).to_owned()
        };
        let (server, ca) = (between("server: ", ","), between("certificate-authority: ", "}"));
        let authority = Certificate::from_pem(&std::fs::read(&ca).unwrap()).unwrap();
        let client = Client::builder().tls_certs_only([authority]).no_proxy().build().unwrap();
        let state = Arc::new(Shared { client, server: server.clone(), passing: Mutex::default() });
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Router::new().fallback(pass).with_state(Arc::clone(&state));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, service).await.unwrap() });
        let file = kubeconfig.with_extension("gate");
        std::fs::write(&file, text.replace(&server, &format!("http://{address}"))).unwrap();
        Self { state, _serving: serving, kubeconfig: file }
    }

    /// So many writes pass from now on, and no more; those of `registry-state` count only with `states`, and else all pass.
    pub(crate) fn stop_after(&self, count: usize, states: bool) {
        let mut passing = self.state.passing.lock().unwrap();
        (passing.left, passing.states) = (Some(count), states);
        passing.has_stopped = false;
    }

    /// The next write of each of these objects is stopped, once.
    pub(crate) fn stop_next_of(&self, names: &[&str]) {
        self.state.passing.lock().unwrap().next_of = names.iter().map(|name| (*name).to_owned()).collect();
    }

    /// All pass.
    pub(crate) fn let_pass(&self) {
        let mut passing = self.state.passing.lock().unwrap();
        passing.left = None;
        passing.has_stopped = false;
    }

    /// Whether a write was stopped since the last [`Gate::stop_after`].
    pub(crate) fn has_stopped(&self) -> bool {
        self.state.passing.lock().unwrap().has_stopped
    }

    /// How often a write of each object was stopped.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        self.state.passing.lock().unwrap().counts.clone()
    }
}

async fn pass(State(state): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_MAX).await.unwrap_or_default();
    if let Some(name) = written(&head.method, &head.uri, &body) {
        let stops = {
            let mut guard = state.passing.lock().unwrap();
            let passing = &mut *guard;
            match &mut passing.left {
                None => false,
                Some(_) if passing.next_of.remove(&name) => {
                    passing.has_stopped = true;
                    *passing.counts.entry(name).or_default() += 1;
                    true
                }
                Some(_) if name == "registry-state" && !passing.states => false,
                Some(0) => {
                    passing.has_stopped = true;
                    *passing.counts.entry(name).or_default() += 1;
                    true
                }
                Some(left) => {
                    *left -= 1;
                    false
                }
            }
        };
        if stops {
            // Whoever asks is killed before it hears anything.
            return std::future::pending().await;
        }
    }
    let url = format!("{}{}", state.server, head.uri.path_and_query().map_or("/", |path| path.as_str()));
    let mut headers = head.headers;
    headers.remove("host");
    let sent = state.client.request(head.method, url).headers(headers).body(body).send().await;
    let Ok(answer) = sent else {
        return Response::builder().status(StatusCode::BAD_GATEWAY).body(Body::empty()).unwrap();
    };
    let mut response = Response::builder().status(answer.status());
    if let Some(kind) = answer.headers().get("content-type") {
        response = response.header("content-type", kind);
    }
    response.body(Body::from_stream(answer.bytes_stream())).unwrap()
}

/// The object that a request writes; `None` for one that writes none of those that count.
fn written(method: &Method, uri: &Uri, body: &[u8]) -> Option<String> {
    let path = uri.path();
    let is_try = uri.query().is_some_and(|query| query.contains("dryRun"));
    let counts = ["/secrets", "/configmaps", "/services"].iter().any(|kind| path.contains(kind));
    if is_try || !counts || !matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE) {
        return None;
    }
    if *method == Method::POST {
        let object: serde_json::Value = serde_json::from_slice(body).ok()?;
        return Some(object["metadata"]["name"].as_str().unwrap_or_default().to_owned());
    }
    path.rsplit('/').next().map(str::to_owned)
}
