//! `static-pod`: a static pod's manifest and the copies that it needs, kept on a node.

use std::io::{self, Write as _};

use super::Failure;
use crate::node_files::{self, Order, Owner, Placed};

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

pub(super) fn run(arguments: StaticPodArguments) -> Result<(), Failure> {
    let StaticPodArguments { copy: copies, manifest, owner, remove, once } = arguments;
    let order = Order { copies, manifest, owner, remove };
    if once {
        let changed = node_files::place(&order)?;
        writeln!(io::stdout(), "{changed} files changed")?;
        return Ok(());
    }
    Ok(node_files::keep(&order)?)
}
