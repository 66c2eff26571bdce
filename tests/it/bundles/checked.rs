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
