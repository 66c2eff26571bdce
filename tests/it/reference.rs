//! The documents in docs/reference, held against the code. Tables that the code knows whole are written from it:
//! `make reference` rewrites them, a test compares them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use d8_registry::admin::{ADMIN_PATHS, PROBE_PATHS, SOCKET_PATHS};
use d8_registry::api::Exception;
use d8_registry::{oci, telemetry};
use reqwest::Method;

use crate::support::{Registry, Setup, digest, header};

fn path(document: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference").join(document)
}

fn read(document: &str) -> String {
    std::fs::read_to_string(path(document)).unwrap()
}

/// Compares the part of a document between `<!-- generated: NAME -->` and `<!-- end -->` with `text`; where the environment
/// has `REFERENCE=rewrite`, writes it there.
pub(crate) fn generated(document: &str, name: &str, text: &str) {
    let (begin, end) = (format!("<!-- generated: {name} -->\n"), "<!-- end -->");
    let whole = read(document);
    let (before, rest) = whole.split_once(&begin).unwrap_or_else(|| panic!("{document} has no {begin}"));
    let (written, after) = rest.split_once(end).unwrap_or_else(|| panic!("{document} has no {end}"));
    if std::env::var("REFERENCE").is_ok_and(|word| word == "rewrite") {
        std::fs::write(path(document), format!("{before}{begin}{text}{end}{after}")).unwrap();
    } else {
        assert_eq!(written, text, "docs/reference/{document} is not what the code says: make reference");
    }
}

/// The cells of the rows below each header row that begins with `header`.
fn rows(document: &str, header: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in read(document).lines() {
        inside = line.starts_with('|') && (inside || line.starts_with(&format!("| {header} |")));
        if inside && !line.starts_with(&format!("| {header} |")) && !line.starts_with("|---") {
            found.push(line.split('|').skip(1).map(|cell| cell.trim().to_owned()).collect());
        }
    }
    assert!(!found.is_empty(), "{document} has no table {header}");
    found
}

/// The words between back quotes.
fn quoted(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

fn metrics_table(families: &[telemetry::Family]) -> String {
    let mut text = "| family | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for family in families {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, labels, help) = (family.name, family.kind.as_str(), labels.join(", "), family.help);
        writeln!(text, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
    }
    text
}

#[test]
fn the_metrics_are_those_of_the_table() {
    generated("metrics.md", "metrics", &metrics_table(telemetry::FAMILIES));
    generated("metrics.md", "metrics of node-proxy", &metrics_table(telemetry::NODE_PROXY_FAMILIES));
    generated("metrics.md", "metrics of node-agent", &metrics_table(telemetry::NODE_AGENT_FAMILIES));
    generated("metrics.md", "metrics of the controller", &metrics_table(telemetry::SWITCH_FAMILIES));
}

#[test]
fn the_error_codes_are_those_of_the_table() {
    let mut text = "| code | status | meaning |\n|---|---|---|\n".to_owned();
    for code in oci::ErrorCode::ALL {
        writeln!(text, "| `{}` | {} | {} |", code.as_str(), code.status(), code.meaning().trim()).unwrap();
    }
    generated("errors.md", "codes", &text);
    let mut text = "| status | code | when |\n|---|---|---|\n".to_owned();
    for case in Exception::ALL {
        writeln!(text, "| {} | `{}` | {} |", case.status(), case.code().as_str(), case.when().trim()).unwrap();
    }
    generated("errors.md", "exceptions", &text);
    let mut text = "| code | `detail` |\n|---|---|\n".to_owned();
    for code in oci::ErrorCode::ALL.iter().filter(|code| !code.detail().is_empty()) {
        writeln!(text, "| `{}` | {} |", code.as_str(), code.detail()).unwrap();
    }
    generated("errors.md", "details", &text);
}

/// Source files whose code names headers.
fn edge() -> Vec<PathBuf> {
    fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    for part in ["src/api", "src/admin", "src/serve"] {
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(part), &mut found);
    }
    found.retain(|path| !path.to_str().unwrap().contains("tests"));
    found
}

/// Headers are named in the code by constants: of the http crate, or of our own.
#[test]
fn every_header_that_the_edge_names_is_there() {
    let mut named = BTreeSet::new();
    for file in edge() {
        let text = std::fs::read_to_string(&file).unwrap();
        for part in text.split("HeaderName::from_static(\"").skip(1) {
            named.insert(part.split('"').next().unwrap().to_owned());
        }
        for part in text.split("http::header::{").skip(1) {
            let list = part.split('}').next().unwrap();
            let names = list.split(',').map(str::trim).filter(|name| name.chars().all(|c| !c.is_lowercase()));
            named.extend(names.map(|name| name.to_lowercase().replace('_', "-")));
        }
        for part in text.split("http::header::").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
            // What follows in small letters is a type.
            if !part[name.len()..].starts_with(char::is_lowercase) {
                named.insert(name.to_lowercase().replace('_', "-"));
            }
        }
    }
    named.remove("");
    let cells = rows("headers.md", "request header").into_iter().chain(rows("headers.md", "response header"));
    let documented: BTreeSet<String> =
        cells.flat_map(|row| quoted(&row[0]).collect::<Vec<_>>()).map(|name| name.to_lowercase()).collect();
    assert!(named.len() > 20, "{named:?}");
    let missing: Vec<_> = named.difference(&documented).collect();
    assert!(missing.is_empty(), "not in headers.md: {missing:?}");
}

/// The paths of `api/route.rs`, as its comments say them.
fn routes() -> BTreeSet<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api/route.rs");
    let text = std::fs::read_to_string(source).unwrap();
    let text = text.split("enum Route {").nth(1).unwrap().split("\n}").next().unwrap();
    text.lines().filter(|line| line.trim_start().starts_with("///")).flat_map(|line| quoted(line).next()).collect()
}

#[tokio::test]
async fn every_endpoint_answers_its_methods_and_no_other() {
    let registry = Registry::start(&Setup::with_users());
    let (client, admin) = (registry.client_as("rw"), registry.admin());
    let of_the_listeners: BTreeSet<String> = PROBE_PATHS.iter().chain(ADMIN_PATHS).map(ToString::to_string).collect();
    let mut undocumented = of_the_listeners.clone();
    let mut of_the_registry = BTreeSet::new();
    for row in rows("endpoints.md", "path") {
        let pattern = quoted(&row[0]).next().unwrap();
        let documented: Vec<&str> = row[1].split(", ").collect();
        let is_admin = of_the_listeners.contains(&pattern);
        if !is_admin {
            of_the_registry.insert(pattern.clone());
        }
        undocumented.remove(&pattern);
        let asked = pattern
            .replace("<name>", "a/b")
            .replace("<digest>", &digest(b"nothing"))
            .replace("<reference>", "v1")
            .replace("<id>", "00000000-0000-4000-8000-000000000000");
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            let client = if is_admin { &admin } else { &client };
            let answer = client.request(Method::from_bytes(method.as_bytes()).unwrap(), &asked).send().await.unwrap();
            let is_refused = answer.status() == 405;
            assert_eq!(is_refused, !documented.contains(&method), "{method} {pattern}: {}", answer.status());
            if is_refused {
                let allowed: Vec<String> = header(&answer, "allow").split(',').map(|m| m.trim().to_owned()).collect();
                assert_eq!(allowed, documented, "{pattern}");
            }
        }
    }
    assert_eq!(of_the_registry, routes());
    assert_eq!(undocumented, BTreeSet::new(), "paths of the admin listener without a row");
    registry.stop();
}

#[test]
fn every_path_of_the_socket_is_there_and_no_other() {
    let rows = rows("endpoints.md", "path of the socket");
    let documented: Vec<String> = rows.iter().map(|row| quoted(&row[0]).next().unwrap()).collect();
    let served: Vec<String> = SOCKET_PATHS.iter().map(|path| path.replace('{', "<").replace('}', ">")).collect();
    assert_eq!(documented, served);
}
