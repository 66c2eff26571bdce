//! `check`: reads the list, sets the clients up, and says what was found.

mod list;
mod output;
mod stored;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use secrecy::SecretString;
use tokio_util::task::TaskTracker;

pub(super) use self::list::List;
use super::Failure;
use crate::checker::{Check, CheckMode, Depth, Pace, RegistryAddress, RepeatedCheck, Report, Target, TargetOptions};
use crate::config::{self, Mode, Secret, UpstreamCredentials};
use crate::oci::{RepoName, Tag};
use crate::telemetry::{Metrics, with_causes};
use crate::upstream::{Credentials, ProxyVariables, Upstream};

/// The shortest pause between two runs.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Flags of `check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArguments {
    /// What has to be there: lines of `[SOURCE] IMAGE`, a JSON array of `{"source", "image"}`, or Deckhouse's
    /// images_digests.json. Of an image only tag or digest counts, and a path that begins with a slash.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present_any = ["from_registry", "release", "from_cluster", "bundle"],
        conflicts_with_all = ["from_registry", "release"]
    )]
    pub images: Option<PathBuf>,
    /// Takes the list from a registry: every tag of a repository, or the one that the address ends with. With --release:
    /// or --from-cluster: the repository of its install image.
    #[arg(long, value_name = "REF")]
    pub from_registry: Option<Secret>,
    /// Takes the list from the install image of this release of Deckhouse, a tag like v1.70.1: the images of all its modules
    /// and its own. The install image is read from --from-registry, else from the first --registry.
    #[arg(long, value_name = "VERSION")]
    pub release: Option<Tag>,
    /// Takes the list from a cluster: the images of its embedded, critical modules and of Deployment deckhouse, as Deckhouse's own
    /// checker does. The install image of the release that runs is read from --from-registry, else from the cluster's registry.
    #[arg(long, conflicts_with_all = ["images", "release"])]
    pub from_cluster: bool,
    /// Takes the list from the files of a bundle, or directories with them: every tag of it, with the digest that it has there. What
    /// is missing is told with the file that has it.
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with_all = ["images", "from_registry", "release", "from_cluster"])]
    pub bundle: Vec<PathBuf>,
    /// How --from-cluster reaches the API server [default: KUBECONFIG, the pod's ServiceAccount, ~/.kube/config].
    #[arg(long, value_name = "FILE", requires = "from_cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// Deckhouse's namespace, for --from-cluster.
    #[arg(long, value_name = "NAME", default_value = "d8-system")]
    pub namespace: String,
    /// A registry that is checked, as `[NAME=]http[s]://host[:port][/repository]`; can be given more than once.
    #[arg(long, value_name = "URL", required_unless_present = "data_dir", num_args = 1..)]
    pub registry: Vec<Secret>,
    /// Look into the store in this directory instead, beside its server or without one. With --deep damaged bytes pass here too.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["registry", "watch", "repeat", "answered_by"])]
    pub data_dir: Option<PathBuf>,
    /// The repository of the images in that store [default: system/deckhouse].
    #[arg(long, value_name = "REPOSITORY", requires = "data_dir")]
    pub repository: Option<RepoName>,
    /// Default: all of the list; Relax: only deckhouse/containers/deckhouse, by its tag.
    #[arg(long, value_name = "MODE", default_value = "Default", ignore_case = true, value_parser = mode())]
    pub mode: CheckMode,
    /// Ask again until everything is there. A run takes 30 s at most; a list from a file or a cluster is made anew before each.
    #[arg(long)]
    pub watch: bool,
    /// The pause between two runs of --watch, at least 100ms.
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = humantime::parse_duration)]
    pub interval: Duration,
    /// As --watch, and go on when everything is there: all of it is asked for again SPAN after it was last begun. A line is
    /// printed whenever the findings change.
    #[arg(long, value_name = "SPAN", value_parser = humantime::parse_duration)]
    pub repeat: Option<Duration>,
    /// Ask for every layer of every platform too, and its length; nothing of it is downloaded, so damaged bytes pass.
    #[arg(long)]
    pub deep: bool,
    /// Download every layer of every platform and hash it; what the bytes are not is an error. Nothing is kept.
    #[arg(long)]
    pub content: bool,
    /// The mode that has to answer, of d8-registries: while one is filled for Local, its other users are answered from the
    /// mode in force. What another mode answers is an error.
    #[arg(long, value_name = "MODE")]
    pub answered_by: Option<Mode>,
    /// Write the list into FILE too, in the form of store.pins, for store.expected: the digests, with the release of --release. What the
    /// list has by tag is asked for its digest at --from-registry, else at the first --registry. FILE is there whole, or as it was.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["watch", "repeat"])]
    pub output: Option<PathBuf>,
    /// Print JSON, with all errors: one line a report.
    #[arg(long)]
    pub json: bool,
    /// The user, for every registry.
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub username: Option<String>,
    /// A file with the user's password.
    #[arg(long, value_name = "FILE", requires = "username")]
    pub password_file: Option<PathBuf>,
    /// A .dockerconfigjson with the login of every registry.
    #[arg(long, value_name = "FILE", conflicts_with = "username")]
    pub docker_config: Option<PathBuf>,
    /// PEM of authorities that are trusted beside the system's.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

fn mode() -> impl clap::builder::TypedValueParser<Value = CheckMode> {
    use clap::builder::TypedValueParser as _;
    clap::builder::PossibleValuesParser::new(CheckMode::ALL.map(CheckMode::as_str)).try_map(|name| name.parse())
}

/// What every client is made with.
pub(super) struct Access {
    ca: Option<String>,
    login: Login,
    pub(super) metrics: Metrics,
    pub(super) tasks: TaskTracker,
}

enum Login {
    Nobody,
    User { name: String, password: String },
    DockerConfig { file: PathBuf, text: String },
}

/// Checks, and fails if not everything is there.
pub(super) fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let access = Access::read(arguments)?;
    let mut targets: Vec<Target> = Vec::new();
    for text in &arguments.registry {
        let address = address("--registry", text)?;
        if address.reference.is_some() {
            return Err(Failure::usage("--registry: names a repository, without tag or digest"));
        }
        if targets.iter().any(|target| target.name() == address.name) {
            return Err(Failure::usage(format!("--registry: two are called {}; write NAME=URL", address.name)));
        }
        let options = TargetOptions { mode: arguments.answered_by, ..access.options(address)? };
        let target = Target::connect(options, access.metrics.clone(), access.tasks.clone());
        targets.push(target.map_err(|error| Failure::usage(with_causes(&error)))?);
    }
    let (mut list, items) = runtime.block_on(Box::pin(List::of(arguments, &access)))?;
    if let Some(file) = &arguments.output {
        runtime.block_on(Box::pin(output::write(file, arguments, &access, &items)))?;
    }
    let depth = match (arguments.content, arguments.deep) {
        (true, _) => Depth::Content,
        (false, true) => Depth::Layers,
        (false, false) => Depth::Manifest,
    };
    let report = if let Some(dir) = &arguments.data_dir {
        let report = stored::check(dir, arguments, &items, depth)?;
        print(&report, arguments.json)?;
        report
    } else {
        let check = Check::new(arguments.mode, depth, items, targets);
        runtime.block_on(Box::pin(check_all(check, arguments, &mut list, &access)))?
    };
    let failed = |message| Err(Failure { exit: super::EXIT_FAILED, message });
    match list {
        _ if !report.is_good() => failed(summary(&report)),
        List::Damaged(damage) => failed(format!(
            "what is known of the bundle is there, but {damage} things of it are missing or damaged: it may have more images"
        )),
        List::File(_) | List::Once | List::Cluster(_) => Ok(()),
    }
}

async fn check_all(
    check: Check,
    arguments: &CheckArguments,
    list: &mut List<'_>,
    access: &Access,
) -> Result<Report, Failure> {
    let pause = arguments.interval.max(MIN_INTERVAL);
    let is_watched = arguments.watch || arguments.repeat.is_some();
    let pace = Pace {
        retry: pause,
        again: arguments.repeat.unwrap_or(Duration::MAX),
        // A layer that takes longer than that would begin anew for ever.
        budget: Pace::default().budget.filter(|_| is_watched && !arguments.content),
    };
    let mut check = RepeatedCheck::new(check, pace);
    if !is_watched {
        run_once(&mut check).await;
        let report = check.report();
        print(&report, arguments.json)?;
        return Ok(report);
    }
    let mut said = check.report().to_string();
    if !arguments.json {
        print(&check.report(), false)?;
    }
    loop {
        run_once(&mut check).await;
        let report = check.report();
        let words = report.to_string();
        if words != said {
            print(&report, arguments.json)?;
            said = words;
        }
        if report.is_good() && arguments.repeat.is_none() {
            return Ok(report);
        }
        loop {
            tokio::time::sleep(pause).await;
            match Box::pin(list.anew(arguments, access)).await {
                Ok(items) => items.into_iter().for_each(|items| check.replace_items(items)),
                // A file may be in the middle of being written, an API server away.
                Err(failure) => writeln!(io::stderr(), "d8-registry: {}; the list before stays", failure.message)?,
            }
            if check.next().is_none_or(|next| next <= tokio::time::Instant::now()) {
                break;
            }
        }
    }
}

/// A run with a bar, which is shown on a terminal only.
async fn run_once(check: &mut RepeatedCheck) {
    let bar = ProgressBar::new(u64::try_from(check.open()).unwrap_or(u64::MAX)).with_message("items checked");
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} {elapsed}") {
        bar.set_style(style);
    }
    check.run(&|| bar.inc(1)).await;
    bar.finish_and_clear();
}

fn print(report: &Report, json: bool) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if json {
        let text = serde_json::to_string(report).map_err(|error| Failure::failed(&error))?;
        writeln!(out, "{text}")?;
    } else {
        writeln!(out, "{report}")?;
    }
    Ok(out.flush()?)
}

fn summary(report: &Report) -> String {
    let lacking = report.registries.iter().filter(|registry| registry.processed < registry.items);
    let names: Vec<_> = lacking.map(|registry| registry.name.as_str()).collect();
    format!("not everything is at {}", names.join(", "))
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| Failure::usage(format!("{} can't be read: {error}", file.display())))
}

pub(super) fn address(flag: &str, text: &Secret) -> Result<RegistryAddress, Failure> {
    text.expose().parse().map_err(|error| Failure::usage(format!("{flag}: {error}")))
}

impl Access {
    pub(super) fn read(arguments: &CheckArguments) -> Result<Self, Failure> {
        let login = match (&arguments.username, &arguments.password_file, &arguments.docker_config) {
            (Some(name), Some(file), _) => {
                let password = read(file)?.trim_end_matches(['\r', '\n']).to_owned();
                if password.is_empty() || name.is_empty() || name.contains(':') {
                    return Err(Failure::usage(
                        "--username and --password-file: one of them is empty, or the name has a colon",
                    ));
                }
                Login::User { name: name.clone(), password }
            }
            (_, _, Some(file)) => Login::DockerConfig { file: file.clone(), text: read(file)? },
            _ => Login::Nobody,
        };
        let ca = arguments.ca_file.as_deref().map(read).transpose()?;
        let metrics = Metrics::new().map_err(|error| Failure::failed(&error))?;
        Ok(Self { ca, login, metrics, tasks: TaskTracker::new() })
    }

    /// A client with the logins of the command line.
    fn client(&self, address: &RegistryAddress) -> Result<Upstream, Failure> {
        self.client_of(&self.options(address.clone())?)
    }

    /// A client with a login of its own.
    fn client_of(&self, options: &TargetOptions) -> Result<Upstream, Failure> {
        let client = options.client(self.metrics.clone(), self.tasks.clone());
        client.map_err(|error| Failure::usage(with_causes(&error)))
    }

    pub(super) fn options(&self, address: RegistryAddress) -> Result<TargetOptions, Failure> {
        let credentials = self.credentials(&address)?;
        let proxy = ProxyVariables::from_environment();
        Ok(TargetOptions { address, ca: self.ca.clone(), credentials, proxy, mode: None })
    }

    fn credentials(&self, address: &RegistryAddress) -> Result<Credentials, Failure> {
        let basic = |user: &str, password: &str| Credentials::Basic {
            user: user.to_owned(),
            password: SecretString::from(password.to_owned()),
        };
        match &self.login {
            Login::Nobody => Ok(Credentials::Anonymous),
            Login::User { name, password } => Ok(basic(name, password)),
            Login::DockerConfig { file, text } => match config::docker_login(text, &address.host, address.scheme) {
                Ok(UpstreamCredentials::Anonymous) => Ok(Credentials::Anonymous),
                Ok(UpstreamCredentials::Login { username, password }) => Ok(basic(&username, password.expose())),
                Err(reason) => Err(Failure::usage(format!("{}: {reason}", file.display()))),
            },
        }
    }
}
