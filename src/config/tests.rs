//! The file as an administrator writes it: what is refused with what words, who wins, and what a reload may change.

use std::path::Path;
use std::time::Duration;

use super::*;

mod credentials;
mod sentences;
mod upstream;

const MACHINE: Machine = Machine { cores: 2, terminal: false };
const HASH: &str = "$2y$10$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Some(Path::new("c.yaml")), &Overrides::default(), MACHINE)
}

fn accepted(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[track_caller]
fn refused(text: &str) -> KeyError {
    match parse(text) {
        Err(ConfigError::Key(error)) => error,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("accepted:\n{text}"),
    }
}

/// Refused with this beginning, file and position and key included.
#[track_caller]
fn refused_with(text: &str, beginning: &str) {
    let error = refused(text).to_string();
    assert!(error.starts_with(beginning), "{error:?} does not begin with {beginning:?}");
}

fn users(list: &str) -> String {
    format!("auth:\n  users:\n{list}")
}

fn user(name: &str) -> String {
    format!("  - name: {name}\n    passwordHash: {HASH}\n")
}

#[test]
fn nothing_is_the_default_of_everything() {
    let config = accepted("");
    assert_eq!(config, accepted("# only a comment\n"));
    assert_eq!(config, accepted("---\n"));
    assert_eq!(config, accepted("limits:\nauth:\n  token:\n"));
    assert_eq!(config.mode, Mode::Local);
    assert_eq!(config.listen, ["127.0.0.1:5001".parse().unwrap()]);
    assert_eq!(config.admin_listen, ["127.0.0.1:5002".parse().unwrap()]);
    assert_eq!(config.tls, Tls::Off { forced: false });
    assert_eq!(config.store.dir, Path::new("./data"));
    assert_eq!(config.store.reserve, Reserve::Percent(15));
    assert_eq!(config.manifests.max_bytes, 4 << 20);
    assert_eq!(config.limits.worker_threads, 2);
    assert_eq!(config.limits.queue_wait, Duration::from_secs(20));
    assert_eq!(config.log.format, LogFormat::Json);
    assert!(config.is_open());
    assert!(config.settings().iter().all(|setting| setting.origin == Origin::Default));
}

#[test]
fn defaults_follow_the_machine() {
    let on = |cores, terminal| Config::parse("", None, &Overrides::default(), Machine { cores, terminal }).unwrap();
    assert_eq!(on(1, true).limits.worker_threads, 1);
    assert_eq!(on(1, true).limits.password_checks, 1);
    assert_eq!(on(64, true).limits.worker_threads, 4);
    assert_eq!(on(1, true).log.format, LogFormat::Text);
    assert_eq!(on(0, false).limits.worker_threads, 1);
}

#[test]
fn keys_are_read_and_shown_as_the_file_has_them() {
    let config = accepted(&format!(
        "mode: PROXY
repository: team/mirror
listen: ['0.0.0.0:5001', '[::]:5001']
adminListen: 127.0.0.1:0
probeListen: '[::]:5004'
tls:
  certFile: /t/tls.crt
  keyFile: /t/tls.key
  clientCAFile: /t/ca.crt
  trustedProxyNames: [front-proxy, nginx]
  disabled: false
store: {{dir: /d, maxBytes: 20Gi, reserveBytes: 5GiB, mustExist: true}}
upstream:
  imagesRepo: registry.example.com:5000/deckhouse/ee
  scheme: http
  username: puller
  password: secret
  mirrors:
  - {{imagesRepo: mirror.example.com, license: L1}}
  trustedHosts: [10.0.0.1, storage.example.com:9000]
proxy: {{ttl: 168h, tagTtl: 1m, negativeTtl: 0, staleNegative: 2h, maxStale: 30d, staleOn: [unreachable, 5xx, 429]}}
auth:
  anonymous: pull
  users:
  - {{name: rw, passwordHash: {HASH}}}
  - {{name: bot, passwordHash: '{HASH}', role: mirror-pusher}}
  - {{name: RW, passwordHash: {HASH}}}
  usersDir: /u
  upstreamUser: true
  token: {{enabled: false, ttl: 5m, signingKeyFile: /k, signingCertFile: /c}}
manifests: {{missingReferences: allow, maxBytes: 8MiB}}
gc: {{schedule: '30 3 * * sun', grace: 12h, untaggedAfter: 30d}}
scrub: {{interval: 14d}}
limits:
  workerThreads: 3
  connections: 10
  pulls: 11
  uploads: 12
  listings: 13
  passwordChecks: 14
  queueWait: 0s
  uploadIdle: 1h30m
  writeBytesPerSecond: 50MiB
  stallTimeout: 30s
  requestHeaderTimeout: 100s
  tlsHandshakeTimeout: 5s
  drainDeadline: 1m
  headerBytes: 16KiB
  acceleration: off
log: {{format: text, level: debug, access: 'off'}}
"
    ));
    let of_the_file = config.settings().into_iter().filter(|setting| setting.origin == Origin::File);
    let values: Vec<String> = of_the_file.map(|setting| setting.value).collect();
    #[rustfmt::skip]
    assert_eq!(
        values,
        [
            "Proxy", "team/mirror", "0.0.0.0:5001, [::]:5001", "127.0.0.1:0", "[::]:5004", "/t/tls.crt", "/t/tls.key",
            "/t/ca.crt", "front-proxy, nginx", "false", "/d", "20GiB", "5GiB", "true",
            "registry.example.com:5000/deckhouse/ee", "HTTP", "puller", "***", "mirror.example.com", "***",
            "10.0.0.1, storage.example.com:9000", "7d", "1m", "0s", "2h", "30d", "unreachable, 5xx, 429",
            "pull", "rw", "***", "rw", "bot", "***", "mirror-pusher", "RW", "***", "ro", "/u", "true", "false", "5m", "/k",
            "/c", "allow", "8MiB", "30 3 * * sun", "12h", "30d", "14d", "3", "10", "11", "12", "13", "14", "0s", "1h30m", "50MiB", "30s", "1m40s", "5s", "1m",
            "16KiB", "off", "text", "debug", "off",
        ]
    );
    assert_eq!(config.auth.users[1].password_hash.expose(), HASH);
    assert_eq!(
        config.watched_paths(Some(Path::new("c.yaml"))),
        ["c.yaml", "/t/tls.crt", "/t/tls.key", "/t/ca.crt", "/u", "/k", "/c"].map(PathBuf::from)
    );
}

/// Words that the schema has for `key`, and those that some type of key takes.
fn words_for(key: &str) -> Vec<String> {
    let section = |at: serde_json::Value, name: &str| at["properties"][name].clone();
    let found = key.split('.').fold(schema(), section);
    let listed = [&found["enum"], &found["items"]["enum"]].map(|words| words.as_array().cloned().unwrap_or_default());
    let listed = listed.concat().into_iter().filter_map(|word| word.as_str().map(str::to_owned));
    listed.chain(["true", "3", "64MiB", "1h", "/file", "[one, two]", "'@daily'"].map(str::to_owned)).collect()
}

/// What an administrator writes is what is in force: each key by itself, with its bounds and the words that it takes. Keys
/// of lists and of `upstream` are in the test above. A new key needs no line here.
#[test]
fn every_key_that_is_written_is_in_force() {
    let sections = |info: &KeyInfo| info.key.contains('.') && !info.key.contains("[]");
    for KeyInfo { key, bounds, .. } in keys().into_iter().filter(sections) {
        if key.starts_with("upstream.") {
            continue;
        }
        let bounds = bounds.into_iter().flat_map(|(least, most)| [least, most]);
        let shown = |config: &Config| config.settings().into_iter().find(|setting| setting.key == key).unwrap();
        let before = shown(&accepted("")).value;
        let takes = |word: String| {
            let texts = [word.clone(), format!("[{word}]")];
            let files = texts.map(|text| key.rsplit('.').fold(text, |inner, name| format!("{{{name}: {inner}}}")));
            files.iter().any(|file| match parse(file) {
                Ok(config) => shown(&config).origin == Origin::File && shown(&config).value != before,
                // Of a pair of keys neither can stand alone.
                Err(error) => error.to_string().contains(&format!("{key}: needs ")),
            })
        };
        assert!(bounds.chain(words_for(&key)).any(takes), "{key} has no effect whatever is written");
    }
}

#[test]
fn every_key_is_shown_by_check_config() {
    let config = accepted(&format!(
        "{}repositories: [{{name: a}}]\nupstream: {{imagesRepo: a, mirrors: [{{imagesRepo: b}}]}}\n\
         upstreamRoutes: [{{imagesRepo: a, mirrors: [{{imagesRepo: c}}]}}]\nstore: {{pins: /p}}\n\
         retention: {{rules: [{{repositories: a, keep: {{newest: 1}}}}]}}\n",
        users(&user("a"))
    ));
    let shown: Vec<String> = config.settings().into_iter().map(|setting| setting.key.replace("[0]", "[]")).collect();
    let known: Vec<String> = keys().into_iter().map(|info| info.key).collect();
    assert_eq!(shown.len(), known.len());
    // A list of plain values is shown in one line.
    for (shown, known) in shown.iter().zip(&known) {
        assert!(shown == known || *known == format!("{shown}[]"), "{shown} in the place of {known}");
    }
    assert!(known.len() > 70, "{known:?}");
}

#[test]
fn every_key_is_described() {
    for KeyInfo { key, about, bounds, .. } in keys() {
        assert!(about.ends_with('.') && about.len() > 10, "{key}: {about}");
        let words = bounds.map_or_else(String::new, |(least, most)| least + &most);
        assert!(!words.contains('-'), "{key}: {words}");
    }
}

#[test]
fn an_unknown_key_is_named_with_path_and_line() {
    refused_with("mode: Local\nstoer: {}\n", "c.yaml:2:1: stoer: unknown key \"stoer\"; known here: mode, modeFile,");
    refused_with(
        "limits:\n  pulls: 5\n  pull: 5\n",
        "c.yaml:3:3: limits.pull: unknown key \"pull\"; known here: workerThreads",
    );
    refused_with(
        &users(&format!("{}    password: hunter2\n", user("a"))),
        "c.yaml:5:5: auth.users[0].password: unknown key \"password\"; known here: name, passwordHash, role",
    );
}

#[test]
fn a_key_that_is_there_twice_is_named() {
    refused_with("store:\n  dir: a\n  dir: b\n", "c.yaml:3:3: store: the key \"dir\" is there twice");
    refused_with("mode: Local\nmode: Local\n", "c.yaml:2:1: the key \"mode\" is there twice");
}

#[test]
fn wrong_types_are_named_with_path_and_line() {
    refused_with("limits:\n  pulls: many\n", "c.yaml:2:10: limits.pulls: \"many\" is no whole number; write one");
    refused_with("limits:\n  pulls: -1\n", "c.yaml:2:10: limits.pulls: ");
    refused_with("limits:\n  pulls: 99999999999\n", "c.yaml:2:10: limits.pulls: 99999999999 is more than");
    refused_with("limits: 5\n", "c.yaml:1:9: limits: expected keys");
    refused_with("proxy:\n  staleOn: 5xx\n", "c.yaml:2:12: proxy.staleOn: expected a list");
    refused_with("limits:\n  pulls: [1]\n", "c.yaml:2:10: limits.pulls: expected one value");
    refused_with("listen: 5001\n", "c.yaml:1:");
    refused_with("limits: [1]\n", "c.yaml:1:9: limits: ");
    refused_with("[1, 2]\n", "c.yaml:1:1: ");
    refused_with("just text\n", "c.yaml:1:1: ");
    refused_with("tls:\n  disabled: yes\n", "c.yaml:2:13: tls.disabled: expected true or false");
    refused_with("limits:\n  queueWait: 20\n", "c.yaml:2:14: limits.queueWait: \"20\" is no span of time");
    refused_with("store:\n  maxBytes: 20 GB\n", "c.yaml:2:13: store.maxBytes: \"20 GB\" is no size");
    refused_with("listen: [127.0.0.1:1, 'x']\n", "c.yaml:1:23: listen[1]: \"x\" is no IP address");
    refused_with("listen: []\n", "c.yaml:1:9: listen: the list is empty");
    refused_with("listen: {a: b}\n", "c.yaml:1:9: listen: expected an IP address");
    refused_with("mode: Unmanaged\n", "c.yaml:1:7: mode: not one of the modes Direct, Proxy, Local");
    refused_with("log:\n  level: loud\n", "c.yaml:2:10: log.level: not one of error, warn");
    refused_with("store:\n  dir: ''\n", "c.yaml:2:8: store.dir: a path can't be empty");
    refused_with("auth:\n  users:\n  - name: a\n", "c.yaml:3:5: auth.users[0]: the key passwordHash is missing");
    refused_with("mode: Local\n---\nmode: Local\n", "c.yaml:");
    refused_with("mode: [Local\n", "c.yaml:");
    refused_with("mode: *nowhere\n", "c.yaml:1:7: ");
}

#[test]
fn values_out_of_bounds_are_named_with_path_and_line() {
    refused_with("limits:\n  queueWait: 21s\n", "c.yaml:2:14: limits.queueWait: 21s is more than 20s");
    refused_with(
        "limits:\n  requestHeaderTimeout: 99s\n",
        "c.yaml:2:25: limits.requestHeaderTimeout: 1m39s is less than 1m40s",
    );
    refused_with("limits:\n  connections: 0\n", "c.yaml:2:16: limits.connections: 0 is less than 1");
    refused_with("manifests:\n  maxBytes: 1GiB\n", "c.yaml:2:13: manifests.maxBytes: 1GiB is more than 64MiB");
    refused_with("store:\n  maxBytes: 1\n", "c.yaml:2:13: store.maxBytes: 1 is less than 1MiB");
    assert_eq!(accepted("store:\n  maxBytes: 0\n").store.max_bytes, None);
    refused_with("auth:\n  token:\n    ttl: 5s\n", "c.yaml:3:10: auth.token.ttl: 5s is less than 1m");
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, of) in ('b'..='h').zip('a'..) {
        bomb.push_str(&format!("{name}: &{name} [*{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}]\n"));
    }
    refused(&bomb);
    let deep = format!("listen: {}{}\n", "[".repeat(1000), "]".repeat(1000));
    refused(&deep);
}

#[test]
fn no_error_shows_a_secret() {
    let secret = "hunter2hunter2";
    for text in [
        users(&format!("  - name: a\n    passwordHash: {secret}\n")),
        users(&format!("  - name: a\n    passwordHash: [{secret}]\n")),
        users(&format!("  - name: a\n    passwordHash: {{x: {secret}}}\n")),
        users(&format!("  - name: a\n    passwordHash: !!binary {secret}\n")),
        users(&format!("  - name: a\n    passwordHash: \"{secret}\n")),
        users(&format!("  - name: a\n    passwordHash: '{secret}' x\n")),
        users(&format!("  - name: a\n    passwordHash: {secret}: x\n")),
        users(&format!("  - name: a\n    passwordHash:{HASH}\n")),
        users(&format!("  - name: a\n    {HASH}: passwordHash\n")),
        users(&format!("  - name: a\n    role: {secret}\n    passwordHash: {HASH}\n")),
        users(&format!("  - {secret}\n")),
        users(&format!("  - name: a\n    passwordHash: {HASH}\n   bad: indent\n")),
        users(&format!("  - name: a\n    passwordHash: {HASH}\n\tbad: tab\n")),
        users(&format!("  - name: a\n    passwordHash: {HASH}\n    role: 7\n")),
        users(&format!("  - name: a\n    passwordHash: &x {HASH}\n    role: *x\n")),
        users(&format!("  - name: [{secret}]\n    passwordHash: {HASH}\n")),
        users(&format!("  - name: 'a:b'\n    passwordHash: {HASH}\n")),
        format!("auth: {secret}\n"),
        format!("auth:\n  users: {secret}\n"),
        format!("auth:\n  token: {secret}\n"),
        format!("{}{}", users(&user("a")), user("a")),
        format!("{}limits: 7\n", users(&user("a"))),
    ] {
        let error = parse(&text).expect_err(&text);
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(
                !shown.contains("hunter2") && !shown.contains("$2y$") && !shown.contains("ABCDEF"),
                "{text}\n{shown}"
            );
        }
    }
    let config = accepted(&format!("{}tls: {{disabled: true}}\n", users(&user("a"))));
    assert!(!format!("{config:?}").contains("$2y$"));
    assert!(!format!("{:?}", config.settings()).contains("$2y$"));
}

#[test]
fn a_server_with_nothing_said_is_open_on_loopback_alone() {
    let open = |text: &str| accepted(text).is_open();
    assert!(open("listen: [127.0.0.1:0, '[::1]:0']"));
    assert_eq!(accepted("").auth.anonymous, Anonymous::Push);
    assert!(!open("auth: {anonymous: pull}"));
    assert_eq!(accepted("auth: {anonymous: pull}").auth.anonymous, Anonymous::Pull);
    assert!(!open(&users(&user("a"))));
    assert!(!open("auth: {usersDir: /u}"));
    assert_eq!(accepted("auth: {usersDir: /u}").auth.anonymous, Anonymous::None);
    refused_with("listen: 0.0.0.0:5001\n", "c.yaml:1:9: listen: 0.0.0.0:5001 is no loopback address");
    refused_with("listen: [127.0.0.1:5001, '[::]:5003']\n", "c.yaml:1:9: listen: [::]:5003 is no loopback address");
    refused_with("adminListen: 10.0.0.1:1\n", "c.yaml:1:14: adminListen: 10.0.0.1:1 is no loopback address");
    refused_with("auth:\n  anonymous: none\n", "c.yaml:2:14: auth.anonymous: none, and there are no users");
    accepted("listen: 0.0.0.0:5001\nauth: {anonymous: push}\n");
    accepted("adminListen: 0.0.0.0:5002\nauth: {usersDir: /u}\n");
}

#[test]
fn passwords_cross_the_network_only_under_tls() {
    let exposed = format!("listen: 0.0.0.0:5001\n{}", users(&user("a")));
    refused_with(&exposed, "c.yaml:1:9: listen: passwords would cross the network");
    refused_with("listen: 0.0.0.0:5001\nauth: {usersDir: /u}\n", "c.yaml:1:9: listen: passwords would cross");
    let forced = accepted(&format!("{exposed}tls: {{disabled: true}}\n"));
    assert_eq!(forced.tls, Tls::Off { forced: true });
    let secure = accepted(&format!("{exposed}tls: {{certFile: c, keyFile: k}}\n"));
    assert!(matches!(secure.tls, Tls::On(_)));
    let switched_off = accepted(&format!("{exposed}tls: {{certFile: c, keyFile: k, disabled: true}}\n"));
    assert_eq!(switched_off.tls, Tls::Off { forced: true });
}

#[test]
fn keys_that_need_each_other() {
    refused_with("tls:\n  certFile: c\n", "c.yaml:2:13: tls.certFile: needs tls.keyFile");
    refused_with("tls:\n  keyFile: k\n", "c.yaml:2:12: tls.keyFile: needs tls.certFile");
    refused_with("tls:\n  clientCAFile: ca\n", "c.yaml:2:17: tls.clientCAFile: needs tls.certFile");
    refused_with(
        "tls: {certFile: c, keyFile: k, trustedProxyNames: [front-proxy]}\n",
        "c.yaml:1:51: tls.trustedProxyNames: needs tls.clientCAFile",
    );
    refused_with("auth:\n  token:\n    signingCertFile: c\n", "c.yaml:3:22: auth.token.signingCertFile: needs");
    refused_with(
        &users(&(user("a") + &user("b") + &user("a"))),
        "c.yaml:7:11: auth.users[2].name: the name \"a\" is there",
    );
    refused_with("listen: [127.0.0.1:5001, 127.0.0.1:5001]\n", "c.yaml:1:9: listen: 127.0.0.1:5001 is there twice");
    refused_with("listen: 127.0.0.1:5002\n", "c.yaml: adminListen: 127.0.0.1:5002 is an address of listen");
    refused_with("probeListen: 127.0.0.1:5001\n", "c.yaml:1:14: probeListen: 127.0.0.1:5001 is an address of listen");
    refused_with(
        "probeListen: 127.0.0.1:5002\n",
        "c.yaml:1:14: probeListen: 127.0.0.1:5002 is an address of adminListen",
    );
    // It tells nobody anything, so others may reach it on a server that is open to this machine alone.
    assert_eq!(accepted("probeListen: ['[::]:5004']\n").probe_listen, ["[::]:5004".parse().unwrap()]);
    accepted("listen: [127.0.0.1:0, 127.0.0.1:0]\nadminListen: 127.0.0.1:0\n");
    for name in ["''", "'a:b'", "\"a\\n\""] {
        assert_eq!(refused(&users(&user(name))).key, "auth.users[0].name");
    }
}

#[test]
fn flags_win_over_the_file() {
    let file = "listen: 0.0.0.0:1\nadminListen: 127.0.0.1:2\nstore: {dir: /file}\n";
    let flags = Overrides {
        listen: vec!["127.0.0.1:7".parse().unwrap(), "[::1]:7".parse().unwrap()],
        data_dir: Some("/flag".into()),
        ..Overrides::default()
    };
    let config = Config::parse(file, None, &flags, MACHINE).unwrap();
    assert_eq!(config.listen, flags.listen);
    assert_eq!(config.admin_listen, ["127.0.0.1:2".parse().unwrap()]);
    assert_eq!(config.store.dir, Path::new("/flag"));
    assert!(config.is_open(), "the rules see what the flags say");
    let origin = |key: &str| config.settings().into_iter().find(|setting| setting.key == key).unwrap().origin;
    assert_eq!(origin("listen"), Origin::Flag);
    assert_eq!(origin("adminListen"), Origin::File);
    assert_eq!(origin("log.level"), Origin::Default);
    let outside = Overrides { listen: vec!["0.0.0.0:7".parse().unwrap()], ..Overrides::default() };
    let error = Config::parse("listen: 127.0.0.1:1\n", Some(Path::new("c.yaml")), &outside, MACHINE).unwrap_err();
    assert!(error.to_string().starts_with("--listen: 0.0.0.0:7 is no loopback"), "{error}");
}

#[test]
fn a_file_is_read_and_a_missing_one_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    let missing = Config::load(Some(&path), &Overrides::default()).unwrap_err();
    assert!(matches!(&missing, ConfigError::Read { path: named, .. } if *named == path));
    std::fs::write(&path, "limits: {pulls: 7}\n").unwrap();
    assert_eq!(Config::load(Some(&path), &Overrides::default()).unwrap().limits.pulls, 7);
    std::fs::write(&path, "#".repeat(2 << 20)).unwrap();
    assert!(matches!(Config::load(Some(&path), &Overrides::default()), Err(ConfigError::TooLarge { .. })));
    assert!(Config::load(None, &Overrides::default()).unwrap().is_open());
}

/// Starts with `before` and reloads with `after`.
fn reload(before: &str, after: &str) -> (Config, Result<Reloaded, ConfigError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    std::fs::write(&path, before).unwrap();
    let old = Config::load(Some(&path), &Overrides::default()).unwrap();
    std::fs::write(&path, after).unwrap();
    let result = old.reload(Some(&path), &Overrides::default());
    (old, result)
}

#[test]
fn a_reload_takes_live_keys_and_names_the_others() {
    let (old, result) = reload(
        "limits: {pulls: 1, workerThreads: 1, passwordChecks: 1}\nlog: {level: info, format: json}\n",
        "limits: {pulls: 2, workerThreads: 2, passwordChecks: 2}\nlog: {level: debug, format: text}\nstore: {dir: /other, maxBytes: 1Gi}\n",
    );
    let Reloaded { config, restart_keys } = result.unwrap();
    assert_eq!(restart_keys, ["store.dir", "limits.workerThreads", "limits.passwordChecks", "log.format"]);
    assert_eq!(config.limits, Limits { pulls: 2, ..old.limits });
    assert_eq!(config.log, LogSettings { level: Level::Debug, ..old.log });
    assert_eq!(config.store, StoreSettings { max_bytes: Some(1 << 30), ..old.store.clone() });
    assert_eq!(Config::restart_keys_changed(&old, &old), Vec::<&str>::new());
}

#[test]
fn a_reload_does_not_open_a_server_that_others_reach() {
    let exposed = "listen: 0.0.0.0:5001\nauth: {anonymous: pull}\n";
    let (_, result) = reload(exposed, "listen: 127.0.0.1:5001\n");
    let error = result.unwrap_err().to_string();
    assert!(error.contains("listen: 0.0.0.0:5001 is no loopback address"), "{error}");
    let (_, result) = reload("", "listen: 0.0.0.0:5001\nauth: {anonymous: pull}\n");
    let Reloaded { config, restart_keys } = result.unwrap();
    assert_eq!(restart_keys, ["listen"]);
    assert_eq!((config.is_open(), config.auth.anonymous), (false, Anonymous::Pull));
    let (_, result) = reload(&users(&user("a")), "");
    assert!(result.unwrap().config.is_open(), "without users a server on loopback is open, as after a restart");
}

#[test]
fn tls_is_turned_on_or_off_by_a_restart_only() {
    let secure = "tls: {certFile: c, keyFile: k}\n";
    let (old, result) = reload(secure, "");
    let Reloaded { config, restart_keys } = result.unwrap();
    assert_eq!(restart_keys, ["tls.disabled"]);
    assert_eq!(config.tls, old.tls);
    let (_, result) = reload(secure, "tls: {certFile: c2, keyFile: k2, clientCAFile: ca}\n");
    let Reloaded { config, restart_keys } = result.unwrap();
    assert!(restart_keys.is_empty());
    assert!(matches!(config.tls, Tls::On(TlsFiles { client_ca_file: Some(_), .. })));
}

#[test]
fn a_wrong_file_is_refused_at_reload() {
    let (_, result) = reload("", "limits: {pulls: 0}\n");
    assert!(matches!(result, Err(ConfigError::Key(_))));
}

/// The flag as the chart writes it: Kubernetes' list of addresses, and the port.
#[test]
fn a_list_of_addresses_has_one_port() {
    let read = |text: &str| {
        let list = text.parse::<Addresses>().map(|list| list.0.iter().map(ToString::to_string).collect::<Vec<_>>());
        list.map_err(|error| error.to_string())
    };
    assert_eq!(read("10.0.0.1,fd00::1:5001").unwrap(), ["10.0.0.1:5001", "[fd00::1]:5001"]);
    assert_eq!(read("fd00::1,10.0.0.1:5001").unwrap(), ["[fd00::1]:5001", "10.0.0.1:5001"]);
    assert_eq!(read("10.0.0.1:5001").unwrap(), ["10.0.0.1:5001"]);
    assert_eq!(read("[::1]:5001").unwrap(), ["[::1]:5001"]);
    for wrong in ["", ":5001", "10.0.0.1", "10.0.0.1,:5001", "10.0.0.1,localhost:5001", "10.0.0.1,10.0.0.2:70000"] {
        assert!(read(wrong).unwrap_err().contains("is no IP address with a port"), "{wrong}");
    }
}
