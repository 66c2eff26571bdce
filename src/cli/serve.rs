//! `serve`: from flags and file to a running server, or to what is in force with `--check-config`.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use super::Failure;
use crate::config::{Address, Addresses, Config, Mode, Overrides, Secret};
use crate::oci::RepoName;
use crate::server::{self, CarriedBundle, RunOptions, Source};
use crate::telemetry::with_causes;

/// Flags of `serve`. A flag wins over the file.
#[derive(Debug, clap::Args)]
pub struct ServeArguments {
    /// The configuration file (YAML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Direct (passes through), Proxy (a cache) or Local (storage of its own), in any case [default: Local].
    #[arg(long, value_name = "MODE")]
    pub mode: Option<Mode>,
    /// Address of the registry, or several of one port (`10.0.0.1,fd00::1:5001`, as Kubernetes' `status.hostIPs` has them); can
    /// be given more than once [default: 127.0.0.1:5001].
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<Addresses>,
    /// Address of health checks and metrics; can be given more than once [default: 127.0.0.1:5002].
    #[arg(long, value_name = "ADDR")]
    pub admin_listen: Vec<Address>,
    /// Address of health checks alone, or several of one port as for `--listen`; can be given more than once [default: none].
    #[arg(long, value_name = "ADDR")]
    pub probe_listen: Vec<Addresses>,
    /// The data folder [default: ./data].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Serve these files of a bundle as mode Local, read only and without importing them: directories with *.tar, *.tar.NNNN.chunk or
    /// OCI layouts, or such files one by one; can be given more than once. The store in the data directory is not looked at.
    #[arg(long, value_name = "PATH")]
    pub bundle: Vec<PathBuf>,
    /// The repository of the bundle's root; its other paths are below.
    #[arg(long, value_name = "REPOSITORY", default_value = "system/deckhouse", requires = "bundle")]
    pub bundle_repository: RepoName,
    /// The upstream of modes Direct and Proxy, an address like `https://user:password@host:port/path`. A password is
    /// better kept in a file: every user of this machine can see command lines.
    #[arg(long, value_name = "URL")]
    pub upstream: Option<Secret>,
    /// End, as by SIGTERM, when another server of the same data directory starts: so a server that was there before the cluster becomes
    /// the cluster's, which waits for its end. Without it the second one refuses to start.
    #[arg(long)]
    pub give_way: bool,
    /// How long to wait for the end of another server that has the data directory and does not give way, before it is a failure: of one
    /// that was told to end, and that this one comes after.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    pub wait_for_store: Duration,
    /// Check the configuration, print what is in force, and end.
    #[arg(long)]
    pub check_config: bool,
}

pub(super) fn run(arguments: ServeArguments) -> Result<(), Failure> {
    let overrides = Overrides {
        mode: arguments.mode,
        listen: arguments.listen.into_iter().flat_map(|addresses| addresses.0).collect(),
        admin_listen: arguments.admin_listen,
        probe_listen: arguments.probe_listen.into_iter().flat_map(|addresses| addresses.0).collect(),
        data_dir: arguments.data_dir,
        upstream: arguments.upstream,
    };
    let config = Config::load(arguments.config.as_deref(), &overrides)?;
    let bundle = CarriedBundle { paths: arguments.bundle, repository: arguments.bundle_repository };
    let bundle = Some(bundle).filter(|bundle| !bundle.paths.is_empty());
    if bundle.is_some() && (config.mode != Mode::Local || config.mode_file.is_some()) {
        return Err(Failure::usage("--bundle is for mode Local, and not beside a mode file"));
    }
    if arguments.check_config {
        // A file that can't be used is wrong configuration, whatever part reads it.
        let warnings = server::check(&config).map_err(|error| Failure::usage(with_causes(&error)))?;
        for warning in warnings {
            writeln!(io::stderr(), "d8-registry: warning: {warning}")?;
        }
        return print_settings(&config);
    }
    let how = RunOptions { bundle, gives_way: arguments.give_way, patience: arguments.wait_for_store };
    Ok(server::run(config, Source { file: arguments.config, overrides }, &how)?)
}

/// Every key with the value in force and where it comes from; secrets as `***`.
fn print_settings(config: &Config) -> Result<(), Failure> {
    let settings = config.settings();
    let width = settings.iter().map(|setting| setting.key.len()).max().unwrap_or(0);
    let mut out = io::stdout().lock();
    for setting in settings {
        writeln!(out, "{:width$}  {}  ({})", setting.key, setting.value, setting.origin)?;
    }
    if config.is_open() {
        writeln!(out, "The server is open: everyone on this machine may pull, push and delete.")?;
    }
    Ok(out.flush()?)
}
