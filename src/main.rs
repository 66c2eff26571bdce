//! The binary: hands the command line to `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    d8_registry::cli::run()
}
