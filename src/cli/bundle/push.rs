//! `bundle import --to`: the images of a bundle pushed into a registry.

use std::io::{self, Write as _};
use std::path::Path;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{BundleImportArguments, Failure, failure};
use crate::bundle::{self, BundleError};
use crate::checker::RegistryAddress;
use crate::cli::EXIT_FAILED;
use crate::cli::import::{Told, bar, read, say, tell};
use crate::takeover::{PushOptions, Source, SourceError, Target, module_source, push, write_module_source};
use crate::telemetry::{Metrics, with_causes};
use crate::upstream::Credentials;

/// Pushes a bundle to the address.
pub(super) fn run(arguments: &BundleImportArguments, address: &str) -> Result<(), Failure> {
    // The text may have a password in it, and is not shown.
    let address: RegistryAddress = address.parse().map_err(|error| Failure::usage(format!("--to: {error}")))?;
    let credentials = match (&arguments.username, &arguments.password_file) {
        (Some(user), Some(file)) => {
            let password = SecretString::from(read(file)?.trim_end_matches(['\r', '\n']).to_owned());
            Credentials::Basic { user: user.clone(), password }
        }
        _ => Credentials::Anonymous,
    };
    let ca = arguments.ca_file.as_deref().map(read).transpose()?;
    let source =
        Source::bundle(&arguments.paths, bundle::MOST_BYTES, &|| false).map_err(|error| source_failure(&error))?;
    let modules = arguments.module_source.as_deref().map(|file| (file, source.modules()));
    if let Some((_, None)) = modules {
        return Err(Failure::usage("--module-source: the bundle has no modules".to_owned()));
    }
    let metrics = Metrics::new().map_err(|error| Failure::failed(&error))?;
    let tasks = TaskTracker::new();
    let target = Target::connect(&address, credentials.clone(), ca.clone(), (&metrics, &tasks));
    let target = target.map_err(|error| Failure::usage(with_causes(&error)))?;
    let options = PushOptions {
        dry_run: arguments.dry_run,
        overwrite: !arguments.keep_tags,
        channels_back: arguments.channels_back,
        ..PushOptions::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (bar, stop) = (bar(), CancellationToken::new());
    let shown = bar.clone();
    let work = runtime.spawn_blocking(move || push(&source, &target, &options, &stop, &|far| tell(&shown, far)));
    let ended = runtime.block_on(work).map_err(|error| Failure::failed(&error))?;
    bar.finish_and_clear();
    let report = ended.map_err(|error| Failure { exit: EXIT_FAILED, message: with_causes(&error) })?;
    if let Some((file, Some(modules))) = modules
        && !arguments.dry_run
    {
        write(file, &module_source(&address, &modules, &credentials, ca.as_deref()))?;
    }
    say(&report, Told { json: arguments.json, allow_missing: arguments.allow_missing })
}

/// Writes to a file, or with `-` to the standard output.
fn write(file: &Path, text: &str) -> Result<(), Failure> {
    if file == Path::new("-") {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        return Ok(out.flush()?);
    }
    write_module_source(file, text).map_err(|error| Failure {
        exit: EXIT_FAILED,
        message: format!("{} can't be written: {error}", file.display()),
    })
}

fn source_failure(error: &SourceError) -> Failure {
    match error {
        SourceError::Bundle(error @ (BundleError::Read { .. } | BundleError::Nothing(_))) => failure(error),
        other => Failure::failed(other),
    }
}
