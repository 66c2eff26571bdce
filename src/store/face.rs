//! The store as others see it, and how it is put together: the parts of both floors, opened and closed.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::contents::capacity::{Capacity, Noted};
use super::contents::changes::waiting;
use super::contents::files::Contents;
use super::contents::fills::{Fills, bytes_on_disk};
use super::contents::scrub::job::Scrub;
use super::contents::scrub::scrubber::Scrubber;
use super::contents::snapshot_folders::Folders;
use super::contents::uploads::table::{Uploads, at_start};
use super::contents::uses::Uses;
use super::error::StoreError;
use super::layout::Layout;
use super::maintenance::{Maintain, Maintenance};
use super::opening::{self, LayOut};
use super::options::{StoreLimits, StoreOptions, Usage};
use super::repositories::blobs::Blobs;
use super::repositories::broken::BrokenContent;
use super::repositories::collection::collector::Collector;
use super::repositories::collection::ledger::Ledger;
use super::repositories::index::IndexState;
use super::repositories::large::LargeManifests;
use super::repositories::listings::{KeepIndex, Listings};
use super::repositories::manifests::Manifests;
use super::repositories::memory::Memory;
use super::repositories::mend::LookAfterDamage;
use super::repositories::mode_data::dropper::Dropper;
use super::repositories::mode_data::job::LookAfterUnused;
use super::repositories::references::References;
use super::repositories::snapshots::keeper::Snapshots;
use super::repositories::upload_session::BlobUploads;
use crate::fs::{Disk, replace_file};
use crate::jobs::Runner;
use crate::telemetry::{DamageSample, disk_look};

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store(pub(super) Arc<Parts>);

/// The parts, for the face alone: none of them knows this.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) contents: Arc<Contents>,
    pub(super) uploads: Arc<Uploads>,
    pub(super) fills: Arc<Fills>,
    pub(super) uses: Arc<Uses>,
    pub(super) blobs: Blobs,
    pub(super) blob_uploads: BlobUploads,
    pub(super) manifests: Arc<Manifests>,
    pub(super) references: Arc<References>,
    pub(super) large: LargeManifests,
    pub(super) maintenance: Maintenance,
    pub(super) collector: Arc<Collector>,
    pub(super) dropper: Arc<Dropper>,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) scrubber: Arc<Scrubber>,
    /// Keeps a second server out.
    lock: File,
}

impl Store {
    /// Lays out `dir` (made if missing). Says `false` if it was a store already. Blocking.
    ///
    /// # Errors
    /// [`StoreError`] if the folder holds something else, can't be written or is in use.
    pub fn init(dir: &Path) -> Result<bool, StoreError> {
        let (layout, disk) = (Layout::new(dir), Disk::default());
        let fresh = opening::open(&layout, &disk, LayOut::BesideOthers)?.fresh;
        if fresh {
            // Nothing is in it: the first start has nothing to count.
            disk.replace(layout.temporary(), &layout.usage(), b"0\n")?;
        }
        Ok(fresh)
    }

    /// Opens the tree; blocking. The index is not opened: see [`Store::start_jobs`].
    ///
    /// # Errors
    /// [`StoreError`] with a sentence for the administrator.
    pub fn open(options: &StoreOptions) -> Result<Self, StoreError> {
        let (layout, disk) = (Layout::new(&options.dir), Disk::default());
        let lay_out = if options.must_exist { LayOut::Never } else { LayOut::WhereEmpty };
        let opened = opening::open(&layout, &disk, lay_out)?;
        let root = || File::open(layout.root()).map_err(StoreError::io("open", layout.root()));
        // A folder that was laid out just now holds nothing.
        let snapshots = Folders::read(&layout)?;
        let noted = opening::usage(&layout, &snapshots.all()).or(opened.fresh.then_some(Noted::default()));
        let (open, uploaded) = at_start(&layout)?;
        let coming = uploaded + bytes_on_disk(&layout)?;
        let capacity = Capacity::new(root()?, options.limits, noted, coming);
        let listings = Listings::new(&layout);
        let memory = Arc::new(Memory::default());
        let remembered = Arc::clone(&memory);
        let root = OwnedFd::from(root()?);
        let forget = move || remembered.forget_all();
        let contents = Arc::new(Contents::new(layout, disk, root, capacity, snapshots, forget));
        contents.load_damaged();
        // A read-only file system keeps them; they harm nobody who reads.
        if !contents.capacity.is_read_only() {
            contents.drop_moved()?;
        }
        let (uploads, fills, uses) = (Arc::new(Uploads::new(open)), Arc::default(), Arc::default());
        let ledger = Arc::new(Ledger::open(Arc::clone(&contents)));
        let manifests = Arc::new(Manifests::new(Arc::clone(&contents), Arc::clone(&memory), listings, ledger));
        let snapshots = Arc::new(Snapshots::new(Arc::clone(&manifests)));
        let tasks = TaskTracker::new();
        Ok(Self(Arc::new(Parts {
            blobs: Blobs {
                contents: Arc::clone(&contents),
                memory: Arc::clone(&memory),
                manifests: Arc::clone(&manifests),
            },
            blob_uploads: BlobUploads {
                contents: Arc::clone(&contents),
                memory,
                manifests: Arc::clone(&manifests),
                uploads: Arc::clone(&uploads),
                tasks: tasks.clone(),
            },
            maintenance: Maintenance {
                contents: Arc::clone(&contents),
                manifests: Arc::clone(&manifests),
                uploads: Arc::clone(&uploads),
                fills: Arc::clone(&fills),
                uses: Arc::clone(&uses),
                snapshots: Arc::clone(&snapshots),
            },
            snapshots,
            references: Arc::new(References::new(Arc::clone(&manifests), tasks)),
            collector: Arc::new(Collector::new(Arc::clone(&manifests))),
            dropper: Arc::new(Dropper::new(Arc::clone(&manifests))),
            scrubber: Arc::new(Scrubber::new(Arc::clone(&contents))),
            large: LargeManifests::default(),
            contents,
            uploads,
            fills,
            uses,
            manifests,
            lock: opened.lock,
        })))
    }

    /// The folder for keys that the server makes itself, readable by nobody else; blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub fn key_folder(&self) -> Result<PathBuf, StoreError> {
        opening::keys(&self.0.contents.layout, &self.0.contents.disk)
    }

    /// The bytes of the last mode file that was in force; `None`: there was none. Blocking.
    ///
    /// # Errors
    /// Of the disk.
    pub fn kept_mode_file(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.0.contents.layout.mode_file();
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read", &path)(error)),
        }
    }

    /// Keeps the bytes of the mode file that comes into force, durably when it answers; readable by nobody else. What it
    /// means is the server's affair: here it is kept because it has to outlive the process. Blocking.
    ///
    /// # Errors
    /// Of the disk; the one before is then still there.
    pub fn keep_mode_file(&self, bytes: &[u8]) -> Result<(), StoreError> {
        Ok(replace_file(&self.0.contents.layout.mode_file(), bytes, 0o600)?)
    }

    /// Starts the jobs beside requests: opening or rebuilding the index, looking after damage, counting after an unclean
    /// stop, reaping of uploads, counting and dropping of data that no mode uses, scrub. Collection has its job in `retention`.
    pub fn start_jobs(&self, jobs: &Runner) {
        let manifests = &self.0.manifests;
        let keep_index = KeepIndex::new(Arc::clone(manifests), |manifests| (&manifests.listings, manifests.tree()));
        jobs.start(keep_index);
        jobs.start(LookAfterDamage(Arc::clone(manifests)));
        jobs.start(Maintain::new(self.0.maintenance.clone()));
        jobs.start(LookAfterUnused(Arc::clone(&self.0.dropper)));
        jobs.start(Scrub::new(Arc::clone(&self.0.scrubber)));
    }

    /// Seals the index and notes what is used. Called once, when no request runs any more; blocking. Waits for changes
    /// that outlived their requests; none is made afterwards.
    pub fn close(&self) {
        let Contents { layout, disk, capacity, damage, changes, snapshots, .. } = &*self.0.contents;
        self.0.snapshots.stop();
        changes.close();
        self.0.manifests.listings.close();
        if capacity.is_read_only() {
            return;
        }
        self.0.maintenance.forget_doubtful();
        self.0.manifests.ledger.note_time();
        self.0.uses.write_down(|digest| layout.content(digest));
        if let Some(counted) = capacity.counted()
            && !damage.is_doubtful()
            && let Err(error) = disk.replace(
                layout.temporary(),
                &layout.usage(),
                opening::note_of(counted, &snapshots.all()).as_bytes(),
            )
        {
            tracing::warn!(%error, "what the store uses can't be noted and will be counted at the next start");
        }
    }

    /// Puts changed limits into force.
    pub fn set_limits(&self, limits: StoreLimits) {
        self.0.contents.capacity.set_limits(limits);
    }

    /// Room used and left.
    #[must_use]
    pub fn usage(&self) -> Usage {
        Usage {
            uploads: self.0.uploads.count(),
            snapshots: self.0.contents.snapshots.count(),
            ..self.0.contents.capacity.usage()
        }
    }

    /// The state of the index.
    #[must_use]
    pub fn index_state(&self) -> IndexState {
        self.0.manifests.listings.state()
    }

    /// Whether the data folder can be read now and is the one that was opened; for readiness.
    ///
    /// # Errors
    /// [`StoreError::Layout`] if the directory is gone or another was put over it, or if the disk is at fault for the number
    /// of files found damaged; or of the disk.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.0.contents.damage.check()?;
        let store = Arc::clone(&self.0);
        // The bytes that it reads may be in memory: its end is no sign of the disk's life.
        waiting(disk_look(), move || opening::check(&store.contents.layout, &store.lock)).await
    }

    /// Contents of which only damaged files are there, and what needs them, as of the last look: within seconds of a find.
    #[must_use]
    pub fn broken(&self) -> Arc<Vec<BrokenContent>> {
        self.0.manifests.broken.last()
    }

    /// Ends when [`Store::broken`] is another one. Safe to drop.
    pub async fn broken_changed(&self) {
        self.0.manifests.broken.changed.notified().await;
    }

    /// Contents known to be damaged.
    #[must_use]
    pub fn damage(&self) -> DamageSample {
        self.0.contents.damage.sample()
    }
}
