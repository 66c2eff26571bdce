//! `bundle verify`.

use std::io::{self, Write as _};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::{BundleArguments, Failure, failure, open, show, verdict};
use crate::bundle;

pub(super) fn run(arguments: &BundleArguments) -> Result<(), Failure> {
    let opened = open(&arguments.paths)?;
    let bar = ProgressBar::new(opened.bytes());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left") {
        bar.set_style(style);
    }
    let began = Instant::now();
    let said = bundle::verify(&opened, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let said = said.map_err(|error| failure(&error))?;
    let mut out = io::stdout().lock();
    if arguments.json {
        let text = serde_json::to_string_pretty(&said).map_err(|error| Failure::failed(&error))?;
        writeln!(out, "{text}")?;
    } else {
        show(&said.findings, said.more_findings, &mut out)?;
        writeln!(
            out,
            "{} bytes in {} files were read in {:.1} s: {} contents and {} GOST sums were compared, {} tags lead to {} images",
            said.bytes,
            said.files,
            began.elapsed().as_secs_f64(),
            said.contents,
            said.sums,
            said.tags,
            said.images
        )?;
    }
    out.flush()?;
    verdict(said.damage)
}
