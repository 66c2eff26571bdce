//! `prefetch`: fills the cache of a Proxy with the images of a list, ahead of who will pull them.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use super::check::{Access, CheckArguments, List, address};
use crate::checker::{Check, CheckMode, Depth, Rate, Target};
use crate::config::Secret;
use crate::oci::Tag;
use crate::telemetry::with_causes;
use crate::values::ByteSize;

/// From one look at the bytes to the next, for the progress.
const LOOK: Duration = Duration::from_millis(500);

/// Flags of `prefetch`.
#[derive(Clone, Debug, clap::Args)]
pub struct PrefetchArguments {
    /// What is wanted: lines of `[SOURCE] IMAGE`, a JSON array of `{"source", "image"}`, or Deckhouse's images_digests.json. Of an
    /// image only tag or digest counts, and a path that begins with a slash.
    #[arg(long, value_name = "FILE", required_unless_present = "release", conflicts_with = "release")]
    pub images: Option<PathBuf>,
    /// The images of all modules of this release of Deckhouse, and its own; a tag like v1.70.1. Its install image is read through
    /// the registry.
    #[arg(long, value_name = "VERSION")]
    pub release: Option<Tag>,
    /// The d8-registry in mode Proxy, as `http[s]://host[:port]/repository`.
    #[arg(long, value_name = "URL")]
    pub registry: Secret,
    /// Bytes in a second, on average, such as 20MB [default: as fast as they come]. A content that has begun comes as fast as the
    /// upstream gives it; the next one waits.
    #[arg(long, value_name = "SIZE")]
    pub rate: Option<ByteSize>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// The user.
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub username: Option<String>,
    /// A file with the user's password.
    #[arg(long, value_name = "FILE", requires = "username")]
    pub password_file: Option<PathBuf>,
    /// A .dockerconfigjson with the registry's login.
    #[arg(long, value_name = "FILE", conflicts_with = "username")]
    pub docker_config: Option<PathBuf>,
    /// PEM of authorities that are trusted beside the system's.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

impl PrefetchArguments {
    /// The same as a check of one registry.
    fn as_check(&self) -> CheckArguments {
        CheckArguments {
            bundle: Vec::new(),
            images: self.images.clone(),
            from_registry: None,
            release: self.release.clone(),
            from_cluster: false,
            kubeconfig: None,
            namespace: String::new(),
            registry: vec![self.registry.clone()],
            data_dir: None,
            repository: None,
            mode: CheckMode::Default,
            watch: false,
            interval: Duration::ZERO,
            repeat: None,
            deep: false,
            content: false,
            answered_by: None,
            output: None,
            json: self.json,
            username: self.username.clone(),
            password_file: self.password_file.clone(),
            docker_config: self.docker_config.clone(),
            ca_file: self.ca_file.clone(),
        }
    }
}

/// Fills it, and fails if not everything is there.
pub(super) fn run(arguments: &PrefetchArguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Box::pin(fill(arguments)))
}

async fn fill(arguments: &PrefetchArguments) -> Result<(), Failure> {
    let checked = arguments.as_check();
    let access = Access::read(&checked)?;
    let address = address("--registry", &arguments.registry)?;
    if address.reference.is_some() {
        return Err(Failure::usage("--registry: names a repository, without tag or digest"));
    }
    let (_, items) = Box::pin(List::of(&checked, &access)).await?;
    let rate = Arc::new(Rate::new(arguments.rate.map(|ByteSize(most)| most)));
    let target = Target::connect(access.options(address)?, access.metrics.clone(), access.tasks.clone());
    let target = target.map_err(|error| Failure::usage(with_causes(&error)))?.at(Arc::clone(&rate));
    let mut check = Check::new(CheckMode::Default, Depth::Cached, items, vec![target]);
    run_once(&mut check, &rate).await;
    report(&check, rate.fetched(), arguments.json)
}

/// A run with a bar, which is shown on a terminal only.
async fn run_once(check: &mut Check, rate: &Rate) {
    let bar = ProgressBar::new(u64::try_from(check.open()).unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} images, {msg} fetched, {elapsed}, {eta} left")
    {
        bar.set_style(style);
    }
    let shown = async {
        loop {
            bar.set_message(indicatif::HumanBytes(rate.fetched()).to_string());
            tokio::time::sleep(LOOK).await;
        }
    };
    let answered = || bar.inc(1);
    tokio::select! {
        () = check.run(None, &answered) => {}
        () = shown => {}
    }
    bar.finish_and_clear();
}

fn report(check: &Check, fetched: u64, json: bool) -> Result<(), Failure> {
    let report = check.report();
    let mut out = io::stdout().lock();
    let registries = &report.registries;
    if json {
        let said = serde_json::json!({ "fetchedBytes": fetched, "registries": registries });
        writeln!(out, "{said}")?;
    } else {
        for registry in registries {
            for wrong in &registry.errors {
                writeln!(out, "{} ({}): {}", wrong.image, wrong.source, wrong.error)?;
            }
            let (there, all) = (registry.processed, registry.items);
            writeln!(
                out,
                "{there} of {all} images are in the cache of {}; {fetched} bytes were fetched",
                registry.name
            )?;
        }
    }
    out.flush()?;
    let missing: usize = registries.iter().map(|registry| registry.items - registry.processed).sum();
    if missing == 0 {
        return Ok(());
    }
    Err(Failure { exit: super::EXIT_FAILED, message: format!("{missing} images are not in the cache") })
}
