use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::switch::settings::{DEFAULT_TTL, Login, Upstream};
use crate::values::Scheme;

/// A certificate signed by itself, CN `example`.
const CA: &str = "\
-----BEGIN CERTIFICATE-----
MIIBezCCASGgAwIBAgIUfvUGqEBnDhppZB/4Xgi+LziVsOYwCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHZXhhbXBsZTAgFw0yNjExMjkwODQxMDlaGA8yMTI2MTEwNTA4
NDEwOVowEjEQMA4GA1UEAwwHZXhhbXBsZTBZMBMGByqGSM49AgEGCCqGSM49AwEH
A0IABGVRxUW4TD5tUZLS1FGxK8s7t8Nc5w2FNiia3NbNjMQ3EdwUWOXHPbrPUWr0
SEPSysUKVYAQimJvWPcMmQaBvqWjUzBRMB0GA1UdDgQWBBRiHnpdJMbQkjbi7keg
QTD11lT+VzAfBgNVHSMEGDAWgBRiHnpdJMbQkjbi7kegQTD11lT+VzAPBgNVHRMB
Af8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIDVZkY//x/eVSzaiUvnFrCq2morn
3Ax993j5cf36nSfDAiEAkv6bABYMIDQWnT9qs1fOB874J89Py3ud+xUNbiN7M7M=
-----END CERTIFICATE-----
";

fn problems(registry: &Value) -> Vec<String> {
    read_module_config(Some(registry)).settings.unwrap_err()
}

fn settings(registry: &Value) -> Settings {
    read_module_config(Some(registry)).settings.unwrap()
}

fn secret(data: &[(&str, &str)]) -> (Reading, OptionChanges) {
    read_secret(&data.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect())
}

fn login(username: &str, password: &str) -> Login {
    Login { username: username.to_owned(), password: Secret::new(password.to_owned()) }
}

#[test]
fn the_examples_of_the_documentation_are_read() {
    let section =
        json!({"imagesRepo": "registry.deckhouse.ru/deckhouse/ee", "scheme": "HTTPS", "license": "<LICENSE_KEY>"});
    let upstream = Upstream {
        images_repo: "registry.deckhouse.ru/deckhouse/ee".to_owned(),
        scheme: Scheme::Https,
        ca: None,
        login: Some(login("license-token", "<LICENSE_KEY>")),
    };
    let of = |params| Settings { params, check_mode: CheckMode::Default };
    assert_eq!(settings(&json!({"mode": "Direct", "direct": section})), of(Params::Direct(upstream.clone())));
    let proxy = Params::Proxy { upstream: upstream.clone(), ttl: DEFAULT_TTL };
    assert_eq!(settings(&json!({"mode": "Proxy", "proxy": section})), of(proxy));
    assert_eq!(settings(&json!({"mode": "Local"})), of(Params::Local));
    assert_eq!(settings(&json!({"mode": "Unmanaged"})), of(Params::BARE));
    let unmanaged = settings(&json!({"mode": "Unmanaged", "unmanaged": section}));
    assert_eq!(unmanaged, of(Params::Unmanaged(Some(upstream))));
}

#[test]
fn what_is_absent_is_bare_unmanaged_as_in_deckhouse() {
    let bare = Settings { params: Params::BARE, check_mode: CheckMode::Default };
    for registry in [json!(null), json!({}), json!({"mode": null, "direct": null})] {
        assert_eq!(settings(&registry), bare);
    }
    assert_eq!(read_module_config(None).settings.unwrap(), bare);
    assert_eq!(from_module_config(&json!(null), 7), Input::Unset);
    assert_eq!(from_module_config(&json!({"logLevel": "Info"}), 7), Input::Unset);
    let valid = Input::Valid { settings: bare, generation: 7 };
    assert_eq!(from_module_config(&json!({"registry": {"mode": "Unmanaged"}}), 7), valid);
}

#[test]
fn each_rule_has_its_documented_message() {
    for (registry, expected) in [
        (json!({"mode": "Direct"}), "registry: when mode is 'Direct', 'direct' section must be specified."),
        (json!({"mode": "Proxy"}), "registry: when mode is 'Proxy', 'proxy' section must be specified."),
        (
            json!({"mode": "Local", "direct": {}}),
            "registry: when mode is not 'Direct', 'direct' section must be omitted.",
        ),
        (json!({"mode": "Local", "proxy": {}}), "registry: when mode is not 'Proxy', 'proxy' section must be omitted."),
        (
            json!({"mode": "Local", "unmanaged": {}}),
            "registry: when mode is not 'Unmanaged', 'unmanaged' section must be omitted.",
        ),
        (json!({"unmanaged": {"imagesRepo": " / "}}), "registry.unmanaged: 'imagesRepo' is required."),
        (
            json!({"mode": "Direct", "direct": {"imagesRepo": "a/b", "username": "u"}}),
            "registry.direct: 'password' is required when 'username' is provided.",
        ),
        (
            json!({"mode": "Direct", "direct": {"imagesRepo": "a/b", "password": "hunter2"}}),
            "registry.direct: 'username' is required when 'password' is provided.",
        ),
        (
            json!({"mode": "Proxy", "proxy": {"imagesRepo": "a/b", "license": "hunter2", "username": "u"}}),
            "registry.proxy: 'license' and 'username'/'password' are mutually exclusive.",
        ),
        (
            json!({"mode": "Proxy", "proxy": {"imagesRepo": "a/b", "ttl": "4m59s"}}),
            "registry.proxy: 'ttl' should be at least 5 minutes.",
        ),
        (
            json!({"mode": "Proxy", "proxy": {"imagesRepo": "a/b", "ttl": "0s"}}),
            "registry.proxy: 'ttl' should be at least 5 minutes.",
        ),
        (
            json!({"mode": "Direct", "direct": {"imagesRepo": "a/b", "scheme": "https"}}),
            "registry.direct: Invalid scheme 'https'; expected 'HTTP' or 'HTTPS'",
        ),
        (
            json!({"mode": "Direct", "direct": {"imagesRepo": "a/b", "scheme": "HTTP", "ca": CA}}),
            "registry.direct: CA is not allowed when scheme is 'HTTP'",
        ),
        (
            json!({"mode": "Direct", "direct": {"imagesRepo": "a/b", "checkMode": "Some"}}),
            "registry.direct: unknown registry check mode: Some",
        ),
        (json!({"mode": "Managed"}), "Unknown registry mode: Managed"),
    ] {
        assert_eq!(problems(&registry), [expected], "{registry}");
    }
}

#[test]
fn what_has_no_documented_message_has_a_sentence() {
    let section = |key: &str, value: Value| {
        let mut section = json!({"imagesRepo": "registry.example.com/a"});
        section[key] = value;
        problems(&json!({"mode": "Direct", "direct": section}))
    };
    let repo = |text: &str| section("imagesRepo", json!(text));
    let form = "registry.direct: 'imagesRepo' is not of the form host[:port][/path], such as registry.example.com/deckhouse/ee.";
    for text in [
        "a b",
        "a:0/b",
        "a:65536",
        "a:",
        "a//b",
        "a/../b",
        "u:hunter2@a/b",
        "a/b:v1",
        "a/b@sha256:c",
        "é/a",
        "[fd00::1]/a",
    ] {
        assert_eq!(repo(text), [form], "{text}");
    }
    assert!(repo("https://a/b")[0].ends_with("Write it without https://: 'scheme' says HTTP or HTTPS."));
    for own in
        ["registry.d8-system.svc:5001/system/deckhouse", "Registry.d8-system.svc.cluster.local./a", "127.0.0.1:5001/a"]
    {
        let message =
            "registry.direct: 'imagesRepo' is the registry of this cluster itself; name the registry behind it.";
        assert_eq!(repo(own), [message], "{own}");
    }
    assert_eq!(section("scheme", json!(5)), ["registry.direct: 'scheme' must be a string."]);
    assert_eq!(section("password", json!(12345)), ["registry.direct: 'password' must be a string."]);
    assert_eq!(problems(&json!([])), ["registry: it must be an object."]);
    assert_eq!(problems(&json!({"mode": 1})), ["registry: 'mode' must be a string."]);
    assert_eq!(problems(&json!({"mode": "Direct", "direct": "a"})), ["registry.direct: it must be an object."]);
    let ttl = json!({"mode": "Proxy", "proxy": {"imagesRepo": "a/b", "ttl": "1d"}});
    assert_eq!(problems(&ttl), ["registry.proxy: 'ttl' is not of the form 168h, 90m or 168h10m5s."]);
    let root = json!({"unmanaged": {"imagesRepo": "host:5000"}});
    let message =
        "registry.unmanaged: 'imagesRepo' needs a path behind the host: Deckhouse takes no registry without one.";
    assert_eq!(problems(&root), [message]);
}

#[test]
fn a_ca_is_whole_certificates_and_no_key() {
    let of = |ca: &str| read_module_config(Some(&json!({"mode": "Direct", "direct": {"imagesRepo": "a/b", "ca": ca}})));
    let upstream = of(&format!("{CA}{CA}")).settings.unwrap().params.upstream().cloned().unwrap();
    assert_eq!(upstream.ca, Some(format!("{CA}{CA}")));
    assert_eq!(of("\n").settings.unwrap().params.upstream().unwrap().ca, None);
    let no_certificate = "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n";
    let key = format!("{CA}-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n");
    for (ca, reason) in [
        ("hunter2", "there is no certificate in PEM in it"),
        (no_certificate, "it holds something that is no certificate"),
        (&CA[..CA.len() / 2], "it is not whole PEM"),
        (&key, "there is a private key in it; only certificates belong here"),
    ] {
        let expected = format!("registry.direct: failed to decode CA certificate: {reason}");
        assert_eq!(of(ca).settings.unwrap_err(), [expected]);
    }
}

/// What Deckhouse's webhook refuses in `deckhouse-registry` would hold a switch in its middle.
#[test]
fn users_and_passwords_are_what_deckhouse_takes() {
    let of = |section: Value| problems(&json!({"mode": "Direct", "direct": section}));
    for username in ["a b", "a:b", "a\nb", " "] {
        let found = of(json!({"imagesRepo": "a/b", "username": username, "password": "p"}));
        assert_eq!(found, ["registry.direct: 'username' is empty or contains a colon, spaces or line breaks."]);
    }
    for (key, value) in
        [("license", "hunter 2"), ("license", " "), ("password", "hunter\t2"), ("password", "hunter\u{0}2")]
    {
        let mut section = json!({"imagesRepo": "a/b"});
        section[key] = json!(value);
        if key == "password" {
            section["username"] = json!("u");
        }
        let expected = format!(
            "registry.direct: '{key}' is empty or contains spaces or line breaks, which Deckhouse takes in no deckhouse-registry."
        );
        assert_eq!(of(section), [expected]);
    }
    let trimmed = settings(&json!({"mode": "Direct", "direct": {"imagesRepo": " a/b// ", "license": " key\n"}}));
    let upstream = trimmed.params.upstream().unwrap();
    assert_eq!((upstream.images_repo.as_str(), &upstream.login), ("a/b", &Some(login("license-token", "key"))));
    let empty =
        json!({"mode": "Direct", "direct": {"imagesRepo": "a/b", "username": "", "password": "", "license": ""}});
    assert_eq!(settings(&empty).params.upstream().unwrap().login, None);
}

#[test]
fn all_that_is_wrong_is_said_at_once_and_no_secret_with_it() {
    let registry = json!({
        "mode": "Direct",
        "direct": {"imagesRepo": "https://u:hunter2@a/b", "scheme": "FTP", "ca": "hunter2", "password": "hunter2", "checkMode": "x"},
        "proxy": {"license": "hunter2"},
        "unmanaged": {},
    });
    let found = problems(&registry);
    assert_eq!(found.len(), 7, "{found:#?}");
    assert!(!format!("{found:?}").contains("hunter2"), "{found:#?}");
}

#[test]
fn an_unknown_field_is_a_warning() {
    let registry = json!({"mode": "Direct", "direct": {"imagesRepo": "a/b", "mirrors": [], "new": "x"}, "next": {}});
    let reading = read_module_config(Some(&registry));
    assert!(reading.settings.is_ok());
    let expected = [
        "registry: the field 'next' is not known here and is passed over.",
        "registry.direct: the field 'mirrors' is not known here and is passed over.",
        "registry.direct: the field 'new' is not known here and is passed over.",
    ];
    assert_eq!(reading.warnings, expected);
}

#[test]
fn what_works_and_is_probably_not_meant_is_a_warning() {
    let registry =
        json!({"mode": "Direct", "direct": {"imagesRepo": "a", "scheme": "HTTP", "license": "k", "ttl": "1h"}});
    let expected = [
        "registry.direct: 'imagesRepo' has no path: a registry has no image at its root, and Deckhouse's own is there.",
        "registry.direct: scheme HTTP sends user and password in clear.",
        "registry.direct: 'ttl' has a meaning in mode 'Proxy' alone and is passed over.",
    ];
    assert_eq!(read_module_config(Some(&registry)).warnings, expected);
}

#[test]
fn what_is_left_out_has_deckhouses_defaults_in_module_config_and_ours_in_a_file() {
    let ttl = |reading: Reading| match reading.settings.unwrap().params {
        Params::Proxy { ttl, .. } => ttl,
        other => panic!("{other:?}"),
    };
    let section = json!({"mode": "Proxy", "proxy": {"imagesRepo": "a/b", "ttl": ""}});
    assert_eq!(ttl(read_module_config(Some(&section))), Duration::from_secs(168 * 3600));
    assert_eq!(ttl(read_file(&section)), Duration::ZERO);
    assert_eq!(ttl(secret(&[("mode", "Proxy"), ("imagesRepo", "a/b")]).0), Duration::ZERO);
    assert_eq!(ttl(secret(&[("mode", "Proxy"), ("imagesRepo", "a/b"), ("ttl", "0s")]).0), Duration::ZERO);
    assert_eq!(
        ttl(secret(&[("mode", "Proxy"), ("imagesRepo", "a/b"), ("ttl", "168h10m5s")]).0),
        Duration::from_secs(605_405)
    );

    let nameless = json!({"mode": "Direct", "direct": {"license": "k"}});
    let found = read_module_config(Some(&nameless));
    assert_eq!(found.settings.unwrap().params.upstream().unwrap().images_repo, "registry.deckhouse.io/deckhouse/ce");
    assert_eq!(found.warnings.len(), 1);
    assert_eq!(read_file(&nameless).settings.unwrap_err(), ["registry.direct: 'imagesRepo' is required."]);
}

#[test]
fn the_secret_is_read_by_deckhouses_keys_and_ours() {
    let (reading, options) = secret(&[
        ("mode", "Direct\n"),
        ("imagesRepo", "registry.example.com/a/"),
        ("scheme", "HTTPS"),
        ("checkMode", "Relax"),
        ("ca", CA),
        ("license", "key\n"),
        ("raw_config", "mode: Direct"),
        ("switch.settle", "20s"),
        ("switch.scanInterval", "5s"),
        ("switch.unreadyNodes", "skip"),
    ]);
    let settings = reading.settings.unwrap();
    assert_eq!((settings.check_mode, reading.warnings.len()), (CheckMode::Relax, 0));
    let upstream = settings.params.upstream().unwrap();
    assert_eq!((upstream.ca.as_deref(), &upstream.login), (Some(CA), &Some(login("license-token", "key"))));
    let options = options.over(SwitchOptions::default());
    let expected = SwitchOptions {
        settle: Duration::from_secs(20),
        scan_interval: Duration::from_secs(5),
        unready_nodes: UnreadyNodes::Skip,
    };
    assert_eq!(options, expected);
    assert_eq!(OptionChanges::default().over(SwitchOptions::default()), SwitchOptions::default());
}

#[test]
fn what_is_wrong_with_the_secret_is_said() {
    for (data, expected) in [
        (vec![], "d8-registry-settings: 'mode' is required."),
        (vec![("mode", "Managed")], "Unknown registry mode: \"Managed\""),
        (vec![("mode", "Direct")], "registry.direct: 'imagesRepo' is required."),
        (vec![("mode", "Unmanaged"), ("scheme", "HTTP")], "registry.unmanaged: 'imagesRepo' is required."),
        (
            vec![("mode", "Local"), ("switch.settle", "25h")],
            "d8-registry-settings: 'switch.settle' is a time from 0s to 24h, such as 10m.",
        ),
        (
            vec![("mode", "Local"), ("switch.scanInterval", "0s")],
            "d8-registry-settings: 'switch.scanInterval' is a time from 1s to 1h, such as 30s.",
        ),
        (
            vec![("mode", "Local"), ("switch.unreadyNodes", "Skip")],
            "d8-registry-settings: 'switch.unreadyNodes' is wait or skip.",
        ),
    ] {
        assert_eq!(secret(&data).0.settings.unwrap_err(), [expected]);
    }
    let bytes = BTreeMap::from([("mode".to_owned(), b"Local".to_vec()), ("password".to_owned(), vec![0xff])]);
    assert_eq!(read_secret(&bytes).0.settings.unwrap_err(), ["d8-registry-settings: 'password' is not UTF-8."]);
}

#[test]
fn a_mode_alone_can_be_changed_in_the_secret() {
    let (reading, _) = secret(&[("mode", "Local"), ("imagesRepo", "a/b"), ("switch.new", "1")]);
    assert_eq!(reading.settings.unwrap().params, Params::Local);
    assert_eq!(reading.warnings.len(), 2);
    assert_eq!(secret(&[("mode", "Unmanaged"), ("scheme", "")]).0.settings.unwrap().params, Params::BARE);
}

#[test]
fn a_secret_without_our_annotation_is_no_input() {
    let data = BTreeMap::from([("mode".to_owned(), b"Local".to_vec())]);
    let annotations = |value: &str| BTreeMap::from([("d8-registry/source".to_owned(), value.to_owned())]);
    assert_eq!(from_secret(&BTreeMap::new(), &data), Input::Absent);
    assert_eq!(from_secret(&annotations("deckhouse"), &data), Input::Absent);
    let settings = Settings { params: Params::Local, check_mode: CheckMode::Default };
    assert_eq!(from_secret(&annotations("manual"), &data), Input::Valid { settings, generation: 0 });
    let invalid = from_secret(&annotations("manual"), &BTreeMap::new());
    assert!(matches!(invalid, Input::Invalid { generation: 0, .. }));
}

fn json_value() -> BoxedStrategy<Value> {
    let keys = [
        "mode",
        "direct",
        "proxy",
        "unmanaged",
        "imagesRepo",
        "scheme",
        "ca",
        "username",
        "password",
        "license",
        "checkMode",
        "ttl",
    ];
    let words = [
        "Direct",
        "Proxy",
        "Local",
        "Unmanaged",
        "HTTP",
        "HTTPS",
        "a/b",
        "a:5000/b/c",
        "Relax",
        "5m",
        "99999999999h",
        CA,
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
    ];
    let key = prop_oneof![4 => prop::sample::select(keys.to_vec()).prop_map(str::to_owned), 1 => any::<String>()];
    leaf.prop_recursive(3, 40, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
    .boxed()
}

/// What is valid is written to the Secret as what it is.
fn assert_written_and_read(settings: &Settings) {
    let data = to_secret(settings).into_iter().map(|(key, value)| (key.to_owned(), value.expose().into())).collect();
    let again = read_secret(&data).0.settings.unwrap();
    assert_eq!(again.params, settings.params);
    // Modes without parameters check nothing outside.
    if settings.params.upstream().is_some() {
        assert_eq!(again.check_mode, settings.check_mode);
    }
}

proptest! {
    #[test]
    fn whatever_the_json_it_is_settings_or_sentences(registry in json_value()) {
        for reading in [read_module_config(Some(&registry)), read_file(&registry)] {
            match reading.settings {
                Ok(settings) => assert_written_and_read(&settings),
                Err(problems) => prop_assert!(!problems.is_empty() && problems.iter().all(|problem| !problem.contains('\n'))),
            }
        }
    }

    #[test]
    fn whatever_the_section_it_is_settings_or_sentences(
        mode in prop::sample::select(vec!["Direct", "Proxy", "Unmanaged"]),
        repo in "[a-z.]{1,8}(:[0-9]{1,4})?(/[a-z._-]{1,5}){0,2}",
        scheme in prop::option::of(prop::sample::select(vec!["HTTP", "HTTPS"])),
        login in prop::option::of(("[!-9;-~]{1,10}", "[!-~]{1,10}")),
        ttl in prop::option::of("([1-9][0-9]{0,2}h)?([1-9][0-9]?m)?([1-9]s)?"),
    ) {
        let mut section = json!({"imagesRepo": repo, "scheme": scheme, "ttl": ttl});
        if let Some((username, password)) = login {
            section["username"] = json!(username);
            section["password"] = json!(password);
        }
        let mut registry = json!({"mode": mode});
        registry[mode.to_ascii_lowercase()] = section;
        if let Ok(settings) = read_file(&registry).settings {
            assert_written_and_read(&settings);
        }
    }

    #[test]
    fn whatever_the_secret_it_is_settings_or_sentences(
        data in prop::collection::btree_map("[a-zA-Z.]{1,12}|mode|imagesRepo|switch\\.settle|ca", any::<Vec<u8>>(), 0..5)
    ) {
        if let Err(problems) = read_secret(&data).0.settings {
            prop_assert!(!problems.is_empty());
        }
    }
}

#[test]
fn a_secret_of_deckhouses_name_counts_if_it_is_ours_and_no_releases() {
    let annotations = |names: &[&str]| {
        let value = |name: &&str| {
            ((*name).to_owned(), if name.ends_with("source") { "manual" } else { "deckhouse" }.to_owned())
        };
        names.iter().map(value).collect()
    };
    assert!(counts(&annotations(&["d8-registry/source"])));
    assert!(!counts(&annotations(&["d8-registry/source", "meta.helm.sh/release-name"])));
    assert!(!counts(&annotations(&["meta.helm.sh/release-name"])) && !counts(&annotations(&[])));
}
