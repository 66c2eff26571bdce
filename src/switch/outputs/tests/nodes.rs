//! `registry-bashible-config`.

use super::{anonymous, in_cluster, proxy, stored, text, upstream};
use crate::switch::documents::{BashibleConfig, FIXED_HOST, Hosts, NODE_HOST};
use crate::switch::outputs::{hosts, merged};
use crate::switch::record::NodePlan;
use crate::switch::settings::{Params, Target};

fn masters(addresses: &[&str]) -> Vec<String> {
    addresses.iter().map(|address| (*address).to_owned()).collect()
}

fn of(kept: Hosts, with: Params, addresses: &[&str]) -> BashibleConfig {
    BashibleConfig::of(&NodePlan { kept, with: Some(with) }, Some(&in_cluster()), &masters(addresses)).unwrap()
}

#[test]
fn in_direct_nodes_ask_the_upstream_and_then_the_registry_behind_it() {
    let direct = Params::Direct(upstream("registry.example.com/deckhouse/ee"));
    let config = of(Hosts::new(), direct, &["10.0.0.2", "10.0.0.1", "10.0.0.2"]);
    let secret = config.to_secret();
    let expected = r#"mode: Direct
version: e6d3387cbf110d55df3424e4c61ef45e1d7eec24432449800cbd768436fdd6a8
imagesBase: registry.d8-system.svc:5001/system/deckhouse
proxyEndpoints:
- "10.0.0.1:5001"
- "10.0.0.2:5001"
hosts:
  registry.d8-system.svc:5001:
    mirrors:
    - host: registry.example.com
      scheme: https
      ca: "-----BEGIN CERTIFICATE-----\nMIIB<>&\u2028\n-----END CERTIFICATE-----\n"
      auth:
        username: license-token
        password: "a<b>&c"
        auth: ""
      rewrites:
      - from: "^system/deckhouse"
        to: deckhouse/ee
    - host: "127.0.0.1:5001"
      scheme: https
      ca: "-----BEGIN CERTIFICATE-----\nMIIB<>&\u2028\n-----END CERTIFICATE-----\n"
      auth:
        username: license-token
        password: "a<b>&c"
        auth: ""
"#;
    assert_eq!(text(&secret, "config"), expected);
    assert_eq!(secret.annotations["helm.sh/resource-policy"], "keep");
    let labels: Vec<_> = secret.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(labels, ["app=registry", "heritage=deckhouse", "module=registry", "name=registry-bashible-config"]);
}

#[test]
fn an_upstream_that_asks_nobody_leaves_ro_before_the_registry() {
    let found = hosts(&Params::Direct(anonymous("registry.example.com/a")), Some(&in_cluster())).unwrap();
    let mirrors = &found[FIXED_HOST];
    assert_eq!(mirrors[0].login, None);
    assert_eq!(mirrors[1].login, Some(in_cluster().ro));
    assert_eq!(mirrors[1].host, NODE_HOST);
}

/// The hashes are of Go's `encoding/json` over Deckhouse's types.
#[test]
fn the_version_is_the_hash_of_gos_json() {
    let configured = Params::Unmanaged(Some(anonymous("registry.example.com/deckhouse/ee")));
    let alone = of(Hosts::new(), configured.clone(), &["10.0.0.1"]);
    assert_eq!(alone.version, "1ba9ff6b4a1150fab47a795482be9a823156623df3e114fd3292af0a3f3de7d8");
    assert_eq!(alone.proxy_endpoints, Vec::<String>::new());
    let local = hosts(&Params::Local, Some(&in_cluster())).unwrap();
    let transition = of(local, configured, &["10.0.0.1"]);
    assert_eq!(transition.version, "68a545200562aa4d29d2e3f1297538dac81641d8e773b783da4df5ecbd55ffd2");
    assert_eq!(transition.images_base, "registry.example.com/deckhouse/ee");
    assert_eq!(transition.proxy_endpoints, ["10.0.0.1:5001"]);
}

#[test]
fn a_master_that_comes_changes_the_version() {
    let one = of(Hosts::new(), Params::Local, &["10.0.0.1"]);
    let two = of(Hosts::new(), Params::Local, &["10.0.0.1", "fd00::1"]);
    assert_ne!(one.version, two.version);
    assert_eq!(two.proxy_endpoints, ["10.0.0.1:5001", "[fd00::1]:5001"]);
}

#[test]
fn in_a_transition_the_old_mirrors_come_first_and_the_same_one_is_replaced_in_its_place() {
    let direct = hosts(&Params::Direct(upstream("registry.example.com/deckhouse/ee")), Some(&in_cluster())).unwrap();
    let to_proxy = merged(&direct, &hosts(&proxy(), Some(&in_cluster())).unwrap());
    let mirrors = &to_proxy[FIXED_HOST];
    assert_eq!(mirrors.len(), 2);
    assert_eq!(mirrors[0], direct[FIXED_HOST][0]);
    assert_eq!((mirrors[1].host.as_str(), &mirrors[1].login), (NODE_HOST, &Some(in_cluster().ro)));

    let mut other = anonymous("registry.example.com/another");
    other.scheme = crate::values::Scheme::Https;
    let retargeted = merged(&to_proxy, &hosts(&Params::Direct(other), Some(&in_cluster())).unwrap());
    let mirrors = &retargeted[FIXED_HOST];
    assert_eq!((mirrors.len(), mirrors[0].rewrites[0].to.as_str(), &mirrors[0].login), (2, "another", &None));

    let plain = anonymous("registry.example.com/deckhouse/ee");
    let away = merged(&retargeted, &hosts(&Params::Unmanaged(Some(plain)), None).unwrap());
    assert_eq!(away[FIXED_HOST], retargeted[FIXED_HOST]);
    assert_eq!(away["registry.example.com"].len(), 1);
}

#[test]
fn what_nodes_get_is_not_known_without_the_registrys_authority_and_user() {
    for params in [Params::Direct(upstream("a/b")), proxy(), Params::Local] {
        assert_eq!(hosts(&params, None), None);
    }
    assert_eq!(hosts(&Params::BARE, None), Some(Hosts::new()));
}

#[test]
fn a_secret_of_deckhouse_is_read() {
    let config = "mode: unmanaged\nversion: abc\nimagesBase: r.example.com/a\nproxyEndpoints: []\nhosts:\n  r.example.com:\n    \
                  mirrors:\n      - host: r.example.com\n        scheme: HTTPS\n        auth: {username: '', password: '', auth: \
                  dTpwOnE=}\n        new: field\nanother: {}\n";
    let read = BashibleConfig::read(&[("config".to_owned(), config.into())].into()).unwrap();
    assert_eq!(read.mode, Target::Unmanaged);
    let mirror = &read.hosts["r.example.com"][0];
    let login = mirror.login.as_ref().unwrap();
    assert_eq!((login.username.as_str(), login.password.expose(), &mirror.ca), ("u", "p:q", &None));
}

#[test]
fn what_can_not_be_read_is_said_without_a_word_of_it() {
    for (config, expected) in [
        (
            "mode: Direct\nhosts: {a: {mirrors: [{host: hunter2, scheme: ftp}]}}",
            "a mirror of a: scheme is neither http nor https",
        ),
        ("mode: Managed\nhosts: {}", "mode \"Managed\" is not known"),
        ("hosts: hunter2", "key config: no YAML of the expected form at line 1, column 8"),
        (
            "mode: Direct\nhosts: {a: {mirrors: [{host: b, scheme: http, auth: {auth: hunter2}}]}}",
            "a mirror of a: auth is not user:password in base64",
        ),
    ] {
        let error = BashibleConfig::read(&[("config".to_owned(), config.into())].into()).unwrap_err();
        assert!(error.starts_with(expected.split(" at ").next().unwrap()) && !error.contains("hunter2"), "{error}");
    }
    assert_eq!(BashibleConfig::read(&[].into()).unwrap_err(), "key config is missing");
    assert_eq!(
        BashibleConfig::read(&[("config".to_owned(), vec![0xff])].into()).unwrap_err(),
        "key config is not UTF-8"
    );
}

#[test]
fn a_secret_that_was_edited_is_read_as_something_else() {
    let config = of(Hosts::new(), proxy(), &["10.0.0.1"]);
    let mut data = stored(&config.to_secret());
    assert_eq!(BashibleConfig::read(&data).unwrap(), config);
    let edited = String::from_utf8(data["config"].clone()).unwrap().replace("hunter2", "hunter3");
    data.insert("config".to_owned(), edited.into_bytes());
    assert_ne!(BashibleConfig::read(&data).unwrap(), config);
}
