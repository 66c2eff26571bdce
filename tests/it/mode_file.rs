//! The mode file: when it is taken, what stays when it is wrong, and what a server in mode Unmanaged does.

use std::sync::Arc;

use tempfile::TempDir;

use crate::support::{
    ALIAS, Image, REPO, Setup, Switched, Upstream, answered_by, blob, coming, digest, header, mode, mode_file,
    mode_with_login, path, refusal, within,
};

#[tokio::test]
async fn the_mode_file_is_in_force_from_the_first_request_and_changes_without_a_restart() {
    let (upstream, image) = (Upstream::start(), Image::of(1));
    upstream.put_image(REPO, "v1", &image);
    let server = Switched::start(&mode_file(3, &mode("Direct", Some(&upstream)), None, &[]));
    let answer = server.client("ro").get(&path("manifests/v1")).await;
    assert_eq!((answer.status().as_u16(), &*answered_by(&answer)), (200, "Direct"));
    let status = server.status().await;
    assert_eq!(status["mode"], "Direct");
    assert_eq!(status["modeFile"]["generation"], 3);
    assert!(status["modeFile"]["error"].is_null());
    assert_eq!(server.registry.metric("d8_registry_mode_file_valid").await, 1.0);

    server.switch(&mode_file(4, &mode("Local", None), None, &[])).await;
    let answer = server.client("ro").get(&path("manifests/v1")).await;
    assert_eq!((answer.status().as_u16(), &*answered_by(&answer)), (404, "Local"));
    server.registry.stop();
}

#[tokio::test]
async fn a_wrong_an_older_or_a_lost_file_leaves_the_last_good_one_in_force_over_restarts_too() {
    let good = mode_file(7, &mode("Local", None), None, &[]);
    let server = Switched::start(&good);
    let hash = server.status().await["modeFile"]["hash"].clone();
    let older = mode_file(6, &mode("Unmanaged", None), None, &[]);
    let broken = good.replace("Local", "Locale");
    let mut last = (server, None);
    for (file, why) in [(Some(&older), "lower than 7"), (Some(&broken), "mode"), (None, "gone")] {
        let (server, _) = &last;
        match file {
            Some(file) => server.write(file),
            None => server.remove(),
        }
        let is_so =
            |status: &serde_json::Value| status["modeFile"]["error"].as_str().is_some_and(|error| error.contains(why));
        let status = server.until(is_so).await;
        assert_eq!((&status["modeFile"]["hash"], &status["mode"]), (&hash, &"Local".into()), "{why}");
        assert_eq!(server.registry.metric("d8_registry_mode_file_valid").await, 0.0);
        let folder = server.registry.folder();
        last.0.registry.kill();
        let again = Switched::start_in(folder, None, "");
        let status = again.status().await;
        assert!(is_so(&status), "{why}: {status}");
        assert_eq!((&status["modeFile"]["hash"], &status["mode"]), (&hash, &"Local".into()), "{why}");
        last = (again, Some(why));
    }
    let (server, _) = last;
    server.switch(&mode_file(8, &mode("Local", None), None, &[])).await;
    assert!(server.status().await["modeFile"]["error"].is_null());
    let kept = server.registry.data().join("mode.yaml");
    let rights = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(kept).unwrap().permissions());
    assert_eq!(rights & 0o777, 0o600);
    server.registry.stop();
}

#[test]
fn that_nothing_can_be_pushed_is_said_at_the_start_by_the_mode_of_the_file() {
    let upstream = Upstream::start();
    let (local, direct) = (mode("Local", None), mode("Direct", Some(&upstream)));
    let keys = format!("mode: Proxy\nupstream: {{ imagesRepo: '{}/{REPO}', scheme: HTTP }}\n", upstream.address());
    for (file, keys, is_said) in [
        (mode_file(1, &local, None, &[]), keys.as_str(), true),
        (mode_file(1, &direct, Some(&coming(&local, "filling")), &[]), "mode: Local\n", true),
        (mode_file(1, &direct, None, &[]), "mode: Local\n", false),
    ] {
        let folder = Arc::new(TempDir::new().unwrap());
        let store = format!("{keys}store: {{ dir: {}/data, reserveBytes: 1000000Gi }}", folder.path().display());
        let server = Switched::start_in(folder, Some(&file), &store);
        let log = server.registry.stop();
        let said =
            log.iter().any(|line| line["message"].as_str().is_some_and(|text| text.starts_with("pushes are refused")));
        assert_eq!(said, is_said, "{file}");
    }
}

#[tokio::test]
async fn the_keys_count_until_there_is_a_file_and_not_any_more_then() {
    let (upstream, image) = (Upstream::start(), Image::of(1));
    upstream.put_image(REPO, "v1", &image);
    let keys = format!("mode: Direct\nupstream: {{ imagesRepo: '{}/{REPO}', scheme: HTTP }}", upstream.address());
    let server = Switched::start_in(Arc::new(TempDir::new().unwrap()), Some("version: 9"), &keys);
    let status = server.status().await;
    assert_eq!((&status["mode"], &status["modeFile"]["generation"]), (&"Direct".into(), &0.into()));
    assert!(status["modeFile"]["error"].as_str().unwrap().contains("version"), "{status}");
    server.remove();
    server.until(|status| status["modeFile"].is_null()).await;
    let answer = server.client("ro").get(&path("manifests/v1")).await;
    assert_eq!(answered_by(&answer), "Direct");
    server.switch(&mode_file(1, &mode("Local", None), None, &[])).await;
    let answer = server.client("ro").get(&path("manifests/v1")).await;
    assert_eq!((answer.status().as_u16(), &*answered_by(&answer)), (404, "Local"));
    // With the file there, a key that could not be obeyed is none.
    let folder = server.registry.folder();
    server.registry.stop();
    let wrong = "mode: Proxy\nupstream: { imagesRepo: 'a.example/b', licenseFile: /nowhere }";
    let server = Switched::start_in(folder, None, wrong);
    assert_eq!(server.status().await["mode"], "Local");
    server.registry.stop();
}

#[tokio::test]
async fn a_mode_file_is_taken_although_the_rest_of_the_configuration_is_refused() {
    let server = Switched::start(&mode_file(1, &mode("Local", None), None, &[]));
    std::fs::write(server.registry.config_file(), "limits: { pulls: none }").unwrap();
    server.switch(&mode_file(2, &mode("Local", None), Some(&coming(&mode("Local", None), "ready")), &[])).await;
    let status = server.until(|status| status["config"]["valid"] == false).await;
    assert_eq!(status["coming"]["phase"], "ready");
    server.registry.stop();
}

#[tokio::test]
async fn unmanaged_serves_nothing_and_keeps_what_is_stored() {
    let image = Image::of(1);
    let server = Switched::start(&mode_file(1, &mode("Local", None), None, &[]));
    server.client("rw").push_image(ALIAS, "v1", &image).await;
    server.switch(&mode_file(2, &mode("Unmanaged", None), None, &[])).await;
    let (rw, admin) = (server.client("rw"), server.registry.admin());
    let paths = ["/".to_owned(), "/v2/".to_owned(), "/auth/token".to_owned(), "/v2/_catalog".to_owned()];
    for path in paths.into_iter().chain([path("manifests/v1"), path("tags/list")]) {
        for client in [&rw, &server.registry.client()] {
            let refused = refusal(client.get(&path).await).await;
            assert_eq!((refused.status, &*refused.code), (503, "UNAVAILABLE"), "{path}");
            assert!(refused.message.contains("unmanaged"), "{}", refused.message);
        }
    }
    let pushed = rw.put_image(ALIAS, "v2", &image).await;
    assert_eq!((pushed.status().as_u16(), &*header(&pushed, "retry-after")), (503, "60"));
    assert_eq!(admin.get("/healthz").await.status(), 200);
    let unready = admin.get("/readyz").await;
    assert_eq!(unready.status(), 503);
    assert!(unready.text().await.unwrap().contains("Unmanaged"));
    let status = server.status().await;
    assert_eq!(status["mode"], "Unmanaged");
    assert!(status["store"]["usedBytes"].as_u64().unwrap() > 1000, "{status}");
    assert!(status["upstream"].is_null());

    server.switch(&mode_file(3, &mode("Local", None), None, &[])).await;
    assert_eq!(admin.get("/readyz").await.status(), 200);
    assert_eq!(server.client("ro").get(&path("manifests/v1")).await.bytes().await.unwrap(), image.manifest());
    server.registry.stop();
}

/// The rest of a transfer, of which some came before.
async fn rest(mut answer: reqwest::Response, mut content: Vec<u8>) -> Vec<u8> {
    while let Some(piece) = answer.chunk().await.unwrap() {
        content.extend_from_slice(&piece);
    }
    content
}

#[tokio::test]
async fn a_transfer_that_is_under_way_when_its_mode_goes_ends_whole() {
    // More than sockets and buffers hold: most of it is still to be sent when the mode goes.
    let large = blob(1, 32 << 20);
    let asked = path(&format!("blobs/{}", digest(&large)));
    let upstream = Upstream::start();
    upstream.put_blob(REPO, &large);
    for name in ["Local", "Direct", "Proxy"] {
        let in_force = mode(name, Some(&upstream).filter(|_| name != "Local"));
        let server = Switched::start(&mode_file(1, &in_force, None, &[]));
        if name == "Local" {
            server.client("rw").push_blob(ALIAS, &large).await;
        }
        let mut answer = server.client("ro").get(&asked).await;
        assert_eq!(answer.status(), 200, "{name}");
        let first = answer.chunk().await.unwrap().unwrap().to_vec();
        assert!(first.len() < large.len() / 4);
        server.switch(&mode_file(2, &mode("Unmanaged", None), None, &[])).await;
        assert_eq!(server.client("ro").get(&asked).await.status(), 503, "{name}: a new request is not answered");
        assert!(rest(answer, first).await == large, "{name}: the transfer was cut");
        server.registry.stop();
    }
}

#[tokio::test]
async fn out_of_unmanaged_the_coming_mode_is_filled_and_then_answers() {
    let image = Image::of(1);
    let (unmanaged, local) = (mode("Unmanaged", None), mode("Local", None));
    let server = Switched::start(&mode_file(1, &unmanaged, Some(&coming(&local, "filling")), &[]));
    server.client("rw").push_image(ALIAS, "v1", &image).await;
    let by_digest = path(&format!("manifests/{}", image.digest()));
    assert_eq!(refusal(server.client("ro").get(&by_digest).await).await.status, 503);
    assert_eq!(server.registry.admin().get("/readyz").await.status(), 200);
    server.switch(&mode_file(2, &unmanaged, Some(&coming(&local, "ready")), &[])).await;
    let answer = server.client("ro").get(&by_digest).await;
    assert_eq!((answer.status().as_u16(), &*answered_by(&answer)), (200, "Local"));
    assert_eq!(refusal(server.client("ro").get(&path("manifests/v1")).await).await.status, 503);
    server.registry.stop();
}

#[tokio::test]
async fn each_upstream_s_pair_signs_in_as_long_as_its_mode_is_in_the_file() {
    let (one, two, image) = (Upstream::start(), Upstream::start(), Image::of(1));
    for (upstream, password) in [(&one, "first"), (&two, "second")] {
        upstream.put_image(REPO, "v1", &image);
        upstream.demand_basic("puller", password);
    }
    let first = mode_with_login("Direct", &one, "puller", "first");
    let second = mode_with_login("Proxy", &two, "puller", "second");
    let server = Switched::start(&mode_file(1, &first, Some(&coming(&second, "filling")), &[]));
    let status = async |password: &str| {
        server.registry.client_with("puller", password).get(&path("manifests/v1")).await.status().as_u16()
    };
    assert_eq!((status("first").await, status("second").await, status("third").await), (200, 200, 401));
    server.switch(&mode_file(2, &second, None, &[&first])).await;
    assert_eq!((status("first").await, status("second").await), (200, 200));
    // The pair before counts for a while, and none does at once when no mode has one.
    server.switch(&mode_file(3, &second, None, &[])).await;
    assert_eq!((status("first").await, status("second").await), (200, 200));
    server.switch(&mode_file(4, &mode("Local", None), None, &[])).await;
    assert_eq!((status("first").await, status("second").await), (401, 401));
    server.registry.stop();
}

#[tokio::test]
async fn every_upstream_of_the_file_is_probed() {
    let upstreams = [Upstream::start(), Upstream::start(), Upstream::start()];
    for upstream in &upstreams {
        upstream.put_image(REPO, "v1", &Image::of(1));
    }
    let [in_force, next, before] = [0, 1, 2].map(|at| mode("Proxy", Some(&upstreams[at])));
    let file = mode_file(1, &in_force, Some(&coming(&next, "filling")), &[&before]);
    let server = Switched::start(&file);
    within(async {
        for upstream in &upstreams {
            while upstream.seen().is_empty() {
                server.status().await;
            }
        }
    })
    .await;
    let status = server.until(|status| status["upstream"]["outcome"] == "ok").await;
    assert_eq!(status["upstream"]["host"], upstreams[0].address());
    server.registry.stop();
}

#[tokio::test]
async fn anonymous_clients_are_not_told_the_mode() {
    let server = Switched::start(&mode_file(1, &mode("Local", None), None, &[]));
    let anonymous = server.registry.client().get("/v2/").await;
    assert_eq!(anonymous.status(), 401);
    assert!(anonymous.headers().get("d8-registry-mode").is_none());
    let wrong = server.registry.client_with("ro", "wrong").get("/v2/").await;
    assert_eq!(wrong.status(), 401);
    assert!(wrong.headers().get("d8-registry-mode").is_none());
    assert_eq!(answered_by(&server.client("ro").get("/v2/").await), "Local");
    server.registry.stop();
    let open = crate::support::Registry::start(&Setup::open());
    assert!(open.client().get("/v2/").await.headers().get("d8-registry-mode").is_none());
    open.stop();
}
