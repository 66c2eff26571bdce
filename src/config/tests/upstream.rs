//! The upstream, the cache, and the modes that need them.

use tempfile::TempDir;

use super::credentials::{REGISTRY_CONFIG, mounted};

use super::*;

pub(super) fn flags(mode: Option<&str>, upstream: Option<&str>) -> Overrides {
    Overrides {
        mode: mode.map(|mode| mode.parse().unwrap()),
        upstream: upstream.map(|url| url.parse().unwrap()),
        ..Overrides::default()
    }
}

pub(super) fn parse_with(text: &str, flags: &Overrides) -> Result<Config, ConfigError> {
    Config::parse(text, Some(Path::new("c.yaml")), flags, MACHINE)
}

pub(super) fn login(username: &str, password: &str) -> UpstreamCredentials {
    UpstreamCredentials::Login { username: username.to_owned(), password: Secret::new(password.to_owned()) }
}

/// What `upstream` with these lines means, in mode Proxy.
pub(super) fn upstream(lines: &str) -> UpstreamSettings {
    accepted(&section(lines)).upstream.unwrap()
}

pub(super) fn section(lines: &str) -> String {
    format!("mode: Proxy\nupstream:\n  imagesRepo: r.example.com:5000/deckhouse/ee\n{lines}")
}

pub(super) fn credentials(lines: &str) -> UpstreamCredentials {
    upstream(lines).endpoint.credentials
}

pub(super) fn write(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

pub(super) fn shown(config: &Config, key: &str) -> (String, Origin) {
    let setting = config.settings().into_iter().find(|setting| setting.key == key).unwrap();
    (setting.value, setting.origin)
}

#[test]
fn the_least_that_can_be_said() {
    let settings = upstream("");
    assert_eq!(
        settings,
        UpstreamSettings {
            endpoint: EndpointSettings {
                scheme: Scheme::Https,
                host: "r.example.com:5000".to_owned(),
                path: "deckhouse/ee".to_owned(),
                ca: None,
                credentials: UpstreamCredentials::Anonymous,
            },
            mirrors: Vec::new(),
            trusted_hosts: Vec::new(),
        }
    );
    let config = accepted("");
    assert_eq!(config.repository.as_str(), "system/deckhouse");
    assert_eq!(config.upstream, None);
    assert_eq!(
        config.proxy,
        ProxySettings {
            ttl: Duration::ZERO,
            tag_ttl: Duration::from_secs(30),
            negative_ttl: Duration::from_secs(10),
            stale_negative: Duration::from_secs(3600),
            max_stale: None,
            stale_on: StaleOn::ALL,
        }
    );
    for cause in StaleCause::ALL {
        assert!(config.proxy.stale_on.contains(cause), "{cause}");
    }
}

#[test]
fn images_repo_is_deckhouses_pattern() {
    for (text, host, path) in [
        ("registry.deckhouse.io/deckhouse/ce", "registry.deckhouse.io", "deckhouse/ce"),
        ("10.0.0.1:5000", "10.0.0.1:5000", ""),
        ("r/", "r", ""),
        ("' r:1/a/ '", "r:1", "a"),
        ("Harbor/Project_1/a.b-c//", "Harbor", "Project_1/a.b-c"),
        ("'[fd00::1]:5000/a'", "[fd00::1]:5000", "a"),
        ("'[::1]'", "[::1]", ""),
        ("r.example.com./a", "r.example.com.", "a"),
    ] {
        let endpoint = accepted(&format!("upstream: {{imagesRepo: {text}}}")).upstream.unwrap().endpoint;
        assert_eq!((endpoint.host.as_str(), endpoint.path.as_str()), (host, path), "{text}");
    }
    for text in [
        "''",
        "/",
        "/a",
        "https://r/a",
        "r:/a",
        "r:0/a",
        "r:70000/a",
        "r:123456",
        "r/a//b",
        "r/../b",
        "r/./b",
        "r/a b",
        "'u:hunter2@r/a'",
        "'r/a?x'",
        "'r/a#x'",
        "'[::1'",
        "'[::1]x/a'",
        "'[::1]:/a'",
        "'[1.2.3.4]/a'",
        "'[fe80::1%eth0]/a'",
        "'::1/a'",
        "'[]/a'",
        "r_x/a",
        "r/a:tag",
        "é",
    ] {
        let error = refused(&format!("upstream:\n  imagesRepo: {text}\n")).to_string();
        assert!(error.starts_with("c.yaml:2:15: upstream.imagesRepo: not of the form host[:port]"), "{text}: {error}");
        assert!(!error.contains("hunter2"));
    }
    refused_with("upstream:\n  scheme: ftp\n", "c.yaml:2:11: upstream.scheme: not one of HTTPS, HTTP");
    refused_with("upstream: {scheme: HTTP}\n", "c.yaml:1:11: upstream: imagesRepo is required");
    refused_with("upstream: {mirrors: [{imagesRepo: a}]}\n", "c.yaml:1:11: upstream: imagesRepo is required");
    refused_with(
        "upstream: {imagesRepo: a, mirrors: [{imagesRepo: b}, {scheme: HTTP}]}\n",
        "c.yaml:1:54: upstream.mirrors[1]: imagesRepo is required",
    );
}

#[test]
fn an_empty_section_is_none() {
    for text in ["upstream:\n", "upstream: {}\n", "upstream: {mirrors: [], trustedHosts: []}\n"] {
        assert_eq!(accepted(text).upstream, None, "{text}");
    }
}

#[test]
fn a_mode_with_an_upstream_needs_one() {
    refused_with("mode: direct\n", "c.yaml:1:7: mode: mode Direct needs an upstream: set upstream.imagesRepo");
    let said = parse_with("", &flags(Some("proxy"), None)).unwrap_err().to_string();
    assert!(said.starts_with("--mode: mode Proxy needs an upstream"), "{said}");
    let said = parse_with("", &flags(None, Some("https://r.example"))).unwrap_err().to_string();
    assert!(said.starts_with("--upstream: mode Local has no upstream; add --mode proxy"), "{said}");
    // In Local it waits for another mode.
    assert!(accepted("upstream: {imagesRepo: a}").upstream.is_some());
}

#[test]
fn mirrors_have_the_shape_of_the_upstream() {
    let dir = TempDir::new().unwrap();
    let file = write(&dir, "password", "p\n");
    mounted(dir.path(), &REGISTRY_CONFIG);
    let settings = upstream(&format!(
        "  license: L1
  mirrors:
  - {{imagesRepo: 'm1:80/x', scheme: HTTP}}
  - {{imagesRepo: m2, username: u, passwordFile: {file}}}
  - {{secretDir: {}}}
  trustedHosts: [m3, 'm4:8080', '[fd00::1]:443']
",
        dir.path().display()
    ));
    let places: Vec<String> =
        settings.mirrors.iter().map(|mirror| format!("{}/{}", mirror.host, mirror.path)).collect();
    assert_eq!(places, ["m1:80/x", "m2/", "r.example.com/deckhouse/ee"]);
    assert_eq!(settings.mirrors[0].credentials, UpstreamCredentials::Anonymous, "not the upstream's");
    assert_eq!(settings.mirrors[1].credentials, login("u", "p"));
    assert_eq!(settings.trusted_hosts, ["m3", "m4:8080", "[fd00::1]:443"]);
    let error = refused(&section("  mirrors:\n  - imagesRepo: m\n    username: u\n")).to_string();
    assert!(error.starts_with("c.yaml:6:15: upstream.mirrors[0].username: password or passwordFile is"), "{error}");
    for host in ["https://m", "m/a", "m:x", "''", "'[m]'", "'[::1]x'"] {
        let error = refused(&section(&format!("  trustedHosts: [{host}]\n")));
        assert_eq!(error.key, "upstream.trustedHosts[0]", "{error}");
    }
}

#[test]
fn a_url_on_the_command_line_is_a_whole_upstream() {
    let with = |url: &str| parse_with("", &flags(Some("proxy"), Some(url)));
    let endpoint = |url: &str| with(url).unwrap().upstream.unwrap().endpoint;
    let plain = endpoint("http://127.0.0.1:5000/team/images/");
    assert_eq!(
        (plain.scheme, plain.host.as_str(), plain.path.as_str()),
        (Scheme::Http, "127.0.0.1:5000", "team/images")
    );
    assert_eq!(plain.credentials, UpstreamCredentials::Anonymous);
    assert_eq!(endpoint("HTTPS://r").scheme, Scheme::Https);
    assert_eq!(endpoint("https://u:p%40%3Ax@r/a").credentials, login("u", "p@:x"));
    assert_eq!(endpoint("https://u:p@x@r/a").credentials, login("u", "p@x"));
    let config = with("https://u:hunter2@r/a").unwrap();
    for key in ["upstream.imagesRepo", "upstream.scheme", "upstream.username", "upstream.password"] {
        assert_eq!(shown(&config, key).1, Origin::Flag, "{key}");
    }
    for url in [
        "r/a",
        "ftp://r",
        "https://",
        "https:///a",
        "https://r/a?b",
        "https://hunter2@r",
        "https://:hunter2@r",
        "https://u:hunter2@r:x",
    ] {
        let error = with(url).unwrap_err().to_string();
        assert!(error.starts_with("--upstream: ") && !error.contains("hunter2"), "{url}: {error}");
    }
}

#[test]
fn a_url_takes_no_credentials_of_the_file_to_another_host() {
    let file = "mode: proxy\nupstream: {imagesRepo: r.example.com/a, license: L1, scheme: HTTP}\n";
    let with = |url: &str| parse_with(file, &flags(None, Some(url)));
    let same = with("https://r.example.com:443/b").unwrap().upstream.unwrap().endpoint;
    assert_eq!((same.path.as_str(), same.scheme), ("b", Scheme::Https));
    assert_eq!(same.credentials, login("license-token", "L1"));
    let other = with("https://u:p@other/a").unwrap().upstream.unwrap().endpoint;
    assert_eq!(other.credentials, login("u", "p"));
    let error = with("https://other/a").unwrap_err().to_string();
    assert!(error.starts_with("--upstream: another host than r.example.com"), "{error}");
}

#[test]
fn a_server_is_not_its_own_upstream() {
    let with = |listen: &str, repo: &str| {
        parse(&format!(
            "mode: proxy\nauth: {{anonymous: pull}}\nlisten: '{listen}'\nupstream: {{imagesRepo: '{repo}', scheme: HTTP}}\n"
        ))
    };
    for (listen, repo) in [
        ("127.0.0.1:5001", "127.0.0.1:5001/a"),
        ("127.0.0.1:5001", "localhost:5001/a"),
        ("[::1]:5001", "LOCALHOST:5001/a"),
        ("0.0.0.0:5001", "127.0.0.1:5001/a"),
        ("10.0.0.1:80", "10.0.0.1/a"),
        ("127.0.0.1:1", "registry.d8-system.svc:5001/system/deckhouse"),
        ("127.0.0.1:1", "registry.d8-system.svc.cluster.local:5001/system/deckhouse"),
        ("127.0.0.1:1", "registry.d8-system.svc.:5001/system/deckhouse"),
        ("[::1]:5001", "[::1]:5001/a"),
        ("[::1]:5001", "[0:0::0:1]:5001/a"),
        ("127.0.0.1:5001", "[::ffff:127.0.0.1]:5001/a"),
        ("[::]:5001", "[::1]:5001/a"),
    ] {
        let error = with(listen, repo).unwrap_err().to_string();
        assert!(
            error.starts_with("c.yaml:4:24: upstream.imagesRepo: this server's own address"),
            "{listen} {repo} {error}"
        );
    }
    for (listen, repo) in [
        ("127.0.0.1:5001", "127.0.0.1:5000/a"),
        ("10.0.0.1:5001", "127.0.0.1:5001/a"),
        ("0.0.0.0:5001", "10.0.0.1:5001/a"),
        ("127.0.0.1:1", "registry.d8-system.svcx/a"),
        ("127.0.0.1:0", "127.0.0.1:80/a"),
    ] {
        with(listen, repo).unwrap_or_else(|error| panic!("{listen} {repo} {error}"));
    }
    let mirror = "mode: proxy\nupstream: {imagesRepo: a, mirrors: [{imagesRepo: 'localhost:5001', scheme: HTTP}]}\n";
    assert_eq!(refused(mirror).key, "upstream.mirrors[0].imagesRepo");
    let flag = parse_with("", &flags(Some("direct"), Some("http://localhost:5001/a"))).unwrap_err().to_string();
    assert!(flag.starts_with("--upstream: this server's own address"), "{flag}");
}

#[test]
fn the_upstreams_user_is_a_user() {
    let direct = |more: &str| format!("mode: direct\nupstream: {{imagesRepo: r, {more}}}\n");
    let config = accepted(&direct("license: L1"));
    assert!(config.auth.upstream_user && config.has_users() && !config.is_open());
    let (user, password) = config.upstream.as_ref().unwrap().endpoint.login().unwrap();
    assert_eq!((user, password.expose()), ("license-token", "L1"));
    // Not elsewhere, unless that is said.
    let proxy = accepted(&direct("license: L1").replace("direct", "proxy"));
    assert!(!proxy.auth.upstream_user && !proxy.has_upstream_login() && proxy.is_open());
    let said = accepted(&format!("auth: {{upstreamUser: true}}\n{}", direct("license: L1").replace("direct", "proxy")));
    assert!(said.has_upstream_login() && !said.is_open());
    assert!(accepted(&format!("auth: {{upstreamUser: false}}\n{}", direct("license: L1"))).is_open());
    // An anonymous upstream gives no user.
    let anonymous = accepted(&direct(""));
    assert!(anonymous.is_open() && !anonymous.has_upstream_login());
}

#[test]
fn exposed_addresses_and_the_upstreams_user() {
    let exposed = |more: &str| format!("listen: 0.0.0.0:5001\nmode: direct\nupstream: {{imagesRepo: r, {more}}}\n");
    refused_with(
        &exposed(""),
        "c.yaml:1:9: listen: 0.0.0.0:5001 is no loopback address, and the upstream is asked without credentials, so \
         clients have none to sign in with here: set auth.anonymous: pull",
    );
    accepted(&format!("{}auth: {{anonymous: pull}}\n", exposed("")));
    refused_with(&exposed("license: L1"), "c.yaml:1:9: listen: passwords would cross the network readable");
    let safe = accepted(&format!("{}tls: {{certFile: c, keyFile: k}}\n", exposed("license: L1")));
    assert_eq!((safe.is_open(), safe.auth.anonymous), (false, Anonymous::None));
    refused_with(
        &format!("{}auth: {{upstreamUser: false}}\n", exposed("license: L1")),
        "c.yaml:1:9: listen: 0.0.0.0:5001 is no loopback address: the server needs auth.users",
    );
}

#[test]
fn several_names_lead_to_one_upstream() {
    let upstream = "upstream: {imagesRepo: 'r.example.com/deckhouse/ee', scheme: HTTP}\n";
    let config = accepted(&format!(
        "repositories:\n- {{name: system/deckhouse}}\n- {{name: system/deckhouse/installer, imagesRepo: 'R.example.com:80/deckhouse/installer'}}\n{upstream}"
    ));
    assert_eq!(config.repository.as_str(), "system/deckhouse");
    let paths: Vec<_> = config.repositories.iter().map(|repository| repository.path.as_deref()).collect();
    assert_eq!(paths, [None, Some("deckhouse/installer")]);
    let with = |lines: &str| format!("{lines}\n{upstream}");
    refused_with(
        &with("repository: a\nrepositories: [{name: b}]"),
        "c.yaml:2:15: repositories: repository is given too",
    );
    refused_with(&with("repositories: [{name: a}, {name: a}]"), "c.yaml:1:34: repositories[1].name: a is there twice");
    refused_with(
        &with("repositories: [{name: a, imagesRepo: other/x}]"),
        "c.yaml:1:38: repositories[0].imagesRepo: another host than r.example.com",
    );
    refused_with(&with("repositories: [{imagesRepo: r/x}]"), "c.yaml:1:17: repositories[0]: the key name is missing");
}

#[test]
fn the_cache_has_bounds() {
    let config = accepted("proxy: {ttl: 0, tagTtl: 0s, negativeTtl: 1h, maxStale: 0, staleOn: []}\n");
    assert_eq!((config.proxy.ttl, config.proxy.max_stale), (Duration::ZERO, Some(Duration::ZERO)));
    assert!(StaleCause::ALL.into_iter().all(|cause| !config.proxy.stale_on.contains(cause)));
    let some = accepted("proxy: {staleOn: [401, '5xx', TIMEOUT, 401]}\n").proxy.stale_on;
    let causes: Vec<_> = some.iter().collect();
    assert_eq!(causes, [StaleCause::Timeout, StaleCause::ServerError, StaleCause::Unauthorized]);
    assert_eq!(format!("{some:?}"), "{Timeout, ServerError, Unauthorized}");
    refused_with("proxy:\n  ttl: 4m59s\n", "c.yaml:2:8: proxy.ttl: 4m59s is less than 5m; 0s means never");
    refused_with("proxy:\n  tagTtl: 25h\n", "c.yaml:2:11: proxy.tagTtl: 1d1h is more than 1d");
    refused_with("proxy:\n  negativeTtl: 61m\n", "c.yaml:2:16: proxy.negativeTtl: 1h1m is more than 1h");
    refused_with("proxy:\n  staleOn: [404]\n", "c.yaml:2:13: proxy.staleOn[0]: not one of unreachable, timeout, 5xx");
    refused_with("repository: System/x\n", "c.yaml:1:13: repository: the repository name has");
    assert_eq!(accepted("repository: a/b/c\n").repository.as_str(), "a/b/c");
}

#[test]
fn mode_repository_and_upstream_change_while_running() {
    let (old, result) =
        super::reload("", "mode: proxy\nrepository: a/b\nupstream: {imagesRepo: r}\nproxy: {tagTtl: 1s}\n");
    let Reloaded { config, restart_keys } = result.unwrap();
    assert_eq!(old.mode, Mode::Local);
    assert!(restart_keys.is_empty());
    assert_eq!((config.mode, config.repository.as_str()), (Mode::Proxy, "a/b"));
    assert!(config.upstream.is_some());
    // What the mode implies for users is implied again.
    let (_, result) = super::reload("", "mode: direct\nupstream: {imagesRepo: r, license: L}\n");
    let config = result.unwrap().config;
    assert!(config.auth.upstream_user && !config.is_open());
}

#[test]
fn the_data_folder_is_found_without_the_files_that_are_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("c.yaml");
    std::fs::write(&path, "mode: proxy\nstore: {dir: /d}\nupstream: {imagesRepo: r, licenseFile: /none}\n").unwrap();
    assert!(Config::load(Some(&path), &Overrides::default()).is_err());
    assert_eq!(data_dir(Some(&path), None).unwrap(), Path::new("/d"));
    assert_eq!(data_dir(Some(&path), Some("/flag".into())).unwrap(), Path::new("/flag"));
    assert_eq!(data_dir(None, None).unwrap(), Path::new("./data"));
    std::fs::write(&path, "stoer: {}\n").unwrap();
    assert!(data_dir(Some(&path), None).unwrap_err().to_string().contains("c.yaml:1:1: stoer: unknown key"));
}
