//! `schema`: the JSON Schema of the configuration file.

use std::io::{self, Write as _};

use super::Failure;
use crate::config;

pub(super) fn run() -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "{:#}", config::schema())?)
}
