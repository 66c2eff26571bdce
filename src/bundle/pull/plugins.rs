//! Plugins of the command line, each an index over platforms, taken whole.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::constraint::{Constraint, Wanted};
use super::databases::beside;
use super::error::PullError;
use super::gathering::Gathering;
use super::plan::{Origin, Place};
use super::source::Source;
use crate::oci::{Reference, Tag};
use crate::values::Release;

/// The repository above them.
const PARENT: &str = "deckhouse-cli/plugins";

/// Plans the plugins that are wanted: of each the newest version within its constraint, or the newest of all.
///
/// # Errors
/// [`PullError`]; one that is not there is one.
pub(super) fn plan(gathering: &mut Gathering<'_>, source: &Arc<Source>, wanted: &[Wanted]) -> Result<(), PullError> {
    let parent = beside(source, PARENT);
    for Wanted { name, constraint } in wanted {
        let origin = Origin::new(source, &format!("{parent}/{name}"));
        let tag: Tag = match constraint {
            Some(Constraint::Exact(tag, _)) => tag.clone(),
            range => {
                let tags = source.tags(&origin.child)?;
                let tags = tags.ok_or_else(|| PullError::Absent(source.repository(&origin.child)))?;
                let there: BTreeSet<Release> = tags.iter().filter_map(Release::of_tag).collect();
                let fits = |release: &&Release| match range {
                    Some(Constraint::Range(range)) => range.has(release),
                    Some(Constraint::Exact(..)) | None => release.candidate().is_none(),
                };
                let newest = there.iter().rfind(fits).map(|release| release.tag().clone());
                newest.ok_or_else(|| {
                    PullError::Absent(format!("{} in the version that is wanted", source.repository(&origin.child)))
                })?
            }
        };
        let (archive, path) = (format!("plugin-{name}.tar"), format!("{PARENT}/{name}"));
        gathering.require(Place { archive: &archive, path: &path }, &origin, &Reference::Tag(tag))?;
    }
    Ok(())
}
