//! The mode file (`modeFile`): which mode is in force, which one is coming and which ones were before, with their upstreams.
//!
//! The controller of a cluster writes it whole; a server reads it and never writes it. What was read can't be wrong: a mode
//! that needs an upstream has one, and nothing stands behind mode Unmanaged. Its text holds passwords, so no error quotes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::definition::wrong;
use super::error::KeyError;
use super::images_repo::{ImagesRepo, is_own};
use super::upstream::{EndpointSettings, UpstreamCredentials, UpstreamSettings, check_pem, checked};
use super::upstream_routes::UpstreamRoutes;
use super::{MAX_FILE_BYTES, yaml};
use crate::values::{Address, AnyMode, ConfigDuration, Phase, Scheme, Secret, StoringMode};

/// The one version that is read.
const VERSION: u32 = 1;

/// Shortest life of cached content that can be asked for, as in Deckhouse's ModuleConfig.
const LEAST_TTL: Duration = Duration::from_secs(300);

/// Most previous modes: an administrator who changes his mind more often waits for the end of a switch.
pub const MAX_PREVIOUS: usize = 8;

/// The key `modeFile` and the file that it names.
#[derive(Clone, Debug, PartialEq)]
pub struct ModeFileKey {
    /// The path.
    pub path: PathBuf,
    /// What was found there.
    pub found: FoundModeFile,
}

impl ModeFileKey {
    /// The file, if it can be used.
    #[must_use]
    pub const fn read(&self) -> Option<&Arc<ModeFile>> {
        match &self.found {
            FoundModeFile::Read(file) => Some(file),
            FoundModeFile::Absent | FoundModeFile::Wrong(_) => None,
        }
    }

    /// Whether there is a file that can be used.
    pub(super) const fn is_read(&self) -> bool {
        self.read().is_some()
    }
}

/// What was found where the configuration names a mode file.
#[derive(Clone, Debug, PartialEq)]
pub enum FoundModeFile {
    /// There is no file: the keys `mode`, `upstream` and `proxy.ttl` count, unless a file was in force before.
    Absent,
    /// The file was read.
    Read(Arc<ModeFile>),
    /// It can't be used; a sentence without secrets.
    Wrong(String),
}

/// What a mode file says.
#[derive(Clone, PartialEq)]
pub struct ModeFile {
    /// Grows with each write of the controller.
    pub generation: u64,
    /// SHA-256 of its bytes, 64 hexadecimal digits.
    pub hash: String,
    /// What is in force, and what was before.
    pub in_force: InForce,
    /// The mode that will be in force next.
    pub coming: Option<Coming>,
    bytes: Arc<zeroize::Zeroizing<Vec<u8>>>,
}

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InForce {
    /// No request of a registry is served.
    Unmanaged,
    /// A mode.
    Mode {
        /// The one in force.
        mode: ModeSpec,
        /// Those before it, the newest first; at most [`MAX_PREVIOUS`].
        previous: Vec<ModeSpec>,
    },
}

/// A mode and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModeSpec {
    /// Pass-through.
    Direct {
        /// The registry behind it.
        upstream: UpstreamSettings,
    },
    /// A cache.
    Proxy {
        /// The registry behind it.
        upstream: UpstreamSettings,
        /// Content that was not used for this time is removed; zero: never.
        ttl: Duration,
    },
    /// A registry of its own.
    Local,
}

/// The mode that will be in force next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coming {
    /// The mode.
    pub mode: ModeSpec,
    /// How far it is.
    pub phase: Phase,
}

impl ModeSpec {
    /// The mode's name.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Direct { .. } => AnyMode::Direct.as_str(),
            Self::Proxy { .. } => AnyMode::Proxy.as_str(),
            Self::Local => AnyMode::Local.as_str(),
        }
    }

    /// The registry behind the mode.
    #[must_use]
    pub const fn upstream(&self) -> Option<&UpstreamSettings> {
        match self {
            Self::Direct { upstream } | Self::Proxy { upstream, .. } => Some(upstream),
            Self::Local => None,
        }
    }

    /// Whether what the mode stores can be fetched again: it is evicted for its age and for room.
    #[must_use]
    pub const fn is_cache(&self) -> bool {
        match self {
            Self::Proxy { .. } => true,
            Self::Direct { .. } | Self::Local => false,
        }
    }

    /// Whether the mode keeps what is pushed: it takes room of caches, and what no root reaches is collected.
    #[must_use]
    pub const fn takes_pushes(&self) -> bool {
        match self {
            Self::Local => true,
            Self::Direct { .. } | Self::Proxy { .. } => false,
        }
    }

    /// The data that the mode keeps; `None`: it keeps none.
    #[must_use]
    pub const fn storing(&self) -> Option<StoringMode> {
        match self {
            Self::Proxy { .. } => Some(StoringMode::Proxy),
            Self::Local => Some(StoringMode::Local),
            Self::Direct { .. } => None,
        }
    }

    /// The age at which unused content goes; `None` where it has none.
    #[must_use]
    pub const fn ttl(&self) -> Option<Duration> {
        match self {
            Self::Proxy { ttl, .. } => Some(*ttl),
            Self::Direct { .. } | Self::Local => None,
        }
    }
}

impl ModeSpec {
    fn reached_by(self, routes: &UpstreamRoutes) -> Self {
        match self {
            Self::Direct { upstream } => Self::Direct { upstream: routes.of(upstream) },
            Self::Proxy { upstream, ttl } => Self::Proxy { upstream: routes.of(upstream), ttl },
            Self::Local => Self::Local,
        }
    }
}

impl InForce {
    /// The name of what is in force.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Unmanaged => AnyMode::Unmanaged.as_str(),
            Self::Mode { mode, .. } => mode.as_str(),
        }
    }
}

impl ModeFile {
    /// Whether Local is in force and no other mode answers beside it, before it or after it.
    #[must_use]
    pub fn is_local_alone(&self) -> bool {
        let in_force = match &self.in_force {
            InForce::Mode { mode, previous } => mode.takes_pushes() && previous.is_empty(),
            InForce::Unmanaged => false,
        };
        in_force && self.coming.is_none()
    }

    /// Reads the bytes of a mode file. Pure.
    ///
    /// # Errors
    /// [`KeyError`] with the key and, where it can be told, the line; no value of the file is in it.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(wrong("", format!("the mode file is larger than {MAX_FILE_BYTES} bytes")));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("", "the mode file is not UTF-8"))?;
        let raw: RawModeFile = yaml::read(text).map_err(|error| {
            let yaml::YamlError { key, position, message, .. } = error;
            KeyError { file: None, position, key, message }
        })?;
        raw.checked(bytes).map_err(|mut error| {
            error.position = yaml::locate(text, &error.key);
            error
        })
    }

    /// Reads the file at `path`; a wrong one is a value, because the server goes on with what it had. `listen`: the server's
    /// own addresses, which can't be an upstream. `routes`: how upstreams are reached. Blocking.
    #[must_use]
    pub fn find(path: &Path, listen: &[Address], routes: &UpstreamRoutes) -> FoundModeFile {
        let bytes = match read(path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return FoundModeFile::Absent,
            Err(error) => return FoundModeFile::Wrong(format!("modeFile {} can't be read: {error}", path.display())),
        };
        let found = Self::parse(&bytes).and_then(|file| file.another_is_behind(listen).map(|()| file));
        match found {
            Ok(file) => FoundModeFile::Read(Arc::new(file.reached_by(routes))),
            Err(error) => FoundModeFile::Wrong(KeyError { file: Some(path.to_path_buf()), ..error }.to_string()),
        }
    }

    /// The same, its upstreams with the mirrors and trusted hosts that are known of them.
    #[must_use]
    pub fn reached_by(self, routes: &UpstreamRoutes) -> Self {
        let reached = |mode: ModeSpec| mode.reached_by(routes);
        let in_force = match self.in_force {
            InForce::Unmanaged => InForce::Unmanaged,
            InForce::Mode { mode, previous } => {
                InForce::Mode { mode: reached(mode), previous: previous.into_iter().map(reached).collect() }
            }
        };
        let coming = self.coming.map(|Coming { mode, phase }| Coming { mode: reached(mode), phase });
        Self { in_force, coming, ..self }
    }

    /// The bytes it was read from.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The modes before the one in force, the newest first.
    #[must_use]
    pub fn previous(&self) -> &[ModeSpec] {
        match &self.in_force {
            InForce::Unmanaged => &[],
            InForce::Mode { previous, .. } => previous,
        }
    }

    /// All modes: the one in force, the coming one, the previous ones.
    pub fn modes(&self) -> impl Iterator<Item = &ModeSpec> {
        let in_force = match &self.in_force {
            InForce::Unmanaged => None,
            InForce::Mode { mode, .. } => Some(mode),
        };
        in_force.into_iter().chain(self.coming.as_ref().map(|coming| &coming.mode)).chain(self.previous())
    }

    /// User and password of each upstream that is signed in to, in the order of [`ModeFile::modes`].
    pub fn logins(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.modes().filter_map(|mode| mode.upstream()?.endpoint.login())
    }

    /// A server that asks itself would answer nobody.
    fn another_is_behind(&self, listen: &[Address]) -> Result<(), KeyError> {
        let own = |mode: &&ModeSpec| {
            mode.upstream().is_some_and(|upstream| is_own(&upstream.endpoint.host, upstream.endpoint.scheme, listen))
        };
        match self.modes().find(own) {
            Some(mode) => Err(wrong(
                "",
                format!(
                    "the upstream of mode {} is this server's own address; name the registry behind it",
                    mode.as_str()
                ),
            )),
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for ModeFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModeFile")
            .field("generation", &self.generation)
            .field("hash", &self.hash)
            .field("in_force", &self.in_force)
            .field("coming", &self.coming)
            .finish_non_exhaustive()
    }
}

/// A `ttl` is zero, which means never, or at least [`LEAST_TTL`].
pub(super) fn least_ttl(ttl: ConfigDuration) -> Result<(), String> {
    if ttl.0.is_zero() || ttl.0 >= LEAST_TTL {
        return Ok(());
    }
    Err(format!("{ttl} is less than {}; 0s means never", ConfigDuration(LEAST_TTL)))
}

/// The bytes of a file, at most one more than may be read; `None`: there is none.
fn read(path: &Path) -> std::io::Result<Option<zeroize::Zeroizing<Vec<u8>>>> {
    use std::io::Read as _;
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct RawModeFile {
    version: Option<u32>,
    generation: Option<u64>,
    in_force: Option<RawMode>,
    coming: Option<RawComing>,
    previous: Vec<RawMode>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct RawMode {
    mode: Option<AnyMode>,
    upstream: Option<RawModeUpstream>,
    ttl: Option<ConfigDuration>,
}

/// The fields of [`RawMode`] and the phase: serde's `flatten` and `deny_unknown_fields` don't go together.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct RawComing {
    mode: Option<AnyMode>,
    upstream: Option<RawModeUpstream>,
    ttl: Option<ConfigDuration>,
    phase: Option<Phase>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct RawModeUpstream {
    images_repo: Option<ImagesRepo>,
    scheme: Option<Scheme>,
    ca: Option<String>,
    username: Option<String>,
    password: Option<Secret>,
}

impl RawModeFile {
    fn checked(self, bytes: &[u8]) -> Result<ModeFile, KeyError> {
        match self.version {
            Some(VERSION) => {}
            Some(other) => {
                let message = format!("version {other} is not read here; this program reads version {VERSION}");
                return Err(wrong("version", message));
            }
            None => return Err(wrong("version", "is missing")),
        }
        let generation = self.generation.ok_or_else(|| wrong("generation", "is missing"))?;
        let raw = self.in_force.ok_or_else(|| wrong("inForce", "is missing"))?;
        let in_force = raw.checked("inForce")?;
        if self.previous.len() > MAX_PREVIOUS {
            return Err(wrong("previous", format!("more than {MAX_PREVIOUS} modes")));
        }
        let mut previous = Vec::with_capacity(self.previous.len());
        for (index, raw) in self.previous.into_iter().enumerate() {
            let key = format!("previous[{index}]");
            let mode = raw.checked(&key)?;
            previous.push(mode.ok_or_else(|| wrong(&format!("{key}.mode"), "Unmanaged answers nothing"))?);
        }
        let in_force = match in_force {
            Some(mode) => InForce::Mode { mode, previous },
            None if previous.is_empty() => InForce::Unmanaged,
            None => return Err(wrong("previous", "nothing stands behind mode Unmanaged")),
        };
        let coming = match self.coming {
            Some(RawComing { mode, upstream, ttl, phase }) => {
                let mode = RawMode { mode, upstream, ttl }.checked("coming")?;
                let mode = mode.ok_or_else(|| wrong("coming.mode", "Unmanaged has nothing to wait for"))?;
                let phase = phase.ok_or_else(|| wrong("coming.phase", "is missing"))?;
                Some(Coming { mode, phase })
            }
            None => None,
        };
        let hash = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let bytes = Arc::new(zeroize::Zeroizing::new(bytes.to_vec()));
        Ok(ModeFile { generation, hash, in_force, coming, bytes })
    }
}

impl RawMode {
    /// `None`: Unmanaged.
    fn checked(self, key: &str) -> Result<Option<ModeSpec>, KeyError> {
        let below = |name: &str| format!("{key}.{name}");
        let mode = self.mode.ok_or_else(|| wrong(&below("mode"), "is missing"))?;
        if mode != AnyMode::Proxy && self.ttl.is_some() {
            return Err(wrong(&below("ttl"), format!("mode {mode} caches nothing")));
        }
        let upstream = || format!("mode {mode} has no upstream");
        match (mode, self.upstream) {
            (AnyMode::Direct, Some(raw)) => Ok(Some(ModeSpec::Direct { upstream: raw.checked(&below("upstream"))? })),
            (AnyMode::Proxy, Some(raw)) => {
                let ttl = self.ttl.unwrap_or(ConfigDuration(Duration::ZERO));
                least_ttl(ttl).map_err(|message| wrong(&below("ttl"), message))?;
                Ok(Some(ModeSpec::Proxy { upstream: raw.checked(&below("upstream"))?, ttl: ttl.0 }))
            }
            (AnyMode::Direct | AnyMode::Proxy, None) => {
                Err(wrong(&below("upstream"), format!("is missing: mode {mode} needs an upstream")))
            }
            (AnyMode::Local | AnyMode::Unmanaged, Some(_)) => Err(wrong(&below("upstream"), upstream())),
            (AnyMode::Local, None) => Ok(Some(ModeSpec::Local)),
            (AnyMode::Unmanaged, None) => Ok(None),
        }
    }
}

impl RawModeUpstream {
    fn checked(self, key: &str) -> Result<UpstreamSettings, KeyError> {
        let below = |name: &str| format!("{key}.{name}");
        let ImagesRepo { host, path } = self.images_repo.ok_or_else(|| wrong(&below("imagesRepo"), "is missing"))?;
        let scheme = self.scheme.unwrap_or(Scheme::Https);
        if let Some(pem) = &self.ca {
            if scheme == Scheme::Http {
                let message = "a ca can't be given with scheme HTTP: there is no certificate to check";
                return Err(wrong(&below("ca"), message));
            }
            check_pem(pem).map_err(|message| wrong(&below("ca"), message))?;
        }
        let credentials = match (self.username, self.password) {
            (Some(username), Some(password)) => checked(UpstreamCredentials::Login { username, password })
                .map_err(|message| wrong(&below("username"), message))?,
            (None, None) => UpstreamCredentials::Anonymous,
            (Some(_), None) => return Err(wrong(&below("username"), "needs a password")),
            (None, Some(_)) => return Err(wrong(&below("password"), "needs a username")),
        };
        let endpoint = EndpointSettings { scheme, host, path, ca: self.ca, credentials };
        Ok(UpstreamSettings { endpoint, mirrors: Vec::new(), trusted_hosts: Vec::new() })
    }
}

#[cfg(test)]
mod tests;
