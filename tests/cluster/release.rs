//! The release that runs in the cluster: its images, and how they are pushed.

use std::sync::LazyLock;

use reqwest::{Certificate, Client};
use serde_json::json;
use testkit::Image;
use testkit::layer::{Tar, gzip};

/// The release.
pub(crate) const RELEASE: &str = "v1.70.1";
/// The image of a workload, which is a module's.
pub(crate) static IMAGE: LazyLock<Image> = LazyLock::new(|| Image::of(2));
/// The image of Deckhouse itself.
static DECKHOUSE: LazyLock<Image> = LazyLock::new(|| Image::of(1));

/// A layer of the workload's image.
pub(crate) fn a_layer() -> String {
    testkit::digest(&IMAGE.blobs()[1])
}

/// Everything of the release, as `d8 mirror push` puts it.
pub(crate) async fn push_release(host: &str, repository: &str, login: (&str, &str), ca: &str) {
    push_release_without(host, repository, login, ca, "").await;
}

/// The same without one blob. A server that does not take an image without it is asked again until it does.
pub(crate) async fn push_release_without(
    host: &str,
    repository: &str,
    (user, password): (&str, &str),
    ca: &str,
    left_out: &str,
) {
    let authorities = Certificate::from_pem_bundle(ca.as_bytes()).unwrap();
    let client = Client::builder().tls_certs_only(authorities).no_proxy().build().unwrap();
    let list = json!({"nodeManager": {"bashibleApiserver": IMAGE.digest()}}).to_string();
    let layer = gzip(
        &Tar::new()
            .directory("deckhouse/")
            .directory("deckhouse/candi/")
            .file("deckhouse/candi/images_digests.json", list)
            .finish(),
    );
    let install = Image::of_layers(b"{}".to_vec(), vec![layer.unwrap()], &json!({}));
    let digest = IMAGE.digest();
    let all: [(&str, &str, &Image); 3] =
        [("", RELEASE, &DECKHOUSE), ("", &digest, &IMAGE), ("/install", RELEASE, &install)];
    for (child, reference, image) in all {
        let base = format!("https://{host}/v2/{repository}{child}");
        for blob in image.blobs().iter().filter(|blob| testkit::digest(blob) != left_out) {
            let url = format!("{base}/blobs/uploads/?digest={}", testkit::digest(blob));
            let answer = loop {
                // The server may be starting.
                match client.post(&url).basic_auth(user, Some(password)).body(blob.clone()).send().await {
                    Ok(answer) => break answer,
                    Err(error) if error.is_connect() => tokio::task::yield_now().await,
                    Err(error) => panic!("{host}: {error}"),
                }
            };
            assert_eq!(answer.status(), 201, "{host}: {}", answer.text().await.unwrap());
        }
        let url = format!("{base}/manifests/{reference}");
        loop {
            let request = client.put(&url).basic_auth(user, Some(password)).header("content-type", image.media_type());
            let answer = request.body(image.manifest().to_vec()).send().await.unwrap();
            if left_out.is_empty() {
                assert_eq!(answer.status(), 201, "{host}: {}", answer.text().await.unwrap());
            }
            if answer.status() == 201 {
                break;
            }
        }
    }
}
