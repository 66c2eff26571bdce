//! A bundle opened: the headers of all its archives, and the indexes of all its layouts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::archive::{End, Entry, Kind, Name, walk};
use super::contents::{ArchiveFacts, Bundle, Content, Layout};
use super::files::{Archive, Collector, Form};
use super::finding::{Budget, BundleError, Findings, Problem, shown};
use super::index;
use super::place::{self, Place};
use super::stream::{OpenFiles, Stream};
use crate::oci::{RepoName, Tag};

/// Bytes of memory for what is known of a bundle: some million contents.
pub const MOST_BYTES: usize = 256 << 20;

/// What an entry of a table takes beside its fields.
const ENTRY_BYTES: usize = 64;
/// Chunks of one archive differ by less than that: it is looked at the size before a piece of so many bytes is written.
const CHUNK_SPREAD: u64 = 512 * 1024;
/// The archive of old, which may have no mark of its end.
const LEGACY: &str = "d8.tar";

/// Opens files, and directories with files or layouts, as one bundle. Keeps at most about `most` bytes in memory. What is wrong
/// with it is among its findings. Blocking: reads headers and indexes, and asks `stopped` before each whether to go on.
///
/// # Errors
/// [`BundleError`]: there is nothing to be looked at, or too much, or it was stopped.
pub fn open(paths: &[PathBuf], most: usize, stopped: &dyn Fn() -> bool) -> Result<Bundle, BundleError> {
    let mut budget = Budget::new(most);
    let mut findings = Findings::within(&mut budget)?;
    let (mut archives, mut layouts) = (Vec::new(), BTreeMap::new());
    let files = Arc::<OpenFiles>::default();
    let found = Collector { findings: &mut findings, budget: &mut budget, stopped, files }.collect(paths)?;
    for archive in found {
        let number = u32::try_from(archives.len()).unwrap_or(u32::MAX);
        let mut opening = Opening {
            archive: number,
            name: &archive.stream.name,
            gathered: BTreeMap::new(),
            findings: &mut findings,
            budget: &mut budget,
            stopped,
        };
        let is_whole = opening.gather(&archive)?;
        let contents = opening.gathered.values().map(|gathered| gathered.contents.len() as u64).sum();
        opening.merge(&archive, is_whole, &mut layouts)?;
        let Archive { stream, form, loose, sums } = archive;
        archives.push(ArchiveFacts { stream: Arc::new(stream), form, loose, sums, contents, is_whole });
    }
    for layout in layouts.values_mut() {
        layout.contents.sort_unstable();
    }
    // Files that are called as if they were an archive, or that are none, hold no bundle.
    if layouts.is_empty() && findings.damage == 0 {
        return Err(BundleError::Nothing(paths.first().cloned().unwrap_or_default()));
    }
    Ok(Bundle { archives, layouts, findings, most, left: budget.left() })
}

/// What an archive has of a layout.
#[derive(Default)]
struct Gathered {
    contents: Vec<Content>,
    /// Where its index lies, and how long that is.
    index: Option<(u64, u64)>,
}

struct Opening<'a> {
    archive: u32,
    name: &'a str,
    gathered: BTreeMap<String, Gathered>,
    findings: &'a mut Findings,
    budget: &'a mut Budget,
    stopped: &'a dyn Fn() -> bool,
}

impl Opening<'_> {
    /// Takes the entries in; whether the archive was read to its end.
    fn gather(&mut self, archive: &Archive) -> Result<bool, BundleError> {
        let stream = &archive.stream;
        if archive.form == Form::Directory {
            for part in stream.parts() {
                let name = Name::Bytes(part.below.as_bytes().to_vec());
                self.entry(&Entry { name, kind: Kind::File, at: part.start, length: part.length })?;
            }
            return Ok(true);
        }
        if stream.parts().is_empty() {
            return Ok(false);
        }
        let end = walk(stream, |entry| self.entry(&entry))?;
        Ok(self.end(archive, end))
    }

    fn entry(&mut self, entry: &Entry) -> Result<(), BundleError> {
        if (self.stopped)() {
            return Err(BundleError::Stopped);
        }
        let place = match (entry.kind, &entry.name) {
            (Kind::Directory, _) => return Ok(()),
            (Kind::Special, Name::Bytes(name)) => Place::Hostile(format!("the entry {} is no file", shown(name))),
            (Kind::Special | Kind::File, name) => place::of_file(name),
        };
        match place {
            Place::Blob(path, sha256) => {
                self.budget.take(size_of::<Content>())?;
                let content = Content { sha256, archive: self.archive, at: entry.at, length: entry.length };
                self.layout(path)?.contents.push(content);
            }
            Place::Index(path) => {
                let shown = shown(path.as_bytes());
                if self.layout(path)?.index.replace((entry.at, entry.length)).is_some() {
                    self.findings.add(Problem::Duplicate, self.name, format!("it has index.json of {shown} twice"));
                }
            }
            Place::Marker(path) => {
                self.layout(path)?;
            }
            Place::Ignored(says) => self.findings.add(Problem::Ignored, self.name, says),
            Place::Hostile(says) => self.findings.add(Problem::Name, self.name, says),
        }
        Ok(())
    }

    fn layout(&mut self, path: String) -> Result<&mut Gathered, BundleError> {
        if !self.gathered.contains_key(&path) {
            self.budget.take(path.len() + size_of::<Gathered>() + size_of::<Layout>() + 2 * ENTRY_BYTES)?;
        }
        Ok(self.gathered.entry(path).or_default())
    }

    /// Says what is wrong with the end; whether it is the archive's.
    fn end(&mut self, archive: &Archive, end: End) -> bool {
        let stream = &archive.stream;
        match end {
            End::Whole(behind) => {
                for part in stream.parts().iter().skip(1) {
                    if part.start >= behind && part.length > 0 {
                        let says = format!("{} has its end before this file begins", stream.name);
                        self.findings.add(Problem::ChunkForeign, &part.below, says);
                    }
                }
                return true;
            }
            End::NoMark if archive.form == Form::Tar && stream.name == LEGACY && stream.length() > 0 => return true,
            // It ends before a chunk that is missing, and that was said.
            End::NoMark | End::Cut if !archive.loose.is_empty() => {}
            End::NoMark => {
                let says = match archive.form {
                    Form::Chunks => "it has no mark of its end: its last chunks are missing, or the last one was cut",
                    Form::Tar | Form::Directory => "it has no mark of its end: it was cut",
                };
                self.findings.add(Problem::NoEnd, &stream.name, says);
            }
            End::Cut => {
                self.look_for_short_chunks(stream);
                let says = match archive.form {
                    Form::Chunks => "it ends inside an entry: its last chunks are missing, or a chunk was cut",
                    Form::Tar | Form::Directory => "it ends inside an entry: it was cut",
                };
                self.findings.add(Problem::Cut, &stream.name, says);
            }
            End::Broken(0, _) => self.findings.add(Problem::Header, &stream.name, "it is no tar"),
            End::Broken(at, what) => {
                self.look_for_short_chunks(stream);
                let (file, byte) = stream.place(at);
                let cause = match archive.form {
                    Form::Chunks => "this chunk or one before it is foreign or damaged",
                    Form::Tar | Form::Directory => "it is damaged",
                };
                let says = format!("{what}, at byte {byte}: {cause}; what is behind it can't be read");
                self.findings.add(Problem::Header, file, says);
            }
            End::Unreadable(at, error) => {
                let (file, byte) = stream.place(at);
                self.findings.add(Problem::Unreadable, file, format!("it can't be read at byte {byte}: {error}"));
            }
        }
        false
    }

    /// Names the chunks that a writer of chunks would not have left as short as they are.
    fn look_for_short_chunks(&mut self, stream: &Stream) {
        let most = stream.parts().iter().map(|part| part.length).max().unwrap_or(0);
        let all_but_last = stream.parts().split_last().map(|(_, others)| others).unwrap_or_default();
        for part in all_but_last.iter().filter(|part| part.length.saturating_add(CHUNK_SPREAD) <= most) {
            let says = format!("it has {} bytes, others of {} have {most}", part.length, stream.name);
            self.findings.add(Problem::ChunkShort, &part.below, says);
        }
    }

    /// Makes what was gathered a part of the bundle, under the names of repositories.
    fn merge(
        mut self,
        archive: &Archive,
        is_whole: bool,
        layouts: &mut BTreeMap<String, Layout>,
    ) -> Result<(), BundleError> {
        let gathered = std::mem::take(&mut self.gathered);
        // The name of a directory says nothing.
        let name = if archive.form == Form::Directory { "" } else { self.name };
        let legacy = place::Legacy::of(name, &gathered.keys().map(String::as_str).collect::<Vec<_>>());
        for (path, mut gathered) in gathered {
            let path = legacy.path(&path);
            if !path.is_empty() && path.parse::<RepoName>().is_err() {
                let says = format!("{} can't be the name of a repository", shown(path.as_bytes()));
                self.findings.add(Problem::Name, self.name, says);
                continue;
            }
            self.look_for_duplicates(&path, &mut gathered.contents);
            let layout = layouts.entry(path.clone()).or_default();
            layout.contents.append(&mut gathered.contents);
            match gathered.index {
                Some((at, length)) => self.read_index(&path, archive, (at, length), layout)?,
                None if is_whole && layout.tags.is_empty() => {
                    let says = format!("the layout {} has no index.json", shown(path.as_bytes()));
                    self.findings.add(Problem::Index, self.name, says);
                }
                None => {}
            }
        }
        Ok(())
    }

    fn look_for_duplicates(&mut self, path: &str, contents: &mut [Content]) {
        contents.sort_unstable();
        for pair in contents.windows(2) {
            if pair[0].sha256 == pair[1].sha256 {
                let says = format!("it has the content {} of {} twice", pair[0].digest(), shown(path.as_bytes()));
                self.findings.add(Problem::Duplicate, self.name, says);
            }
        }
    }

    fn read_index(
        &mut self,
        path: &str,
        archive: &Archive,
        (at, length): (u64, u64),
        layout: &mut Layout,
    ) -> Result<(), BundleError> {
        let index = match index::read(&archive.stream, at, length, self.budget)? {
            Ok(index) => index,
            Err(says) => {
                let says = format!("index.json of {}: {says}", shown(path.as_bytes()));
                self.findings.add(Problem::Index, self.name, says);
                return Ok(());
            }
        };
        for says in index.wrong {
            self.findings.add(Problem::Index, self.name, format!("index.json of {}: {says}", shown(path.as_bytes())));
        }
        layout.untagged += index.untagged;
        for (tag, digest) in index.tags {
            if tag.parse::<Tag>().is_err() {
                let says = format!("{} can't be a tag of {}", shown(tag.as_bytes()), shown(path.as_bytes()));
                self.findings.add(Problem::Tag, self.name, says);
                continue;
            }
            // Of a tag that stands there more than once the last counts, as for `d8`.
            layout.tags.insert(tag, digest);
        }
        Ok(())
    }
}
