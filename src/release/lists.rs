//! The files that name a release's images, `{"module": {"image": "sha256:…"}}`, in old releases a tag for the digest; and the list of
//! what it needs, which is made of them. Pure.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::required::{DECKHOUSE, ModuleImage, RequiredImage, module_label};
use crate::oci::{Reference, Tag};

/// A file that names all images of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListFile {
    /// By digest.
    Digests,
    /// By tag, in releases before digests.
    Tags,
}

/// Why a list of images can't be used. A list that is wrong in one place is not used at all: what is required would be
/// missing from it unseen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidImages {
    /// JSON of another shape, or a name that stands there twice.
    #[error("it is not of the form {{\"module\": {{\"image\": …}}}}: {0}")]
    Json(String),
    /// Not what the file is to have.
    #[error("{label} is {value:?}, which is no {kind}")]
    Value {
        /// Whose.
        label: String,
        /// The text that stands there, cut.
        value: String,
        /// The word for what should stand there.
        kind: &'static str,
    },
    /// Nothing in it.
    #[error("it names no image")]
    Empty,
}

impl ListFile {
    /// Both, the one that is believed first in front: a digest says which bytes.
    pub const ALL: [Self; 2] = [Self::Digests, Self::Tags];

    /// Its path in an install image.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Digests => "deckhouse/candi/images_digests.json",
            Self::Tags => "deckhouse/candi/images_tags.json",
        }
    }

    /// The images that it names, in the file's order; none is left out.
    ///
    /// # Errors
    /// [`InvalidImages`].
    pub fn images(self, json: &[u8]) -> Result<Vec<ModuleImage>, InvalidImages> {
        let modules: Entries<Entries<String>> =
            serde_json::from_slice(json).map_err(|error| InvalidImages::Json(error.to_string()))?;
        let mut images = Vec::new();
        for (module, named) in &modules.0 {
            for (image, value) in &named.0 {
                images.push(self.image(module, image, value)?);
            }
        }
        if images.is_empty() { Err(InvalidImages::Empty) } else { Ok(images) }
    }

    fn image(self, module: &str, image: &str, value: &str) -> Result<ModuleImage, InvalidImages> {
        let (reference, kind) = match self {
            Self::Digests => (value.parse().map(Reference::Digest).ok(), "digest"),
            Self::Tags => (value.parse().map(Reference::Tag).ok(), "tag"),
        };
        match reference {
            Some(reference) => Ok(ModuleImage { module: module.to_owned(), image: image.to_owned(), reference }),
            None => {
                let label = module_label(module, image);
                Err(InvalidImages::Value { label, value: value.chars().take(100).collect(), kind })
            }
        }
    }
}

/// What a release needs: the one list of checker, controller, retention and bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseList {
    /// Whose, the tag of Deckhouse's own image and of its install image.
    pub release: Tag,
    /// The images of its modules, all entries of its file in the file's order.
    pub modules: Vec<ModuleImage>,
}

impl ReleaseList {
    /// The list of `release` in the content of `file`.
    ///
    /// # Errors
    /// [`InvalidImages`]; no part of a bad list is used.
    pub fn parse(release: Tag, file: ListFile, json: &[u8]) -> Result<Self, InvalidImages> {
        Ok(Self { release, modules: file.images(json)? })
    }

    /// The images that a registry has to hold for it: that of Deckhouse itself by its tag, and those of all modules. Each once, tags in
    /// front, sorted by tag or digest.
    #[must_use]
    pub fn required(&self) -> Vec<RequiredImage> {
        let deckhouse = RequiredImage {
            source: DECKHOUSE.to_owned(),
            child: String::new(),
            reference: Reference::Tag(self.release.clone()),
            expected: None,
        };
        once_each(self.modules.iter().map(RequiredImage::from).chain([deckhouse]).collect())
    }

    /// The tags or digests of its modules' images, one that several have as often.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.modules.iter().map(|image| &image.reference)
    }
}

/// As Deckhouse's checker counts and orders them: an image that several need is there once, under the label that comes first,
/// and all are sorted by reference, tags in front.
pub(super) fn once_each(mut images: Vec<RequiredImage>) -> Vec<RequiredImage> {
    images.sort_by(|a, b| a.source.cmp(&b.source));
    let mut seen = HashSet::new();
    images.retain(|image| seen.insert((image.child.clone(), image.reference.clone())));
    let key = |image: &RequiredImage| {
        (image.child.clone(), matches!(image.reference, Reference::Digest(_)), image.reference.to_string())
    };
    images.sort_by_cached_key(key);
    images
}

/// An object's entries in order. A name that stands there twice is an error: readers differ in which of the two counts.
struct Entries<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
            type Value = Entries<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut entries, mut seen) = (Vec::new(), HashSet::new());
                while let Some((name, value)) = map.next_entry::<String, T>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("{name:?} stands there twice")));
                    }
                    entries.push((name, value));
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(Object(std::marker::PhantomData))
    }
}
