//! The blobs of a repository: found in the store, or hashed once on their way from the source.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::geteuid;
use tokio::runtime::Handle;

use super::{BATCH, ImportError, Run};
use crate::bundle::Found;
use crate::oci::{Digest, Hasher, RepoName};
use crate::store::{Incoming, Moved, Presence, Staged, StoreError, TURN_BYTES, Taken};
use crate::takeover::fault::Fault;
use crate::takeover::source::Bytes;
use crate::takeover::survey::{Blob, Survey};
use crate::telemetry::with_causes;
use crate::upstream::BlobFault;

/// Bytes read at once.
pub(super) const READ_BYTES: usize = 1 << 20;
/// Bytes that wait for their names together: a run that is killed hashes them again.
const STAGED_BYTES: u64 = 256 << 20;

/// Length from which on a registry's blob is gone on with by the next run: less comes again as soon.
const LARGE_BYTES: u64 = 16 << 20;

/// A blob that was looked for in the source.
type Fetched<'a> = Result<Staged<'a>, Fault>;

impl<'a> Run<'a> {
    /// Whether a blob need not come.
    pub(super) fn is_stored(&self, repo: &RepoName, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.intake.find_blob(repo, digest)? != Presence::Absent || self.intake.moved_before(*digest)?.is_some())
    }

    /// For a dry run: what is there, and of the length that the manifests say.
    pub(super) fn look_for_blobs(
        &mut self,
        name: &str,
        repo: &RepoName,
        survey: &mut Survey,
    ) -> Result<(), ImportError> {
        let mut seen = HashSet::new();
        for blob in survey.nodes.iter().flat_map(|node| &node.blobs) {
            if !seen.insert(blob.digest) || self.bad.contains_key(&blob.digest) {
                continue;
            }
            if self.is_stored(repo, &blob.digest)? {
                self.report.blobs.present += 1;
                continue;
            }
            let found = self.source.length(name, &blob.descriptor());
            let fault = match found {
                Ok(Some(length)) if length == blob.size => {
                    if self.note_coming(*blob) {
                        self.report.bytes += length;
                    }
                    self.report.blobs.taken += 1;
                    continue;
                }
                Ok(Some(found)) => Fault::BlobLength { digest: blob.digest, expected: blob.size, found },
                Ok(None) => Fault::BlobMissing(blob.digest),
                Err(fault) => fault,
            };
            self.report.blobs.left += 1;
            self.bad.insert(blob.digest, fault);
        }
        survey.judge(&mut |blob| self.bad.get(&blob.digest).cloned());
        Ok(())
    }

    /// Makes what the manifests of a repository name blobs of it; what can't be had is noted as bad.
    pub(super) fn take_blobs(&mut self, name: &str, repo: &RepoName, survey: &Survey) -> Result<(), ImportError> {
        let mut seen = HashSet::new();
        let (mut batch, mut bytes) = (Vec::with_capacity(BATCH), 0);
        for blob in survey.nodes.iter().flat_map(|node| &node.blobs) {
            if !seen.insert(blob.digest) || self.bad.contains_key(&blob.digest) {
                continue;
            }
            match self.intake.find_blob(repo, &blob.digest)? {
                Presence::Here => {
                    self.report.blobs.present += 1;
                    continue;
                }
                Presence::Elsewhere => batch.push((*blob, Taken::Linked(blob.digest))),
                Presence::Absent if self.source.path().is_none() && blob.size >= LARGE_BYTES => {
                    self.flush_blobs(name, repo, std::mem::take(&mut batch))?;
                    bytes = 0;
                    self.take_large(name, repo, *blob)?;
                    continue;
                }
                Presence::Absent => {
                    let fetched = self.goes_on().and_then(|()| self.fetch_or_note(name, *blob));
                    if matches!(fetched, Err(ImportError::Stopped)) {
                        // What was hashed is kept.
                        self.flush_blobs(name, repo, std::mem::take(&mut batch))?;
                    }
                    let Some(staged) = fetched? else { continue };
                    bytes += blob.size;
                    batch.push((*blob, Taken::Staged(staged)));
                }
            }
            if batch.len() == BATCH || bytes >= STAGED_BYTES {
                self.flush_blobs(name, repo, std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        self.flush_blobs(name, repo, batch)
    }

    /// Takes a large blob of a registry. What came of it stays in the store when the run ends, whatever ends it, and the next one
    /// asks for the rest.
    fn take_large(&mut self, name: &str, repo: &RepoName, blob: Blob) -> Result<(), ImportError> {
        let fault = match self.fetch_large(name, repo, blob)? {
            Ok(()) => {
                self.report.blobs.taken += 1;
                self.report.bytes += blob.size;
                return Ok(());
            }
            Err(fault) => fault,
        };
        self.goes_on()?;
        self.report.blobs.left += 1;
        self.bad.insert(blob.digest, fault);
        Ok(())
    }

    fn fetch_large(&mut self, name: &str, repo: &RepoName, blob: Blob) -> Result<Result<(), Fault>, ImportError> {
        let wait = Handle::current();
        let large = match self.intake.begin_large(blob.digest) {
            // A cache fetches it just now.
            Err(StoreError::FillBusy(digest)) => {
                return Ok(Err(Fault::Registry(format!(
                    "blob {digest} is fetched by somebody else just now: run it again"
                ))));
            }
            begun => begun?,
        };
        if large.written() > blob.size || large.hasher().is_none() {
            wait.block_on(large.restart())?;
        }
        let known = large.written();
        self.tell(known);
        if known < blob.size || large.verify().is_err() {
            let sent = self.source.open(name, &blob.descriptor());
            let (Ok(Some(Bytes::Sent(sent))), Some(hasher)) = (sent, large.hasher()) else {
                return Ok(Err(Fault::BlobMissing(blob.digest)));
            };
            let mut sent = sent.behind(known, hasher);
            loop {
                match wait.block_on(self.stop.run_until_cancelled(sent.chunk())) {
                    None => return Err(ImportError::Stopped),
                    Some(Ok(Some(bytes))) => {
                        let length = bytes.len() as u64;
                        wait.block_on(large.append(vec![bytes]))?;
                        if large.behind() >= TURN_BYTES {
                            wait.block_on(large.write_back(TURN_BYTES))?;
                        }
                        self.tell(length);
                    }
                    Some(Ok(None)) => break,
                    // What an earlier run left may be what is wrong: the next one begins anew.
                    Some(Err(BlobFault::Content(sentence))) => {
                        wait.block_on(large.discard())?;
                        return Ok(Err(Fault::Registry(sentence)));
                    }
                    Some(Err(BlobFault::Upstream(error))) => return Ok(Err(Fault::Registry(with_causes(&error)))),
                }
            }
        }
        self.intake.finish_large(repo, large)?;
        Ok(Ok(()))
    }

    fn flush_blobs(&mut self, name: &str, repo: &RepoName, batch: Vec<(Blob, Taken<'a>)>) -> Result<(), ImportError> {
        if batch.is_empty() {
            return Ok(());
        }
        let blobs: Vec<Blob> = batch.iter().map(|(blob, _)| *blob).collect();
        let batch = batch.into_iter().map(|(blob, taken)| (blob.digest, taken)).collect();
        let absent: HashSet<Digest> = self.intake.add_blobs(repo, batch)?.into_iter().collect();
        for blob in blobs {
            if absent.contains(&blob.digest) {
                // The repository that had it has deleted it meanwhile.
                let Some(staged) = self.fetch_or_note(name, blob)? else { continue };
                self.intake.add_blobs(repo, vec![(blob.digest, Taken::Staged(staged))])?;
            }
            self.report.blobs.taken += 1;
        }
        Ok(())
    }

    fn fetch_or_note(&mut self, name: &str, blob: Blob) -> Result<Option<Staged<'a>>, ImportError> {
        match self.fetch(name, blob)? {
            Ok(staged) => Ok(Some(staged)),
            Err(fault) => {
                self.report.blobs.left += 1;
                self.bad.insert(blob.digest, fault);
                Ok(None)
            }
        }
    }

    /// Gets the bytes of a blob, hashed; the fault says why they can't be had.
    fn fetch(&mut self, name: &str, blob: Blob) -> Result<Fetched<'a>, ImportError> {
        if let Some(staged) = self.intake.moved_before(blob.digest)? {
            self.report.bytes += staged.size();
            self.report.moved_bytes += staged.size();
            return Ok(Ok(staged));
        }
        match self.source.open(name, &blob.descriptor()) {
            Err(fault) => Ok(Err(fault)),
            Ok(None) => Ok(Err(Fault::BlobMissing(blob.digest))),
            Ok(Some(Bytes::File(file, path))) => self.fetch_file(blob.digest, &file, &path),
            Ok(Some(Bytes::Carried(found))) => self.fetch_carried(blob, &found),
            Ok(Some(Bytes::Made(bytes))) => {
                let mut incoming = self.intake.begin(blob.digest, bytes.len() as u64)?;
                incoming.append(&bytes)?;
                self.tell(bytes.len() as u64);
                self.finish(incoming, blob.digest, bytes.len() as u64)
            }
            Ok(Some(Bytes::Sent(mut sent))) => {
                let mut incoming = self.intake.begin(blob.digest, blob.size)?;
                loop {
                    match Handle::current().block_on(self.stop.run_until_cancelled(sent.chunk())) {
                        None => return Err(ImportError::Stopped),
                        Some(Ok(Some(bytes))) => {
                            incoming.append(&bytes)?;
                            self.tell(bytes.len() as u64);
                        }
                        Some(Ok(None)) => break,
                        Some(Err(BlobFault::Content(sentence))) => return Ok(Err(Fault::Registry(sentence))),
                        Some(Err(BlobFault::Upstream(error))) => return Ok(Err(Fault::Registry(with_causes(&error)))),
                    }
                }
                self.finish(incoming, blob.digest, blob.size)
            }
        }
    }

    fn fetch_carried(&mut self, blob: Blob, found: &Found) -> Result<Fetched<'a>, ImportError> {
        let size = found.length;
        if size != blob.size {
            return Ok(Err(Fault::BlobLength { digest: blob.digest, expected: blob.size, found: size }));
        }
        let unreadable = || Fault::unreadable(format!("blob {}", blob.digest));
        let mut incoming = self.intake.begin(blob.digest, size)?;
        for piece in found.pieces() {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => return Ok(Err(unreadable()(error))),
            };
            let read = self.read_part(&piece.file, piece.at, Some(piece.length), |run, bytes| {
                incoming.append(bytes)?;
                run.tell(bytes.len() as u64);
                Ok(())
            })?;
            if let Err(error) = read {
                return Ok(Err(unreadable()(error)));
            }
        }
        self.finish(incoming, blob.digest, size)
    }

    fn fetch_file(&mut self, digest: Digest, file: &File, path: &Path) -> Result<Fetched<'a>, ImportError> {
        let unreadable = || Fault::unreadable(path.display().to_string());
        let facts = match file.metadata() {
            Ok(facts) => facts,
            Err(error) => return Ok(Err(unreadable()(error))),
        };
        let size = facts.len();
        // Whatever would be refused in the end is not hashed for that first.
        let user = geteuid();
        let is_ours = facts.nlink() == 1 && (user.is_root() || facts.uid() == user.as_raw());
        if self.options.moves && is_ours {
            match self.hash(file, digest)? {
                Err(error) => return Ok(Err(unreadable()(error))),
                Ok(found) if found != digest => {
                    return Ok(Err(Fault::BlobBytes { expected: digest, found: Box::new(found) }));
                }
                Ok(_) => {}
            }
            match self.intake.move_in(path, file, digest)? {
                Moved::Staged(staged) => {
                    self.report.bytes += size;
                    self.report.moved_bytes += size;
                    return Ok(Ok(staged));
                }
                Moved::Refused(reason) => tracing::info!(path = %path.display(), reason, "a file is copied, not moved"),
            }
        }
        let mut incoming = self.intake.begin(digest, size)?;
        if let Some(shared) = incoming.share(file)? {
            let read = self.read_all(&shared, |run, bytes| {
                incoming.learn(bytes);
                run.tell(bytes.len() as u64);
                Ok(())
            })?;
            if let Err(error) = read {
                return Ok(Err(unreadable()(error)));
            }
            self.report.shared_bytes += size;
            return self.finish(incoming, digest, size);
        }
        match self.read_all(file, |run, bytes| {
            incoming.append(bytes)?;
            run.tell(bytes.len() as u64);
            Ok(())
        })? {
            Ok(()) => self.finish(incoming, digest, size),
            Err(error) => Ok(Err(unreadable()(error))),
        }
    }

    fn finish(&mut self, incoming: Incoming<'a>, digest: Digest, size: u64) -> Result<Fetched<'a>, ImportError> {
        let staged = incoming.finish()?;
        if staged.is_ok() {
            self.report.bytes += size;
        }
        Ok(staged.map_err(|found| Fault::BlobBytes { expected: digest, found: Box::new(found) }))
    }

    fn hash(&mut self, file: &File, digest: Digest) -> Result<std::io::Result<Digest>, ImportError> {
        let mut hasher = Hasher::new(digest.algorithm());
        let read = self.read_all(file, |run, bytes| {
            hasher.update(bytes);
            run.tell(bytes.len() as u64);
            Ok(())
        })?;
        Ok(read.map(|()| hasher.finish()))
    }

    /// Reads a file from its first byte to its end, beside others; the inner error is the reading's.
    fn read_all(
        &mut self,
        file: &File,
        each: impl FnMut(&mut Self, &[u8]) -> Result<(), ImportError>,
    ) -> Result<std::io::Result<()>, ImportError> {
        self.read_part(file, 0, None, each)
    }

    /// Reads a part of a file, or from its first byte to the file's end.
    fn read_part(
        &mut self,
        file: &File,
        from: u64,
        length: Option<u64>,
        mut each: impl FnMut(&mut Self, &[u8]) -> Result<(), ImportError>,
    ) -> Result<std::io::Result<()>, ImportError> {
        let (mut buffer, mut at) = (std::mem::take(&mut self.buffer), from);
        buffer.resize(READ_BYTES, 0);
        let read = loop {
            let left = length.map_or(READ_BYTES as u64, |length| from + length - at);
            let most = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
            if most == 0 {
                break Ok(());
            }
            match self.reading.read(file, at, &mut buffer[..most], self.stop) {
                None => return Err(ImportError::Stopped),
                Some(Ok(0)) if length.is_some() => break Err(std::io::ErrorKind::UnexpectedEof.into()),
                Some(Ok(0)) => break Ok(()),
                Some(Ok(bytes)) => {
                    each(self, &buffer[..bytes])?;
                    at += bytes as u64;
                }
                Some(Err(error)) => break Err(error),
            }
        };
        self.buffer = buffer;
        Ok(read)
    }

    fn tell(&mut self, bytes: u64) {
        self.far.bytes += bytes;
        (self.told)(self.far);
    }
}
