//! Configurations that can be used and are not meant so: they speak at the start and in `--check-config`.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::support::{HASH_OF_SECRET, Registry, Setup};

fn check_config(folder: &Path, text: &str) -> Output {
    let config = folder.join("check.yaml");
    std::fs::write(&config, format!("{text}\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    command.args(["serve", "--check-config", "--config"]).arg(&config).output().unwrap()
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// A certificate and its key, for some years.
fn certificate(folder: &Path, name: &str, names: &[&str], years: (i32, i32)) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
    params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let made = params.self_signed(&key).unwrap();
    write(folder, &[(&format!("{name}.crt"), &made.pem()), (&format!("{name}.key"), &key.serialize_pem())]);
}

#[tokio::test]
async fn what_is_probably_not_meant_speaks_at_the_start_and_when_checked() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    certificate(at, "old", &["localhost"], (2000, 2001));
    certificate(at, "early", &["localhost"], (2900, 2901));
    certificate(at, "nameless", &[], (2000, 2900));
    certificate(at, "good", &["localhost"], (2000, 2900));
    std::fs::create_dir(at.join("empty")).unwrap();
    let other = HASH_OF_SECRET;
    write(
        at,
        &[
            ("flat/name", "ro"),
            ("flat/password", "secret"),
            ("keys/ro", "secret"),
            ("unlike/one/name", "ro"),
            ("unlike/one/password", "other"),
            ("unlike/one/passwordHash", other),
            ("nameless/one/password", "secret"),
            ("nohash/one/name", "ro"),
            ("nohash/one/passwordHash", "{SHA}x"),
            ("norole/one/name", "ro"),
            ("norole/one/password", "x"),
            ("norole/one/role", "admin"),
            ("dear/one/name", "ro"),
            ("dear/one/passwordHash", &other.replacen("$04$", "$31$", 1)),
            ("dear/one/password", "secret"),
            ("slow/one/name", "ro"),
            ("slow/one/passwordHash", &other.replacen("$04$", "$15$", 1)),
        ],
    );
    let tls = |name: &str| format!("tls: {{ certFile: {0}/{name}.crt, keyFile: {0}/{name}.key }}", at.display());
    let users = |name: &str| format!("auth: {{ usersDir: {}/{name} }}", at.display());
    for (text, words) in [
        (tls("old"), &["old.crt", "has expired at 2001-01-01"][..]),
        (tls("early"), &["early.crt", "is not valid before 2900-01-01"]),
        (tls("nameless"), &["nameless.crt", "subjectAltName"]),
        (users("empty"), &["empty", "is empty", "a folder for each user"]),
        (users("flat"), &["flat", "a folder for each user", "Secret is mounted at"]),
        (users("keys"), &["keys", "files in it", "a folder for each user"]),
        (users("unlike"), &["unlike/one", "is not the one of the passwordHash beside it"]),
        (users("nameless"), &["nameless/one", "file name is missing"]),
        (users("nohash"), &["nohash/one", "bcrypt"]),
        (users("norole"), &["norole/one", "ro, rw, mirror-puller, mirror-pusher"]),
        (users("dear"), &["dear/one", "cost 31"]),
        (users("slow"), &["slow/one", "cost 15"]),
        (
            "mode: Proxy\nupstream: { imagesRepo: deckhouse/ee, scheme: HTTP }".to_owned(),
            &["imagesRepo", "the host deckhouse"],
        ),
        (
            format!("mode: Proxy\nupstream: {{ imagesRepo: r.example.com/a, caFile: {}/old.crt }}", at.display()),
            &["r.example.com", "has expired"],
        ),
    ] {
        let checked = check_config(at, &text);
        assert_eq!(checked.status.code(), Some(0), "{text}");
        let said = String::from_utf8(checked.stderr).unwrap();
        let line = said.lines().find(|line| words.iter().all(|word| line.contains(word)));
        assert!(line.is_some_and(|line| line.starts_with("d8-registry: warning: ")), "{text}: {said}");
        assert!(!said.contains("6LkUk9iQ"), "{said}");
        let log = Registry::start(&Setup::open().config(&text)).stop();
        let warned = log.iter().filter(|line| line["level"] == "WARN").any(|line| {
            let line = line["message"].as_str().unwrap_or_default();
            words.iter().all(|word| line.contains(word))
        });
        assert!(warned, "{text}: {log:#?}");
    }
    let quiet = check_config(at, &tls("good"));
    assert_eq!((quiet.status.code(), quiet.stderr.as_slice()), (Some(0), &b""[..]));
}

#[tokio::test]
async fn a_default_start_warns_of_nothing() {
    for setup in [Setup::open(), Setup::with_users(), Setup::with_tls()] {
        let log = Registry::start(&setup).stop();
        let warned: Vec<_> = log.iter().filter(|line| line["level"] != "INFO").collect();
        assert!(warned.is_empty(), "{warned:#?}");
    }
}

#[test]
fn an_encrypted_key_is_told_from_none() {
    let folder = TempDir::new().unwrap();
    certificate(folder.path(), "good", &["localhost"], (2000, 2900));
    let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    write(folder.path(), &[("locked.key", locked)]);
    let at = folder.path().display();
    let checked = check_config(folder.path(), &format!("tls: {{ certFile: {at}/good.crt, keyFile: {at}/locked.key }}"));
    let said = String::from_utf8(checked.stderr).unwrap();
    assert!(checked.status.code() == Some(2) && said.contains("locked.key") && said.contains("passphrase"), "{said}");
}

#[tokio::test]
async fn a_folder_that_is_none_is_refused_when_checked() {
    let folder = TempDir::new().unwrap();
    write(folder.path(), &[("file", "x")]);
    let checked = check_config(folder.path(), &format!("store: {{ dir: {}/file }}", folder.path().display()));
    let said = String::from_utf8(checked.stderr).unwrap();
    assert!(checked.status.code() == Some(2) && said.contains("store.dir") && said.contains("is no folder"), "{said}");
}

/// What was said once is not said again while it lasts, and what is new is.
#[tokio::test]
async fn a_reload_says_what_is_new() {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("users")).unwrap();
    let auth = format!("auth: {{ usersDir: {} }}", folder.path().join("users").display());
    let registry = Registry::start(&Setup::open().config(&auth));
    let applied = "d8_registry_config_reloads_total{outcome=\"applied\"}";
    registry.reconfigure(&Setup::open().config(&auth).config("log: { access: all }"));
    // The changed file may be seen before the signal: two reloads are as good as one.
    crate::support::within(async { while registry.metric(applied).await < 1.0 {} }).await;
    write(
        folder.path(),
        &[("users/one/name", "ro"), ("users/one/password", "a"), ("users/one/passwordHash", HASH_OF_SECRET)],
    );
    crate::support::within(async {
        while registry.client_as("ro").get("/v2/").await.status() != 200 {
            registry.signal(rustix::process::Signal::HUP);
        }
    })
    .await;
    let log = registry.stop();
    let count =
        |word: &str| log.iter().filter(|line| line["level"] == "WARN" && line.to_string().contains(word)).count();
    assert_eq!((count("is empty"), count("beside it")), (1, 1), "{log:#?}");
}
