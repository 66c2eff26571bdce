//! `bundle pull`.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use secrecy::SecretString;
use tokio_util::task::TaskTracker;

use super::Failure;
use super::module_source::ModuleSource;
use crate::bundle::is_channel;
use crate::bundle::pull::{
    Choice, Components, Constraint, Far, Installer, Output, Platform, PullError, Range, Report, Source, Sources,
    Wanted, pull,
};
use crate::checker::RegistryAddress;
use crate::config::{ByteSize, Secret};
use crate::oci::Tag;
use crate::telemetry::{Metrics, with_causes};
use crate::upstream::{
    Credentials, EndpointOptions, Face, ProxyVariables, Scheme, Upstream, UpstreamLimits, UpstreamOptions,
};
use crate::values::Release;

/// The user of a licence.
const LICENSED: &str = "license-token";
/// The smallest chunk.
const LEAST_CHUNK: u64 = 4096;

/// Flags of `bundle pull`.
#[derive(Clone, Debug, clap::Args)]
pub struct BundlePullArguments {
    /// The registry and Deckhouse's repository in it, with the edition, as `[http[s]://]HOST[:PORT]/PATH`.
    #[arg(long, value_name = "URL", required_unless_present = "module_source")]
    pub source: Option<Secret>,
    /// A ModuleSource in YAML: modules come from its repository, with its login. Without --source they alone are wanted.
    #[arg(long, value_name = "FILE")]
    pub module_source: Option<PathBuf>,
    /// Where the bundle goes; made if it is missing. What a run that was ended left there is gone on with.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A file with the licence key, which is the password of user license-token.
    #[arg(long, value_name = "FILE", conflicts_with = "username")]
    pub license_file: Option<PathBuf>,
    /// The user at the registry.
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub username: Option<String>,
    /// A file with the user's password.
    #[arg(long, value_name = "FILE", requires = "username")]
    pub password_file: Option<PathBuf>,
    /// PEM of authorities that are trusted beside the system's, which SSL_CERT_FILE and SSL_CERT_DIR name.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// One release of the platform, or another build's tag; all channels of the bundle lead to it.
    #[arg(long, value_name = "TAG", group = "releases_of_platform")]
    pub release: Option<Tag>,
    /// The releases from this one to that of alpha, the last patch of each minor, instead of those from rock-solid on: X.Y or
    /// X.Y.Z. Channels that lead to an older one are left out.
    #[arg(long, value_name = "VERSION", group = "releases_of_platform", value_parser = release)]
    pub min_version: Option<Release>,
    /// The releases between two, both of them and the last patch of each minor. Channels that lead to another one are left out.
    #[arg(long, value_name = "FROM..TO", group = "releases_of_platform", value_parser = between)]
    pub releases: Option<Range>,
    /// The releases within a constraint, as `d8 mirror pull --include-platform` has it: ">=1.64 <=1.68", "~1.65.0".
    #[arg(long, value_name = "CONSTRAINT", group = "releases_of_platform")]
    pub include_platform: Option<Constraint>,
    /// The release of this channel, and of no other; can be given more than once.
    #[arg(long, value_name = "NAME", group = "releases_of_platform", value_parser = channel)]
    pub channel: Vec<String>,
    /// No platform.
    #[arg(long, conflicts_with = "releases_of_platform")]
    pub no_platform: bool,
    /// The installer's tag; it has to be there then [default: latest, if there is one].
    #[arg(long, value_name = "TAG", conflicts_with = "no_installer")]
    pub installer_tag: Option<Tag>,
    /// No installer.
    #[arg(long)]
    pub no_installer: bool,
    /// No security databases.
    #[arg(long)]
    pub no_security: bool,
    /// This module and no others, with the versions that its channels lead to and those within the constraint; can be given more
    /// than once. The constraint is that of `d8 mirror pull`: 1.3.0 (to the end of its major line), "~1.3.0", ">=1.3.0 <=1.4.0",
    /// =v1.3.0 (this tag alone, to which all channels lead), =v1.3.0+stable.
    #[arg(long, value_name = "NAME[@CONSTRAINT]")]
    pub include_module: Vec<Wanted>,
    /// All modules but this one; can be given more than once.
    #[arg(long, value_name = "NAME", conflicts_with = "include_module")]
    pub exclude_module: Vec<String>,
    /// No modules.
    #[arg(long, conflicts_with_all = ["include_module", "exclude_module"])]
    pub no_modules: bool,
    /// This package and no others, as --include-module.
    #[arg(long, value_name = "NAME[@CONSTRAINT]")]
    pub include_package: Vec<Wanted>,
    /// All packages but this one; can be given more than once.
    #[arg(long, value_name = "NAME", conflicts_with = "include_package")]
    pub exclude_package: Vec<String>,
    /// No packages.
    #[arg(long, conflicts_with_all = ["include_package", "exclude_package"])]
    pub no_packages: bool,
    /// This plugin of the command line beside those whose contracts name a module that is taken, its newest version within the
    /// constraint, with the plugins that it needs; can be given more than once.
    #[arg(long, value_name = "NAME[@CONSTRAINT]")]
    pub include_plugin: Vec<Wanted>,
    /// No plugins.
    #[arg(long, conflicts_with = "include_plugin")]
    pub no_plugins: bool,
    /// No attestations.
    #[arg(long)]
    pub no_attestations: bool,
    /// Take the releases of channels that are suspended.
    #[arg(long)]
    pub ignore_suspend: bool,
    /// Split each archive into chunks of so many bytes, such as 4000MB [default: one file each].
    #[arg(long, value_name = "SIZE")]
    pub chunk_size: Option<ByteSize>,
    /// Write the GOST sum (R 34.11-2012, 256 bits) of each file beside it, FILE.gostsum; some 7 s for a GB and processor.
    #[arg(long)]
    pub gost: bool,
    /// Replace archives in DIR that have other contents.
    #[arg(long)]
    pub force: bool,
    /// How long a registry that fails, or is asked too often, is asked again without a byte from it.
    #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = humantime::parse_duration)]
    pub patience: Duration,
    /// Say what would come and how large it is, and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// A release of which the patch may be left out.
fn release(text: &str) -> Result<Release, String> {
    let plain = text.strip_prefix('v').unwrap_or(text);
    let patch = if plain.split('.').count() == 2 { ".0" } else { "" };
    format!("v{plain}{patch}").parse().map_err(|_| format!("{text:?} is no version; write 1.70 or 1.70.1"))
}

fn between(text: &str) -> Result<Range, String> {
    let (from, to) = text.split_once("..").ok_or("write FROM..TO, such as v1.70.1..v1.72.0")?;
    let (from, to) = (release(from)?, release(to)?);
    if from > to { Err(format!("{from} is newer than {to}")) } else { Ok(Range::between(&from, &to)) }
}

fn channel(text: &str) -> Result<String, String> {
    if is_channel(text) { Ok(text.to_owned()) } else { Err(format!("{text:?} is no channel")) }
}

pub(super) fn run(arguments: &BundlePullArguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let sources = arguments.sources(runtime.handle())?;
    let (choice, output) = (arguments.choice()?, arguments.output()?);
    let bar = ProgressBar::new(0);
    let said = pull(&sources, &choice, &output, &|far| show_how_far(&bar, far));
    bar.finish_and_clear();
    // What is under way of the client has nobody left who waits for it.
    runtime.shutdown_background();
    let report = said.map_err(|error| match &error {
        PullError::Choice(_) | PullError::Foreign { .. } => Failure::usage(error.to_string()),
        _ => Failure::failed(&error),
    })?;
    let mut out = io::stdout().lock();
    if arguments.json {
        let text = serde_json::to_string_pretty(&report).map_err(|error| Failure::failed(&error))?;
        writeln!(out, "{text}")?;
    } else {
        print(&report, &mut out)?;
    }
    Ok(out.flush()?)
}

impl BundlePullArguments {
    fn sources(&self, runtime: &tokio::runtime::Handle) -> Result<Sources, Failure> {
        let ca = self.ca_file.as_deref().map(read).transpose()?;
        let connect = |address: RegistryAddress, credentials: Credentials, ca: Option<String>| {
            let RegistryAddress { scheme, host, path, .. } = address;
            let endpoint = EndpointOptions {
                scheme,
                host: host.clone(),
                path: path.clone(),
                ca: ca.filter(|_| scheme == Scheme::Https),
                credentials,
            };
            let options = UpstreamOptions {
                endpoints: vec![endpoint],
                trusted_hosts: Vec::new(),
                proxy: ProxyVariables::from_environment(),
                limits: UpstreamLimits::default(),
                face: Face::Clients,
            };
            let metrics = Metrics::new().map_err(|error| Failure::failed(&error))?;
            let upstream = Upstream::new(&options, metrics, TaskTracker::new());
            let upstream = upstream.map_err(|error| Failure::usage(with_causes(&error)))?;
            Ok::<_, Failure>(Arc::new(Source::new(upstream, &host, &path, runtime.clone(), self.patience)))
        };
        let edition = match &self.source {
            Some(text) => Some(connect(address(text.expose())?, self.credentials()?, ca.clone())?),
            None => None,
        };
        let modules = match &self.module_source {
            Some(file) => {
                let found = ModuleSource::parse(&read(file)?);
                let found = found.map_err(|why| Failure::usage(format!("{}: {why}", file.display())))?;
                let ModuleSource { address, credentials, ca: own } = found;
                Some(connect(address, credentials, own.or(ca))?)
            }
            None => None,
        };
        Ok(Sources { edition, modules })
    }

    fn credentials(&self) -> Result<Credentials, Failure> {
        match (&self.username, &self.password_file, &self.license_file) {
            (Some(user), Some(file), _) => login(user, file),
            (_, _, Some(file)) => login(LICENSED, file),
            _ => Ok(Credentials::Anonymous),
        }
    }

    fn choice(&self) -> Result<Choice, Failure> {
        let platform = match (&self.release, &self.releases, &self.include_platform) {
            _ if self.no_platform => None,
            (Some(tag), ..) | (None, None, Some(Constraint::Exact(tag, _))) => Some(Platform::One(tag.clone())),
            (None, Some(range), _) | (None, None, Some(Constraint::Range(range))) => {
                Some(Platform::Range(range.clone()))
            }
            (None, None, None) if !self.channel.is_empty() => {
                Some(Platform::OfChannels(self.channel.iter().cloned().collect::<BTreeSet<_>>()))
            }
            (None, None, None) => Some(Platform::Channels(self.min_version.clone())),
        };
        let latest = || "latest".parse().map_err(|_| Failure::usage("--installer-tag: latest is no tag"));
        let installer = match &self.installer_tag {
            _ if self.no_installer => None,
            Some(tag) => Some(Installer { tag: tag.clone(), is_required: true }),
            None => Some(Installer { tag: latest()?, is_required: false }),
        };
        Ok(Choice {
            platform,
            installer,
            security: !self.no_security,
            ignore_suspend: self.ignore_suspend,
            without_attestations: self.no_attestations,
            modules: components(self.no_modules, &self.include_module, &self.exclude_module),
            packages: components(self.no_packages, &self.include_package, &self.exclude_package),
            plugins: (!self.no_plugins).then(|| self.include_plugin.clone()),
        })
    }

    fn output(&self) -> Result<Output, Failure> {
        let chunk = self.chunk_size.map(|size| size.0);
        if chunk.is_some_and(|chunk| chunk < LEAST_CHUNK) {
            return Err(Failure::usage(format!("--chunk-size: at least {LEAST_CHUNK} bytes")));
        }
        Ok(Output { dir: self.out.clone(), chunk, gost: self.gost, force: self.force, dry_run: self.dry_run })
    }
}

fn components(none: bool, these: &[Wanted], without: &[String]) -> Components {
    match none {
        true => Components::None,
        false if these.is_empty() => Components::AllBut(without.iter().cloned().collect()),
        false => Components::These(these.to_vec()),
    }
}

/// The address of Deckhouse's repository; without a scheme over TLS, as `d8` writes it.
fn address(text: &str) -> Result<RegistryAddress, Failure> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let address: RegistryAddress = whole.parse().map_err(|error| Failure::usage(format!("--source: {error}")))?;
    if address.reference.is_some() || address.path.is_empty() {
        return Err(Failure::usage("--source: names a repository, without tag or digest"));
    }
    Ok(address)
}

fn login(user: &str, file: &Path) -> Result<Credentials, Failure> {
    let password = read(file)?.trim_end_matches(['\r', '\n']).to_owned();
    if password.is_empty() || user.is_empty() || user.contains(':') {
        return Err(Failure::usage(format!("{} is empty, or the user's name is, or has a colon", file.display())));
    }
    Ok(Credentials::Basic { user: user.to_owned(), password: SecretString::from(password) })
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| Failure::usage(format!("{} can't be read: {error}", file.display())))
}

fn show_how_far(bar: &ProgressBar, far: Far) {
    let style = |form: &str| {
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style);
        }
    };
    match far {
        Far::Looking(bytes) => {
            style("{spinner} what there is: {bytes} {elapsed}");
            bar.inc(bytes);
        }
        Far::Fetching(bytes) => {
            style("{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left");
            bar.reset();
            bar.set_length(bytes);
        }
        Far::Fetched(bytes) => bar.inc(bytes),
        Far::Packing(_) | Far::Packed(_) => bar.tick(),
    }
}

fn print(report: &Report, out: &mut impl io::Write) -> io::Result<()> {
    if !report.releases.is_empty() {
        let channels: Vec<String> =
            report.channels.iter().map(|(channel, release)| format!("{channel} {release}")).collect();
        let channels = if channels.is_empty() { String::new() } else { format!(" ({})", channels.join(", ")) };
        writeln!(out, "platform: {}{channels}", report.releases.join(" "))?;
    }
    for archive in &report.archives {
        let (bytes, files, tags) = (archive.bytes, archive.files, archive.tags);
        let there = if archive.present { ", was there" } else { "" };
        writeln!(out, "{}: {bytes} bytes in {files} files, {tags} tags{there}", archive.name)?;
    }
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    let (come, present) = (report.fetched_bytes, report.present_bytes);
    if report.dry_run {
        let (bytes, needed) = (report.bytes, report.needed_bytes);
        writeln!(
            out,
            "{come} bytes would come, {present} are there; the bundle has {bytes} bytes, and needs {needed} of free disk"
        )
    } else {
        writeln!(out, "{come} bytes came, {present} were there; the bundle has {} bytes", report.bytes)
    }
}
