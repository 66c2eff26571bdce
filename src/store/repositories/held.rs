//! Whether an image is whole, for who only looks: each of its manifests and blobs is in its repository, and not known to be damaged.
//!
//! `references` judges for an answer: it notes what is asked for, takes it off the list of suspects and links what was mended. This changes
//! nothing, and reads no bytes but those of manifests. Blocking.

use std::collections::HashSet;
use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

use tokio_util::sync::CancellationToken;

use super::manifests::Manifests;
use crate::fs::stat;
use crate::oci::{Descriptor, Digest, RepoName};
use crate::store::error::StoreError;
use crate::store::layout::Membership;

/// Most manifests of one image.
const MANIFESTS: usize = 10_000;

/// Most blobs of one image that are remembered to have been seen; others are looked for as often as they are named.
const BLOBS: usize = 50_000;

/// What was found of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// All of it is there.
    Whole,
    /// Not all: what was missed first.
    Lacks(Lack),
    /// The look was stopped.
    Stopped,
}

/// What an image lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The manifest that was asked for, or it is damaged.
    Image,
    /// A manifest below it.
    Manifest(Digest),
    /// A blob, or it is damaged.
    Blob(Digest),
    /// A blob is there with another length than the manifest says.
    Length(Digest),
    /// It has more manifests than are looked at.
    TooMany,
}

/// As the end of a sentence about the image.
impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image => f.write_str("its manifest is not there"),
            Self::Manifest(digest) => write!(f, "its manifest {digest} is not there"),
            Self::Blob(digest) => write!(f, "its blob {digest} is not there"),
            Self::Length(digest) => write!(f, "its blob {digest} has another length than its manifest says"),
            Self::TooMany => write!(f, "it has more than {MANIFESTS} manifests"),
        }
    }
}

/// What is found of the image `top` of a repository.
pub(in crate::store) fn held(
    manifests: &Manifests,
    repo: &RepoName,
    top: Digest,
    stop: &CancellationToken,
) -> Result<Held, StoreError> {
    let (mut open, mut seen, mut blobs) = (vec![top], HashSet::from([top]), HashSet::new());
    while let Some(digest) = open.pop() {
        if stop.is_cancelled() {
            return Ok(Held::Stopped);
        }
        let Some(stored) = manifests.read_manifest(repo, digest)? else {
            // An index may list content of any kind: what was pushed as a blob is there.
            match file(manifests, repo, &digest)? {
                Some(_) if digest != top => continue,
                _ if digest == top => return Ok(Held::Lacks(Lack::Image)),
                _ => return Ok(Held::Lacks(Lack::Manifest(digest))),
            }
        };
        for Descriptor { digest, size, .. } in stored.manifest.required_blobs() {
            if blobs.contains(digest) {
                continue;
            }
            match file(manifests, repo, digest)? {
                None => return Ok(Held::Lacks(Lack::Blob(*digest))),
                Some(facts) if facts.len() != *size => return Ok(Held::Lacks(Lack::Length(*digest))),
                Some(_) => {}
            }
            if blobs.len() < BLOBS {
                blobs.insert(*digest);
            }
        }
        for Descriptor { digest, .. } in &stored.manifest.manifests {
            if seen.insert(*digest) {
                if seen.len() > MANIFESTS {
                    return Ok(Held::Lacks(Lack::TooMany));
                }
                open.push(*digest);
            }
        }
    }
    Ok(Held::Whole)
}

/// What is found of an image in some repositories: that one of them has it whole, else what the first lacks that has its manifest.
pub(in crate::store) fn held_in(
    manifests: &Manifests,
    repos: &[RepoName],
    image: Digest,
    stop: &CancellationToken,
) -> Result<Held, StoreError> {
    let layout = &manifests.contents.layout;
    // What is nowhere costs one look.
    if stat(&layout.content(&image))?.is_none() {
        return Ok(Held::Lacks(Lack::Image));
    }
    let mut lack = Lack::Image;
    for repo in repos {
        if stat(&layout.member(repo, Membership::Manifest, &image))?.is_none() {
            continue;
        }
        match held(manifests, repo, image, stop)? {
            Held::Lacks(found) if lack == Lack::Image => lack = found,
            Held::Lacks(_) => {}
            found @ (Held::Whole | Held::Stopped) => return Ok(found),
        }
    }
    Ok(Held::Lacks(lack))
}

/// The file by which a repository has a content that a manifest of it names, or gets it when it is asked for.
fn file(manifests: &Manifests, repo: &RepoName, digest: &Digest) -> Result<Option<Metadata>, StoreError> {
    let (layout, damage) = (&manifests.contents.layout, &manifests.contents.damage);
    let sound = |facts: &Metadata| facts.is_file() && !damage.is_listed(digest, facts.ino());
    // A cache gives to a repository what it has for another one as soon as a manifest there names it.
    let mut is_a_member = repo.is_cached();
    for kind in [Membership::Blob, Membership::Manifest] {
        if let Some(facts) = stat(&layout.member(repo, kind, digest))? {
            if sound(&facts) {
                return Ok(Some(facts));
            }
            is_a_member = true;
        }
    }
    // Under a name of a damaged file a whole one is put as soon as it is asked for.
    if is_a_member { Ok(stat(&layout.content(digest))?.filter(sound)) } else { Ok(None) }
}
