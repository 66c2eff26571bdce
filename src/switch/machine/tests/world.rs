//! A cluster as far as a switch sees it. Objects have resource versions, nodes apply what they are given when they are told to,
//! servers answer as `docs/decisions` says of the mode file, registries hold digests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use crate::clock::Timestamp;
use crate::switch::documents::{
    BashibleConfig, DeckhouseRegistry, FoundModeFile, MastersMap, RegistryState, ServerMode, User,
};
use crate::switch::observed::{ImagesAnswer, Input, ProbeAnswer, ReferencesAnswer};
use crate::switch::record::{NodePlan, Record};
use crate::switch::settings::{CheckMode, Login, Params, Settings, SwitchOptions, Upstream};
use crate::switch::write::{Content, Question, Write};
use crate::values::{Role, Scheme, Secret};

/// The images of the release; every registry that may be switched to has them.
pub(super) const RELEASE: [u8; 3] = [0, 1, 2];
/// An image that the registry with this number alone has is this and its number.
pub(super) const OWN: u8 = 10;
pub(super) const CA: &str = "the authority";

/// An object of the API server.
#[derive(Clone, Debug)]
pub(super) struct Object<T> {
    pub(super) version: u64,
    pub(super) value: Option<T>,
    /// It exists, and nobody can read what is in it.
    pub(super) garbled: bool,
    /// What those take who follow it. What somebody spoils is not taken before it is put back: no controller can prevent what
    /// happens in that gap.
    pub(super) taken: Option<T>,
}

impl<T: Clone + PartialEq> Object<T> {
    pub(super) const fn absent() -> Self {
        Self { version: 0, value: None, garbled: false, taken: None }
    }

    fn present(value: T) -> Self {
        let mut object = Self::absent();
        object.set(Some(value));
        object
    }

    /// What the API server does with a write.
    fn put(&mut self, base: &str, value: T) -> bool {
        let found = if self.value.is_some() || self.garbled { self.version.to_string() } else { String::new() };
        if found != base {
            return false;
        }
        self.set(Some(value));
        true
    }

    pub(super) fn set(&mut self, value: Option<T>) {
        self.spoil(value);
        self.taken.clone_from(&self.value);
    }

    /// Somebody else edits or deletes it.
    pub(super) fn spoil(&mut self, value: Option<T>) {
        self.version += 1;
        self.value = value;
        self.garbled = false;
    }

    pub(super) fn is_spoiled(&self) -> bool {
        self.garbled || self.value != self.taken
    }

    /// Somebody else writes nonsense into it.
    pub(super) fn garble(&mut self) {
        self.spoil(None);
        self.garbled = true;
    }
}

#[derive(Clone, Debug)]
pub(super) struct SimNode {
    pub(super) master: bool,
    pub(super) ready: bool,
    pub(super) schedulable: bool,
    pub(super) ours: bool,
    /// It has Deckhouse's containerd, which rewrites names.
    pub(super) rewrites: bool,
    pub(super) label: &'static str,
    pub(super) runtime: &'static str,
    /// What it has applied; `None`: the form of before, for the registry beside.
    pub(super) applied: Option<BashibleConfig>,
    pub(super) old_form: Option<Upstream>,
    /// The switch went on without it, and it has applied nothing since.
    pub(super) was_skipped: bool,
}

#[derive(Clone, Debug)]
pub(super) struct SimServer {
    pub(super) file: Option<FoundModeFile>,
    /// Fingerprints of users that it has taken, by name.
    pub(super) users: BTreeMap<String, String>,
    /// What the controller has heard of.
    pub(super) reported: Option<FoundModeFile>,
    pub(super) up: bool,
    /// Why it takes no requests.
    pub(super) not_ready: Vec<String>,
    pub(super) started: u64,
    pub(super) previous_answers: u64,
    pub(super) stored: BTreeSet<u8>,
}

/// Everything.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) now: u64,
    pub(super) options: SwitchOptions,
    pub(super) manual: Input,
    pub(super) module_config: Input,
    pub(super) record: Object<Record>,
    pub(super) state: Object<RegistryState>,
    pub(super) mode_file: Object<FoundModeFile>,
    pub(super) bashible: Object<BashibleConfig>,
    pub(super) registry: Object<DeckhouseRegistry>,
    pub(super) users: BTreeMap<Role, Object<User>>,
    pub(super) ca: Object<String>,
    pub(super) pki: bool,
    pub(super) service: Object<BTreeMap<String, String>>,
    pub(super) ingress: Object<bool>,
    pub(super) masters: Object<MastersMap>,
    pub(super) nodes: BTreeMap<String, SimNode>,
    pub(super) servers: BTreeMap<String, SimServer>,
    /// By number of the registry: what it holds.
    pub(super) held: BTreeMap<u8, BTreeSet<u8>>,
    /// What Deckhouse runs with, and whether it is ready.
    pub(super) deckhouse: DeckhouseRegistry,
    pub(super) deckhouse_ready: bool,
    pub(super) queue: Option<u64>,
    /// What registries outside say to a probe.
    pub(super) probe: ProbeAnswer,
    /// Images of living pods: where they are named, and which.
    pub(super) pods: Vec<(String, u8)>,
    pub(super) questions: BTreeMap<String, Question>,
    pub(super) images: BTreeMap<String, ImagesAnswer>,
    pub(super) probes: BTreeMap<String, ProbeAnswer>,
    pub(super) references: BTreeMap<String, ReferencesAnswer>,
    pub(super) word: Option<crate::switch::observed::Word>,
    pub(super) bootstrapped: bool,
    pub(super) module_on: bool,
}

/// The registries outside, each with the only user that it takes; 0 and 2 are two repositories of one host.
static OUTSIDE: LazyLock<[Upstream; UPSTREAMS as usize]> = LazyLock::new(|| {
    let known = [
        ("a.example/deckhouse/ce", Some("a")),
        ("b.example:5000/deckhouse/ee", Some("b")),
        ("a.example/deckhouse/ee", Some("a")),
        ("c.example/d8", None),
    ];
    known.map(|(images_repo, user)| {
        let login =
            user.map(|user| Login { username: user.to_owned(), password: Secret::new(format!("password-of-{user}")) });
        Upstream { images_repo: images_repo.to_owned(), scheme: Scheme::Https, ca: None, login }
    })
});

pub(super) const UPSTREAMS: u8 = 4;

/// A registry outside.
pub(super) fn upstream(number: u8) -> Upstream {
    OUTSIDE[usize::from(number)].clone()
}

/// The registry outside that has this repository, with its number.
pub(super) fn outside(repo: &str) -> Option<(u8, &'static Upstream)> {
    (0..UPSTREAMS).zip(OUTSIDE.iter()).find(|(_, known)| known.images_repo == repo)
}

impl World {
    /// A cluster in bare Unmanaged that uses registry 0.
    pub(super) fn new(masters: usize, workers: usize) -> Self {
        let names = (0..masters).map(|n| (format!("master-{n}"), true));
        let names: Vec<_> = names.chain((0..workers).map(|n| (format!("worker-{n}"), false))).collect();
        let registry = Params::Unmanaged(Some(upstream(0)));
        let registry = DeckhouseRegistry::of(&registry, None).unwrap();
        let mut world = Self {
            now: 1_700_000_000_000,
            options: SwitchOptions::default(),
            manual: Input::Absent,
            module_config: Input::Absent,
            record: Object::absent(),
            state: Object::absent(),
            mode_file: Object::absent(),
            bashible: Object::absent(),
            registry: Object::present(registry.clone()),
            users: Role::ALL.into_iter().map(|role| (role, Object::absent())).collect(),
            ca: Object::present(CA.to_owned()),
            pki: true,
            service: Object::present(crate::switch::outputs::services::nobody()),
            ingress: Object::present(false),
            masters: Object::absent(),
            nodes: BTreeMap::new(),
            servers: BTreeMap::new(),
            held: (0..UPSTREAMS).map(|number| (number, RELEASE.into_iter().chain([OWN + number]).collect())).collect(),
            deckhouse: registry,
            deckhouse_ready: true,
            queue: None,
            probe: ProbeAnswer::Good,
            pods: RELEASE.into_iter().chain([OWN]).map(|digest| (upstream(0).images_repo, digest)).collect(),
            questions: BTreeMap::new(),
            images: BTreeMap::new(),
            probes: BTreeMap::new(),
            references: BTreeMap::new(),
            word: None,
            bootstrapped: true,
            module_on: false,
        };
        for (name, master) in names {
            world.join(&name, master, !name.ends_with('0'));
        }
        world
    }

    /// A node comes, and is given what nodes are given now.
    pub(super) fn join(&mut self, name: &str, master: bool, rewrites: bool) {
        let old_form = self.registry.taken.as_ref().and_then(|registry| registry.upstream().ok().flatten());
        let node = SimNode {
            master,
            ready: true,
            schedulable: true,
            ours: true,
            rewrites,
            label: "default",
            runtime: "containerd://1.7.27",
            applied: self.bashible.taken.clone(),
            old_form,
            was_skipped: false,
        };
        self.nodes.insert(name.to_owned(), node);
        if master {
            let (file, users, started) = (self.mode_file.taken.clone(), self.fingerprints(), self.now / 1000);
            // A master that joins has what another one has before it serves: how it gets that is no affair of a switch.
            let stored = self.servers.values().next().map(|server| server.stored.clone()).unwrap_or_default();
            let reported = file.clone();
            let server = SimServer {
                reported,
                file,
                users,
                up: true,
                not_ready: Vec::new(),
                started,
                previous_answers: 0,
                stored,
            };
            self.servers.insert(name.to_owned(), server);
        }
    }

    /// Somebody has spoiled what a lost record is put together from.
    pub(super) fn is_spoiled(&self) -> bool {
        self.mode_file.is_spoiled()
            || self.bashible.is_spoiled()
            || self.registry.is_spoiled()
            || self.users[&Role::Ro].is_spoiled()
    }

    /// Somebody deletes what the controller remembers.
    pub(super) fn lose_record(&mut self) {
        self.record.set(None);
    }

    pub(super) fn leave(&mut self, name: &str) {
        self.nodes.remove(name);
        self.servers.remove(name);
    }

    pub(super) fn set(&mut self, params: Params) {
        self.manual = Self::asks(params);
    }

    /// An input that asks for a target.
    pub(super) const fn asks(params: Params) -> Input {
        Input::Valid { settings: Settings { params, check_mode: CheckMode::Default }, generation: 0 }
    }

    /// Somebody has deleted the nodes' Secret and it is not put back yet. What bashible does in that gap no controller can
    /// prevent.
    pub(super) fn lacks_nodes_secret(&self) -> bool {
        let planned = self.record.value.as_ref().is_some_and(|record| record.nodes != NodePlan::default());
        planned && self.bashible.taken.is_none()
    }

    /// Bashible of a node runs.
    pub(super) fn apply(&mut self, name: &str) {
        let unmanaged = self.registry.taken.as_ref().and_then(|registry| registry.upstream().ok().flatten());
        if self.lacks_nodes_secret() {
            return;
        }
        let Some(node) = self.nodes.get_mut(name).filter(|node| node.ready && node.ours) else { return };
        node.was_skipped = false;
        match (&self.bashible.taken, unmanaged) {
            (Some(config), _) => node.applied = Some(config.clone()),
            (None, Some(upstream)) => {
                node.applied = None;
                node.old_form = Some(upstream);
            }
            (None, None) => {}
        }
    }

    /// A server reads its file and its users, and reports.
    pub(super) fn reload(&mut self, name: &str) {
        self.reload_unseen(name);
        self.report(name);
    }

    /// What a server holds is heard of.
    pub(super) fn report(&mut self, name: &str) {
        if let Some(server) = self.servers.get_mut(name).filter(|server| server.up) {
            server.reported.clone_from(&server.file);
        }
    }

    /// A server reads its file and its users, and nobody has heard of that yet.
    pub(super) fn reload_unseen(&mut self, name: &str) {
        let users = self.fingerprints();
        let Some(server) = self.servers.get_mut(name).filter(|server| server.up) else { return };
        server.users = users;
        let Some(file) = &self.mode_file.taken else { return };
        let newest = server.file.as_ref().map_or(0, |file| file.file.generation);
        if file.file.generation >= newest {
            server.file = Some(file.clone());
        }
    }

    /// A server ends; one that begins reads its file before it listens, and where it can't be read it goes on with the last one.
    pub(super) fn toggle_server(&mut self, name: &str, can_read: bool) {
        let now = self.now / 1000;
        let Some(server) = self.servers.get_mut(name) else { return };
        server.up = !server.up;
        if server.up {
            (server.started, server.previous_answers) = (now, 0);
            if can_read {
                self.reload_unseen(name);
            }
            self.report(name);
        }
    }

    /// Deckhouse makes its Secret anew where there is none, with what it runs with.
    pub(super) fn deckhouse_makes_its_registry(&mut self) {
        if self.registry.value.is_none() && !self.registry.garbled {
            self.registry.set(Some(self.deckhouse.clone()));
        }
    }

    /// Deckhouse notices its registry, restarts, and is ready.
    pub(super) fn deckhouse_runs(&mut self) {
        let Some(registry) = self.registry.taken.clone() else { return };
        if self.deckhouse == registry {
            self.deckhouse_ready = true;
        } else {
            self.deckhouse = registry;
            self.deckhouse_ready = false;
        }
    }

    /// Deckhouse renders a workload anew, with an image that the registry in force has.
    pub(super) fn render(&mut self, place: usize) {
        let base = format!("{}{}", self.deckhouse.address, self.deckhouse.path);
        let digests = self.renderable(self.now as usize / 31_000 + place);
        let place = place % self.pods.len();
        if self.pods[place].0 != base || !digests.contains(&self.pods[place].1) {
            let digest = digests.get(place % digests.len()).copied().unwrap_or(RELEASE[0]);
            self.pods[place] = (base, digest);
        }
    }

    /// What Deckhouse can render: the release, and what the registry that it asks alone has.
    fn renderable(&self, place: usize) -> Vec<u8> {
        let base = format!("{}{}", self.deckhouse.address, self.deckhouse.path);
        let own = match outside(&base) {
            Some((number, _)) => Some(number),
            None => {
                // Tags come from the mode in force of whichever server is asked.
                let up: Vec<&SimServer> = self.servers.values().filter(|server| server.up).collect();
                let asked = up.get(place % up.len().max(1)).and_then(|server| server.file.as_ref());
                let upstream = asked.and_then(|file| file.file.plane.in_force.upstream());
                upstream.and_then(|upstream| outside(&upstream.images_repo)).map(|(number, _)| number)
            }
        };
        let own = own.filter(|number| self.held[number].contains(&(OWN + number))).map(|number| OWN + number);
        RELEASE.into_iter().chain(own).collect()
    }

    /// Someone pushes the release to a master, which takes it while Local is coming or in force there.
    pub(super) fn push(&mut self, name: &str) {
        let Some(server) = self.servers.get_mut(name).filter(|server| server.up) else { return };
        let plane = server.file.as_ref().map(|file| &file.file.plane);
        if plane.is_some_and(|plane| {
            plane.in_force == ServerMode::Local
                || plane.coming.as_ref().is_some_and(|coming| coming.mode == ServerMode::Local)
        }) {
            server.stored.extend(RELEASE);
        }
    }

    /// What nodes are told of the version with which bare Unmanaged is settled.
    pub(super) fn settled(&self) -> Option<String> {
        self.masters.value.as_ref()?.settled.clone()
    }

    /// One write, as the API server takes it. `false`: it was refused.
    pub(super) fn carry_out(&mut self, write: &Write) -> bool {
        let base = &write.base;
        match &write.what {
            Content::Record(record) => {
                let done = self.record.put(base, (**record).clone());
                if done {
                    for name in &record.skipped {
                        if let Some(node) = self.nodes.get_mut(name) {
                            node.was_skipped = true;
                        }
                    }
                }
                done
            }
            Content::ModeFile(file) => {
                self.mode_file.put(base, FoundModeFile { file: file.clone(), hash: file.hash() })
            }
            Content::Bashible(config) => self.bashible.put(base, config.clone()),
            Content::DeckhouseRegistry(registry) => self.registry.put(base, registry.clone()),
            Content::State(state) => self.state.put(base, state.clone()),
            Content::NewUser(role) => {
                let user = user(*role, &format!("{role}-of-{}", self.now));
                self.users.get_mut(role).unwrap().put(base, user)
            }
            Content::RestoreUser { role, password } => {
                let user = user(*role, password.expose());
                self.users.get_mut(role).unwrap().put(base, user)
            }
            Content::NewAuthority => {
                let made = !self.pki;
                if made {
                    self.pki = true;
                    self.ca.set(Some(format!("an authority of {}", self.now)));
                }
                made
            }
            Content::Service(selector) => self.service.put(base, selector.clone()),
            Content::PushIngress(on) => self.ingress.put(base, *on),
            Content::Masters(map) => self.masters.put(base, map.clone()),
            Content::ForgetWord => {
                self.word = None;
                true
            }
        }
    }
}

pub(super) fn user(role: Role, password: &str) -> User {
    let (name, fingerprint) = (role.as_str().to_owned(), format!("of {password}"));
    User { name, password: Secret::new(password.to_owned()), fingerprint, hash_fits: true }
}

pub(super) fn time(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}
