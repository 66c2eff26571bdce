//! One look at what a mode has of the list. A few images at a time, and then a pause as long as they took: pulls share the disk.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::clock::{self, Timestamp};
use crate::jobs::{self, Progress};
use crate::oci::{Digest, Reference, RepoName, Tag};
use crate::release::RequiredImage;
use crate::retention::StoredLists;
use crate::store::{Held, Lack, Store, StoreError};
use crate::telemetry::with_causes;
use crate::values::{Pins, Release};

/// Most repositories below the roots that are looked into for an image without a repository.
const MOST_REPOSITORIES: usize = 10_000;

/// Most images of releases that are remembered, so that the list does not count them once more.
const MOST_REMEMBERED: usize = 50_000;

/// Missing images that are named; the rest is counted.
pub(super) const MOST_NAMED: usize = 100;

/// How long images are looked at before a pause.
const STEP: Duration = Duration::from_millis(20);

/// Longest pause between two steps.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A mode's repositories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The mode's name.
    pub mode: &'static str,
    /// Whether it is in force or coming.
    pub is_wanted: bool,
    /// Where images are looked for, with all below.
    pub roots: Vec<Root>,
    /// Whether a release needs its install image whole, and not only its list: a cache has of it what was asked for.
    pub needs_install: bool,
}

/// A repository that clients name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// As clients name it.
    pub name: RepoName,
    /// As the store does.
    pub stored: RepoName,
}

/// What was found of one mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// Its name.
    pub mode: &'static str,
    /// Images that have to be there, as far as they are known: a release whose list is missing counts as two.
    pub images: u64,
    /// Those that are not there whole.
    pub missing: u64,
    /// The first of those.
    pub named: Vec<MissingImage>,
    /// When the look ended.
    pub looked: Timestamp,
}

/// An image that is not there whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingImage {
    /// `repository:tag`, `repository@digest`, or the digest of one that may lie anywhere.
    pub image: String,
    /// What needs it, where a release's list says so.
    pub source: Option<String>,
    /// Why it is not there, the rest of a sentence.
    pub why: String,
}

/// What is to be looked at next.
enum Wanted {
    Release(Release),
    /// An image of a release, in the root of that number.
    Of(usize, RequiredImage),
}

/// A look that goes on.
struct Look {
    store: Store,
    lists: StoredLists,
    side: Side,
    repos: Vec<RepoName>,
    list: Arc<Pins>,
    open: VecDeque<Wanted>,
    /// The image of the list that was looked at last.
    last: Option<Digest>,
    is_over: bool,
    of_releases: HashSet<Digest>,
    found: Findings,
    stop: CancellationToken,
}

/// Looks for everything on `list` among the repositories of `side`. `None`: it was stopped.
pub(super) async fn look(
    store: &Store,
    lists: &StoredLists,
    side: Side,
    list: Arc<Pins>,
    stop: &CancellationToken,
    progress: &Progress,
) -> Option<Findings> {
    let found = Findings { mode: side.mode, images: 0, missing: 0, named: Vec::new(), looked: clock::now() };
    let open = list.releases.iter().cloned().map(Wanted::Release).collect();
    let mut look = Look {
        store: store.clone(),
        lists: lists.clone(),
        side,
        repos: Vec::new(),
        list,
        open,
        last: None,
        is_over: false,
        of_releases: HashSet::new(),
        found,
        stop: stop.clone(),
    };
    look = jobs::blocking(move || {
        let roots: Vec<RepoName> = look.side.roots.iter().map(|root| root.stored.clone()).collect();
        look.repos = look.store.repositories_below(&roots, MOST_REPOSITORIES);
        look
    })
    .await;
    while !look.is_over {
        let began = Instant::now();
        look = jobs::blocking(move || {
            while !look.is_over && !look.stop.is_cancelled() && began.elapsed() < STEP {
                look.step();
            }
            look
        })
        .await;
        progress.set(look.found.images, None);
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(began.elapsed().min(LONGEST_PAUSE)) => {}
        }
    }
    if stop.is_cancelled() {
        // An image may have been passed over.
        return None;
    }
    look.found.looked = clock::now();
    Some(look.found)
}

impl Look {
    /// Looks at one image, or at the tags of one release. Blocking.
    fn step(&mut self) {
        match self.open.pop_front() {
            Some(Wanted::Release(release)) => self.release(&release),
            Some(Wanted::Of(root, item)) => self.of_release(root, &item),
            None => {
                let behind = match &self.last {
                    Some(last) => {
                        self.list.images.range((std::ops::Bound::Excluded(*last), std::ops::Bound::Unbounded)).next()
                    }
                    None => self.list.images.first(),
                };
                match behind.copied() {
                    Some(digest) => {
                        self.last = Some(digest);
                        self.anywhere(digest);
                    }
                    None => self.is_over = true,
                }
            }
        }
    }

    fn anywhere(&mut self, digest: Digest) {
        if self.of_releases.contains(&digest) {
            return;
        }
        let held = self.store.has_image_in(&self.repos, digest, &self.stop);
        self.note(digest.to_string(), None, held);
    }

    /// The images of a release take its place.
    fn release(&mut self, release: &Release) {
        let tag = release.tag().clone();
        // The first root that has the release's image, or the first of all, to name what it lacks.
        let has = |root: &Root| matches!(self.store.stored_tag(&root.stored, &tag), Ok(Some(_)));
        let number = self.side.roots.iter().position(has).unwrap_or(0);
        // What can't be looked for is not there: nothing of a release is passed over without a word.
        let Some(root) = self.side.roots.get(number).cloned() else {
            return self.missing(tag.to_string(), None, "there is no repository to look for it".to_owned());
        };
        let install = format!("{}/install", root.stored);
        let Ok(install) = RepoName::parse_stored(&install) else {
            return self.missing(format!("{}:{tag}", root.name), None, "its install image can have no name".to_owned());
        };
        let name = format!("{}/install:{tag}", root.name);
        let listed = match self.store.stored_tag(&install, &tag) {
            Ok(Some(digest)) => {
                let held = if self.side.needs_install {
                    self.store.has_image(&install, digest, &self.stop)
                } else {
                    Ok(Held::Whole)
                };
                match held {
                    Ok(Held::Whole) => self.lists.of_release(&install, &tag, digest).map_err(|error| error.to_string()),
                    held => return self.without_list(number, tag, name, why(held)),
                }
            }
            Ok(None) => Err("there is no such tag, so that the list of its release is not known".to_owned()),
            Err(error) => Err(with_causes(&error)),
        };
        match listed {
            Ok(list) => {
                self.found.images += 1;
                for item in list.required().into_iter().rev() {
                    self.open.push_front(Wanted::Of(number, item));
                }
            }
            Err(why) => self.without_list(number, tag, name, Some(why)),
        }
    }

    /// A release whose list can't be read: its own image is looked for all the same.
    fn without_list(&mut self, root: usize, tag: Tag, install: String, why: Option<String>) {
        if let Some(why) = why {
            self.missing(install, None, why);
            let source = crate::release::DECKHOUSE.to_owned();
            let item = RequiredImage { source, child: String::new(), reference: Reference::Tag(tag), expected: None };
            self.open.push_front(Wanted::Of(root, item));
        }
    }

    fn of_release(&mut self, root: usize, item: &RequiredImage) {
        let Some(Root { name, stored }) = self.side.roots.get(root).cloned() else { return };
        let (image, digest) = match &item.reference {
            Reference::Digest(digest) => (format!("{name}@{digest}"), Ok(Some(*digest))),
            Reference::Tag(tag) => (format!("{name}:{tag}"), self.store.stored_tag(&stored, tag)),
        };
        match digest {
            Ok(Some(digest)) => {
                if self.of_releases.len() < MOST_REMEMBERED {
                    // What two releases have is one image.
                    if !self.of_releases.insert(digest) && matches!(item.reference, Reference::Digest(_)) {
                        return;
                    }
                }
                let held = self.store.has_image(&stored, digest, &self.stop);
                self.note(image, Some(item.source.clone()), held);
            }
            Ok(None) => self.missing(image, Some(item.source.clone()), "there is no such tag".to_owned()),
            Err(error) => self.missing(image, Some(item.source.clone()), with_causes(&error)),
        }
    }

    fn note(&mut self, image: String, source: Option<String>, held: Result<Held, StoreError>) {
        if matches!(held, Ok(Held::Stopped)) {
            return;
        }
        match why(held) {
            Some(why) => self.missing(image, source, why),
            None => self.found.images += 1,
        }
    }

    fn missing(&mut self, image: String, source: Option<String>, why: String) {
        self.found.images += 1;
        self.found.missing += 1;
        if self.found.named.len() < MOST_NAMED {
            self.found.named.push(MissingImage { image, source, why });
        }
    }
}

/// Why an image counts as missing; `None`: it does not, or nobody wants to know any more.
fn why(held: Result<Held, StoreError>) -> Option<String> {
    match held {
        Ok(Held::Whole | Held::Stopped) => None,
        Ok(Held::Lacks(lack @ (Lack::Image | Lack::Manifest(_) | Lack::Blob(_) | Lack::Length(_) | Lack::TooMany))) => {
            Some(lack.to_string())
        }
        Err(error) => Some(with_causes(&error)),
    }
}
