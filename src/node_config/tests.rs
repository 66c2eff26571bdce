//! Laws of rendering, planning and carrying out.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::hosts_toml::render;
use super::*;

/// A root in memory where there is one: thousands of syncs are not what is tested here.
fn quick_root() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| TempDir::new().unwrap())
}

fn certificate() -> String {
    rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem()
}

/// A mirror as YAML.
fn mirror(address: &str, more: &str) -> String {
    let (scheme, host) = address.split_once("://").unwrap();
    format!("      - {{scheme: {scheme}, host: '{host}', {more}}}\n")
}

fn config(extensions: bool, hosts: &[(&str, &[String])]) -> String {
    let mut text = format!(
        "mode: Proxy\nversion: abc\nimagesBase: x\nproxyEndpoints: ['10.0.0.1:5001']\n\
                            containerd: {{extensions: {extensions}, version: v2}}\n"
    );
    text.push_str(if hosts.is_empty() { "hosts: {}\n" } else { "hosts:\n" });
    for (host, mirrors) in hosts {
        text.push_str(&format!("  '{host}':\n    mirrors:\n{}", mirrors.concat()));
    }
    text
}

fn ca() -> String {
    format!("ca: {:?}", certificate())
}

const LOGIN: &str = "auth: {username: ro, password: 'hush-hush', auth: ''}";
const HOST: &str = "registry.d8-system.svc:5001";

fn wanted(text: &str) -> NodeConfig {
    NodeConfig::parse(text).unwrap()
}

/// Every file below a folder with mode and content.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, String)> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let mode = path.metadata().unwrap().permissions().mode() & 0o777;
                files.insert(path.clone(), (mode, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    files
}

/// The tree without what node-config knows for itself.
fn rendered(root: &Path) -> BTreeMap<PathBuf, (u32, String)> {
    let mut files = tree(root);
    files.retain(|path, _| !path.ends_with(state::STATE_FILE));
    files
}

#[test]
fn what_is_rendered_for_plain_containerd_and_for_deckhouses() {
    let mirrors = |more: &str| {
        [mirror("https://127.0.0.1:5001", &format!("{LOGIN}, {}{more}", ca())), mirror("http://[::1]:80", "")]
    };
    let plain = render(&wanted(&config(false, &[(HOST, &mirrors(""))])));
    let text = plain.files[&format!("{HOST}/hosts.toml")].content.expose().to_owned();
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "",
            "[host.\"https://127.0.0.1:5001\"]",
            "  capabilities = [\"pull\", \"resolve\"]",
            "  ca = [\"https-127.0.0.1:5001-ca.crt\"]",
            "",
            "  [host.\"https://127.0.0.1:5001\".header]",
            "    Authorization = [\"Basic cm86aHVzaC1odXNo\"]",
            "",
            // A master, from `proxyEndpoints`.
            "[host.\"https://10.0.0.1:5001\"]",
            "  capabilities = [\"pull\", \"resolve\"]",
            "  ca = [\"https-10.0.0.1:5001-ca.crt\"]",
            "",
            "  [host.\"https://10.0.0.1:5001\".header]",
            "    Authorization = [\"Basic cm86aHVzaC1odXNo\"]",
            "",
            "[host.\"http://[::1]:80\"]",
            "  capabilities = [\"pull\", \"resolve\"]",
        ]
    );
    let patched = config(true, &[(HOST, &mirrors(", rewrites: [{from: '^system/deckhouse', to: 'a\"b\\c'}]"))]);
    let patched = render(&wanted(&patched)).files[&format!("{HOST}/hosts.toml")].content.expose().to_owned();
    let document = toml_edit::Document::parse(patched.as_str()).unwrap();
    let host = &document.as_table()["host"]["https://127.0.0.1:5001"];
    assert_eq!(host["auth"]["auth"].as_str(), Some("cm86aHVzaC1odXNo"));
    let rewrite = host["rewrite"].as_array_of_tables().unwrap().get(0).unwrap();
    assert_eq!(rewrite["regex"].as_str(), Some("^system/deckhouse"));
    assert_eq!(rewrite["replace"].as_str(), Some("a\"b\\c"));
    assert!(host.get("header").is_none());
}

/// A node that is new has no balancer yet; its image comes through the masters themselves.
#[test]
fn masters_come_behind_the_balancer_and_nowhere_else() {
    let hosts = |text: &str| -> Vec<Vec<String>> {
        let config = wanted(text);
        config.hosts.values().map(|mirrors| mirrors.iter().map(|mirror| mirror.host.clone()).collect()).collect()
    };
    let [own, other, master] =
        ["127.0.0.1:5001", "10.0.0.9:80", "10.0.0.1:5001"].map(|host| mirror(&format!("https://{host}"), ""));
    let text = config(false, &[("a", &[other.clone(), own.clone(), other.replace(".9", ".8")]), ("b", &[other])]);
    assert_eq!(
        hosts(&text),
        [&["10.0.0.9:80", "127.0.0.1:5001", "10.0.0.1:5001", "10.0.0.8:80"][..], &["10.0.0.9:80"]]
    );
    // One that is named stays where it is; one of IPv6 needs to know which containerd there is.
    let named = config(false, &[("a", &[master, own])]);
    assert_eq!(hosts(&named), [["10.0.0.1:5001", "127.0.0.1:5001"]]);
    let of_v6 = named.replace("['10.0.0.1:5001']", "['[fd00::1]:5001']");
    assert_eq!(hosts(&of_v6), [["10.0.0.1:5001", "127.0.0.1:5001", "[fd00::1]:5001"]]);
    assert_eq!(hosts(&of_v6.replace(", version: v2", "")), [["10.0.0.1:5001", "127.0.0.1:5001"]]);
    assert!(NodeConfig::parse(&named.replace("['10.0.0.1:5001']", "['https://10.0.0.1']")).is_err());
}

#[test]
fn an_ipv6_mirror_has_no_table_for_containerd_1() {
    let mirrors = [mirror("https://[fd00::1]:5001", &format!("{LOGIN}, {}", ca())), mirror("http://10.0.0.1:80", "")];
    let v2 = config(false, &[(HOST, &mirrors)]);
    let text = |config: &str| render(&wanted(config)).files[&format!("{HOST}/hosts.toml")].content.expose().to_owned();
    let v1 = text(&v2.replace("version: v2", "version: v1"));
    assert!(!v1.lines().any(|line| line.starts_with('[')), "{v1}");
    // Both forms say the same.
    let both = [v1.as_str(), &text(&v2)].map(|text| {
        let document = toml_edit::Document::parse(text.to_owned()).unwrap();
        let host = document.as_table()["host"].as_table_like().unwrap();
        let first = |item: &toml_edit::Item| item.as_array().unwrap().get(0).unwrap().as_str().unwrap().to_owned();
        let mirror = |name: &str| {
            let mirror = host.get(name).unwrap().as_table_like().unwrap();
            let header = mirror.get("header").map(|header| first(&header["Authorization"]));
            (first(mirror.get("capabilities").unwrap()), mirror.get("ca").map(first), header)
        };
        (mirror("https://[fd00::1]:5001"), mirror("http://10.0.0.1:80"))
    });
    assert_eq!(both[0], both[1], "{v1}");
    assert_eq!(both[0].0.2.as_deref(), Some("Basic cm86aHVzaC1odXNo"));
    let neither = NodeConfig::parse(&v2.replace(", version: v2", "")).unwrap_err().to_string();
    assert!(neither.contains("containerd.version: is needed, v1 or v2"), "{neither}");
    // Without such a mirror the tables stay as they are.
    let plain = config(false, &[(HOST, &[mirror("http://10.0.0.1:80", "")])]);
    assert_eq!(text(&plain.replace("version: v2", "version: v1")), text(&plain));
}

#[test]
fn what_is_wrong_is_said_by_its_key_and_without_its_value() {
    let one = |more: &str| config(false, &[(HOST, &[mirror("https://a:1", more)])]);
    let cases = [
        ("hosts: []".to_owned(), "hosts"),
        ("mode: Proxy".to_owned(), "hosts: is missing"),
        (config(false, &[("a/b", &[mirror("https://a:1", "")])]), "hosts: a key"),
        (config(false, &[("..", &[mirror("https://a:1", "")])]), "hosts: a key"),
        (config(false, &[(HOST, &[mirror("https://a:1/v2", "")])]), "mirrors[0].host"),
        (config(false, &[(HOST, &[mirror("ftp://a:1", "")])]), "mirrors[0].scheme"),
        (config(false, &[(HOST, &[mirror("https://a:1", ""), mirror("HTTPS://a:1", "")])]), "mirrors[1]: an earlier"),
        (one("auth: {username: sekret}"), "mirrors[0].auth"),
        (one("auth: {username: 'sekret:x', password: y}"), "mirrors[0].auth.username"),
        (one("auth: {auth: sekret}"), "mirrors[0].auth.auth"),
        (one("ca: sekret"), "mirrors[0].ca: is no PEM"),
        (one("ca: '-----BEGIN PRIVATE KEY----- sekret'"), "holds a private key"),
        (one("sekretkey: [sekret]"), "unknown key"),
        (config(false, &[(HOST, &[mirror("http://a:1", "ca: sekret")])]), "no meaning"),
    ];
    for (text, expected) in cases {
        let error = NodeConfig::parse(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!error.replace("sekretkey", "").contains("sekret"), "{error}");
    }
}

#[test]
fn a_second_time_writes_nothing() {
    let root = TempDir::new().unwrap();
    let wanted = wanted(&config(false, &[(HOST, &[mirror("https://a:1", &format!("{LOGIN}, {}", ca()))])]));
    let first = apply(root.path(), &wanted).unwrap();
    assert_eq!((first.notes.len(), first.findings.len()), (2, 0), "{first:?}");
    let before = tree(root.path());
    let inodes = |files: &BTreeMap<PathBuf, (u32, String)>| {
        use std::os::unix::fs::MetadataExt as _;
        files.keys().map(|path| path.metadata().unwrap().ino()).collect::<Vec<_>>()
    };
    let numbers = inodes(&before);
    let second = apply(root.path(), &wanted).unwrap();
    assert_eq!(second, Outcome { notes: Vec::new(), ..first });
    assert_eq!(tree(root.path()), before);
    assert_eq!(inodes(&before), numbers);
    let modes: Vec<_> =
        before.iter().map(|(path, (mode, _))| (path.file_name().unwrap().to_str().unwrap(), *mode)).collect();
    assert_eq!(modes, [("d8-registry-state.json", 0o600), ("hosts.toml", 0o600), ("https-a:1-ca.crt", 0o644)]);
}

#[test]
fn the_version_follows_what_is_rendered_and_nothing_else() {
    let text = config(false, &[(HOST, &[mirror("https://a:1", LOGIN), mirror("https://b:1", "")])]);
    let version = |text: &str| render(&wanted(text)).version;
    assert_eq!(version(&text), version(&text.replace("version: abc", "version: other")));
    for (from, to) in
        [("hush-hush", "other"), ("a:1", "a:2"), (HOST, "other"), ("extensions: false", "extensions: true")]
    {
        assert_ne!(version(&text), version(&text.replace(from, to)), "{from}");
    }
    let turned = config(false, &[(HOST, &[mirror("https://b:1", ""), mirror("https://a:1", LOGIN)])]);
    assert_ne!(version(&text), version(&turned), "the order of mirrors counts");
}

#[test]
fn foreign_files_are_named_and_left() {
    let root = TempDir::new().unwrap();
    let registry_d = root.path().join(REGISTRY_D);
    for file in ["docker.io/hosts.toml", "registry.d8-system.svc:5001/old.crt"] {
        std::fs::create_dir_all(registry_d.join(file).parent().unwrap()).unwrap();
        std::fs::write(registry_d.join(file), "foreign").unwrap();
    }
    let text = config(false, &[(HOST, &[mirror("https://a:1", "")])]);
    let outcome = apply(root.path(), &wanted(&text)).unwrap();
    let notes = outcome.notes.join("\n");
    assert!(notes.contains("docker.io is not of node-config") && notes.contains("old.crt is not of"), "{notes}");
    let outcome = apply(root.path(), &wanted(&config(false, &[]))).unwrap();
    assert!(outcome.findings.is_empty());
    let left: Vec<_> = rendered(root.path()).into_values().map(|(_, text)| text).collect();
    assert_eq!(left, ["foreign", "foreign"]);

    let another = config(false, &[("docker.io", &[mirror("https://a:1", "")]), (HOST, &[mirror("https://a:1", "")])]);
    let before = tree(root.path());
    let outcome = apply(root.path(), &wanted(&another)).unwrap();
    let findings: Vec<_> = outcome.findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        findings,
        ["etc/containerd/registry.d/docker.io/hosts.toml: was not written by node-config; move it away"]
    );
    assert_eq!(tree(root.path()), before, "nothing at all is written while something is in the way");
}

#[test]
fn a_foreign_file_with_the_wanted_content_is_taken_over() {
    let root = TempDir::new().unwrap();
    let wanted_one = wanted(&config(false, &[(HOST, &[mirror("https://a:1", "")])]));
    apply(root.path(), &wanted_one).unwrap();
    std::fs::remove_file(root.path().join(REGISTRY_D).join(state::STATE_FILE)).unwrap();
    assert!(apply(root.path(), &wanted_one).unwrap().findings.is_empty());
    apply(root.path(), &wanted(&config(false, &[]))).unwrap();
    assert!(rendered(root.path()).is_empty());
}

#[test]
fn a_changed_file_of_ours_is_reported_and_kept() {
    let root = TempDir::new().unwrap();
    let file = root.path().join(REGISTRY_D).join(HOST).join("hosts.toml");
    let text = config(false, &[(HOST, &[mirror("https://a:1", &ca())])]);
    apply(root.path(), &wanted(&text)).unwrap();
    std::fs::write(&file, "# by hand\n").unwrap();
    let before = tree(root.path());
    for text in [&text, &text.replace("a:1", "b:1")] {
        let outcome = apply(root.path(), &wanted(text)).unwrap();
        assert!(outcome.findings[0].text.starts_with("was changed since it was written"), "{outcome:?}");
        assert_eq!(tree(root.path()), before);
    }
    // Nobody wants the host any more: what was changed stays, with what it names.
    let outcome = apply(root.path(), &wanted(&config(false, &[]))).unwrap();
    assert!(outcome.findings.is_empty());
    assert!(outcome.notes[0].ends_with("was changed and is let be, though nothing wants it"), "{outcome:?}");
    assert_eq!(rendered(root.path()).len(), 2);
    // Removed, it is written anew.
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_file(file.with_file_name("https-a:1-ca.crt")).unwrap();
    assert_eq!(apply(root.path(), &wanted(&text)).unwrap().notes.len(), 2);
}

#[test]
fn permissions_are_set_right_again() {
    let root = TempDir::new().unwrap();
    let wanted = wanted(&config(false, &[(HOST, &[mirror("https://a:1", LOGIN)])]));
    apply(root.path(), &wanted).unwrap();
    let file = root.path().join(REGISTRY_D).join(HOST).join("hosts.toml");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    apply(root.path(), &wanted).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_link_in_the_place_of_a_file_or_folder_is_not_followed() {
    let (root, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let registry_d = root.path().join(REGISTRY_D);
    std::fs::create_dir_all(&registry_d).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), registry_d.join(HOST)).unwrap();
    let outcome = apply(root.path(), &wanted(&config(false, &[(HOST, &[mirror("https://a:1", "")])]))).unwrap();
    assert!(outcome.findings[0].text.contains("no plain folder"), "{outcome:?}");
    assert!(tree(elsewhere.path()).is_empty());
}

#[test]
fn a_damaged_state_stops_everything() {
    let root = TempDir::new().unwrap();
    let wanted = wanted(&config(false, &[(HOST, &[mirror("https://a:1", "")])]));
    apply(root.path(), &wanted).unwrap();
    let file = root.path().join(REGISTRY_D).join(state::STATE_FILE);
    for text in [
        "{",
        "{\"form\":2,\"applied\":null,\"files\":{}}",
        "{\"form\":1,\"applied\":null,\"files\":{\"../x\":[\"a\"]}}",
    ] {
        std::fs::write(&file, text).unwrap();
        assert!(matches!(apply(root.path(), &wanted), Err(NodeConfigError::State { .. })), "{text}");
    }
}

#[test]
fn only_one_at_a_time() {
    let root = TempDir::new().unwrap();
    let folder = root.path().join(REGISTRY_D);
    std::fs::create_dir_all(&folder).unwrap();
    let held = hold(&folder).unwrap();
    assert!(matches!(apply(root.path(), &wanted("hosts: {}")), Err(NodeConfigError::Busy { .. })));
    drop(held);
    apply(root.path(), &wanted("hosts: {}")).unwrap();
}

/// Configurations that follow each other in the life of a node: hosts come and go, passwords and authorities change.
fn life() -> Vec<NodeConfig> {
    let (one, two) = (ca(), ca());
    [
        config(false, &[]),
        config(false, &[(HOST, &[mirror("https://a:1", &format!("{LOGIN}, {one}"))])]),
        config(false, &[(HOST, &[mirror("https://a:1", &format!("{LOGIN}, {one}")), mirror("https://b:1", &two)])]),
        config(true, &[(HOST, &[mirror("https://a:1", &two)]), ("up.example", &[mirror("https://up.example", LOGIN)])]),
        config(false, &[("up.example", &[mirror("http://up.example", "")])]),
    ]
    .map(|text| wanted(&text))
    .into()
}

/// What a killed process did: some steps, and maybe the file of the next one beside its place.
fn apply_until(root: &Path, wanted: &NodeConfig, steps: usize, litter: bool) -> bool {
    let folder = root.join(REGISTRY_D);
    std::fs::create_dir_all(&folder).unwrap();
    let plan = plan::make(&folder, &render(wanted)).unwrap();
    assert!(plan.obstacles.is_empty(), "{:?}", plan.obstacles);
    let all = steps::of(&plan);
    for step in all.iter().take(steps) {
        steps::carry_out(&folder, step).unwrap();
    }
    if let (true, Some(steps::Step::Write { path, .. })) = (litter, all.get(steps)) {
        let target = folder.join(path);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        let name = format!(".{}.new", target.file_name().unwrap().to_str().unwrap());
        std::fs::write(target.with_file_name(name), "half").unwrap();
    }
    steps < all.len()
}

/// Killed at every step of every change, then asked for the same, or for anything else: the outcome is as if nothing had
/// happened, and no file is anybody else's.
#[test]
fn killed_at_any_step_the_next_run_finds_its_own() {
    let life = life();
    let names = |root: &Path| {
        let files = tree(root).into_iter();
        files.map(|(path, file)| (path.strip_prefix(root).unwrap().to_owned(), file)).collect::<Vec<_>>()
    };
    let clean = |wanted: &NodeConfig| {
        let root = quick_root();
        apply(root.path(), wanted).unwrap();
        names(root.path())
    };
    let expected: Vec<_> = life.iter().map(clean).collect();
    for (from, to) in (0..life.len()).flat_map(|i| [(i, (i + 1) % life.len()), (i, (i + 3) % life.len())]) {
        for (then, litter) in [(from, false), (to, true), (0, true)] {
            for steps in 0.. {
                let root = quick_root();
                apply(root.path(), &life[from]).unwrap();
                let killed = apply_until(root.path(), &life[to], steps, litter);
                let outcome = apply(root.path(), &life[then]).unwrap();
                assert!(outcome.findings.is_empty(), "{steps}: {:?}", outcome.findings);
                assert_eq!(names(root.path()), expected[then], "{from} to {to}, {steps} steps, then {then}");
                if !killed {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_diff_shows_what_changes_and_no_secret() {
    let root = TempDir::new().unwrap();
    let secret = config(false, &[(HOST, &[mirror("https://a:1", LOGIN)])]);
    let (_, diff) = preview(root.path(), &wanted(&secret)).unwrap();
    assert!(
        diff.starts_with("--- /dev/null\n+++ b/etc/containerd/registry.d/registry.d8-system.svc:5001/hosts.toml\n"),
        "{diff}"
    );
    assert!(diff.contains("+    Authorization = *** (new)\n"), "{diff}");
    assert!(tree(root.path()).is_empty());
    apply(root.path(), &wanted(&secret)).unwrap();
    assert_eq!(preview(root.path(), &wanted(&secret)).unwrap().1, "");
    let (_, diff) = preview(root.path(), &wanted(&secret.replace("hush-hush", "other"))).unwrap();
    assert!(diff.contains("-    Authorization = ***\n+    Authorization = *** (new)\n"), "{diff}");
    let (_, diff) = preview(root.path(), &wanted(&secret.replace("extensions: false", "extensions: true"))).unwrap();
    assert!(diff.contains("-    Authorization = ***\n") && diff.contains("+    auth = *** (new)\n"), "{diff}");
    let (_, diff) = preview(root.path(), &wanted("hosts: {}")).unwrap();
    assert!(diff.contains("+++ /dev/null\n") && diff.contains("-    Authorization = ***\n"), "{diff}");
}

fn host() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9][a-zA-Z0-9.-]{0,20}(:[1-9][0-9]{0,3})?"
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is wanted, what is rendered is TOML with the mirrors in their order, and the diff tells no secret.
    #[test]
    fn everything_rendered_is_toml_and_no_diff_tells_a_secret(
        hosts in prop::collection::btree_map(host(), prop::collection::btree_map(host(), any::<(bool, bool)>(), 1..4), 1..4),
        extensions: bool,
        user in "[a-zA-Z0-9]{1,8}",
        password in "zz[ -~]{8,20}",
        from in any::<String>(),
        to in any::<String>(),
    ) {
        let password = password.as_str();
        let certificate = certificate();
        let hosts: serde_json::Value = hosts.iter().map(|(name, mirrors)| {
            let mirrors: Vec<_> = mirrors.iter().map(|(host, (https, login))| {
                let mut mirror = serde_json::json!({"host": host, "scheme": if *https { "https" } else { "http" }});
                if *https { mirror["ca"] = certificate.clone().into(); }
                if *login { mirror["auth"] = serde_json::json!({"username": user, "password": password}); }
                if extensions { mirror["rewrites"] = serde_json::json!([{"from": from, "to": to}]); }
                mirror
            }).collect();
            (name.clone(), serde_json::json!({"mirrors": mirrors}))
        }).collect::<serde_json::Map<_, _>>().into();
        let text = serde_json::json!({"containerd": {"extensions": extensions}, "hosts": hosts}).to_string();
        let wanted = NodeConfig::parse(&text).unwrap();
        let rendering = render(&wanted);
        prop_assert_eq!(&rendering, &render(&wanted));
        for (name, mirrors) in &wanted.hosts {
            let file = &rendering.files[&format!("{name}/hosts.toml")];
            let document = toml_edit::Document::parse(file.content.expose()).unwrap();
            let table = document.as_table()["host"].as_table().unwrap();
            let order: Vec<_> = table.iter().map(|(key, _)| key.to_owned()).collect();
            let expected: Vec<_> = mirrors.iter().map(|mirror| format!("{}://{}", mirror.scheme, mirror.host)).collect();
            prop_assert_eq!(&order, &expected);
            for (mirror, key) in mirrors.iter().zip(&order) {
                let capabilities = table[key]["capabilities"].as_array().unwrap();
                prop_assert_eq!(capabilities.iter().filter_map(|value| value.as_str()).collect::<Vec<_>>(), ["pull", "resolve"]);
                prop_assert_eq!(table[key].get("ca").is_some(), mirror.ca.is_some());
                if extensions {
                    let rewrite = table[key]["rewrite"].as_array_of_tables().unwrap().get(0).unwrap();
                    prop_assert_eq!(rewrite["regex"].as_str(), Some(from.as_str()));
                    prop_assert_eq!(rewrite["replace"].as_str(), Some(to.as_str()));
                }
            }
            let secret = mirrors.iter().any(|mirror| mirror.login.is_some());
            prop_assert_eq!(file.mode, if secret { 0o600 } else { 0o644 });
        }
        let root = quick_root();
        let login = { use base64::Engine as _; base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")) };
        for _ in 0..2 {
            let (_, diff) = preview(root.path(), &wanted).unwrap();
            prop_assert!(!diff.contains(&login) && !diff.contains(password));
            let outcome = apply(root.path(), &wanted).unwrap();
            prop_assert!(outcome.findings.is_empty());
            let shown = format!("{outcome:?} {wanted:?} {rendering:?}");
            prop_assert!(!shown.contains(&login));
        }
    }
}
