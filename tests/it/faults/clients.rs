//! Clients that push, delete and pull at masters that chance picks, and write down what they saw.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use reqwest::{Method, Response};
use serde_json::json;
use tokio::sync::Notify;

use super::SETTLED;
use super::bed::{Bed, MASTERS, MIN_COPIES};
use super::history::{At, End, History, Key, Read, Seen, Write};
use crate::support::{Chance, Client, Image, blob, digest, header};

/// Tags of a round.
const TAGS: usize = 12;

/// Layers that images share.
const LAYERS: u64 = 16;

/// Masters that may ask each other say the same by then, in microseconds.
const PATIENCE: At = 60_000_000;

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
    /// Whether the wall clock of a master was wrong.
    is_skewed: AtomicBool,
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
            is_skewed: AtomicBool::new(false),
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

    /// The wall clock of a master is wrong from now on.
    pub(super) fn skew(&self) {
        self.is_skewed.store(true, Ordering::Relaxed);
    }

    /// What happened.
    pub(super) fn history(&self, bed: &Bed) -> History {
        let mut history = self.history.lock().unwrap().clone();
        history.links = bed.links();
        history.losses = bed.losses();
        history.damages = bed.damages();
        history.is_skewed = self.is_skewed.load(Ordering::Relaxed);
        history
    }

    /// A number for an image that has a tag, or has none. Those between are nobody's.
    fn take_number(&self, is_tagged: bool) -> u32 {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if Self::is_tagged(number) == is_tagged {
                return number;
            }
        }
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
pub(super) struct Walker {
    round: Arc<Round>,
    bed: Arc<Bed>,
    clients: Vec<Client>,
    chance: Chance,
}

impl Walker {
    pub(super) fn new(round: &Arc<Round>, bed: &Arc<Bed>, seed: u64) -> Self {
        let (round, bed) = (Arc::clone(round), Arc::clone(bed));
        Self { round, bed, clients: (0..MASTERS).map(Bed::client).collect(), chance: Chance(seed) }
    }

    /// Steps until the round is over.
    pub(super) async fn walk(mut self) {
        while !self.round.is_over.load(Ordering::Relaxed) {
            let master = self.chance.below(MASTERS);
            if !self.bed.is_up(master) {
                tokio::task::yield_now().await;
                continue;
            }
            match self.chance.below(24) {
                0..6 => self.push(master).await,
                6..7 => self.push_of_many(master).await,
                7..8 => self.push_twice(master).await,
                8..9 => self.push_beside_delete(master).await,
                9..10 => self.delete_tag(master).await,
                10..11 => self.delete_image(master).await,
                11..17 => self.read_image(master).await,
                _ => self.read_tag(master).await,
            }
            self.round.steps.fetch_add(1, Ordering::Relaxed);
            self.round.stepped.notify_waiters();
        }
    }

    fn a_tag(&mut self) -> u32 {
        u32::try_from(self.chance.below(TAGS)).unwrap()
    }

    /// Another master.
    fn beside(&mut self, master: usize) -> usize {
        (master + 1 + self.chance.below(MASTERS - 1)) % MASTERS
    }

    async fn push(&mut self, master: usize) {
        let number = self.round.next.fetch_add(1, Ordering::Relaxed);
        let tag = Some(self.a_tag()).filter(|_| Round::is_tagged(number));
        self.push_by(number, tag, [master; 3]).await;
    }

    /// Each request of an upload comes to another master, and the manifest's too.
    async fn push_of_many(&mut self, master: usize) {
        let number = self.round.next.fetch_add(1, Ordering::Relaxed);
        let tag = Some(self.a_tag()).filter(|_| Round::is_tagged(number));
        let second = self.beside(master);
        self.push_by(number, tag, [master, second, MASTERS - master - second]).await;
    }

    /// Two images get one tag at once, at two masters.
    async fn push_twice(&mut self, master: usize) {
        let (tag, other) = (Some(self.a_tag()), self.beside(master));
        let images = (self.round.take_number(true), self.round.take_number(true));
        tokio::join!(self.push_by(images.0, tag, [master; 3]), self.push_by(images.1, tag, [other; 3]));
    }

    /// A tag is deleted at a master while it is pushed to another one.
    async fn push_beside_delete(&mut self, master: usize) {
        let (tag, other, number) = (self.a_tag(), self.beside(master), self.round.take_number(true));
        tokio::join!(self.delete_of_tag(tag, master), self.push_by(number, Some(tag), [other; 3]));
    }

    /// Pushes an image to a master, or the requests of each of its uploads to one master after the other, and what comes last
    /// to the last one.
    async fn push_by(&self, number: u32, tag: Option<u32>, masters: [usize; 3]) {
        let image = self.round.image(number);
        let repository = self.round.repository(tag.is_some());
        let from = self.bed.now();
        for content in image.blobs() {
            // Without its blobs nobody sends the manifest.
            let Ok(pushed) = self.push_blob(&repository, content, masters).await else { return };
            if pushed.status() != 201 {
                return self.refused(pushed, masters, from).await;
            }
        }
        let [_, _, master] = masters;
        let reference = tag.map_or_else(|| image.digest(), |tag| format!("t{tag}"));
        self.round.known.lock().unwrap().insert(image.digest(), number);
        let path = format!("/v2/{repository}/manifests/{reference}");
        let request = self.clients[master].request(Method::PUT, &path).header("content-type", image.media_type());
        let began = self.bed.now();
        let answer = request.body(image.manifest().to_vec()).send().await;
        let ended = self.bed.now();
        let Some(end) = self.end_of(&answer, 201, master, began, ended) else { return };
        let is_short = answer.as_ref().is_ok_and(|answer| answer.headers().contains_key("warning"));
        let copies = if is_short { 1 } else { MIN_COPIES };
        let write = |key| Write { key, value: Some(number), master, began, ended, end, copies };
        self.round.wrote(write(Key::Image(number)));
        if let Some(tag) = tag {
            self.round.wrote(write(Key::Tag(tag)));
        }
        if let Ok(answer) = answer {
            self.refused(answer, masters, from).await;
        }
    }

    /// The answer to the request that ends an upload, or to the first that is refused.
    async fn push_blob(
        &self,
        repository: &str,
        content: &[u8],
        masters: [usize; 3],
    ) -> Result<Response, reqwest::Error> {
        let [first, second, third] = masters.map(|master| &self.clients[master]);
        let (path, name) = (format!("/v2/{repository}/blobs/uploads/"), digest(content));
        if masters[0] == masters[1] {
            return first.request(Method::POST, &format!("{path}?digest={name}")).body(content.to_vec()).send().await;
        }
        let begun = first.request(Method::POST, &path).send().await?;
        if begun.status() != 202 {
            return Ok(begun);
        }
        let location = header(&begun, "location");
        let sent = second.request(Method::PATCH, &location).body(content.to_vec()).send().await?;
        if sent.status() != 202 {
            return Ok(sent);
        }
        third.request(Method::PUT, &format!("{}?digest={name}", header(&sent, "location"))).send().await
    }

    async fn delete_tag(&mut self, master: usize) {
        let tag = self.a_tag();
        self.delete_of_tag(tag, master).await;
    }

    async fn delete_of_tag(&self, tag: u32, master: usize) {
        let path = format!("/v2/{}/manifests/t{tag}", self.round.repository(true));
        self.delete(Key::Tag(tag), master, &path).await;
    }

    async fn delete_image(&mut self, master: usize) {
        let Some(number) = self.a_number().filter(|number| !Round::is_tagged(*number)) else { return };
        let path = format!("/v2/{}/manifests/{}", self.round.repository(false), self.round.image(number).digest());
        self.delete(Key::Image(number), master, &path).await;
    }

    async fn delete(&self, key: Key, master: usize, path: &str) {
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
        // The others hear of it behind the answer.
        self.round.wrote(Write { key, value: None, master, began, ended, end, copies: 1 });
        if let Ok(answer) = answer {
            self.refused(answer, [master; 3], began).await;
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
        let tag = self.a_tag();
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
        pull(&self.round, number, &self.clients[master]).await
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

    /// A write that is refused while its master lives is refused for a reason that passes. Where requests come to several
    /// masters an upload is unknown, or a blob, once one of them can't be asked.
    async fn refused(&self, answer: Response, masters: [usize; 3], from: At) {
        let (status, now) = (answer.status().as_u16(), self.bed.now());
        if !(300..500).contains(&status) {
            return;
        }
        let links = self.bed.links();
        let is_cut =
            |one: &usize| !masters.iter().all(|other| links.held(*one, *other, from.saturating_sub(SETTLED), now));
        let has_died = |master: &usize| self.bed.died(*master, from, now);
        let is_excused = status == 404 && masters.iter().any(|master| is_cut(master) || has_died(master));
        assert!(is_excused, "{status} of {masters:?}: {}", answer.text().await.unwrap_or_default());
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
        let mut history = round.history(bed);
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
