//! A bundle is made of a registry's images: what `d8 mirror pull` does, for one release, some, or all of the channels.
//!
//! In reading order: `constraint` and `choice` (what is wanted; pure), `report`, `error`, `source` (a registry, asked with patience),
//! `image` (all manifests of one), `header` (of a tar), `plan` (archives, layouts, tags, contents), `stage` (contents that were
//! fetched), `gathering` (what every part of a plan needs), `platform`, `databases`, `components` and `plugins` (the parts), `releases` (the file beside the
//! archives), `pack` (an archive is written), `standing` (one that is there already), `run` (all of it).
//!
//! # Decisions
//!
//! - **All is planned before the first blob comes.** Manifests say every size, so the length of every file is known, `--dry-run` says
//!   it, and a disk that is too small is refused at once.
//! - **The same bytes for the same choice.** Entries stand in the order of a walk over directories, headers have no time, indexes are
//!   sorted: what a run that was killed left behind can be gone on with, and what is whole can be told by its headers.
//! - **Absent is what a registry says is absent.** Everything else is asked for again, for as long as the patience lasts, and then an
//!   error: `d8` takes any failure for absence where a tag may be missing, and leaves a hole.
//! - **A channel that leads to a release that is not taken is left out**: in the cluster it would lead to nothing. `d8` leaves it in.
//! - **An index stays an index** with all its images, also where `d8` takes the image for linux/amd64 and names it by the digest of
//!   the index: nodes ask for that digest.
//! - **Contents wait in files under their digests** until their archive is written. So what two layouts share is fetched once, and
//!   another choice finds what an earlier one left; an archive is twice on the disk while it is written, as with `d8`.

mod choice;
mod components;
mod constraint;
mod databases;
mod error;
mod gathering;
mod header;
mod image;
mod pack;
mod plan;
mod platform;
mod plugins;
mod releases;
mod report;
mod run;
mod source;
mod stage;
mod standing;

pub use choice::{Choice, Components, Installer, Platform};
pub use constraint::{Constraint, InvalidConstraint, Range, Wanted};
pub use error::PullError;
pub use report::{Far, Packed, Report};
pub use run::{Output, Sources, pull};
pub use source::Source;
