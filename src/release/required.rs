//! An image that has to be there. Pure.

use crate::oci::{Digest, Reference};

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
