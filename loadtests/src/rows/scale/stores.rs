//! Steps of our own server: a store that was filled beforehand, its index built anew, and a server on it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use d8_registry::oci::{Algorithm, Digest, Hasher};

use super::super::large_store::rebuild;
use super::{Axis, Step, Subject};
use crate::baseline::ours::{Ours, Setup, basic};
use crate::client::{Request, verify};
use crate::interrupt;
use crate::proc::mebibytes;
use crate::registry::{Content, Registry};
use crate::seed::{self, Filler, SeedOptions};

/// Layers of each image: its manifest has about 2 kB.
const LAYERS: u32 = 8;
/// Bytes of each.
const LAYER: u32 = 1024;
/// Blobs of a repository where blobs grow, manifests and configuration among them.
const BLOBS: u64 = 1000;
/// Images of each repository where blobs grow: as many are asked for at each step.
const IMAGES: u32 = 10;
/// Tags where connections grow.
const TAGS: u32 = 100;

/// Content of a step's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    repositories: u32,
    /// Tags of each repository.
    tags: u32,
    /// Blobs of each repository that no image names.
    loose: u32,
}

impl Shape {
    fn of(axis: Axis, step: u64) -> Result<Self> {
        let step_u32 = u32::try_from(step)?;
        Ok(match axis {
            Axis::Blobs => {
                let each = step.min(BLOBS);
                let fixed = LAYERS + 1 + IMAGES;
                let loose = u32::try_from(each)?.checked_sub(fixed).context("too few blobs for an image")?;
                Self { repositories: u32::try_from(step / each)?, tags: IMAGES, loose }
            }
            Axis::Tags => Self { repositories: 1, tags: step_u32, loose: 0 },
            Axis::Connections | Axis::Sizes => Self { repositories: 1, tags: TAGS, loose: 0 },
        })
    }

    /// Everything that has a digest.
    #[cfg(test)]
    fn contents(self) -> u64 {
        u64::from(self.repositories) * u64::from(LAYERS + 1 + self.tags + self.loose)
    }
}

/// Fills a store, starts a server on it and says what to ask.
pub(super) fn prepare(program: &Path, dir: &Path, step: Step) -> Result<Subject> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let store = dir.join("store");
    if step.axis == Axis::Sizes {
        return sized(program, dir, &store, step);
    }
    let shape = Shape::of(step.axis, step.at)?;
    let wanted = SeedOptions {
        dir: store.clone(),
        repositories: shape.repositories,
        tags: shape.repositories * shape.tags,
        blobs: LAYERS,
        blob_size: LAYER,
    };
    let begun = Instant::now();
    seed::seed_with(&wanted, shape.loose, interrupt::flag())?;
    let seeded = begun.elapsed();
    let rebuilt = rebuild(program, &store)?;
    let index = directory_size(&store.join("index"))?;
    let mut subject = start(program, dir, &store)?;
    if step.axis != Axis::Connections {
        subject.facts.extend([
            ("start until ready", "ms", subject.server.start.as_secs_f64() * 1e3),
            ("filling the store", "s", seeded.as_secs_f64()),
            ("rebuild of the index", "ms", rebuilt.as_secs_f64() * 1e3),
            ("index on the disk", "MiB", mebibytes(index)),
        ]);
    }
    // Those in the middle of each part: nothing is found sooner for having been written first.
    let repository = |part: u64, parts: u64| (u64::from(shape.repositories) * (2 * part + 1) / (2 * parts)) as u32;
    for part in 0..u64::from(IMAGES) {
        let tag = u64::from(shape.tags) * (2 * part + 1) / (2 * u64::from(IMAGES));
        subject.images.push((seed::repository(repository(part, u64::from(IMAGES))), seed::tag(tag as u32)));
    }
    let blobs = LAYERS + shape.loose;
    for part in 0..u64::from(super::MOST_BLOBS) {
        let (repository, blob) = (repository(part, super::MOST_BLOBS.into()), part as u32 * 7 % blobs);
        subject.blobs.push(known(&subject.registry, repository, blob));
    }
    if step.axis == Axis::Blobs {
        let all = u64::from(shape.repositories) * u64::from(blobs);
        let many = all.min(super::MANY_BLOBS);
        for part in 0..many {
            let at = all * part / many;
            let (repository, blob) = ((at / u64::from(blobs)) as u32, (at % u64::from(blobs)) as u32);
            subject.many.push(known(&subject.registry, repository, blob));
        }
    }
    subject.middle = subject.images[subject.images.len() / 2].0.clone();
    subject.page_after = seed::tag(shape.tags / 2);
    // A server that is ready may still be opening its index.
    let lists = Registry { repository: subject.middle.clone(), ..subject.registry.clone() };
    let list = Request::get(&lists.path("tags/list?n=1"), Some(&basic()));
    subject.server.process.until_ok(&subject.server.place, &list)?;
    Ok(subject)
}

fn known(registry: &Registry, repository: u32, blob: u32) -> Content {
    let digest = Algorithm::Sha256.digest(&seed::content(repository, blob, LAYER));
    let registry = Registry { repository: seed::repository(repository), ..registry.clone() };
    Content { request: registry.blob(&digest), digest }
}

fn start(program: &Path, dir: &Path, store: &Path) -> Result<Subject> {
    let server = Ours::start(&Setup::local(program, store, dir))?;
    let registry = Registry {
        place: server.place.clone(),
        repository: String::new(),
        authorization: Some(basic()),
        pids: server.process.pids(),
    };
    let facts = vec![("idle, RssAnon+RssShmem", "MiB", mebibytes(server.process.memory()?.own))];
    let (images, blobs, many) = (Vec::new(), Vec::new(), Vec::new());
    let (middle, page_after, sized) = (String::new(), String::new(), None);
    Ok(Subject { registry, server, facts, images, blobs, many, middle, page_after, sized })
}

fn sized(program: &Path, dir: &Path, store: &Path, step: Step) -> Result<Subject> {
    let digest = one_blob(store, step.at * 1024)?;
    let mut subject = start(program, dir, store)?;
    subject.registry.repository = SIZED.to_owned();
    let request = subject.registry.blob(&digest);
    // Checked, and in memory from then on.
    verify(&subject.registry.place, &request, &digest)?;
    subject.sized = Some(request);
    Ok(subject)
}

const SIZED: &str = "load/sized";

/// A store with one blob of zeroes, as a file with no data in it: 4 GiB need no room that way.
fn one_blob(store: &Path, size: u64) -> Result<Digest> {
    let mut filler = Filler::init(store)?;
    // A small one makes the directories; it goes again below.
    let small = filler.blob(SIZED, b"small")?;
    filler.finish()?;
    let piece = vec![0; 1 << 20];
    let (mut hasher, mut left) = (Hasher::new(Algorithm::Sha256), size);
    while left > 0 {
        let count = left.min(1 << 20);
        hasher.update(&piece[..usize::try_from(count)?]);
        left -= count;
    }
    let digest = hasher.finish();
    let content = Filler::content(store, &digest);
    fs::File::create(&content)?.set_len(size)?;
    let members = store.join("repositories").join(SIZED).join("_blobs/sha256");
    fs::hard_link(&content, members.join(digest.hex())).context("link the blob")?;
    fs::remove_file(members.join(small.hex()))?;
    Ok(digest)
}

fn directory_size(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { directory_size(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_store_has_as_many_blobs_as_its_step_says() {
        for step in Axis::Blobs.steps() {
            assert_eq!(Shape::of(Axis::Blobs, *step).unwrap().contents(), *step);
        }
        assert!(Shape::of(Axis::Blobs, 10).is_err());
        let tags = Shape::of(Axis::Tags, 100_000).unwrap();
        assert_eq!((tags.repositories, tags.tags), (1, 100_000));
    }

    #[test]
    fn a_blob_is_known_before_anybody_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let wanted = SeedOptions { dir: store.clone(), repositories: 2, tags: 2, blobs: LAYERS, blob_size: LAYER };
        seed::seed_with(&wanted, 3, &AtomicBool::new(false)).unwrap();
        let place = crate::client::Place::local(1, None);
        let registry = Registry { place, repository: String::new(), authorization: None, pids: Vec::new() };
        for (repository, blob) in [(0, 0), (1, LAYERS - 1), (1, LAYERS + 2)] {
            let hex = known(&registry, repository, blob).digest.hex();
            let member = store.join("repositories").join(seed::repository(repository)).join("_blobs/sha256").join(hex);
            assert!(member.exists(), "{}", member.display());
        }
    }
}
