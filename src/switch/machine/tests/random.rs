//! Random sequences of what may happen, and four laws: at every instant every node can get every image that is rendered, no
//! switch begins that the input in force did not ask for, no secret is shown, and the wanted mode is reached once the world stands
//! still, without a person unless one is needed.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::laws::asked;
use super::world::{Object, RELEASE, UPSTREAMS, World, upstream, user};
use crate::switch::conditions::ConditionType;
use crate::switch::documents::{DeckhouseRegistry, ServerMode};
use crate::switch::machine::decide;
use crate::switch::observed::{Input, Observed, Word};
use crate::switch::record::{InputSource, Record};
use crate::switch::settings::{Params, SwitchOptions, UnreadyNodes};
use crate::switch::write::{Content, Write};
use crate::values::Role;

/// Cases where `SWITCH_CASES` does not say how many.
const CASES: u32 = 600;

/// Something that happens: a kind and two arguments.
type Event = (u8, u8, u8);

/// A replica of the controller that has looked and not yet written.
struct Replica {
    seen: Option<Observed>,
    writes: Vec<Write>,
    /// What was asked for when it decided.
    asked: Option<Params>,
}

struct Play {
    world: World,
    replicas: [Replica; 2],
    joined: u8,
    /// The last record that there was.
    backup: Option<Record>,
    /// Something has happened that a person has to see to: an input or the record was lost, or an input was changed.
    needs_person: bool,
    trace: Vec<String>,
}

fn wanted(which: u8) -> Params {
    let number = which / 8 % UPSTREAMS;
    match which % 8 {
        0 | 1 => Params::Direct(upstream(number)),
        2 => Params::Proxy { upstream: upstream(number), ttl: Duration::from_secs(168 * 3600) },
        3 => Params::Proxy { upstream: upstream(number), ttl: Duration::from_secs(3600) },
        4 | 5 => Params::Local,
        6 => Params::Unmanaged(Some(upstream(number))),
        _ => Params::BARE,
    }
}

/// Clusters that have reached their first mode, by shape and mode: the way there is the same for every case.
static SETTLED: Mutex<BTreeMap<(u8, u8), World>> = Mutex::new(BTreeMap::new());

impl Play {
    fn of(world: World) -> Self {
        let idle = || Replica { seen: None, writes: Vec::new(), asked: None };
        let backup = world.record.value.clone();
        Self { world, replicas: [idle(), idle()], joined: 0, backup, needs_person: false, trace: Vec::new() }
    }

    /// A cluster that has settled in its first mode.
    fn new(shape: u8, first: u8) -> Result<Self, TestCaseError> {
        // 3 masters and 2 workers at most; nodes are waited for or skipped.
        let size = shape % 6;
        let unready_nodes = if shape & 64 == 0 { UnreadyNodes::Wait } else { UnreadyNodes::Skip };
        let options = SwitchOptions { unready_nodes, settle: Duration::from_secs(60), ..SwitchOptions::default() };
        let key = (size, first % 32);
        let known = SETTLED.lock().unwrap().get(&key).cloned();
        let mut world = match known {
            Some(world) => world,
            None => {
                let mut play = Self::of(World::new(1 + usize::from(size % 3), 1 + usize::from(size / 3)));
                play.stand_still(&wanted(first))?;
                SETTLED.lock().unwrap().insert(key, play.world.clone());
                play.world
            }
        };
        world.options = options;
        if shape & 128 != 0 {
            // Registries that are not in use lack an image at first.
            let used = wanted(first).upstream().cloned();
            for number in (1..UPSTREAMS).filter(|number| used != Some(upstream(*number))) {
                world.held.get_mut(&number).unwrap().remove(&RELEASE[1]);
            }
        }
        Ok(Self::of(world))
    }

    /// Everybody does a part of his work, but for those whose bit is not set.
    fn round(&mut self, nodes: u8, others: u8) -> Result<(), TestCaseError> {
        let takes_part = |mask: u8, place: usize| mask >> (place % 8) & 1 == 1;
        self.world.now += 31_000;
        self.run(if others.is_multiple_of(7) { usize::from(nodes % 4) } else { usize::MAX })?;
        if others & 3 != 0 {
            self.world.find_out();
        }
        let names: Vec<String> = self.world.nodes.keys().cloned().collect();
        for (place, name) in names.iter().enumerate() {
            if takes_part(nodes, place) {
                self.world.apply(name);
                self.law()?;
            }
            if takes_part(others, place) {
                self.world.reload_unseen(name);
                self.law()?;
            }
            if takes_part(others, place + 1) {
                self.world.report(name);
            }
            if nodes.is_multiple_of(5) {
                self.world.push(name);
            }
        }
        if nodes & 3 != 0 {
            self.world.deckhouse_runs();
        }
        // Workloads are rendered anew one by one, so an old image lives on for long.
        let place = usize::from(others % 16);
        if place < self.world.pods.len() {
            self.world.render(place);
            self.law()?;
        }
        Ok(())
    }

    /// A whole run without anything between its look and its writes; it is killed after `writes` of them.
    fn run(&mut self, writes: usize) -> Result<(), TestCaseError> {
        let look = self.world.look();
        let decision = decide(&look);
        self.world.ask_all(&decision);
        let asked = asked(&look);
        for write in decision.writes.iter().take(writes) {
            if !self.carry_out(write, asked.as_ref())? {
                break;
            }
        }
        Ok(())
    }

    /// One write, which begins nothing that nobody has asked for. `false`: it was refused.
    fn carry_out(&mut self, write: &Write, asked: Option<&Params>) -> Result<bool, TestCaseError> {
        if !self.world.carry_out(write) {
            return Ok(false);
        }
        if let Content::State(state) = &write.what {
            self.world.shows_no_secret(state).map_err(TestCaseError::fail)?;
        }
        if let Some(record) = self.world.record.value.clone() {
            let before = self.backup.replace(record.clone());
            // A time to live alone is no other service, and the one in force is all that is left of it without a record.
            let alike = |other: &Params| {
                other.target() == record.target.target() && other.upstream() == record.target.upstream()
            };
            let known = before.as_ref().is_none_or(|before| alike(&before.target) || alike(&before.completed));
            // A state that is older than the lost record is all that there is.
            let stated = self.world.state.value.as_ref().is_some_and(|state| {
                let repo = state.facts.iter().find(|(name, _)| name == "completed").map(|(_, repo)| repo);
                state.mode == record.target.target() && repo == record.target.upstream().map(|up| &up.images_repo)
            });
            if !known && !stated && !record.adopted && !asked.is_some_and(alike) {
                let trace = self.trace.join("\n");
                return Err(TestCaseError::fail(format!(
                    "nobody asked for {:?}, before {before:?}\nafter\n{trace}",
                    record.target
                )));
            }
        }
        self.law()?;
        Ok(true)
    }

    fn law(&mut self) -> Result<(), TestCaseError> {
        self.world.pulls_and_could_go_back().map_err(|why| {
            let trace = self.trace.join("\n");
            TestCaseError::fail(format!("{why}\nafter\n{trace}\nservers {:?}", self.world.servers))
        })
    }

    fn node(&self, which: u8) -> Option<String> {
        let count = self.world.nodes.len();
        self.world.nodes.keys().nth(usize::from(which) % count.max(1)).cloned()
    }

    fn happens(&mut self, (kind, one, two): Event) -> Result<(), TestCaseError> {
        let world = &mut self.world;
        match kind {
            // Most of what happens is the work of the controller and of those who follow it.
            0..=19 => self.round(one, two)?,
            64..=69 => self.run(usize::MAX)?,
            20..=24 => self.run(usize::from(one % 4))?,
            25..=29 => {
                world.now += 1_000 * u64::from(one);
                world.find_out();
            }
            30..=38 => {
                if let Some(name) = self.node(one) {
                    self.world.apply(&name);
                }
            }
            39..=44 => {
                if let Some(name) = self.node(one) {
                    self.world.reload_unseen(&name);
                    if two.is_multiple_of(2) {
                        self.world.report(&name);
                    }
                }
            }
            45..=47 => world.deckhouse_runs(),
            48..=50 => world.render(usize::from(one)),
            51..=53 => {
                let params = wanted(one);
                self.trace.push(format!("{params:?} is wanted"));
                world.set(params);
            }
            54 => world.now += 1_000_000,
            55 => {
                if let Some(name) = self.node(one) {
                    let node = self.world.nodes.get_mut(&name).unwrap();
                    if two.is_multiple_of(4) {
                        node.ours = !node.ours;
                    } else {
                        node.ready = !node.ready;
                    }
                }
            }
            56 => {
                if self.joined < 3 && !world.lacks_nodes_secret() {
                    self.joined += 1;
                    let name = format!("joined-{}", self.joined);
                    world.join(&name, two.is_multiple_of(2), one.is_multiple_of(2));
                }
            }
            57 => {
                let workers = world.nodes.iter().filter(|(_, node)| !node.master).count();
                if let Some(name) = self.node(one)
                    && (self.world.nodes[&name].master && self.world.servers.len() > 1
                        || !self.world.nodes[&name].master && workers > 1)
                {
                    self.world.leave(&name);
                }
            }
            58 => {
                world.held.get_mut(&(one % UPSTREAMS)).unwrap().extend(RELEASE);
            }
            59 => {
                if let Some(name) = self.node(one) {
                    self.world.push(&name);
                }
            }
            60 => {
                // At least one server is up.
                let up = world.servers.values().filter(|server| server.up).count();
                if let Some(name) = self.node(one)
                    && let Some(server) = self.world.servers.get(&name)
                    && (!server.up || up > 1)
                {
                    self.world.toggle_server(&name, two.is_multiple_of(2));
                }
            }
            61 | 70..=73 => self.spoil(one),
            74 | 75 => {
                // Alone, or together with registry-state.
                if world.record.value.is_some() && !world.is_spoiled() {
                    self.needs_person = true;
                    if two.is_multiple_of(2) {
                        world.lose_record();
                    } else {
                        world.record.garble();
                    }
                    if one.is_multiple_of(4) {
                        world.state.spoil(None);
                    }
                }
            }
            76 => {
                self.needs_person = true;
                world.manual =
                    if two.is_multiple_of(2) { Input::Absent } else { Input::Unreadable("forbidden".to_owned()) };
            }
            77 => {
                self.needs_person = true;
                world.module_config = if two.is_multiple_of(4) { Input::Unset } else { World::asks(wanted(one)) };
            }
            78 => {
                self.needs_person = true;
                let source = if two.is_multiple_of(2) { InputSource::Manual } else { InputSource::ModuleConfig };
                world.word = Some(Word::Source(source));
            }
            79.. => world.deckhouse_makes_its_registry(),
            62 => {
                // A replica looks; the record is read last, so what it saw of all else may be older.
                let replica = &mut self.replicas[usize::from(one % 2)];
                if two.is_multiple_of(3) || replica.seen.is_none() {
                    replica.seen = Some(self.world.look());
                } else if let Some(mut seen) = replica.seen.take() {
                    seen.record = self.world.look().record;
                    replica.asked = asked(&seen);
                    replica.writes = decide(&seen).writes;
                    replica.writes.reverse();
                }
            }
            63 => {
                let replica = &mut self.replicas[usize::from(one % 2)];
                let asked = replica.asked.clone();
                if let Some(write) = replica.writes.pop()
                    && !self.carry_out(&write, asked.as_ref())?
                {
                    self.replicas[usize::from(one % 2)].writes.clear();
                }
            }
        }
        self.law()
    }

    /// Somebody edits or deletes an output, or writes nonsense into it.
    fn spoil(&mut self, what: u8) {
        fn delete<T: Clone + PartialEq>(object: &mut Object<T>) {
            if object.value.is_some() {
                object.spoil(None);
            }
        }
        let world = &mut self.world;
        // What a record is put together from is not spoiled while there is none.
        let Some(record) = &world.record.value else { return };
        let managed = record.target != Params::BARE;
        let points = record.deckhouse_registry.is_some();
        match what % 20 {
            0 => delete(&mut world.state),
            1 if record.generation > 0 => delete(&mut world.mode_file),
            // In settled bare Unmanaged that means something.
            2 if managed || record.under_way => delete(&mut world.bashible),
            2 => world.bashible.set(None),
            3 if !world.mode_file.is_spoiled() => {
                if let Some(mut file) = world.mode_file.value.clone() {
                    file.file.generation += u64::from(what / 20 % 3);
                    file.hash = file.file.hash();
                    world.mode_file.set(Some(file));
                }
            }
            4 => delete(world.users.get_mut(&Role::Rw).unwrap()),
            5 => delete(&mut world.masters),
            6 => delete(&mut world.service),
            7 => world.state.garble(),
            8 if record.generation > 0 => world.mode_file.garble(),
            9 if managed && world.bashible.value.is_some() => world.bashible.garble(),
            10 if record.ro.is_some() => world.users.get_mut(&Role::Ro).unwrap().garble(),
            11 if record.ro.is_some() => {
                world.users.get_mut(&Role::Ro).unwrap().spoil(Some(user(Role::Ro, "guessed")));
            }
            12 if points => world.registry.garble(),
            13 if points => delete(&mut world.registry),
            14 if points => {
                // Nothing that the controller is about to write itself.
                let address = "edited.example".to_owned();
                let edited = world.registry.value.clone().map(|registry| DeckhouseRegistry { address, ..registry });
                world.registry.spoil(edited);
            }
            15 if managed => {
                if let Some(mut config) = world.bashible.value.clone() {
                    config.hosts.clear();
                    config.version = if (what / 20).is_multiple_of(2) { config.hash() } else { config.version };
                    world.bashible.spoil(Some(config));
                }
            }
            16 if record.generation > 0 => {
                if let Some(mut file) = world.mode_file.value.clone() {
                    file.file.plane.in_force = ServerMode::Unmanaged;
                    file.file.plane.previous.clear();
                    file.hash = file.file.hash();
                    world.mode_file.spoil(Some(file));
                }
            }
            17 => world.masters.garble(),
            18 => world.service.garble(),
            _ => {}
        }
    }

    /// Nobody wants anything else any more; everyone does his part.
    fn stand_still(&mut self, last: &Params) -> Result<(), TestCaseError> {
        self.trace.push(format!("at last {last:?} is wanted, by record {:?}", self.world.record.value));
        self.world.set(last.clone());
        self.world.module_config = World::asks(last.clone());
        for number in 0..UPSTREAMS {
            self.world.held.get_mut(&number).unwrap().extend(RELEASE);
        }
        let names: Vec<String> = self.world.nodes.keys().cloned().collect();
        for name in &names {
            if self.world.servers.get(name).is_some_and(|server| !server.up) {
                self.world.toggle_server(name, true);
            }
        }
        for round in 0..80 {
            self.world.now += 61_000;
            // A node that is not Ready comes back late: a switch that goes on without it must not end before.
            if round == 30 {
                self.world.nodes.values_mut().for_each(|node| (node.ready, node.ours) = (true, true));
            }
            self.world.deckhouse_makes_its_registry();
            if round == 10 && self.needs_person {
                self.person_acts();
            }
            self.run(usize::MAX)?;
            self.world.find_out();
            for name in &names {
                self.world.apply(name);
                self.law()?;
                self.world.reload(name);
                self.law()?;
                self.world.push(name);
            }
            self.world.deckhouse_runs();
            (0..self.world.pods.len()).for_each(|place| self.world.render(place));
            self.law()?;
            if self.is_reached(last) {
                return Ok(());
            }
        }
        let decision = decide(&self.world.look());
        let told: Vec<String> = decision.conditions.iter().map(|shown| format!("{shown:?}")).collect();
        let trace = self.trace.join("\n");
        Err(TestCaseError::fail(format!(
            "{last:?} is not reached: {}\nafter\n{trace}\n{:?}",
            told.join("\n"),
            self.world.record.value
        )))
    }

    /// A person does what the controller asks for, and nothing else: a backup of the record, or the word that names the input.
    fn person_acts(&mut self) {
        let decision = decide(&self.world.look());
        if decision.figures.held == Some("record") {
            self.trace.push("the record is put back".to_owned());
            self.world.record.set(self.backup.clone());
        }
        let asks_for_a_word = decision.conditions.iter().any(|shown| {
            let is_of_input = matches!(shown.kind, ConditionType::InputSource | ConditionType::InputLost);
            is_of_input && shown.message.contains("d8-registry switch source")
        });
        if asks_for_a_word {
            self.trace.push("the input is named".to_owned());
            self.world.word = Some(Word::Source(InputSource::Manual));
        }
    }

    fn is_reached(&self, last: &Params) -> bool {
        let (Some(record), Some(state)) = (&self.world.record.value, &self.world.state.value) else { return false };
        let ready = state.conditions.last().is_some_and(|last| last.kind == ConditionType::Ready && last.status);
        let refused = *last == Params::BARE
            && state.conditions.iter().any(|shown| {
                shown.kind == ConditionType::ErrTransitionNotSupported
                    && shown.message == "mode transition from Local to Unmanaged not supported"
            });
        refused || (ready && record.completed == *last && !record.under_way)
    }
}

/// A cluster's shape and first mode, what happens, and what is wanted at last.
type Case = (u8, u8, Vec<Event>, u8);

fn case() -> impl Strategy<Value = Case> {
    let events = proptest::collection::vec((0_u8..80, any::<u8>(), any::<u8>()), 0..60);
    (any::<u8>(), any::<u8>(), events, any::<u8>())
}

fn plays((shape, first, events, last): Case) -> Result<(), TestCaseError> {
    let mut play = Play::new(shape, first)?;
    for event in events {
        play.trace.push(format!("{event:?}"));
        play.happens(event)?;
    }
    play.stand_still(&wanted(last))
}

#[test]
fn no_pull_fails_and_the_wanted_mode_is_reached() {
    let cases = std::env::var("SWITCH_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let threads = u32::try_from(std::thread::available_parallelism().map_or(1, usize::from)).unwrap_or(1).min(8);
    let config = Config {
        cases: cases.div_ceil(threads),
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..Config::default()
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let config = config.clone();
            scope.spawn(|| TestRunner::new(config).run(&case(), plays).unwrap_or_else(|failed| panic!("{failed}")));
        }
    });
}
