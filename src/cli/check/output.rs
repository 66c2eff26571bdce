//! The list of `check` as a file for `store.expected`.

use std::collections::BTreeSet;
use std::path::Path;

use super::list::failed;
use super::{Access, CheckArguments, address};
use crate::checker::Target;
use crate::cli::Failure;
use crate::clock;
use crate::fs;
use crate::release::RequiredImage;
use crate::telemetry::with_causes;
use crate::values::{Pins, Release};

/// Anybody may read it: it names images and holds no secret.
const MODE: u32 = 0o644;

/// Writes `items` into `file`, whole or not at all.
pub(super) async fn write(
    file: &Path,
    arguments: &CheckArguments,
    access: &Access,
    items: &[RequiredImage],
) -> Result<(), Failure> {
    let (mut images, mut source) = (BTreeSet::new(), None);
    for item in items {
        let digest = match item.expected {
            Some(digest) => digest,
            None => {
                let target = match &source {
                    Some(target) => target,
                    None => source.insert(source_of(arguments, access)?),
                };
                target.digest_of(item).await.map_err(|error| failed(format!("--output: {}: {error}", item.source)))?
            }
        };
        images.insert(digest);
    }
    if images.len() > Pins::MAX_IMAGES {
        return Err(failed(format!("--output: the list has more than {} images", Pins::MAX_IMAGES)));
    }
    let release: Option<Release> = arguments.release.as_ref().and_then(Release::of_tag);
    // To the second, as it is written.
    let list = Pins { written_at: clock::now(), releases: release.into_iter().collect(), images };
    fs::replace_file(file, list.render().as_bytes(), MODE)
        .map_err(|error| failed(format!("--output: {}", with_causes(&error))))
}

/// The registry that knows which digests tags have.
fn source_of(arguments: &CheckArguments, access: &Access) -> Result<Target, Failure> {
    let (flag, text) = match (&arguments.from_registry, arguments.registry.first()) {
        (Some(text), _) => ("--from-registry", text),
        (None, Some(text)) => ("--registry", text),
        (None, None) => return Err(Failure::usage("--registry is needed")),
    };
    let options = access.options(address(flag, text)?)?;
    let target = Target::connect(options, access.metrics.clone(), access.tasks.clone());
    target.map_err(|error| Failure::usage(with_causes(&error)))
}
