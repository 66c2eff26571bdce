//! `deckhouse-registry`, users, the mode file, and what stands beside them.

use std::collections::BTreeMap;

use super::{anonymous, in_cluster, login, proxy, stored, text, upstream};
use crate::switch::documents::{
    Coming, DeckhouseRegistry, FoundModeFile, MastersMap, ModeFile, Phase, Plane, ServerMode, User,
};
use crate::switch::observed::Word;
use crate::switch::outputs::{masters, services, users, words};
use crate::switch::record::InputSource;
use crate::switch::settings::{Params, Upstream};
use crate::values::{Role, Scheme, Secret};

fn named(images_repo: &str, password: &str) -> Upstream {
    let login = Some(login("license-token", password));
    Upstream { images_repo: images_repo.to_owned(), scheme: Scheme::Https, ca: None, login }
}

/// The hashes are of Go's `encoding/json` over Deckhouse's type.
#[test]
fn the_hash_is_the_one_that_the_pod_of_deckhouse_computes() {
    let password = "a<b>&c\"d\\é";
    let configured = Params::Unmanaged(Some(named("registry.example.com:5000/deckhouse/ee", password)));
    let secret = DeckhouseRegistry::of(&configured, None).unwrap();
    let docker_config = r#"{"auths":{"registry.example.com:5000":{"username":"license-token","password":"a\u003cb\u003e\u0026c\"d\\é","auth":"bGljZW5zZS10b2tlbjphPGI+JmMiZFzDqQ=="}}}"#;
    assert_eq!(secret.docker_config.expose(), docker_config);
    assert_eq!(secret.hash(), "a6c0f03086cd80794119cea6d0789f75410a98f7ae33b16b0cd5d90b6c500546");

    let managed = DeckhouseRegistry::of(&proxy(), Some(&in_cluster())).unwrap();
    assert_eq!(managed.hash(), "072783c058438c0024df4789d2d806728adc82b00e888ca2d4e18eae945206e8");
    let local = DeckhouseRegistry::of(&Params::Local, Some(&in_cluster())).unwrap();
    assert_eq!(local, managed, "nothing changes for the components between Proxy and Local");

    let nobody = Params::Unmanaged(Some(anonymous("registry.example.com/deckhouse/ce")));
    let nobody = DeckhouseRegistry::of(&nobody, None).unwrap();
    assert_eq!(nobody.docker_config.expose(), r#"{"auths":{"registry.example.com":{}}}"#);
    assert_eq!(nobody.hash(), "5c8322aa2dfd639b0a1fdaa3e29e1e73483c926ccd1768004c2cf4d4b7a029d7");
}

#[test]
fn all_five_fields_are_written_and_the_ca_becomes_empty() {
    let configured = Params::Unmanaged(Some(named("registry.example.com/deckhouse/ee", "key")));
    let data = DeckhouseRegistry::of(&configured, None).unwrap().data();
    let shown: Vec<_> = data.iter().map(|(key, value)| (*key, value.expose())).collect();
    let docker_config = r#"{"auths":{"registry.example.com":{"username":"license-token","password":"key","auth":"bGljZW5zZS10b2tlbjprZXk="}}}"#;
    let expected = [
        (".dockerconfigjson", docker_config),
        ("address", "registry.example.com"),
        ("ca", ""),
        ("path", "/deckhouse/ee"),
        ("scheme", "https"),
    ];
    assert_eq!(shown, expected);
}

#[test]
fn in_direct_the_components_ask_with_the_upstreams_user() {
    let direct = DeckhouseRegistry::of(&Params::Direct(upstream("r.example.com/a")), Some(&in_cluster())).unwrap();
    assert_eq!((direct.address.as_str(), direct.path.as_str()), ("registry.d8-system.svc:5001", "/system/deckhouse"));
    assert!(direct.docker_config.expose().contains("license-token"));
    let nobody = DeckhouseRegistry::of(&Params::Direct(anonymous("r.example.com/a")), Some(&in_cluster())).unwrap();
    assert!(nobody.docker_config.expose().contains(r#""username":"ro""#), "the registry answers nobody without a name");
    assert_eq!(DeckhouseRegistry::of(&Params::Direct(upstream("r.example.com/a")), None), None);
    assert_eq!(DeckhouseRegistry::of(&Params::BARE, Some(&in_cluster())), None);
}

fn with(address: &str, path: &str, docker_config: &str) -> DeckhouseRegistry {
    DeckhouseRegistry {
        address: address.to_owned(),
        path: path.to_owned(),
        scheme: "https".to_owned(),
        ca: String::new(),
        docker_config: Secret::new(docker_config.to_owned()),
    }
}

#[test]
fn what_the_webhook_would_refuse_is_said_in_its_words() {
    const GOOD: &str = r#"{"auths":{"a":{}}}"#;
    for (address, path, docker_config, expected) in [
        ("", "/a", GOOD, "Field 'address' cannot be empty or whitespace."),
        ("a", " \n", GOOD, "Field 'path' cannot be empty or whitespace."),
        ("a b", "/a", GOOD, "Field 'address' contains spaces or newlines."),
        ("a", "/a\n", GOOD, "Field 'path' contains spaces or newlines."),
        ("a", "/a", "{", ".dockerconfigjson is not valid JSON."),
        ("a", "/a", "", ".dockerconfigjson is not valid JSON."),
        ("a", "/a", r#"{"auths":[]}"#, ".dockerconfigjson is not valid JSON."),
        ("a", "/a", r#"{"auths":{"a":1}}"#, ".dockerconfigjson is not valid JSON."),
        ("a", "/a", r#"{"auths":{"a":{"auth":1}}}"#, ".dockerconfigjson is not valid JSON."),
        ("a", "/a", "{}", ".dockerconfigjson must contain at least one registry in 'auths'."),
        ("a", "/a", r#"{"auths":{}}"#, ".dockerconfigjson must contain at least one registry in 'auths'."),
        ("a", "/a", r#"{"auths":null}"#, ".dockerconfigjson must contain at least one registry in 'auths'."),
        ("a", "/a", r#"{"auths":{"a b":{}}}"#, "Registry key 'a b' contains spaces or newlines."),
        ("a", "/a", r#"{"auths":{"a":{"auth":"?"}}}"#, "Credentials for registry 'a' are not valid base64."),
        (
            "a",
            "/a",
            r#"{"auths":{"a":{"auth":"YQ=="}}}"#,
            "Credentials for registry 'a' must be in format login:password.",
        ),
        (
            "a",
            "/a",
            r#"{"auths":{"a":{"auth":"OnA="}}}"#,
            "Login for registry 'a' contains spaces, tabs, newlines or empty.",
        ),
        (
            "a",
            "/a",
            r#"{"auths":{"a":{"auth":"YSBiOnA="}}}"#,
            "Login for registry 'a' contains spaces, tabs, newlines or empty.",
        ),
        (
            "a",
            "/a",
            r#"{"auths":{"a":{"auth":"YTpwIHE="}}}"#,
            "Password for registry 'a' contains spaces, tabs, or newlines.",
        ),
    ] {
        assert_eq!(with(address, path, docker_config).problems(), [expected], "{docker_config}");
    }
    for docker_config in
        [GOOD, r#"{"auths":{"a":{"auth":"YTo="}}}"#, r#"{"auths":{"a":{"auth":""},"b":null},"more":1}"#]
    {
        assert_eq!(with("a", "/a", docker_config).problems(), Vec::<String>::new());
    }
    let root = Params::Unmanaged(Some(anonymous("registry.example.com:5000")));
    let problems = DeckhouseRegistry::of(&root, None).unwrap().problems();
    assert_eq!(problems, ["Field 'path' cannot be empty or whitespace."]);
}

#[test]
fn what_is_rendered_is_what_the_webhook_takes_and_is_read_back() {
    let of = |params: &Params| DeckhouseRegistry::of(params, Some(&in_cluster())).unwrap();
    let configured = upstream("registry.example.com:5000/deckhouse/ee");
    for params in [Params::Direct(configured.clone()), proxy(), Params::Unmanaged(Some(configured.clone()))] {
        let secret = of(&params);
        assert_eq!(secret.problems(), Vec::<String>::new());
        let data = secret.data().iter().map(|(key, value)| ((*key).to_owned(), value.expose().into())).collect();
        assert_eq!(DeckhouseRegistry::read(&data).unwrap(), secret);
        let expected = (!params.is_managed()).then(|| configured.clone());
        assert_eq!(secret.upstream().unwrap(), expected);
    }
    let nobody = Params::Unmanaged(Some(anonymous("registry.example.com/a")));
    assert_eq!(of(&nobody).upstream().unwrap(), nobody.upstream().cloned());
}

#[test]
fn a_registry_of_before_is_read_without_scheme_and_ca_and_with_a_url_for_a_key() {
    let docker_config = r#"{"auths":{"https://r.example.com/v2":{"auth":"dTpw"}}}"#;
    let data = BTreeMap::from(
        [("address", "r.example.com"), ("path", "/a/"), (".dockerconfigjson", docker_config)]
            .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())),
    );
    let upstream = DeckhouseRegistry::read(&data).unwrap().upstream().unwrap().unwrap();
    assert_eq!((upstream.images_repo.as_str(), upstream.scheme), ("r.example.com/a", Scheme::Https));
    assert_eq!(upstream.login, Some(login("u", "p")));
}

#[test]
fn a_login_of_before_is_never_taken_for_nobody() {
    let upstream = |text: &str| with("r.example.com", "/a", text).upstream();
    let given = r#"{"auths":{"r.example.com":{"username":"u","password":"p"}}}"#;
    assert_eq!(upstream(given).unwrap().unwrap().login, Some(login("u", "p")), "docker writes no auth");
    assert_eq!(upstream(r#"{"auths":{"r.example.com":{}}}"#).unwrap().unwrap().login, None);
    for wrong in [r#"{"auths":{"other":{"auth":"dTpw"}}}"#, r#"{"auths":{"r.example.com":{"username":"u"}}}"#] {
        assert!(upstream(wrong).is_err(), "{wrong}");
    }
}

/// Bytes that count up.
fn counting() -> impl FnMut(&mut [u8]) -> Result<(), std::fmt::Error> {
    let mut next = 0_u8;
    move |bytes| {
        for byte in bytes {
            *byte = next;
            next = next.wrapping_add(7);
        }
        Ok(())
    }
}

#[test]
fn a_new_user_has_a_password_of_letters_and_digits_and_a_hash_of_it() {
    let secret = users::new_user(Role::MirrorPuller, counting()).unwrap();
    assert_eq!((secret.name.as_str(), secret.kind), ("registry-user-mirror-puller", "registry/user"));
    assert_eq!(secret.labels["type"], "registry-user");
    let password = text(&secret, "password");
    assert!(password.len() == 24 && password.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{password}");
    assert!(text(&secret, "passwordHash").starts_with("$2a$10$"));
    let user = User::read(&stored(&secret), users::hash_fits).unwrap();
    assert!(user.hash_fits && user.name == "mirror-puller");
    let another = users::new_user(Role::MirrorPuller, |bytes: &mut [u8]| {
        bytes.fill(61);
        Ok::<_, std::fmt::Error>(())
    });
    assert_eq!(text(&another.unwrap(), "password"), "9".repeat(24));
    assert!(users::new_user(Role::Ro, |_: &mut [u8]| Err(std::fmt::Error)).is_err());
}

#[test]
fn a_hash_that_does_not_fit_is_made_anew_and_the_password_stays() {
    let mut data = BTreeMap::from(
        [("name", "rw"), ("password", "KFVxXZGuqKkkumPz"), ("passwordHash", "$2a$10$no")]
            .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec())),
    );
    let user = User::read(&data, users::hash_fits).unwrap();
    assert!(!user.hash_fits);
    let repaired = users::user(Role::Rw, &user.password, counting()).unwrap();
    assert_eq!(text(&repaired, "password"), "KFVxXZGuqKkkumPz");
    assert!(users::hash_fits("KFVxXZGuqKkkumPz", text(&repaired, "passwordHash")));
    data.remove("passwordHash");
    assert!(!User::read(&data, |_, _| true).unwrap().hash_fits, "no hash fits nothing");
    data.insert("password".to_owned(), Vec::new());
    assert_eq!(User::read(&data, |_, _| true).unwrap_err(), "name or password is empty");
    let long = Secret::new("a".repeat(73));
    assert!(users::user(Role::Rw, &long, counting()).unwrap_err().to_string().contains("72 bytes"));
}

fn mode_file() -> ModeFile {
    ModeFile {
        generation: 12,
        plane: Plane {
            in_force: ServerMode::of(&proxy()),
            coming: Some(Coming { mode: ServerMode::Local, phase: Phase::Filling }),
            previous: vec![ServerMode::Direct(anonymous("old.example.com:5000/a")), ServerMode::Local],
        },
    }
}

#[test]
fn the_mode_file_is_yaml_of_the_agreed_form() {
    let mut file = mode_file();
    let expected = r#"version: 1
generation: 12
inForce:
  mode: Proxy
  upstream:
    imagesRepo: registry.example.com/deckhouse/ee
    scheme: HTTPS
    ca: "-----BEGIN CERTIFICATE-----\nMIIB<>&\u2028\n-----END CERTIFICATE-----\n"
    username: license-token
    password: "a<b>&c"
  ttl: "1h"
coming:
  mode: Local
  phase: filling
previous:
- mode: Direct
  upstream:
    imagesRepo: old.example.com:5000/a
    scheme: HTTP
- mode: Local
"#;
    assert_eq!(file.render().expose(), expected);
    assert_eq!(file.to_secret().data["mode.yaml"].expose(), expected);
    let hash = file.hash();
    assert!(hash.len() == 64 && hash == mode_file().hash());
    file.generation += 1;
    assert_ne!(file.hash(), hash);
    file.plane = Plane { in_force: ServerMode::Unmanaged, coming: None, previous: Vec::new() };
    assert_eq!(file.render().expose(), "version: 1\ngeneration: 13\ninForce:\n  mode: Unmanaged\n");
}

#[test]
fn a_mode_file_of_other_bytes_says_the_same_under_another_hash() {
    let mut data = stored(&mode_file().to_secret());
    let found = FoundModeFile::read(&data).unwrap();
    assert_eq!((&found.file, found.hash), (&mode_file(), mode_file().hash()));
    let mut edited = data["mode.yaml"].clone();
    edited.extend(b"# a remark\n");
    data.insert("mode.yaml".to_owned(), edited);
    let edited = FoundModeFile::read(&data).unwrap();
    assert!(edited.file == found.file && edited.hash != mode_file().hash());
}

#[test]
fn a_garbled_mode_file_is_no_mode_file() {
    for (text, expected) in [
        ("version: 2\ngeneration: 1\ninForce: {mode: Local}\n", "version 2 is not known"),
        ("inForce: {mode: Direct}\n", "mode Direct has parameters that are not its own, or lacks some"),
        (
            "inForce: {mode: Local}\nprevious: [{mode: Unmanaged}]\n",
            "there are too many previous modes, or one of them is Unmanaged",
        ),
        ("inForce: {mode: Local}\ncoming: {mode: Unmanaged, phase: ready}\n", "the coming mode is Unmanaged"),
        (
            "inForce: {mode: Local}\ncoming: {mode: Local, phase: soon}\n",
            "the coming mode has a phase that is not known",
        ),
    ] {
        let head = if text.starts_with("version") { "" } else { "version: 1\ngeneration: 1\n" };
        let data = [("mode.yaml".to_owned(), format!("{head}{text}").into_bytes())].into();
        assert_eq!(FoundModeFile::read(&data).unwrap_err(), expected);
    }
}

#[test]
fn the_list_of_masters_is_read_back() {
    let endpoints = masters::endpoints(&["10.0.0.10".to_owned(), "10.0.0.2".to_owned()]);
    let file = masters::list_file(&endpoints);
    assert_eq!(
        file,
        "# The registry on the masters; written by d8-registry controller.\n10.0.0.10:5001\n10.0.0.2:5001\n"
    );
    for settled in [None, Some("a version".to_owned())] {
        let map = MastersMap { backends: endpoints.clone(), settled };
        let data = map.data().into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        assert_eq!(MastersMap::read(&data), Ok(map));
    }
}

#[test]
fn a_service_leads_to_the_servers_or_to_nobody() {
    assert_eq!(services::leads_to_servers(&services::servers()), Ok(true));
    assert_eq!(services::leads_to_servers(&services::nobody()), Ok(false));
    assert!(services::leads_to_servers(&BTreeMap::new()).is_err(), "who else gets pushes has no right to them");
    assert_eq!(services::servers()["component"], "registry-server");
}

#[test]
fn words_are_read_as_they_are_written() {
    for word in [Word::FinishAcceptMissing, Word::Source(InputSource::Manual), Word::Source(InputSource::ModuleConfig)]
    {
        let annotations = BTreeMap::from([(words::WORD_ANNOTATION.to_owned(), word.as_str().to_owned())]);
        assert_eq!(Word::of(&annotations), Some(word));
    }
    assert_eq!(Word::of(&BTreeMap::from([(words::WORD_ANNOTATION.to_owned(), "else".to_owned())])), None);
    assert_eq!(Word::of(&BTreeMap::new()), None);
}
