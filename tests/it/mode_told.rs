//! What a server says of its modes between the moment at which it takes a mode file and the one at which its requests see that. The
//! point is compiled in by the feature `failpoints`; `make torture` runs this.

use crate::support::{Image, REPO, Switched, Upstream, answered_by, mode, mode_file, path};

#[tokio::test]
async fn a_mode_file_is_reported_when_requests_see_it_and_not_when_it_is_taken() {
    let (upstream, image) = (Upstream::start(), Image::of(1));
    upstream.put_image(REPO, "v1", &image);
    let server = Switched::start_and_pause_at("modes::before_told", &mode_file(1, &mode("Local", None), None, &[]));
    let before = server.status().await;
    server.write(&mode_file(2, &mode("Direct", Some(&upstream)), None, &[]));
    server.registry.paused().await;
    // It stands there for good, so whatever is asked now is asked in between.
    assert!(server.registry.logged().iter().any(|line| line["generation"] == 2), "the file is taken");
    let status = server.status().await;
    let answer = server.client("ro").get(&path("manifests/v1")).await;
    assert_eq!((answer.status().as_u16(), &*answered_by(&answer)), (404, "Local"));
    assert_eq!((&status["mode"], &status["modeFile"]), (&"Local".into(), &before["modeFile"]));
    assert_eq!(status["modeFile"]["generation"], 1);
    server.registry.kill();
}
