//! `init`: a store is laid out.

use std::io::{self, Write as _};
use std::path::PathBuf;

use super::Failure;
use crate::config;
use crate::store::Store;

/// Where a store is.
#[derive(Clone, Debug, clap::Args)]
pub struct StoreArguments {
    /// The configuration file, whose store.dir counts.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The data folder; wins over the file [default: ./data].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl StoreArguments {
    /// The data directory that flags and file name.
    pub(super) fn dir(&self) -> Result<PathBuf, Failure> {
        Ok(config::data_dir(self.config.as_deref(), self.data_dir.clone())?)
    }
}

pub(super) fn run(arguments: &StoreArguments) -> Result<(), Failure> {
    let dir = arguments.dir()?;
    let fresh = Store::init(&dir)?;
    let said = if fresh { "laid out" } else { "is a store already, nothing changed" };
    writeln!(io::stdout(), "{} {said}", dir.display())?;
    Ok(())
}
