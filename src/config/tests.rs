//! The whole way from text to values, and what is said when it can't be gone.

use std::path::Path;

use super::*;

const HERE: Machine = Machine { cores: 2, terminal: false };

fn parse(text: &str) -> Result<Config, String> {
    parse_with(text, &Overrides::default())
}

fn parse_with(text: &str, overrides: &Overrides) -> Result<Config, String> {
    Config::parse(text, Some(Path::new("config.yaml")), overrides, HERE).map_err(|error| error.to_string())
}

const HASH: &str = "$2b$04$6LkUk9iQoONEdXK3HZE.SeQ2EpsbuPuk2oSSfsIHz4kN4cXieH.BG";

#[test]
fn every_key_of_the_file_is_listed_and_no_other() {
    let mut listed: Vec<String> = KEYS.iter().map(|info| info.key.to_owned()).collect();
    let mut read = raw::shape::keys();
    listed.sort();
    read.sort();
    assert_eq!(read, listed);
}

#[test]
fn the_defaults_are_an_open_server_on_loopback() {
    let config = parse("").unwrap();
    assert_eq!(config.mode, Mode::Local);
    assert!(config.auth.open && config.auth.anonymous == Anonymous::Push);
    assert_eq!(config.listen, [Address("127.0.0.1:5001".parse().unwrap())]);
    assert_eq!(config.admin_listen, [Address("127.0.0.1:5002".parse().unwrap())]);
    assert_eq!(config.store.dir, Path::new("./data"));
    assert_eq!(config.limits.worker_threads, 2);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn an_error_names_file_line_and_key() {
    for (text, line, word) in [
        ("mode: Local\nstore:\n  dri: x\n", "config.yaml:3:", "dri"),
        ("limits:\n  queueWait: 21s\n", "config.yaml:2:", "queueWait"),
        ("listen: nonsense\n", "config.yaml:1:", "listen"),
        ("mode: Local\nmode: Local\n", "config.yaml:2:", "mode"),
        ("log: { level: loud }\n", "config.yaml:1:", "level"),
        ("manifests: { missingReferences: maybe }\n", "config.yaml:1:", "missingReferences"),
    ] {
        let said = parse(text).unwrap_err();
        assert!(said.starts_with(line) && said.contains(word), "{text:?}: {said}");
    }
}

#[test]
fn no_error_shows_a_secret_or_its_neighbours() {
    let text = format!("auth:\n  users:\n    - {{ name: a, role: boss, passwordHash: '{HASH}' }}\n");
    assert!(!parse(&text).unwrap_err().contains("$2b$"));
    let text = "auth:\n  users:\n    - { name: a, role: ro, passwordHash: Tr0ub4dor }\n";
    assert!(!parse(text).unwrap_err().contains("Tr0ub4dor"));
    let good = format!("auth:\n  users:\n    - {{ name: a, role: ro, passwordHash: '{HASH}' }}\n");
    let config = parse(&good).unwrap();
    assert!(!format!("{config:?}").contains("$2b$"));
    assert!(config.settings().iter().all(|setting| !setting.value.contains("$2b$")));
}

#[test]
fn who_listens_to_the_world_needs_users_and_users_need_tls() {
    let users = format!("auth: {{ users: [{{ name: a, role: ro, passwordHash: '{HASH}' }}] }}\n");
    let world = "listen: 0.0.0.0:5001\n";
    assert!(parse(world).is_err());
    assert!(parse(&format!("{world}auth: {{ anonymous: pull }}\n")).is_ok());
    assert!(parse(&format!("{world}{users}")).is_err());
    assert!(parse(&format!("{world}{users}tls: {{ disabled: true }}\n")).is_ok());
    assert!(parse(&format!("{world}{users}tls: {{ certFile: c, keyFile: k }}\n")).is_ok());
    assert!(parse("tls: { certFile: c }\n").is_err());
    let config = parse(&format!("listen: ['127.0.0.1:1', '[::1]:1']\n{users}")).unwrap();
    assert!(!config.auth.open);
}

#[test]
fn flags_win_over_the_file() {
    let overrides = Overrides {
        mode: Some(Mode::Local),
        listen: vec![Address("127.0.0.1:9".parse().unwrap())],
        data_dir: Some("/elsewhere".into()),
        ..Overrides::default()
    };
    let config = parse_with("mode: LOCAL\nlisten: 127.0.0.1:8\nstore: { dir: /here }\n", &overrides).unwrap();
    assert_eq!(config.listen, overrides.listen);
    assert_eq!(config.store.dir, Path::new("/elsewhere"));
    assert!(parse("mode: proxy\n").unwrap_err().contains("Local"));
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_differs_freely() {
    let old = parse("").unwrap();
    let new = parse("listen: 127.0.0.1:9\nlog: { level: debug }\nlimits: { workerThreads: 1 }\n").unwrap();
    assert_eq!(Config::restart_keys_changed(&old, &new), ["listen", "limits.workerThreads"]);
}
