//! The section `upstream`: where the upstream is, how it is trusted, and who we are to it.
//!
//! Every file it names is read here, so that a configuration that was read is complete, and a changed file is a changed
//! configuration.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::definition::wrong;
use super::error::KeyError;
use super::images_repo::{ImagesRepo, TrustedHost, UpstreamUrl};
use super::keys::{RawEndpoint, RawUpstream};
use super::origin::{Origin, Setting};
use super::secret_dir::{SecretDir, read_text};
use crate::values::host::canonical_host;
use crate::values::{ConfigDuration, FilePath, Scheme, Secret};

/// The user whose password is a licence, as Deckhouse's registry has it.
const LICENSE_USER: &str = "license-token";

/// The registry behind this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// The upstream itself.
    pub endpoint: EndpointSettings,
    /// Other addresses of the same content, in the order in which they are asked.
    pub mirrors: Vec<EndpointSettings>,
    /// `host` or `host:port`: may be more internal than the upstream itself.
    pub trusted_hosts: Vec<String>,
}

/// One address of the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSettings {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// `host[:port]`, as written.
    pub host: String,
    /// The path of its repository, without slashes at the ends; may be empty.
    pub path: String,
    /// PEM of certificates that are trusted beside the system's; at least one certificate, no key. Only under HTTPS.
    pub ca: Option<String>,
    /// Who we are to it.
    pub credentials: UpstreamCredentials,
}

impl EndpointSettings {
    /// User and password, if it is signed in to.
    #[must_use]
    pub fn login(&self) -> Option<(&str, &Secret)> {
        match &self.credentials {
            UpstreamCredentials::Login { username, password } => Some((username, password)),
            UpstreamCredentials::Anonymous => None,
        }
    }
}

/// Who we are to the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamCredentials {
    /// Nobody.
    Anonymous,
    /// A user.
    Login {
        /// The name: not empty, no colon, no control character.
        username: String,
        /// The password: not empty, no control character; `license-token`'s is the licence.
        password: Secret,
    },
}

/// What a configuration remembers of the section beside what it means.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Notes {
    /// Files and folders whose content is in the settings.
    pub(super) files: Vec<PathBuf>,
    /// The keys in the order of `KEYS`.
    pub(super) shown: Vec<Setting>,
    /// Keys of the section that are given and that the mode file makes void.
    pub(super) passed_over: Vec<&'static str>,
}

/// The section with what the mounted Secret says of other keys.
#[derive(Default)]
pub(super) struct Section {
    /// `None`: no `imagesRepo` is given.
    pub(super) settings: Option<UpstreamSettings>,
    pub(super) has_secret_dir: bool,
    pub(super) mode: Option<String>,
    pub(super) ttl: Option<ConfigDuration>,
    pub(super) notes: Notes,
}

/// Reads the section with the files it names, and `--upstream`; blocking.
pub(super) fn read(raw: Option<RawUpstream>, flag: Option<&Secret>) -> Result<Section, KeyError> {
    let url = flag.map(UpstreamUrl::parse).transpose().map_err(|message| wrong("--upstream", message))?;
    let (raw, raw_mirrors, trusted) = raw.unwrap_or_default().split();
    let is_given = raw != RawEndpoint::default() || !raw_mirrors.is_empty() || !trusted.is_empty();
    let has_secret_dir = raw.secret_dir.is_some();
    let mut notes = Notes::default();
    let first = Endpoint::new("upstream".to_owned(), raw, url.as_ref())?;
    let endpoint = first.read(&mut notes)?;
    let SecretDir { mode, ttl, .. } = first.secret;
    if endpoint.is_none() && is_given && !has_secret_dir {
        return Err(wrong("upstream", "imagesRepo is required"));
    }
    let mirrors = read_mirrors("upstream", raw_mirrors, &mut notes)?;
    let trusted_hosts = read_trusted_hosts("upstream", trusted, &mut notes);
    let settings = endpoint.map(|endpoint| UpstreamSettings { endpoint, mirrors, trusted_hosts });
    Ok(Section { settings, has_secret_dir, mode, ttl, notes })
}

/// The mirrors below `section`, with the files that they name; blocking.
pub(super) fn read_mirrors(
    section: &str,
    raw: Vec<RawEndpoint>,
    notes: &mut Notes,
) -> Result<Vec<EndpointSettings>, KeyError> {
    let mut mirrors = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("{section}.mirrors[{index}]");
        let mirror = Endpoint::new(key.clone(), raw, None)?.read(notes)?;
        mirrors.push(mirror.ok_or_else(|| wrong(&key, "imagesRepo is required"))?);
    }
    Ok(mirrors)
}

/// The trusted hosts below `section`.
pub(super) fn read_trusted_hosts(section: &str, raw: Vec<TrustedHost>, notes: &mut Notes) -> Vec<String> {
    let hosts: Vec<String> = raw.into_iter().map(|host| host.0).collect();
    let origin = if hosts.is_empty() { Origin::Default } else { Origin::File };
    notes.show(format!("{section}.trustedHosts"), hosts.join(", "), origin);
    hosts
}

impl Notes {
    /// Adds the notes of another section.
    pub(super) fn add(&mut self, other: Self) {
        let Self { files, shown, passed_over } = other;
        self.files.extend(files);
        self.shown.extend(shown);
        self.passed_over.extend(passed_over);
    }

    /// Shows a key that the file gives.
    pub(super) fn show_given(&mut self, key: String, value: String) {
        self.show(key, value, Origin::File);
    }

    fn show(&mut self, key: String, value: String, origin: Origin) {
        self.shown.push(Setting { key, value, origin });
    }
}

/// A value with its origin, from the file or the mounted Secret. Both may say it if they say the same.
fn either<T: Clone + PartialEq + Display>(
    key: &str,
    file: Option<&T>,
    secret: Option<&T>,
) -> Result<(Option<T>, Origin), KeyError> {
    match (file, secret) {
        (Some(here), Some(there)) if here != there => {
            Err(wrong(key, format!("{here} here, but {there} in secretDir; leave one of the two out")))
        }
        (Some(value), _) => Ok((Some(value.clone()), Origin::File)),
        (None, Some(value)) => Ok((Some(value.clone()), Origin::SecretDir)),
        (None, None) => Ok((None, Origin::Default)),
    }
}

/// One endpoint while it is read.
struct Endpoint<'a> {
    /// The path of its keys.
    prefix: String,
    raw: RawEndpoint,
    secret: SecretDir,
    url: Option<&'a UpstreamUrl>,
}

impl<'a> Endpoint<'a> {
    fn new(prefix: String, raw: RawEndpoint, url: Option<&'a UpstreamUrl>) -> Result<Self, KeyError> {
        let secret = match &raw.secret_dir {
            Some(dir) => SecretDir::read(&dir.0).map_err(|message| wrong(&format!("{prefix}.secretDir"), message))?,
            None => SecretDir::default(),
        };
        Ok(Self { prefix, raw, secret, url })
    }

    fn wrong(&self, name: &str, message: impl Into<String>) -> KeyError {
        wrong(&format!("{}.{name}", self.prefix), message)
    }

    /// `None` if nothing says where it is.
    fn read(&self, notes: &mut Notes) -> Result<Option<EndpointSettings>, KeyError> {
        let raw = &self.raw;
        let files = [&raw.ca_file, &raw.license_file, &raw.password_file, &raw.docker_config_file, &raw.secret_dir];
        notes.files.extend(files.into_iter().flatten().map(|path| path.0.clone()));
        let (repo, scheme) = match self.url {
            Some(url) => ((Some(url.images_repo.clone()), Origin::Flag), (Some(url.scheme), Origin::Flag)),
            None => (
                either(&self.key("imagesRepo"), raw.images_repo.as_ref(), self.secret.images_repo.as_ref())?,
                either(&self.key("scheme"), raw.scheme.as_ref(), self.secret.scheme.as_ref())?,
            ),
        };
        let scheme = (scheme.0.unwrap_or(Scheme::Https), scheme.1);
        self.show(notes, (repo.0.as_ref(), repo.1), scheme);
        let ca = self.ca(scheme.0)?;
        let Some(ImagesRepo { host, path }) = repo.0 else { return Ok(None) };
        let credentials = self.credentials(&host, scheme.0)?;
        Ok(Some(EndpointSettings { scheme: scheme.0, host, path, ca, credentials }))
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn show(&self, notes: &mut Notes, repo: (Option<&ImagesRepo>, Origin), scheme: (Scheme, Origin)) {
        let (raw, secret, login) = (&self.raw, &self.secret, self.url.and_then(|url| url.login.as_ref()));
        let mut show = |name, value: Option<String>, origin| {
            let origin = if value.is_some() { origin } else { Origin::Default };
            notes.show(self.key(name), value.unwrap_or_else(|| "-".to_owned()), origin);
        };
        let hidden = |is_there: bool| is_there.then(|| "***".to_owned());
        let path = |path: &Option<FilePath>| path.as_ref().map(|path| path.0.display().to_string());
        show("imagesRepo", repo.0.map(ToString::to_string), repo.1);
        show("scheme", Some(scheme.0.to_string()), scheme.1);
        let origin = |in_file: bool| if in_file { Origin::File } else { Origin::SecretDir };
        let ca = raw.ca.is_some() || secret.ca.is_some();
        show("ca", ca.then(|| "PEM".to_owned()), origin(raw.ca.is_some()));
        show("caFile", path(&raw.ca_file), Origin::File);
        show("license", hidden(raw.license.is_some()), Origin::File);
        show("licenseFile", path(&raw.license_file), Origin::File);
        match login {
            Some((username, _)) => {
                show("username", Some(username.clone()), Origin::Flag);
                show("password", hidden(true), Origin::Flag);
            }
            None => {
                let username = raw.username.as_ref().or(secret.username.as_ref());
                show("username", username.cloned(), origin(raw.username.is_some()));
                let password = raw.password.as_ref().or(secret.password.as_ref());
                show("password", hidden(password.is_some()), origin(raw.password.is_some()));
            }
        }
        show("passwordFile", path(&raw.password_file), Origin::File);
        show("dockerConfigFile", path(&raw.docker_config_file), Origin::File);
        show("secretDir", path(&raw.secret_dir), Origin::File);
    }

    fn ca(&self, scheme: Scheme) -> Result<Option<String>, KeyError> {
        let (name, pem) = match (&self.raw.ca, &self.raw.ca_file, &self.secret.ca) {
            (Some(_), Some(_), _) => return Err(self.wrong("caFile", "ca is given too; leave one of the two out")),
            (Some(pem), None, _) => ("ca", pem.clone()),
            (None, Some(file), _) => ("caFile", read_text(&file.0).map_err(|message| self.wrong("caFile", message))?),
            (None, None, Some(pem)) => ("secretDir", pem.clone()),
            (None, None, None) => return Ok(None),
        };
        if self.secret.ca.as_ref().is_some_and(|other| other.trim() != pem.trim()) {
            return Err(self.wrong(name, "secretDir has another ca; leave one of the two out"));
        }
        if scheme == Scheme::Http {
            return Err(self.wrong(name, "a ca can't be given with scheme HTTP: there is no certificate to check"));
        }
        check_pem(&pem).map_err(|message| self.wrong(name, message))?;
        Ok(Some(pem))
    }

    fn credentials(&self, host: &str, scheme: Scheme) -> Result<UpstreamCredentials, KeyError> {
        self.check_pairs()?;
        let sources = self.sources();
        if let [first, second, ..] = sources[..] {
            let message = format!(
                "a second source of credentials beside {first}; one of license, username with password, \
                 dockerConfigFile and secretDir is enough"
            );
            return Err(self.wrong(second, message));
        }
        if let Some((username, password)) = self.url.and_then(|url| url.login.as_ref()) {
            return login("--upstream", username, password.clone());
        }
        let Some(source) = sources.first() else { return Ok(UpstreamCredentials::Anonymous) };
        self.host_of_credentials(host, scheme)?;
        let raw = &self.raw;
        let from_file = |name: &str, path: &FilePath| read_text(&path.0).map_err(|message| self.wrong(name, message));
        match (*source, &raw.docker_config_file) {
            ("license", _) => self.licence(raw.license.as_ref().map(Secret::expose).unwrap_or_default(), "license"),
            ("licenseFile", _) => match &raw.license_file {
                Some(path) => self.licence(&from_file("licenseFile", path)?, "licenseFile"),
                None => Ok(UpstreamCredentials::Anonymous),
            },
            ("dockerConfigFile", Some(path)) => {
                let text = zeroize::Zeroizing::new(from_file("dockerConfigFile", path)?);
                super::docker_login(&text, host, scheme)
                    .and_then(checked)
                    .map_err(|message| self.wrong("dockerConfigFile", in_file(&path.0, &message)))
            }
            ("secretDir", _) => match (&self.secret.username, &self.secret.password) {
                (None, None) => Ok(UpstreamCredentials::Anonymous),
                (Some(username), Some(password)) => login(&self.key("secretDir"), username.trim(), password.clone()),
                (Some(_), None) => Err(self.wrong("secretDir", "there is a file username, but no file password")),
                (None, Some(_)) => Err(self.wrong("secretDir", "there is a file password, but no file username")),
            },
            _ => {
                let username = raw.username.as_deref().unwrap_or_default();
                match (&raw.password, &raw.password_file) {
                    (Some(password), _) => login(&self.key("username"), username, password.clone()),
                    (None, Some(path)) => {
                        let password = Secret::new(from_file("passwordFile", path)?);
                        login(&self.key("username"), username, password)
                    }
                    (None, None) => Err(self.wrong("username", "password is required when username is given")),
                }
            }
        }
    }

    /// Names of the keys that credentials could be taken from, one for each source.
    fn sources(&self) -> Vec<&'static str> {
        let raw = &self.raw;
        let sources = [
            ("license", raw.license.is_some()),
            ("licenseFile", raw.license_file.is_some()),
            ("username", raw.username.is_some()),
            ("dockerConfigFile", raw.docker_config_file.is_some()),
            ("secretDir", raw.secret_dir.is_some()),
        ];
        sources.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
    }

    fn check_pairs(&self) -> Result<(), KeyError> {
        let raw = &self.raw;
        if raw.license.is_some() && raw.license_file.is_some() {
            return Err(self.wrong("licenseFile", "license is given too; leave one of the two out"));
        }
        if raw.password.is_some() && raw.password_file.is_some() {
            return Err(self.wrong("passwordFile", "password is given too; leave one of the two out"));
        }
        let password = if raw.password.is_some() { "password" } else { "passwordFile" };
        match (raw.username.is_some(), raw.password.is_some() || raw.password_file.is_some()) {
            (true, false) => Err(self.wrong("username", "password or passwordFile is required when username is given")),
            (false, true) => Err(self.wrong(password, "username is required when a password is given")),
            _ => Ok(()),
        }
    }

    /// A URL on the command line may lead elsewhere than the file; the file's credentials don't go with it.
    fn host_of_credentials(&self, host: &str, scheme: Scheme) -> Result<(), KeyError> {
        let Some(repo) = self.url.and(self.raw.images_repo.as_ref().or(self.secret.images_repo.as_ref())) else {
            return Ok(());
        };
        if canonical_host(&repo.host, scheme) == canonical_host(host, scheme) {
            return Ok(());
        }
        let message = format!(
            "another host than {}, to which the credentials of the configuration belong; write user:password@ before \
             the host, or take the credentials out of the configuration",
            repo.host
        );
        Err(wrong("--upstream", message))
    }

    fn licence(&self, text: &str, name: &str) -> Result<UpstreamCredentials, KeyError> {
        let licence = text.trim();
        if licence.is_empty() || licence.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(self.wrong(name, "a licence is one word, without spaces and line breaks in it"));
        }
        let password = Secret::new(licence.to_owned());
        Ok(UpstreamCredentials::Login { username: LICENSE_USER.to_owned(), password })
    }
}

/// `path: message`.
fn in_file(path: &Path, message: &str) -> String {
    format!("{}: {message}", path.display())
}

fn login(key: &str, username: &str, password: Secret) -> Result<UpstreamCredentials, KeyError> {
    checked(UpstreamCredentials::Login { username: username.to_owned(), password })
        .map_err(|message| wrong(key, message))
}

/// What HTTP Basic can carry (RFC 7617, 2).
pub(super) fn checked(credentials: UpstreamCredentials) -> Result<UpstreamCredentials, String> {
    let UpstreamCredentials::Login { username, password } = &credentials else { return Ok(credentials) };
    if username.is_empty() || username.contains(':') || username.chars().any(char::is_control) {
        return Err("a username is not empty and has no colon and no control character".to_owned());
    }
    if password.expose().is_empty() || password.expose().chars().any(char::is_control) {
        return Err("a password is not empty and has no line break and no other control character".to_owned());
    }
    Ok(credentials)
}

/// At least one certificate, all of them whole, and no key: the text is shown when settings are logged.
pub(super) fn check_pem(pem: &str) -> Result<(), &'static str> {
    if pem.contains("PRIVATE KEY-----") {
        return Err("there is a private key in it; only certificates belong here");
    }
    let mut certificates = 0;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        certificate.map_err(|_| "a certificate in it is not whole PEM")?;
        certificates += 1;
    }
    if certificates == 0 { Err("there is no certificate in PEM in it") } else { Ok(()) }
}
