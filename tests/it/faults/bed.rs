//! Three masters, each with a network of its own, whose links can be cut, and that can be killed.
//!
//! A master's network has one cable, to the test's own network, which passes on what is for the others. What stands between
//! two masters is there alone: the client reaches each that lives.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rcgen::SanType;
use rustix::process::Signal;
use tempfile::TempDir;

use super::history::{At, Links};
use crate::support::{Authority, Client, Registry, Setup, uri};

pub(super) const MASTERS: usize = 3;
const NODE_PROXY: &str = "127.0.0.1:5001";

/// What is wrong with a master, or with its way to the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    Killed,
    /// It does not run and its system takes connections.
    Stopped,
    /// Neither of the other two can be asked, nor asks.
    Alone,
    /// Nobody can ask anybody.
    AllApart,
    /// What goes to the others and comes from them is lost now and then.
    Lossy,
    /// Its cable is slow.
    Slow,
}

impl Trouble {
    pub(super) const ALL: [Self; 6] =
        [Self::Killed, Self::Alone, Self::Stopped, Self::AllApart, Self::Lossy, Self::Slow];

    /// Whether two masters can't ask each other meanwhile.
    fn parts(self, victim: usize, one: usize, other: usize) -> bool {
        one != other
            && match self {
                Self::AllApart => true,
                Self::Lossy | Self::Slow | Self::Killed | Self::Stopped | Self::Alone => {
                    one == victim || other == victim
                }
            }
    }
}

/// Runs a line in the test's own network; gives whether it succeeded.
fn tried(line: &str) -> bool {
    Command::new("sh").args(["-c", line]).stderr(Stdio::null()).status().unwrap().success()
}

fn sh(line: &str) {
    let done = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

fn address(master: usize) -> String {
    format!("10.77.{master}.1")
}

pub(super) struct Bed {
    masters: [Mutex<Option<Registry>>; MASTERS],
    folders: [Arc<TempDir>; MASTERS],
    setups: [Setup; MASTERS],
    /// Which take requests.
    up: [AtomicBool; MASTERS],
    began: Instant,
    links: Mutex<Links>,
    /// Which master was killed when.
    deaths: Mutex<Vec<(usize, At)>>,
}

impl Bed {
    /// Makes the networks, starts the masters and waits until they listen. In a network and with mounts of the test's own.
    pub(super) fn start() -> Self {
        sh(
            "ip link set lo up && echo 1 >/proc/sys/net/ipv4/ip_forward && mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns",
        );
        let authority = Authority::new();
        let common = TempDir::new().unwrap();
        let at = common.keep();
        std::fs::write(at.join("ca.crt"), &authority.pem).unwrap();
        let list: Vec<String> = (0..MASTERS).map(|master| format!("{}:5001\n", address(master))).collect();
        std::fs::write(at.join("masters"), list.concat()).unwrap();
        let setups = std::array::from_fn(|master| {
            network(master);
            let name = || SanType::IpAddress(address(master).parse().unwrap());
            let write = |file: &str, (certificate, key): (String, String)| {
                std::fs::write(at.join(format!("{master}-{file}.crt")), certificate).unwrap();
                std::fs::write(at.join(format!("{master}-{file}.key")), key).unwrap();
            };
            write("server", authority.issue(vec![name(), SanType::IpAddress([127, 0, 0, 1].into())]));
            write("peer", authority.issue(vec![name(), uri("d8-registry:peer")]));
            let at = at.display();
            let inside = format!("exec ip netns exec m{master} {} \"$@\"", env!("CARGO_BIN_EXE_d8-registry"));
            Setup::with_users().before(&inside).config(&format!(
                "listen: {}:5001\ntls: {{ certFile: {at}/{master}-server.crt, keyFile: {at}/{master}-server.key }}\n\
                 replicas: {{ peers: {at}/masters, certificate: {at}/{master}-peer.crt, key: {at}/{master}-peer.key, \
                 ca: {at}/ca.crt }}",
                address(master)
            ))
        });
        let bed = Self {
            masters: Default::default(),
            folders: std::array::from_fn(|_| Arc::new(TempDir::new().unwrap())),
            setups,
            up: Default::default(),
            began: Instant::now(),
            links: Mutex::default(),
            deaths: Mutex::default(),
        };
        // The first has asked the others before they were there.
        bed.tell(|one, other| one == other);
        (0..MASTERS).for_each(|master| bed.begin(master));
        bed.tell(|_, _| true);
        bed
    }

    pub(super) fn now(&self) -> At {
        u64::try_from(self.began.elapsed().as_micros()).unwrap()
    }

    /// What was cut when, so far.
    pub(super) fn links(&self) -> Links {
        self.links.lock().unwrap().clone()
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
            Trouble::Killed => {
                self.up[victim].store(false, Ordering::Relaxed);
                self.deaths.lock().unwrap().push((victim, self.now()));
                self.masters[victim].lock().unwrap().take().unwrap().kill();
            }
            Trouble::Stopped => {
                self.up[victim].store(false, Ordering::Relaxed);
                self.signal(victim, Signal::STOP);
            }
            Trouble::Alone => self.between(victim, "-A", "-j DROP"),
            Trouble::AllApart => sh("iptables -A FORWARD -j DROP"),
            Trouble::Lossy => self.between(victim, "-A", LOSS),
            Trouble::Slow => {
                let delayed = tried(&format!("tc qdisc add dev m{victim} root netem delay 30ms 20ms"));
                assert!(delayed || tried(&format!("tc qdisc add dev m{victim} root tbf {RATE}")));
            }
        }
    }

    /// Ends it.
    pub(super) fn end(&self, trouble: Trouble, victim: usize) {
        match trouble {
            Trouble::Killed => self.begin(victim),
            Trouble::Stopped => {
                self.signal(victim, Signal::CONT);
                self.up[victim].store(true, Ordering::Relaxed);
            }
            Trouble::Alone => self.between(victim, "-D", "-j DROP"),
            Trouble::AllApart => sh("iptables -D FORWARD -j DROP"),
            Trouble::Lossy => self.between(victim, "-D", LOSS),
            Trouble::Slow => sh(&format!("tc qdisc del dev m{victim} root")),
        }
        self.tell(|_, _| true);
    }

    /// Stops a master in order and starts it again.
    pub(super) fn restart(&self, master: usize) {
        let registry = self.masters[master].lock().unwrap().take().unwrap();
        registry.stop();
        self.begin(master);
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

    fn begin(&self, master: usize) {
        let registry = Registry::start_in(Arc::clone(&self.folders[master]), &self.setups[master]);
        *self.masters[master].lock().unwrap() = Some(registry);
        self.up[master].store(true, Ordering::Relaxed);
    }

    fn signal(&self, master: usize, signal: Signal) {
        self.masters[master].lock().unwrap().as_ref().unwrap().signal(signal);
    }

    fn tell(&self, linked: impl Fn(usize, usize) -> bool) {
        let links = (0..MASTERS).map(|one| (0..MASTERS).map(|other| linked(one, other)).collect()).collect();
        self.links.lock().unwrap().change(self.now(), links);
    }

    /// A rule for what goes between a master and the others, added or deleted.
    #[expect(clippy::unused_self, reason = "the network is the bed's")]
    fn between(&self, master: usize, how: &str, rule: &str) {
        let at = address(master);
        sh(&format!("iptables {how} FORWARD -s {at} {rule} && iptables {how} FORWARD -d {at} {rule}"));
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

/// One of ten packets.
const LOSS: &str = "-m statistic --mode random --probability 0.1 -j DROP";

/// Slow enough to be felt.
const RATE: &str = "rate 20mbit burst 32kb latency 100ms";

/// A network for a master, at the other end of a cable.
fn network(master: usize) {
    let (own, other, at) = (format!("m{master}"), format!("10.77.{master}.254"), address(master));
    sh(&format!(
        "ip netns add {own} && ip link add name {own} type veth peer name eth0 netns {own} && \
         ip address add {other}/24 dev {own} && ip link set {own} up && ip -n {own} link set lo up && \
         ip -n {own} address add {at}/24 dev eth0 && ip -n {own} link set eth0 up && ip -n {own} route add default via {other}"
    ));
}
