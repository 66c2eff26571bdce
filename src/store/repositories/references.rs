//! Whether a manifest is whole: everything it references, down to the last child, is in its repository.
//!
//! To find that out is a walk that may read many manifests. Those who ask at once share one walk; a walk goes in steps,
//! of which some run at once, and what is not through after its first step waits behind the others like it, so that no
//! large index keeps a small one waiting; the verdict is remembered (`verdicts`).

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use super::manifests::Manifests;
use super::verdicts::Verdict;
use crate::fs::stat;
use crate::oci::{Descriptor, Digest, RepoName};
use crate::store::contents::blob::Blob;
use crate::store::contents::changes::blocking;
use crate::store::contents::damage::list::Verdict as Examined;
use crate::store::contents::open::open_content;
use crate::store::error::StoreError;
use crate::store::layout::Membership;
use crate::store::stored::StoredManifest;

/// Most missing digests that are listed.
const LISTED: usize = 100;

/// Most manifests that one walk looks into. An index of more is not refused, what lies behind is taken for missing.
const MANIFESTS: usize = 10_000;

/// A blob whose length is not its descriptor's is hashed at once up to this length; a longer one when it is read.
const EXAMINED: u64 = 64 << 20;

/// Most blobs that a walk remembers to have seen; others are looked for as often as they are named.
const BLOBS: usize = 50_000;

/// Looks of one step. Some KiB of a manifest cost as much as a look.
const STEP: usize = 4096;
const LOOK_BYTES: usize = 4096;

/// First steps that run at once: most walks need no other.
const FIRST_STEPS: usize = 8;

/// Walks that go on after their first step at once. Each holds one child in memory.
pub const LONG_WALKS: usize = 2;

/// Children whose own verdicts a walk leaves behind at most.
const NOTED: usize = 100;

/// The digests that a walk found missing.
type Outcome = Result<Arc<[Digest]>, StoreError>;

/// A manifest, and the repository's generations of deletes and additions: a change since makes it another question.
type Question = (RepoName, Digest, u64, u64);

/// The walks under way.
#[derive(Debug)]
pub(in crate::store) struct References {
    manifests: Arc<Manifests>,
    pub(in crate::store) running: DashMap<Question, watch::Receiver<Option<Outcome>>>,
    pub(in crate::store) first: Semaphore,
    pub(in crate::store) long: Semaphore,
    /// Walks end although nobody waits for them any more.
    tasks: TaskTracker,
}

/// Takes a walk off the list, however it ends.
struct Running {
    references: Arc<References>,
    question: Question,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.references.running.remove(&self.question);
    }
}

impl References {
    /// Of `manifests`; walks run on `tasks`.
    pub(in crate::store) fn new(manifests: Arc<Manifests>, tasks: TaskTracker) -> Self {
        Self {
            manifests,
            running: DashMap::new(),
            first: Semaphore::new(FIRST_STEPS),
            long: Semaphore::new(LONG_WALKS),
            tasks,
        }
    }

    /// The digests that the manifest references, down to the last child, and the repository lacks, [`LISTED`] at most:
    /// remembered, of a walk that is under way, or of one that begins and runs to its end even if the caller is dropped.
    pub(in crate::store) async fn missing(self: &Arc<Self>, repo: &RepoName, stored: &StoredManifest) -> Outcome {
        let memory = &self.manifests.memory;
        let (deletions, additions) = memory.generations_of(repo);
        match memory.verdict(repo, &stored.digest) {
            Some(Verdict::Whole { .. }) => return Ok(Arc::default()),
            Some(Verdict::Lacks { missing, .. }) => return Ok(missing),
            None => {}
        }
        let question = (repo.clone(), stored.digest, deletions, additions);
        let mut outcome = match self.running.entry(question.clone()) {
            Entry::Occupied(running) => running.get().clone(),
            Entry::Vacant(free) => {
                let (sender, receiver) = watch::channel(None);
                free.insert(receiver.clone());
                let running = Running { references: Arc::clone(self), question };
                let (references, repo, stored) = (Arc::clone(self), repo.clone(), stored.clone());
                self.tasks.spawn(async move {
                    let found = references.walk(repo, stored).await;
                    // Off the list first: who comes from now on finds what was noted.
                    drop(running);
                    sender.send_replace(Some(found));
                });
                receiver
            }
        };
        let found = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        found.unwrap_or_else(|| Err(StoreError::Bug("a walk ended without an outcome".into())))
    }

    async fn walk(&self, repo: RepoName, stored: StoredManifest) -> Outcome {
        let (digest, memory) = (stored.digest, &self.manifests.memory);
        let (deletions, additions) = (memory.stable_deletions(&repo), memory.stable_additions(&repo));
        let mut walk = Walk::new(repo.clone(), stored);
        let first = self.first.acquire().await;
        walk = self.step(walk).await?;
        // A walk that waits holds no child: it is read again.
        walk.put_back();
        drop(first);
        if !walk.is_over() {
            let _long = self.long.acquire().await;
            while !walk.is_over() {
                walk = self.step(walk).await?;
            }
        }
        let missing: Arc<[Digest]> = walk.missing.into();
        let verdict = if missing.is_empty() {
            Verdict::Whole { deletions }
        } else {
            Verdict::Lacks { missing: Arc::clone(&missing), additions }
        };
        if missing.is_empty() {
            for child in walk.children.iter().take(NOTED) {
                memory.note_verdict(&repo, child, verdict.clone());
            }
        }
        // A digest that is missing for damage is there again as soon as it is whole in any repository.
        if !missing.iter().any(|missing| self.manifests.contents.damage.has(missing)) {
            memory.note_verdict(&repo, &digest, verdict);
        }
        Ok(missing)
    }

    async fn step(&self, mut walk: Walk) -> Result<Walk, StoreError> {
        let manifests = Arc::clone(&self.manifests);
        blocking(move || {
            walk.step(&manifests)?;
            Ok(walk)
        })
        .await
    }
}

struct Walk {
    repo: RepoName,
    /// The manifest that is looked into, and the number of its blobs that were looked for.
    current: Option<(StoredManifest, usize)>,
    children: HashSet<Digest>,
    blobs: HashSet<Digest>,
    missing: Vec<Digest>,
    /// Children whose own references are still to be looked at.
    waiting: Vec<Digest>,
}

impl Walk {
    fn new(repo: RepoName, stored: StoredManifest) -> Self {
        Self {
            repo,
            current: Some((stored, 0)),
            children: HashSet::new(),
            blobs: HashSet::new(),
            missing: Vec::new(),
            waiting: Vec::new(),
        }
    }

    fn is_over(&self) -> bool {
        self.missing.len() >= LISTED || (self.current.is_none() && self.waiting.is_empty())
    }

    /// Lets go of the child that is looked into, to be read again.
    fn put_back(&mut self) {
        if let Some((stored, _)) = self.current.take_if(|(stored, _)| self.children.contains(&stored.digest)) {
            self.waiting.push(stored.digest);
        }
    }

    /// Goes on for about [`STEP`] looks; blocking.
    fn step(&mut self, manifests: &Manifests) -> Result<(), StoreError> {
        let mut left = STEP;
        while left > 0 && !self.is_over() {
            if let Some((stored, from)) = self.current.take() {
                self.look_into(manifests, &stored, from, &mut left)?;
            } else if let Some(digest) = self.waiting.pop() {
                left -= 1;
                manifests.save(&self.repo, &digest);
                if manifests.memory.is_whole(&self.repo, &digest) {
                    continue;
                }
                match manifests.find_manifest(&self.repo, digest)? {
                    Some(child) => {
                        left = left.saturating_sub(child.bytes.len() / LOOK_BYTES);
                        self.current = Some((child, 0));
                    }
                    // An index may list content of any kind; what was pushed as a blob is there.
                    None if self.has(manifests, &digest)? => {}
                    None => self.missing.push(digest),
                }
            }
        }
        Ok(())
    }

    fn look_into(
        &mut self,
        manifests: &Manifests,
        stored: &StoredManifest,
        from: usize,
        left: &mut usize,
    ) -> Result<(), StoreError> {
        if from == 0 {
            // So that a file of another length is looked at.
            manifests.contents.damage.learn(&stored.manifest);
        }
        for (at, Descriptor { digest, .. }) in stored.manifest.required_blobs().enumerate().skip(from) {
            if self.missing.len() >= LISTED {
                return Ok(());
            }
            if self.blobs.contains(digest) {
                continue;
            }
            if *left == 0 {
                self.current = Some((stored.clone(), at));
                return Ok(());
            }
            *left -= 1;
            if self.blobs.len() < BLOBS {
                self.blobs.insert(*digest);
            }
            if !self.has(manifests, digest)? {
                self.missing.push(*digest);
            }
        }
        for Descriptor { digest, .. } in &stored.manifest.manifests {
            if self.children.len() < MANIFESTS {
                if self.children.insert(*digest) {
                    self.waiting.push(*digest);
                }
            } else if !self.children.contains(digest) && self.missing.len() < LISTED {
                self.missing.push(*digest);
            }
        }
        Ok(())
    }

    /// Whether the repository has the content, as a blob or, where a manifest is used as a layer, as a manifest.
    fn has(&self, manifests: &Manifests, digest: &Digest) -> Result<bool, StoreError> {
        manifests.save(&self.repo, digest);
        for kind in [Membership::Blob, Membership::Manifest] {
            let path = manifests.contents.layout.member(&self.repo, kind, digest);
            let Some(facts) = stat(&path)? else { continue };
            if manifests.contents.damage.is_listed(digest, facts.ino()) {
                if manifests.mend(&self.repo, kind, digest)? {
                    return Ok(true);
                }
                continue;
            }
            if facts.len() > EXAMINED || !manifests.contents.damage.is_length_odd(digest, &facts) {
                return Ok(true);
            }
            let Some(file) = open_content(&path)? else { continue };
            let length = file.metadata().map_err(StoreError::io("stat", &path))?.len();
            if manifests.contents.examine(digest, &Blob::whole(file, length), &path) != Examined::Absent {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
