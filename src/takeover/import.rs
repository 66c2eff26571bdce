//! The run: repository by repository its blobs, its manifests, children first, then its tags. What it was killed at is done
//! again by the next run, and what is done already is found in the store.

mod blobs;
mod tags;

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::fault::{Fault, SourceError};
use super::listed::Listed;
use super::names::RepositoryMap;
use super::remote::MOST_KEPT;
use super::report::Report;
use super::source::Source;
use super::survey::{Blob, Survey, parse};
use crate::oci::{Digest, RepoName};
use crate::store::{Beside, Intake, Store, StoreError, StoredManifest};
use crate::telemetry::with_causes;

/// Manifests, blobs or tags that are made durable together.
const BATCH: usize = 256;
/// Bytes of manifests that are in memory for that.
const BATCH_BYTES: usize = 8 << 20;

/// Bytes that a running server keeps of one repository of a source: tens of thousands of images. On a store that no server has
/// there is no bound.
pub(super) const MOST_SURVEYED: usize = 32 << 20;
/// Bytes that a running server keeps of where the contents of a bundle lie: some hundred thousand of them.
pub(super) const MOST_OF_BUNDLE: usize = 16 << 20;
/// Blobs that are noted for the sum of what has to come, 16 to 32 bytes each; if there are more it is not told.
pub(super) const MOST_COMING: usize = 1 << 18;

/// Bytes that an import by a running server keeps in memory: what is read at once, manifests that wait for their sync, with what
/// they were parsed into, what was surveyed and noted, and the report.
pub const IMPORT_BYTES: u64 = (blobs::READ_BYTES
    + 3 * BATCH_BYTES
    + MOST_SURVEYED
    + MOST_OF_BUNDLE
    + 32 * MOST_COMING
    + super::report::REPORT_BYTES
    + MOST_KEPT) as u64;

/// How images are taken.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// What repositories are called in the store.
    pub names: RepositoryMap,
    /// Move the files of the source, which is given up.
    pub moves: bool,
    /// Change nothing, and say what would be done. Bytes are not hashed.
    pub dry_run: bool,
    /// Move tags that the store has with another digest.
    pub overwrite: bool,
    /// Move channels also to a release that is older than the one they lead to.
    pub channels_back: bool,
    /// A server answers requests from the store meanwhile: the source's files are read at a pace that leaves it the disk.
    pub is_served: bool,
    /// Bytes of one repository that are kept in memory; `None`: no bound.
    pub most_surveyed: Option<usize>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Far {
    /// Bytes of blobs that are through.
    pub bytes: u64,
    /// Bytes that have to come; `None` while that is not known.
    pub of_bytes: Option<u64>,
    /// Manifests that are through.
    pub manifests: u64,
    /// Tags that are through.
    pub tags: u64,
}

/// A run ended before it was through; what it has taken stays, and another goes on.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Files can be moved within one file system alone.
    #[error("{} is on another file system than the store in {}: files can't be moved there, only copied", source_dir.display(), store.display())]
    OtherFileSystem {
        /// The source.
        source_dir: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// There are no files to move.
    #[error("a registry's files can't be moved")]
    NoFiles,
    /// It was told to stop.
    #[error("it was stopped; run again it goes on")]
    Stopped,
}

/// Takes the images of `source` into the store. `told` hears how far it is. Blocking; inside a tokio runtime, on a thread that
/// may block. Killed, or ended with an error, at any point: another run goes on from there.
///
/// # Errors
/// [`ImportError`]. An image that is not whole is none: the report names it.
pub fn import(
    store: &Store,
    source: &Source,
    options: &ImportOptions,
    stop: &CancellationToken,
    told: &dyn Fn(Far),
) -> Result<Report, ImportError> {
    if options.moves {
        let path = source.path().ok_or(ImportError::NoFiles)?;
        let device =
            |path: &std::path::Path| std::fs::metadata(path).map(|facts| facts.dev()).map_err(SourceError::read(path));
        let dir = store.intake().dir();
        if device(path)? != device(dir)? {
            let (source_dir, store) = (path.to_path_buf(), dir.to_path_buf());
            return Err(ImportError::OtherFileSystem { source_dir, store });
        }
    }
    let mut run = Run {
        store,
        intake: store.intake(),
        source,
        options,
        stop,
        told,
        far: Far::default(),
        report: Report { dry_run: options.dry_run, ..Report::default() },
        bad: HashMap::new(),
        coming: HashSet::new(),
        reading: store.intake().reading(options.is_served),
        buffer: Vec::new(),
    };
    if !options.dry_run {
        run.intake.tidy()?;
    }
    let (damage, more_damage) = source.damage();
    // Nobody knows how many tags that are.
    run.report.tags.left += damage.len() as u64 + more_damage;
    run.report.more_left += more_damage;
    for (place, says) in damage {
        run.report.leave(place, &says);
    }
    let names = source.repositories()?;
    // A registry would be asked for all of it twice.
    if source.path().is_some() && !options.dry_run {
        let mut of_bytes = Some(0);
        for name in &names {
            let bytes = run.measure(name)?;
            of_bytes = of_bytes.zip(bytes).map(|(sum, bytes)| sum + bytes);
            if of_bytes.is_none() {
                break;
            }
        }
        run.far.of_bytes = of_bytes;
        run.coming.clear();
    }
    for name in &names {
        run.repository(name)?;
    }
    if !options.dry_run {
        run.intake.tidy()?;
    }
    Ok(run.report)
}

struct Run<'a> {
    store: &'a Store,
    intake: Intake<'a>,
    source: &'a Source,
    options: &'a ImportOptions,
    stop: &'a CancellationToken,
    told: &'a dyn Fn(Far),
    far: Far,
    report: Report,
    /// Blobs that were looked at and can't be taken: of all repositories where those share their blobs, else of this one.
    bad: HashMap<Digest, Fault>,
    /// Blobs that are counted among those to come, by the first bytes of their digests: a tree may have millions, and two that
    /// agree in 64 bits of a hash would make the count wrong by one of them, and nothing else.
    coming: HashSet<u64>,
    reading: Beside<'a>,
    /// What is read at once, kept from file to file.
    buffer: Vec<u8>,
}

impl Run<'_> {
    fn goes_on(&self) -> Result<(), ImportError> {
        if self.stop.is_cancelled() { Err(ImportError::Stopped) } else { Ok(()) }
    }

    fn survey(&self, name: &str, listed: &Listed) -> Result<Survey, ImportError> {
        let most = self.options.most_surveyed.unwrap_or(usize::MAX);
        let survey = Survey::of(self.source, name, listed, most, &|| !self.stop.is_cancelled());
        self.goes_on()?;
        Ok(survey)
    }

    /// Bytes that a repository adds to those that have to come; `None`: there is too much to know that.
    fn measure(&mut self, name: &str) -> Result<Option<u64>, ImportError> {
        let Ok(Some(repo)) = self.options.names.name(name) else { return Ok(Some(0)) };
        let Ok(listed) = self.source.list(name) else { return Ok(Some(0)) };
        let survey = self.survey(name, &listed)?;
        if survey.is_too_large {
            return Ok(Some(0));
        }
        let mut bytes = 0;
        for blob in survey.nodes.iter().flat_map(|node| &node.blobs) {
            if self.note_coming(*blob) && !self.is_stored(&repo, &blob.digest)? {
                bytes += blob.size;
            }
            if self.options.is_served && self.coming.len() >= MOST_COMING {
                return Ok(None);
            }
        }
        Ok(Some(bytes))
    }

    /// Notes a blob that has to come; `false`: it is noted. Of too many some are not noted, and count again.
    fn note_coming(&mut self, blob: Blob) -> bool {
        if self.options.is_served && self.coming.len() >= MOST_COMING {
            return !self.coming.contains(&blob.print());
        }
        self.coming.insert(blob.print())
    }

    fn repository(&mut self, name: &str) -> Result<(), ImportError> {
        self.goes_on()?;
        if !self.source.shares_blobs() {
            // Another repository has a copy of its own, or answers another time.
            self.bad.clear();
        }
        let repo = self.options.names.name(name);
        // A registry is not asked for what stays behind.
        if matches!(repo, Ok(None)) {
            return Ok(());
        }
        let listed = match self.source.list(name) {
            Ok(listed) => listed,
            Err(error) => {
                self.goes_on()?;
                self.report.tags.left += 1;
                self.report.leave(name.to_owned(), &with_causes(&error));
                return Ok(());
            }
        };
        let repo = match repo {
            Ok(Some(repo)) => repo,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.report.tags.left += listed.tags.len() as u64;
                self.report.leave(name.to_owned(), &Fault::Name(error.to_string()));
                return Ok(());
            }
        };
        self.report.unfinished_uploads += listed.uploads;
        self.report.deleted_manifests += listed.deleted.len() as u64;
        for (image, fault) in &listed.faults {
            self.report.leave(format!("{name}{image}"), fault);
        }
        // What is taken below is kept from a collection that runs beside.
        let naming = self.store.naming(&repo);
        let mut survey = self.survey(name, &listed)?;
        if survey.is_too_large {
            self.report.tags.left += listed.tags.len() as u64;
            self.report.leave(name.to_owned(), &Fault::TooMuch);
            return Ok(());
        }
        if self.options.dry_run {
            self.look_for_blobs(name, &repo, &mut survey)?;
        } else {
            self.take_blobs(name, &repo, &survey)?;
            survey.judge(&mut |blob| self.bad.get(&blob.digest).cloned());
        }
        self.take_manifests(name, &repo, &survey)?;
        self.take_tags(name, &repo, &listed, &survey)?;
        drop(naming);
        self.report.repositories += u64::from(survey.whole().next().is_some());
        Ok(())
    }

    fn take_manifests(&mut self, name: &str, repo: &RepoName, survey: &Survey) -> Result<(), ImportError> {
        let (mut batch, mut bytes) = (Vec::with_capacity(BATCH), 0);
        for node in survey.whole() {
            self.goes_on()?;
            if self.intake.has_manifest(repo, &node.digest)? {
                self.report.manifests.present += 1;
            } else if self.options.dry_run {
                self.report.manifests.taken += 1;
            } else {
                // Read before, when it was surveyed: now it is gone or changes.
                let gone = |fault: Fault| SourceError::Registry(format!("{name}: {fault}"));
                let content = self.source.manifest(name, &node.digest).map_err(gone)?;
                let manifest = Arc::new(parse(&content, node.digest).map_err(gone)?);
                bytes += content.len();
                batch.push(StoredManifest { digest: node.digest, bytes: content.into(), manifest });
                if batch.len() == BATCH || bytes >= BATCH_BYTES {
                    self.flush_manifests(repo, &mut batch)?;
                    bytes = 0;
                }
            }
        }
        self.flush_manifests(repo, &mut batch)?;
        self.report.manifests.left += survey.faults.len() as u64;
        Ok(())
    }

    fn flush_manifests(&mut self, repo: &RepoName, batch: &mut Vec<StoredManifest>) -> Result<(), ImportError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.intake.add_manifests(repo, batch)?;
        self.report.manifests.taken += batch.len() as u64;
        self.far.manifests += batch.len() as u64;
        (self.told)(self.far);
        batch.clear();
        Ok(())
    }
}
