//! What tags reach, and what that lacks. Only that counts: real bundles hold much else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::contents::Bundle;
use super::finding::{Budget, BundleError, Findings, Problem};
use super::version::MOST_MANIFEST;
use crate::oci::{Descriptor, Digest, Manifest};

/// Indexes within one another.
const DEEPEST: usize = 16;
/// About what is kept of a manifest, and of a content with its places.
const MANIFEST_BYTES: usize = 2 * size_of::<Digest>() + 128;
const CONTENT_BYTES: usize = 2 * size_of::<Digest>() + 256;

/// What tags reach.
#[derive(Debug, Default)]
pub(super) struct Reach {
    pub(super) tags: u64,
    /// Manifests, each once.
    pub(super) images: u64,
    /// Contents, each once, and their bytes.
    pub(super) contents: u64,
    pub(super) bytes: u64,
    /// Contents that nothing reaches, by the number of their archive: how many, and their bytes.
    pub(super) unreached: BTreeMap<u32, (u64, u64)>,
    /// Places that are reached.
    pub(super) places: HashSet<(u32, u64)>,
    /// What is missing, by tag.
    pub(super) findings: Findings,
}

/// Why an image is not whole.
#[derive(Debug)]
struct Broken {
    problem: Problem,
    says: String,
}

type Verdict = Result<(), Arc<Broken>>;

/// Follows every tag. `bad` has the places whose bytes are known to be wrong. Keeps as much in memory as the bundle itself may.
/// Blocking: reads the manifests.
///
/// # Errors
/// [`BundleError::TooMuch`].
pub(super) fn reach(bundle: &Bundle, bad: &HashSet<(u32, u64)>) -> Result<Reach, BundleError> {
    let mut budget = Budget::new(bundle.most);
    let mut said = Reach::default();
    let (mut images, mut contents) = (HashSet::new(), HashMap::new());
    for (path, layout) in &bundle.layouts {
        let mut walk = Walk::new(bundle, path, bad, &mut budget);
        for (tag, digest) in &layout.tags {
            said.tags += 1;
            if let Err(broken) = walk.judge(*digest, 0)? {
                let place = if path.is_empty() { format!(":{tag}") } else { format!("{path}:{tag}") };
                said.findings.add(broken.problem, place, &broken.says);
            }
        }
        images.extend(walk.known.keys().copied());
        for (digest, length) in walk.reached {
            contents.insert(digest, length);
            let holder = bundle.locate(path, &digest).and_then(|(holder, _)| bundle.layouts.get(holder));
            for content in holder.into_iter().flat_map(|holder| &holder.contents[holder.all(&digest)]) {
                said.places.insert((content.archive, content.at));
            }
        }
    }
    said.images = images.len() as u64;
    said.contents = contents.len() as u64;
    said.bytes = contents.values().sum();
    for content in bundle.layouts.values().flat_map(|layout| &layout.contents) {
        if !said.places.contains(&(content.archive, content.at)) {
            let unreached = said.unreached.entry(content.archive).or_default();
            *unreached = (unreached.0 + 1, unreached.1 + content.length);
        }
    }
    Ok(said)
}

/// A walk from the tags of one layout.
pub(super) struct Walk<'a> {
    bundle: &'a Bundle,
    path: &'a str,
    bad: &'a HashSet<(u32, u64)>,
    known: HashMap<Digest, Verdict>,
    /// Contents, with their lengths.
    reached: HashMap<Digest, u64>,
    /// Manifests, by their subject.
    subjects: HashMap<Digest, Vec<Digest>>,
    budget: &'a mut Budget,
}

/// What a walk reached.
pub(super) struct Reached {
    /// Those that are whole.
    pub(super) manifests: HashSet<Digest>,
    pub(super) blobs: HashSet<Digest>,
    /// Manifests that are whole, by their subject, in order.
    pub(super) subjects: HashMap<Digest, Vec<Digest>>,
}

impl<'a> Walk<'a> {
    /// One that has not begun. `bad` has the places whose bytes are known to be wrong. What it remembers is taken from the budget.
    pub(super) fn new(bundle: &'a Bundle, path: &'a str, bad: &'a HashSet<(u32, u64)>, budget: &'a mut Budget) -> Self {
        let (known, reached, subjects) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { bundle, path, bad, known, reached, subjects, budget }
    }

    /// Follows an image; the inner error: why it is not whole, a sentence without its end. Blocking: reads its manifests.
    pub(super) fn image(&mut self, digest: Digest) -> Result<Result<(), (Problem, String)>, BundleError> {
        Ok(self.judge(digest, 0)?.map_err(|broken| (broken.problem, broken.says.clone())))
    }

    /// What all images reached that were followed.
    pub(super) fn into_reached(self) -> Reached {
        let Self { known, reached, mut subjects, .. } = self;
        let blobs = reached.into_keys().filter(|digest| !known.contains_key(digest)).collect();
        let whole = known.into_iter().filter(|(_, verdict)| verdict.is_ok());
        let manifests: HashSet<Digest> = whole.map(|(digest, _)| digest).collect();
        for referrers in subjects.values_mut() {
            referrers.retain(|digest| manifests.contains(digest));
            referrers.sort_unstable();
        }
        Reached { manifests, blobs, subjects }
    }

    fn judge(&mut self, digest: Digest, depth: usize) -> Result<Verdict, BundleError> {
        if let Some(known) = self.known.get(&digest) {
            return Ok(known.clone());
        }
        self.budget.take(MANIFEST_BYTES)?;
        let verdict = self.look(digest, depth)?;
        self.known.insert(digest, verdict.clone());
        Ok(verdict)
    }

    fn reached(&mut self, digest: Digest, length: u64) -> Result<(), BundleError> {
        if self.reached.insert(digest, length).is_none() {
            self.budget.take(CONTENT_BYTES)?;
        }
        Ok(())
    }

    fn look(&mut self, digest: Digest, depth: usize) -> Result<Verdict, BundleError> {
        let broken = |problem, says| Ok(Err(Arc::new(Broken { problem, says })));
        if depth > DEEPEST {
            return broken(Problem::Manifest, format!("manifest {digest} is in too many indexes within one another"));
        }
        let Some(found) = self.bundle.find(self.path, &digest) else {
            return broken(Problem::ManifestMissing, format!("manifest {digest} is not there"));
        };
        self.reached(digest, found.length)?;
        let bytes = match found.read(MOST_MANIFEST) {
            Ok(bytes) => bytes,
            Err(error) => return broken(Problem::Manifest, format!("manifest {digest} can't be read: {error}")),
        };
        if digest.algorithm().digest(&bytes) != digest {
            return broken(Problem::Manifest, format!("the bytes of manifest {digest} are not those of its digest"));
        }
        let manifest = match Manifest::parse(None, &bytes) {
            Ok(manifest) => manifest,
            Err(error) => return broken(Problem::Manifest, format!("manifest {digest}: {error}")),
        };
        if let Some(subject) = &manifest.subject {
            self.subjects.entry(subject.digest).or_default().push(digest);
        }
        // All of it is reached, whatever else is wrong.
        let mut verdict = Ok(());
        for blob in manifest.required_blobs() {
            verdict = verdict.and(self.blob(blob)?);
        }
        // Of those that wait while their children are looked at only these are kept.
        let children: Vec<Digest> = manifest.manifests.iter().map(|child| child.digest).collect();
        drop((bytes, manifest));
        for child in children {
            verdict = verdict.and(self.judge(child, depth + 1)?);
        }
        Ok(verdict)
    }

    fn blob(&mut self, blob: &Descriptor) -> Result<Verdict, BundleError> {
        let digest = blob.digest;
        let broken = |problem, says| Ok(Err(Arc::new(Broken { problem, says })));
        let located = self.bundle.locate(self.path, &digest);
        let content = located.and_then(|(path, index)| self.bundle.layouts.get(path)?.contents.get(index)).copied();
        let Some(content) = content else {
            return broken(Problem::BlobMissing, format!("blob {digest} is not there"));
        };
        self.reached(digest, content.length)?;
        if content.length != blob.size {
            let says = format!("blob {digest} has {} bytes, where its manifest says {}", content.length, blob.size);
            return broken(Problem::BlobLength, says);
        }
        if self.bad.contains(&(content.archive, content.at)) {
            let archive = self.bundle.archive_name(content.archive);
            let says = format!("the bytes of blob {digest} in {archive} are not those of its digest");
            return broken(Problem::BlobBytes, says);
        }
        Ok(Ok(()))
    }
}
