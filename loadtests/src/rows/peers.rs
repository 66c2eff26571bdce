//! Other registries with the content that hits are measured with, pushed as clients do. One that is missing or fails is
//! named in the report and keeps no row from being measured.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use d8_registry::oci::{Digest, Manifest};

use super::Bench;
use super::push::push;
use super::stored::{self, REPOSITORY, Stored};
use crate::client::exchange::{self, Request, fetch};
use crate::report::Report;
use crate::client::wire::Wire;
use crate::baseline::peer::{Kind, Peer};

/// Starts all that there are and makes each ready; none with the access logs off, where they would tell nothing new.
pub(crate) fn start(bench: &Bench<'_>, report: &mut Report, ready: impl Fn(&Peer) -> Result<()>) -> Vec<Peer> {
    if bench.options.access_log_off {
        return Vec::new();
    }
    let mut running = Vec::new();
    for kind in Kind::ALL {
        let started = Peer::start(kind, bench.scratch).and_then(|peer| ready(&peer).map(|()| peer));
        match started {
            Ok(peer) => running.push(peer),
            Err(error) => report.absence(kind.name(), format!("{error:#}")),
        }
    }
    running
}

/// Pushes a blob of the stored content, and reads it back.
pub(crate) fn give_blob(peer: &Peer, stored: &Stored, digest: &Digest) -> Result<()> {
    let path = stored::content(&stored.dir, digest);
    let content = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    push(&mut Wire::connect(&peer.place)?, REPOSITORY, &content, digest, None)?;
    exchange::verify(&peer.place, &Request::get(&format!("/v2/{REPOSITORY}/blobs/{digest}"), None), digest)
}

/// Pushes the stored image with all that it names, under its tag, and reads it back.
pub(crate) fn give_image(peer: &Peer, stored: &Stored) -> Result<()> {
    let path = stored::content(&stored.dir, &stored.manifest);
    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let manifest = Manifest::parse(None, &bytes)?;
    for blob in manifest.required_blobs() {
        give_blob(peer, stored, &blob.digest)?;
    }
    let more = format!("content-type: {}\r\ncontent-length: {}\r\n", stored::MANIFEST_TYPE, bytes.len());
    let put = Request::new("PUT", &Stored::tag_path(), None, &more);
    let reply = fetch(&mut Wire::connect(&peer.place)?, &put, &bytes)?;
    ensure!(reply.status == 201, "PUT of a manifest: {}", reply.answer.text());
    exchange::verify(&peer.place, &get_manifest(), &stored.manifest)
}

/// A GET of the stored image by its tag: distribution answers an image of OCI only to who accepts it.
pub(crate) fn get_manifest() -> Request {
    Request::new("GET", &Stored::tag_path(), None, &format!("accept: {}\r\n", stored::MANIFEST_TYPE))
}
