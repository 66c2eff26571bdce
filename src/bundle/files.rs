//! Which files a bundle has, and which archive each is of. Names of files have no other meaning than that, and the one of
//! `place::Legacy`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::finding::{Budget, BundleError, Findings, Problem};
use super::gost::SUFFIX;
use super::stream::{OpenFiles, Part, Stream};
use crate::fs::Folder;

/// Directories below one another that are looked into for layouts.
const DEEPEST: usize = 16;
/// Directories that are looked into.
const MOST_FOLDERS: usize = 100_000;
/// About what the name of a file takes in memory, while its directory is looked at.
const NAME_BYTES: usize = 128;
/// Written beside the archives, for the cluster and not for a registry.
const RELEASES: &str = "deckhousereleases.yaml";
/// The sums that `bundle pull` writes, for `sha256sum -c`.
const SUMS: &str = "SHA256SUMS";

/// An archive: a tar, its chunks, or a directory with layouts.
#[derive(Debug)]
pub(super) struct Archive {
    pub(super) stream: Stream,
    pub(super) form: Form,
    /// Chunks behind one that is missing: nobody knows which of the archive's bytes they have.
    pub(super) loose: Vec<(String, u64)>,
    /// Files that have a sum beside them.
    pub(super) sums: BTreeSet<String>,
}

/// What an archive is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Form {
    /// One file.
    Tar,
    /// Chunks.
    Chunks,
    /// A directory with layouts.
    Directory,
}

/// What is there of an archive.
#[derive(Debug, Default)]
struct Files {
    is_whole: bool,
    chunks: BTreeSet<u64>,
}

/// What the name of a file says.
#[derive(Debug, PartialEq, Eq)]
enum Named<'a> {
    Tar,
    Chunk(&'a str, u64),
    Sum(&'a str),
    /// A pull was killed while it wrote it.
    Unfinished,
    Other,
}

fn named(name: &str) -> Named<'_> {
    if let Some((base, number)) = name.strip_suffix(".chunk").and_then(|rest| rest.rsplit_once('.'))
        && base.len() > ".tar".len()
        && base.ends_with(".tar")
        && let Ok(found) = number.parse::<u64>()
        && format!("{found:04}") == number
    {
        return Named::Chunk(base, found);
    }
    match name {
        _ if name.ends_with(".tar") => Named::Tar,
        _ if name.ends_with(".tar.tmp") || name.ends_with(".chunk.tmp") => Named::Unfinished,
        _ => name.strip_suffix(SUFFIX).map_or(Named::Other, Named::Sum),
    }
}

/// Looks for files. What it keeps of them is taken from the budget.
pub(super) struct Collector<'a> {
    pub(super) findings: &'a mut Findings,
    pub(super) budget: &'a mut Budget,
    pub(super) stopped: &'a dyn Fn() -> bool,
    /// Shared by all archives.
    pub(super) files: Arc<OpenFiles>,
}

impl Collector<'_> {
    /// The archives in these files and directories, by their names. Of a chunk all chunks are taken that lie beside it.
    pub(super) fn collect(&mut self, paths: &[PathBuf]) -> Result<Vec<Archive>, BundleError> {
        let mut wanted: BTreeMap<PathBuf, Option<BTreeSet<String>>> = BTreeMap::new();
        for path in paths {
            // An administrator named it, so a link is followed here.
            let path = std::fs::canonicalize(path).map_err(BundleError::read(path))?;
            if path.is_dir() {
                wanted.insert(path, None);
                continue;
            }
            let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(std::ffi::OsStr::to_str)) else {
                return Err(BundleError::Nothing(path));
            };
            let base = match named(name) {
                Named::Chunk(base, _) => base,
                Named::Tar | Named::Other => name,
                // What lies beside an archive is none.
                Named::Sum(_) | Named::Unfinished => return Err(BundleError::Nothing(path)),
            };
            let of_parent = wanted.entry(parent.to_path_buf()).or_insert_with(|| Some(BTreeSet::new()));
            if let Some(bases) = of_parent {
                bases.insert(base.to_owned());
            }
        }
        let mut archives = Vec::new();
        for (path, bases) in wanted {
            let before = archives.len();
            let folder = Arc::new(Folder::root(&path).map_err(BundleError::read(&path))?);
            let names = self.names(&folder, "")?.map_err(BundleError::read(&path))?.unwrap_or_default();
            self.tars(&folder, &names, bases.as_ref(), &mut archives)?;
            if bases.is_none() {
                archives.extend(self.layouts_below(&folder)?);
            }
            if archives.len() == before {
                return Err(BundleError::Nothing(path));
            }
        }
        // As the real client reads them: where two say something of a tag, the last one counts.
        archives.sort_by(|one, other| one.stream.name.cmp(&other.stream.name));
        Ok(archives)
    }

    /// The names in a directory below; `None`: there is none of that name. The inner error is the disk's.
    fn names(&self, root: &Folder, below: &str) -> Result<io::Result<Option<Vec<String>>>, BundleError> {
        let most = self.budget.left() / NAME_BYTES;
        let names = root.folder(below).and_then(|folder| folder.map(|folder| folder.names_up_to(most)).transpose());
        match names {
            Err(error) if error.kind() == io::ErrorKind::QuotaExceeded => Err(self.budget.too_much()),
            names => Ok(names),
        }
    }

    fn tars(
        &mut self,
        folder: &Arc<Folder>,
        names: &[String],
        bases: Option<&BTreeSet<String>>,
        archives: &mut Vec<Archive>,
    ) -> Result<(), BundleError> {
        let findings = &mut *self.findings;
        let all: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let mut found: BTreeMap<&str, Files> = BTreeMap::new();
        for name in names {
            match named(name) {
                Named::Tar => found.entry(name).or_default().is_whole = true,
                Named::Chunk(base, number) => {
                    found.entry(base).or_default().chunks.insert(number);
                }
                Named::Sum(of) if bases.is_none() && !all.contains(of) && !found.contains_key(of) => {
                    findings.add(Problem::StaleSum, name, "it is the sum of a file that is not there");
                }
                Named::Unfinished if bases.is_none() => {
                    findings.add(Problem::Ignored, name, "a pull was ended while it wrote this file");
                }
                Named::Other if bases.is_some_and(|bases| bases.contains(name)) => {
                    found.entry(name).or_default().is_whole = true;
                }
                Named::Other if bases.is_none() && !is_of_bundle(name) && is_file(folder, name) => {
                    findings.add(Problem::Ignored, name, "it is no file of a bundle");
                }
                Named::Sum(_) | Named::Unfinished | Named::Other => {}
            }
        }
        found.retain(|base, _| bases.is_none_or(|bases| bases.contains(*base)));
        for (base, files) in found {
            archives.push(self.archive(folder, base, &files, &all)?);
        }
        Ok(())
    }

    fn archive(
        &mut self,
        folder: &Arc<Folder>,
        base: &str,
        files: &Files,
        all: &BTreeSet<&str>,
    ) -> Result<Archive, BundleError> {
        let stream = Stream::new(base.to_owned(), Arc::clone(folder), &self.files);
        let form = if files.is_whole { Form::Tar } else { Form::Chunks };
        let mut archive = Archive { stream, form, loose: Vec::new(), sums: BTreeSet::new() };
        match form {
            Form::Tar => {
                if !files.chunks.is_empty() {
                    let says = format!("its {} chunks beside it are not read, the file is", files.chunks.len());
                    self.findings.add(Problem::Ignored, base, says);
                }
                self.add(&mut archive, base.to_owned(), all, &mut false)?;
            }
            Form::Chunks | Form::Directory => {
                let (mut expected, mut is_broken) = (0, false);
                for number in &files.chunks {
                    if *number > expected {
                        is_broken = true;
                        self.findings.add(Problem::ChunkMissing, base, missing(expected, *number - 1));
                    }
                    self.add(&mut archive, format!("{base}.{number:04}.chunk"), all, &mut is_broken)?;
                    expected = number.saturating_add(1);
                }
                // Of old: one sum for all chunks together.
                if all.contains(format!("{base}{SUFFIX}").as_str()) {
                    archive.sums.insert(base.to_owned());
                }
            }
        }
        Ok(archive)
    }

    /// Lays a file at the end of an archive, or beside it where that is broken.
    fn add(
        &mut self,
        archive: &mut Archive,
        name: String,
        all: &BTreeSet<&str>,
        is_broken: &mut bool,
    ) -> Result<(), BundleError> {
        self.take(&name)?;
        if all.contains(format!("{name}{SUFFIX}").as_str()) {
            self.budget.take(name.len() + NAME_BYTES)?;
            archive.sums.insert(name.clone());
        }
        match length(archive.stream.folder(), &name) {
            Ok(length) if *is_broken => archive.loose.push((name, length)),
            Ok(length) => {
                archive.stream.push(name, length);
            }
            Err(error) => {
                *is_broken = true;
                self.findings.add(Problem::Unreadable, &name, format!("it can't be read: {error}"));
            }
        }
        Ok(())
    }

    /// The layouts in and below a directory, as one archive: its files laid end to end.
    fn layouts_below(&mut self, root: &Arc<Folder>) -> Result<Option<Archive>, BundleError> {
        let name = root.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut stream = Stream::new(name, Arc::clone(root), &self.files);
        let (mut waiting, mut looked) = (vec![(String::new(), 0)], 0);
        while let Some((below, depth)) = waiting.pop() {
            let names = match self.names(root, &below)? {
                Ok(Some(names)) => names,
                Ok(None) => continue,
                Err(error) if matches!(error.kind(), io::ErrorKind::NotADirectory) => continue,
                Err(error) => {
                    self.findings.add(Problem::Ignored, &below, format!("it is not looked into: {error}"));
                    continue;
                }
            };
            looked += 1;
            if looked > MOST_FOLDERS {
                return Err(BundleError::read(root.path())(io::Error::other("it has too many directories")));
            }
            let join = |name: &str| if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
            let has = |wanted: &str| names.iter().any(|name| name == wanted);
            if has("index.json") || has("oci-layout") {
                self.add_layout(root, &join, &mut stream)?;
            }
            let deeper =
                names.iter().rev().filter(|name| !name.starts_with('.') && *name != "blobs" && depth < DEEPEST);
            waiting.extend(deeper.map(|name| (join(name), depth + 1)));
        }
        let is_empty = stream.parts().is_empty();
        let found = Archive { stream, form: Form::Directory, loose: Vec::new(), sums: BTreeSet::new() };
        Ok((!is_empty).then_some(found))
    }

    fn add_layout(
        &mut self,
        root: &Folder,
        join: &dyn Fn(&str) -> String,
        stream: &mut Stream,
    ) -> Result<(), BundleError> {
        let blobs = join("blobs/sha256");
        let contents = match self.names(root, &blobs)? {
            Ok(names) => names.unwrap_or_default(),
            Err(error) => {
                self.findings.add(Problem::Unreadable, &blobs, format!("it can't be read: {error}"));
                Vec::new()
            }
        };
        let contents = contents.into_iter().map(|name| format!("{blobs}/{name}"));
        for below in contents.chain(["index.json", "oci-layout"].map(join)) {
            self.take(&below)?;
            match length(root, &below) {
                Ok(length) => {
                    stream.push(below, length);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.findings.add(Problem::Unreadable, below, format!("it can't be read: {error}")),
            }
        }
        Ok(())
    }

    /// Takes from the budget what is kept of a file.
    fn take(&mut self, name: &str) -> Result<(), BundleError> {
        if (self.stopped)() {
            return Err(BundleError::Stopped);
        }
        self.budget.take(name.len() + size_of::<Part>() + size_of::<usize>())
    }
}

/// Whether a file beside the archives belongs there.
fn is_of_bundle(name: &str) -> bool {
    name.starts_with('.') || name == RELEASES || name == SUMS
}

fn is_file(folder: &Folder, name: &str) -> bool {
    folder.file(name).is_ok_and(|file| file.is_some())
}

fn missing(from: u64, to: u64) -> String {
    if from == to {
        format!("chunk {from:04} is missing, what is behind it can't be read")
    } else {
        format!("chunks {from:04} to {to:04} are missing, what is behind them can't be read")
    }
}

fn length(folder: &Folder, name: &str) -> io::Result<u64> {
    let file = folder.file(name)?.ok_or(io::ErrorKind::NotFound)?;
    Ok(file.metadata()?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_archive_a_file_is_of() {
        assert_eq!(named("platform.tar"), Named::Tar);
        assert_eq!(named("platform.tar.0000.chunk"), Named::Chunk("platform.tar", 0));
        assert_eq!(named("d8.tar.10000.chunk"), Named::Chunk("d8.tar", 10000));
        assert_eq!(named("platform.tar.0000.chunk.gostsum"), Named::Sum("platform.tar.0000.chunk"));
        for name in ["platform.tar.tmp", "platform.tar.0001.chunk.tmp"] {
            assert_eq!(named(name), Named::Unfinished, "{name}");
        }
        for name in [".tar.0000.chunk", "a.tar.00010.chunk", "a.tar.1.chunk", "a.tar.+001.chunk", "a.zip.0000.chunk"] {
            assert_eq!(named(name), Named::Other, "{name}");
        }
    }
}
