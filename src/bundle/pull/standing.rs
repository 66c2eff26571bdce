//! Archives that a directory has already: whether they are those that are to be written.

use std::path::Path;
use std::sync::Arc;

use super::error::PullError;
use super::pack::{Sums, Written, files_of};
use super::plan::{Content, Entry};
use crate::bundle::MOST_BYTES;
use crate::bundle::archive::{End, Name, walk};
use crate::bundle::files::Collector;
use crate::bundle::finding::{Budget, Findings};

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;

/// What stands where an archive is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing that has a final name, or the end of what a run was ended in.
    Nothing,
    /// The same archive, in files of the same size.
    Same,
    /// Another one.
    Other,
}

/// Compares an archive in `dir` with the one that is to be, by its headers and by all that is made here: contents were hashed before
/// it got its name. Blocking.
///
/// # Errors
/// [`PullError`]: it can't be read.
pub(super) fn standing(
    dir: &Path,
    (name, chunk): (&str, Option<u64>),
    entries: &[Entry],
) -> Result<Standing, PullError> {
    let files = files_of(dir, name)?;
    let first = match chunk {
        Some(_) => format!("{name}.0000.chunk"),
        None => name.to_owned(),
    };
    let finished: Vec<&String> =
        files.iter().filter(|file| file.ends_with(".tar") || file.ends_with(".chunk")).collect();
    if !finished.contains(&&first) {
        // Chunks get their names from the last to the first.
        let of_this_form = finished.iter().all(|file| file.ends_with(".chunk") == chunk.is_some());
        return Ok(if of_this_form { Standing::Nothing } else { Standing::Other });
    }
    let (mut findings, mut budget, files) = (Findings::default(), Budget::new(MOST_BYTES), Arc::default());
    let mut collector = Collector { findings: &mut findings, budget: &mut budget, stopped: &|| false, files };
    let mut archives = collector.collect(&[dir.join(&first)])?;
    let (Some(archive), true) = (archives.pop(), archives.is_empty()) else { return Ok(Standing::Other) };
    let stream = &archive.stream;
    if stream.parts().len() != finished.len() || stream.length() != super::plan::length(entries) {
        return Ok(Standing::Other);
    }
    let sizes = stream.parts().iter().map(|part| part.length);
    if chunk.is_some_and(|chunk| sizes.rev().skip(1).any(|size| size != chunk)) {
        return Ok(Standing::Other);
    }
    let (mut expected, mut same) = (entries.iter(), true);
    let end = walk(stream, |found| {
        same &= expected.next().is_some_and(|entry| {
            let is_its = found.name == Name::Bytes(entry.name.clone().into_bytes());
            is_its
                && found.length == entry.content.length()
                && match &entry.content {
                    Content::Blob(..) => true,
                    Content::Made(bytes) => {
                        let mut there = vec![0; bytes.len()];
                        stream.read_at(found.at, &mut there).is_ok() && there == *bytes
                    }
                }
        });
        Ok(())
    })?;
    let is_same = same && expected.next().is_none() && matches!(end, End::Whole(_));
    Ok(if is_same { Standing::Same } else { Standing::Other })
}

/// The files of an archive that stands, with their sums. Blocking: reads all of them.
///
/// # Errors
/// [`PullError`]: one can't be read.
pub(super) fn sums(dir: &Path, name: &str, gost: bool) -> Result<Vec<Written>, PullError> {
    use std::io::Read as _;

    let mut found = Vec::new();
    for name in files_of(dir, name)? {
        if !name.ends_with(".tar") && !name.ends_with(".chunk") {
            continue;
        }
        let path = dir.join(&name);
        let failed = crate::fs::FsError::on("read", &path);
        let read = (|| {
            let mut file = std::fs::File::open(&path)?;
            let (mut buffer, mut sums) = (vec![0; READ_BYTES], Sums::new(gost));
            loop {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    return Ok(sums);
                }
                sums.update(&buffer[..count]);
            }
        })();
        found.push(read.map_err(failed)?.finish(name));
    }
    Ok(found)
}
