//! A switch on several servers that change one after the other, and a client that asks another server each time.
//!
//! The controller begins a phase when every server reports the one before, so two servers are never more than one phase
//! apart. Everything else is left to chance: the modes, the order of the servers in each phase, who is asked, and for what.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use proptest::test_runner::Config;
use reqwest::Method;

use crate::support::{ALIAS, Image, REPO, Switched, Upstream, coming, digest, header, mode, mode_file, path};

/// Servers of the cluster.
const SERVERS: usize = 3;

/// What a server can be switched to: a mode, and which of two upstreams is behind it.
const MODES: [(&str, Option<usize>); 5] =
    [("Direct", Some(0)), ("Direct", Some(1)), ("Proxy", Some(0)), ("Proxy", Some(1)), ("Local", None)];

/// The phases of a switch, in order; a server in the first has only the old mode.
const PHASES: usize = 4;
const READY: usize = 2;
const IN_FORCE: usize = 3;

/// One request: to which server, of which mode's image, and of what kind.
#[derive(Clone, Copy, Debug)]
struct Ask {
    server: usize,
    of_new: bool,
    kind: usize,
}

/// One switch.
#[derive(Clone, Debug)]
struct Case {
    from: usize,
    to: usize,
    /// In which order servers change, for each phase.
    orders: Vec<Vec<usize>>,
    /// Requests between two changes, one list for each.
    asks: Vec<Vec<Ask>>,
}

fn case() -> impl Strategy<Value = Case> {
    let order = || Just((0..SERVERS).collect::<Vec<_>>()).prop_shuffle();
    let ask = (0..SERVERS, any::<bool>(), 0..6_usize).prop_map(|(server, of_new, kind)| Ask { server, of_new, kind });
    let asks = proptest::collection::vec(proptest::collection::vec(ask, 1..6), PHASES * SERVERS);
    let orders = proptest::collection::vec(order(), PHASES);
    (0..MODES.len(), 1..MODES.len(), orders, asks).prop_map(|(from, step, orders, asks)| {
        let to = (from + step) % MODES.len();
        Case { from, to, orders, asks }
    })
}

/// The servers, the upstreams, and the generation of the last mode file.
struct Cluster {
    servers: Vec<Switched>,
    upstreams: [Upstream; 2],
    generation: AtomicU64,
}

impl Cluster {
    fn start() -> Self {
        let file = mode_file(1, &mode("Local", None), None, &[]);
        Self {
            servers: (0..SERVERS).map(|_| Switched::start(&file)).collect(),
            upstreams: [Upstream::start(), Upstream::start()],
            generation: AtomicU64::new(1),
        }
    }

    fn file(&self, in_force: &str, coming: Option<&str>, previous: &[&str]) -> String {
        mode_file(self.generation.fetch_add(1, Ordering::Relaxed) + 1, in_force, coming, previous)
    }

    fn mode(&self, number: usize) -> String {
        let (name, upstream) = MODES[number];
        mode(name, upstream.map(|upstream| &self.upstreams[upstream]))
    }

    /// The image that a mode has under tag `v1` of `repo`; an upstream's is given to it here.
    fn image(&self, number: usize, repo: &str, seed: u64) -> Image {
        match MODES[number].1 {
            Some(upstream) => {
                let image = Image::of(seed + upstream as u64);
                self.upstreams[upstream].put_image(&format!("{REPO}/{repo}"), "v1", &image);
                image
            }
            None => Image::of(seed + 2),
        }
    }

    async fn run(&self, case: &Case, seed: u64) {
        let repo = format!("case{seed}");
        let (old, new) = (self.image(case.from, &repo, seed), self.image(case.to, &repo, seed));
        let (from, to) = (self.mode(case.from), self.mode(case.to));
        let settled = self.file(&from, None, &[]);
        for server in &self.servers {
            server.switch(&settled).await;
            self.fill(server, case.from, &repo, &old).await;
        }
        let mut phases = [0; SERVERS];
        let mut asks = case.asks.iter();
        for (phase, order) in case.orders.iter().enumerate() {
            let file = match phase {
                0 => self.file(&from, None, &[]),
                1 => self.file(&from, Some(&coming(&to, "filling")), &[]),
                READY => self.file(&from, Some(&coming(&to, "ready")), &[]),
                _ => self.file(&to, None, &[&from]),
            };
            for number in order {
                self.servers[*number].switch(&file).await;
                phases[*number] = phase;
                if phase == 1 {
                    self.fill(&self.servers[*number], case.to, &repo, &new).await;
                }
                for ask in asks.next().into_iter().flatten() {
                    self.ask(*ask, case, phases[ask.server], &repo, (&old, &new)).await;
                }
            }
        }
    }

    /// Pushes what mode Local is to have.
    async fn fill(&self, server: &Switched, number: usize, repo: &str, image: &Image) {
        if MODES[number].1.is_none() {
            server.client("rw").push_image(&format!("{ALIAS}/{repo}"), "v1", image).await;
        }
    }

    async fn ask(&self, ask: Ask, case: &Case, phase: usize, repo: &str, (old, new): (&Image, &Image)) {
        let client = self.servers[ask.server].client("ro");
        let said = format!("{ask:?} in phase {phase} of {case:?}");
        let image = if ask.of_new { new } else { old };
        let layer = &image.blobs()[1];
        let manifest = path(&format!("{repo}/manifests/{}", image.digest()));
        let blob = path(&format!("{repo}/blobs/{}", digest(layer)));
        let (method, asked, range) = match ask.kind {
            0 => (Method::GET, manifest, false),
            1 => (Method::HEAD, manifest, false),
            2 => (Method::GET, blob, false),
            3 => (Method::HEAD, blob, false),
            4 => (Method::GET, blob, true),
            _ => {
                // A tag is that of the mode in force, whatever stands behind it.
                let answer = client.get(&path(&format!("{repo}/manifests/v1"))).await;
                assert_eq!(answer.status(), 200, "{said}");
                let (number, image) = if phase < IN_FORCE { (case.from, old) } else { (case.to, new) };
                assert_eq!(header(&answer, "docker-content-digest"), image.digest(), "{said}");
                assert_eq!(header(&answer, "d8-registry-mode"), MODES[number].0, "{said}");
                return;
            }
        };
        let request = client.request(method.clone(), &asked);
        let request = if range { request.header("range", "bytes=100-199") } else { request };
        let answer = request.send().await.unwrap();
        let is_same = old.digest() == new.digest();
        if !is_same && ask.of_new && phase < READY {
            assert_eq!(answer.status(), 404, "{said}");
            return;
        }
        assert_eq!(answer.status(), if range { 206 } else { 200 }, "{said}");
        let bytes = answer.bytes().await.unwrap();
        match (method, ask.kind) {
            (Method::HEAD, _) => {}
            (_, 0) => assert_eq!(bytes, image.manifest(), "{said}"),
            (_, 4) => assert_eq!(bytes, layer[100..200], "{said}"),
            _ => assert_eq!(bytes, layer, "{said}"),
        }
    }
}

#[test]
fn whatever_a_mode_answered_is_answered_in_each_phase_by_each_server_and_tags_come_from_one_mode() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cluster = runtime.block_on(async { Cluster::start() });
    let seeds = AtomicU64::new(0);
    // Each case is a switch of three processes: some hundred requests.
    let config = Config { cases: 12, max_shrink_iters: 32, failure_persistence: None, ..Config::default() };
    proptest!(config, |(case in case())| {
        let seed = 10 * seeds.fetch_add(1, Ordering::Relaxed);
        runtime.block_on(cluster.run(&case, seed));
    });
    for server in cluster.servers {
        server.registry.stop();
    }
}
