//! Requests to a step's server, and so the rows of the tables.

use std::cell::Cell;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use d8_registry::oci::{Algorithm, Digest};
use testkit::media_type::IMAGE;

use super::{Axis, FLAT, FLAT_CONNECTIONS, FLAT_SIZES, Probe, Step, Subject};
use crate::client::{Load, Request, Tally, Wire, ask, histogram, nanoseconds, push, verify};
use crate::compare::Measure;
use crate::engine::{Asking, Side, warm};
use crate::growth::Flat;
use crate::registry::{Content, Registry};

/// Connections where those do not grow.
const CONNECTIONS: usize = 8;
/// Time before each slice after which connections and caches are warm, and the same for each connection more.
const WARM_UP: Duration = Duration::from_millis(30);
const WARM_UP_EACH: Duration = Duration::from_micros(60);
/// Pushes of a slice: what grows must hardly grow by being measured.
const PUSHES: u64 = 12;
/// Bytes of a blob that is pushed.
const PUSHED: usize = 1024;

impl Subject {
    /// The measurements that change nothing.
    pub(super) fn reads(&self, step: Step) -> Result<Vec<(Probe, Side<'static>)>> {
        let (connections, flat) = match step.axis {
            Axis::Connections => (usize::try_from(step.at)?, FLAT_CONNECTIONS),
            Axis::Blobs | Axis::Tags | Axis::Sizes => (CONNECTIONS, FLAT),
        };
        let probe = |operation, requests, flat| self.asking((operation, step), requests, connections, flat);
        if let Some(request) = &self.sized {
            let (mut probe, side) = probe("blob GET", vec![request.clone()], Some(FLAT_SIZES))?;
            probe.measure = Measure::CpuSecondsPerGigabyte;
            return Ok(vec![(probe, side)]);
        }
        let digests = self.digests()?;
        let by_tag = |method| self.images.iter().map(|(name, tag)| self.of(name).manifest(method, tag)).collect();
        let by_digest = |method| {
            let asked = digests.iter().map(|(name, digest)| self.of(name).manifest(method, &digest.to_string()));
            asked.collect::<Vec<_>>()
        };
        for blob in &self.blobs {
            verify(&self.registry.place, &blob.request, &blob.digest)?;
        }
        let blobs = |all: &[Content]| all.iter().map(|blob| blob.request.clone()).collect::<Vec<_>>();
        let mut probes = vec![
            probe("manifest GET by tag", by_tag("GET"), Some(flat))?,
            probe("manifest HEAD by tag", by_tag("HEAD"), Some(flat))?,
            probe("blob GET, 1 KiB", blobs(&self.blobs), Some(flat))?,
        ];
        if step.axis == Axis::Connections {
            return Ok(probes);
        }
        probes.push(probe("manifest GET by digest", by_digest("GET"), Some(flat))?);
        probes.push(probe("manifest HEAD by digest", by_digest("HEAD"), Some(flat))?);
        if !self.many.is_empty() {
            probes.push(probe("blob GET, 1 KiB, all over the store", blobs(&self.many), None)?);
        }
        probes.push(probe("page of 10 tags", vec![self.page()?], Some(flat))?);
        Ok(probes)
    }

    /// The measurements that add something; none where that is not what grows.
    pub(super) fn writes(&self, step: Step) -> Result<Vec<(Probe, Side<'static>)>> {
        if matches!(step.axis, Axis::Connections | Axis::Sizes) {
            return Ok(Vec::new());
        }
        let (measure, flat) = (Measure::CpuMicroseconds, Some(FLAT));
        let probe = |operation| Probe { operation, step: step.at, measure, flat };
        let (manifest, name) = self.template()?;
        Ok(vec![
            (probe("blob push, 1 KiB: POST, PATCH, PUT"), pushing(self.of(&self.middle), push_blob)),
            (
                probe("manifest PUT, a new tag"),
                pushing(self.of(&self.middle), move |registry, wire, number| {
                    let bytes = manifest.replace(&name, &number.to_string());
                    registry.put_manifest(wire, &format!("pushed-{number}"), IMAGE, bytes.as_bytes())
                }),
            ),
        ])
    }

    /// Requests in a closed loop. Connections are made anew for each slice, before it is measured: many idle ones of many
    /// steps would be more than a server takes, and longer than it keeps them.
    fn asking(
        &self,
        (operation, step): (&'static str, Step),
        requests: Vec<Request>,
        connections: usize,
        flat: Option<Flat>,
    ) -> Result<(Probe, Side<'static>)> {
        let load = Load { place: self.registry.place.clone(), requests, connections, rate: None, copying: false };
        let time = WARM_UP + WARM_UP_EACH * u32::try_from(connections)?;
        let side = Side::fresh(self.registry.pids.clone(), move || warm(load.clone(), time)).optional();
        Ok((Probe { operation, step: step.at, measure: Measure::CpuMicroseconds, flat }, side))
    }

    /// The same registry, another repository.
    fn of(&self, repository: &str) -> Registry {
        Registry { repository: repository.to_owned(), ..self.registry.clone() }
    }

    /// The digests of the images, by what is answered; what a HEAD says has to be the same.
    fn digests(&self) -> Result<Vec<(String, Digest)>> {
        let digests = self.images.iter().map(|(name, tag)| {
            let registry = self.of(name);
            let digest = Algorithm::Sha256.digest(&ask(&registry.place, &registry.manifest("GET", tag))?.body);
            verify(&registry.place, &registry.manifest("GET", &digest.to_string()), &digest)?;
            let head = ask(&registry.place, &registry.manifest("HEAD", tag))?;
            let said = head.answer.header("docker-content-digest");
            ensure!(said == Some(digest.to_string()), "a HEAD of {name}:{tag} says digest {said:?}");
            Ok((name.clone(), digest))
        });
        digests.collect()
    }

    fn page(&self) -> Result<Request> {
        let registry = self.of(&self.middle);
        let path = registry.path(&format!("tags/list?n=10&last={}", self.page_after));
        let request = Request::get(&path, registry.authorization.as_deref());
        ask(&registry.place, &request)?;
        Ok(request)
    }

    /// An image of the repository that is pushed to, and the name in it that makes it differ from others.
    fn template(&self) -> Result<(String, String)> {
        let (name, tag) =
            self.images.iter().find(|(name, _)| *name == self.middle).context("no image to push again")?;
        let registry = self.of(name);
        let body = ask(&registry.place, &registry.manifest("GET", tag))?.body;
        let (text, name) = (String::from_utf8(body)?, format!("{name}:{tag}"));
        ensure!(text.contains(&name), "a manifest without its name");
        Ok((text, name))
    }
}

/// Pushes of something new, one after the other, each made from a number that no run had before.
fn pushing(
    registry: Registry,
    push: impl Fn(&Registry, &mut Wire, u64) -> Result<()> + Clone + 'static,
) -> Side<'static> {
    let pids = registry.pids.clone();
    let number = Rc::new(Cell::new(RandomState::new().build_hasher().finish() >> 1));
    let connect = move || -> Result<Asking<'static>> {
        let mut wire = Wire::connect(&registry.place)?;
        let (registry, number, push) = (registry.clone(), Rc::clone(&number), push.clone());
        let mut next = move || {
            number.set(number.get() + 1);
            push(&registry, &mut wire, number.get())
        };
        next()?;
        Ok(Box::new(move |_| {
            let (started, mut latency) = (Instant::now(), histogram()?);
            for _ in 0..PUSHES {
                let begun = Instant::now();
                next()?;
                latency.saturating_record(nanoseconds(begun.elapsed()));
            }
            Ok(Tally { answers: PUSHES, bytes: 0, latency, took: started.elapsed() })
        }))
    };
    Side::fresh(pids, connect).optional()
}

fn push_blob(registry: &Registry, wire: &mut Wire, number: u64) -> Result<()> {
    let content = testkit::noise(number, PUSHED);
    let digest = Algorithm::Sha256.digest(&content);
    push(wire, &registry.repository, &content, &digest, registry.authorization.as_deref())
}
