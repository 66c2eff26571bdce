use super::*;
use crate::telemetry::families::{LOG_DROPPED, STORE_FREE, TLS_FAILURES};

#[test]
fn values_arrive_where_they_belong() {
    let metrics = Metrics::new().unwrap();
    metrics.received(100);
    metrics.sent(200);
    metrics.auth_failure(AuthFailureReason::WrongPassword);
    metrics.tls_failure(TlsFailureReason::Http);
    metrics.request(Method::Get, Route::Blob, 206, Duration::from_millis(3));
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
        "d8_registry_tls_failures_total{reason=\"http\"} 1",
        "d8_registry_config_reloads_total{outcome=\"rejected\"} 1",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is missing in:\n{text}");
    }
    drop(guard);
    assert!(metrics.render().unwrap().contains("d8_registry_http_requests_in_flight 0"));
}

#[test]
fn samples_stand_among_what_was_counted_in_the_order_of_names() {
    let mut samples = Samples::default();
    samples.add(&STORE_FREE, &[], 1 << 53);
    samples.add(&LOG_DROPPED, &[], 11);
    let text = Metrics::new().unwrap().render_with(samples).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(names.is_sorted() && names.contains(&"d8_registry_log_lines_dropped_total counter"), "{names:?}");
    for line in ["d8_registry_store_free_bytes 9007199254740992", "d8_registry_log_lines_dropped_total 11"] {
        assert!(text.lines().any(|shown| shown == line), "{line} is missing in:\n{text}");
    }
    assert_eq!(text.matches(TLS_FAILURES.help).count(), 1);
}
