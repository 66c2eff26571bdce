//! `node-config` as a program: what it prints, its exit codes, and what `--check` finds in containerd's configuration.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const HOST: &str = "registry.d8-system.svc:5001";
const CONFIG: &str = "
mode: Unmanaged
version: '1'
imagesBase: registry.example/deckhouse/ee
hosts:
  registry.d8-system.svc:5001:
    mirrors:
      - {host: '127.0.0.1:5001', scheme: https, auth: {username: ro, password: very-secret}}
      - {host: registry.example, scheme: https, auth: {auth: 'bGljZW5zZTp2ZXJ5LXNlY3JldA=='}}
";

/// A node: a folder as its root, and a configuration beside it.
struct Node(TempDir);

impl Node {
    fn new(config: &str) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("root")).unwrap();
        let node = Self(folder);
        node.configure(config);
        node
    }

    fn configure(&self, config: &str) {
        std::fs::write(self.0.path().join("node.yaml"), config).unwrap();
    }

    fn root(&self) -> std::path::PathBuf {
        self.0.path().join("root")
    }

    /// Puts a file below `etc/containerd`.
    fn put(&self, path: &str, text: &str) {
        let file = self.root().join("etc/containerd").join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    fn run(&self, flags: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
        command.arg("node-config").arg("--root").arg(self.root()).arg("--config").arg(self.0.path().join("node.yaml"));
        Said::new(command.args(flags).output().unwrap())
    }

    /// What `--check` finds in the main configuration.
    fn check(&self, main: &str) -> Vec<String> {
        self.put("config.toml", main);
        let said = self.run(&["--check"]);
        assert_eq!(said.code, i32::from(!said.out.is_empty()), "{}{}", said.out, said.err);
        said.out.lines().map(|line| line.strip_prefix("etc/containerd/").unwrap().to_owned()).collect()
    }
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn new(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let said = Self { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) };
        for secret in ["very-secret", "bGljZW5zZTp2ZXJ5LXNlY3JldA", "cm86dmVyeS1zZWNyZXQ"] {
            assert!(!said.out.contains(secret) && !said.err.contains(secret), "{}{}", said.out, said.err);
        }
        said
    }
}

#[test]
fn the_version_is_printed_and_is_the_same_each_time() {
    let node = Node::new(CONFIG);
    let dry = node.run(&["--dry-run"]);
    assert_eq!(dry.code, 0, "{}", dry.err);
    assert!(dry.out.contains("+[host.\"https://127.0.0.1:5001\"]\n"), "{}", dry.out);
    assert_eq!(std::fs::read_dir(node.root()).unwrap().count(), 0, "a dry run writes nothing");
    let first = node.run(&[]);
    assert_eq!((first.code, first.out.len()), (0, 65), "{}", first.err);
    assert!(
        first.err.contains("etc/containerd/registry.d/registry.d8-system.svc:5001/hosts.toml is written"),
        "{}",
        first.err
    );
    assert!(dry.err.contains(&format!("version {}", first.out)), "{}", dry.err);
    let second = node.run(&[]);
    assert_eq!((second.code, second.out, second.err.as_str()), (0, first.out, ""));
    assert_eq!(node.run(&["--dry-run"]).out, "");
}

#[test]
fn files_have_their_permissions_whatever_the_umask() {
    let node = Node::new(&CONFIG.replace("auth: {auth: 'bGljZW5zZTp2ZXJ5LXNlY3JldA=='}", ""));
    let open = "
  open.example:
    mirrors: [{host: '127.0.0.1:5001', scheme: http}]
";
    node.configure(&format!("{CONFIG}{open}"));
    let binary = env!("CARGO_BIN_EXE_d8-registry");
    for umask in ["077", "000"] {
        let script = format!("umask {umask}; exec {binary} node-config --root root --config node.yaml");
        let output = Command::new("sh").current_dir(node.0.path()).args(["-c", &script]).output().unwrap();
        assert_eq!(Said::new(output).code, 0);
        let mode = |file: &str| {
            let file = node.root().join("etc/containerd/registry.d").join(file);
            std::fs::metadata(file).unwrap().permissions().mode() & 0o777
        };
        assert_eq!(mode(&format!("{HOST}/hosts.toml")), 0o600);
        assert_eq!(mode("open.example/hosts.toml"), 0o644);
        assert_eq!(mode("d8-registry-state.json"), 0o600);
        std::fs::remove_dir_all(node.root().join("etc")).unwrap();
    }
}

#[test]
fn what_is_in_the_way_is_status_1_and_what_is_wrong_status_2() {
    let node = Node::new(CONFIG);
    node.put(&format!("registry.d/{HOST}/hosts.toml"), "foreign");
    for flags in [&[][..], &["--dry-run"], &["--check"]] {
        let said = node.run(flags);
        assert_eq!(said.code, 1, "{flags:?}");
        let text = format!("{}{}", said.out, said.err);
        assert!(text.contains("hosts.toml: was not written by node-config"), "{text}");
    }
    node.configure("hosts: [very-secret]");
    assert_eq!(node.run(&[]).code, 2);
    assert_eq!(node.run(&["--check", "--dry-run"]).code, 2);
    node.configure(CONFIG);
    let output = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    let mut command = output;
    command.args(["node-config", "--root", "/nowhere/at/all", "--config"]).arg(node.0.path().join("node.yaml"));
    assert_eq!(command.output().unwrap().status.code(), Some(2));
}

const V2: &str = "version = 2
[plugins.\"io.containerd.grpc.v1.cri\".registry]
  config_path = \"/etc/containerd/registry.d\"
";
const V3: &str = "version = 3
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = '/etc/containerd/registry.d/'
";

#[test]
fn check_is_content_with_a_configuration_that_reads_registry_d() {
    let node = Node::new(CONFIG);
    // The empty tables are those of `containerd config default`.
    let empty = "[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]\n[plugins.\"io.containerd.grpc.v1.cri\".registry.auths]\n";
    let version_1 = "[plugins.cri.registry]\nconfig_path = '/etc/containerd/registry.d:/etc/docker/certs.d'\n";
    for main in [V2, &format!("{V2}{empty}"), V3, version_1] {
        assert_eq!(node.check(main), [""; 0], "{main}");
    }
    node.put(
        "conf.d/gpu.toml",
        "[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = 'nvidia'\n",
    );
    assert_eq!(node.check(V2), [""; 0]);
}

#[test]
fn check_says_when_registry_d_is_not_read() {
    let node = Node::new(CONFIG);
    let said = node.run(&["--check"]);
    assert_eq!(said.code, 1);
    assert!(said.out.starts_with("etc/containerd/config.toml: is not there"), "{}", said.out);
    let missing = |plugin: &str| {
        format!(
            "config.toml: registry.config_path is not set, so etc/containerd/registry.d is not read: set config_path = \
             \"/etc/containerd/registry.d\" in [plugins.\"{plugin}\".registry] and restart containerd"
        )
    };
    let (v1, v2) = ("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images");
    assert_eq!(node.check("version = 2\n"), [missing(v1)]);
    assert_eq!(node.check("version = 3\n"), [missing(v2)]);
    assert_eq!(node.check(&V2.replace("/etc/containerd/registry.d", "")), [missing(v1)]);
    let wrong_table = V2.replace("version = 2", "version = 3");
    assert_eq!(
        node.check(&wrong_table),
        [
            "config.toml:3: plugins.\"io.containerd.grpc.v1.cri\".registry.config_path is not read in a configuration of this \
             version"
                .to_owned(),
            missing(v2)
        ]
    );
    let elsewhere = V2.replace("/etc/containerd/registry.d", "/etc/certs.d:/etc/containerd/registry.d");
    let found = node.check(&elsewhere);
    assert!(found[0].starts_with("config.toml:3: ") && found[0].contains("leads to /etc/certs.d"), "{found:?}");
    node.configure(&format!("containerd: {{version: v1}}\n{CONFIG}"));
    assert_eq!(node.check(V3), ["config.toml:1: containerd 1 does not read version = 3"]);
    assert!(node.check("version = [\n")[0].starts_with("config.toml:1: is not TOML"));
}

#[test]
fn check_finds_registry_settings_in_every_file() {
    let node = Node::new(CONFIG);
    let legacy = "
[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]
  endpoint = [\"https://mirror.example\"]
[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"mirror.example\".auth]
  password = \"very-secret\"
[plugins.\"io.containerd.grpc.v1.cri\".registry.auths]
  [plugins.\"io.containerd.grpc.v1.cri\".registry.auths.\"https://u:very-secret@a.example\"]
    password = \"very-secret\"
";
    let key = "plugins.\"io.containerd.grpc.v1.cri\".registry";
    let tail = "is a registry setting of its own; it belongs into etc/containerd/registry.d, in a folder of its host";
    let expected = |file: &str, lines: [usize; 3]| {
        let [mirror, config, auth] = lines;
        vec![
            format!("{file}:{mirror}: {key}.mirrors.\"docker.io\" {tail}"),
            format!("{file}:{config}: {key}.configs.\"mirror.example\" {tail}"),
            format!("{file}:{auth}: {key}.auths.\"a.example\" {tail}"),
        ]
    };
    assert_eq!(node.check(&format!("{V2}{legacy}")), expected("config.toml", [5, 7, 10]));
    node.put("conf.d/mine.toml", legacy);
    node.put("conf.d/mine.toml.bak", legacy);
    assert_eq!(node.check(V2), expected("conf.d/mine.toml", [2, 4, 7]));
    let headers = "[plugins.'io.containerd.cri.v1.images']\nregistry = {headers = {X-Key = ['very-secret']}}\n";
    node.put("conf.d/mine.toml", headers);
    let found = node.check(V3);
    assert!(found[0].starts_with("conf.d/mine.toml:2: ") && found[0].contains(".headers.\"X-Key\""), "{found:?}");
}

#[test]
fn check_follows_imports_as_each_containerd_does() {
    let node = Node::new(CONFIG);
    let importing = |main: &str| format!("imports = ['/etc/containerd/more/*.toml']\n{main}");
    node.put("more/a.toml", "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = 'x'\n");
    let found = node.check(&importing(V2));
    assert!(
        found[0].starts_with("more/a.toml:2: ") && found[0].contains("takes the whole table from here"),
        "{found:?}"
    );
    node.configure(&format!("containerd: {{version: v2}}\n{CONFIG}"));
    assert_eq!(node.check(&importing(V2)), [""; 0], "containerd 2 merges key by key");
    node.configure(CONFIG);
    node.put("more/a.toml", V2);
    assert_eq!(node.check(&importing("version = 2\n")), [""; 0], "it may be set in what is imported");
    let found = node.check(&importing("version = 2\n").replace("more/*", "*/a"));
    assert!(
        found[0].starts_with("config.toml:1: imports etc/containerd/*/a.toml, which can't be followed"),
        "{found:?}"
    );
}

/// Seen with containerd 2.4.2: its `config dump` names `conf.d` among the imports, but it is read only where `config.toml`
/// has it there.
#[test]
fn check_takes_a_drop_in_for_read_where_it_is_imported() {
    let node = Node::new(CONFIG);
    let bare = "version = 3\n";
    node.put("conf.d/registry.toml", V3);
    let found = node.check(bare);
    assert_eq!(found.len(), 1, "{found:?}");
    let tail = "etc/containerd/conf.d/registry.toml sets it, but is not imported: imports = [\"/etc/containerd/conf.d/*.toml\"] \
                would do too";
    assert!(found[0].contains("config_path is not set") && found[0].ends_with(tail), "{found:?}");
    for imports in ["/etc/containerd/conf.d/*.toml", "conf.d/registry.toml", "//etc/containerd/conf.d/*.toml"] {
        assert_eq!(node.check(&format!("imports = ['{imports}']\n{bare}")), [""; 0], "{imports}");
    }
    // With containerd 1 an import would take the whole table.
    node.put("conf.d/registry.toml", V2);
    let found = node.check("version = 2\n");
    assert!(found[0].ends_with("conf.d/registry.toml sets it, but is not imported"), "{found:?}");
    node.put("conf.d/registry.toml", &V3.replace("registry.d", "certs.d"));
    let found = node.check(bare);
    assert!(
        found[0].ends_with("restart containerd") && found[1].contains("leads to /etc/containerd/certs.d"),
        "{found:?}"
    );
}

/// A link below another root would lead into the caller's own.
#[test]
fn no_link_leads_out_of_the_root() {
    use std::os::unix::fs::symlink;
    let node = Node::new(CONFIG);
    let elsewhere = node.0.path().join("elsewhere");
    std::fs::create_dir_all(elsewhere.join("containerd/conf.d")).unwrap();
    std::fs::write(elsewhere.join("main.toml"), V3).unwrap();
    std::fs::write(elsewhere.join("containerd/conf.d/a.toml"), "[").unwrap();
    let linked = "is a symbolic link, which could lead out of --root";

    let (etc, containerd) = (node.root().join("etc"), node.root().join("etc/containerd"));
    for (link, to) in [(&etc, &elsewhere), (&containerd, &elsewhere.join("containerd"))] {
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(to, link).unwrap();
        for flags in [&[][..], &["--dry-run"], &["--check"]] {
            let said = node.run(flags);
            assert_eq!((said.code, said.out.as_str()), (1, ""), "{flags:?}");
            assert!(said.err.contains(&format!("{} {linked}", link.display())), "{}", said.err);
        }
        std::fs::remove_file(link).unwrap();
    }
    assert!(!elsewhere.join("containerd/registry.d").exists());

    std::fs::create_dir_all(&containerd).unwrap();
    symlink(elsewhere.join("main.toml"), containerd.join("config.toml")).unwrap();
    symlink(elsewhere.join("containerd/conf.d"), containerd.join("conf.d")).unwrap();
    let said = node.run(&["--check"]);
    let found: Vec<_> = said.out.lines().map(|line| line.split(';').next().unwrap()).collect();
    let of = |name: &str| format!("etc/containerd/{name}: {linked} and is not followed");
    assert_eq!(found, [of("config.toml"), of("conf.d")]);
    std::fs::remove_file(containerd.join("config.toml")).unwrap();
    let found = node.check("version = 3\nimports = ['conf.d/*.toml', 'conf.d/a.toml']\n");
    assert!(found.len() == 1 && found[0].starts_with("conf.d: is a symbolic link"), "{found:?}");
}

#[test]
fn check_names_others_who_write_the_same_folders() {
    let node = Node::new(CONFIG);
    node.put("registry.d/deckhouse_hosts_state.json", &format!("[\"docker.io\",\"{HOST}\"]"));
    node.put("registry.d/.managed-by-agent", "");
    let found = node.check(V2);
    assert_eq!(
        found,
        [
            "registry.d/.managed-by-agent: Deckhouse's registry agent writes this folder itself".to_owned(),
            format!(
                "registry.d/deckhouse_hosts_state.json: Deckhouse's bashible step writes the folder of {HOST} itself"
            ),
        ]
    );
}

/// A run that is killed anywhere leaves every file old or new, and the next run goes on; here at whatever step the kernel
/// gets to, while every step by itself is a test of the library.
#[test]
fn killed_again_and_again_it_ends_up_where_it_should() {
    let node = Node::new(CONFIG);
    let other = CONFIG.replace("very-secret}", "another}").replace("registry.example,", "other.example,");
    for round in 0..20 {
        node.configure(if round % 2 == 0 { &other } else { CONFIG });
        let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
        command.arg("node-config").arg("--root").arg(node.root()).arg("--config").arg(node.0.path().join("node.yaml"));
        let mut child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        for _ in 0..round * 2000 {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    node.configure(CONFIG);
    let said = node.run(&[]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert_eq!(left_over(&node.root()), [""; 0]);
}

fn left_over(root: &Path) -> Vec<String> {
    let folder = root.join("etc/containerd/registry.d").join(HOST);
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".new")).collect()
}

/// As the Secret of mode Direct has it: the upstream for Deckhouse's containerd, the registry behind it for all.
const DIRECT: &str = "
mode: Direct
version: '1'
imagesBase: registry.d8-system.svc:5001/system/deckhouse
proxyEndpoints: ['10.0.0.1:5001']
hosts:
  registry.d8-system.svc:5001:
    mirrors:
      - host: registry.example
        scheme: HTTPS
        auth: {username: license-token, password: very-secret, auth: ''}
        rewrites: [{from: '^system/deckhouse', to: deckhouse/ee}]
      - {host: '127.0.0.1:5001', scheme: https, auth: {username: license-token, password: very-secret}}
";
/// The tags that Deckhouse's patch leaves in the program.
const TAGS: [&str; 3] = ["toml:\"rewrite\"", "toml:\"regex\"", "toml:\"replace\""];

impl Node {
    /// Puts a containerd with these tags below the root.
    fn program(&self, path: &str, tags: &[&str]) {
        let file = self.root().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, format!("\u{7f}ELF {}", tags.join("\0"))).unwrap();
    }

    /// The mirrors that containerd reads, in its order; and whether logins are extensions.
    fn mirrors(&self) -> (Vec<String>, bool) {
        let file = self.root().join("etc/containerd/registry.d").join(HOST).join("hosts.toml");
        let text = std::fs::read_to_string(file).unwrap();
        let table = |line: &str| line.strip_prefix("[host.\"")?.strip_suffix("\"]").map(str::to_owned);
        (text.lines().filter_map(table).collect(), text.contains(".auth]"))
    }
}

#[test]
fn direct_has_both_mirrors_for_deckhouses_containerd_and_the_registry_alone_for_others() {
    let (upstream, own) = ("https://registry.example".to_owned(), "https://127.0.0.1:5001".to_owned());
    let left_out = |why: &str| {
        format!("etc/containerd/registry.d/{HOST}: the mirror {upstream} rewrites names and is left out: {why}\n")
    };
    let plain = "usr/bin/containerd has none of Deckhouse's extensions";
    let none = "there is no containerd at opt/deckhouse/bin/containerd, usr/local/bin/containerd, usr/bin/containerd that would \
                show whether it has";
    for (name, settings, tags, deckhouses, note) in [
        ("said", "containerd: {extensions: true}", None, true, None),
        ("said not", "containerd: {extensions: false}", Some(&TAGS[..]), false, Some("containerd.extensions is false")),
        ("found", "", Some(&TAGS), true, None),
        ("found, plain", "", Some(&TAGS[..1]), false, Some(plain)),
        ("not found", "", None, false, Some(none)),
    ] {
        let node = Node::new(&format!("{DIRECT}{settings}\n"));
        if let Some(tags) = tags {
            node.program("usr/bin/containerd", tags);
        }
        let said = node.run(&[]);
        assert_eq!(said.code, 0, "{name}: {}", said.err);
        let expected = if deckhouses { vec![upstream.clone()] } else { Vec::new() };
        let expected = [expected, vec![own.clone(), "https://10.0.0.1:5001".to_owned()]].concat();
        assert_eq!(node.mirrors(), (expected, deckhouses), "{name}");
        match note {
            Some(why) => assert!(said.err.starts_with(&left_out(why)), "{name}: {}", said.err),
            None => assert!(!said.err.contains("left out"), "{name}: {}", said.err),
        }
        // Again: the same version, and nothing is written.
        let again = node.run(&[]);
        assert_eq!((again.code, &again.out), (0, &said.out), "{name}");
        assert!(!again.err.contains("is written"), "{name}: {}", again.err);
    }
}

#[test]
fn another_containerd_on_the_node_changes_what_is_written() {
    let node = Node::new(DIRECT);
    node.program("usr/bin/containerd", &[]);
    let plain = node.run(&[]);
    assert_eq!(node.mirrors().0.len(), 2);
    node.program("opt/deckhouse/bin/containerd", &TAGS);
    let deckhouses = node.run(&[]);
    assert_eq!(node.mirrors().0.len(), 3);
    assert_ne!(plain.out, deckhouses.out);
}

#[test]
fn a_host_of_which_no_mirror_is_left_is_a_finding_and_nothing_is_written() {
    let own = DIRECT.lines().filter(|line| line.contains("127.0.0.1")).collect::<String>();
    let node = Node::new(&DIRECT.replace(&own, ""));
    for flags in [&[][..], &["--dry-run"], &["--check"]] {
        let said = node.run(flags);
        let text = format!("{}{}", said.out, said.err);
        assert_eq!(said.code, 1, "{flags:?}: {text}");
        assert!(text.contains(&format!("{HOST}/hosts.toml: no mirror is left, as all rewrite names")), "{text}");
        assert!(!node.root().join("etc/containerd/registry.d").join(HOST).exists());
    }
}

#[test]
fn check_finds_settings_that_count_on_extensions_which_containerd_has_not() {
    let node = Node::new(&format!("{CONFIG}containerd: {{extensions: true}}\n"));
    assert_eq!(node.check(V2), [""; 0], "what is not there contradicts nothing");
    node.program("usr/local/bin/containerd", &TAGS);
    assert_eq!(node.check(V2), [""; 0]);
    node.program("usr/local/bin/containerd", &TAGS[1..]);
    let said = node.run(&["--check"]);
    assert_eq!(said.code, 1);
    assert!(said.out.starts_with("usr/local/bin/containerd: has none of Deckhouse's extensions"), "{}", said.out);
}
