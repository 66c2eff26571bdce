//! From the shapes and the flags to a [`Config`]: what is not read like any other key.

use std::time::Duration;

use super::definition::{Below, Context, Key, KeyInfo, Reader, Value, wrong};
use super::error::KeyError;
use super::keys::{self, DEFAULT_REPOSITORY, File, RawKeep, RawRepository, RawRetentionRule, RawUser, TlsKeys};
use super::mode_file::{ModeFile, ModeFileKey, least_ttl};
use super::one_or_many::OneOrMany;
use super::origin::{List, Origin, Origins};
use super::upstream::{self, Section, UpstreamSettings};
use super::upstream_routes::UpstreamRoutes;
use super::{
    AuthSettings, Config, GcSettings, Machine, ManifestSettings, MappedRepository, Overrides, ProxySettings,
    RetentionRule, RetentionSettings, StoreSettings, Tls, TlsFiles, User, rules, yaml,
};
use crate::oci::{InvalidName, RepoName};
use crate::values::host::canonical_host;
use crate::values::{Address, Alias, ConfigDuration, FilePath, Mode, Role};

/// Reads text and flags; the error has no file yet.
pub(super) fn parse(text: &str, overrides: &Overrides, machine: Machine) -> Result<Config, KeyError> {
    let file: File = yaml::read(text).map_err(|error| {
        let message = error.message + &place_of(&error.key, error.cause);
        KeyError { file: None, position: error.position, key: error.key, message }
    })?;
    let mut config = read(file, overrides, machine)?;
    rules::check(&mut config)?;
    Ok(config)
}

/// The place of keys that were looked for in vain: those of a section, or the one of the same name elsewhere.
fn place_of(key: &str, cause: yaml::Cause) -> String {
    let general: String = key.split('[').map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit())).collect();
    let general = general.replace(']', "[]");
    let keys: Vec<String> = super::keys().into_iter().map(|info| info.key).collect();
    match cause {
        yaml::Cause::NoKeys => {
            let below = |key: &String| {
                let rest =
                    if general.is_empty() { key.as_str() } else { key.strip_prefix(&general)?.strip_prefix('.')? };
                rest.split(['.', '[']).next().map(str::to_owned)
            };
            let mut names: Vec<String> = keys.iter().filter_map(below).collect();
            names.dedup();
            if names.is_empty() { String::new() } else { format!("; known here: {}", names.join(", ")) }
        }
        yaml::Cause::UnknownKey => {
            let last = |path: &str| path.trim_end_matches("[]").rsplit('.').next().map(yaml::plain);
            let found = keys.iter().find(|key| last(key) == last(&general) && **key != general);
            found.map(|key| format!("; there is {key}")).unwrap_or_default()
        }
        yaml::Cause::Other => String::new(),
    }
}

fn read(file: File, overrides: &Overrides, machine: Machine) -> Result<Config, KeyError> {
    let mut reader = Reader {
        origins: Origins::default(),
        context: Context { machine, mode: Mode::Local, has_mode_file: file.mode_file.is_some() },
    };
    let reader = &mut reader;
    let mut store: StoreSettings = reader.read("store", file.store, &Below)?;
    if let Some(dir) = &overrides.data_dir {
        reader.origins.set("store.dir", Origin::Flag);
        store.dir.clone_from(dir);
    }
    let listen = addresses(reader, "listen", &keys::listen(), file.listen, &overrides.listen)?;
    let mut route_notes = upstream::Notes::default();
    let routes = UpstreamRoutes::read(file.upstream_routes.unwrap_or_default(), &mut route_notes)?;
    let mode_file = reader.given("modeFile", file.mode_file).map(|FilePath(path)| {
        let found = ModeFile::find(&path, &listen, &routes);
        ModeFileKey { path, found }
    });
    let governed = mode_file.as_ref().is_some_and(ModeFileKey::is_read);
    // What the mode file says in their place makes them void, right or wrong.
    let (mode, mut upstream) = if governed {
        let mut void = Section::default();
        void.notes.passed_over = file.upstream.as_ref().map(keys::RawUpstream::routes_given).unwrap_or_default();
        (Mode::Local, void)
    } else {
        let upstream = upstream::read(file.upstream, overrides.upstream.as_ref())?;
        (mode(reader, file.mode, overrides, &upstream)?, upstream)
    };
    upstream.notes.add(route_notes);
    upstream.settings = upstream.settings.map(|settings| routes.of(settings));
    reader.context.mode = mode;
    let names_given = file.repository.is_some();
    let repositories = repositories(reader, file.repositories, upstream.settings.as_ref())?;
    let repository = match repositories.first() {
        Some(_) if names_given => {
            return Err(wrong("repositories", "repository is given too; leave one of the two out"));
        }
        Some(first) => first.name.clone(),
        None => repository(reader, file.repository)?,
    };
    Ok(Config {
        mode,
        repository,
        repositories,
        mode_file,
        listen,
        admin_listen: addresses(
            reader,
            "adminListen",
            &keys::admin_listen(),
            file.admin_listen,
            &overrides.admin_listen,
        )?,
        probe_listen: addresses(
            reader,
            "probeListen",
            &keys::probe_listen(),
            file.probe_listen,
            &overrides.probe_listen,
        )?,
        tls: tls(reader.read("tls", file.tls, &Below)?)?,
        store,
        proxy: with_secret(reader.read("proxy", file.proxy, &Below)?, upstream.ttl, reader)?,
        upstream: upstream.settings,
        upstream_routes: routes,
        auth: auth(reader.read("auth", file.auth, &Below)?)?,
        manifests: reader.read("manifests", file.manifests, &Below)?,
        gc: reader.read("gc", file.gc, &Below)?,
        scrub: reader.read("scrub", file.scrub, &Below)?,
        retention: reader.read("retention", file.retention, &Below)?,
        replicas: reader.read("replicas", file.replicas, &Below)?,
        limits: reader.read("limits", file.limits, &Below)?,
        log: reader.read("log", file.log, &Below)?,
        upstream_notes: upstream.notes,
        origins: std::mem::take(&mut reader.origins),
    })
}

/// The sections `gc` and `retention` alone.
pub(super) fn gc(
    written: Option<keys::RawGc>,
    rules: Option<keys::RawRetention>,
    machine: Machine,
) -> Result<(GcSettings, RetentionSettings), KeyError> {
    let mut reader = alone(machine);
    Ok((reader.read("gc", written, &Below)?, reader.read("retention", rules, &Below)?))
}

/// The section `manifests` alone.
pub(super) fn manifests(written: Option<keys::RawManifests>, machine: Machine) -> Result<ManifestSettings, KeyError> {
    alone(machine).read("manifests", written, &Below)
}

/// For a section that depends on no other.
fn alone(machine: Machine) -> Reader {
    Reader { origins: Origins::default(), context: Context { machine, mode: Mode::Local, has_mode_file: false } }
}

/// The section `store` alone.
pub(super) fn store(written: Option<keys::RawStore>, machine: Machine) -> Result<StoreSettings, KeyError> {
    let mut reader =
        Reader { origins: Origins::default(), context: Context { machine, mode: Mode::Local, has_mode_file: false } };
    reader.read("store", written, &Below)
}

/// The flag wins over the file, and the file over the mounted Secret.
fn mode(
    reader: &mut Reader,
    from_file: Option<Mode>,
    overrides: &Overrides,
    upstream: &Section,
) -> Result<Mode, KeyError> {
    let from_file_or_default = reader.read::<Mode>("mode", from_file, &keys::MODE)?;
    let mode = match (overrides.mode, from_file, &upstream.mode) {
        (Some(mode), ..) => {
            reader.origins.set("mode", Origin::Flag);
            mode
        }
        (None, None, Some(text)) => {
            reader.origins.set("mode", Origin::SecretDir);
            text.parse::<Mode>().map_err(|error| wrong("upstream.secretDir", format!("file mode: {error}")))?
        }
        _ => from_file_or_default,
    };
    match mode {
        Mode::Local if overrides.upstream.is_some() => {
            Err(wrong("--upstream", "mode Local has no upstream; add --mode proxy or --mode direct"))
        }
        Mode::Direct | Mode::Proxy if upstream.settings.is_none() && upstream.has_secret_dir => {
            Err(wrong("upstream.secretDir", format!("mode {mode} needs an upstream, and no file imagesRepo is there")))
        }
        Mode::Direct | Mode::Proxy if upstream.settings.is_none() => {
            Err(wrong("mode", format!("mode {mode} needs an upstream: set upstream.imagesRepo or --upstream")))
        }
        Mode::Direct | Mode::Proxy | Mode::Local => Ok(mode),
    }
}

fn repository(reader: &mut Reader, from_file: Option<Alias>) -> Result<RepoName, KeyError> {
    match reader.given("repository", from_file) {
        Some(Alias(name)) => Ok(name),
        None => DEFAULT_REPOSITORY.parse().map_err(|error: InvalidName| wrong("repository", error.to_string())),
    }
}

/// All of one registry: they share its sign-in, its circuits and its limits.
fn repositories(
    reader: &mut Reader,
    from_file: Option<Vec<RawRepository>>,
    upstream: Option<&UpstreamSettings>,
) -> Result<Vec<MappedRepository>, KeyError> {
    let mut all: Vec<MappedRepository> = Vec::new();
    for (index, raw) in reader.given("repositories", from_file).unwrap_or_default().into_iter().enumerate() {
        let key = |name: &str| format!("repositories[{index}].{name}");
        let name = raw.name.0;
        if all.iter().any(|other| other.name == name) {
            return Err(wrong(&key("name"), format!("{name} is there twice")));
        }
        if let (Some(repo), Some(UpstreamSettings { endpoint, .. })) = (&raw.images_repo, upstream)
            && canonical_host(&repo.host, endpoint.scheme) != canonical_host(&endpoint.host, endpoint.scheme)
        {
            let message =
                format!("another host than {} of upstream.imagesRepo; all names lead to one upstream", endpoint.host);
            return Err(wrong(&key("imagesRepo"), message));
        }
        let (host, path) = raw.images_repo.map(|repo| (repo.host, repo.path)).unzip();
        all.push(MappedRepository { name, host, path });
    }
    Ok(all)
}

/// Flags take the place of the list. Port 0 may be there more than once: the system chooses another each time.
fn addresses(
    reader: &mut Reader,
    key: &str,
    definition: &Key<Vec<Address>>,
    from_file: Option<OneOrMany<Address>>,
    flags: &[Address],
) -> Result<Vec<Address>, KeyError> {
    let mut list: Vec<Address> = reader.read(key, from_file, definition)?;
    if !flags.is_empty() {
        reader.origins.set(key, Origin::Flag);
        list = flags.to_vec();
    }
    let again = |(index, address): (usize, &Address)| address.0.port() != 0 && list[..index].contains(address);
    match list.iter().enumerate().find(|(index, address)| again((*index, address))) {
        Some((_, address)) => Err(wrong(key, format!("{address} is there twice"))),
        None => Ok(list),
    }
}

fn tls(keys: TlsKeys) -> Result<Tls, KeyError> {
    let TlsKeys { cert_file, key_file, client_ca_file, trusted_proxy_names, controller_ca_file, disabled } = keys;
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
        (None, None) if client_ca_file.is_some() && !disabled => {
            Err(wrong("tls.clientCAFile", "needs tls.certFile and tls.keyFile: without TLS there are no certificates"))
        }
        (None, None) if controller_ca_file.is_some() && !disabled => {
            let message = "needs tls.certFile and tls.keyFile: without TLS there are no certificates";
            Err(wrong("tls.controllerCAFile", message))
        }
        (Some(cert_file), Some(key_file)) if !disabled => {
            Ok(Tls::On(TlsFiles { cert_file, key_file, client_ca_file, trusted_proxy_names, controller_ca_file }))
        }
        _ => Ok(Tls::Off { forced: disabled }),
    }
}

/// The section with the `ttl` of the mounted Secret. Both may say it if they say the same.
fn with_secret(
    mut settings: ProxySettings,
    from_secret: Option<ConfigDuration>,
    reader: &mut Reader,
) -> Result<ProxySettings, KeyError> {
    let (mut ttl, is_given) = (ConfigDuration(settings.ttl), reader.origins.of("proxy.ttl") == Origin::File);
    match from_secret {
        Some(other) if is_given && ttl != other => {
            let message = format!("{ttl} here, but {other} in upstream.secretDir; leave one of the two out");
            return Err(wrong("proxy.ttl", message));
        }
        Some(other) if !is_given => {
            reader.origins.set("proxy.ttl", Origin::SecretDir);
            ttl = other;
        }
        _ => {}
    }
    if let Err(message) = least_ttl(ttl) {
        return Err(match reader.origins.of("proxy.ttl") {
            Origin::SecretDir => wrong("upstream.secretDir", format!("file ttl: {message}")),
            _ => wrong("proxy.ttl", message),
        });
    }
    settings.ttl = ttl.0;
    Ok(settings)
}

fn auth(settings: AuthSettings) -> Result<AuthSettings, KeyError> {
    if settings.token.signing_cert_file.is_some() && settings.token.signing_key_file.is_none() {
        return Err(wrong("auth.token.signingCertFile", "needs auth.token.signingKeyFile"));
    }
    Ok(settings)
}

impl Value for Vec<User> {
    type InFile = Vec<RawUser>;
    type Definition = Below;

    fn info(_: &Below) -> KeyInfo {
        Below::info()
    }

    fn read(written: Option<Vec<RawUser>>, key: &str, _: &Below, reader: &mut Reader) -> Result<Self, KeyError> {
        let mut users: Self = Vec::new();
        for (index, raw) in reader.given(key, written).unwrap_or_default().into_iter().enumerate() {
            let user = user(raw).map_err(|message| wrong(&format!("{key}[{index}].name"), message))?;
            users.push(user);
        }
        for (index, user) in users.iter().enumerate() {
            if users[..index].iter().any(|earlier| earlier.name == user.name) {
                return Err(wrong(&format!("{key}[{index}].name"), format!("the name {:?} is there twice", user.name)));
            }
        }
        Ok(users)
    }

    fn show(&self, key: &str, list: &mut List<'_>) {
        for (index, user) in self.iter().enumerate() {
            let fields = [("name", user.name.as_str()), ("passwordHash", "***"), ("role", user.role.as_str())];
            list.add_entry(key, index, &fields);
        }
    }

    fn keep(&mut self, _: &Self, _: &Below) {}
}

impl Value for Vec<RetentionRule> {
    type InFile = Vec<RawRetentionRule>;
    type Definition = Below;

    fn info(_: &Below) -> KeyInfo {
        Below::info()
    }

    fn read(
        written: Option<Vec<RawRetentionRule>>,
        key: &str,
        _: &Below,
        reader: &mut Reader,
    ) -> Result<Self, KeyError> {
        let mut rules: Self = Vec::new();
        for (index, raw) in reader.given(key, written).unwrap_or_default().into_iter().enumerate() {
            let RawRetentionRule { repositories, keep } = raw;
            let RawKeep { newest, pushed_within, pulled_within, matching } = keep;
            if newest.is_none() && pushed_within.is_none() && pulled_within.is_none() && matching.is_none() {
                let message = "says nothing of what stays: name newest, pushedWithin, pulledWithin or matching";
                return Err(wrong(&format!("{key}[{index}].keep"), message));
            }
            rules.push(RetentionRule {
                repositories,
                newest: newest.map(|count| count.0),
                pushed_within: pushed_within.map(|within| within.0),
                pulled_within: pulled_within.map(|within| within.0),
                matching: matching.map(|list| list.0).unwrap_or_default(),
            });
        }
        Ok(rules)
    }

    fn show(&self, key: &str, list: &mut List<'_>) {
        for (index, rule) in self.iter().enumerate() {
            let newest = rule.newest.map_or_else(|| "-".to_owned(), |newest| newest.to_string());
            let shown = |within: Option<Duration>| {
                within.map_or_else(|| "-".to_owned(), |within| ConfigDuration(within).to_string())
            };
            let (pushed, pulled) = (shown(rule.pushed_within), shown(rule.pulled_within));
            let matching = super::definition::separated(&rule.matching);
            let fields = [
                ("repositories", rule.repositories.as_str()),
                ("keep.newest", newest.as_str()),
                ("keep.pushedWithin", pushed.as_str()),
                ("keep.pulledWithin", pulled.as_str()),
                ("keep.matching", matching.as_str()),
            ];
            list.add_entry(key, index, &fields);
        }
    }

    fn keep(&mut self, _: &Self, _: &Below) {}
}

/// Checks the name and decides the role. A colon would end the name in HTTP Basic (RFC 7617, 2).
fn user(raw: RawUser) -> Result<User, &'static str> {
    let RawUser { name, password_hash, role } = raw;
    if name.is_empty() || name.len() > 255 || name.contains(':') || name.chars().any(char::is_control) {
        return Err("a user's name has 1 to 255 bytes, no colon and no control character");
    }
    // Exactly as written: a user `RW` is not meant to be the role `rw`.
    let named = || Role::ALL.into_iter().find(|role| role.as_str() == name);
    let role = role.or_else(named).unwrap_or(Role::Ro);
    Ok(User { name, password_hash, role })
}
