//! An import as it is ordered of a running server: the server reads the source itself, so only paths and names are said.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::fault::SourceError;
use super::import::ImportOptions;
use super::names::RepositoryMap;
use super::source::Source;

/// What a running server is to take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImportOrder {
    /// From where.
    pub source: SourceOrder,
    /// `[FROM=]TO`; absent: names stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Move the files of the source.
    #[serde(default)]
    pub moves: bool,
    /// Change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Move tags that the store has with another digest.
    #[serde(default)]
    pub overwrite: bool,
}

/// A directory that the server's user can read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SourceOrder {
    /// [`Source::distribution`].
    Distribution(PathBuf),
    /// [`Source::layouts`].
    Oci(PathBuf),
}

impl SourceOrder {
    /// Opens the source. Blocking.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn open(&self) -> Result<Source, SourceError> {
        match self {
            Self::Distribution(path) => Source::distribution(path),
            Self::Oci(path) => Source::layouts(path),
        }
    }
}

impl ImportOrder {
    /// How it is to be done.
    ///
    /// # Errors
    /// A sentence: the names can't be so.
    pub fn options(&self) -> Result<ImportOptions, String> {
        let names = match &self.repository {
            Some(text) => text.parse::<RepositoryMap>().map_err(|error| error.to_string())?,
            None => RepositoryMap::default(),
        };
        let Self { moves, dry_run, overwrite, .. } = *self;
        let most_surveyed = Some(super::import::MOST_SURVEYED);
        Ok(ImportOptions { names, moves, dry_run, overwrite, is_served: true, most_surveyed })
    }
}
