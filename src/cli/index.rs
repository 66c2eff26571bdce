//! `index`: the index of a store that no server uses.

use std::io::{self, Write as _};

use clap::Subcommand;

use super::{Failure, StoreArguments};
use crate::store;

/// What can be done with an index.
#[derive(Clone, Debug, Subcommand)]
pub enum IndexCommand {
    /// Build it anew from the tree. The server does so by itself when it has to; stop it to do it by hand.
    #[command(after_help = "Example:\n  d8-registry index rebuild --data-dir /var/lib/d8-registry")]
    Rebuild(StoreArguments),
}

pub(super) fn run(command: &IndexCommand) -> Result<(), Failure> {
    let IndexCommand::Rebuild(arguments) = command;
    let dir = arguments.dir()?;
    let bar = indicatif::ProgressBar::new_spinner().with_message("tags and manifests read");
    let done = store::rebuild_index(&dir, |done| bar.set_position(done))?;
    bar.finish_and_clear();
    writeln!(io::stdout(), "the index of {} is rebuilt from {done} tags and manifests", dir.display())?;
    Ok(())
}
