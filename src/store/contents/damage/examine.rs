//! Whether a stored file is what its name says: read whole and hashed. All of it blocks.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Instant;

use rustix::fs::{Advice, fadvise};

use super::list::{AGAIN, Found, MOST_SUSPECTS, Suspect, Verdict, lock};
use crate::fs::stat;
use crate::oci::{Algorithm, Digest};
use crate::store::contents::blob::Blob;
use crate::store::contents::files::Contents;
use crate::store::contents::open::open_content;
use crate::store::error::StoreError;
use crate::telemetry::DamageCause;

/// Tries after which a suspect that can't be told from a failing disk is let go: its next reader finds it again.
const MOST_TRIES: u32 = 30;

/// Other files that are read to tell a damaged file from a failing disk.
const OTHERS: usize = 3;

impl Contents {
    /// Hashes a content whose file was found under the name `path`, and puts that file on the list if it is not the digest's.
    pub(in crate::store) fn examine(&self, digest: &Digest, blob: &Blob, path: &Path) -> Verdict {
        let file = blob.file();
        let Ok(facts) = file.metadata() else { return Verdict::Unread };
        if self.damage.is_listed(digest, facts.ino()) {
            return Verdict::Absent;
        }
        match blob.hash(digest.algorithm()) {
            Ok(actual) if actual == *digest => {
                self.damage.note_sound(digest, &facts);
                Verdict::Sound
            }
            Ok(_) => self.condemn(digest, &facts, path, DamageCause::Hash).into(),
            Err(error) => {
                self.suspect(digest, blob, path, &error);
                Verdict::Unread
            }
        }
    }

    /// Reads and hashes the file under the name of a content that is known to have `size` bytes. Not to be called with
    /// the digest's lock held.
    pub(in crate::store) fn look_at_content(&self, digest: &Digest, size: u64) -> Result<Found, StoreError> {
        let path = self.layout.content(digest);
        let Some(facts) = stat(&path)? else { return Ok(Found::Nothing) };
        let inode = facts.ino();
        if self.damage.is_listed(digest, inode) {
            return Ok(Found::Bad(inode));
        }
        let file = match open_content(&path) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(Found::Nothing),
            // Not a file, or not to be opened: the verified bytes take its place.
            Err(_) => return Ok(Found::Bad(inode)),
        };
        // As opened: another may have taken its place.
        let facts = file.metadata().map_err(StoreError::io("stat", &path))?;
        if facts.is_file() && facts.len() != size {
            self.condemn(digest, &facts, &path, DamageCause::Hash);
            return Ok(Found::Bad(facts.ino()));
        }
        match self.examine(digest, &Blob::whole(file, facts.len()), &path) {
            Verdict::Sound => Ok(Found::Sound(facts.ino())),
            Verdict::Absent | Verdict::DiskFault | Verdict::Unread => Ok(Found::Bad(facts.ino())),
        }
    }

    /// Notes that a content could not be read. Its bytes, and none of others in the same file, are read once more [`AGAIN`]
    /// later; until then nothing follows from it. One that ends too early is looked at as soon as may be: that is no reading
    /// error, and a hash tells.
    pub(in crate::store) fn suspect(&self, digest: &Digest, blob: &Blob, path: &Path, error: &io::Error) {
        let Ok(inode) = blob.file().metadata().map(|facts| facts.ino()) else { return };
        let mut suspects = lock(&self.damage.suspects);
        let is_known = |known: &Suspect| known.inode == inode && known.digest == *digest;
        if suspects.len() >= MOST_SUSPECTS || suspects.iter().any(is_known) {
            return;
        }
        tracing::error!(
            path = %path.display(), %digest, %error,
            "a stored content can't be read; if that is so once more in 10 s while others can be read, it counts as absent"
        );
        let too_short = error.kind() == io::ErrorKind::UnexpectedEof;
        let next = Instant::now() + if too_short { std::time::Duration::ZERO } else { AGAIN };
        suspects.push(Suspect {
            digest: *digest,
            path: path.to_path_buf(),
            blob: blob.unleased(),
            inode,
            next,
            tries: 0,
        });
        drop(suspects);
        self.damage.wake.notify_one();
    }

    /// As [`Contents::examine`], unless somebody else was there before.
    pub(in crate::store) fn examine_odd(&self, digest: &Digest, blob: &Blob, path: &Path) -> Verdict {
        match blob.file().metadata() {
            Ok(facts) if !self.damage.is_length_odd(digest, &facts) => Verdict::Sound,
            _ => self.examine(digest, blob, path),
        }
    }

    /// Comes back to the files that could not be read and are due at `now`.
    pub(super) fn read_suspects_again(&self, now: Instant) {
        let due: Vec<Suspect> = {
            let mut suspects = lock(&self.damage.suspects);
            let (due, later) = suspects.drain(..).partition(|suspect| suspect.next <= now);
            *suspects = later;
            due
        };
        for mut suspect in due {
            let Suspect { digest, path, blob, .. } = &suspect;
            // Pages in memory say nothing of the disk.
            let _ = fadvise(&**blob.file(), blob.extent().start, NonZeroU64::new(blob.length()), Advice::DontNeed);
            let found = match (blob.hash(digest.algorithm()), blob.file().metadata()) {
                (Ok(actual), Ok(_)) if actual == *digest => {
                    tracing::info!(path = %path.display(), %digest, "a content that could not be read can be read again");
                    continue;
                }
                (Ok(_), Ok(facts)) => Some((facts, DamageCause::Hash)),
                (_, Ok(facts)) if self.others_can_be_read(suspect.inode) => Some((facts, DamageCause::Unreadable)),
                _ => None,
            };
            if let Some((facts, cause)) = found {
                self.condemn(digest, &facts, path, cause);
                continue;
            }
            suspect.tries += 1;
            suspect.next = now + AGAIN;
            if suspect.tries < MOST_TRIES {
                lock(&self.damage.suspects).push(suspect);
            }
        }
    }

    /// Whether files beside that one can be read from the disk.
    fn others_can_be_read(&self, inode: u64) -> bool {
        let suspected: Vec<u64> = lock(&self.damage.suspects).iter().map(|suspect| suspect.inode).collect();
        let folders = Algorithm::ALL
            .into_iter()
            .flat_map(|algorithm| (0..=u8::MAX).map(move |first| self.layout.content_folder(algorithm, first)));
        let others = folders
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flat_map(|entries| entries.flatten())
            .filter_map(|entry| open_content(&entry.path()).ok().flatten())
            .filter(|file| {
                file.metadata().is_ok_and(|facts| {
                    facts.is_file() && facts.len() > 0 && facts.ino() != inode && !suspected.contains(&facts.ino())
                })
            });
        let mut read: Vec<bool> = others.take(OTHERS).map(|file| can_be_read(&file)).collect();
        if read.is_empty() {
            read.push(File::open(self.layout.version()).is_ok_and(|file| can_be_read(&file)));
        }
        read.into_iter().all(|could| could)
    }
}

/// Whether the first bytes can be read from the disk.
fn can_be_read(file: &File) -> bool {
    let _ = fadvise(file, 0, None, Advice::DontNeed);
    file.read_at(&mut [0; 4096], 0).is_ok_and(|read| read > 0)
}
