//! A repository whose versions go by a rule of retention while its server is killed: the newest stay whole, and in the end they are
//! all that is left.

use std::path::Path;

use reqwest::Method;

use super::{IMAGES, Killed, Progress, World, bytes, send};
use crate::collection::write_pins;
use crate::support::{Client, Image, Registry, Setup, digest, order};

/// So many stay.
const NEWEST: usize = 3;
/// So many acknowledged ones are remembered: each image is behind more than one of them.
const REMEMBERED: usize = 2 * IMAGES;

/// A server without users that keeps the newest versions of `kept/app`.
pub(super) fn setup() -> Setup {
    let store = "store: { dir: $DIR, reserveBytes: 0, pins: $DIR/../pins.yaml }";
    let rule = format!("{{ repositories: kept/*, keep: {{ newest: {NEWEST} }} }}");
    Setup::open().config(&format!("{store}\nretention: {{ rules: [{rule}] }}"))
}

/// Writes the pins without which no rule removes anything, and waits until they count.
pub(super) async fn pin(registry: &Registry) {
    write_pins(&registry.folder().path().join("pins.yaml"), &[&digest(b"runs")]);
    registry.until_metric("d8_registry_pins_usable", 1.0).await;
}

/// The client that pushes version after version.
#[derive(Default)]
pub(super) struct Versions {
    next: usize,
    acknowledged: Vec<usize>,
    /// Its push was cut off.
    cut: Option<usize>,
}

fn path(rest: &str) -> String {
    format!("/v2/kept/app/{rest}")
}

fn of(world: &World, number: usize) -> &Image {
    &world.images[number % IMAGES]
}

impl Versions {
    /// Pushes until the server is gone.
    pub(super) async fn work(&mut self, world: &World, client: &Client, done: &Progress) {
        while self.push(world, client).await.is_ok() {
            done.step();
        }
    }

    async fn push(&mut self, world: &World, client: &Client) -> Result<(), Killed> {
        let (number, image) = (self.next, of(world, self.next));
        self.next += 1;
        for content in image.blobs() {
            let digest = digest(content);
            if send(client, Method::HEAD, &path(&format!("blobs/{digest}"))).await?.status() == 200 {
                continue;
            }
            let upload = path(&format!("blobs/uploads/?digest={digest}"));
            let response = client.request(Method::POST, &upload).body(content.to_vec()).send().await?;
            assert_eq!(response.status(), 201, "{upload}");
        }
        self.cut = Some(number);
        let manifest = path(&format!("manifests/v{number}"));
        let request = client.request(Method::PUT, &manifest).header("content-type", image.media_type());
        let response = request.body(image.manifest().to_vec()).send().await?;
        assert_eq!(response.status(), 201, "{manifest}");
        self.cut = None;
        self.acknowledge(number);
        Ok(())
    }

    fn acknowledge(&mut self, number: usize) {
        self.acknowledged.push(number);
        self.acknowledged.drain(..self.acknowledged.len().saturating_sub(REMEMBERED));
    }

    /// Whether a version is there, whole.
    async fn is_there(world: &World, client: &Client, number: usize) -> Result<bool, Killed> {
        let manifest = path(&format!("manifests/v{number}"));
        let Some(found) = bytes(client, &manifest).await? else { return Ok(false) };
        assert!(found == of(world, number).manifest(), "{manifest}: bytes of another image");
        for content in of(world, number).blobs() {
            let blob = path(&format!("blobs/{}", digest(content)));
            assert_eq!(bytes(client, &blob).await?.as_ref(), Some(content), "{blob}");
        }
        Ok(true)
    }

    /// Holds what was acknowledged against a server that nobody changes.
    pub(super) async fn look(&mut self, world: &World, client: &Client) -> Result<(), Killed> {
        if let Some(number) = self.cut.take()
            && Self::is_there(world, client, number).await?
        {
            self.acknowledge(number);
        }
        for (age, number) in self.acknowledged.iter().rev().enumerate() {
            let is_there = Self::is_there(world, client, *number).await?;
            assert!(is_there || age >= NEWEST, "v{number} is among the newest {NEWEST} and is lost");
        }
        Ok(())
    }

    /// A run of the rule that nobody disturbs leaves the newest and nothing else.
    pub(super) async fn settle(&self, world: &World, client: &Client, data: &Path) {
        let answer = order(data, "/gc").await.unwrap();
        assert!(answer.contains(" 200 "), "{answer}");
        for (age, number) in self.acknowledged.iter().rev().enumerate() {
            let is_there = Self::is_there(world, client, *number).await;
            assert_eq!(is_there.ok(), Some(age < NEWEST), "v{number}: {answer}");
        }
    }
}
