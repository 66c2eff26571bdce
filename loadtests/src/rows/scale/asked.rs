//! What is asked of a step's server, and so the rows of the tables.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use anyhow::{Context as _, Result, ensure};
use d8_registry::oci::{Algorithm, Digest};
use serde_json::Value;

use super::turns::{Probe, Pushing, Template, Work};
use super::{Axis, FLAT, FLAT_CONNECTIONS, FLAT_SIZES, Step, Subject};
use crate::client::driver::Load;
use crate::client::exchange::{self, Request};
use crate::growth::Flat;
use crate::registry::{Content, Registry};

/// Connections where those do not grow.
const CONNECTIONS: usize = 8;
const NAME: &str = "org.opencontainers.image.ref.name";

impl Subject {
    /// The measurements that change nothing.
    pub(super) fn reads(&self, step: Step) -> Result<Vec<Probe>> {
        let (connections, flat) = match step.axis {
            Axis::Connections => (usize::try_from(step.at)?, FLAT_CONNECTIONS),
            Axis::Blobs | Axis::Tags | Axis::Sizes => (CONNECTIONS, FLAT),
        };
        let probe = |operation, requests| self.probe(operation, step, requests, connections, Some(flat));
        if let Some(request) = &self.sized {
            let mut probe = self.probe("blob GET", step, vec![request.clone()], connections, Some(FLAT_SIZES))?;
            probe.by_bytes = true;
            return Ok(vec![probe]);
        }
        let by_tag = |method| self.images.iter().map(|(name, tag)| self.of(name).manifest(method, tag)).collect();
        let digests = self.digests()?;
        let by_digest = |method| {
            let asked = digests.iter().map(|(name, digest)| self.of(name).manifest(method, &digest.to_string()));
            asked.collect::<Vec<_>>()
        };
        for blob in &self.blobs {
            exchange::verify(&self.registry.place, &blob.request, &blob.digest)?;
        }
        let blobs = |all: &[Content]| all.iter().map(|blob| blob.request.clone()).collect::<Vec<_>>();
        let mut probes = vec![
            probe("manifest GET by tag", by_tag("GET"))?,
            probe("manifest HEAD by tag", by_tag("HEAD"))?,
            probe("blob GET, 1 KiB", blobs(&self.blobs))?,
        ];
        if step.axis == Axis::Connections {
            return Ok(probes);
        }
        probes.push(probe("manifest GET by digest", by_digest("GET"))?);
        probes.push(probe("manifest HEAD by digest", by_digest("HEAD"))?);
        if !self.many.is_empty() {
            let of_all = self.probe("blob GET, 1 KiB, all over the store", step, blobs(&self.many), connections, None);
            probes.push(of_all?);
        }
        probes.push(probe("page of 10 tags", vec![self.page()?])?);
        Ok(probes)
    }

    /// Those that add something; None where that is not what grows.
    pub(super) fn writes(&self, step: Step) -> Result<Vec<Probe>> {
        if matches!(step.axis, Axis::Connections | Axis::Sizes) {
            return Ok(Vec::new());
        }
        let pushing = |operation, manifest| {
            let registry = self.of(&self.middle);
            // What no run before had; a registry may be used twice.
            let number = RandomState::new().build_hasher().finish() >> 1;
            let work = Work::Pushing(Box::new(Pushing { registry, manifest, number }));
            let mut probe = Probe::new(operation, step.at, &self.registry.pids, work)?;
            probe.flat = Some(FLAT);
            anyhow::Ok(probe)
        };
        Ok(vec![
            pushing("blob push, 1 KiB: POST, PATCH, PUT", None)?,
            pushing("manifest PUT, a new tag", Some(self.template()?))?,
        ])
    }

    fn probe(
        &self,
        operation: &'static str,
        step: Step,
        requests: Vec<Request>,
        connections: usize,
        flat: Option<Flat>,
    ) -> Result<Probe> {
        let place = self.registry.place.clone();
        let load = Load { place, requests, connections, rate: None, copying: false };
        let mut probe = Probe::new(operation, step.at, &self.registry.pids, Work::Asking(load))?;
        probe.flat = flat;
        Ok(probe)
    }

    /// The same registry, another repository.
    fn of(&self, repository: &str) -> Registry {
        Registry { repository: repository.to_owned(), ..self.registry.clone() }
    }

    /// The digests of the images, by what is answered; what a HEAD says has to be the same.
    fn digests(&self) -> Result<Vec<(String, Digest)>> {
        let digests = self.images.iter().map(|(name, tag)| {
            let registry = self.of(name);
            let body = exchange::ask(&registry.place, &registry.manifest("GET", tag))?.body;
            let digest = Algorithm::Sha256.digest(&body);
            exchange::verify(&registry.place, &registry.manifest("GET", &digest.to_string()), &digest)?;
            let said = exchange::ask(&registry.place, &registry.manifest("HEAD", tag))?;
            let said = said.answer.header("docker-content-digest");
            ensure!(said == Some(digest.to_string()), "a HEAD of {name}:{tag} says digest {said:?}");
            Ok((name.clone(), digest))
        });
        digests.collect()
    }

    fn page(&self) -> Result<Request> {
        let registry = self.of(&self.middle);
        let path = registry.path(&format!("tags/list?n=10&last={}", self.page_after));
        let request = Request::get(&path, registry.authorization.as_deref());
        exchange::ask(&registry.place, &request)?;
        Ok(request)
    }

    /// An image of the repository that is pushed to, under a name to be filled in.
    fn template(&self) -> Result<Template> {
        let (name, tag) =
            self.images.iter().find(|(name, _)| *name == self.middle).context("no image to push again")?;
        let registry = self.of(name);
        let body = exchange::ask(&registry.place, &registry.manifest("GET", tag))?.body;
        named(&body)
    }
}

/// A manifest with a name that is filled in.
fn named(manifest: &[u8]) -> Result<Template> {
    let mut value: Value = serde_json::from_slice(manifest).context("the manifest")?;
    let media_type = value.get("mediaType").and_then(Value::as_str).context("a manifest without a type")?.to_owned();
    value["annotations"][NAME] = "@NUMBER@".into();
    Ok(Template { media_type, text: value.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_pushed_again_under_other_names() {
        for annotations in ["", r#","annotations":{"org.opencontainers.image.ref.name":"a:b","x":"y"}"#] {
            let template = named(format!(r#"{{"mediaType":"a/b"{annotations}}}"#).as_bytes()).unwrap();
            assert_eq!(template.media_type, "a/b");
            let one: Value = serde_json::from_slice(&template.bytes(7)).unwrap();
            assert_eq!(one["annotations"][NAME], "7");
            assert_eq!(one["annotations"].get("x").is_some(), !annotations.is_empty());
        }
        assert!(named(b"{}").is_err());
    }
}
