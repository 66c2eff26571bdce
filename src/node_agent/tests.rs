//! Rounds on a real folder: the law of the way back over whole lives of a node, killed anywhere.

use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::given;
use super::local::{Answer, Kind, Local, Places, Said, UNKNOWN};
use crate::node_config::{self, NodeConfig};

const CONTAINERD: &str =
    "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/registry.d\"\n";

/// A node whose containerd pulls by `registry.d`; in memory where that is to be had.
struct Node {
    _folder: TempDir,
    local: Local,
}

impl Node {
    fn new() -> Self {
        let shared = Path::new("/dev/shm");
        let folder = if shared.is_dir() { TempDir::new_in(shared) } else { TempDir::new() }.unwrap();
        let [root, mount, files, proc] = ["root", "mount", "files", "proc"].map(|name| folder.path().join(name));
        std::fs::create_dir_all(root.join("etc/containerd")).unwrap();
        std::fs::write(root.join("etc/containerd/config.toml"), CONTAINERD).unwrap();
        std::fs::create_dir(&mount).unwrap();
        let places = Places { root, mount, files, proc };
        Self { _folder: folder, local: Local { places, may_restart: false, restarted: None } }
    }

    fn places(&self) -> &Places {
        &self.local.places
    }

    /// What is mounted from now on: a text and the word `settled`.
    fn mount(&self, config: Option<&str>, settled: Option<&str>) {
        for (name, text) in [("config", config), ("settled", settled)] {
            let path = self.places().mount.join(name);
            match text {
                Some(text) => std::fs::write(path, text).unwrap(),
                None => drop(std::fs::remove_file(path)),
            }
        }
    }

    fn round(&mut self) -> Said {
        self.local.round(false)
    }

    /// The mirror that containerd would ask; `None`: nothing of ours is there.
    fn mirror(&self) -> Option<String> {
        let folder = self.places().root.join("etc/containerd/registry.d/r.example/hosts.toml");
        let text = std::fs::read_to_string(folder).ok()?;
        let (_, rest) = text.split_once("[host.\"https://")?;
        Some(rest.split('"').next().unwrap().to_owned())
    }

    fn kinds(said: &Said) -> Vec<Kind> {
        said.problems.iter().map(|problem| problem.kind).collect()
    }
}

fn config(mode: &str, version: &str) -> String {
    format!(
        "{{mode: {mode}, version: {version}, imagesBase: r.example/ee, \
         hosts: {{r.example: {{mirrors: [{{host: '{version}.example', scheme: https}}]}}}}}}"
    )
}

/// What happens to a node's mount.
#[derive(Clone, Debug)]
enum Event {
    /// A configuration; whether it is bare Unmanaged, and settled.
    Given { version: u8, bare: bool, settled: bool },
    /// One that nobody can follow.
    Garbled,
    /// The version that is settled, as the word beside the mount has it.
    Gone { settled: Option<u8> },
    /// The agent is killed after this much of a round, and started again.
    Killed(Cut),
}

#[derive(Clone, Copy, Debug)]
enum Cut {
    AfterTheCopy,
    AfterTheFiles,
    BeforeAnything,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_u8..3, any::<bool>(), any::<bool>())
            .prop_map(|(version, bare, settled)| Event::Given { version, bare, settled }),
        1 => Just(Event::Garbled),
        3 => prop::option::of(0_u8..3).prop_map(|settled| Event::Gone { settled }),
        2 => prop_oneof![Just(Cut::AfterTheCopy), Just(Cut::AfterTheFiles), Just(Cut::BeforeAnything)]
            .prop_map(Event::Killed),
    ]
}

/// A node by the law alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    mounted: Mount,
    copy: Option<Copied>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mount {
    Given(Copied),
    Garbled,
    Gone { settled: Option<String> },
}

impl Default for Mount {
    fn default() -> Self {
        Self::Gone { settled: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Copied {
    version: String,
    bare: bool,
    /// Whether it was known as settled when it was copied.
    settled: bool,
}

impl Copied {
    /// Whether the end of its Secret is the way back.
    fn ends(&self, word: Option<&str>) -> bool {
        self.bare && (self.settled || word == Some(self.version.as_str()))
    }
}

impl Model {
    fn round(&mut self) {
        match &self.mounted {
            Mount::Given(given) => self.copy = Some(given.clone()),
            Mount::Gone { settled } if self.copy.as_ref().is_some_and(|copy| copy.ends(settled.as_deref())) => {
                self.copy = None;
            }
            Mount::Garbled | Mount::Gone { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn files_are_taken_away_only_at_the_end_of_a_settled_bare_unmanaged(events in prop::collection::vec(event(), 1..14)) {
        let mut node = Node::new();
        let mut model = Model::default();
        for event in events {
            match event {
                Event::Given { version, bare, settled } => {
                    let version = format!("v{version}");
                    let text = config(if bare { "Unmanaged" } else { "Proxy" }, &version);
                    node.mount(Some(&text), settled.then_some(version.as_str()));
                    model.mounted = Mount::Given(Copied { version, bare, settled });
                }
                Event::Garbled => {
                    node.mount(Some("mode: ["), None);
                    model.mounted = Mount::Garbled;
                }
                Event::Gone { settled } => {
                    let settled = settled.map(|version| format!("v{version}"));
                    node.mount(None, settled.as_deref());
                    model.mounted = Mount::Gone { settled };
                }
                Event::Killed(cut) => {
                    let places = node.places();
                    match (given::mounted(&places.mount), given::kept(&places.files), cut) {
                        (_, _, Cut::BeforeAnything) => {}
                        (given::Mounted::Given(given), _, cut) => {
                            given::keep(&places.files, &given).unwrap();
                            if matches!(cut, Cut::AfterTheFiles) {
                                node_config::apply(&places.root, &given.config).unwrap();
                            }
                        }
                        (given::Mounted::Absent { settled }, given::Kept::Given(given), _)
                            if given.ends_with_its_secret || given.is_settled_by(settled.as_deref()) =>
                        {
                            node_config::apply(&places.root, &NodeConfig::nothing()).unwrap();
                        }
                        _ => {}
                    }
                    continue;
                }
            }
            let said = node.round();
            model.round();
            let version = model.copy.as_ref().map(|copy| copy.version.clone());
            prop_assert_eq!(node.mirror(), version.as_ref().map(|version| format!("{version}.example")));
            prop_assert_eq!(said.follows.is_some(), version.is_some());
            let state = node.places().root.join("etc/containerd/registry.d/d8-registry-state.json");
            prop_assert_eq!(state.exists(), version.is_some());
            // What is not done is said, and nothing else is wrong.
            let held = match &model.mounted {
                Mount::Given(_) => false,
                Mount::Garbled => true,
                Mount::Gone { .. } => version.is_some(),
            };
            prop_assert_eq!(Node::kinds(&said), if held { vec![Kind::Source] } else { vec![] });
            let garbled_first = version.is_none() && model.mounted == Mount::Garbled;
            let answered = if garbled_first { None } else { Some(version.unwrap_or_else(|| UNKNOWN.to_owned())) };
            prop_assert_eq!(said.answer, Answer { version: answered, usual: Some(true) });
        }
    }
}

#[test]
fn a_node_that_does_not_pull_by_its_files_answers_no_version() {
    let mut node = Node::new();
    node.mount(Some(&config("Proxy", "v1")), None);
    let main = node.places().root.join("etc/containerd/config.toml");
    std::fs::write(&main, "version = 2\n").unwrap();
    let said = node.round();
    assert_eq!(said.answer, Answer { version: None, usual: Some(false) });
    assert_eq!(Node::kinds(&said), [Kind::Containerd]);
    assert!(
        said.problems[0].text.starts_with("etc/containerd/config.toml: registry.config_path is not set"),
        "{said:?}"
    );
    // The files are there for when it does.
    assert_eq!(node.mirror().unwrap(), "v1.example");
    std::fs::write(&main, CONTAINERD).unwrap();
    assert_eq!(node.round().answer, Answer { version: Some("v1".to_owned()), usual: Some(true) });
}

#[test]
fn a_node_of_which_nothing_is_wanted_may_have_any_configuration() {
    let mut node = Node::new();
    let main = node.places().root.join("etc/containerd/config.toml");
    std::fs::write(&main, "version = 2\n").unwrap();
    let said = node.round();
    assert_eq!((Node::kinds(&said), said.wants_something()), (vec![Kind::Containerd], false));
    node.mount(Some("mode: ["), None);
    assert!(node.round().wants_something());
    node.mount(Some(&config("Unmanaged", "v1")), Some("v1"));
    assert!(node.round().wants_something());
    node.mount(None, Some("v1"));
    let said = node.round();
    assert_eq!((Node::kinds(&said), said.wants_something()), (vec![Kind::Containerd], false));
    assert!(!node.local.round(true).wants_something());
}

#[test]
fn what_others_write_is_let_be_and_named() {
    let mut node = Node::new();
    node.mount(Some(&config("Proxy", "v1")), None);
    let hosts = node.places().root.join("etc/containerd/registry.d");
    std::fs::create_dir_all(&hosts).unwrap();
    std::fs::write(hosts.join("deckhouse_hosts_state.json"), "[\"r.example\"]").unwrap();
    let said = node.round();
    assert_eq!((node.mirror(), said.answer.version.clone()), (None, None));
    assert!(Node::kinds(&said).contains(&Kind::Files) && said.follows.is_none(), "{said:?}");
    std::fs::remove_file(hosts.join("deckhouse_hosts_state.json")).unwrap();
    assert_eq!(node.round().answer.version.unwrap(), "v1");
    // Changed by hand: it stays so, and nothing is answered until somebody has looked.
    let file = hosts.join("r.example/hosts.toml");
    std::fs::write(&file, "# mine\n").unwrap();
    node.mount(Some(&config("Proxy", "v2")), None);
    let said = node.round();
    assert_eq!((std::fs::read_to_string(&file).unwrap().as_str(), said.answer.version), ("# mine\n", None));
    assert_eq!(said.answer.usual, Some(false));
}

#[test]
fn without_a_copy_nobody_knows_what_the_files_are_for_and_they_stay() {
    let mut node = Node::new();
    node.mount(Some(&config("Unmanaged", "v1")), Some("v1"));
    node.round();
    std::fs::remove_dir_all(&node.places().files).unwrap();
    node.mount(None, None);
    let said = node.round();
    assert_eq!((node.mirror().as_deref(), said.answer.version.clone()), (Some("v1.example"), None));
    assert_eq!(Node::kinds(&said), [Kind::Source]);
    std::fs::create_dir(&node.places().files).unwrap();
    std::fs::write(node.places().files.join("copy.json"), "{").unwrap();
    assert_eq!((Node::kinds(&node.round()), node.mirror().is_some()), (vec![Kind::Source], true));
}

#[test]
fn bashibles_node_is_let_be() {
    let mut node = Node::new();
    node.mount(Some(&config("Proxy", "v1")), None);
    let said = node.local.round(true);
    assert_eq!(said, Said { stands_by: true, ..Said::default() });
    assert!(node.mirror().is_none() && !node.places().files.exists());
}
