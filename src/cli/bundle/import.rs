//! `bundle import`.

use std::path::PathBuf;

use crate::cli::import::{Told, carry_out};
use crate::cli::{Failure, StoreArguments};
use crate::config::Secret;
use crate::oci::RepoName;
use crate::takeover::{ImportOrder, SourceOrder};

/// Flags of `bundle import`.
#[derive(Clone, Debug, clap::Args)]
pub struct BundleImportArguments {
    /// Directories with *.tar, *.tar.NNNN.chunk or OCI layouts, or such files one by one; of a chunk all that lie beside it are
    /// taken.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Where it goes in the store: this repository, and those below it.
    #[arg(long, value_name = "REPOSITORY", default_value = "system/deckhouse")]
    pub repository: RepoName,
    /// Push it into this registry instead, over its API: below the repository of the address. Blobs are sent from the files as they
    /// are, and those that other repositories there have are mounted. `SSL_CERT_FILE`, `SSL_CERT_DIR`, `HTTPS_PROXY` and `NO_PROXY`
    /// count.
    #[arg(long, value_name = "URL", conflicts_with_all = ["repository", "config", "data_dir"])]
    pub to: Option<Secret>,
    /// The user at the registry.
    #[arg(long, value_name = "NAME", requires_all = ["password_file", "to"])]
    pub username: Option<String>,
    /// A file with the user's password.
    #[arg(long, value_name = "FILE", requires = "username")]
    pub password_file: Option<PathBuf>,
    /// PEM of authorities that are trusted beside the system's.
    #[arg(long, value_name = "FILE", requires = "to")]
    pub ca_file: Option<PathBuf>,
    /// Write the ModuleSource by which a cluster takes its modules from there, for `kubectl apply`: to this file, with mode 0600, or
    /// with `-` to the standard output. It has the login that pushed.
    #[arg(long, value_name = "FILE", requires = "to")]
    pub module_source: Option<PathBuf>,
    /// Move channels also to a release that is older than the one they lead to.
    #[arg(long)]
    pub channels_back: bool,
    /// Leave tags that the store has with another digest where they are.
    #[arg(long)]
    pub keep_tags: bool,
    /// Say what would come, and change nothing. Bytes are not hashed.
    #[arg(long)]
    pub dry_run: bool,
    /// End with 0 also if something of the bundle is missing or damaged.
    #[arg(long)]
    pub allow_missing: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Where the store is. The section store of the configuration file counts where no server runs.
    #[command(flatten)]
    pub store: StoreArguments,
}

pub(super) fn run(arguments: &BundleImportArguments) -> Result<(), Failure> {
    let whole = |path: &PathBuf| {
        std::path::absolute(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
    };
    let order = ImportOrder {
        source: SourceOrder::Bundle(arguments.paths.iter().map(whole).collect::<Result<_, _>>()?),
        repository: Some(arguments.repository.to_string()),
        moves: false,
        dry_run: arguments.dry_run,
        overwrite: !arguments.keep_tags,
        channels_back: arguments.channels_back,
    };
    carry_out(&arguments.store, &order, Told { json: arguments.json, allow_missing: arguments.allow_missing })
}
