//! What is wanted of a registry. Pure.

use std::collections::BTreeSet;

use super::constraint::{Range, Wanted};
use crate::oci::Tag;
use crate::values::Release;

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Releases of the platform; `None`: none.
    pub platform: Option<Platform>,
    /// The installer's tag; `None`: no installer.
    pub installer: Option<Installer>,
    /// Security databases.
    pub security: bool,
    /// Modules.
    pub modules: Components,
    /// Packages.
    pub packages: Components,
    /// Plugins beside those that modules and other plugins want; `None`: none at all.
    pub plugins: Option<Vec<Wanted>>,
    /// Take channels that are suspended all the same.
    pub ignore_suspend: bool,
    /// Leave attestations (`sha256-*.att`) out.
    pub without_attestations: bool,
}

/// Releases of the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Those of all channels, and the last patch of each minor from rock-solid, or from that release, to alpha.
    Channels(Option<Release>),
    /// Those of these channels alone.
    OfChannels(BTreeSet<String>),
    /// Those within it, and the channels that lead to one of them.
    Range(Range),
    /// One, whatever it is called; all channels lead to it.
    One(Tag),
}

/// The image of the installer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installer {
    /// Its tag.
    pub tag: Tag,
    /// Whether it has to be there.
    pub is_required: bool,
}

/// Modules, or packages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Components {
    /// None.
    #[default]
    None,
    /// All but those of these names.
    AllBut(BTreeSet<String>),
    /// These; one that is named twice with all its constraints.
    These(Vec<Wanted>),
}
