//! One store whose server is killed at a moment that nobody chose, again and again, beside pushes, mounts, deletes,
//! collections, a rule of retention and scrubs. What was acknowledged is there, no answer has wrong bytes, the use is what the tree has, and a
//! verification finds nothing.
//!
//! A few cycles by default; `KILL_CYCLES=500` in `make torture`. The steps of one client follow from [`SEED`]; the moment of
//! a kill follows from how far all of them have come, so no two runs are the same.

mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::{Method, Response};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use self::versions::Versions;
use crate::support::{Chance, Client, Image, Registry, assert_store_is_tidy, blob, digest, order};

/// Cycles where `KILL_CYCLES` says nothing.
const CYCLES: u64 = 4;
const SEED: u64 = 0x5eed;
/// Clients. Each changes a repository of its own, and takes blobs of the others' by mount.
const OWNERS: usize = 4;
const IMAGES: usize = 12;
const LAYERS: u64 = 8;
const TAGS: usize = 5;
/// Blobs that no manifest ever names.
const LEFT: usize = 6;
/// Steps of all clients between a start and a kill, at most.
const STEPS: u64 = 160;
/// A look at the whole tree after so many cycles, and after the last.
const TREE_EVERY: u64 = 10;
/// A day of grace and more.
const TWO_DAYS_MILLIS: u64 = 2 * 86_400_000;

/// The connection broke: the server was killed.
struct Killed;

impl From<reqwest::Error> for Killed {
    fn from(_: reqwest::Error) -> Self {
        Self
    }
}

/// What is known of something that was pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Known {
    There,
    #[default]
    Absent,
    /// A step that would tell was cut off, or its grace may be over.
    Either,
}

/// What all clients have in common.
struct World {
    images: Vec<Image>,
    left: Vec<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        // Each layer is in several images, so what one of them loses another one needs.
        let layer =
            |number: u64| blob(100 + number % LAYERS, 3_000 + usize::try_from(number % LAYERS).unwrap() * 9_000);
        let image = |number: u64| {
            let config = json!({ "architecture": "amd64", "os": "linux", "seed": number }).to_string().into_bytes();
            Image::of_layers(config, vec![layer(number), layer(number * 3 + 1)], &json!({}))
        };
        Self {
            images: (0..IMAGES as u64).map(image).collect(),
            left: (0..LEFT).map(|number| blob(1_000 + number as u64, 20_000)).collect(),
        }
    }
}

/// A client, and what it knows of the repository that it alone changes.
struct Owner {
    number: usize,
    chance: Chance,
    /// What may stand behind a tag: one once it was looked at.
    tags: BTreeMap<usize, BTreeSet<Option<usize>>>,
    images: [Known; IMAGES],
    left: [Known; LEFT],
}

async fn send(client: &Client, method: Method, path: &str) -> Result<Response, Killed> {
    Ok(client.request(method, path).send().await?)
}

/// The bytes of an answer, if there is one: 200 or 404, and nothing else.
async fn bytes(client: &Client, path: &str) -> Result<Option<Vec<u8>>, Killed> {
    let response = send(client, Method::GET, path).await?;
    match response.status().as_u16() {
        404 => Ok(None),
        200 => Ok(Some(response.bytes().await?.to_vec())),
        status => panic!("{path}: {status}"),
    }
}

fn repository(owner: usize) -> String {
    format!("r{owner}/app")
}

impl Owner {
    fn new(number: usize) -> Self {
        Self {
            number,
            chance: Chance(SEED + number as u64),
            tags: (0..TAGS).map(|tag| (tag, BTreeSet::from([None]))).collect(),
            images: [Known::Absent; IMAGES],
            left: [Known::Absent; LEFT],
        }
    }

    fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", repository(self.number))
    }

    /// Steps until the server is gone.
    async fn work(&mut self, world: &World, client: &Client, done: &Progress) {
        while self.step(world, client).await.is_ok() {
            done.step();
        }
    }

    async fn step(&mut self, world: &World, client: &Client) -> Result<(), Killed> {
        match self.chance.below(20) {
            0..8 => self.push(world, client).await,
            8..10 => self.leave(world, client).await,
            10..12 => self.delete_tag(client).await,
            12..14 => self.delete_image(world, client).await,
            _ => {
                let tag = self.chance.below(TAGS);
                self.look_at_tag(world, client, tag).await
            }
        }
    }

    /// As clients push: blobs that are not there, by mount or by upload, then the manifest, which is never refused.
    async fn push(&mut self, world: &World, client: &Client) -> Result<(), Killed> {
        let (number, tag) = (self.chance.below(IMAGES), self.chance.below(TAGS));
        let image = &world.images[number];
        for content in image.blobs() {
            self.push_blob(client, content).await?;
        }
        self.tags.get_mut(&tag).unwrap().insert(Some(number));
        if self.images[number] == Known::Absent {
            self.images[number] = Known::Either;
        }
        let path = self.path(&format!("manifests/t{tag}"));
        let request = client.request(Method::PUT, &path).header("content-type", image.media_type());
        let response = request.body(image.manifest().to_vec()).send().await?;
        let status = response.status().as_u16();
        assert_eq!(status, 201, "{path}: {}", response.text().await?);
        self.tags.insert(tag, BTreeSet::from([Some(number)]));
        self.images[number] = Known::There;
        Ok(())
    }

    async fn push_blob(&mut self, client: &Client, content: &[u8]) -> Result<(), Killed> {
        let digest = digest(content);
        let head = send(client, Method::HEAD, &self.path(&format!("blobs/{digest}"))).await?.status().as_u16();
        if head == 200 {
            return Ok(());
        }
        assert_eq!(head, 404);
        if self.chance.below(3) == 0 {
            let from = repository(self.chance.below(OWNERS));
            let path = self.path(&format!("blobs/uploads/?mount={digest}&from={from}"));
            match send(client, Method::POST, &path).await?.status().as_u16() {
                201 => return Ok(()),
                202 => {}
                status => panic!("{path}: {status}"),
            }
        }
        let path = self.path(&format!("blobs/uploads/?digest={digest}"));
        let response = client.request(Method::POST, &path).body(content.to_vec()).send().await?;
        assert_eq!(response.status(), 201, "{path}");
        Ok(())
    }

    /// A blob that nothing will name.
    async fn leave(&mut self, world: &World, client: &Client) -> Result<(), Killed> {
        let number = self.chance.below(LEFT);
        if self.left[number] == Known::Absent {
            self.left[number] = Known::Either;
        }
        self.push_blob(client, &world.left[number]).await?;
        self.left[number] = Known::There;
        Ok(())
    }

    async fn delete_tag(&mut self, client: &Client) -> Result<(), Killed> {
        let tag = self.chance.below(TAGS);
        self.tags.get_mut(&tag).unwrap().insert(None);
        let path = self.path(&format!("manifests/t{tag}"));
        let status = send(client, Method::DELETE, &path).await?.status().as_u16();
        assert!(matches!(status, 202 | 404), "{path}: {status}");
        self.tags.insert(tag, BTreeSet::from([None]));
        Ok(())
    }

    /// With all tags that lead to it.
    async fn delete_image(&mut self, world: &World, client: &Client) -> Result<(), Killed> {
        let number = self.chance.below(IMAGES);
        if self.images[number] == Known::There {
            self.images[number] = Known::Either;
        }
        for behind in self.tags.values_mut().filter(|behind| behind.contains(&Some(number))) {
            behind.insert(None);
        }
        let path = self.path(&format!("manifests/{}", world.images[number].digest()));
        let status = send(client, Method::DELETE, &path).await?.status().as_u16();
        assert!(matches!(status, 202 | 404), "{path}: {status}");
        self.images[number] = Known::Absent;
        for behind in self.tags.values_mut() {
            if behind.remove(&Some(number)) {
                behind.insert(None);
            }
        }
        Ok(())
    }

    /// A tag leads to one of what may stand behind it, and that is whole.
    async fn look_at_tag(&mut self, world: &World, client: &Client, tag: usize) -> Result<(), Killed> {
        let path = self.path(&format!("manifests/t{tag}"));
        let found = bytes(client, &path).await?;
        let behind = self.tags.get_mut(&tag).unwrap();
        let number = match &found {
            None => None,
            Some(found) => {
                let number = world.images.iter().position(|image| image.manifest() == found);
                Some(number.unwrap_or_else(|| panic!("{path}: bytes of no image")))
            }
        };
        assert!(behind.contains(&number), "{path}: {number:?}, and it may be {behind:?}");
        *behind = BTreeSet::from([number]);
        if let Some(number) = number {
            self.images[number] = Known::There;
            self.look_at_blobs(world, client, number).await?;
        }
        Ok(())
    }

    async fn look_at_blobs(&self, world: &World, client: &Client, number: usize) -> Result<(), Killed> {
        for content in world.images[number].blobs() {
            let path = self.path(&format!("blobs/{}", digest(content)));
            assert_eq!(bytes(client, &path).await?.as_ref(), Some(content), "{path}");
        }
        Ok(())
    }

    /// Holds all that is known against a server that nobody changes.
    async fn look(&mut self, world: &World, client: &Client) -> Result<(), Killed> {
        for tag in 0..TAGS {
            self.look_at_tag(world, client, tag).await?;
        }
        for number in 0..IMAGES {
            let path = self.path(&format!("manifests/{}", world.images[number].digest()));
            let found = bytes(client, &path).await?;
            assert!(found.as_ref().is_none_or(|found| found == world.images[number].manifest()), "{path}");
            self.images[number] = settle(self.images[number], found.is_some(), &path);
            if self.images[number] == Known::There {
                self.look_at_blobs(world, client, number).await?;
            }
        }
        for number in 0..LEFT {
            let path = self.path(&format!("blobs/{}", digest(&world.left[number])));
            let found = bytes(client, &path).await?;
            assert!(found.as_ref().is_none_or(|found| *found == world.left[number]), "{path}");
            self.left[number] = settle(self.left[number], found.is_some(), &path);
        }
        Ok(())
    }

    /// What nothing names may be gone: two days have passed.
    fn outlive_the_grace(&mut self) {
        for left in self.left.iter_mut().filter(|left| **left == Known::There) {
            *left = Known::Either;
        }
    }
}

fn settle(known: Known, found: bool, path: &str) -> Known {
    match (known, found) {
        (Known::There, false) => panic!("{path} was acknowledged and is lost"),
        (Known::Absent, true) => panic!("{path} was deleted and is there"),
        (_, true) => Known::There,
        (_, false) => Known::Absent,
    }
}

/// Steps of all clients since the server started.
#[derive(Default)]
struct Progress {
    steps: AtomicU64,
    changed: Notify,
}

impl Progress {
    fn step(&self) {
        self.steps.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_one();
    }

    async fn reach(&self, steps: u64) {
        while self.steps.load(Ordering::SeqCst) < steps {
            self.changed.notified().await;
        }
    }
}

/// Orders collections and scrubs in turn until the server is gone; how many of both ran to their end.
///
/// By the socket alone: the command would collect the store by itself once no server answers.
async fn look_after(data: PathBuf) -> u64 {
    let mut runs = 0;
    while let Ok(answer) = order(&data, if runs % 2 == 0 { "/gc" } else { "/jobs/scrub/run" }).await
        && !answer.is_empty()
    {
        assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
        runs += 1;
    }
    runs
}

/// Lets the servers of a stopped store have run for two days, if anything counts on that.
fn run_for_the_grace(data: &Path) -> bool {
    let note = data.join("gc/running-time");
    let Ok(noted) = std::fs::read_to_string(&note) else { return false };
    let millis: u64 = noted.trim().parse().unwrap();
    std::fs::write(&note, format!("{}\n", millis + TWO_DAYS_MILLIS)).unwrap();
    true
}

fn assert_verified(data: &Path) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    let verified = command.args(["verify", "--data-dir"]).arg(data).output().unwrap();
    assert_eq!(verified.status.code(), Some(0), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_a_server_is_killed_what_it_acknowledged_is_there() {
    let cycles = std::env::var("KILL_CYCLES").map_or(CYCLES, |text| text.parse().unwrap());
    let world = Arc::new(World::new());
    let mut owners: Vec<Owner> = (0..OWNERS).map(Owner::new).collect();
    let mut chance = Chance(SEED << 8);
    let setup = versions::setup();
    let mut registry = Registry::start(&setup);
    versions::pin(&registry).await;
    let mut versions = Versions::default();
    let (mut steps, mut orders, mut removed, mut retired) = (0, 0, 0.0, 0.0);
    for cycle in 1..=cycles {
        let progress = Arc::new(Progress::default());
        let (mut working, mut resting) = (JoinSet::new(), Vec::new());
        let pushing = tokio::spawn({
            let (world, client, progress) = (Arc::clone(&world), registry.client(), Arc::clone(&progress));
            let pushes = chance.below(2) == 0;
            async move {
                if pushes {
                    versions.work(&world, &client, &progress).await;
                }
                versions
            }
        });
        for mut owner in owners {
            // A repository that is written to all the time is never collected.
            if !working.is_empty() && chance.below(2) == 0 {
                resting.push(owner);
                continue;
            }
            let (world, client, progress) = (Arc::clone(&world), registry.client(), Arc::clone(&progress));
            working.spawn(async move {
                owner.work(&world, &client, &progress).await;
                owner
            });
        }
        let ordering = tokio::spawn(look_after(registry.data()));
        progress.reach(1 + chance.below(STEPS as usize) as u64).await;
        for kind in ["blob", "manifest"] {
            removed += registry.metric(&format!("d8_registry_gc_removed_total{{kind=\"{kind}\"}}")).await;
        }
        retired += registry.metric("d8_registry_retention_removed_tags_total").await;
        let (folder, data) = (registry.folder(), registry.data());
        registry.kill();
        owners = working.join_all().await;
        owners.append(&mut resting);
        versions = pushing.await.unwrap();
        owners.sort_by_key(|owner| owner.number);
        steps += progress.steps.load(Ordering::SeqCst);
        orders += ordering.await.unwrap();
        if chance.below(3) == 0 && run_for_the_grace(&data) {
            owners.iter_mut().for_each(Owner::outlive_the_grace);
        }
        registry = Registry::start_in(Arc::clone(&folder), &setup);
        let client = registry.client();
        let gone = "the server is gone, and nobody killed it";
        for owner in &mut owners {
            assert!(owner.look(&world, &client).await.is_ok(), "{gone}");
        }
        assert!(versions.look(&world, &client).await.is_ok(), "{gone}");
        if cycle % TREE_EVERY == 0 || cycle == cycles {
            registry.counted().await;
            registry.until_metric("d8_registry_pins_usable", 1.0).await;
            versions.settle(&world, &client, &data).await;
            registry.stop();
            assert_store_is_tidy(&data);
            assert_verified(&data);
            registry = Registry::start_in(folder, &setup);
        }
    }
    println!(
        "{cycles} kills, {steps} steps, {orders} collections and scrubs to their end, {removed} contents collected, {retired} tags \
         retired"
    );
    registry.stop();
}
