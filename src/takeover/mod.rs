//! The take-over of what another registry stored, and the way out: import and export. Never a hard link across the store's
//! border: the store counts links.
//!
//! In reading order: `names` (what a repository is called here), `fault` (what is wrong with an image), `listed`, `distribution`,
//! `layouts`, `remote` and `carried` (the four kinds of source), `source` (one of them), `survey` (what of a repository is whole), `report`,
//! `import` (the run), `orders` and `job` (the same in a running server), `push` (the same into any registry over its API) with
//! `module_source` (the object by which a cluster finds modules there), `export`. Trees of elsewhere are read by `fs::Folder`.
//!
//! # Decisions
//!
//! - **What is taken is what a manifest reaches**: every manifest that the source has not deleted, tagged or not (nodes pull by
//!   digest), with all that it names. A blob that a live manifest names is taken if its bytes are there, also where its link in
//!   `_layers` was deleted. Blobs that nothing names, uploads, and what was deleted stay behind.
//! - **Whole or not at all.** An image that lacks a blob or a child, or has wrong bytes, is named in the report and left out:
//!   Local would not serve it. Tags are set last, so at no moment a tag leads to half an image. The command ends with 1 if a tag
//!   was left out, with 0 under `--allow-missing`.
//! - **A tag that the store has with another digest stays** and counts as left out, unless tags are to be overwritten: a
//!   take-over that is run again must not undo what was pushed since.
//! - **Manifests are copied, also from a tree that is given up.** They are a thousandth of the bytes, and with them and the
//!   links in place a run that was killed finds the same images again.
//! - **What the store has was hashed when it came**, and is not hashed again: a run that goes on hashes what was in its last
//!   batch, and a blob that it was in the middle of.
//! - **A tag's time is the source's**, so rules about age mean the age that it has.

mod carried;
mod distribution;
mod export;
mod fault;
mod import;
mod job;
mod layouts;
mod listed;
mod module_source;
mod names;
mod orders;
mod push;
mod remote;
mod report;
mod source;
mod survey;

pub use export::{ExportError, ExportOptions, Exported, Selection, export};
pub use fault::SourceError;
pub use import::{Far, IMPORT_BYTES, ImportError, ImportOptions, import};
pub use job::{ImportJob, Imports};
pub use module_source::{module_source, write_module_source};
pub use names::{InvalidMap, RepositoryMap};
pub use orders::{ImportOrder, Password, RegistryOrder, SourceOrder};
pub use push::{PushError, PushOptions, Target, push};
pub use report::{Left, Report, Tally};
pub use source::Source;

#[cfg(test)]
mod tests;
