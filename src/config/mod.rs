//! The configuration: a YAML file and a few flags, read into values that can't be wrong, and read again when they change.
//!
//! `keys` defines every key once; `definition` has the form of a definition and what follows from one. `yaml` reads the file
//! into the shapes, `parse` makes the [`Config`], `rules` checks keys against each other, `warnings` says what is right and
//! probably not meant; `upstream` reads the section of that name, with the files that credentials come in (`dockerConfigFile`,
//! `secret_dir`), `upstream_routes` what is known of an upstream whoever names it. `settings` lists what is in force, `schema` is the JSON Schema. [`watch`] sees that a file changed,
//! [`reload`] acts on it. This module opens no socket and no store; it imports none of the parts.
//!
//! A new key that a part reads while the server runs is added in five places:
//!
//! 1. its definition in `keys`: name, default, bounds, `Live`, documentation;
//! 2. the field of the part's options;
//! 3. the line in `server/options.rs` that hands the value over;
//! 4. the code of the part that obeys it;
//! 5. `docs/reference/configuration.md`, which `make reference` writes.
//!
//! The value in force, `--check-config`, the list of known keys in errors, bounds and their errors, the schema and the reload
//! follow from the first.

mod definition;
mod error;
mod images_repo;
mod keys;
mod mode_file;
mod one_or_many;
mod origin;
mod parse;
pub mod reload;
mod rules;
mod schema;
mod secret_dir;
mod settings;
mod stale_on;
mod upstream;
mod upstream_routes;
mod warnings;
pub mod watch;
mod yaml;

#[cfg(test)]
mod tests;

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::values::{
    Acceleration, AccessMode, Address, Addresses, Anonymous, AnyMode, ByteSize, ConfigDuration, InvalidValue, Level,
    LogFormat, MinCopies, MissingReferences, Mode, PasswordHash, Phase, Reserve, Role, Scheme, Secret, StaleCause,
    WhenShort,
};
pub use definition::{Change, DefaultValue, KeyInfo};
pub use error::{ConfigError, KeyError, Position};
pub use keys::{
    AuthSettings, GcSettings, Limits, LogSettings, ManifestSettings, ProxySettings, ReleaseSettings, ReplicasSettings,
    RetentionSettings, ScrubSettings, StoreSettings, TokenSettings,
};
pub use mode_file::{Coming, FoundModeFile, InForce, MAX_PREVIOUS, ModeFile, ModeFileKey, ModeSpec};
pub use origin::{Origin, Setting};
pub use stale_on::StaleOn;
pub use upstream::{EndpointSettings, UpstreamCredentials, UpstreamSettings};
pub use upstream_routes::UpstreamRoutes;

use crate::oci::RepoName;
use crate::values::host::canonical_host;
use crate::values::{self, FilePath, Pattern};
use definition::{Below, Written};
use origin::Origins;

/// Largest configuration file that is read; a Kubernetes Secret can't hold more.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Everything that can be set, checked and complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What a registry operation means.
    pub mode: Mode,
    /// The file that says it in the place of the keys, and what is in it.
    pub mode_file: Option<ModeFileKey>,
    /// The name under which clients find the upstream's repository and everything below it.
    pub repository: RepoName,
    /// More names, and the repositories of the same registry that each leads to.
    pub repositories: Vec<MappedRepository>,
    /// Addresses of the registry; at least one, none twice.
    pub listen: Vec<Address>,
    /// Addresses of health checks and metrics; at least one, none twice.
    pub admin_listen: Vec<Address>,
    /// Addresses of health checks alone; none twice, and there may be none.
    pub probe_listen: Vec<Address>,
    /// TLS of the registry's addresses.
    pub tls: Tls,
    /// The data folder.
    pub store: StoreSettings,
    /// The registry behind this one; there in modes Direct and Proxy, and unused in Local.
    pub upstream: Option<UpstreamSettings>,
    /// How registries are reached; in `upstream` already.
    pub upstream_routes: UpstreamRoutes,
    /// What the cache keeps, and for how long.
    pub proxy: ProxySettings,
    /// Who may do what.
    pub auth: AuthSettings,
    /// What manifests are taken.
    pub manifests: ManifestSettings,
    /// What is collected, and when.
    pub gc: GcSettings,
    /// How often all that is stored is looked at.
    pub scrub: ScrubSettings,
    /// Which tags go by rules.
    pub retention: RetentionSettings,
    /// Other masters with a Local of their own.
    pub replicas: ReplicasSettings,
    /// What bounds the work.
    pub limits: Limits,
    /// The log.
    pub log: LogSettings,
    /// The keys of `upstream` as they are shown, and the files they name.
    upstream_notes: upstream::Notes,
    /// Where each key's value comes from.
    origins: Origins,
}

impl MappedRepository {
    /// Whether the name leads to the registry of this upstream: with a mode file the upstream changes and the names stay.
    #[must_use]
    pub fn leads_to(&self, upstream: &EndpointSettings) -> bool {
        let canonical = |host: &str| canonical_host(host, upstream.scheme);
        self.host.as_ref().is_none_or(|host| canonical(host) == canonical(&upstream.host))
    }
}

/// A name under which clients find a repository of the upstream and everything below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedRepository {
    /// The clients' name.
    pub name: RepoName,
    /// `host[:port]` of the registry as written, the upstream's own one; `None`: not said.
    pub host: Option<String>,
    /// The repository there, without slashes at its ends; `None`: that of `upstream.imagesRepo`.
    pub path: Option<String>,
}

/// TLS of the registry's addresses. The admin and probe addresses always speak plain HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Plain HTTP; `forced` if `tls.disabled` says so rather than the lack of a certificate.
    Off {
        /// `tls.disabled: true`.
        forced: bool,
    },
    /// HTTPS.
    On(TlsFiles),
}

/// What HTTPS is served with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM of the certificate and its chain.
    pub cert_file: PathBuf,
    /// PEM of its key.
    pub key_file: PathBuf,
    /// PEM of the authorities of client certificates; `None`: none are asked for.
    pub client_ca_file: Option<PathBuf>,
    /// Common names or alternative names of the clients whose `X-Forwarded-*` headers count.
    pub trusted_proxy_names: Vec<String>,
    /// PEM of the authorities of the controller's certificate; `None`: there is no controller.
    pub controller_ca_file: Option<PathBuf>,
}

/// A user of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name: no colon, no control character, 1 to 255 bytes.
    pub name: String,
    /// A bcrypt hash.
    pub password_hash: PasswordHash,
    /// As configured, else the name if it is a role, else [`Role::Ro`].
    pub role: Role,
}

/// A rule of retention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionRule {
    /// The names of the repositories that it is for.
    pub repositories: Pattern,
    /// The number of tags that stay for having been pushed last.
    pub newest: Option<u32>,
    /// Tags that were pushed within this time stay.
    pub pushed_within: Option<Duration>,
    /// Tags whose image was pulled within this time stay.
    pub pulled_within: Option<Duration>,
    /// Tags that fit one of these stay.
    pub matching: Vec<Pattern>,
}

/// Whether there is a token service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenSwitch {
    /// As soon as there are users.
    WithUsers,
    /// Yes.
    On,
    /// No: Basic alone.
    Off,
}

impl TokenSwitch {
    /// The value as `--check-config` shows it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::WithUsers => "with users",
            Self::On => "true",
            Self::Off => "false",
        }
    }
}

/// What the command line says; it wins over the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--mode`.
    pub mode: Option<Mode>,
    /// `--listen`; empty: not given.
    pub listen: Vec<Address>,
    /// `--admin-listen`; empty: not given.
    pub admin_listen: Vec<Address>,
    /// `--probe-listen`; empty: not given.
    pub probe_listen: Vec<Address>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--upstream`: a URL, which may hold a password.
    pub upstream: Option<Secret>,
}

/// What defaults are derived from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Cores this process may use.
    pub cores: u32,
    /// Whether the log goes to a terminal.
    pub terminal: bool,
}

/// What a reload found.
#[derive(Clone, Debug, PartialEq)]
pub struct Reloaded {
    /// What can be put into force now: the new values of live keys beside the old ones of the others.
    pub config: Config,
    /// Keys whose new value needs a restart; empty if everything is in force.
    pub restart_keys: Vec<String>,
}

impl Machine {
    /// This machine. The standard library takes the least of cores, CPU affinity and cgroup quota (v1 and v2,
    /// rounded down, at least 1), so a pod limited to half a core counts one.
    #[must_use]
    pub fn here() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        Self { cores, terminal: std::io::stderr().is_terminal() }
    }
}

impl Overrides {
    /// The flag that was given for `key` or is that key.
    fn flag_for(&self, key: &str) -> Option<&'static str> {
        match key {
            "mode" if self.mode.is_some() => Some("--mode"),
            "listen" if !self.listen.is_empty() => Some("--listen"),
            "adminListen" if !self.admin_listen.is_empty() => Some("--admin-listen"),
            "probeListen" if !self.probe_listen.is_empty() => Some("--probe-listen"),
            "store.dir" if self.data_dir.is_some() => Some("--data-dir"),
            "--upstream" => Some("--upstream"),
            "upstream.imagesRepo" if self.upstream.is_some() => Some("--upstream"),
            _ => None,
        }
    }
}

impl Config {
    /// Reads `path` (none: all defaults), the files that `upstream` names, and the flags; blocking.
    ///
    /// # Errors
    /// [`ConfigError`] with file, line and key.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let text = path.map(read_file).transpose()?.unwrap_or_default();
        Self::parse(&text, path, overrides, Machine::here())
    }

    /// Reads `text`; `file` is what errors call it. Blocking where `upstream` names files, else pure.
    ///
    /// # Errors
    /// [`ConfigError::Key`].
    pub fn parse(
        text: &str,
        file: Option<&Path>,
        overrides: &Overrides,
        machine: Machine,
    ) -> Result<Self, ConfigError> {
        parse::parse(text, overrides, machine).map_err(|mut error| {
            if let Some(flag) = overrides.flag_for(&error.key) {
                flag.clone_into(&mut error.key);
                return ConfigError::Key(error);
            }
            error.file = file.map(Path::to_path_buf);
            if error.position.is_none() && !error.key.is_empty() {
                error.position = yaml::locate(text, &error.key);
            }
            ConfigError::Key(error)
        })
    }

    /// Reads the same file and flags again. Keys that need a restart keep the value in force, and the rules across
    /// keys hold for that mixture too: a server that listens to the world is not opened by a file that would
    /// have it listen on loopback after a restart. Blocking.
    ///
    /// # Errors
    /// [`ConfigError`]; the configuration in force stays.
    pub fn reload(&self, path: Option<&Path>, overrides: &Overrides) -> Result<Reloaded, ConfigError> {
        let fresh = Self::load(path, overrides)?;
        let restart_keys = Self::restart_keys_changed(self, &fresh);
        let mut config = fresh;
        config.keep_restart_keys(self);
        rules::check(&mut config).map_err(|mut error| {
            error.file = path.map(Path::to_path_buf);
            ConfigError::Key(error)
        })?;
        Ok(Reloaded { config, restart_keys })
    }

    /// Files and folders whose content the running server depends on, `file` (the configuration) first.
    #[must_use]
    pub fn watched_paths(&self, file: Option<&Path>) -> Vec<PathBuf> {
        let mut paths: Vec<PathBuf> = file.map(Path::to_path_buf).into_iter().collect();
        if let Tls::On(tls) = &self.tls {
            paths.extend([tls.cert_file.clone(), tls.key_file.clone()]);
            paths.extend(tls.client_ca_file.iter().chain(&tls.controller_ca_file).cloned());
        }
        paths.extend(self.replicas.ca.clone());
        paths.extend(self.mode_file.as_ref().map(|key| key.path.clone()));
        paths.extend_from_slice(&self.upstream_notes.files);
        let token = &self.auth.token;
        paths.extend(
            [&self.auth.users_dir, &token.signing_key_file, &token.signing_cert_file].into_iter().flatten().cloned(),
        );
        paths
    }

    /// The name of the mode: that of the mode file, else that of the keys.
    #[must_use]
    pub fn mode_name(&self) -> &'static str {
        self.mode_file.as_ref().and_then(ModeFileKey::read).map_or(self.mode.as_str(), |file| file.in_force.as_str())
    }

    /// Whether the server is open: nothing was said of rights and users, and only this machine can reach it. Then
    /// `auth.anonymous` is [`Anonymous::Push`].
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.auth.anonymous == Anonymous::Push && self.origins.of("auth.anonymous") == Origin::Default
    }

    /// Whether users are configured, be it that the folder of users is still empty. The upstream's user counts.
    #[must_use]
    pub fn has_users(&self) -> bool {
        !self.auth.users.is_empty() || self.auth.users_dir.is_some() || self.has_upstream_login()
    }

    /// Whether user and password of an upstream may sign in here (`auth.upstreamUser`). Mirrors' don't.
    #[must_use]
    pub fn has_upstream_login(&self) -> bool {
        let file = self.mode_file.as_ref().and_then(ModeFileKey::read);
        let by_key = self.upstream.as_ref().is_some_and(|upstream| upstream.endpoint.login().is_some());
        self.auth.upstream_user && (by_key || file.is_some_and(|file| file.logins().next().is_some()))
    }
}

/// The data directory that a file and a flag name, for commands that need nothing else of a configuration: the files it
/// names may not be there yet. Blocking.
///
/// # Errors
/// [`ConfigError`] if the file is not of the right shape.
pub fn data_dir(path: Option<&Path>, flag: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
    let file: keys::File = path.map(read_yaml).transpose()?.unwrap_or_default();
    let from_file = file.store.and_then(|store| store.dir).map(|FilePath(dir)| dir);
    Ok(flag.or(from_file).unwrap_or_else(|| PathBuf::from(keys::DEFAULT_DIR)))
}

/// The file of pins that a configuration names, for commands that need nothing else of it. Blocking.
///
/// # Errors
/// [`ConfigError`] if the file is not of the right shape.
pub fn pins_file(path: Option<&Path>) -> Result<Option<PathBuf>, ConfigError> {
    let file: keys::File = path.map(read_yaml).transpose()?.unwrap_or_default();
    Ok(file.store.and_then(|store| store.pins).map(|FilePath(path)| path))
}

/// The sections `gc` and `retention` of a file, for commands that need nothing else of a configuration. Blocking.
///
/// # Errors
/// [`ConfigError`] if the file is not of the right shape, or a section is wrong.
pub fn gc_settings(path: Option<&Path>) -> Result<(GcSettings, RetentionSettings), ConfigError> {
    let file: keys::File = path.map(read_yaml).transpose()?.unwrap_or_default();
    parse::gc(file.gc, file.retention, Machine::here()).map_err(|mut error| {
        error.file = path.map(Path::to_path_buf);
        ConfigError::Key(error)
    })
}

/// The section `manifests` of a file, for commands that need nothing else of a configuration. Blocking.
///
/// # Errors
/// As [`gc_settings`].
pub fn manifest_settings(path: Option<&Path>) -> Result<ManifestSettings, ConfigError> {
    let file: keys::File = path.map(read_yaml).transpose()?.unwrap_or_default();
    parse::manifests(file.manifests, Machine::here()).map_err(|mut error| {
        error.file = path.map(Path::to_path_buf);
        ConfigError::Key(error)
    })
}

/// The section `store` of a file, for commands that need nothing else of a configuration. Blocking.
///
/// # Errors
/// [`ConfigError`] if the file is not of the right shape, or the section is wrong.
pub fn store_settings(path: Option<&Path>) -> Result<StoreSettings, ConfigError> {
    let file: keys::File = path.map(read_yaml).transpose()?.unwrap_or_default();
    parse::store(file.store, Machine::here()).map_err(|mut error| {
        error.file = path.map(Path::to_path_buf);
        ConfigError::Key(error)
    })
}

/// Every key of the file, in its order.
#[must_use]
pub fn keys() -> Vec<KeyInfo> {
    let mut found = Vec::new();
    keys::File::keys(Below::info(), &mut found);
    found
}

/// The JSON Schema (2020-12) of the file, for editors and for checks before a rollout.
///
/// It knows each key by itself: names, types, words, bounds of numbers. Rules across keys, bounds of durations, and what lies
/// in the files that are named are `--check-config`'s. It wants words as the reference writes them, and numbers as numbers;
/// the program takes more.
#[must_use]
pub fn schema() -> serde_json::Value {
    let mut schema = keys::File::schema();
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "The configuration of d8-registry".into();
    schema
}

/// Reads a YAML file of another shape than the server's, with the same limits and the same silence about values; an empty
/// one is the default of everything. Blocking.
///
/// # Errors
/// [`ConfigError`].
pub fn read_yaml<T: serde::de::DeserializeOwned + Default>(path: &Path) -> Result<T, ConfigError> {
    yaml_of(&read_file(path)?).map_err(|error| ConfigError::Key(KeyError { file: Some(path.to_path_buf()), ..error }))
}

/// The same of a text.
///
/// # Errors
/// [`KeyError`], without a file.
pub fn yaml_of<T: serde::de::DeserializeOwned + Default>(text: &str) -> Result<T, KeyError> {
    yaml::read(text).map_err(|error| {
        let yaml::YamlError { key, position, message, .. } = error;
        KeyError { file: None, position, key, message }
    })
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_path_buf(), source };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(read)?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(read)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_path_buf(), limit: MAX_FILE_BYTES });
    }
    Ok(text)
}

/// The login for `host` (`host[:port]`) in the text of a `.dockerconfigjson`.
///
/// # Errors
/// A sentence that names hosts and no secret: another text, or no entry of the host.
pub fn docker_login(text: &str, host: &str, scheme: Scheme) -> Result<UpstreamCredentials, String> {
    Ok(match values::docker_login(text, host, scheme)? {
        None => UpstreamCredentials::Anonymous,
        Some((username, password)) => UpstreamCredentials::Login { username, password },
    })
}
