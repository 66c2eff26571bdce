use std::collections::BTreeMap;

use super::super::families::FAMILIES;
use super::*;

const STORE: StoreSample =
    StoreSample { used: Some(7), budget: Some(9), free: 5, reserve: 3, uploads: 0, refusal: Some("ReadOnly") };

/// Metrics with every family touched.
fn touched() -> Metrics {
    let metrics = Metrics::new().unwrap();
    metrics.set_build("1.2.3", "abc", "Local");
    metrics.observe_store(|| STORE);
    metrics.observe_damage(|| DamageSample { contents: 2, bytes: 30, disk_fault: true, found: [5, 6, 7, 8] });
    metrics.observe_index(|| IndexSample::Rebuilding { done: 4 });
    metrics.observe_dropped_lines(|| 11);
    metrics.request(Method::Get, Route::Blob, 206, Duration::from_millis(3));
    metrics.received(100);
    metrics.sent(200);
    metrics.auth_failure(AuthFailureReason::WrongPassword);
    metrics.tls_failure(TlsFailureReason::Http);
    metrics.set_certificate_expiry(CertificateUse::Tls, Timestamp::from_millis(5_000));
    metrics.config_reload(ReloadOutcome::Applied);
    metrics
}

#[test]
fn what_is_shown_is_what_the_table_says() {
    let text = touched().render().unwrap();
    let lines = |prefix: &str| -> BTreeMap<String, String> {
        text.lines()
            .filter_map(|line| line.strip_prefix(prefix)?.split_once(' '))
            .map(|(name, rest)| (name.to_owned(), rest.to_owned()))
            .collect()
    };
    let table = |value: fn(&Family) -> &'static str| -> BTreeMap<String, String> {
        FAMILIES.iter().map(|family| (family.name.to_owned(), value(family).to_owned())).collect()
    };
    assert_eq!(lines("# HELP "), table(|family| family.help));
    assert_eq!(lines("# TYPE "), table(|family| family.kind.as_str()));
    for family in FAMILIES {
        for label in family.labels {
            assert!(
                text.lines().any(|line| line.starts_with(family.name) && line.contains(&format!("{label}=\""))),
                "{} has no label {label}",
                family.name
            );
        }
    }
}

#[test]
fn values_arrive_where_they_belong() {
    let metrics = touched();
    let guard = metrics.in_flight();
    metrics.request(Method::Get, Route::Blob, 206, Duration::from_millis(3));
    metrics.request(Method::Put, Route::Manifest, 418, Duration::from_secs(3));
    metrics.config_reload(ReloadOutcome::Rejected);
    let text = metrics.render().unwrap();
    for line in [
        "d8_registry_http_requests_total{method=\"GET\",route=\"blob\",status=\"206\"} 2",
        "d8_registry_http_requests_total{method=\"PUT\",route=\"manifest\",status=\"4xx\"} 1",
        "d8_registry_http_request_duration_seconds_count{method=\"GET\",route=\"blob\"} 2",
        "d8_registry_http_requests_in_flight 1",
        "d8_registry_http_received_bytes_total 100",
        "d8_registry_http_sent_bytes_total 200",
        "d8_registry_auth_failures_total{reason=\"wrong_password\"} 1",
        "d8_registry_auth_failures_total{reason=\"denied\"} 0",
        "d8_registry_certificate_expiry_timestamp_seconds{use=\"tls\"} 5",
        "d8_registry_config_valid 0",
        "d8_registry_config_reloads_total{outcome=\"rejected\"} 1",
        "d8_registry_store_used_bytes 7",
        "d8_registry_store_budget_bytes 9",
        "d8_registry_store_writable 0",
        "d8_registry_damaged_contents 2",
        "d8_registry_damaged_bytes 30",
        "d8_registry_disk_fault 1",
        "d8_registry_damage_found_total{cause=\"hash\"} 5",
        "d8_registry_damage_found_total{cause=\"list\"} 8",
        "d8_registry_index_state{state=\"rebuilding\"} 1",
        "d8_registry_index_state{state=\"ready\"} 0",
        "d8_registry_log_lines_dropped_total 11",
        "d8_registry_build_info{mode=\"Local\",revision=\"abc\",version=\"1.2.3\"} 1",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is missing in:\n{text}");
    }
    drop(guard);
    assert!(metrics.render().unwrap().contains("d8_registry_http_requests_in_flight 0"));
}

#[test]
fn what_is_unknown_is_absent_and_not_zero() {
    let metrics = Metrics::new().unwrap();
    metrics.observe_store(|| StoreSample { used: None, budget: None, ..STORE });
    let text = metrics.render().unwrap();
    assert!(!text.contains("store_used_bytes"));
    assert!(!text.contains("store_budget_bytes"));
    assert!(text.contains("d8_registry_store_writable 0"));
}

#[test]
fn a_second_scrape_does_not_count_lost_lines_twice() {
    let metrics = touched();
    metrics.render().unwrap();
    assert!(metrics.render().unwrap().contains("d8_registry_log_lines_dropped_total 11\n"));
}
