//! `import`: has images taken into a store by its server, or without one by this process.

use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admin::{ask_if_there, ask_with};
use super::{Failure, StoreArguments};
use crate::bundle;
use crate::config::{self, Secret};
use crate::store::{Store, StoreLimits, StoreOptions};
use crate::takeover::{
    Far, ImportError, ImportOrder, Password, RegistryOrder, Report, RepositoryMap, SourceOrder, import,
};
use crate::telemetry::{Metrics, with_causes};

/// How often a running server is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Flags of `import`.
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["from_distribution", "from_oci", "from_registry"]))]
pub struct ImportArguments {
    /// The data of a distribution registry, or of Deckhouse's module: the directory with docker/registry/v2, or that itself.
    #[arg(long, value_name = "DIR")]
    pub from_distribution: Option<PathBuf>,
    /// An OCI layout, or a directory with layouts below.
    #[arg(long, value_name = "DIR")]
    pub from_oci: Option<PathBuf>,
    /// A repository of a registry with all its tags, or with the one that the address ends with; without a repository all that
    /// the registry lists, of which --repository takes some. Can be given more than once.
    #[arg(long, value_name = "URL", num_args = 1..)]
    pub from_registry: Vec<Secret>,
    /// What repositories are called here: FROM and what is below it become TO and what is below it, the others stay behind.
    /// Without FROM all come below TO [default: names stay].
    #[arg(long, value_name = "[FROM=]TO")]
    pub repository: Option<RepositoryMap>,
    /// Move the files of the source instead of copying them: it is given up. It has to be on the store's file system, and its
    /// registry must not run.
    #[arg(long = "move", conflicts_with = "from_registry")]
    pub moves: bool,
    /// Say what would come, and change nothing. Bytes are not hashed.
    #[arg(long)]
    pub dry_run: bool,
    /// Move tags that the store has with another digest.
    #[arg(long)]
    pub overwrite_tags: bool,
    /// End with 0 also if a tag was left out.
    #[arg(long)]
    pub allow_missing: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// The user at the registry.
    #[arg(long, value_name = "NAME", requires_all = ["password_file", "from_registry"])]
    pub username: Option<String>,
    /// A file with the user's password.
    #[arg(long, value_name = "FILE", requires = "username")]
    pub password_file: Option<PathBuf>,
    /// PEM of authorities that are trusted beside the system's.
    #[arg(long, value_name = "FILE", requires = "from_registry")]
    pub ca_file: Option<PathBuf>,
    /// Where the store is. The section store of the configuration file counts where no server runs.
    #[command(flatten)]
    pub store: StoreArguments,
}

pub(super) fn run(arguments: &ImportArguments) -> Result<(), Failure> {
    let told = Told { json: arguments.json, allow_missing: arguments.allow_missing };
    carry_out(&arguments.store, &arguments.order()?, told)
}

/// How the end of an import is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) json: bool,
    /// What is missing is no failure.
    pub(super) allow_missing: bool,
}

/// Has an order carried out by the server of the store, or by this process.
pub(super) fn carry_out(store: &StoreArguments, order: &ImportOrder, told: Told) -> Result<(), Failure> {
    let folder = store.dir()?;
    let bar = bar();
    let report = match by_server(&folder, order, &bar)? {
        Some(report) => report,
        None => by_hand(&folder, store, order, &bar)?,
    };
    bar.finish_and_clear();
    say(&report, told)
}

/// Prints what a run came to, and ends with it.
pub(super) fn say(report: &Report, told: Told) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if told.json {
        let text = serde_json::to_string_pretty(report).map_err(|error| Failure::failed(&error))?;
        writeln!(out, "{text}")?;
    } else {
        show(report, &mut out)?;
    }
    out.flush()?;
    if report.is_whole() || told.allow_missing {
        return Ok(());
    }
    let message = format!("{} tags of the source were left out, see above why", report.tags.left);
    Err(Failure { exit: super::EXIT_FAILED, message })
}

impl ImportArguments {
    /// What is to be done, as a running server is told.
    fn order(&self) -> Result<ImportOrder, Failure> {
        let whole = |path: &Path| {
            std::path::absolute(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
        };
        let source = match (&self.from_distribution, &self.from_oci) {
            (Some(path), _) => SourceOrder::Distribution(whole(path)?),
            (None, Some(path)) => SourceOrder::Oci(whole(path)?),
            (None, None) => SourceOrder::Registry(self.registries()?),
        };
        Ok(ImportOrder {
            source,
            repository: self.repository.as_ref().map(ToString::to_string),
            moves: self.moves,
            dry_run: self.dry_run,
            overwrite: self.overwrite_tags,
            channels_back: false,
        })
    }

    fn registries(&self) -> Result<RegistryOrder, Failure> {
        let password = self.password_file.as_deref().map(read).transpose()?;
        let order = RegistryOrder {
            urls: self.from_registry.iter().map(|url| url.expose().to_owned()).collect(),
            username: self.username.clone(),
            password: password.map(|text| Password(text.trim_end_matches(['\r', '\n']).to_owned())),
            ca: self.ca_file.as_deref().map(read).transpose()?,
        };
        order.addresses().map_err(|error| Failure::usage(format!("--from-registry: {error}")))?;
        Ok(order)
    }
}

pub(super) fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| Failure::usage(format!("{} can't be read: {error}", file.display())))
}

/// Has the server of the data directory do it; `None`: there is none.
fn by_server(folder: &Path, order: &ImportOrder, bar: &ProgressBar) -> Result<Option<Report>, Failure> {
    let body = serde_json::to_vec(order).map_err(|error| Failure::failed(&error))?;
    let ended = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                std::thread::park_timeout(LOOK_EVERY);
                let shown = ask_if_there(folder, "GET", "/import").ok().flatten();
                let shown: Option<Value> = shown.and_then(|text| serde_json::from_str(&text).ok());
                if let Some(far) = shown.and_then(|shown| serde_json::from_value(shown["running"].clone()).ok()) {
                    tell(bar, far);
                }
            }
        });
        let asked = ask_with(folder, "POST", "/import", &body);
        ended.store(true, Ordering::Release);
        looking.thread().unpark();
        asked
    });
    let Some(text) = asked? else { return Ok(None) };
    let answer: Value = serde_json::from_str(&text).map_err(|error| Failure::failed(&error))?;
    match answer["error"].as_str() {
        Some(error) => Err(Failure { exit: super::EXIT_FAILED, message: format!("the server: {error}") }),
        None => serde_json::from_value(answer["report"].clone()).map(Some).map_err(|error| Failure::failed(&error)),
    }
}

/// Takes the store, which no server has.
fn by_hand(folder: &Path, store: &StoreArguments, order: &ImportOrder, bar: &ProgressBar) -> Result<Report, Failure> {
    let settings = config::store_settings(store.config.as_deref())?;
    let limits = StoreLimits { max_bytes: settings.max_bytes, reserve: settings.reserve, ..StoreLimits::UNBOUNDED };
    let metrics = Metrics::new().map_err(|error| Failure::failed(&error))?;
    let stop = CancellationToken::new();
    let source = order.source.open(bundle::MOST_BYTES, (&metrics, &TaskTracker::new(), &stop));
    let source = source.map_err(|error| Failure::failed(&error))?;
    let options = order.options().map_err(Failure::usage)?;
    let options = crate::takeover::ImportOptions { is_served: false, most_surveyed: None, ..options };
    let store = Store::open(&StoreOptions { must_exist: true, limits, ..StoreOptions::at(folder) })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (taking, shown) = (store.clone(), bar.clone());
    let work = runtime.spawn_blocking(move || import(&taking, &source, &options, &stop, &|far| tell(&shown, far)));
    let ended = runtime.block_on(work).map_err(|error| Failure::failed(&error))?;
    store.close();
    tell_owner(folder, order)?;
    ended.map_err(|error: ImportError| Failure { exit: super::EXIT_FAILED, message: with_causes(&error) })
}

/// What root writes the server's user can't read.
fn tell_owner(folder: &Path, order: &ImportOrder) -> Result<(), Failure> {
    let facts = std::fs::metadata(folder)?;
    if !order.dry_run && rustix::process::geteuid().as_raw() != facts.uid() {
        let (user, group, path) = (facts.uid(), facts.gid(), folder.display());
        writeln!(
            io::stderr(),
            "d8-registry: the store belongs to another user; before its server starts: d8-registry own-folder --owner {user}:{group} {path}"
        )?;
    }
    Ok(())
}

pub(super) fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let form = "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left; {msg}";
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
    bar
}

pub(super) fn tell(bar: &ProgressBar, far: Far) {
    bar.set_length(far.of_bytes.unwrap_or(far.bytes).max(far.bytes));
    bar.set_position(far.bytes);
    bar.set_message(format!("{} manifests, {} tags", far.manifests, far.tags));
}

fn show(report: &Report, out: &mut impl io::Write) -> io::Result<()> {
    for left in &report.left {
        writeln!(out, "left {}: {}", bundle::plain(&left.image), bundle::plain(&left.reason))?;
    }
    if report.more_left > 0 {
        writeln!(out, "left: {} more", report.more_left)?;
    }
    let taken = if report.dry_run { "would come" } else { "came" };
    for (what, tally) in [("tags", report.tags), ("manifests", report.manifests), ("blobs", report.blobs)] {
        writeln!(out, "{what}: {} {taken}, {} were there, {} left", tally.taken, tally.present, tally.left)?;
    }
    if report.mounted > 0 {
        writeln!(out, "of these blobs {} were taken from other repositories of the registry", report.mounted)?;
    }
    writeln!(out, "bytes: {} {taken} ({} moved, {} shared)", report.bytes, report.moved_bytes, report.shared_bytes)?;
    if report.unfinished_uploads + report.deleted_manifests > 0 {
        writeln!(
            out,
            "not looked at: {} unfinished uploads, {} deleted manifests",
            report.unfinished_uploads, report.deleted_manifests
        )?;
    }
    Ok(())
}
