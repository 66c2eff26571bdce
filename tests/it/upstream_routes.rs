//! Mirrors of a registry that settings of the cluster name: from Secret `registry-config` to the request that a mirror answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use d8_registry::switch::{ModeFile, Plane, ServerMode, inputs};
use tempfile::TempDir;

use crate::support::{Image, Setup, Switched, Upstream, header, mode, mode_file, path, within};

/// The text of the mode file that the controller writes for a Secret.
fn mode_file_of(generation: u64, secret: &[(&str, String)]) -> String {
    let data: BTreeMap<String, Vec<u8>> =
        secret.iter().map(|(key, value)| ((*key).to_owned(), value.clone().into_bytes())).collect();
    let (reading, _) = inputs::read_secret(&data);
    let in_force = ServerMode::of(&reading.settings.unwrap().params);
    let plane = Plane { in_force, coming: None, previous: Vec::new() };
    ModeFile { generation, plane }.render().expose().to_owned()
}

fn routes(of: &str, mirror: &Upstream) -> String {
    format!(
        "upstreamRoutes: [{{ imagesRepo: '{of}/deckhouse', mirrors: [{{ imagesRepo: '{}/copy', scheme: HTTP }}] }}]",
        mirror.address()
    )
}

#[tokio::test]
async fn what_registry_config_names_is_asked_of_the_mirrors_of_its_registry() {
    let folder = Arc::new(TempDir::new().unwrap());
    let (mut upstream, mirror, other) = (Upstream::start(), Upstream::start(), Upstream::start());
    let images = [Image::of(1), Image::of(2), Image::of(3)];
    mirror.put_image("copy/ee", "v1", &images[0]);
    mirror.put_image("copy/fe", "v1", &images[1]);
    other.put_image("copy/fe", "v1", &images[2]);
    let host = upstream.address();
    upstream.down();
    let secret = |mode: &str, edition: &str| -> [(&str, String); 5] {
        [
            ("mode", mode.to_owned()),
            ("imagesRepo", format!("{host}/deckhouse/{edition}")),
            ("scheme", "HTTP".to_owned()),
            ("username", "u".to_owned()),
            ("password", "p".to_owned()),
        ]
    };
    let digest = async |server: &Switched| {
        let answer = server.registry.client_as("ro").get(&path("manifests/v1")).await;
        assert_eq!(answer.status(), 200);
        header(&answer, "docker-content-digest")
    };
    let server = Switched::start_in(
        Arc::clone(&folder),
        Some(&mode_file_of(1, &secret("Direct", "ee"))),
        &routes(&host, &mirror),
    );
    assert_eq!(digest(&server).await, images[0].digest());
    server.switch(&mode_file_of(2, &secret("Proxy", "fe"))).await;
    assert_eq!(digest(&server).await, images[1].digest());
    server.registry.stop();

    // Another mirror, and the file that was in force before: it is reached as the configuration says now.
    std::fs::remove_file(folder.path().join("mode.yaml")).unwrap();
    let server = Switched::start_in(Arc::clone(&folder), None, &routes(&host, &other));
    assert_eq!(digest(&server).await, images[2].digest());
    server.registry.stop();
}

#[tokio::test]
async fn other_mirrors_are_asked_from_now_on_while_the_mode_file_is_refused_too() {
    let folder = Arc::new(TempDir::new().unwrap());
    let (mut upstream, mirror, other) = (Upstream::start(), Upstream::start(), Upstream::start());
    let images = [Image::of(1), Image::of(2)];
    mirror.put_image("copy", "v1", &images[0]);
    other.put_image("copy", "v1", &images[1]);
    let host = upstream.address();
    upstream.down();
    let proxy = format!("{{mode: Proxy, upstream: {{imagesRepo: '{host}/deckhouse', scheme: HTTP}}}}");
    let good = mode_file(7, &proxy, None, &[]);
    let server = Switched::start_in(Arc::clone(&folder), Some(&good), &routes(&host, &mirror));
    let digest = async || {
        let answer = server.registry.client_as("ro").get(&path("manifests/v1")).await;
        assert_eq!(answer.status(), 200);
        header(&answer, "docker-content-digest")
    };
    assert_eq!(digest().await, images[0].digest());
    let hash = server.status().await["modeFile"]["hash"].clone();
    for (refused, why, (mirror, image)) in [
        (good.replace("Proxy", "Prox"), "mode", (&other, &images[1])),
        (mode_file(6, &mode("Local", None), None, &[]), "lower than 7", (&mirror, &images[0])),
    ] {
        server.write(&refused);
        let is_refused =
            |status: &serde_json::Value| status["modeFile"]["error"].as_str().is_some_and(|error| error.contains(why));
        server.until(is_refused).await;
        let keys = format!("modeFile: {}/mode.yaml\nproxy: {{ tagTtl: 0s }}", folder.path().display());
        server.registry.reconfigure(&Setup::with_users().config(&keys).config(&routes(&host, mirror)));
        within(async { while digest().await != image.digest() {} }).await;
        let status = server.status().await;
        assert!(is_refused(&status), "{status}");
        assert_eq!(status["modeFile"]["hash"], hash);
    }
    server.registry.stop();
}
