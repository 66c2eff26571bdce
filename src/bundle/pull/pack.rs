//! An archive is written from contents that were fetched: whole, or in chunks. A file gets its name when all files of its archive are
//! on the disk, the first chunk last, so that there is never a beginning without the rest.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write};
use std::path::{Path, PathBuf};

use super::error::PullError;
use super::header;
use super::plan::{Content, Entry};
use super::stage::Stage;
use crate::bundle::GostSum;
use crate::fs::{Disk, FsError, Temporary};
use crate::oci::{Algorithm, Descriptor, Digest, Hasher};

/// Bytes read and written at once.
const PIECE_BYTES: usize = 1 << 20;
/// Behind the name of a file that is being written.
const UNFINISHED: &str = ".tmp";

/// A file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// The SHA-256 of its bytes.
    pub(super) sum: Digest,
    /// Their GOST sum, if it was asked for.
    pub(super) gost: Option<String>,
}

/// An archive that is to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) name: &'a str,
    /// Bytes of a chunk.
    pub(super) chunk: Option<u64>,
    /// Whether GOST sums are wanted.
    pub(super) gost: bool,
}

/// The sums of a file that is written or read.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    sha256: Hasher,
    gost: Option<GostSum>,
    bytes: u64,
}

impl Sums {
    pub(super) fn new(gost: bool) -> Self {
        Self { sha256: Hasher::new(Algorithm::Sha256), gost: gost.then(GostSum::default), bytes: 0 }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(gost) = &mut self.gost {
            gost.update(bytes);
        }
        self.bytes += bytes.len() as u64;
    }

    pub(super) fn finish(self, name: String) -> Written {
        Written { name, bytes: self.bytes, sum: self.sha256.finish(), gost: self.gost.map(GostSum::finish) }
    }
}

/// Writes an archive into `dir`. `told` hears of bytes that are written. Blocking.
///
/// # Errors
/// [`PullError::Disk`]: the named content has to be fetched again. [`PullError::Files`].
pub(super) fn pack(
    dir: &Path,
    Target { name, chunk, gost }: Target<'_>,
    entries: &[Entry],
    stage: &Stage,
    told: &dyn Fn(u64),
) -> Result<Vec<Written>, PullError> {
    let disk = Disk::default();
    for old in files_of(dir, name)?.iter().filter(|file| file.ends_with(UNFINISHED)) {
        disk.unlink(&dir.join(old))?;
    }
    let mut files = Files { dir, name, chunk, gost, open: None, left: 0, done: Vec::new(), disk: &disk };
    for entry in entries {
        files.put(&header::of(&entry.name, entry.content.length()))?;
        match &entry.content {
            Content::Made(bytes) => files.put(bytes)?,
            Content::Blob(blob, _) => copy(blob, stage, &mut files)?,
        }
        let length = entry.content.length();
        let padding = length.next_multiple_of(header::BLOCK) - length;
        files.put(&[0; 512][..usize::try_from(padding).unwrap_or(0)])?;
        told(length);
    }
    files.put(&[0; 1024])?;
    let written = files.end()?;
    for file in written.iter().rev() {
        let place = dir.join(&file.name);
        disk.rename(Temporary::adopt(unfinished(&place)), &place)?;
    }
    disk.sync_directory(dir)?;
    Ok(written)
}

/// The files in `dir` of an archive, in whatever form, finished or not.
pub(super) fn files_of(dir: &Path, archive: &str) -> Result<Vec<String>, PullError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(FsError::on("read", dir))? {
        let name = entry.map_err(FsError::on("read", dir))?.file_name();
        let Some(name) = name.to_str() else { continue };
        let Some(behind) = name.strip_prefix(archive) else { continue };
        let behind = behind.strip_suffix(UNFINISHED).unwrap_or(behind);
        let number = behind.strip_prefix('.').and_then(|rest| rest.strip_suffix(".chunk"));
        if behind.is_empty() || number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
            found.push(name.to_owned());
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn unfinished(place: &Path) -> PathBuf {
    let mut name = place.file_name().unwrap_or_default().to_owned();
    name.push(UNFINISHED);
    place.with_file_name(name)
}

fn copy(blob: &Descriptor, stage: &Stage, files: &mut Files<'_>) -> Result<(), PullError> {
    let mut file = match stage.read(&blob.digest) {
        Ok(file) => file.take(blob.size.saturating_add(1)),
        Err(error) if crate::fs::is_absence(&error) => return Err(PullError::Disk(blob.digest)),
        Err(error) => return Err(FsError::on("read", Path::new(&blob.digest.hex()))(error).into()),
    };
    let (mut buffer, mut hasher, mut read) = (vec![0; PIECE_BYTES], Hasher::new(Algorithm::Sha256), 0_u64);
    loop {
        let count = file.read(&mut buffer).map_err(FsError::on("read", Path::new(&blob.digest.hex())))?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        read += count as u64;
        if read > blob.size {
            break;
        }
        files.put(&buffer[..count])?;
    }
    if read == blob.size && hasher.finish() == blob.digest { Ok(()) } else { Err(PullError::Disk(blob.digest)) }
}

/// The files of an archive, one after the other.
struct Files<'a> {
    dir: &'a Path,
    name: &'a str,
    chunk: Option<u64>,
    gost: bool,
    open: Option<Open>,
    /// Bytes that the open file still takes.
    left: u64,
    done: Vec<Written>,
    disk: &'a Disk,
}

struct Open {
    name: String,
    path: PathBuf,
    file: BufWriter<File>,
    sums: Sums,
}

impl Files<'_> {
    fn put(&mut self, mut bytes: &[u8]) -> Result<(), FsError> {
        while !bytes.is_empty() {
            if self.left == 0 {
                self.next()?;
            }
            let Some(open) = &mut self.open else { return Ok(()) };
            let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let (now, rest) = bytes.split_at(most);
            open.file.write_all(now).map_err(FsError::on("write", &open.path))?;
            open.sums.update(now);
            self.left -= now.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    fn next(&mut self) -> Result<(), FsError> {
        self.close()?;
        let name = match self.chunk {
            Some(_) => format!("{}.{:04}.chunk", self.name, self.done.len()),
            None => self.name.to_owned(),
        };
        let path = unfinished(&self.dir.join(&name));
        let file = File::create(&path).map_err(FsError::on("make", &path))?;
        let (file, sums) = (BufWriter::with_capacity(PIECE_BYTES, file), Sums::new(self.gost));
        self.open = Some(Open { name, path, file, sums });
        self.left = self.chunk.unwrap_or(u64::MAX);
        Ok(())
    }

    /// Has the open file on the disk.
    fn close(&mut self) -> Result<(), FsError> {
        let Some(Open { name, path, file, sums }) = self.open.take() else { return Ok(()) };
        let file = file.into_inner().map_err(io::IntoInnerError::into_error).map_err(FsError::on("write", &path))?;
        self.disk.sync(&file, &path)?;
        self.done.push(sums.finish(name));
        Ok(())
    }

    fn end(mut self) -> Result<Vec<Written>, FsError> {
        self.close()?;
        Ok(self.done)
    }
}
