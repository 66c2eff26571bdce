//! The upstream, its credentials and the files they come in, the cache, and the modes that need them.

use tempfile::TempDir;

use super::*;

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

fn flags(mode: Option<&str>, upstream: Option<&str>) -> Overrides {
    Overrides {
        mode: mode.map(|mode| mode.parse().unwrap()),
        upstream: upstream.map(|url| url.parse().unwrap()),
        ..Overrides::default()
    }
}

fn parse_with(text: &str, flags: &Overrides) -> Result<Config, ConfigError> {
    Config::parse(text, Some(Path::new("c.yaml")), flags, MACHINE)
}

fn login(username: &str, password: &str) -> UpstreamCredentials {
    UpstreamCredentials::Login { username: username.to_owned(), password: Secret::new(password.to_owned()) }
}

/// What `upstream` with these lines means, in mode Proxy.
fn upstream(lines: &str) -> UpstreamSettings {
    accepted(&section(lines)).upstream.unwrap()
}

fn section(lines: &str) -> String {
    format!("mode: Proxy\nupstream:\n  imagesRepo: r.example.com:5000/deckhouse/ee\n{lines}")
}

fn credentials(lines: &str) -> UpstreamCredentials {
    upstream(lines).endpoint.credentials
}

fn write(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn shown(config: &Config, key: &str) -> (String, Origin) {
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
                scheme: UpstreamScheme::Https,
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
        "'[::1]:5000/a'",
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
fn each_source_of_credentials_is_read() {
    let dir = TempDir::new().unwrap();
    assert_eq!(credentials(""), UpstreamCredentials::Anonymous);
    assert_eq!(credentials("  license: ABC\n"), login("license-token", "ABC"));
    let file = write(&dir, "licence", "  ABC\r\n\n");
    assert_eq!(credentials(&format!("  licenseFile: {file}\n")), login("license-token", "ABC"));
    assert_eq!(credentials("  username: u\n  password: 'a:b c '\n"), login("u", "a:b c "));
    assert_eq!(credentials("  username: 007\n  password: 0815\n"), login("007", "0815"));
    let file = write(&dir, "password", " p w \n");
    assert_eq!(credentials(&format!("  username: u\n  passwordFile: {file}\n")), login("u", " p w "));
    // Longer than what bcrypt reads.
    let long = "x".repeat(2000);
    assert_eq!(credentials(&format!("  license: {long}\n")), login("license-token", &long));
}

#[test]
fn two_sources_of_credentials_are_an_error() {
    let dir = TempDir::new().unwrap();
    let all = [
        ("license", "  license: A\n".to_owned()),
        ("licenseFile", format!("  licenseFile: {}\n", write(&dir, "l", "A"))),
        ("username", "  username: u\n  password: p\n".to_owned()),
        ("username", format!("  username: u\n  passwordFile: {}\n", write(&dir, "p", "p"))),
        ("dockerConfigFile", format!("  dockerConfigFile: {}\n", write(&dir, "d", "{}"))),
        ("secretDir", format!("  secretDir: {}\n", dir.path().display())),
    ];
    for (index, (one, first)) in all.iter().enumerate() {
        for (other, second) in all[index + 1..].iter().filter(|(other, _)| other != one) {
            let error = refused(&section(&format!("{first}{second}")));
            assert_eq!(error.key, format!("upstream.{other}"), "{error}");
            assert!(error.position.is_some());
            let said = error.message.contains(&format!("beside {one};")) || error.message.contains("is given too");
            assert!(said, "{error}");
        }
    }
    let error = refused(&section("  license: A\n  password: p\n")).to_string();
    assert!(error.starts_with("c.yaml:5:13: upstream.password: username is required"), "{error}");
}

#[test]
fn half_a_login_and_texts_that_are_none_are_errors() {
    let dir = TempDir::new().unwrap();
    let empty = write(&dir, "empty", "\n");
    let two_lines = write(&dir, "two", "a\nb\n");
    let missing = dir.path().join("none").display().to_string();
    for (lines, key, message) in [
        ("  username: u\n".to_owned(), "username", "password or passwordFile is required"),
        ("  password: p\n".to_owned(), "password", "username is required"),
        (format!("  passwordFile: {empty}\n"), "passwordFile", "username is required"),
        ("  username: u\n  password: ''\n".to_owned(), "password", "is empty"),
        ("  username: ''\n  password: p\n".to_owned(), "username", "a username is not empty"),
        ("  username: a:b\n  password: p\n".to_owned(), "username", "a username is not empty and has no colon"),
        (format!("  username: u\n  passwordFile: {empty}\n"), "passwordFile", &format!("{empty} is empty")),
        (
            format!("  username: u\n  passwordFile: {two_lines}\n"),
            "username",
            "a password is not empty and has no line",
        ),
        (format!("  licenseFile: {two_lines}\n"), "licenseFile", "a licence is one word"),
        ("  license: a b\n".to_owned(), "license", "a licence is one word"),
        (format!("  licenseFile: {missing}\n"), "licenseFile", &format!("{missing}: No such file")),
        (format!("  dockerConfigFile: {missing}\n"), "dockerConfigFile", &format!("{missing}: No such file")),
        (format!("  secretDir: {missing}\n"), "secretDir", &format!("{missing}: No such file")),
        (format!("  secretDir: {empty}\n"), "secretDir", &format!("{empty} is no folder")),
        (format!("  caFile: {missing}\n"), "caFile", &format!("{missing}: No such file")),
    ] {
        let error = refused(&section(&lines));
        assert_eq!(error.key, format!("upstream.{key}"), "{error}");
        assert!(error.message.starts_with(message), "{error}");
        assert!(error.position.is_some(), "{error}");
    }
    let large = write(&dir, "large", &"x".repeat(2 << 20));
    assert!(refused(&section(&format!("  licenseFile: {large}\n"))).message.contains("is larger than 1048576 bytes"));
}

#[test]
fn a_ca_is_certificates_and_goes_with_https_alone() {
    let dir = TempDir::new().unwrap();
    let file = write(&dir, "ca.crt", CERTIFICATE);
    let inline = format!("  ca: |\n    {}", CERTIFICATE.replace('\n', "\n    "));
    assert_eq!(upstream(&inline).endpoint.ca.unwrap().trim(), CERTIFICATE.trim());
    assert_eq!(upstream(&format!("  caFile: {file}\n")).endpoint.ca.unwrap().trim(), CERTIFICATE.trim());
    for (lines, key, message) in [
        (format!("{inline}\n  caFile: {file}\n"), "caFile", "ca is given too"),
        (format!("{inline}\n  scheme: HTTP\n"), "ca", "a ca can't be given with scheme HTTP"),
        (format!("  caFile: {file}\n  scheme: HTTP\n"), "caFile", "a ca can't be given with scheme HTTP"),
        ("  ca: nonsense\n".to_owned(), "ca", "there is no certificate in PEM"),
        ("  ca: \"-----BEGIN CERTIFICATE-----\\nAA\"\n".to_owned(), "ca", "a certificate in it is not whole"),
        (
            format!("  caFile: {}\n", write(&dir, "key", "-----BEGIN EC PRIVATE KEY-----\nAA==\n")),
            "caFile",
            "there is a private key in it",
        ),
    ] {
        let error = refused(&section(&lines));
        assert_eq!(error.key, format!("upstream.{key}"), "{error}");
        assert!(error.message.starts_with(message), "{error}");
    }
}

#[test]
fn docker_configs_are_searched_by_host() {
    let dir = TempDir::new().unwrap();
    let read = |json: &str| {
        let file = write(&dir, "config.json", json);
        parse(&section(&format!("  dockerConfigFile: {file}\n")))
    };
    let found = |json: &str| read(json).unwrap().upstream.unwrap().endpoint.credentials;
    // `dTpwOnc=` is `u:p:w`.
    for json in [
        r#"{"auths":{"r.example.com:5000":{"auth":"dTpwOnc="}}}"#,
        r#"{"auths":{"r.example.com:5000":{"auth":"dTpwOnc"}}, "credsStore": "x"}"#,
        r#"{"auths":{"other":{"auth":"eDp5"}, "r.example.com:5000":{"username":"u","password":"p:w"}}}"#,
        r#"{"auths":{"https://R.example.com:5000/v1/":{"auth":"dTpwOnc="}}}"#,
        r#"{"auths":{"https://r.example.com:5000":{"auth":"eDp5"}, "r.example.com:5000":{"auth":"dTpwOnc="}}}"#,
    ] {
        assert_eq!(found(json), login("u", "p:w"), "{json}");
    }
    for json in [r#"{"auths":{"r.example.com:5000":{}}}"#, r#"{"auths":{"r.example.com:5000":{"email":"a@b"}}}"#] {
        assert_eq!(found(json), UpstreamCredentials::Anonymous, "{json}");
    }
    for (json, message) in [
        (
            r#"{"auths":{"r.example.com":{"auth":"dTpw"},"b":{}}}"#,
            "has no login for r.example.com:5000; it has \"b\", \"r.example.com\"",
        ),
        (
            r#"{"auths":{"registry.d8-system.svc:5001":{"auth":"dTpw"}}}"#,
            "has no login for r.example.com:5000; it has \"registry.d8-system.svc:5001\"",
        ),
        (r#"{"auths":{"r.example.com:5000/other":{"auth":"dTpw"}}}"#, "has no login"),
        ("{}", "it has no host at all"),
        ("{\"auths\": \n\"hunter2\"}", "is no .dockerconfigjson: wrong at line 2"),
        (r#"{"auths":{"r.example.com:5000":{"auth":"hunter2"}}}"#, "has an auth that is no base64"),
        (r#"{"auths":{"r.example.com:5000":{"auth":"dTo="}}}"#, "has an auth that is no base64"),
        (r#"{"auths":{"r.example.com:5000":{"username":"u"}}}"#, "has a username or a password alone"),
        (r#"{"auths":{"r.example.com:5000":{"identitytoken":"hunter2"}}}"#, "has only an identitytoken"),
    ] {
        let error = read(json).unwrap_err().to_string();
        assert!(error.starts_with("c.yaml:4:21: upstream.dockerConfigFile: "), "{error}");
        assert!(error.contains(message) && !error.contains("hunter2"), "{error}");
    }
    // The implied port counts as none.
    let file = write(&dir, "config.json", r#"{"auths":{"r.example.com":{"auth":"dTpwOnc="}}}"#);
    let with = |repo: &str| accepted(&format!("upstream: {{imagesRepo: {repo}, dockerConfigFile: {file}}}")).upstream;
    assert_eq!(with("r.example.com:443/a").unwrap().endpoint.credentials, login("u", "p:w"));
}

/// A folder as Kubernetes mounts a Secret: links into a folder that is swapped as a whole.
fn mounted(dir: &Path, files: &[(&str, &str)]) {
    let data = dir.join("..2026");
    std::fs::create_dir_all(&data).unwrap();
    for (name, content) in files {
        std::fs::write(data.join(name), content).unwrap();
        let link = dir.join(name);
        if link.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(Path::new("..2026").join(name), link).unwrap();
        }
    }
}

const REGISTRY_CONFIG: [(&str, &str); 7] = [
    ("mode", "Direct"),
    ("imagesRepo", "r.example.com/deckhouse/ee"),
    ("username", "license-token"),
    ("password", "L1"),
    ("ttl", "1h"),
    ("scheme", "HTTPS"),
    ("checkMode", "Default"),
];

#[test]
fn a_mounted_secret_says_it_all() {
    let dir = TempDir::new().unwrap();
    mounted(dir.path(), &REGISTRY_CONFIG);
    mounted(dir.path(), &[("ca", CERTIFICATE)]);
    let text = format!("upstream: {{secretDir: {}}}\n", dir.path().display());
    let config = accepted(&text);
    assert_eq!(config.mode, Mode::Direct);
    assert_eq!(config.proxy.ttl, Duration::from_secs(3600));
    let endpoint = config.upstream.clone().unwrap().endpoint;
    assert_eq!((endpoint.host.as_str(), endpoint.path.as_str()), ("r.example.com", "deckhouse/ee"));
    assert_eq!(endpoint.credentials, login("license-token", "L1"));
    assert!(endpoint.ca.is_some());
    for key in ["mode", "upstream.imagesRepo", "upstream.scheme", "upstream.ca", "upstream.username", "proxy.ttl"] {
        assert_eq!(shown(&config, key).1, Origin::SecretDir, "{key}");
    }
    assert_eq!(shown(&config, "upstream.password"), ("***".to_owned(), Origin::SecretDir));
    assert_eq!(shown(&config, "upstream.secretDir").1, Origin::File);

    // The file and the flag decide about the mode; what else stands in both has to be the same.
    assert_eq!(accepted(&format!("mode: proxy\n{text}")).mode, Mode::Proxy);
    assert_eq!(parse_with(&text, &flags(Some("local"), None)).unwrap().mode, Mode::Local);
    let also = |more: &str| format!("upstream:\n  secretDir: {}\n{more}", dir.path().display());
    accepted(&also("  imagesRepo: r.example.com/deckhouse/ee/\n  scheme: https\nproxy: {ttl: 60m}\n"));
    for (more, key) in [
        ("  imagesRepo: r.example.com/deckhouse/fe\n", "upstream.imagesRepo"),
        ("  scheme: HTTP\n", "upstream.scheme"),
        ("  ca: \"-----BEGIN CERTIFICATE-----\\nBBBB\\n-----END CERTIFICATE-----\"\n", "upstream.ca"),
        ("proxy: {ttl: 2h}\n", "proxy.ttl"),
    ] {
        let error = refused(&also(more));
        assert_eq!(error.key, key, "{error}");
        assert!(error.message.contains("leave one of the two out") && error.position.is_some(), "{error}");
    }
}

#[test]
fn what_a_mounted_secret_lacks_or_has_wrong() {
    let dir = TempDir::new().unwrap();
    let text = format!("upstream: {{secretDir: {}}}\n", dir.path().display());
    assert_eq!(accepted(&text).upstream, None, "in Local nothing is needed");
    let says = |files: &[(&str, &str)], message: &str| {
        let dir = TempDir::new().unwrap();
        mounted(dir.path(), files);
        let error = refused(&format!("upstream: {{secretDir: {}}}\n", dir.path().display()));
        assert!(error.message.contains(message) && error.position.is_some(), "{error}");
        assert!(error.key == "upstream.secretDir", "{error}");
    };
    says(&[("mode", "Proxy")], "mode Proxy needs an upstream, and no file imagesRepo is there");
    says(&[("mode", "Unmanaged"), ("imagesRepo", "r")], "file mode: not one of the modes Direct, Proxy, Local");
    says(&[("imagesRepo", "r"), ("username", "u")], "there is a file username, but no file password");
    says(&[("imagesRepo", "r"), ("password", "p")], "there is a file password, but no file username");
    says(&[("imagesRepo", "r r")], "file imagesRepo in ");
    says(&[("imagesRepo", "r"), ("scheme", "gopher")], "not one of HTTPS, HTTP");
    says(&[("imagesRepo", "r"), ("ttl", "soon")], "is no span of time");
    says(&[("imagesRepo", "r"), ("ttl", "4m")], "4m is less than 5m");
    says(&[("imagesRepo", "r"), ("scheme", "HTTP"), ("ca", CERTIFICATE)], "a ca can't be given with scheme HTTP");
    // Empty files are how absent values are mounted.
    mounted(dir.path(), &[("mode", "Proxy"), ("imagesRepo", "r\n"), ("username", ""), ("password", ""), ("ca", "\n")]);
    let config = accepted(&text);
    assert_eq!(config.upstream.unwrap().endpoint.credentials, UpstreamCredentials::Anonymous);
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
        (UpstreamScheme::Http, "127.0.0.1:5000", "team/images")
    );
    assert_eq!(plain.credentials, UpstreamCredentials::Anonymous);
    assert_eq!(endpoint("HTTPS://r").scheme, UpstreamScheme::Https);
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
    assert_eq!((same.path.as_str(), same.scheme), ("b", UpstreamScheme::Https));
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
    assert!(config.auth.upstream_user && config.has_users() && !config.auth.open);
    let (user, password) = config.upstream_login().unwrap();
    assert_eq!((user, password.expose()), ("license-token", "L1"));
    // Not elsewhere, unless that is said.
    let proxy = accepted(&direct("license: L1").replace("direct", "proxy"));
    assert!(!proxy.auth.upstream_user && proxy.upstream_login().is_none() && proxy.auth.open);
    let said = accepted(&format!("auth: {{upstreamUser: true}}\n{}", direct("license: L1").replace("direct", "proxy")));
    assert!(said.upstream_login().is_some() && !said.auth.open);
    assert!(accepted(&format!("auth: {{upstreamUser: false}}\n{}", direct("license: L1"))).auth.open);
    // An anonymous upstream gives no user.
    let anonymous = accepted(&direct(""));
    assert!(anonymous.auth.open && anonymous.upstream_login().is_none());
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
    assert_eq!((safe.auth.open, safe.auth.anonymous), (false, Anonymous::None));
    refused_with(
        &format!("{}auth: {{upstreamUser: false}}\n", exposed("license: L1")),
        "c.yaml:1:9: listen: 0.0.0.0:5001 is no loopback address: the server needs auth.users",
    );
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
fn no_error_and_no_debug_shows_a_secret_of_the_upstream() {
    let secret = "hunter2hunter2";
    for lines in [
        format!("  license: [{secret}]\n"),
        format!("  license: {{x: {secret}}}\n"),
        format!("  license: '{secret} {secret}'\n"),
        format!("  password: {secret}\n"),
        format!("  username: 'a:b'\n  password: {secret}\n"),
        format!("  username: u\n  password: \"{secret}\\n\"\n"),
        format!("  license: {secret}\n  username: u\n  password: {secret}\n"),
        format!("  license: {secret}\n  dockerConfigFile: x\n"),
        format!("  scheme: {secret}\n"),
        format!("  mirrors: [{{imagesRepo: m, password: {secret}}}]\n"),
        format!("  imagesRepo: u:{secret}@r/a\n"),
    ] {
        let error =
            parse(&section(&lines).replacen("  imagesRepo: r", "  # r", usize::from(lines.contains("imagesRepo: u"))));
        let error = error.expect_err(&lines);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{lines}{error}");
    }
    let url = flags(Some("proxy"), Some(&format!("https://u:{secret}@r/a")));
    let config = parse_with("", &url).unwrap();
    assert!(!format!("{config:?}{:?}{url:?}", config.settings()).contains("hunter2"));
    let config =
        accepted(&section(&format!("  license: {secret}\n  mirrors: [{{imagesRepo: m, license: {secret}}}]\n")));
    assert!(!format!("{config:?}{:?}", config.settings()).contains("hunter2"));
}

#[test]
fn every_file_is_watched_and_a_new_licence_is_a_new_configuration() {
    let dir = TempDir::new().unwrap();
    let licence = write(&dir, "licence", "L1\n");
    let (ca, password) = (write(&dir, "ca", CERTIFICATE), write(&dir, "password", "p"));
    let docker = write(&dir, "docker", r#"{"auths":{"m2":{}}}"#);
    let secret = dir.path().join("secret");
    mounted(&secret, &REGISTRY_CONFIG);
    let text = section(&format!(
        "  licenseFile: {licence}
  caFile: {ca}
  mirrors:
  - {{imagesRepo: m1, username: u, passwordFile: {password}}}
  - {{imagesRepo: m2, dockerConfigFile: {docker}}}
  - {{secretDir: {}}}
",
        secret.display()
    ));
    let path = dir.path().join("c.yaml");
    std::fs::write(&path, text).unwrap();
    let config = Config::load(Some(&path), &Overrides::default()).unwrap();
    let watched = config.watched_paths(Some(&path));
    let all = [path.display().to_string(), ca, licence.clone(), password, docker, secret.display().to_string()];
    assert_eq!(watched, all.map(PathBuf::from));

    std::fs::write(&licence, "L2\n").unwrap();
    mounted(&secret, &[("password", "L3")]);
    let Reloaded { config: changed, restart_keys } = config.reload(Some(&path), &Overrides::default()).unwrap();
    assert!(restart_keys.is_empty());
    let upstream = changed.upstream.unwrap();
    assert_eq!(upstream.endpoint.credentials, login("license-token", "L2"));
    assert_eq!(upstream.mirrors[2].credentials, login("license-token", "L3"));

    // A file that is gone refuses the whole; what is in force stays.
    std::fs::remove_file(&licence).unwrap();
    assert!(
        config.reload(Some(&path), &Overrides::default()).unwrap_err().to_string().contains("upstream.licenseFile")
    );
}

#[test]
fn a_folder_of_a_secret_is_watched_though_it_has_no_upstream_yet() {
    let dir = TempDir::new().unwrap();
    let config = accepted(&format!("upstream: {{secretDir: {}}}\n", dir.path().display()));
    assert_eq!(config.mode, Mode::Local);
    assert_eq!(config.watched_paths(None), [dir.path()]);
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
    assert!(config.auth.upstream_user && !config.auth.open);
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
