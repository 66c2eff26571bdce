//! `export`: copies images out of a store.

use std::io::{self, Write as _};
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Failure, StoreArguments};
use crate::store::StoreView;
use crate::takeover::{ExportOptions, Selection, export};
use crate::telemetry::with_causes;

/// Flags of `export`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExportArguments {
    /// The layout; made if it is missing. One that is there gets what it lacks.
    #[arg(long, value_name = "DIR")]
    pub to_oci: PathBuf,
    /// What is copied, as REPOSITORY, REPOSITORY:TAG or REPOSITORY@DIGEST [default: everything].
    #[arg(value_name = "IMAGE")]
    pub images: Vec<Selection>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Where the store is.
    #[command(flatten)]
    pub store: StoreArguments,
}

pub(super) fn run(arguments: &ExportArguments) -> Result<(), Failure> {
    let view = StoreView::open(&arguments.store.dir()?)?;
    let options = ExportOptions { dir: arguments.to_oci.clone(), images: arguments.images.clone() };
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {bytes} {bytes_per_sec} {elapsed}") {
        bar.set_style(style);
    }
    let ended = export(&view, &options, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let said = ended.map_err(|error| Failure { exit: super::EXIT_FAILED, message: with_causes(&error) })?;
    let mut out = io::stdout().lock();
    if arguments.json {
        let text = serde_json::to_string_pretty(&said).map_err(|error| Failure::failed(&error))?;
        writeln!(out, "{text}")?;
    } else {
        for left in &said.left {
            writeln!(out, "left {}: {}", left.image, left.reason)?;
        }
        let (tags, manifests) = (said.tags, said.manifests);
        writeln!(
            out,
            "{tags} tags and {manifests} manifests: {} bytes copied, {} were there",
            said.bytes, said.present_bytes
        )?;
    }
    out.flush()?;
    if said.left.is_empty() {
        return Ok(());
    }
    let message = format!("{} images are not whole in the store, see above why", said.left.len());
    Err(Failure { exit: super::EXIT_FAILED, message })
}
