//! Reads a repository for its [`Mark`]: names first, then the manifests in slices, each once.
//!
//! Whatever can't be read, parsed or believed ends it: a manifest that is damaged names contents that nobody knows of, and
//! would lose them. On the way it finds what `d8 mirror push` leaves with each push.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;

use super::mark::{Judgement, Mark};
use super::random_image::is_random_image;
use super::settings::Roots;
use crate::fs::stat;
use crate::oci::{Digest, Manifest, RepoName, Tag};
use crate::store::contents::beside::GiveWay;
use crate::store::layout::Membership;
use crate::store::repositories::manifests::Manifests;
use crate::store::repositories::tags::read_tag;
use crate::store::repositories::walk::{Members, SkippedEntries, Tags};
use crate::telemetry::with_causes;

/// What is read in one slice: this many manifests, or this many bytes of them.
const SLICE: usize = 256;
const SLICE_BYTES: usize = 4 << 20;

/// The tag under which `d8 mirror push` tries whether it may write. It never takes it away.
const WRITE_CHECK: &str = "d8WriteCheck";

/// Why a repository is left alone, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Unfit(pub(in crate::store) String);

/// The marking of one repository, as far as it is read.
#[derive(Debug)]
pub(in crate::store) struct Marking {
    repo: RepoName,
    mark: Mark,
    /// Manifests to be read.
    left: Vec<Digest>,
    given_up: HashSet<Digest>,
    found: Found,
}

/// What was found beside the mark.
#[derive(Debug, Default)]
pub(in crate::store) struct Found {
    /// Manifests that were given up and have a tag all the same.
    pub(in crate::store) tagged: Vec<Digest>,
    /// Random images that no tag leads to.
    pub(in crate::store) random: Vec<Digest>,
    /// The tag of a check whether one may write, and where it leads.
    pub(in crate::store) write_check: Option<(Tag, Digest)>,
}

impl Marking {
    /// Gathers names, tags but those of `without`, and pins; blocking.
    pub(in crate::store) fn begin(
        manifests: &Manifests,
        repo: &RepoName,
        judges_untagged: bool,
        given_up: HashSet<Digest>,
        roots: &Roots,
        without: &HashSet<Tag>,
    ) -> Result<Self, Unfit> {
        let layout = &manifests.contents.layout;
        let skipped = SkippedEntries::default();
        let mark = Mark::new(judges_untagged, given_up.clone());
        let mut give_way = GiveWay::new();
        let mut marking = Self { repo: repo.clone(), mark, left: Vec::new(), given_up, found: Found::default() };
        for kind in [Membership::Blob, Membership::Manifest] {
            for digest in Members::new(layout, repo, kind, &skipped) {
                give_way.now_and_then();
                if manifests.contents.damage.has(&digest) {
                    let path = layout.member(repo, kind, &digest);
                    let found = stat(&path).map_err(|error| unfit(&error))?;
                    if found.is_some_and(|found| manifests.contents.damage.is_listed(&digest, found.ino())) {
                        return Err(Unfit(format!("{} {digest} is damaged", kind.word())));
                    }
                }
                marking.mark.add(kind, &digest);
                if kind == Membership::Manifest {
                    marking.left.push(digest);
                }
            }
        }
        marking.mark.seal();
        for tag in Tags::new(layout, repo, &skipped).filter(|tag| !without.contains(tag)) {
            give_way.now_and_then();
            // Gone since the folder was read.
            let Some(target) = read_tag(layout, repo, &tag).map_err(|error| unfit(&error))? else { continue };
            if !marking.mark.tag(&tag, &target) {
                return Err(Unfit(format!("tag {tag} leads to {target}, which is not there")));
            }
            if marking.given_up.contains(&target) {
                marking.found.tagged.push(target);
            }
            // Somebody else's image may have that name.
            if tag.as_str() == WRITE_CHECK && is_random_image(manifests, repo, &read(manifests, repo, target)?.1) {
                marking.found.write_check = Some((tag, target));
            }
        }
        if skipped.count() > 0 {
            return Err(Unfit(format!(
                "{} entries can't be read or are none of the store's; see the log",
                skipped.count()
            )));
        }
        roots.pins.iter().for_each(|pin| marking.mark.pin(pin));
        roots.kept.iter().flat_map(|kept| kept.iter()).for_each(|kept| marking.mark.pin(kept));
        Ok(marking)
    }

    /// Reads a slice of the manifests; says how many are left. Blocking.
    pub(in crate::store) fn step(&mut self, manifests: &Manifests) -> Result<usize, Unfit> {
        let (mut bytes, mut give_way) = (0, GiveWay::new());
        for _ in 0..SLICE {
            give_way.now_and_then();
            let Some(digest) = self.left.pop() else { break };
            let manifest = read(manifests, &self.repo, digest)?;
            bytes += manifest.0;
            // Roots are known by now.
            let is_root = self.mark.judge(Membership::Manifest, &digest) == Judgement::Reached;
            if !is_root && !self.given_up.contains(&digest) && is_random_image(manifests, &self.repo, &manifest.1) {
                self.found.random.push(digest);
            }
            self.mark.read(&digest, &manifest.1);
            if bytes > SLICE_BYTES {
                break;
            }
        }
        crate::telemetry::disk_moved();
        Ok(self.left.len())
    }

    /// What was found. Every manifest was read.
    pub(in crate::store) fn close(mut self) -> (Mark, Found) {
        self.mark.close();
        (self.mark, self.found)
    }
}

/// A manifest of the repository and its length, read strictly: a descriptor that is left out would be a content that is lost.
pub(in crate::store) fn read(
    manifests: &Manifests,
    repo: &RepoName,
    digest: Digest,
) -> Result<(usize, Manifest), Unfit> {
    let stored = manifests.read_manifest(repo, digest).map_err(|error| unfit(&error))?;
    let stored = stored.ok_or_else(|| Unfit(format!("manifest {digest} is damaged or gone")))?;
    let manifest = Manifest::parse(None, &stored.bytes);
    let manifest = manifest.map_err(|error| Unfit(format!("manifest {digest} can't be understood: {error}")))?;
    Ok((stored.bytes.len(), manifest))
}

fn unfit(error: &dyn std::error::Error) -> Unfit {
    Unfit(with_causes(error))
}
