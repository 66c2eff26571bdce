//! Alerts and dashboard against a real server: every metric, label and label value that a query names is one that it
//! exports, and every alert has its section in the runbook.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use d8_registry::telemetry;

use crate::support::{ALIAS, Authority, Image, REPO, Registry, Setup, Upstream, uri};

#[derive(Deserialize)]
struct RuleFile {
    spec: Groups,
}

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Alert>,
}

#[derive(Deserialize)]
struct Alert {
    alert: String,
    expr: String,
    annotations: BTreeMap<String, String>,
}

fn file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

fn alerts() -> Vec<Alert> {
    let file: RuleFile = serde_saphyr::from_str(&file("deploy/monitoring/rules.yaml")).unwrap();
    file.spec.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// Every text of a key below.
fn texts(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                match inner {
                    Value::String(text) if name == key => found.push(text.clone()),
                    _ => texts(inner, key, found),
                }
            }
        }
        Value::Array(entries) => entries.iter().for_each(|entry| texts(entry, key, found)),
        _ => {}
    }
}

/// Queries with where they stand.
fn queries() -> Vec<(String, String)> {
    let mut queries: Vec<_> = alerts().into_iter().map(|rule| (rule.alert, rule.expr)).collect();
    let dashboard: Value = serde_json::from_str(&file("deploy/monitoring/dashboard.json")).unwrap();
    for key in ["expr", "query"] {
        let mut found = Vec::new();
        texts(&dashboard, key, &mut found);
        queries
            .extend(found.into_iter().filter(|text| text != "prometheus").map(|text| ("dashboard".to_owned(), text)));
    }
    assert!(queries.len() > 40, "{}", queries.len());
    queries
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Label, operator and value.
type Matcher = (String, String, String);

/// A metric with the label matchers behind it, and the labels that results are sorted by.
#[derive(Default)]
struct Named {
    metrics: Vec<(String, Vec<Matcher>)>,
    grouped: BTreeSet<String>,
}

/// What a query names: metrics by their prefix, `{label="value"}` behind them, and the words in `by (...)` and `on (...)`.
fn named(query: &str) -> Named {
    let mut named = Named::default();
    let words: Vec<(usize, &str)> =
        query.split(|c| !is_name(c)).filter(|word| !word.is_empty()).map(|word| (offset(query, word), word)).collect();
    for (at, word) in words {
        let behind = query[at + word.len()..].trim_start();
        if ["by", "on"].contains(&word) && behind.starts_with('(') {
            let list = behind[1..].split(')').next().unwrap();
            named.grouped.extend(list.split(',').map(|label| label.trim().to_owned()));
        }
        if word.starts_with("d8_registry_") || word.starts_with("process_") {
            let matchers = behind.strip_prefix('{').map(|rest| rest.split('}').next().unwrap()).unwrap_or_default();
            named.metrics.push((word.to_owned(), matchers.split(", ").filter_map(matcher).collect()));
        }
    }
    named
}

fn offset(whole: &str, part: &str) -> usize {
    part.as_ptr() as usize - whole.as_ptr() as usize
}

fn matcher(text: &str) -> Option<Matcher> {
    let at = text.find(['=', '!'])?;
    let (label, rest) = text.split_at(at);
    let (operator, value) = rest.split_at(rest.find('"')?);
    Some((label.to_owned(), operator.to_owned(), value.trim_matches('"').to_owned()))
}

/// What is exported: labels and their values by metric.
fn exported(text: &str) -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let mut metrics: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (sample, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let metric = metrics.entry(name.to_owned()).or_default();
        for pair in labels.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty()) {
            let (label, value) = pair.split_once("=\"").unwrap();
            metric.entry(label.to_owned()).or_default().insert(value.trim_end_matches('"').to_owned());
        }
    }
    metrics
}

/// A server of mode Proxy that has passed something on, stored it, and refused somebody.
async fn metrics_of_a_server() -> String {
    let upstream = Upstream::start();
    let image = Image::of(1);
    upstream.put_image(REPO, "v1", &image);
    // It is not taken, so the keys count.
    let folder = Arc::new(TempDir::new().unwrap());
    std::fs::write(folder.path().join("mode.yaml"), "version: 9").unwrap();
    let setup = Setup::with_tls().config(&format!(
        "mode: Proxy\nmodeFile: {}/mode.yaml\nupstream: {{ imagesRepo: '{}/{REPO}', scheme: HTTP }}\n\
         store: {{ dir: '$DIR', reserveBytes: 0, maxBytes: 1GiB, pins: /none, expected: {}/list }}",
        folder.path().display(),
        upstream.address(),
        folder.path().display()
    ));
    let list = format!("writtenAt: \"2026-11-29T15:30:00Z\"\nimages: [\"{}\"]\n", image.digest());
    std::fs::write(folder.path().join("list"), list).unwrap();
    let registry = Registry::start_in(folder, &setup);
    registry.until_metric("d8_registry_expected_images{mode=\"Proxy\"}", 1.0).await;
    let client = registry.client();
    let answer = client.get(&format!("/v2/{ALIAS}/manifests/v1")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(client.get("/v2/elsewhere/manifests/v1").await.status(), 404);
    // Counted when the last byte of the answer is through.
    registry
        .until_metric("d8_registry_http_requests_total{method=\"GET\",route=\"manifest\",status=\"404\"}", 1.0)
        .await;
    registry.admin().get("/metrics").await.text().await.unwrap()
}

/// A server of mode Local that has another master beside it.
async fn metrics_of_a_master() -> String {
    let folder = Arc::new(TempDir::new().unwrap());
    let (authority, at) = (Authority::new(), folder.path().display());
    let (certificate, key) = authority.issue(vec![uri("d8-registry:peer")]);
    for (name, text) in [("peer.crt", &*certificate), ("peer.key", &*key), ("ca.crt", &*authority.pem)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    std::fs::write(folder.path().join("masters"), "127.0.0.2:5001\n").unwrap();
    let replicas = format!("peers: {at}/masters, certificate: {at}/peer.crt, key: {at}/peer.key, ca: {at}/ca.crt");
    let setup = Setup::with_tls().config(&format!("replicas: {{ {replicas} }}"));
    let registry = Registry::start_in(Arc::clone(&folder), &setup);
    registry.until_metric("d8_registry_peers", 1.0).await;
    registry.admin().get("/metrics").await.text().await.unwrap()
}

#[tokio::test]
async fn every_query_names_what_the_server_exports() {
    let exported = exported(&(metrics_of_a_server().await + &metrics_of_a_master().await));
    // Prometheus and the PodMonitor put these to every sample; the histogram's `le` is the sample's own.
    let added = ["job", "instance", "node"];
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for (place, query) in queries().into_iter().filter(|(_, query)| Program::of(query) == Program::Server) {
        let named = named(&query);
        let mut labels: BTreeSet<&str> = added.into();
        for (metric, matchers) in &named.metrics {
            used.insert(metric.clone());
            let Some(real) = exported.get(metric) else {
                wrong.push(format!("{place}: {metric} is not exported"));
                continue;
            };
            labels.extend(real.keys().map(String::as_str));
            for (label, operator, value) in matchers.iter().filter(|(label, ..)| !added.contains(&label.as_str())) {
                match real.get(label) {
                    None => wrong.push(format!("{place}: {metric} has no label {label}")),
                    // The statuses that there are depend on what was asked for, and one server has one mode.
                    Some(_) if ["status", "mode"].contains(&label.as_str()) => {}
                    Some(real) => wrong.extend(
                        value
                            .split('|')
                            .filter(|value| operator.starts_with('=') && !real.contains(*value))
                            .map(|value| format!("{place}: {metric} never has {label}={value}")),
                    ),
                }
            }
        }
        wrong.extend(
            named
                .grouped
                .iter()
                .filter(|label| !labels.contains(label.as_str()))
                .map(|label| format!("{place}: nothing in it has a label {label}")),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(used.len() > 25, "{used:?}");
}

/// What exports metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Server,
    Controller,
    NodeProxy,
    NodeAgent,
}

impl Program {
    /// By the names of what a query asks for, or of one metric.
    fn of(query: &str) -> Self {
        if query.contains("d8_registry_switch_") {
            Self::Controller
        } else if query.contains("d8_registry_node_proxy_") {
            Self::NodeProxy
        } else if query.contains("d8_registry_node_agent_") {
            Self::NodeAgent
        } else {
            Self::Server
        }
    }

    const fn job(self) -> &'static str {
        match self {
            Self::Server => "d8-registry",
            Self::Controller => "d8-registry-controller",
            Self::NodeProxy => "d8-registry-node-proxy",
            Self::NodeAgent => "d8-registry-node-agent",
        }
    }
}

#[test]
fn every_query_of_the_programs_beside_the_server_names_what_they_export() {
    let families = telemetry::SWITCH_FAMILIES.iter().chain(telemetry::NODE_PROXY_FAMILIES);
    let families = families.chain(telemetry::NODE_AGENT_FAMILIES);
    let families: BTreeMap<_, _> = families.map(|family| (family.name, family.labels)).collect();
    // Prometheus and the PodMonitor put these to every sample.
    let added = ["job", "instance", "node"];
    let mut wrong = Vec::new();
    for (place, query) in queries().into_iter().filter(|(_, query)| Program::of(query) != Program::Server) {
        let named = named(&query);
        let mut labels: BTreeSet<&str> = added.into();
        for (metric, matchers) in &named.metrics {
            let Some(own) = families.get(metric.as_str()) else {
                wrong.push(format!("{place}: {metric} is not exported"));
                continue;
            };
            labels.extend(*own);
            let asked = matchers.iter().map(|(label, ..)| label.as_str());
            let unknown = asked.filter(|label| !added.contains(label) && !own.contains(label));
            wrong.extend(unknown.map(|label| format!("{place}: {metric} has no label {label}")));
        }
        let unknown = named.grouped.iter().filter(|label| !labels.contains(label.as_str()));
        wrong.extend(unknown.map(|label| format!("{place}: nothing in it has a label {label}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_query_asks_one_program_and_names_its_job() {
    let mut of_the_controller = 0;
    for (place, query) in queries() {
        let program = Program::of(&query);
        of_the_controller += usize::from(program == Program::Controller);
        for (metric, matchers) in named(&query).metrics {
            let is_of_job = Program::of(&metric) == program;
            let names_job = matchers.iter().any(|(label, _, value)| label == "job" && value == program.job());
            assert!(is_of_job && names_job, "{place}: {metric} is not asked of the job {}", program.job());
        }
    }
    assert!(of_the_controller >= 7, "{of_the_controller}");
}

/// The values that a running server shows only some of.
#[test]
fn modes_that_alerts_name_exist() {
    for (place, query) in queries() {
        for (metric, matchers) in named(&query).metrics {
            for (_, _, value) in matchers.iter().filter(|(label, ..)| label == "mode") {
                assert!(["Direct", "Proxy", "Local"].contains(&value.as_str()), "{place}: {metric} {value}");
            }
        }
    }
}

#[test]
fn every_alert_has_a_section_in_the_runbook_and_a_test_that_it_fires() {
    let runbook = file("docs/RUNBOOK.md");
    let tests = ["alerts", "alerts-slow", "alerts-switch"]
        .map(|name| file(&format!("deploy/monitoring/{name}.test.yaml")))
        .concat();
    let alerts = alerts();
    assert!(alerts.len() >= 10, "{}", alerts.len());
    for Alert { alert, annotations, .. } in alerts {
        assert!(runbook.lines().any(|line| line == format!("### {alert}")), "no section {alert}");
        let anchor = format!("docs/RUNBOOK.md#{}", alert.to_lowercase());
        assert_eq!(annotations["runbook_url"], anchor);
        let fires = tests.split("alertname:").filter(|part| part.trim_start().starts_with(&format!("{alert}\n")));
        assert!(fires.clone().any(|part| part.contains("exp_labels")), "{alert} fires in no test");
    }
}
