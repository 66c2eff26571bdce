//! Other registries with the content that hits are measured with, pushed as clients do. One that is missing or fails is
//! named in the report and keeps no row from being measured.

use anyhow::{Result, ensure};
use d8_registry::oci::{Digest, Manifest};
use testkit::media_type::IMAGE;

use super::stored::{REPOSITORY, Stored};
use super::{Bench, Row};
use crate::baseline::peer::{Kind, Peer};
use crate::client::{Request, Wire, fetch, push, verify};
use crate::report::Report;

/// Starts all that there are and makes each ready; none with the access logs off, where they would tell nothing new.
pub(crate) fn start(
    bench: &Bench<'_>,
    report: &mut Report,
    row: Row,
    ready: impl Fn(&Peer) -> Result<()>,
) -> Vec<Peer> {
    if bench.options.access_log_off {
        return Vec::new();
    }
    let mut running = Vec::new();
    for kind in Kind::BESIDE {
        let dir = bench.dir(&format!("{}-{}", row.name(), kind.name()));
        let started = dir.and_then(|dir| Peer::start(kind, &dir, None)).and_then(|peer| ready(&peer).map(|()| peer));
        match started {
            Ok(peer) => running.push(peer),
            Err(error) => report.absence(kind.name(), format!("{error:#}")),
        }
    }
    running
}

/// Pushes a blob of the stored content, and reads it back.
pub(crate) fn give_blob(peer: &Peer, stored: &Stored, digest: &Digest) -> Result<()> {
    push(&mut Wire::connect(&peer.place)?, REPOSITORY, &stored.read(digest)?, digest, None)?;
    verify(&peer.place, &Request::get(&Stored::blob_path(digest), None), digest)
}

/// Pushes the stored image with all that it names, under its tag, and reads it back.
pub(crate) fn give_image(peer: &Peer, stored: &Stored) -> Result<()> {
    let bytes = stored.read(&stored.manifest)?;
    for blob in Manifest::parse(None, &bytes)?.required_blobs() {
        give_blob(peer, stored, &blob.digest)?;
    }
    let more = format!("content-type: {IMAGE}\r\ncontent-length: {}\r\n", bytes.len());
    let put = Request::new("PUT", &Stored::tag_path(), None, &more);
    let reply = fetch(&mut Wire::connect(&peer.place)?, &put, &bytes)?;
    ensure!(reply.status == 201, "PUT of a manifest: {}", reply.answer.text());
    verify(&peer.place, &get_manifest(), &stored.manifest)
}

/// A GET of the stored image by its tag: distribution answers an image of OCI only to who accepts it.
pub(crate) fn get_manifest() -> Request {
    Request::new("GET", &Stored::tag_path(), None, &format!("accept: {IMAGE}\r\n"))
}
