//! Every key by name: what it is set to, where that comes from, and whether a running server takes a new value.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use super::{Config, Tls, TlsFiles, TokenSwitch};
use crate::values::{ByteSize, ConfigDuration};

/// Whether a running server takes a new value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Within seconds after the file changed, or on SIGHUP; no connection is dropped.
    Live,
    /// At the next start.
    Restart,
}

/// A key of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    /// Its path; `[]` stands for the entries of a list.
    pub key: &'static str,
    /// Whether a running server takes a new value.
    pub change: Change,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Neither file nor flag.
    Default,
    /// The file.
    File,
    /// The command line.
    Flag,
    /// The folder `upstream.secretDir`.
    SecretDir,
}

/// A key with the value in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its path, with an index for each list: `auth.users[0].name`.
    pub key: String,
    /// The value as it would be written in the file; `***` for a secret, `-` for nothing.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

const fn live(key: &'static str) -> KeyInfo {
    KeyInfo { key, change: Change::Live }
}

const fn restart(key: &'static str) -> KeyInfo {
    KeyInfo { key, change: Change::Restart }
}

/// Every key of the file, in its order.
pub const KEYS: &[KeyInfo] = &[
    live("mode"),
    live("repository"),
    live("repositories[].name"),
    live("repositories[].imagesRepo"),
    restart("listen"),
    restart("adminListen"),
    restart("probeListen"),
    live("tls.certFile"),
    live("tls.keyFile"),
    live("tls.clientCAFile"),
    live("tls.trustedProxyNames[]"),
    restart("tls.disabled"),
    restart("store.dir"),
    live("store.maxBytes"),
    live("store.reserveBytes"),
    restart("store.mustExist"),
    live("upstream.imagesRepo"),
    live("upstream.scheme"),
    live("upstream.ca"),
    live("upstream.caFile"),
    live("upstream.license"),
    live("upstream.licenseFile"),
    live("upstream.username"),
    live("upstream.password"),
    live("upstream.passwordFile"),
    live("upstream.dockerConfigFile"),
    live("upstream.secretDir"),
    live("upstream.mirrors[].imagesRepo"),
    live("upstream.mirrors[].scheme"),
    live("upstream.mirrors[].ca"),
    live("upstream.mirrors[].caFile"),
    live("upstream.mirrors[].license"),
    live("upstream.mirrors[].licenseFile"),
    live("upstream.mirrors[].username"),
    live("upstream.mirrors[].password"),
    live("upstream.mirrors[].passwordFile"),
    live("upstream.mirrors[].dockerConfigFile"),
    live("upstream.mirrors[].secretDir"),
    live("upstream.trustedHosts[]"),
    live("proxy.ttl"),
    live("proxy.tagTtl"),
    live("proxy.negativeTtl"),
    live("proxy.staleNegative"),
    live("proxy.maxStale"),
    live("proxy.staleOn[]"),
    live("auth.anonymous"),
    live("auth.users[].name"),
    live("auth.users[].passwordHash"),
    live("auth.users[].role"),
    live("auth.usersDir"),
    live("auth.upstreamUser"),
    live("auth.token.enabled"),
    live("auth.token.ttl"),
    live("auth.token.signingKeyFile"),
    live("auth.token.signingCertFile"),
    live("manifests.missingReferences"),
    live("manifests.maxBytes"),
    restart("limits.workerThreads"),
    live("limits.connections"),
    live("limits.pulls"),
    live("limits.uploads"),
    live("limits.listings"),
    restart("limits.passwordChecks"),
    live("limits.queueWait"),
    live("limits.uploadIdle"),
    live("limits.writeBytesPerSecond"),
    live("limits.stallTimeout"),
    live("limits.requestHeaderTimeout"),
    live("limits.tlsHandshakeTimeout"),
    live("limits.drainDeadline"),
    live("limits.headerBytes"),
    live("limits.acceleration"),
    restart("log.format"),
    live("log.level"),
    live("log.access"),
];

/// Keys that were set, and by what; the others have their default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Origins(BTreeMap<&'static str, Origin>);

impl Origins {
    pub(super) fn set(&mut self, key: &'static str, origin: Origin) {
        self.0.insert(key, origin);
    }

    pub(super) fn of(&self, key: &str) -> Origin {
        self.0.get(key).copied().unwrap_or(Origin::Default)
    }
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Flag => "flag",
            Self::SecretDir => "secretDir",
        })
    }
}

/// Collects settings in order.
struct List<'a> {
    origins: &'a Origins,
    settings: Vec<Setting>,
}

impl List<'_> {
    fn add(&mut self, key: &'static str, value: impl Display) {
        self.settings.push(Setting { key: key.to_owned(), value: value.to_string(), origin: self.origins.of(key) });
    }

    fn add_list(&mut self, key: &'static str, values: &[impl Display]) {
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        self.add(key, values.join(", "));
    }

    fn add_option(&mut self, key: &'static str, value: Option<impl Display>) {
        match value {
            Some(value) => self.add(key, value),
            None => self.add(key, "-"),
        }
    }

    fn add_path(&mut self, key: &'static str, path: Option<&PathBuf>) {
        self.add_option(key, path.map(|path| Path::display(path)));
    }
}

impl Config {
    /// Every key with the value in force, in the order of [`KEYS`]. Secrets are `***`.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let mut list = List { origins: &self.origins, settings: Vec::with_capacity(KEYS.len()) };
        list.add("mode", self.mode);
        list.add("repository", &self.repository);
        let origin = self.origins.of("repositories");
        for (index, repository) in self.repositories.iter().enumerate() {
            let images_repo = match (&repository.host, &repository.path) {
                (Some(host), Some(path)) => format!("{host}/{path}").trim_end_matches('/').to_owned(),
                _ => "-".to_owned(),
            };
            let fields = [("name", repository.name.to_string()), ("imagesRepo", images_repo)];
            list.settings.extend(fields.map(|(field, value)| Setting {
                key: format!("repositories[{index}].{field}"),
                value,
                origin,
            }));
        }
        list.add_list("listen", &self.listen);
        list.add_list("adminListen", &self.admin_listen);
        list.add_list("probeListen", &self.probe_listen);
        self.tls_settings(&mut list);
        list.add("store.dir", self.store.dir.display());
        list.add_option("store.maxBytes", self.store.max_bytes.map(ByteSize));
        list.add("store.reserveBytes", self.store.reserve);
        list.add("store.mustExist", self.store.must_exist);
        list.settings.extend_from_slice(&self.upstream_notes.shown);
        self.proxy_settings(&mut list);
        self.auth_settings(&mut list);
        list.add("manifests.missingReferences", self.manifests.missing_references);
        list.add("manifests.maxBytes", ByteSize(self.manifests.max_bytes));
        self.limit_settings(&mut list);
        list.add("log.format", self.log.format);
        list.add("log.level", self.log.level);
        list.add("log.access", self.log.access);
        list.settings
    }

    fn tls_settings(&self, list: &mut List<'_>) {
        let files = match &self.tls {
            Tls::On(files) => Some(files),
            Tls::Off { .. } => None,
        };
        list.add_path("tls.certFile", files.map(|files| &files.cert_file));
        list.add_path("tls.keyFile", files.map(|files| &files.key_file));
        list.add_path("tls.clientCAFile", files.and_then(|files| files.client_ca_file.as_ref()));
        let names: &[String] = files.map_or(&[], |TlsFiles { trusted_proxy_names, .. }| trusted_proxy_names);
        list.add_list("tls.trustedProxyNames", names);
        list.add("tls.disabled", matches!(self.tls, Tls::Off { forced: true }));
    }

    fn proxy_settings(&self, list: &mut List<'_>) {
        let proxy = &self.proxy;
        list.add("proxy.ttl", ConfigDuration(proxy.ttl));
        list.add("proxy.tagTtl", ConfigDuration(proxy.tag_ttl));
        list.add("proxy.negativeTtl", ConfigDuration(proxy.negative_ttl));
        list.add("proxy.staleNegative", ConfigDuration(proxy.stale_negative));
        list.add_option("proxy.maxStale", proxy.max_stale.map(ConfigDuration));
        list.add_list("proxy.staleOn", &proxy.stale_on.iter().collect::<Vec<_>>());
    }

    fn auth_settings(&self, list: &mut List<'_>) {
        list.add("auth.anonymous", self.auth.anonymous);
        let origin = self.origins.of("auth.users");
        for (index, user) in self.auth.users.iter().enumerate() {
            let fields = [("name", user.name.as_str()), ("passwordHash", "***"), ("role", user.role.as_str())];
            list.settings.extend(fields.map(|(field, value)| Setting {
                key: format!("auth.users[{index}].{field}"),
                value: value.to_owned(),
                origin,
            }));
        }
        list.add_path("auth.usersDir", self.auth.users_dir.as_ref());
        list.add("auth.upstreamUser", self.auth.upstream_user);
        let token = &self.auth.token;
        let enabled = match token.enabled {
            TokenSwitch::WithUsers => "with users",
            TokenSwitch::On => "true",
            TokenSwitch::Off => "false",
        };
        list.add("auth.token.enabled", enabled);
        list.add("auth.token.ttl", ConfigDuration(token.ttl));
        list.add_path("auth.token.signingKeyFile", token.signing_key_file.as_ref());
        list.add_path("auth.token.signingCertFile", token.signing_cert_file.as_ref());
    }

    fn limit_settings(&self, list: &mut List<'_>) {
        let limits = &self.limits;
        list.add("limits.workerThreads", limits.worker_threads);
        list.add("limits.connections", limits.connections);
        list.add("limits.pulls", limits.pulls);
        list.add("limits.uploads", limits.uploads);
        list.add("limits.listings", limits.listings);
        list.add("limits.passwordChecks", limits.password_checks);
        list.add("limits.queueWait", ConfigDuration(limits.queue_wait));
        list.add("limits.uploadIdle", ConfigDuration(limits.upload_idle));
        list.add_option("limits.writeBytesPerSecond", limits.write_rate.map(ByteSize));
        list.add("limits.stallTimeout", ConfigDuration(limits.stall_timeout));
        list.add("limits.requestHeaderTimeout", ConfigDuration(limits.request_header_timeout));
        list.add("limits.tlsHandshakeTimeout", ConfigDuration(limits.tls_handshake_timeout));
        list.add("limits.drainDeadline", ConfigDuration(limits.drain_deadline));
        list.add("limits.headerBytes", ByteSize(u64::from(limits.header_bytes)));
        list.add("limits.acceleration", limits.acceleration);
    }

    /// Keys whose value differs and that a running server does not take. Turning TLS on or off is `tls.disabled`,
    /// whichever key did it.
    #[must_use]
    pub fn restart_keys_changed(old: &Self, new: &Self) -> Vec<&'static str> {
        let secure = |config: &Self| matches!(config.tls, Tls::On(_));
        let (before, after) = (old.settings(), new.settings());
        let value = |settings: &[Setting], key: &str| {
            settings.iter().find(|setting| setting.key == key).map(|setting| setting.value.clone())
        };
        KEYS.iter()
            .filter(|info| info.change == Change::Restart)
            .map(|info| info.key)
            .filter(|key| match *key {
                "tls.disabled" => secure(old) != secure(new),
                key => value(&before, key) != value(&after, key),
            })
            .collect()
    }

    /// Puts the values of `old` in the place of those a running server doesn't take.
    pub(super) fn keep_restart_keys(&mut self, old: &Self) {
        self.listen.clone_from(&old.listen);
        self.admin_listen.clone_from(&old.admin_listen);
        self.probe_listen.clone_from(&old.probe_listen);
        if matches!(self.tls, Tls::On(_)) != matches!(old.tls, Tls::On(_)) {
            self.tls.clone_from(&old.tls);
        }
        self.store.dir.clone_from(&old.store.dir);
        self.store.must_exist = old.store.must_exist;
        self.limits.worker_threads = old.limits.worker_threads;
        self.limits.password_checks = old.limits.password_checks;
        self.log.format = old.log.format;
    }
}
