//! What an administrator sees: health, metrics, status, reload, shutdown, exit codes.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::sync::Arc;

use d8_registry::oci::Algorithm;
use d8_registry::telemetry::FAMILIES;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Authority, HASH_OF_SECRET, Image, Registry, Setup, uri};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_d8-registry")).args(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[tokio::test]
async fn the_admin_listener_tells_how_it_is() {
    let registry = Registry::start(&Setup::open());
    registry.client().push_image("a", "v1", &Image::of(1)).await;
    let admin = registry.admin();
    assert_eq!(admin.get("/healthz").await.status(), 200);
    assert_eq!(admin.get("/readyz").await.status(), 200);
    let status: Value = admin.get("/status").await.json().await.unwrap();
    assert_eq!((&status["mode"], status.get("warnings")), (&"Local".into(), None));
    let metrics = admin.get("/metrics").await.text().await.unwrap();
    for line in [
        "d8_registry_store_writable 1",
        "d8_registry_http_requests_total{method=\"PUT\",route=\"manifest\",status=\"201\"} 1",
        "d8_registry_http_requests_total{method=\"POST\",route=\"upload\",status=\"201\"} 2",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    registry.stop();
}

/// On a server that has all that families stand for, but what shows the progress of a job: none runs long here.
#[tokio::test]
async fn metrics_are_those_of_the_table_with_their_labels() {
    let folder = Arc::new(TempDir::new().unwrap());
    let mode_file = folder.path().join("mode.yaml");
    std::fs::write(&mode_file, "{version: 1, generation: 1, inForce: {mode: Local}}").unwrap();
    let (authority, at) = (Authority::new(), folder.path().display());
    let (certificate, key) = authority.issue(vec![uri("d8-registry:peer")]);
    for (name, text) in [("peer.crt", &*certificate), ("peer.key", &*key), ("ca.crt", &*authority.pem)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    std::fs::write(folder.path().join("masters"), "127.0.0.2:5001\n").unwrap();
    let digest = Algorithm::Sha256.digest(b"not there");
    let expected = format!("writtenAt: \"2026-11-29T15:30:00Z\"\nreleases: []\nimages: [\"{digest}\"]\n");
    std::fs::write(folder.path().join("expected.yaml"), expected).unwrap();
    let replicas = format!("peers: {at}/masters, certificate: {at}/peer.crt, key: {at}/peer.key, ca: {at}/ca.crt");
    let setup = Setup::with_tls()
        .config("store: { dir: $DIR, reserveBytes: 0, maxBytes: 1GiB, pins: $DIR/../pins.yaml, expected: $DIR/../expected.yaml }")
        .config(&format!("replicas: {{ {replicas} }}"))
        .config(&format!("modeFile: {}", mode_file.display()));
    let registry = Registry::start_in(folder, &setup);
    // Some families have samples only behind the first request.
    assert_eq!(registry.client().get("/v2/").await.status(), 200);
    for job in ["index", "unused-data", "expected"] {
        registry.until_metric(&format!("d8_registry_job_runs_total{{name=\"{job}\",result=\"ok\"}}"), 1.0).await;
    }
    let text = registry.admin().get("/metrics").await.text().await.unwrap();
    let lines = |prefix: &str| -> BTreeMap<&str, &str> {
        text.lines().filter_map(|line| line.strip_prefix(prefix)?.split_once(' ')).collect()
    };
    let known = || FAMILIES.iter().filter(|family| !family.name.starts_with("d8_registry_job_progress_"));
    assert_eq!(lines("# HELP "), known().map(|family| (family.name, family.help)).collect());
    assert_eq!(lines("# TYPE "), known().map(|family| (family.name, family.kind.as_str())).collect());
    for family in known() {
        for label in family.labels {
            let shows = |line: &str| line.starts_with(family.name) && line.contains(&format!("{label}=\""));
            assert!(text.lines().any(shows), "{} has no label {label}", family.name);
        }
    }
    registry.stop();
}

#[tokio::test]
async fn a_new_user_works_after_a_reload_and_a_bad_file_changes_nothing() {
    let registry = Registry::start(&Setup::with_users());
    registry.client_as("rw").push_image("a", "v1", &Image::of(1)).await;
    let config = std::fs::read_to_string(registry.config_file()).unwrap();
    let added = config.replace(
        "  users:\n",
        &format!("  users:\n    - {{ name: new, role: ro, passwordHash: '{HASH_OF_SECRET}' }}\n"),
    );
    std::fs::write(registry.config_file(), &added).unwrap();
    registry.signal(Signal::HUP);
    let client = registry.client_as("new");
    while client.get("/v2/a/manifests/v1").await.status() != 200 {}
    std::fs::write(registry.config_file(), "listen: [nonsense").unwrap();
    registry.signal(Signal::HUP);
    let admin = registry.admin();
    while !admin.get("/metrics").await.text().await.unwrap().contains("d8_registry_config_valid 0") {}
    assert_eq!(client.get("/v2/a/manifests/v1").await.status(), 200);
    std::fs::write(registry.config_file(), &config).unwrap();
    registry.signal(Signal::HUP);
    while client.get("/v2/a/manifests/v1").await.status() != 401 {}
    assert!(admin.get("/metrics").await.text().await.unwrap().contains("d8_registry_config_valid 1"));
    registry.stop();
}

#[tokio::test]
async fn a_download_under_way_ends_before_the_server_does() {
    let registry = Registry::start(&Setup::open());
    let client = registry.client();
    let content = crate::support::blob(1, 30_000_000);
    let digest = client.push_blob("a", &content).await;
    let mut response = client.get(&format!("/v2/a/blobs/{digest}")).await;
    let mut read = response.chunk().await.unwrap().unwrap().len();
    let stopping = tokio::task::spawn_blocking(move || registry.stop());
    while let Some(chunk) = response.chunk().await.unwrap() {
        read += chunk.len();
    }
    assert_eq!(read, content.len());
    stopping.await.unwrap();
}

/// Every subcommand, with the words that call it.
fn subcommands() -> Vec<(Vec<String>, clap::Command)> {
    let mut found = Vec::new();
    let mut open = vec![(Vec::new(), d8_registry::cli::description())];
    while let Some((words, command)) = open.pop() {
        for sub in command.get_subcommands() {
            open.push(([words.clone(), vec![sub.get_name().to_owned()]].concat(), sub.clone()));
        }
        found.push((words, command));
    }
    found
}

#[test]
fn help_has_an_example_for_everything() {
    d8_registry::cli::description().debug_assert();
    for (words, _) in subcommands() {
        let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = run(&arguments);
        assert_eq!(code(&help), 0, "{arguments:?}");
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(text.contains("Example"), "{arguments:?}: {text}");
    }
}

#[test]
fn wrong_usage_is_2_and_says_why() {
    for arguments in [
        &[][..],
        &["serve", "--frobnicate"],
        &["serve", "extra"],
        &["serve", "--listen", "nonsense"],
        &["serve", "--listen", ":5001"],
        &["serve", "--mode", "unmanaged"],
        &["serve", "--mode", "direct"],
        &["serve", "--mode", "direct", "--upstream", "registry.example"],
        &["serve", "--upstream", "https://registry.example"],
        &["index"],
        &["hash-password", "--cost", "3"],
        &["completions", "tcsh"],
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_checked_configuration_is_shown_without_secrets() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("config.yaml");
    let check = |text: &str, more: &[&str]| {
        std::fs::write(&file, text).unwrap();
        run(&[&["serve", "--check-config", "--config", file.to_str().unwrap()], more].concat())
    };
    let user = format!("auth: {{ users: [{{ name: rw, passwordHash: '{HASH_OF_SECRET}' }}] }}\n");
    let data = folder.path().join("data");
    let shown = check(&user, &["--data-dir", data.to_str().unwrap()]);
    assert_eq!(code(&shown), 0, "{}", String::from_utf8_lossy(&shown.stderr));
    let shown = String::from_utf8(shown.stdout).unwrap();
    let line = |key: &str| {
        let words: Vec<&str> =
            shown.lines().map(str::trim).find(|line| line.starts_with(key)).unwrap().split_whitespace().collect();
        words[1..].join(" ")
    };
    assert_eq!(line("store.dir"), format!("{} (flag)", data.display()));
    assert_eq!(line("auth.users[0].role"), "rw (file)");
    assert_eq!(line("auth.users[0].passwordHash"), "*** (file)");
    assert_eq!(line("store.reserveBytes"), "15% (default)");
    assert!(!shown.contains("$2y$"), "{shown}");
    assert!(!data.exists(), "a check changes nothing");

    std::fs::write(folder.path().join("not-pem"), "hello").unwrap();
    let not_pem = folder.path().join("not-pem").display().to_string();
    for (text, word) in [
        ("auth: { usersDir: /nowhere/users }\n".to_owned(), "/nowhere/users"),
        ("tls: { certFile: /nowhere/tls.crt, keyFile: /nowhere/tls.key }\n".to_owned(), "/nowhere/tls.crt"),
        (format!("{user}  \n").replace("] }", &format!("], token: {{ signingKeyFile: {not_pem} }} }}")), "not-pem"),
    ] {
        let refused = check(&text, &[]);
        assert_eq!(code(&refused), 2, "{text}");
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains(word), "{text}: {said}");
    }
}

#[test]
fn a_piped_password_is_hashed_for_the_configuration() {
    let hash = |password: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_d8-registry"))
            .args(["hash-password", "--cost", "4"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), password.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let hashed = String::from_utf8(hash("secret\n").stdout).unwrap();
    assert!(hashed.trim_end().parse::<d8_registry::config::PasswordHash>().is_ok(), "{hashed}");
    assert!(bcrypt::verify("secret", hashed.trim_end()).unwrap());
    for refused in ["", "\n", &"x".repeat(73)] {
        let output = hash(refused);
        assert_eq!(code(&output), 2, "{refused:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn exit_codes_are_a_contract() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    assert_eq!(code(&run(&["--version"])), 0);
    assert_eq!(code(&run(&["--help"])), 0);
    assert_eq!(code(&run(&["nonsense"])), 2);
    assert_eq!(code(&run(&["serve", "--config", "/nowhere/config.yaml"])), 2);
    assert_eq!(code(&run(&["serve", "--mode", "proxy"])), 2);
    let unknown =
        run(&["serve", "--check-config", "--config", &file("unknown.yaml", "mode: Local\nstore:\n  dri: x\n")]);
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(code(&unknown), 2);
    assert!(said.contains("store") && said.contains("dri") && said.contains('3'), "{said}");
    assert_eq!(code(&run(&["serve", "--check-config", "--config", &file("good.yaml", "mode: LOCAL\n")])), 0);
    assert_eq!(code(&run(&["serve", "--listen", "0.0.0.0:0"])), 2);
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    let strict = file(
        "strict.yaml",
        &format!("listen: 127.0.0.1:0\nadminListen: 127.0.0.1:0\nstore: {{ dir: {data}, mustExist: true }}\n"),
    );
    std::fs::create_dir(&data).unwrap();
    let refused = run(&["serve", "--config", &strict]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_ne!(code(&refused), 0);
    assert!(said.contains("init") && said.contains("mount"), "{said}");
    assert_eq!(code(&run(&["init", "--data-dir", &data])), 0);
    assert_eq!(code(&run(&["index", "rebuild", "--data-dir", &data])), 0);
    assert!(!run(&["completions", "bash"]).stdout.is_empty());
}

#[test]
fn an_unknown_layout_is_refused() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().to_str().unwrap();
    assert_eq!(code(&run(&["init", "--data-dir", data])), 0);
    std::fs::write(folder.path().join("VERSION"), "2.0\n").unwrap();
    let refused = run(&["serve", "--data-dir", data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    assert_ne!(code(&refused), 0);
}
