//! The list of suspects on the disk, `gc/suspects`: a line each, synced before anything counts on it, struck out in place.
//!
//! ```text
//! + 0000086400000 blob sha256:<hex> system/deckhouse 0f3a9c21
//! ```
//!
//! `+` it is listed, `-` it was taken off; milliseconds of running time at its verdict; what it is, its digest, its
//! repository; the first 32 bits of the SHA-256 of all that. To strike a line out is to overwrite its first byte, which
//! needs no room on a full disk. A line that can't be read is no suspect: that keeps a content, until its repository is marked
//! again. All of it blocks.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::fs::{Disk, is_absence};
use crate::oci::{Algorithm, Digest, RepoName};
use crate::store::error::StoreError;
use crate::store::layout::{Layout, Membership};

const LISTED: &str = "+ ";
const STRUCK: &[u8] = b"-";

/// Struck lines below which the file is not written anew.
const FEW: usize = 1000;

/// A content of a repository that no root was found to reach.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::store) struct Suspect {
    pub(in crate::store) repo: RepoName,
    pub(in crate::store) kind: Membership,
    pub(in crate::store) digest: Digest,
}

impl Suspect {
    /// Its line without the state in front.
    fn line(&self, since: Duration) -> String {
        let text = format!("{:013} {} {} {}", since.as_millis(), self.kind.word(), self.digest, self.repo);
        let check = check(&text);
        format!("{text} {check}")
    }

    fn parse(line: &str) -> Option<(Self, Duration)> {
        let (text, told) = line.rsplit_once(' ')?;
        if told != check(text) {
            return None;
        }
        let mut words = text.split(' ');
        let since = Duration::from_millis(words.next()?.parse().ok()?);
        let kind = Membership::of_word(words.next()?)?;
        let digest = Digest::from_str(words.next()?).ok()?;
        let repo = RepoName::from_str(words.next()?).ok()?;
        words.next().is_none().then_some((Self { repo, kind, digest }, since))
    }
}

fn check(text: &str) -> String {
    Algorithm::Sha256.digest(text.as_bytes()).hex()[..8].to_owned()
}

/// The file of the list.
#[derive(Debug)]
pub(in crate::store) struct List {
    path: PathBuf,
    /// `None`: there is none yet.
    file: Option<File>,
    /// Where the next line goes.
    end: u64,
    lines: usize,
    struck: usize,
    /// Something in it could not be read.
    is_torn: bool,
    exists: bool,
}

/// A line of the list: who, since when, and where the line begins.
pub(in crate::store) type Listed = (Suspect, Duration, u64);

impl List {
    /// Reads the list. One that can't be read has no suspects, and is told by [`List::is_torn`].
    pub(in crate::store) fn open(layout: &Layout) -> (Self, Vec<Listed>) {
        // It is made before the list of changed repositories.
        Self::read(layout.suspects(), layout.dirty().exists())
    }

    /// Reads the list of manifests that were given up, which has the same form.
    pub(in crate::store) fn of_given_up(layout: &Layout) -> (Self, Vec<Listed>) {
        Self::read(layout.given_up(), false)
    }

    fn read(path: PathBuf, was_made: bool) -> (Self, Vec<Listed>) {
        let mut list = Self { path, file: None, end: 0, lines: 0, struck: 0, is_torn: false, exists: true };
        let text = match std::fs::read(&list.path) {
            Ok(text) => text,
            Err(error) => {
                list.exists = !is_absence(&error);
                if list.exists || was_made {
                    tracing::error!(path = %list.path.display(), %error, "a list of the collection can't be read: what it had is found again or stays");
                    list.is_torn = true;
                }
                return (list, Vec::new());
            }
        };
        // Reads need no write: on a read-only file system it is opened when something is to be written.
        let mut found = Vec::new();
        let mut at = 0;
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let read = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok());
            match read.map(|line| (line, line.strip_prefix(LISTED).and_then(Suspect::parse))) {
                Some((_, Some((suspect, since)))) => found.push((suspect, since, at)),
                Some((line, None)) if line.as_bytes().starts_with(STRUCK) => list.struck += 1,
                _ => list.is_torn = true,
            }
            list.lines += 1;
            at += line.len() as u64;
        }
        list.end = at;
        if list.is_torn {
            tracing::warn!(path = %list.path.display(), "a list of the collection was cut or damaged: what it lost is found again or stays");
        }
        (list, found)
    }

    /// Whether a line of the list can be read.
    pub(in crate::store) fn is_line(line: &[u8]) -> bool {
        let text = std::str::from_utf8(line).ok();
        line.starts_with(STRUCK) || text.and_then(|text| text.strip_prefix(LISTED)).and_then(Suspect::parse).is_some()
    }

    /// Whether some of it could not be read.
    pub(in crate::store) const fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// Whether it is to be written anew: it is not there, or much of it is struck out.
    pub(in crate::store) const fn is_worn(&self) -> bool {
        self.is_torn || !self.exists || (self.struck > FEW && self.struck * 2 > self.lines)
    }

    /// Adds lines, durably; says where each begins.
    pub(in crate::store) fn append(
        &mut self,
        disk: &Disk,
        suspects: &[(Suspect, Duration)],
    ) -> Result<Vec<u64>, StoreError> {
        let (text, places) = lines(self.end, suspects);
        let (path, end) = (self.path.clone(), self.end);
        let file = self.file()?;
        if let Err(error) = disk.write_at(file, &path, end, text.as_bytes()) {
            // Whole lines of it may be there, of suspects that are none.
            self.is_torn |= file.set_len(end).is_err();
            return Err(error.into());
        }
        self.end += text.len() as u64;
        self.lines += suspects.len();
        Ok(places)
    }

    /// Strikes lines out, durably, with one sync.
    pub(in crate::store) fn strike(&mut self, disk: &Disk, places: &[u64]) -> Result<(), StoreError> {
        if places.is_empty() {
            return Ok(());
        }
        let path = self.path.clone();
        let file = self.file()?;
        disk.write_at_each(file, &path, places, STRUCK)?;
        self.struck += places.len();
        Ok(())
    }

    /// Writes the file anew with these alone; says where each line begins.
    pub(in crate::store) fn rewrite(
        &mut self,
        layout: &Layout,
        disk: &Disk,
        suspects: &[(Suspect, Duration)],
    ) -> Result<Vec<u64>, StoreError> {
        let (text, places) = lines(0, suspects);
        disk.replace(layout.temporary(), &self.path, text.as_bytes())?;
        (self.file, self.end, self.lines) = (None, text.len() as u64, suspects.len());
        (self.struck, self.is_torn, self.exists) = (0, false, true);
        Ok(places)
    }

    fn file(&mut self) -> Result<&File, StoreError> {
        if self.file.is_none() {
            let opened = OpenOptions::new().read(true).write(true).open(&self.path);
            self.file = Some(opened.map_err(StoreError::io("open", &self.path))?);
        }
        self.file.as_ref().ok_or_else(|| StoreError::Bug("a file was opened and is not there".into()))
    }
}

/// The lines of suspects, and where each is in a file where the first begins at `at`.
fn lines(at: u64, suspects: &[(Suspect, Duration)]) -> (String, Vec<u64>) {
    let (mut text, mut places) = (String::new(), Vec::with_capacity(suspects.len()));
    for (suspect, since) in suspects {
        places.push(at + text.len() as u64);
        text += LISTED;
        text += &suspect.line(*since);
        text.push('\n');
    }
    (text, places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspect(number: u8) -> (Suspect, Duration) {
        let kind = if number.is_multiple_of(2) { Membership::Blob } else { Membership::Manifest };
        let digest = Algorithm::Sha256.digest(&[number]);
        (
            Suspect { repo: format!("a/b{number}").parse().unwrap(), kind, digest },
            Duration::from_millis(u64::from(number)),
        )
    }

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        for folder in [layout.collection(), layout.temporaries()] {
            std::fs::create_dir(folder).unwrap();
        }
        (dir, layout)
    }

    fn read(layout: &Layout) -> (bool, Vec<(Suspect, Duration)>) {
        let (list, found) = List::open(layout);
        (list.is_torn(), found.into_iter().map(|(suspect, since, _)| (suspect, since)).collect())
    }

    #[test]
    fn what_is_listed_is_read_again_and_what_is_struck_is_not() {
        let ((_dir, layout), disk) = (layout(), Disk::default());
        let (mut list, none) = List::open(&layout);
        assert!(none.is_empty() && list.is_worn() && !list.is_torn());
        list.rewrite(&layout, &disk, &[]).unwrap();
        assert!(!list.is_worn());
        let places = list.append(&disk, &[suspect(1), suspect(2)]).unwrap();
        let more = list.append(&disk, &[suspect(3)]).unwrap();
        list.strike(&disk, &[places[1]]).unwrap();
        assert_eq!(read(&layout), (false, vec![suspect(1), suspect(3)]));
        let (mut again, found) = List::open(&layout);
        assert_eq!((found[0].2, found[1].2), (places[0], more[0]));
        again.strike(&disk, &[found[0].2]).unwrap();
        again.append(&disk, &[suspect(4)]).unwrap();
        assert_eq!(read(&layout), (false, vec![suspect(3), suspect(4)]));
        again.rewrite(&layout, &disk, &[suspect(5)]).unwrap();
        assert_eq!(read(&layout), (false, vec![suspect(5)]));
    }

    #[test]
    fn cut_anywhere_it_has_no_suspect_that_it_did_not_have() {
        let ((_dir, layout), disk) = (layout(), Disk::default());
        let all = [suspect(1), suspect(2)];
        List::open(&layout).0.rewrite(&layout, &disk, &all).unwrap();
        let whole = std::fs::read(layout.suspects()).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(layout.suspects(), &whole[..cut]).unwrap();
            let (torn, found) = read(&layout);
            assert!(found.iter().all(|suspect| all.contains(suspect)), "{cut}");
            assert_eq!(torn, cut != 0 && whole[cut - 1] != b'\n', "{cut}");
        }
        for at in 0..whole.len() {
            let mut wrong = whole.clone();
            wrong[at] ^= 0x04;
            std::fs::write(layout.suspects(), &wrong).unwrap();
            let (_, found) = read(&layout);
            assert!(found.len() < 2 && found.iter().all(|suspect| all.contains(suspect)), "{at}");
        }
    }
}
