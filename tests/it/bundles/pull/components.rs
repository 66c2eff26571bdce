//! Modules, and the plugins that are for them.

use super::*;

#[tokio::test]
async fn modules_are_chosen_by_name_and_constraint_and_channels_follow() {
    let mut edition = Edition::of(&RELEASES[..1]);
    let upstream = holding(&edition);
    // Older and newer versions than the one that all channels lead to.
    let console = edition.layouts.get_mut("modules/console").unwrap();
    let image = console.tagged("v1.2.3").unwrap().to_owned();
    for version in ["v1.0.0", "v1.0.1", "v1.3.0", "v2.0.0", "bobV1"] {
        upstream.tag(&format!("{REPO}/modules/console"), version, &image);
    }
    let release = edition.layouts["modules/console/release"].tagged("v1.2.3").unwrap().to_owned();
    upstream.tag(&format!("{REPO}/modules/console/release"), "v1.0.0", &release);
    let rest = ["--no-platform", "--no-installer", "--no-security", "--no-packages", "--no-plugins"];
    for (wanted, versions, channels) in [
        ("console", &["v1.2.3"][..], 5),
        ("console@1.0.0", &["v1.0.1", "v1.2.3", "v1.3.0"], 5),
        ("console@~1.0.0", &["v1.0.1", "v1.2.3"], 5),
        ("console@>=1.0.0 <=1.3.0", &["v1.0.0", "v1.0.1", "v1.2.3", "v1.3.0"], 5),
        ("console@=v1.0.0", &["v1.0.0"], 6),
        ("console@=v1.0.0+stable", &["v1.0.0"], 1),
        ("console@=bobV1", &["bobV1"], 0),
    ] {
        let dir = TempDir::new().unwrap();
        let words = [&rest[..], &["--include-module", wanted]].concat();
        pull(0, &url(&upstream.address()), dir.path(), &words).await;
        let tags = tags(dir.path());
        let of = |path: &str| {
            let below = format!("{path}:");
            tags.keys().filter_map(|name| name.strip_prefix(&below).map(str::to_owned)).collect::<Vec<_>>()
        };
        let found: Vec<_> = of("modules/console").into_iter().filter(|tag| tag.len() < 20).collect();
        assert_eq!(found, versions, "{wanted}");
        let found = of("modules/console/release").into_iter().filter(|tag| !tag.starts_with('v'));
        assert_eq!(found.count(), channels, "{wanted} {tags:?}");
        // What its version names came too.
        assert_eq!(of("modules/console/extra/scanner"), ["7"], "{wanted}");
        assert!(of("modules/console").iter().any(|tag| tag.ends_with(".att")), "{wanted}");
        assert!(tags.keys().all(|name| name.starts_with("modules/console")), "{tags:?}");
    }
    let dir = TempDir::new().unwrap();
    for absent in ["nothing", "console@=v9.9.9"] {
        let words = [&rest[..], &["--include-module", absent]].concat();
        pull(1, &url(&upstream.address()), dir.path(), &words).await;
    }
    // The modules of a ModuleSource are those below its repository.
    let file = dir.path().join("source.yaml");
    let repo = format!("{}/{REPO}/modules", upstream.address());
    std::fs::write(&file, format!("kind: ModuleSource\nspec:\n  registry:\n    repo: {repo}\n    scheme: HTTP\n"))
        .unwrap();
    let out = dir.path().join("out");
    let words = ["bundle", "pull", "--module-source", text(&file), "--exclude-module", "console", "--out", text(&out)];
    let words = words.map(str::to_owned);
    let output = tokio::task::spawn_blocking(move || run(&words.iter().map(String::as_str).collect::<Vec<_>>()));
    let output = output.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let module = "modules/prompp-with-a-name-that-is-long";
    let expected = edition.tags().into_iter().filter(|(name, _)| name.starts_with(module));
    assert_eq!(tags(&out), expected.collect::<BTreeMap<_, _>>());
}

/// A plugin comes with a module that its contract names, and with one that is named; and not else.
#[tokio::test]
async fn plugins_come_with_the_modules_of_their_contracts() {
    let edition = Edition::of(&RELEASES[..1]);
    let upstream = holding(&edition);
    // A newer one for a module that the source does not have, and one whose contract nobody can read.
    let plugins = "deckhouse/deckhouse-cli/plugins";
    for (tag, contract) in
        [("v0.4.0", r#"{"requirements":{"modules":{"mandatory":[{"name":"other"}]}}}"#), ("v0.5.0", "{")]
    {
        let contract = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, contract);
        let image =
            Image::of_layers(b"{}".to_vec(), vec![b"x".to_vec()], &json!({ "annotations": { "contract": contract } }));
        upstream.put_image(&format!("{plugins}/stronghold"), tag, &image);
    }
    let rest = ["--no-platform", "--no-installer", "--no-security", "--no-packages"];
    let old = edition.layouts["deckhouse-cli/plugins/stronghold"].tagged("v0.3.1").unwrap().to_owned();
    for (words, expected) in [
        // Of what the plugin is for, its newest contract that can be read speaks.
        (&["--include-module", "console"][..], &[][..]),
        (&["--include-module", "console", "--include-plugin", "stronghold@0.3.0"], &["v0.4.0"]),
        (&["--include-module", "console", "--include-plugin", "stronghold@~0.3.0"], &["v0.3.1"]),
        (&["--include-module", "console", "--include-plugin", "stronghold@=v0.3.1"], &["v0.3.1"]),
    ] {
        let dir = TempDir::new().unwrap();
        pull(0, &url(&upstream.address()), dir.path(), &[&rest[..], words].concat()).await;
        let tags = tags(dir.path());
        let found: Vec<_> =
            tags.keys().filter_map(|name| name.strip_prefix("deckhouse-cli/plugins/stronghold:")).collect();
        assert_eq!(found, expected, "{words:?}");
    }
    for tag in ["v0.4.0", "v0.5.0"] {
        upstream.untag(&format!("{plugins}/stronghold"), tag);
    }
    for (words, comes) in [
        (&["--include-module", "console"][..], true),
        (&["--exclude-module", "console"], false),
        (&["--include-module", "console", "--no-plugins"], false),
    ] {
        let dir = TempDir::new().unwrap();
        pull(0, &url(&upstream.address()), dir.path(), &[&rest[..], words].concat()).await;
        let found = tags(dir.path()).remove("deckhouse-cli/plugins/stronghold:v0.3.1");
        assert_eq!(found, comes.then(|| old.clone()), "{words:?}");
    }
    // A licence may not be for the catalog: what is not named is left out, and that is said.
    upstream.rule("GET", &format!("/v2/{plugins}/tags/list"), |answer| {
        answer.fail(403, "not yours");
    });
    let dir = TempDir::new().unwrap();
    let said =
        pull(0, &url(&upstream.address()), dir.path(), &[&rest[..], &["--include-module", "console"]].concat()).await;
    assert!(said["notes"].to_string().contains("refused"), "{said}");
    upstream.heal();
    let dir = TempDir::new().unwrap();
    for plugin in ["nothing", "stronghold@>=9.0.0", "stronghold@=v9.9.9"] {
        let words = [&rest[..], &["--no-modules", "--include-plugin", plugin]].concat();
        pull(1, &url(&upstream.address()), dir.path(), &words).await;
    }
}
