//! Clients that push, delete and pull at masters that chance picks, and write down what they saw.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use reqwest::{Method, Response};
use serde_json::json;
use tokio::sync::Notify;

use super::bed::{Bed, MASTERS};
use super::history::{At, End, History, Key, Read, Seen, Write};
use crate::support::{Chance, Client, Image, blob, digest};

/// Tags of a round.
const TAGS: usize = 12;

/// Layers that images share.
const LAYERS: u64 = 16;

/// Masters that may ask each other say the same by then, in microseconds.
const PATIENCE: At = 30_000_000;

/// A round: names of its own, and all that happens to them.
pub(super) struct Round {
    number: u32,
    /// The next image.
    next: AtomicU32,
    history: Mutex<History>,
    /// The images by the digests of their manifests.
    known: Mutex<HashMap<String, u32>>,
    /// Steps that were made.
    steps: AtomicU64,
    stepped: Notify,
    is_over: AtomicBool,
}

/// An answer that is neither yes nor no.
enum Trouble {
    /// The connection broke, or none came to be.
    Broken,
    /// A status that says nothing of what was asked for.
    Status(u16, String),
}

impl From<reqwest::Error> for Trouble {
    fn from(_: reqwest::Error) -> Self {
        Self::Broken
    }
}

impl Round {
    pub(super) fn new(number: u32) -> Self {
        Self {
            number,
            next: AtomicU32::new(0),
            history: Mutex::default(),
            known: Mutex::default(),
            steps: AtomicU64::new(0),
            stepped: Notify::new(),
            is_over: AtomicBool::new(false),
        }
    }

    /// Waits for so many steps more.
    pub(super) async fn wait(&self, steps: u64) {
        let goal = self.steps.load(Ordering::Relaxed) + steps;
        loop {
            let stepped = self.stepped.notified();
            if self.steps.load(Ordering::Relaxed) >= goal {
                return;
            }
            stepped.await;
        }
    }

    /// Each client ends behind the step that it makes: what it has begun is written down.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// What happened.
    pub(super) fn history(&self) -> History {
        self.history.lock().unwrap().clone()
    }

    /// A tag and what is behind it in one repository, what is known by digest alone in another one: deletions of the one are
    /// none of the other.
    fn repository(&self, is_tagged: bool) -> String {
        format!("r{}/{}", self.number, if is_tagged { "tags" } else { "images" })
    }

    fn image(&self, number: u32) -> Image {
        let seed = u64::from(self.number) << 32 | u64::from(number);
        let config = json!({ "architecture": "amd64", "os": "linux", "seed": seed }).to_string().into_bytes();
        let shared = u64::from(number) % LAYERS;
        let layers =
            vec![blob(seed + 1_000_000, 3_000), blob(shared, 2_000 + usize::try_from(shared).unwrap() * 4_000)];
        Image::of_layers(config, layers, &json!({}))
    }

    fn number_of(&self, manifest: &[u8]) -> Option<u32> {
        self.known.lock().unwrap().get(&digest(manifest)).copied()
    }

    /// Every third image has a tag.
    const fn is_tagged(number: u32) -> bool {
        number.is_multiple_of(3)
    }

    fn wrote(&self, write: Write) {
        self.history.lock().unwrap().writes.push(write);
    }

    fn saw(&self, read: Read) {
        self.history.lock().unwrap().reads.push(read);
    }
}

/// One client of all masters.
pub(super) struct Walker<'a> {
    round: &'a Round,
    bed: &'a Bed,
    clients: Vec<Client>,
    chance: Chance,
}

impl<'a> Walker<'a> {
    pub(super) fn new(round: &'a Round, bed: &'a Bed, seed: u64) -> Self {
        Self { round, bed, clients: (0..MASTERS).map(Bed::client).collect(), chance: Chance(seed) }
    }

    /// Steps until the round is over.
    pub(super) async fn walk(&mut self) {
        while !self.round.is_over.load(Ordering::Relaxed) {
            let master = self.chance.below(MASTERS);
            if !self.bed.is_up(master) {
                tokio::task::yield_now().await;
                continue;
            }
            match self.chance.below(20) {
                0..6 => self.push(master).await,
                6..7 => self.delete_tag(master).await,
                7..8 => self.delete_image(master).await,
                8..14 => self.read_image(master).await,
                _ => self.read_tag(master).await,
            }
            self.round.steps.fetch_add(1, Ordering::Relaxed);
            self.round.stepped.notify_waiters();
        }
    }

    async fn push(&mut self, master: usize) {
        let number = self.round.next.fetch_add(1, Ordering::Relaxed);
        let (image, is_tagged) = (self.round.image(number), Round::is_tagged(number));
        let repository = self.round.repository(is_tagged);
        let client = &self.clients[master];
        for content in image.blobs() {
            let path = format!("/v2/{repository}/blobs/uploads/?digest={}", digest(content));
            let pushed = client.request(Method::POST, &path).body(content.clone()).send().await;
            // Without its blobs nobody sends the manifest.
            let Ok(pushed) = pushed else { return };
            if pushed.status() != 201 {
                return self.refused_write(pushed).await;
            }
        }
        let tag = u32::try_from(self.chance.below(TAGS)).unwrap();
        let reference = if is_tagged { format!("t{tag}") } else { image.digest() };
        self.round.known.lock().unwrap().insert(image.digest(), number);
        let path = format!("/v2/{repository}/manifests/{reference}");
        let request = self.clients[master].request(Method::PUT, &path).header("content-type", image.media_type());
        let began = self.bed.now();
        let answer = request.body(image.manifest().to_vec()).send().await;
        let ended = self.bed.now();
        let Some(end) = self.end_of(&answer, 201, master, began, ended) else { return };
        let write = |key| Write { key, value: Some(number), master, began, ended, end };
        self.round.wrote(write(Key::Image(number)));
        if is_tagged {
            self.round.wrote(write(Key::Tag(tag)));
        }
        if let Ok(answer) = answer {
            self.refused_write(answer).await;
        }
    }

    async fn delete_tag(&mut self, master: usize) {
        let tag = u32::try_from(self.chance.below(TAGS)).unwrap();
        let path = format!("/v2/{}/manifests/t{tag}", self.round.repository(true));
        self.delete(Key::Tag(tag), master, &path).await;
    }

    async fn delete_image(&mut self, master: usize) {
        let Some(number) = self.a_number().filter(|number| !Round::is_tagged(*number)) else { return };
        let path = format!("/v2/{}/manifests/{}", self.round.repository(false), self.round.image(number).digest());
        self.delete(Key::Image(number), master, &path).await;
    }

    async fn delete(&mut self, key: Key, master: usize, path: &str) {
        let began = self.bed.now();
        let answer = self.clients[master].request(Method::DELETE, path).send().await;
        let ended = self.bed.now();
        if answer.as_ref().is_ok_and(|answer| answer.status() == 404) {
            // It says nothing of an image that another master has: nobody asks those about a deletion.
            if matches!(key, Key::Tag(_)) {
                self.round.saw(Read { key, seen: Seen::Value(None), master, began, ended });
            }
            return;
        }
        let Some(end) = self.end_of(&answer, 202, master, began, ended) else { return };
        self.round.wrote(Write { key, value: None, master, began, ended, end });
        if let Ok(answer) = answer {
            self.refused_write(answer).await;
        }
    }

    /// One of the images that were pushed, a late one mostly.
    fn a_number(&mut self) -> Option<u32> {
        let next = self.round.next.load(Ordering::Relaxed);
        let back = if self.chance.below(4) == 0 { next } else { next.min(10) };
        let back = u32::try_from(self.chance.below(usize::try_from(back.max(1)).unwrap())).unwrap();
        next.checked_sub(back + 1)
    }

    async fn read_image(&mut self, master: usize) {
        let Some(number) = self.a_number() else { return };
        let began = self.bed.now();
        let pulled = self.pull(number, master).await;
        self.saw(Key::Image(number), pulled, master, began);
    }

    async fn read_tag(&mut self, master: usize) {
        let tag = u32::try_from(self.chance.below(TAGS)).unwrap();
        let path = format!("/v2/{}/manifests/t{tag}", self.round.repository(true));
        let began = self.bed.now();
        let manifest = content(&self.clients[master], &path).await;
        let seen = match manifest {
            Ok(None) => Ok(Seen::Value(None)),
            Ok(Some(manifest)) => Ok(match self.round.number_of(&manifest) {
                Some(number) => Seen::Value(Some(number)),
                None => Seen::Wrong("a manifest that nobody pushed".to_owned()),
            }),
            Err(trouble) => Err(trouble),
        };
        let number = match seen {
            Ok(Seen::Value(number)) => number,
            _ => None,
        };
        self.saw(Key::Tag(tag), seen, master, began);
        // What stands behind it is all there.
        if let Some(number) = number {
            let began = self.bed.now();
            let pulled = self.pull(number, master).await;
            self.saw(Key::Image(number), pulled, master, began);
        }
    }

    fn saw(&self, key: Key, seen: Result<Seen, Trouble>, master: usize, began: At) {
        let seen = match seen {
            Ok(seen) => seen,
            Err(Trouble::Status(status, text)) => Seen::Refused(format!("{status} {text}")),
            // It was killed, or cut; whoever asks anew is told.
            Err(Trouble::Broken) => return,
        };
        self.round.saw(Read { key, seen, master, began, ended: self.bed.now() });
    }

    /// All of an image by digest.
    async fn pull(&self, number: u32, master: usize) -> Result<Seen, Trouble> {
        pull(self.round, number, &self.clients[master]).await
    }

    fn end_of(
        &self,
        answer: &Result<Response, reqwest::Error>,
        done: u16,
        master: usize,
        began: At,
        ended: At,
    ) -> Option<End> {
        match answer {
            Ok(answer) if answer.status() == done => Some(End::Acknowledged),
            Ok(_) => Some(End::Open),
            // It was never asked.
            Err(error) if error.is_connect() => None,
            Err(_) if self.bed.died(master, began, ended) => Some(End::Cut),
            Err(_) => Some(End::Open),
        }
    }

    /// A write that is refused while its master lives is refused for a reason that passes.
    async fn refused_write(&self, answer: Response) {
        let status = answer.status().as_u16();
        assert!(!(300..500).contains(&status), "{status}: {}", answer.text().await.unwrap_or_default());
    }
}

/// All of an image by digest, of one master.
async fn pull(round: &Round, number: u32, client: &Client) -> Result<Seen, Trouble> {
    let (image, repository) = (round.image(number), round.repository(Round::is_tagged(number)));
    let path = format!("/v2/{repository}/manifests/{}", image.digest());
    match content(client, &path).await? {
        None => return Ok(Seen::Value(None)),
        Some(manifest) if manifest == image.manifest() => {}
        Some(_) => return Ok(Seen::Wrong(path)),
    }
    for wanted in image.blobs() {
        let path = format!("/v2/{repository}/blobs/{}", digest(wanted));
        match content(client, &path).await? {
            None => return Ok(Seen::Value(None)),
            Some(content) if content == *wanted => {}
            Some(_) => return Ok(Seen::Wrong(path)),
        }
    }
    Ok(Seen::Value(Some(number)))
}

/// The bytes of an answer; `None`: 404.
async fn content(client: &Client, path: &str) -> Result<Option<Vec<u8>>, Trouble> {
    let answer = client.request(Method::GET, path).send().await?;
    match answer.status().as_u16() {
        200 => Ok(Some(answer.bytes().await?.to_vec())),
        404 => Ok(None),
        status => Err(Trouble::Status(status, answer.text().await.unwrap_or_default())),
    }
}

/// What each master says of everything: asked again until it `is_over`, for a while.
pub(super) async fn last(round: &Round, bed: &Bed, is_over: impl Fn(&History) -> bool) -> History {
    let clients: Vec<Client> = (0..MASTERS).map(Bed::client).collect();
    let patience = bed.now() + PATIENCE;
    loop {
        let mut history = round.history();
        history.links = bed.links();
        for (master, client) in clients.iter().enumerate() {
            let mut saw = |key, seen, began| {
                history.last.push(Read { key, seen, master, began, ended: bed.now() });
            };
            for tag in 0..u32::try_from(TAGS).unwrap() {
                let path = format!("/v2/{}/manifests/t{tag}", round.repository(true));
                let began = bed.now();
                let value = content(client, &path).await.map(|found| found.map(|found| round.number_of(&found)));
                let seen = value.map(|value| Seen::Value(value.flatten()));
                saw(Key::Tag(tag), seen.unwrap_or_else(Seen::from), began);
            }
            for number in 0..round.next.load(Ordering::Relaxed) {
                let began = bed.now();
                let seen = pull(round, number, client).await.unwrap_or_else(Seen::from);
                saw(Key::Image(number), seen, began);
            }
        }
        if is_over(&history) || bed.now() > patience {
            return history;
        }
    }
}

impl From<Trouble> for Seen {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Broken => Self::Refused("the connection broke".to_owned()),
            Trouble::Status(status, text) => Self::Refused(format!("{status} {text}")),
        }
    }
}
