//! Steps of any registry: what grows is pushed to it over HTTP, into repositories of their own.

use anyhow::{Result, bail};
use d8_registry::oci::Algorithm;
use indicatif::ProgressBar;

use super::turns::Template;
use super::{Axis, MOST_BLOBS, OF_ANY, Step, Subject};
use crate::client::exchange;
use crate::rows::push::push;
use crate::interrupt;
use crate::registry::{Content, Registry};
use crate::seed;
use crate::client::wire::Wire;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Tags where connections grow.
const TAGS: u64 = 10;
/// Images that are asked for.
const IMAGES: u64 = 10;

/// The repository of a step: what one pushes must not be another's.
pub(super) fn repository(base: &str, step: Step) -> String {
    format!("{base}-{}-{}", step.axis.word(), step.at)
}

/// Pushes what the step needs and says what to ask.
pub(super) fn prepare(registry: Registry, step: Step, bar: &ProgressBar) -> Result<Subject> {
    match step.axis {
        Axis::Blobs => bail!("{OF_ANY}"),
        Axis::Sizes => sized(registry, step),
        Axis::Tags => tagged(registry, step.at, bar),
        Axis::Connections => tagged(registry, TAGS, bar),
    }
}

fn sized(registry: Registry, step: Step) -> Result<Subject> {
    let content = seed::noise(step.at, usize::try_from(step.at * 1024)?);
    let digest = Algorithm::Sha256.digest(&content);
    let authorization = registry.authorization.as_deref();
    push(&mut Wire::connect(&registry.place)?, &registry.repository, &content, &digest, authorization)?;
    let request = registry.blob(&digest);
    exchange::verify(&registry.place, &request, &digest)?;
    let mut subject = Subject::new(registry);
    subject.sized = Some(request);
    Ok(subject)
}

fn tagged(registry: Registry, tags: u64, bar: &ProgressBar) -> Result<Subject> {
    let mut wire = Wire::connect(&registry.place)?;
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let layers: Vec<Vec<u8>> = (0..8).map(|number| seed::noise(1000 + number, 1024)).collect();
    let mut subject = Subject::new(registry);
    let registry = subject.registry.clone();
    let mut descriptors = Vec::new();
    for (media_type, content) in
        std::iter::once((CONFIG, config.as_slice())).chain(layers.iter().map(|layer| (LAYER, layer.as_slice())))
    {
        let digest = Algorithm::Sha256.digest(content);
        push(&mut wire, &registry.repository, content, &digest, registry.authorization.as_deref())?;
        descriptors.push(seed::descriptor(media_type, digest, content.len()));
        if media_type == LAYER && subject.blobs.len() < MOST_BLOBS as usize {
            subject.blobs.push(Content { request: registry.blob(&digest), digest, size: content.len() as u64 });
        }
    }
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{},"layers":[{}],"annotations":{{"org.opencontainers.image.ref.name":"@NUMBER@"}}}}"#,
        descriptors[0],
        descriptors[1..].join(",")
    );
    let template = Template { media_type: MANIFEST.to_owned(), text };
    for number in 0..tags {
        interrupt::check()?;
        bar.set_message(format!("pushing tag {number} of {tags}"));
        let tag = seed::tag(u32::try_from(number)?);
        registry.put_manifest(&mut wire, &tag, MANIFEST, &template.bytes(number))?;
    }
    for part in 0..IMAGES {
        let tag = tags * (2 * part + 1) / (2 * IMAGES);
        subject.images.push((registry.repository.clone(), seed::tag(u32::try_from(tag)?)));
    }
    subject.page_after = seed::tag(u32::try_from(tags / 2)?);
    subject.middle = registry.repository.clone();
    Ok(subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_a_repository_of_its_own_that_registries_take() {
        let steps: Vec<Step> =
            [(Axis::Tags, 10), (Axis::Tags, 100), (Axis::Sizes, 10)].map(|(axis, at)| Step { axis, at }).to_vec();
        let names: std::collections::BTreeSet<String> =
            steps.iter().map(|step| repository("load/scale", *step)).collect();
        assert_eq!(names.len(), steps.len());
        assert!(names.iter().all(|name| name.parse::<d8_registry::oci::RepoName>().is_ok()), "{names:?}");
    }
}
