//! Three masters, each with a network and a disk of its own, and what can be done to them.
//!
//! What stands between two masters is there alone: the client reaches each that lives.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use rcgen::SanType;
use rustix::process::Signal;
use tempfile::TempDir;

use super::disk;
use super::history::{At, Damage, Links, Loss};
use super::network::{CUT, LOSS, address, between, between_all, inside, make, sh, slow_down, speed_up};
use super::trouble::Trouble;
use crate::support::{Authority, Client, Registry, Setup, uri, within};

pub(super) const MASTERS: usize = 3;
const NODE_PROXY: &str = "127.0.0.1:5001";

/// Masters that have a push before it is answered, unless it warns of fewer.
pub(super) const MIN_COPIES: usize = 2;

pub(super) struct Bed {
    masters: [Mutex<Option<Registry>>; MASTERS],
    disks: [Mutex<Arc<TempDir>>; MASTERS],
    authority: Authority,
    /// What all of them read.
    common: PathBuf,
    /// Which take requests.
    up: [AtomicBool; MASTERS],
    began: Instant,
    links: Mutex<Links>,
    /// Which master was killed when.
    deaths: Mutex<Vec<(usize, At)>>,
    losses: Mutex<Vec<Loss>>,
    damages: Mutex<Vec<Damage>>,
}

impl Bed {
    /// Makes the networks, starts the masters and waits until they listen. In a network and with mounts of the test's own.
    pub(super) fn start() -> Self {
        make(MASTERS);
        let common = TempDir::new().unwrap().keep();
        let authority = Authority::new();
        std::fs::write(common.join("ca.crt"), &authority.pem).unwrap();
        let list: Vec<String> = (0..MASTERS).map(|master| format!("{}:5001\n", address(master))).collect();
        std::fs::write(common.join("masters"), list.concat()).unwrap();
        let wall = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/faults/wall.c");
        sh(&format!("cc -shared -fPIC -O -o {}/wall.so {wall}", common.display()));
        let bed = Self {
            masters: Default::default(),
            disks: std::array::from_fn(|_| Mutex::new(disk::empty())),
            authority,
            common,
            up: Default::default(),
            began: Instant::now(),
            links: Mutex::default(),
            deaths: Mutex::default(),
            losses: Mutex::default(),
            damages: Mutex::default(),
        };
        (0..MASTERS).for_each(|master| bed.certify(master));
        // The first has asked the others before they were there.
        bed.tell(|one, other| one == other);
        (0..MASTERS).for_each(|master| bed.begin(master, 0));
        bed.tell(|_, _| true);
        bed
    }

    /// The same masters without all that they have.
    pub(super) fn begin_anew(&self) {
        self.tell(|one, other| one == other);
        (0..MASTERS).for_each(|master| self.kill(master));
        (0..MASTERS).for_each(|master| self.replace_disk(master));
        (0..MASTERS).for_each(|master| self.begin(master, 0));
        self.tell(|_, _| true);
    }

    fn setup(&self, master: usize, hours: i8) -> Setup {
        let at = self.common.display();
        let inside = format!("{} {} \"$@\"", inside(master), env!("CARGO_BIN_EXE_d8-registry"));
        let setup = Setup::with_users().before(&inside).config(&format!(
            "listen: {}:5001\ntls: {{ certFile: {at}/{master}-server.crt, keyFile: {at}/{master}-server.key }}\n\
             replicas: {{ peers: {at}/masters, certificate: {at}/{master}-peer.crt, key: {at}/{master}-peer.key, \
             ca: {at}/ca.crt, minCopies: {MIN_COPIES}, whenShort: accept }}",
            address(master)
        ));
        if hours == 0 {
            return setup;
        }
        let seconds = i32::from(hours) * 3600;
        setup.env("LD_PRELOAD", &format!("{at}/wall.so")).env("WALL_SECONDS", &seconds.to_string())
    }

    /// Makes a master's certificates, or makes them anew: keys first, as `pki issue` does.
    fn certify(&self, master: usize) {
        let name = || SanType::IpAddress(address(master).parse().unwrap());
        let of_server = vec![name(), SanType::IpAddress([127, 0, 0, 1].into())];
        for (file, names) in [("server", of_server), ("peer", vec![name(), uri("d8-registry:peer")])] {
            let (certificate, key) = self.authority.issue(names);
            let write = |kind: &str, text: String| {
                let at = self.common.join(format!("{master}-{file}.{kind}"));
                let staged = at.with_extension("new");
                std::fs::write(&staged, text).unwrap();
                std::fs::rename(staged, at).unwrap();
            };
            write("key", key);
            write("crt", certificate);
        }
    }

    pub(super) fn now(&self) -> At {
        u64::try_from(self.began.elapsed().as_micros()).unwrap()
    }

    /// What was cut when, so far.
    pub(super) fn links(&self) -> Links {
        self.links.lock().unwrap().clone()
    }

    /// Which disks were lost when.
    pub(super) fn losses(&self) -> Vec<Loss> {
        self.losses.lock().unwrap().clone()
    }

    /// Which disks had damage when.
    pub(super) fn damages(&self) -> Vec<Damage> {
        self.damages.lock().unwrap().clone()
    }

    /// Whether a master was killed meanwhile.
    pub(super) fn died(&self, master: usize, from: At, to: At) -> bool {
        self.deaths.lock().unwrap().iter().any(|(dead, at)| *dead == master && (from..=to).contains(at))
    }

    /// Whether a master takes requests.
    pub(super) fn is_up(&self, master: usize) -> bool {
        self.up[master].load(Ordering::Relaxed)
    }

    /// A client of a master.
    pub(super) fn client(master: usize) -> Client {
        Client::new(&format!("https://{}:5001", address(master)), Some(("rw".to_owned(), "secret".to_owned())))
    }

    /// Makes trouble.
    pub(super) fn trouble(&self, trouble: Trouble, victim: usize) {
        self.tell(|one, other| !trouble.parts(victim, one, other));
        match trouble {
            Trouble::Killed => self.kill(victim),
            Trouble::Stopped => {
                self.up[victim].store(false, Ordering::Relaxed);
                self.signal(victim, Signal::STOP);
            }
            Trouble::Alone => between(victim, "-A", CUT),
            Trouble::AllApart => between_all("-A"),
            Trouble::Lossy => between(victim, "-A", LOSS),
            Trouble::Slow => slow_down(victim),
            Trouble::Lost | Trouble::OthersLost => {
                let masters = trouble.lost(victim);
                self.losses.lock().unwrap().push(Loss { masters: masters.clone(), from: self.now(), to: At::MAX });
                masters.iter().for_each(|master| self.kill(*master));
            }
            Trouble::WrongClock(hours) => {
                self.kill(victim);
                self.begin(victim, hours);
            }
            Trouble::Full => {
                // A disk that grows meanwhile can't be made as small as it was.
                self.signal(victim, Signal::STOP);
                disk::fill(&self.disk(victim));
                self.signal(victim, Signal::CONT);
            }
            Trouble::ReadOnly => disk::close(&self.disk(victim)),
            Trouble::Damaged => {
                self.damages.lock().unwrap().push(Damage { master: victim, from: self.now(), to: At::MAX });
                let others: Vec<_> =
                    (0..MASTERS).filter(|master| *master != victim).map(|master| self.disk(master)).collect();
                disk::damage(&self.disk(victim), &others.iter().map(AsRef::as_ref).collect::<Vec<_>>());
            }
            Trouble::Renewed => self.certify(victim),
        }
    }

    /// Ends it.
    pub(super) fn end(&self, trouble: Trouble, victim: usize) {
        match trouble {
            Trouble::Killed => self.begin(victim, 0),
            Trouble::Stopped => {
                self.signal(victim, Signal::CONT);
                self.up[victim].store(true, Ordering::Relaxed);
            }
            Trouble::Alone => between(victim, "-D", CUT),
            Trouble::AllApart => between_all("-D"),
            Trouble::Lossy => between(victim, "-D", LOSS),
            Trouble::Slow => speed_up(victim),
            Trouble::Lost | Trouble::OthersLost => {
                for master in trouble.lost(victim) {
                    self.replace_disk(master);
                    self.begin(master, 0);
                }
                self.losses.lock().unwrap().last_mut().unwrap().to = self.now();
            }
            Trouble::WrongClock(_) => {
                self.kill(victim);
                self.begin(victim, 0);
            }
            Trouble::Full => disk::make_room(&self.disk(victim)),
            Trouble::ReadOnly => disk::open(&self.disk(victim)),
            Trouble::Damaged => {
                disk::scrub(&self.disk(victim));
                self.damages.lock().unwrap().last_mut().unwrap().to = self.now();
            }
            Trouble::Renewed => {}
        }
        self.tell(|_, _| true);
    }

    /// Stops a master in order and starts it again.
    pub(super) fn restart(&self, master: usize) {
        let registry = self.masters[master].lock().unwrap().take().unwrap();
        registry.stop();
        self.begin(master, 0);
    }

    /// `node-proxy` before all of them, on the test's own network; killed with its handle.
    pub(super) fn node_proxy() -> NodeProxy {
        let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
        command.args(["node-proxy", "--backend-tls", "--listen", NODE_PROXY]);
        for master in 0..MASTERS {
            command.arg(format!("--backend={}:5001", address(master)));
        }
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let listens = lines.by_ref().map_while(Result::ok).any(|line| line.contains("\"listening\""));
        assert!(listens, "node-proxy ended before it listened");
        std::thread::spawn(move || lines.for_each(drop));
        NodeProxy(process)
    }

    /// The wall clock of a master, in milliseconds since 1970, as it tells another one.
    pub(super) async fn wall(&self, master: usize) -> u64 {
        self.sum(master).await.0
    }

    /// Waits until all masters have the same records.
    pub(super) async fn are_equal(&self) {
        within(async {
            loop {
                let sums = [self.sum(0).await.1, self.sum(1).await.1, self.sum(2).await.1];
                if sums.iter().all(|sum| *sum == sums[0]) {
                    return;
                }
            }
        })
        .await;
    }

    /// What a master tells another one of all of its records: its wall clock, and their sum.
    async fn sum(&self, master: usize) -> (u64, Bytes) {
        let read = |kind| std::fs::read_to_string(self.common.join(format!("{master}-peer.{kind}"))).unwrap();
        let client = self.authority.client(Some(&(read("crt"), read("key"))));
        within(async {
            loop {
                let sum = client.get(format!("https://{}:5001/-/peer/records", address(master))).header("d8-hop", "1");
                let answer = sum.send().await.unwrap();
                // It says so when it has read its records.
                let clock = answer.headers().get("d8-clock").map(|clock| clock.to_str().unwrap().parse().unwrap());
                if let Some(clock) = clock {
                    return (clock, answer.bytes().await.unwrap());
                }
            }
        })
        .await
    }

    fn begin(&self, master: usize, hours: i8) {
        let registry = Registry::start_in(self.disk(master), &self.setup(master, hours));
        *self.masters[master].lock().unwrap() = Some(registry);
        self.up[master].store(true, Ordering::Relaxed);
    }

    fn kill(&self, master: usize) {
        self.up[master].store(false, Ordering::Relaxed);
        self.deaths.lock().unwrap().push((master, self.now()));
        self.masters[master].lock().unwrap().take().unwrap().kill();
    }

    fn disk(&self, master: usize) -> Arc<TempDir> {
        Arc::clone(&self.disks[master].lock().unwrap())
    }

    fn replace_disk(&self, master: usize) {
        let before = std::mem::replace(&mut *self.disks[master].lock().unwrap(), disk::empty());
        disk::let_go(before);
    }

    fn signal(&self, master: usize, signal: Signal) {
        self.masters[master].lock().unwrap().as_ref().unwrap().signal(signal);
    }

    fn tell(&self, linked: impl Fn(usize, usize) -> bool) {
        let links = (0..MASTERS).map(|one| (0..MASTERS).map(|other| linked(one, other)).collect()).collect();
        self.links.lock().unwrap().change(self.now(), links);
    }
}

/// A running node-proxy.
pub(super) struct NodeProxy(Child);

impl NodeProxy {
    /// A client of the masters through it.
    #[expect(clippy::unused_self, reason = "there is one while it runs")]
    pub(super) fn client(&self) -> Client {
        Client::new(&format!("https://{NODE_PROXY}"), Some(("rw".to_owned(), "secret".to_owned())))
    }
}

impl Drop for NodeProxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
