//! Connections of a listener with an early answer.

use super::*;

const EARLY: &str = "from memory";
/// The service of these tests answers the path.
const PATH: &str = "/v2/a/b/manifests/v1";

fn canned() -> Canned {
    Canned::new(PATH, EARLY)
}

#[tokio::test]
async fn early_answers_come_between_those_of_the_service() {
    let running = Running::start_with(LIMITS, None, Some(canned()));
    let mut stream = running.connect().await;
    for _ in 0..3 {
        assert_eq!(get(&mut stream, PATH).await, EARLY);
        assert_eq!(get(&mut stream, "/x").await, "/x");
        assert_eq!(get(&mut stream, "/v2/a/b/manifests/v2").await, "/v2/a/b/manifests/v2");
    }
    assert_eq!(running.server.drain(LIMITS.stall_timeout).await, Drained::default());
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test]
async fn over_tls_too() {
    let files = TlsFiles::new();
    let running = Running::start_with(LIMITS, Some(files.load()), Some(canned()));
    let mut stream = connect_tls(&running, &files.client(None)).await;
    for _ in 0..3 {
        assert_eq!(get(&mut stream, PATH).await, EARLY);
        assert_eq!(get(&mut stream, "/x").await, "/x");
    }
}

#[tokio::test]
async fn without_acceleration_the_service_answers_all() {
    let limits = ConnectionLimits { accelerate: false, ..LIMITS };
    let running = Running::start_with(limits, None, Some(canned()));
    assert_eq!(get(&mut running.connect().await, PATH).await, PATH);
}

#[tokio::test]
async fn a_connection_that_falls_silent_after_such_an_answer_is_cut() {
    let limits = ConnectionLimits { header_timeout: Duration::from_secs(1), ..LIMITS };
    let running = Running::start_with(limits, None, Some(canned()));
    let mut stream = running.connect().await;
    assert_eq!(get(&mut stream, PATH).await, EARLY);
    assert_eq!(read_to_end(&mut stream).await, "");
}
