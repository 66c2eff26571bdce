//! `static-pod` and `own-folder`: the files of a node.

use std::io::{self, Write as _};
use std::path::PathBuf;

use super::Failure;
use crate::node_files::{self, NodeFilesError, Order, Owner, Placed};

/// Flags of `static-pod`.
#[derive(Clone, Debug, clap::Args)]
pub struct StaticPodArguments {
    /// A folder that is kept the same as another, `SOURCE=TARGET`; can be given more than once.
    #[arg(long, value_name = "SOURCE=TARGET")]
    pub copy: Vec<Placed>,
    /// The pod's manifest, `SOURCE=TARGET`: put when all copies are there, removed before them.
    #[arg(long, value_name = "SOURCE=TARGET")]
    pub manifest: Option<Placed>,
    /// Whose the copies are [default: this process's user].
    #[arg(long, value_name = "UID:GID")]
    pub owner: Option<Owner>,
    /// Remove manifest and copies in place of keeping them.
    #[arg(long)]
    pub remove: bool,
    /// End when it is done once.
    #[arg(long)]
    pub once: bool,
}

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

impl From<NodeFilesError> for Failure {
    fn from(error: NodeFilesError) -> Self {
        Self::failed(&error)
    }
}

pub(super) fn static_pod(arguments: StaticPodArguments) -> Result<(), Failure> {
    let StaticPodArguments { copy: copies, manifest, owner, remove, once } = arguments;
    let order = Order { copies, manifest, owner, remove };
    if once {
        let changed = node_files::place(&order)?;
        writeln!(io::stdout(), "{changed} files changed")?;
        return Ok(());
    }
    Ok(node_files::keep(&order)?)
}

pub(super) fn own_folder(arguments: &OwnFolderArguments) -> Result<(), Failure> {
    let OwnFolderArguments { owner, folder } = arguments;
    let changed = node_files::own_folder(folder, *owner)?;
    let said = if changed { "given to" } else { "belongs already to" };
    writeln!(io::stdout(), "{} {said} {}:{}", folder.display(), owner.user, owner.group)?;
    Ok(())
}
