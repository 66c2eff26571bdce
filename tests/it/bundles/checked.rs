//! `check --bundle`: what a registry lacks of a bundle, and which file has it.

use super::*;

#[tokio::test]
async fn what_is_missing_is_told_with_the_file_that_has_it() {
    let edition = Edition::of(&RELEASES);
    let bundle = written(&edition, Some(20_000));
    let registry = Registry::start(&Setup::open());
    let url = format!("http://{}/{ROOT}", registry.address());
    let check = async |code: i32| {
        let words = ["check", "--json", "--bundle", text(bundle.path()), "--registry", url.as_str()];
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let run = move || run(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let all = edition.tags().len();
    let said = check(1).await;
    assert_eq!(said["registries"][0]["errors"].as_array().unwrap().len(), all, "nothing is there");
    import(0, &[text(bundle.path())], &registry.data());
    let said = check(0).await;
    assert_eq!((&said["registries"][0]["items"], &said["registries"][0]["processed"]), (&all.into(), &all.into()));
    // One is another image there, and one is gone.
    let client = registry.client();
    client.push_image(&format!("{ROOT}/release-channel"), "alpha", &Image::of(9)).await;
    let path = format!("/v2/{ROOT}/modules/console/manifests/v1.2.3");
    let digest = header(&client.head(&path).await, "docker-content-digest");
    let path = format!("/v2/{ROOT}/modules/console/manifests/{digest}");
    assert_eq!(client.delete(&path).await.status(), 202);
    let said = check(1).await;
    let errors = said["registries"][0]["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 2, "{errors:?}");
    for (image, file) in [("release-channel:alpha", "platform.tar."), ("modules/console:v1.2.3", "module-console.tar.")]
    {
        let error = errors.iter().find(|error| error["image"].as_str().unwrap().ends_with(image)).unwrap();
        assert!(error["source"].as_str().unwrap().starts_with(file), "{error}");
    }
}

/// The same of a store's directory, beside its server and without one.
#[tokio::test]
async fn a_store_is_checked_by_its_directory() {
    let edition = Edition::of(&RELEASES);
    let bundle = written(&edition, None);
    let registry = Registry::start(&Setup::open());
    let (data, folder) = (registry.data(), registry.folder());
    let check = |depth: &str, code: i32| {
        let output = run(&["check", "--json", "--bundle", text(bundle.path()), "--data-dir", text(&data), depth]);
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        said["registries"][0]["errors"].as_array().unwrap().clone()
    };
    assert_eq!(check("--deep", 1).len(), edition.tags().len(), "nothing is there");
    import(0, &[text(bundle.path())], &data);
    assert_eq!(check("--deep", 0), Vec::<Value>::new());
    registry.stop();
    assert_eq!(check("--content", 0), Vec::<Value>::new());
    // A layer of one module goes, and one of another has other bytes.
    let layer = |repo: &str, content: &[u8]| {
        data.join(format!("repositories/{ROOT}/{repo}/_blobs/sha256")).join(hex(&testkit::digest(content)))
    };
    std::fs::remove_file(layer("modules/console/extra/scanner", &testkit::noise(602, 3000))).unwrap();
    let other = layer("packages/shop", &testkit::noise(800, 3000));
    std::fs::write(&other, testkit::noise(5, 3000)).unwrap();
    let errors = check("--deep", 1);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0]["image"], format!("{ROOT}/modules/console/extra/scanner:7"));
    assert!(errors[0]["error"].as_str().unwrap().ends_with("is not there"), "{errors:?}");
    let errors = check("--content", 1);
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[1]["error"].as_str().unwrap().contains("other bytes"), "{errors:?}");
    drop(folder);
}
