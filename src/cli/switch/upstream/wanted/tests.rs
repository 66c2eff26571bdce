use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::switch::{NodePlan, Plane, ServerMode, Upstream};
use crate::values::{Scheme, Secret};

const REPO: &str = "registry.example.com/deckhouse/ee";

fn upstream(password: &str) -> Upstream {
    let login = Login { username: "license-token".to_owned(), password: Secret::new(password.to_owned()) };
    Upstream { images_repo: REPO.to_owned(), scheme: Scheme::Http, ca: None, login: Some(login) }
}

fn proxy(password: &str) -> Params {
    Params::Proxy { upstream: upstream(password), ttl: Duration::from_secs(3600) }
}

fn nothing() -> UpstreamParameters {
    UpstreamParameters {
        images_repo: None,
        scheme: None,
        ca_file: None,
        license_file: None,
        username: None,
        password_file: None,
        check_mode: None,
    }
}

fn record(params: Params) -> Record {
    Record {
        attempt: 1,
        generation: 1,
        source: None,
        source_chosen: false,
        settings: None,
        passed_over: None,
        unset_seen: false,
        completed: params.clone(),
        target: params.clone(),
        under_way: true,
        adopted: false,
        plane: Plane { in_force: ServerMode::Unmanaged, coming: None, previous: Vec::new() },
        nodes: NodePlan::default(),
        given: None,
        deckhouse_registry: Some(params),
        fallback: None,
        named: BTreeSet::new(),
        ca: Some("a".to_owned()),
        ro: Some(Secret::new("b".to_owned())),
        skipped: BTreeSet::new(),
        settle: None,
        accept_missing: false,
    }
}

fn file(folder: &Path, text: &str) -> PathBuf {
    let file = folder.join(text.trim());
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn a_new_licence_alone_keeps_everything_else() {
    let folder = tempfile::tempdir().unwrap();
    let given = UpstreamParameters { license_file: Some(file(folder.path(), "new\n")), ..nothing() };
    let (settings, _) = given.over(&proxy("old"), CheckMode::Relax).unwrap();
    assert_eq!(settings, Settings { params: proxy("new"), check_mode: CheckMode::Relax });
    // A user of the registry takes the place of the licence's.
    let password_file = Some(file(folder.path(), "p"));
    let given = UpstreamParameters { username: Some("u".to_owned()), password_file, ..nothing() };
    let (settings, _) = given.over(&proxy("old"), CheckMode::Default).unwrap();
    assert_eq!(settings.params.upstream().unwrap().login.as_ref().unwrap().username, "u");
}

#[test]
fn credentials_are_taken_along_to_no_other_host() {
    let to = |repo: &str| {
        let given = UpstreamParameters { images_repo: Some(repo.to_owned()), ..nothing() };
        let (settings, _) = given.over(&Params::Direct(upstream("old")), CheckMode::Default).unwrap();
        settings.params.upstream().cloned().unwrap()
    };
    let same = to("registry.example.com/deckhouse/se/");
    assert_eq!((same.images_repo.as_str(), &same.login), ("registry.example.com/deckhouse/se", &upstream("old").login));
    assert_eq!(same.scheme, Scheme::Http);
    for other in ["registry.example.com:5000/deckhouse/ee", "example.com/registry.example.com/ee"] {
        assert_eq!((to(other).login, to(other).scheme), (None, Scheme::Https), "{other}");
    }
}

#[test]
fn what_is_not_valid_is_said_and_no_secret_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let license_file = Some(file(folder.path(), "two words"));
    let given = UpstreamParameters { license_file, scheme: Some("ftp".to_owned()), ..nothing() };
    let failure = given.over(&proxy("old"), CheckMode::Default).unwrap_err();
    assert!(failure.message.contains("'license'") && failure.message.contains("scheme"), "{}", failure.message);
    assert!(!failure.message.contains("two words") && !failure.message.contains("old"), "{}", failure.message);
}

#[test]
fn where_there_is_no_upstream_it_is_said_why() {
    assert!(in_force(&record(Params::Local), None).unwrap_err().contains("d8 mirror push"));
    for params in [proxy("a"), Params::Direct(upstream("a")), Params::Unmanaged(Some(upstream("a")))] {
        assert_eq!(in_force(&record(params.clone()), None), Ok(params));
    }
}

#[test]
fn in_bare_unmanaged_it_is_what_deckhouse_registry_names() {
    let named = |data: Data| in_force(&record(Params::BARE), Some(&data));
    let data = |params: &Params| {
        let registry = DeckhouseRegistry::of(
            params,
            Some(&InCluster {
                ca: "a".to_owned(),
                ro: Login { username: "ro".to_owned(), password: Secret::new("b".to_owned()) },
            }),
        )
        .unwrap();
        registry.data().into_iter().map(|(key, value)| (key.to_owned(), value.expose().as_bytes().to_vec())).collect()
    };
    let outside = Params::Unmanaged(Some(upstream("a")));
    assert_eq!(named(data(&outside)), Ok(outside));
    assert!(named(data(&Params::Local)).unwrap_err().contains("the cluster's own address"));
    assert!(named(Data::new()).unwrap_err().contains("can't be used"));
    assert!(in_force(&record(Params::BARE), None).unwrap_err().contains("there is no Secret deckhouse-registry"));
}

#[test]
fn it_is_written_when_the_record_and_the_secret_both_say_so() {
    let direct = Params::Direct(upstream("new"));
    let record = record(direct.clone());
    let ro = Login { username: "ro".to_owned(), password: Secret::new("b".to_owned()) };
    let in_cluster = InCluster { ca: "a".to_owned(), ro };
    let registry = |params: &Params| DeckhouseRegistry::of(params, Some(&in_cluster)).unwrap();
    assert!(is_written(&record, Some(&registry(&direct)), &direct));
    // In Direct components sign in with the upstream's own pair.
    let old = Params::Direct(upstream("old"));
    assert!(!is_written(&record, Some(&registry(&old)), &direct));
    assert!(!is_written(&record, Some(&registry(&direct)), &old));
    assert!(!is_written(&record, None, &direct));
    let not_yet = Record { deckhouse_registry: Some(old), ..record.clone() };
    assert!(!is_written(&not_yet, Some(&registry(&direct)), &direct));
    let unknown = Record { ca: None, ..record };
    assert!(!is_written(&unknown, Some(&registry(&direct)), &direct));
}
