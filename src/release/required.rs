//! An image that has to be there, and the list of all that a release needs. Pure.

use super::lists::{InvalidImages, ListFile, once_each};
use crate::oci::{Digest, Reference, Tag};

/// The label of the image that runs Deckhouse itself, as Deckhouse's checker writes it.
pub const DECKHOUSE: &str = "deckhouse/containers/deckhouse";

/// An image that every registry of a cluster has to hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequiredImage {
    /// The label of whoever needs it, for people: `module/<module>/<image>`, `deckhouse/containers/<name>`.
    pub source: String,
    /// The repository below the registry's own one, `""` for itself.
    pub child: String,
    /// Which manifest.
    pub reference: Reference,
    /// The digest that a tag has to name, if that is known.
    pub expected: Option<Digest>,
}

/// An image of a module, as the list of a release names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModuleImage {
    /// The module in the spelling of Deckhouse's values: `nodeManager`.
    pub module: String,
    /// The image's name, spelt so too.
    pub image: String,
    /// Which manifest.
    pub reference: Reference,
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

impl From<&ModuleImage> for RequiredImage {
    fn from(image: &ModuleImage) -> Self {
        let source = module_label(&image.module, &image.image);
        Self { source, child: String::new(), reference: image.reference.clone(), expected: None }
    }
}

/// The label of a module's image: names as they stand in Deckhouse's values, in the spelling of its messages.
#[must_use]
pub fn module_label(module: &str, image: &str) -> String {
    format!("module/{}/{}", kebab(module), kebab(image))
}

/// `nodeManager` as `node-manager`.
fn kebab(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 4);
    for (index, letter) in name.chars().enumerate() {
        if letter.is_ascii_uppercase() && index > 0 {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}
