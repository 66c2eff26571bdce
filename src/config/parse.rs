//! From the raw shapes and the flags to a [`Config`]: defaults, and the bounds of each value.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::error::KeyError;
use super::images_repo::canonical;
use super::keys::{Raw, RawAuth, RawLimits, RawLog, RawManifests, RawRepository, RawStore, RawTls, RawToken, RawUser};
use super::settings::{KEYS, KeyInfo, Origin, Origins};
use super::upstream::{self, Section, UpstreamSettings};
use super::{
    AuthSettings, Config, Limits, LogSettings, Machine, ManifestSettings, MappedRepository, Overrides, StoreSettings,
    Tls, TlsFiles, TokenSettings, TokenSwitch, User, rules, yaml,
};
use crate::oci::{InvalidName, RepoName};
use crate::values::Count;
use crate::values::{Acceleration, AccessMode, Anonymous, Level, LogFormat, MissingReferences, Mode, Role};
use crate::values::{Address, Alias, ByteSize, ConfigDuration, FilePath, Reserve};

/// What the cluster's clients pull from.
const DEFAULT_REPOSITORY: &str = "system/deckhouse";

pub(super) const DEFAULT_DIR: &str = "./data";

pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// Reads text and flags; the error has no file yet.
pub(super) fn parse(text: &str, overrides: &Overrides, machine: Machine) -> Result<Config, KeyError> {
    let raw: Raw = yaml::read(text).map_err(|error| {
        let message = error.message + &place_of(&error.key, error.cause);
        KeyError { file: None, position: error.position, key: error.key, message }
    })?;
    let mut config = Parser { origins: Origins::default() }.config(raw, overrides, machine)?;
    rules::check(&mut config)?;
    Ok(config)
}

/// Where keys belong that were looked for in vain: those of a section, or where one is that stands elsewhere.
fn place_of(key: &str, cause: yaml::Cause) -> String {
    let general: String = key.split('[').map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit())).collect();
    let general = general.replace(']', "[]");
    match cause {
        yaml::Cause::NoKeys => {
            let below = |info: &KeyInfo| {
                let rest =
                    if general.is_empty() { info.key } else { info.key.strip_prefix(&general)?.strip_prefix('.')? };
                rest.split(['.', '[']).next()
            };
            let mut names: Vec<&str> = KEYS.iter().filter_map(below).collect();
            names.dedup();
            if names.is_empty() { String::new() } else { format!("; known here: {}", names.join(", ")) }
        }
        yaml::Cause::UnknownKey => {
            let last = |path: &str| path.trim_end_matches("[]").rsplit('.').next().map(yaml::plain);
            let found = KEYS.iter().find(|info| last(info.key) == last(&general) && info.key != general);
            found.map(|info| format!("; there is {}", info.key)).unwrap_or_default()
        }
        yaml::Cause::Other => String::new(),
    }
}

/// An error about a key; file and position are added by who knows them.
pub(super) fn wrong(key: &str, message: impl Into<String>) -> KeyError {
    KeyError { file: None, position: None, key: key.to_owned(), message: message.into() }
}

/// Takes values out of the raw shapes and notes where each came from.
pub(super) struct Parser {
    pub(super) origins: Origins,
}

impl Parser {
    fn config(mut self, raw: Raw, overrides: &Overrides, machine: Machine) -> Result<Config, KeyError> {
        let store = self.store(raw.store.unwrap_or_default(), overrides)?;
        let upstream = upstream::read(raw.upstream, overrides.upstream.as_ref())?;
        let mode = self.mode(raw.mode, overrides, &upstream)?;
        let names_given = raw.repository.is_some();
        let repositories = self.repositories(raw.repositories, upstream.settings.as_ref())?;
        let repository = match repositories.first() {
            Some(_) if names_given => {
                return Err(wrong("repositories", "repository is given too; leave one of the two out"));
            }
            Some(first) => first.name.clone(),
            None => self.repository(raw.repository)?,
        };
        Ok(Config {
            mode,
            repository,
            repositories,
            listen: self.addresses("listen", raw.listen.map(|list| list.0), &overrides.listen, Some(5001))?,
            admin_listen: self.addresses(
                "adminListen",
                raw.admin_listen.map(|list| list.0),
                &overrides.admin_listen,
                Some(5002),
            )?,
            probe_listen: self.addresses(
                "probeListen",
                raw.probe_listen.map(|list| list.0),
                &overrides.probe_listen,
                None,
            )?,
            tls: self.tls(raw.tls.unwrap_or_default())?,
            store,
            proxy: self.proxy(raw.proxy.unwrap_or_default(), upstream.ttl)?,
            upstream: upstream.settings,
            auth: self.auth(raw.auth.unwrap_or_default(), mode)?,
            manifests: self.manifests(&raw.manifests.unwrap_or_default())?,
            limits: self.limits(&raw.limits.unwrap_or_default(), machine)?,
            log: self.log(&raw.log.unwrap_or_default(), machine),
            upstream_notes: upstream.notes,
            origins: self.origins,
        })
    }

    /// A value of the file, or the default.
    fn pick<T>(&mut self, key: &'static str, value: Option<T>, default: T) -> T {
        self.optional(key, value).unwrap_or(default)
    }

    /// A value of the file that has no default.
    pub(super) fn optional<T>(&mut self, key: &'static str, value: Option<T>) -> Option<T> {
        if value.is_some() {
            self.origins.set(key, Origin::File);
        }
        value
    }

    fn path(&mut self, key: &'static str, value: Option<FilePath>) -> Option<PathBuf> {
        self.optional(key, value).map(|path| path.0)
    }

    fn count(
        &mut self,
        key: &'static str,
        value: Option<Count>,
        default: u32,
        bounds: RangeInclusive<u32>,
    ) -> Result<u32, KeyError> {
        within(key, self.pick(key, value.map(|count| count.0), default), bounds)
    }

    pub(super) fn span(
        &mut self,
        key: &'static str,
        value: Option<ConfigDuration>,
        default: Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Result<Duration, KeyError> {
        let bounds = ConfigDuration(*bounds.start())..=ConfigDuration(*bounds.end());
        within(key, self.pick(key, value, ConfigDuration(default)), bounds).map(|span| span.0)
    }

    fn bytes(
        &mut self,
        key: &'static str,
        value: Option<ByteSize>,
        default: u64,
        bounds: RangeInclusive<u64>,
    ) -> Result<u64, KeyError> {
        let bounds = ByteSize(*bounds.start())..=ByteSize(*bounds.end());
        within(key, self.pick(key, value, ByteSize(default)), bounds).map(|size| size.0)
    }

    /// A bound of 1 MiB at least; 0 is how "no bound" is written.
    fn bound(&mut self, key: &'static str, value: Option<ByteSize>) -> Result<Option<u64>, KeyError> {
        let bound = self.optional(key, value).filter(|size| size.0 > 0);
        bound
            .map(|size| within(key, size, ByteSize(1 << 20)..=ByteSize(u64::MAX)))
            .transpose()
            .map(|size| size.map(|size| size.0))
    }

    /// The flag wins over the file, and the file over the mounted Secret.
    fn mode(&mut self, from_file: Option<Mode>, overrides: &Overrides, upstream: &Section) -> Result<Mode, KeyError> {
        let from_file = self.optional("mode", from_file);
        let mode = match (overrides.mode, from_file, &upstream.mode) {
            (Some(mode), ..) => {
                self.origins.set("mode", Origin::Flag);
                mode
            }
            (None, Some(mode), _) => mode,
            (None, None, Some(text)) => {
                self.origins.set("mode", Origin::SecretDir);
                text.parse().map_err(|error| wrong("upstream.secretDir", format!("file mode: {error}")))?
            }
            (None, None, None) => Mode::Local,
        };
        match mode {
            Mode::Local if overrides.upstream.is_some() => {
                Err(wrong("--upstream", "mode Local has no upstream; add --mode proxy or --mode direct"))
            }
            Mode::Direct | Mode::Proxy if upstream.settings.is_none() && upstream.has_secret_dir => Err(wrong(
                "upstream.secretDir",
                format!("mode {mode} needs an upstream, and no file imagesRepo is there"),
            )),
            Mode::Direct | Mode::Proxy if upstream.settings.is_none() => {
                Err(wrong("mode", format!("mode {mode} needs an upstream: set upstream.imagesRepo or --upstream")))
            }
            mode => Ok(mode),
        }
    }

    fn repository(&mut self, from_file: Option<Alias>) -> Result<RepoName, KeyError> {
        match self.optional("repository", from_file) {
            Some(Alias(name)) => Ok(name),
            None => DEFAULT_REPOSITORY.parse().map_err(|error: InvalidName| wrong("repository", error.to_string())),
        }
    }

    /// All of one registry: they share its sign-in, its circuits and its limits.
    fn repositories(
        &mut self,
        from_file: Option<Vec<RawRepository>>,
        upstream: Option<&UpstreamSettings>,
    ) -> Result<Vec<MappedRepository>, KeyError> {
        let mut all: Vec<MappedRepository> = Vec::new();
        for (index, raw) in self.pick("repositories", from_file, Vec::new()).into_iter().enumerate() {
            let key = |name: &str| format!("repositories[{index}].{name}");
            let name = raw.name.0;
            if all.iter().any(|other| other.name == name) {
                return Err(wrong(&key("name"), format!("{name} is there twice")));
            }
            if let (Some(repo), Some(UpstreamSettings { endpoint, .. })) = (&raw.images_repo, upstream)
                && canonical(&repo.host, endpoint.scheme) != canonical(&endpoint.host, endpoint.scheme)
            {
                let message = format!(
                    "another host than {} of upstream.imagesRepo; all names lead to one upstream",
                    endpoint.host
                );
                return Err(wrong(&key("imagesRepo"), message));
            }
            let (host, path) = raw.images_repo.map(|repo| (repo.host, repo.path)).unzip();
            all.push(MappedRepository { name, host, path });
        }
        Ok(all)
    }

    fn addresses(
        &mut self,
        key: &'static str,
        from_file: Option<Vec<Address>>,
        flags: &[Address],
        default_port: Option<u16>,
    ) -> Result<Vec<Address>, KeyError> {
        let default = default_port.map(|port| Address(([127, 0, 0, 1], port).into()));
        let mut list = self.pick(key, from_file, default.into_iter().collect());
        if !flags.is_empty() {
            self.origins.set(key, Origin::Flag);
            list = flags.to_vec();
        }
        let again = |(index, address): (usize, &Address)| address.0.port() != 0 && list[..index].contains(address);
        match list.iter().enumerate().find(|(index, address)| again((*index, address))) {
            Some((_, address)) => Err(wrong(key, format!("{address} is there twice"))),
            None => Ok(list),
        }
    }

    fn tls(&mut self, raw: RawTls) -> Result<Tls, KeyError> {
        let cert_file = self.path("tls.certFile", raw.cert_file);
        let key_file = self.path("tls.keyFile", raw.key_file);
        let client_ca_file = self.path("tls.clientCAFile", raw.client_ca_file);
        let trusted_proxy_names = self.pick("tls.trustedProxyNames", raw.trusted_proxy_names, Vec::new());
        let disabled = self.pick("tls.disabled", raw.disabled, false);
        if let Some(index) = trusted_proxy_names.iter().position(String::is_empty) {
            return Err(wrong(&format!("tls.trustedProxyNames[{index}]"), "a name can't be empty"));
        }
        if !trusted_proxy_names.is_empty() && client_ca_file.is_none() {
            return Err(wrong(
                "tls.trustedProxyNames",
                "needs tls.clientCAFile: names count only in verified certificates",
            ));
        }
        match (cert_file, key_file) {
            (Some(_), None) => Err(wrong("tls.certFile", "needs tls.keyFile")),
            (None, Some(_)) => Err(wrong("tls.keyFile", "needs tls.certFile")),
            (None, None) if client_ca_file.is_some() && !disabled => Err(wrong(
                "tls.clientCAFile",
                "needs tls.certFile and tls.keyFile: without TLS there are no certificates",
            )),
            (Some(cert_file), Some(key_file)) if !disabled => {
                Ok(Tls::On(TlsFiles { cert_file, key_file, client_ca_file, trusted_proxy_names }))
            }
            _ => Ok(Tls::Off { forced: disabled }),
        }
    }

    fn store(&mut self, raw: RawStore, overrides: &Overrides) -> Result<StoreSettings, KeyError> {
        let mut dir = self.pick("store.dir", raw.dir.map(|path| path.0), PathBuf::from(DEFAULT_DIR));
        if let Some(flag) = &overrides.data_dir {
            self.origins.set("store.dir", Origin::Flag);
            dir.clone_from(flag);
        }
        Ok(StoreSettings {
            dir,
            max_bytes: self.bound("store.maxBytes", raw.max_bytes)?,
            reserve: self.pick("store.reserveBytes", raw.reserve_bytes, Reserve::Percent(15)),
            must_exist: self.pick("store.mustExist", raw.must_exist, false),
        })
    }

    fn auth(&mut self, raw: RawAuth, mode: Mode) -> Result<AuthSettings, KeyError> {
        let users = self.optional("auth.users", raw.users).unwrap_or_default();
        let users = users.into_iter().enumerate().map(|(index, user)| parse_user(index, user));
        let users = users.collect::<Result<Vec<User>, KeyError>>()?;
        for (index, user) in users.iter().enumerate() {
            if users[..index].iter().any(|earlier| earlier.name == user.name) {
                return Err(wrong(
                    &format!("auth.users[{index}].name"),
                    format!("the name {:?} is there twice", user.name),
                ));
            }
        }
        Ok(AuthSettings {
            anonymous: self.pick("auth.anonymous", raw.anonymous, Anonymous::None),
            open: false,
            users,
            users_dir: self.path("auth.usersDir", raw.users_dir),
            upstream_user: self.pick("auth.upstreamUser", raw.upstream_user, mode == Mode::Direct),
            token: self.token(raw.token.unwrap_or_default())?,
        })
    }

    fn token(&mut self, raw: RawToken) -> Result<TokenSettings, KeyError> {
        let signing_key_file = self.path("auth.token.signingKeyFile", raw.signing_key_file);
        let signing_cert_file = self.path("auth.token.signingCertFile", raw.signing_cert_file);
        if signing_cert_file.is_some() && signing_key_file.is_none() {
            return Err(wrong("auth.token.signingCertFile", "needs auth.token.signingKeyFile"));
        }
        let enabled = raw.enabled.map(|on| if on { TokenSwitch::On } else { TokenSwitch::Off });
        Ok(TokenSettings {
            enabled: self.pick("auth.token.enabled", enabled, TokenSwitch::WithUsers),
            // Docker's token protocol: clients take less than 60 s for 60 s.
            ttl: self.span("auth.token.ttl", raw.ttl, seconds(900), seconds(60)..=DAY)?,
            signing_key_file,
            signing_cert_file,
        })
    }

    fn manifests(&mut self, raw: &RawManifests) -> Result<ManifestSettings, KeyError> {
        Ok(ManifestSettings {
            missing_references: self.pick(
                "manifests.missingReferences",
                raw.missing_references,
                MissingReferences::Refuse,
            ),
            // A manifest is held in memory whole, so there is an upper bound.
            max_bytes: self.bytes("manifests.maxBytes", raw.max_bytes, 4 << 20, 1024..=64 << 20)?,
        })
    }

    fn limits(&mut self, raw: &RawLimits, machine: Machine) -> Result<Limits, KeyError> {
        let workers = machine.cores.clamp(1, 4);
        let header_bytes = self.bytes("limits.headerBytes", raw.header_bytes, 64 << 10, 8 << 10..=1 << 20)?;
        Ok(Limits {
            worker_threads: self.count("limits.workerThreads", raw.worker_threads, workers, 1..=256)?,
            connections: self.count("limits.connections", raw.connections, 4096, 1..=1_000_000)?,
            pulls: self.count("limits.pulls", raw.pulls, 512, 1..=1_000_000)?,
            uploads: self.count("limits.uploads", raw.uploads, 128, 1..=100_000)?,
            listings: self.count("limits.listings", raw.listings, 16, 1..=100_000)?,
            password_checks: self.count(
                "limits.passwordChecks",
                raw.password_checks,
                (machine.cores / 2).clamp(1, 4),
                1..=64,
            )?,
            queue_wait: self.span("limits.queueWait", raw.queue_wait, seconds(20), Duration::ZERO..=seconds(20))?,
            upload_idle: self.span("limits.uploadIdle", raw.upload_idle, seconds(3600), seconds(60)..=30 * DAY)?,
            write_rate: self.bound("limits.writeBytesPerSecond", raw.write_bytes_per_second)?,
            stall_timeout: self.span("limits.stallTimeout", raw.stall_timeout, seconds(120), seconds(1)..=DAY)?,
            request_header_timeout: self.span(
                "limits.requestHeaderTimeout",
                raw.request_header_timeout,
                seconds(120),
                seconds(100)..=DAY,
            )?,
            tls_handshake_timeout: self.span(
                "limits.tlsHandshakeTimeout",
                raw.tls_handshake_timeout,
                seconds(10),
                seconds(1)..=seconds(300),
            )?,
            drain_deadline: self.span("limits.drainDeadline", raw.drain_deadline, seconds(25), Duration::ZERO..=DAY)?,
            header_bytes: u32::try_from(header_bytes).unwrap_or(u32::MAX),
            acceleration: self.pick("limits.acceleration", raw.acceleration, Acceleration::Sendfile),
        })
    }

    fn log(&mut self, raw: &RawLog, machine: Machine) -> LogSettings {
        let format = if machine.terminal { LogFormat::Text } else { LogFormat::Json };
        LogSettings {
            format: self.pick("log.format", raw.format, format),
            level: self.pick("log.level", raw.level, Level::Info),
            access: self.pick("log.access", raw.access, AccessMode::All),
        }
    }
}

pub(super) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn within<T: PartialOrd + Display>(key: &str, value: T, bounds: RangeInclusive<T>) -> Result<T, KeyError> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    let (least, most) = bounds.into_inner();
    let bound = if value < least { format!("less than {least}") } else { format!("more than {most}") };
    Err(wrong(key, format!("{value} is {bound}")))
}

/// Checks the name and decides the role. A colon would end the name in HTTP Basic (RFC 7617, 2).
fn parse_user(index: usize, raw: RawUser) -> Result<User, KeyError> {
    let RawUser { name, password_hash, role } = raw;
    if name.is_empty() || name.len() > 255 || name.contains(':') || name.chars().any(char::is_control) {
        let message = "a user's name has 1 to 255 bytes, no colon and no control character";
        return Err(wrong(&format!("auth.users[{index}].name"), message));
    }
    // Exactly as written: a user `RW` is not meant to be the role `rw`.
    let named = || name.parse::<Role>().ok().filter(|role| role.as_str() == name);
    let role = role.or_else(named).unwrap_or(Role::Ro);
    Ok(User { name, password_hash, role })
}
