//! `own-folder`: a directory of a node is given to a user.

use std::io::{self, Write as _};
use std::path::PathBuf;

use super::Failure;
use crate::node_files::{self, Owner};

/// Flags of `own-folder`.
#[derive(Clone, Debug, clap::Args)]
pub struct OwnFolderArguments {
    /// Whose it is to be.
    #[arg(long, value_name = "UID:GID")]
    pub owner: Owner,
    /// The folder; made if it is missing.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

pub(super) fn run(arguments: &OwnFolderArguments) -> Result<(), Failure> {
    let OwnFolderArguments { owner, folder } = arguments;
    let changed = node_files::own_folder(folder, *owner)?;
    let said = if changed { "given to" } else { "belongs already to" };
    writeln!(io::stdout(), "{} {said} {}:{}", folder.display(), owner.user, owner.group)?;
    Ok(())
}
