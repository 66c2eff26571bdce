//! What every part of a plan needs: images are asked for, files of theirs read, and it is noted what a source does not have.

use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::PullError;
use super::image::{self, Image};
use super::plan::{Origin, Place, Plan};
use super::stage::Stage;
use crate::oci::{Digest, Reference, Tag};
use crate::release::{StoredImageError, first_file};

/// Requests to a source at once.
pub(super) const AT_ONCE: usize = 6;
/// Notes that are kept.
const MOST_NOTES: usize = 1000;

/// A plan that is being made.
pub(super) struct Gathering<'a> {
    pub(super) stage: &'a Stage,
    pub(super) plan: Plan,
    /// What the source does not have, and what was left out; sentences without their ends.
    pub(super) notes: Vec<String>,
    /// Hears of bytes that came.
    pub(super) told: &'a (dyn Fn(u64) + Sync),
}

impl Gathering<'_> {
    pub(super) fn note(&mut self, note: String) {
        if self.notes.len() < MOST_NOTES {
            self.notes.push(note);
        }
    }

    /// Puts an image into the plan that has to be there.
    pub(super) fn require(
        &mut self,
        place: Place<'_>,
        origin: &Origin,
        reference: &Reference,
    ) -> Result<Image, PullError> {
        let found = image::fetch(&origin.source, &origin.child, reference)?;
        let image = found.ok_or_else(|| PullError::Absent(origin.image(reference)))?;
        self.plan.add(place, origin, reference, &image)?;
        Ok(image)
    }

    /// Puts an image into the plan if it is there.
    pub(super) fn take(
        &mut self,
        place: Place<'_>,
        origin: &Origin,
        reference: &Reference,
    ) -> Result<Option<Image>, PullError> {
        let found = image::fetch(&origin.source, &origin.child, reference)?;
        if let Some(image) = &found {
            self.plan.add(place, origin, reference, image)?;
        }
        Ok(found)
    }

    /// Puts images into the plan, each with its attestation if it has one; those that are not there are given back.
    pub(super) fn take_all(
        &mut self,
        place: Place<'_>,
        origin: &Origin,
        references: &[Reference],
        with_attestations: bool,
    ) -> Result<Vec<Reference>, PullError> {
        let found = each(references, |reference| {
            let Some(image) = image::fetch(&origin.source, &origin.child, reference)? else { return Ok(None) };
            let attestation = match attestation(&image.digest) {
                Some(tag) if with_attestations => {
                    let tag = Reference::Tag(tag);
                    image::fetch(&origin.source, &origin.child, &tag)?.map(|image| (tag, image))
                }
                _ => None,
            };
            Ok(Some((image, attestation)))
        })?;
        let mut absent = Vec::new();
        for (reference, found) in references.iter().zip(found) {
            let Some((image, attestation)) = found else {
                absent.push(reference.clone());
                continue;
            };
            self.plan.add(place, origin, reference, &image)?;
            if let Some((tag, image)) = attestation {
                self.plan.add(place, origin, &tag, &image)?;
            }
        }
        Ok(absent)
    }

    /// The first of these files that an image has, by its place among them, with its content.
    pub(super) fn file(
        &self,
        origin: &Origin,
        reference: &Reference,
        image: &Image,
        paths: &[&str],
    ) -> Result<Option<(usize, Vec<u8>)>, PullError> {
        let mut was_damaged = false;
        loop {
            let read = first_file(&image.layers, paths, |digest| {
                let layer = image.layers.iter().find(|layer| layer.digest == *digest).ok_or(io::ErrorKind::NotFound)?;
                self.stage.layer(layer, origin, self.told)
            });
            match read {
                Ok(found) => return Ok(found),
                Err(StoredImageError::Damaged(digest)) if !was_damaged => {
                    was_damaged = true;
                    self.stage.remove(&digest)?;
                }
                Err(error) => {
                    let (file, image) = (paths.join(" or "), origin.image(reference));
                    return Err(PullError::File { file, image, error: Box::new(error) });
                }
            }
        }
    }
}

/// The tag of an image's attestation.
fn attestation(digest: &Digest) -> Option<Tag> {
    format!("sha256-{}.att", digest.hex()).parse().ok()
}

/// The answers for all items in their order, some at once; the first failure ends it.
///
/// # Errors
/// The one of the first item that failed.
pub(super) fn each<T: Sync, R: Send>(
    items: &[T],
    answer: impl Fn(&T) -> Result<R, PullError> + Sync,
) -> Result<Vec<R>, PullError> {
    let next = AtomicUsize::new(0);
    let answers: Mutex<Vec<Option<Result<R, PullError>>>> = Mutex::new((0..items.len()).map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let said = answer(item);
                    if said.is_err() {
                        // The others end what they have in hand.
                        next.store(items.len(), Ordering::Relaxed);
                    }
                    if let Some(place) = answers.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
                        *place = Some(said);
                    }
                }
            });
        }
    });
    let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    // Behind a failure some have no answer.
    let (mut all, mut failed) = (Vec::with_capacity(items.len()), None);
    for answer in answers.into_iter().flatten() {
        match answer {
            Ok(answer) => all.push(answer),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(all), Err)
}
