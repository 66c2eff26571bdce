//! `completions`: what a shell completes.

use std::io;

use clap::CommandFactory as _;

use super::Arguments;

/// Flags of `completions`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct CompletionsArguments {
    /// The shell.
    pub shell: clap_complete::Shell,
}

pub(super) fn run(arguments: &CompletionsArguments) {
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "d8-registry", &mut io::stdout());
}
