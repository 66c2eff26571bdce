//! A run: all of it is planned, then archive by archive contents are fetched and packed.
//!
//! What is written before an archive has its names is in the working directory `.tmp/pull` and in files that end with `.tmp`. A run
//! that ends at any moment leaves these behind, and archives that are whole; the next one goes on with all of that.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::choice::{Choice, Components};
use super::components::{self, At, Kind};
use super::databases;
use super::error::PullError;
use super::gathering::{Gathering, each};
use super::pack::{self, Target, Written, files_of};
use super::plan::{self, Content, Entry, Origin, Plan};
use super::platform::{self, Chosen};
use super::plugins::{self, Carried};
use super::releases;
use super::report::{Far, Packed, Report};
use super::source::Source;
use super::stage::{Stage, check_room};
use super::standing::{Standing, standing, sums};
use crate::bundle::{self, Bundle, BundleError, MOST_BYTES};
use crate::fs::{Disk, FsError, make_directory, remove_file, replace_file};
use crate::oci::{Descriptor, Digest};
use crate::values::Release;

/// The working directory in that of the bundle.
const WORK: &str = ".tmp/pull";
/// Written beside the archives.
const RELEASES: &str = "deckhousereleases.yaml";
/// The sums of all files, as `sha256sum` writes and checks them.
const SUMS: &str = "SHA256SUMS";
/// Behind a file's name: the name of its GOST sum.
const GOST: &str = ".gostsum";
/// How often an archive is begun because the disk gave other bytes than were written.
const MOST_TRIES: usize = 3;
/// Chunks of one archive.
const MOST_CHUNKS: u64 = 10_000;

/// Where a bundle goes.
#[derive(Clone, Debug)]
pub struct Output {
    /// The directory; made if it is missing.
    pub dir: PathBuf,
    /// Bytes of a chunk; `None`: archives are whole files.
    pub chunk: Option<u64>,
    /// GOST sums are written beside the files, as `d8` writes them.
    pub gost: bool,
    /// Archives of another choice are replaced.
    pub force: bool,
    /// Say what would come, and write nothing.
    pub dry_run: bool,
}

/// Where images come from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Deckhouse's repository; `None`: modules alone are wanted, and come from the other one.
    pub edition: Option<Arc<Source>>,
    /// A repository whose children are modules, as a `ModuleSource` names it; `None`: modules come from the edition.
    pub modules: Option<Arc<Source>>,
}

/// An archive on its way.
struct Job {
    name: String,
    entries: Vec<Entry>,
    packed: Packed,
    standing: Standing,
}

/// Makes a bundle. `told` hears how far it is. Blocking, on a thread that is none of the source's runtime.
///
/// Ended at any moment, another run with the same choice goes on, and leaves the same files.
///
/// # Errors
/// [`PullError`]. No archive that lacks something has a final name then.
pub fn pull(
    sources: &Sources,
    choice: &Choice,
    output: &Output,
    told: &(dyn Fn(Far) + Sync),
) -> Result<Report, PullError> {
    let dir = &output.dir;
    let work = dir.join(WORK);
    let _lock = if output.dry_run { None } else { Some(lock(dir, &work)?) };
    let stage = Stage::open((!output.dry_run).then(|| work.join("contents")), known(dir)?)?;
    let mut gathering =
        Gathering { stage: &stage, plan: Plan::default(), notes: Vec::new(), told: &|bytes| told(Far::Looking(bytes)) };
    let chosen = gather(&mut gathering, sources, choice)?;
    let Gathering { plan, notes, .. } = gathering;
    let releases = releases::render(&chosen.releases)?;
    let mut jobs = jobs(plan, output)?;
    let mut report = report(&jobs, &chosen, &stage, notes)?;
    if output.dry_run {
        report.dry_run = true;
        return Ok(report);
    }
    check_room(dir, report.needed_bytes)?;
    told(Far::Fetching(report.fetched_bytes));
    let mut written: BTreeMap<String, Written> = BTreeMap::new();
    // How many archives that are to be written still wait for each content.
    let mut waiting: HashMap<Digest, usize> = HashMap::new();
    for job in jobs.iter().filter(|job| job.standing != Standing::Same) {
        for (blob, _) in each_once(&job.entries) {
            *waiting.entry(blob.digest).or_default() += 1;
        }
    }
    for job in &mut jobs {
        let files = match job.standing {
            Standing::Same => sums(dir, &job.name, output.gost)?,
            Standing::Nothing | Standing::Other => make(job, output, &stage, told)?,
        };
        for (blob, _) in each_once(&job.entries) {
            let left = waiting.entry(blob.digest).or_default();
            *left = left.saturating_sub(usize::from(job.standing != Standing::Same));
            if *left == 0 {
                stage.remove(&blob.digest)?;
            }
        }
        job.packed.files = files.len() as u64;
        written.extend(files.into_iter().map(|file| (file.name.clone(), file)));
    }
    match &releases {
        Some(text) => replace_file(&dir.join(RELEASES), text.as_bytes(), 0o644)?,
        None => {
            remove_file(&dir.join(RELEASES))?;
        }
    }
    for file in written.values() {
        if let Some(sum) = &file.gost {
            replace_file(&dir.join(format!("{}{GOST}", file.name)), sum.as_bytes(), 0o644)?;
        }
    }
    let lines: String = written.values().map(|file| format!("{}  {}\n", file.sum.hex(), file.name)).collect();
    replace_file(&dir.join(SUMS), lines.as_bytes(), 0o644)?;
    clear(dir)?;
    report.archives = jobs.into_iter().map(|job| job.packed).collect();
    report.fetched_bytes = stage.fetched();
    Ok(report)
}

fn gather(gathering: &mut Gathering<'_>, sources: &Sources, choice: &Choice) -> Result<Chosen, PullError> {
    let mut chosen = Chosen::default();
    let modules = match (&sources.modules, &sources.edition) {
        (Some(source), _) => Some(At { source, parent: "", kind: Kind::Modules }),
        (None, Some(source)) => Some(At { source, parent: Kind::Modules.parent(), kind: Kind::Modules }),
        (None, None) => None,
    };
    if let Some(source) = &sources.edition {
        if let Some(wanted) = &choice.platform {
            chosen = platform::plan(gathering, source, choice, wanted)?;
        }
        if let Some(installer) = &choice.installer {
            databases::installer(gathering, source, installer)?;
        }
        if choice.security {
            databases::security(gathering, source)?;
        }
        let at = At { source, parent: Kind::Packages.parent(), kind: Kind::Packages };
        components::plan(gathering, at, &choice.packages, choice)?;
    }
    let modules = match modules.filter(|_| choice.modules != Components::None) {
        Some(at) => components::plan(gathering, at, &choice.modules, choice)?,
        None => BTreeMap::new(),
    };
    if let Some((source, named)) = sources.edition.as_ref().zip(choice.plugins.as_ref()) {
        let platform = chosen.releases.iter().filter_map(|release| Release::of_tag(&release.tag)).collect();
        plugins::plan(gathering, source, named, Carried { modules: &modules, platform: &platform })?;
    }
    if gathering.plan.archives.is_empty() {
        return Err(PullError::Choice("nothing of what is wanted is there".to_owned()));
    }
    Ok(chosen)
}

/// The directory is this run's.
fn lock(dir: &Path, work: &Path) -> Result<File, PullError> {
    make_directory(work)?;
    let path = work.join("lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(FsError::on("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(PullError::Busy(dir.to_path_buf())),
        Err(std::fs::TryLockError::Error(error)) => Err(FsError::on("lock", &path)(error).into()),
    }
}

/// The archives that are there.
fn known(dir: &Path) -> Result<Option<Bundle>, PullError> {
    if !dir.is_dir() {
        return Ok(None);
    }
    match bundle::open(&[dir.to_path_buf()], MOST_BYTES, &|| false) {
        Ok(found) => Ok(Some(found)),
        Err(BundleError::Nothing(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn jobs(plan: Plan, output: &Output) -> Result<Vec<Job>, PullError> {
    let mut jobs = Vec::new();
    for (name, archive) in plan.archives {
        let entries = archive.entries();
        let standing = match output.dir.is_dir() {
            true => standing(&output.dir, (&name, output.chunk), &entries)?,
            false => Standing::Nothing,
        };
        let bytes = plan::length(&entries);
        let files = output.chunk.map_or(1, |chunk| bytes.div_ceil(chunk.max(1)));
        if files > MOST_CHUNKS {
            return Err(PullError::Choice(format!("{name} would be in {files} chunks: take larger ones")));
        }
        let packed = Packed {
            name: name.clone(),
            bytes,
            files,
            contents: entries.iter().filter(|entry| entry.name.contains("blobs/sha256/")).count() as u64,
            tags: archive.tags(),
            present: standing == Standing::Same,
        };
        jobs.push(Job { name, entries, packed, standing });
    }
    let others: Vec<&str> =
        jobs.iter().filter(|job| job.standing == Standing::Other).map(|job| job.name.as_str()).collect();
    if !others.is_empty() && !output.force {
        return Err(PullError::Foreign { dir: output.dir.clone(), names: others.join(", ") });
    }
    Ok(jobs)
}

fn blobs(entries: &[Entry]) -> impl Iterator<Item = (&Descriptor, &Origin)> {
    entries.iter().filter_map(|entry| match &entry.content {
        Content::Blob(blob, origin) => Some((blob, origin)),
        Content::Made(_) => None,
    })
}

/// Blobs of an archive, each once.
fn each_once(entries: &[Entry]) -> Vec<(&Descriptor, &Origin)> {
    let mut seen = HashSet::new();
    blobs(entries).filter(|(blob, _)| seen.insert(blob.digest)).collect()
}

fn report(jobs: &[Job], chosen: &Chosen, stage: &Stage, notes: Vec<String>) -> Result<Report, PullError> {
    let mut report = Report {
        releases: chosen.releases.iter().map(|release| release.tag.to_string()).collect(),
        channels: chosen.channels.clone(),
        archives: jobs.iter().map(|job| job.packed.clone()).collect(),
        notes,
        ..Report::default()
    };
    let (mut seen, mut written) = (HashSet::new(), 0_u64);
    for job in jobs {
        report.bytes = report.bytes.saturating_add(job.packed.bytes);
        if job.standing == Standing::Same {
            for (blob, _) in each_once(&job.entries).into_iter().filter(|(blob, _)| seen.insert(blob.digest)) {
                report.present_bytes = report.present_bytes.saturating_add(blob.size);
            }
            continue;
        }
        let mut staged = 0_u64;
        for (blob, _) in each_once(&job.entries) {
            let there = stage.there(blob)?;
            staged = staged.saturating_add(blob.size - there.min(blob.size));
            if seen.insert(blob.digest) {
                report.present_bytes = report.present_bytes.saturating_add(there);
                report.fetched_bytes = report.fetched_bytes.saturating_add(blob.size - there);
            }
        }
        written = written.saturating_add(job.packed.bytes);
        report.needed_bytes = report.needed_bytes.max(written.saturating_add(staged));
    }
    // What came while it was looked around was not there before.
    report.present_bytes = report.present_bytes.saturating_sub(stage.fetched());
    Ok(report)
}

/// Fetches what an archive needs and writes it.
fn make(job: &Job, output: &Output, stage: &Stage, told: &(dyn Fn(Far) + Sync)) -> Result<Vec<Written>, PullError> {
    let (dir, archive) = (&output.dir, Target { name: &job.name, chunk: output.chunk, gost: output.gost });
    let wanted = each_once(&job.entries);
    remove_gost_sums(dir, &job.name)?;
    let mut tries = 0;
    let written = loop {
        tries += 1;
        each(&wanted, |(blob, origin)| stage.fetch(blob, origin, &|bytes| told(Far::Fetched(bytes))))?;
        told(Far::Packing(job.packed.bytes));
        match pack::pack(dir, archive, &job.entries, stage, &|bytes| told(Far::Packed(bytes))) {
            Err(PullError::Disk(digest)) if tries < MOST_TRIES => stage.remove(&digest)?,
            ended => break ended?,
        }
    };
    // What was there in another form, or in more chunks.
    for file in files_of(dir, &job.name)? {
        if !written.iter().any(|written| written.name == file) {
            Disk::default().unlink(&dir.join(file))?;
        }
    }
    Ok(written)
}

/// Removes the GOST sums of an archive's files: they are not those of the files that will be there.
fn remove_gost_sums(dir: &Path, archive: &str) -> Result<(), PullError> {
    for entry in std::fs::read_dir(dir).map_err(FsError::on("read", dir))? {
        let name = entry.map_err(FsError::on("read", dir))?.file_name();
        let is_its = name.to_str().is_some_and(|name| name.starts_with(archive) && name.ends_with(GOST));
        if is_its {
            Disk::default().unlink(&dir.join(name))?;
        }
    }
    Ok(())
}

/// Removes the working directory.
fn clear(dir: &Path) -> Result<(), PullError> {
    let work = dir.join(WORK);
    std::fs::remove_dir_all(&work).map_err(FsError::on("remove", &work))?;
    if let Some(parent) = work.parent() {
        Disk::default().remove_if_empty(parent)?;
    }
    Ok(())
}
