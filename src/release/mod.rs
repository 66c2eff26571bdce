//! The list of images that a release of Deckhouse needs, and its source: the release's install image.
//!
//! The list is one of the two files in the release's install image (`<repository>/install:vX.Y.Z`) that name every image of
//! every module. The checker, and whoever has to know which images must not go, take it from here. Reads registries through
//! a client that it is given; writes nothing and keeps nothing but the list.
//!
//! In reading order: `required` is an image of a list; `lists` reads the files and makes the list; `from_cluster` is what a running cluster needs of
//! them; `archive` (a tar as a stream) and `layer` find them in a layer; `install_image` finds the layers in a registry; `stored_image`
//! reads those that are at hand. All but `install_image` are pure: they see bytes, however hostile.

mod archive;
mod from_cluster;
mod install_image;
mod layer;
mod lists;
mod required;
mod stored_image;
#[cfg(test)]
mod tests;

pub use archive::ArchiveError;
pub use from_cluster::{ClusterContainer, ClusterListError, ClusterModule, RunningRelease};
pub use install_image::{ReleaseError, of_platform, read_install_image};
pub use layer::{Budget, FileInLayer, LayerError, scan};
pub use lists::{InvalidImages, ListFile, ReleaseList};
pub use required::{DECKHOUSE, ModuleImage, RequiredImage, module_label};
pub use stored_image::{StoredImageError, first_file, version_of};
