//! The installer, and the databases of the scanner of vulnerabilities: images under fixed tags.

use std::sync::Arc;

use super::choice::Installer;
use super::error::PullError;
use super::gathering::Gathering;
use super::plan::{Origin, Place};
use super::source::Source;
use crate::oci::Reference;
use crate::upstream::WHOLE;

/// Editions: what is the same in all of them lies beside them.
const EDITIONS: [&str; 6] = ["ee", "fe", "se", "be", "se-plus", "ce"];
/// Databases with their tags, the first of which says whether an edition has any.
const DATABASES: [(&str, &str); 4] =
    [("trivy-db", "2"), ("trivy-bdu", "1"), ("trivy-java-db", "1"), ("trivy-checks", "0")];

/// A repository that is the same for all editions, as a child of a source.
pub(super) fn beside(source: &Source, name: &str) -> String {
    let (parent, last) = source.path().rsplit_once('/').unwrap_or(("", source.path()));
    match EDITIONS.contains(&last) {
        true if parent.is_empty() => format!("{WHOLE}{name}"),
        true => format!("{WHOLE}{parent}/{name}"),
        false => name.to_owned(),
    }
}

/// Plans the installer.
///
/// # Errors
/// [`PullError`].
pub(super) fn installer(
    gathering: &mut Gathering<'_>,
    source: &Arc<Source>,
    wanted: &Installer,
) -> Result<(), PullError> {
    let origin = Origin::new(source, &beside(source, "installer"));
    let (place, reference) =
        (Place { archive: "installer.tar", path: "installer" }, Reference::Tag(wanted.tag.clone()));
    if wanted.is_required {
        gathering.require(place, &origin, &reference)?;
    } else if gathering.take(place, &origin, &reference)?.is_none() {
        gathering.note(format!("{} is not there", origin.image(&reference)));
    }
    Ok(())
}

/// Plans the databases; some editions have none.
///
/// # Errors
/// [`PullError`].
pub(super) fn security(gathering: &mut Gathering<'_>, source: &Arc<Source>) -> Result<(), PullError> {
    for (place, (name, tag)) in DATABASES.into_iter().enumerate() {
        let path = format!("security/{name}");
        let origin = Origin::new(source, &path);
        let Ok(tag) = tag.parse() else { continue };
        let reference = Reference::Tag(tag);
        let found = gathering.take(Place { archive: "security.tar", path: &path }, &origin, &reference)?;
        if found.is_none() {
            gathering.note(format!("{} is not there", origin.image(&reference)));
            if place == 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}
