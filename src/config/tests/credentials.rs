//! Who we are to the upstream, and the files in which that comes.

use tempfile::TempDir;

use super::upstream::{credentials, flags, login, parse_with, section, shown, upstream, write};
use super::*;

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

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
pub(super) fn mounted(dir: &Path, files: &[(&str, &str)]) {
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

pub(super) const REGISTRY_CONFIG: [(&str, &str); 7] = [
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
