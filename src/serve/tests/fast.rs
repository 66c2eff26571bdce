//! Connections of a listener that has something to answer ahead of its service.

use tempfile::TempDir;

use super::*;
use crate::api::fast_path;

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
/// The service of these tests says the path.
const PATH: &str = "/v2/a/b/manifests/v1";

#[tokio::test]
async fn memory_answers_between_what_the_service_answers() {
    let dir = TempDir::new().unwrap();
    let running = Running::start_with(LIMITS, None, Some(fast_path(&dir, MANIFEST).await));
    let mut stream = running.connect().await;
    for _ in 0..3 {
        assert_eq!(get(&mut stream, PATH).await, MANIFEST);
        assert_eq!(get(&mut stream, "/x").await, "/x");
        assert_eq!(get(&mut stream, "/v2/a/b/manifests/v2").await, "/v2/a/b/manifests/v2");
    }
    assert_eq!(running.server.drain(LIMITS.stall_timeout).await, Drained::default());
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test]
async fn over_tls_too() {
    let (dir, files) = (TempDir::new().unwrap(), TlsFiles::new());
    let running = Running::start_with(LIMITS, Some(files.load()), Some(fast_path(&dir, MANIFEST).await));
    let mut stream = connect_tls(&running, &files.client(None)).await;
    for _ in 0..3 {
        assert_eq!(get(&mut stream, PATH).await, MANIFEST);
        assert_eq!(get(&mut stream, "/x").await, "/x");
    }
}

#[tokio::test]
async fn without_acceleration_the_service_answers_all() {
    let dir = TempDir::new().unwrap();
    let limits = ConnectionLimits { accelerate: false, ..LIMITS };
    let running = Running::start_with(limits, None, Some(fast_path(&dir, MANIFEST).await));
    assert_eq!(get(&mut running.connect().await, PATH).await, PATH);
}

#[tokio::test]
async fn a_connection_that_falls_silent_after_such_an_answer_is_cut() {
    let dir = TempDir::new().unwrap();
    let limits = ConnectionLimits { header_timeout: Duration::from_secs(1), ..LIMITS };
    let running = Running::start_with(limits, None, Some(fast_path(&dir, MANIFEST).await));
    let mut stream = running.connect().await;
    assert_eq!(get(&mut stream, PATH).await, MANIFEST);
    assert_eq!(read_to_end(&mut stream).await, "");
}
