//! Contents that were fetched and are not in an archive yet: files under their digests in the working directory. A name without
//! an end has all its bytes; what is still coming is beside it as `.part`, and another run goes on behind its bytes.
//!
//! Nothing is synced here: who takes a content out hashes it again, so what a crash of the machine left wrong is fetched anew.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::PullError;
use super::plan::Origin;
use crate::bundle::{Bundle, Found, Stream};
use crate::fs::{Disk, FsError, Temporary, make_directory, stat};
use crate::oci::{Descriptor, Digest, Hasher};
use crate::telemetry::with_causes;
use crate::upstream::BlobFault;

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// Contents that are at hand.
#[derive(Debug)]
pub(super) struct Stage {
    /// `None`: nothing is to be written.
    dir: Option<PathBuf>,
    /// Archives that are there already.
    known: Option<Bundle>,
    disk: Disk,
    fetched: AtomicU64,
}

impl Stage {
    /// The directory at `dir`, which is made if it is missing; `None`: nothing is written. `known` has contents too. Blocking.
    ///
    /// # Errors
    /// [`PullError::Files`].
    pub(super) fn open(dir: Option<PathBuf>, known: Option<Bundle>) -> Result<Self, PullError> {
        if let Some(dir) = &dir {
            make_directory(dir)?;
        }
        Ok(Self { dir, known, disk: Disk::default(), fetched: AtomicU64::new(0) })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.as_deref().unwrap_or(Path::new("")).join(digest.hex())
    }

    fn known(&self, blob: &Descriptor) -> Option<Found> {
        self.known.as_ref()?.find("", &blob.digest).filter(|found| found.length == blob.size)
    }

    /// The bytes of a layer: those that are at hand, else it is fetched and, where something may be written, kept. What they are
    /// is for the reader to prove. Blocking.
    pub(super) fn layer<'a>(
        &self,
        layer: &Descriptor,
        origin: &'a Origin,
        told: &dyn Fn(u64),
    ) -> io::Result<Box<dyn Read + 'a>> {
        if self.dir.is_some() {
            self.fetch(layer, origin, told).map_err(|error| io::Error::other(with_causes(&error)))?;
            return Ok(Box::new(self.read(&layer.digest)?));
        }
        match self.known(layer) {
            Some(Found { stream, at, length }) => Ok(Box::new(Carried { stream, at, left: length })),
            None => Ok(Box::new(origin.source.passing(&origin.child, layer))),
        }
    }

    /// Bytes that came from registries.
    pub(super) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Bytes that are at hand of a content.
    pub(super) fn there(&self, blob: &Descriptor) -> Result<u64, FsError> {
        if self.known(blob).is_some() {
            return Ok(blob.size);
        }
        let path = self.path(&blob.digest);
        if let Some(found) = stat(&path)?.filter(|found| found.len() == blob.size) {
            return Ok(found.len());
        }
        Ok(stat(&path.with_extension("part"))?.map_or(0, |found| found.len().min(blob.size)))
    }

    pub(super) fn read(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.path(digest))
    }

    /// Forgets a content.
    pub(super) fn remove(&self, digest: &Digest) -> Result<(), FsError> {
        self.disk.unlink(&self.path(digest)).map(|_| ())
    }

    /// Fetches a content unless it is there. `told` hears of bytes as they come. Blocking; ended at any moment, the next call goes on.
    ///
    /// # Errors
    /// [`PullError`].
    pub(super) fn fetch(&self, blob: &Descriptor, origin: &Origin, told: &dyn Fn(u64)) -> Result<(), PullError> {
        let whole = self.path(&blob.digest);
        if stat(&whole)?.is_some_and(|found| found.len() == blob.size) {
            return Ok(());
        }
        let part = whole.with_extension("part");
        if let Some(dir) = &self.dir {
            check_room(dir, blob.size.saturating_sub(stat(&part)?.map_or(0, |found| found.len())))?;
        }
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part);
        let mut file = options.map_err(FsError::on("open", &part))?;
        if let Some(found) = self.known(blob) {
            file.set_len(0).map_err(FsError::on("cut", &part))?;
            let copied = io::copy(&mut Carried { stream: found.stream, at: found.at, left: found.length }, &mut file);
            // What can't be read there is fetched; what can't be written here fails below too.
            if copied.is_err() || hashed(&mut file, &part, blob)?.0.finish() != blob.digest {
                file.set_len(0).map_err(FsError::on("cut", &part))?;
            }
        }
        let mut retries = origin.source.retries();
        let mut began_anew = false;
        loop {
            let (hasher, read) = hashed(&mut file, &part, blob)?;
            if read == blob.size && hasher.clone().finish() == blob.digest {
                self.disk.rename(Temporary::adopt(part), &whole)?;
                return Ok(());
            }
            let mut coming = origin.source.blob(&origin.child, blob).behind(read, hasher);
            let fault = loop {
                match origin.source.chunk(&mut coming) {
                    Ok(Some(bytes)) => {
                        file.write_all(&bytes).map_err(FsError::on("write", &part))?;
                        self.fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        told(bytes.len() as u64);
                        retries.moved();
                    }
                    Ok(None) => {
                        self.disk.rename(Temporary::adopt(part), &whole)?;
                        return Ok(());
                    }
                    Err(fault) => break fault,
                }
            };
            match &fault {
                BlobFault::Upstream(error) if retries.wait(error) => {}
                // It may be what lay there from before that is wrong.
                BlobFault::Content(_) if read > 0 && !began_anew => {
                    began_anew = true;
                    file.set_len(0).map_err(FsError::on("cut", &part))?;
                }
                BlobFault::Content(_) | BlobFault::Upstream(_) => {
                    if matches!(fault, BlobFault::Content(_)) {
                        self.disk.unlink(&part)?;
                    }
                    let image = origin.source.repository(&origin.child);
                    return Err(PullError::Blob { digest: blob.digest, image, error: Box::new(fault) });
                }
            }
        }
    }
}

/// Sizes are what a registry says: before it is believed, the disk is asked.
pub(super) fn check_room(dir: &Path, needed: u64) -> Result<(), PullError> {
    let failed = |error: rustix::io::Errno| FsError::on("look at the disk of", dir)(error.into());
    let disk = rustix::fs::statvfs(dir).map_err(failed)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if needed > free { Err(PullError::Room { dir: dir.to_path_buf(), needed, free }) } else { Ok(()) }
}

/// What is there of a content, hashed; the file stands behind it.
fn hashed(file: &mut File, path: &Path, blob: &Descriptor) -> Result<(Hasher, u64), FsError> {
    let mut hasher = Hasher::new(blob.digest.algorithm());
    let read = (|| {
        if file.metadata()?.len() > blob.size {
            file.set_len(0)?;
        }
        file.seek(SeekFrom::Start(0))?;
        let (mut buffer, mut read) = (vec![0; READ_BYTES], 0);
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(read);
            }
            hasher.update(&buffer[..count]);
            read += count as u64;
        }
    })();
    read.map(|read| (hasher, read)).map_err(FsError::on("read", path))
}

/// A content of an archive, as it is read.
struct Carried {
    stream: Arc<Stream>,
    at: u64,
    left: u64,
}

impl Read for Carried {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.stream.read_at(self.at, &mut buffer[..most])?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}
