//! Laws of lists, addresses and messages.

use super::scripted::{ONE, Registry};
use super::*;
use crate::oci::Reference;
use crate::telemetry::Metrics;
use crate::upstream::{Credentials, EndpointOptions, Face, ProxyVariables, Upstream, UpstreamLimits, UpstreamOptions};
use crate::values::Mode;
use tokio_util::task::TaskTracker;

/// A registry that takes connections and never answers.
fn silent(listener: &std::net::TcpListener) -> Target {
    let host = listener.local_addr().unwrap().to_string();
    let address: RegistryAddress = format!("http://{host}/a").parse().unwrap();
    let endpoint = EndpointOptions {
        scheme: address.scheme,
        host,
        path: address.path.clone(),
        ca: None,
        credentials: Credentials::Anonymous,
    };
    let options = UpstreamOptions {
        endpoints: vec![endpoint],
        trusted_hosts: Vec::new(),
        proxy: ProxyVariables::default(),
        limits: UpstreamLimits::default(),
        face: Face::OwnStore,
    };
    Target::new(address, Upstream::new(&options, Metrics::new().unwrap(), TaskTracker::new()).unwrap())
}

#[tokio::test]
async fn what_is_not_answered_within_the_budget_is_neither_good_nor_an_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let items = parse(&format!("a {ONE}\nb {ONE}")).unwrap();
    let mut check = Check::new(CheckMode::Default, Depth::Manifest, items, vec![silent(&listener)]);
    check.run(Some(Duration::from_millis(50)), &|| panic!("nobody answers")).await;
    let host = listener.local_addr().unwrap();
    assert_eq!(check.report().to_string(), format!("Mode: Default\n{host}: 0 of 2 items processed"));
    assert_eq!(check.open(), 2);
    check.replace_items(parse("r:v1").unwrap());
    assert_eq!(check.open(), 1);
}

#[tokio::test]
async fn what_another_mode_answers_is_an_error_be_it_yes_or_no() {
    let said = async |answering: Option<Mode>, wanted: Option<Mode>, is_full: bool| {
        let registry = Registry::start(answering).await;
        if !is_full {
            registry.empty();
        }
        let items = parse(&format!("a {ONE}")).unwrap();
        let mut check = Check::new(CheckMode::Default, Depth::Manifest, items, vec![registry.target(wanted)]);
        check.run(None, &|| {}).await;
        check.report().to_string()
    };
    for is_full in [true, false] {
        let proxy = said(Some(Mode::Proxy), Some(Mode::Local), is_full).await;
        assert!(proxy.contains(" answered by mode Proxy, not Local"), "{proxy}");
    }
    let silent = said(None, Some(Mode::Local), true).await;
    assert!(silent.contains("does not say which mode answered, where Local was asked"), "{silent}");
    for (answering, wanted) in [(Some(Mode::Local), Some(Mode::Local)), (Some(Mode::Proxy), None), (None, None)] {
        assert_eq!(said(answering, wanted, true).await, "Mode: Default\nm: all 1 items are checked");
    }
    let missing = said(Some(Mode::Local), Some(Mode::Local), false).await;
    assert!(missing.contains("unexpected status code 404 Not Found"), "{missing}");
}

fn report(processed: usize, items: usize, errors: usize) -> Report {
    let errors = (1..=errors).map(|number| Finding {
        source: format!("module/a/{number}"),
        image: format!("h/r:{number}"),
        error: "no".to_owned(),
    });
    let registry = RegistryReport { name: "master-1".to_owned(), items, processed, errors: errors.collect() };
    Report { mode: CheckMode::Default, has_run: true, registries: vec![registry] }
}

#[test]
fn messages_are_the_documented_ones() {
    assert_eq!(report(166, 166, 0).to_string(), "Mode: Default\nmaster-1: all 166 items are checked");
    assert_eq!(report(3, 166, 0).to_string(), "Mode: Default\nmaster-1: 3 of 166 items processed");
    let block = |number| format!("- source: module/a/{number}\n  image: h/r:{number}\n  error: no\n");
    let five: String = (1..=5).map(block).collect();
    let head = "Mode: Default\nmaster-1: 0 of 166 items processed";
    assert_eq!(report(0, 166, 5).to_string() + "\n", format!("{head}, 5 items with errors:\n{five}"));
    assert_eq!(report(0, 166, 166).to_string(), format!("{head}, 166 items with errors:\n{five}\n  ...and more"));
    // A registry that lacks something is followed by an empty line, one that is not through by none.
    for (errors, gap) in [(1, "\n\n"), (0, "\n")] {
        let mut two = report(0, 1, errors);
        let first = two.to_string();
        two.registries.extend(report(1, 1, 0).registries);
        assert_eq!(two.to_string(), format!("{first}{gap}master-1: all 1 items are checked"));
    }
    let fresh = Check::new(CheckMode::Relax, Depth::Manifest, Vec::new(), Vec::new()).report();
    assert_eq!(fresh.to_string(), "Initializing");
    assert!(!fresh.is_good() && report(1, 1, 0).is_good() && !report(0, 1, 1).is_good());
}

#[test]
fn a_list_has_three_forms() {
    let lines = format!("# needed\nmodule/a/b registry.example:5000/x/y@{ONE}\n\n{ONE} # same\n/modules/z:v1\n");
    let items = parse(&lines).unwrap();
    let said: Vec<_> = items.iter().map(|i| (i.source.as_str(), i.child.as_str(), i.reference.to_string())).collect();
    assert_eq!(said[0], ("module/a/b", "", ONE.to_owned()));
    assert_eq!(said[1], (ONE, "", ONE.to_owned()));
    assert_eq!(said[2], ("/modules/z:v1", "modules/z", "v1".to_owned()));
    let json = format!(r#"[{{"source":"s","image":"r:v1"}},{{"source":"s","image":"r:v1"}},{{"image":"{ONE}"}}]"#);
    assert_eq!(parse(&json).unwrap().len(), 2);
    let modules = format!(r#"{{"nodeManager":{{"bashibleApiserver":"{ONE}"}}}}"#);
    assert_eq!(parse(&modules).unwrap()[0].source, "module/node-manager/bashible-apiserver");
    for wrong in ["", "#", "[]", "a b c", "registry.example:5000/x", "x@sha256:1", "/UPPER:v1", "{\"a\":1}"] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn relax_is_deckhouse_by_a_tag() {
    let list = |image: &str| parse(&format!("a r:v1\ndeckhouse/containers/deckhouse {image}")).unwrap();
    let items = for_mode(CheckMode::Relax, list("r:v2")).unwrap();
    assert!(items.len() == 1 && matches!(&items[0].reference, Reference::Tag(tag) if tag.as_str() == "v2"));
    assert_eq!(for_mode(CheckMode::Default, list("r:v2")).unwrap().len(), 2);
    assert_eq!(for_mode(CheckMode::Relax, list(ONE)), Err(InvalidList::NoTag));
    assert_eq!(for_mode(CheckMode::Relax, parse("a r:v1").unwrap()), Err(InvalidList::NoDeckhouse));
}

#[test]
fn an_address_names_a_repository_and_no_user() {
    let read = |text: &str| text.parse::<RegistryAddress>();
    let address = read("master-1=https://10.0.0.1:5001/system/deckhouse/").unwrap();
    assert_eq!((address.name.as_str(), address.host.as_str()), ("master-1", "10.0.0.1:5001"));
    assert_eq!((address.path.as_str(), &address.reference), ("system/deckhouse", &None));
    assert_eq!(read("http://[::1]:5001/a").unwrap().name, "[::1]:5001");
    assert_eq!(read("https://h/a:v1").unwrap().reference.unwrap().to_string(), "v1");
    assert_eq!(read("https://ro:secret@h/a"), Err(InvalidRegistry::Login));
    assert!(!read("https://ro:secret@h/a").unwrap_err().to_string().contains("secret"));
    for wrong in ["h/a", "ftp://h/a", "https:///a", "=https://h", "https://h/A", "https://h/a:"] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}
