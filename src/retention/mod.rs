//! Retention: tags go by rules, so that their bytes come back. It knows what tags of a registry of Deckhouse mean: release sets.
//!
//! `d8 mirror push` tags every image by its own hex digits, so nothing is ever untagged there. What belongs together is a
//! release set: what the release list of vX.Y.Z, in the install image of our own store, names. In reading order: `options`,
//! `lists` (read from images of the store, and remembered), `look` (a root of Deckhouse or a repository of a rule, as it is),
//! `verdict` (what goes and what stays; pure), `report`, `keeper` (a verdict carried out), `removable` (what other masters are answered), `stopped` (in a store that no server has), `job` (retention, then collection).
//!
//! # Decisions
//!
//! - A root is a repository with a child `install` that has a tag of a release. Its sets are its alone: two roots share bytes, no
//!   tags. Of a set go `release-channel:vX`, `:vX`, `install-standalone:vX`, the hex tags that no set which stays names, tags
//!   `sha256-<hex>…` of what goes, and last `install:vX`: as long as it is there, a set that is half gone is known.
//! - The newest `keep` stay, the releases of the pins, and those that a channel leads to: Deckhouse would go there next.
//! - What the sets that stay name is kept by digest too, whether its hex tag is there or not: a push that found an image there a
//!   moment before its tag went has pushed the list that names it, and not the image.
//! - A hex tag in no set stays, and so does a tag of a release without install image: a push may be under way.
//! - All lists of a root have to be readable, or nothing of it goes: an unknown list may need anything.
//! - Rules see the other repositories. A hex tag there belongs to the images whose `images_digests.json` names it, as in the
//!   repository of a module; it goes with the last of them.
//! - The time of a push is that of the tag's own file. Contents share their time with all repositories that have them.
//! - Without `store.pins` no rule is taken: nothing would be known of what runs.

mod job;
mod keeper;
mod lists;
mod look;
mod options;
mod removable;
mod report;
mod stopped;
#[cfg(test)]
mod tests;
mod verdict;

pub use job::Collect;
pub use keeper::Retention;
pub use lists::{Lists as StoredLists, Unread};
pub use options::{Keep, RetentionOptions, Rule};
pub use report::{Going, LeftAlone, RetentionReport, RetentionStatus, Staying};
pub use stopped::{preview_stopped, run_stopped, why_stopped};
