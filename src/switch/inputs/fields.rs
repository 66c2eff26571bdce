//! The parameters of a mode, checked rule by rule. Each message is the one that Deckhouse documents for the rule; where it has
//! none, a sentence of ours. None shows a value that may be a secret.

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::switch::settings::{CheckMode, DEFAULT_TTL, Login, Params, Settings, Target, Upstream};
use crate::values::{ConfigDuration, Scheme, Secret};

/// The user whose password is a license.
const LICENSE_USER: &str = "license-token";
/// What Deckhouse takes where ModuleConfig names no registry.
const DEFAULT_IMAGES_REPO: &str = "registry.deckhouse.io/deckhouse/ce";
/// The shortest time to live.
const LEAST_TTL: Duration = Duration::from_secs(300);
/// The name of the registry inside of the cluster.
const OWN_NAME: &str = "registry.d8-system.svc";

/// Whose defaults count for what is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defaults {
    /// Deckhouse's: 168 hours, and its public registry.
    Deckhouse,
    /// Ours: nothing is removed for its age, and a registry has to be named.
    Ours,
}

/// What was found to be wrong, and what works and is probably not meant.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// The parameters as texts; an empty one counts as left out, but for `images_repo`.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) images_repo: Option<String>,
    pub(super) scheme: Option<String>,
    pub(super) ca: Option<String>,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) license: Option<Secret>,
    pub(super) check_mode: Option<String>,
    pub(super) ttl: Option<String>,
}

impl Fields {
    /// Whether anything is given.
    pub(super) fn any(&self) -> bool {
        let texts = [&self.images_repo, &self.scheme, &self.ca, &self.username, &self.check_mode, &self.ttl];
        texts.iter().any(|text| text.is_some()) || self.password.is_some() || self.license.is_some()
    }

    /// The settings of a mode that has an upstream. What is wrong is added to `findings`, all of it.
    pub(super) fn check(self, mode: Target, defaults: Defaults, findings: &mut Findings) -> Option<Settings> {
        let before = findings.problems.len();
        let mut rules = Rules { prefix: prefix(mode), findings };
        let images_repo = rules.images_repo(self.images_repo.as_deref(), mode, defaults);
        let scheme = rules.scheme(self.scheme.as_deref());
        let ca = rules.ca(self.ca, scheme);
        let login = rules.login(self.username, self.password, self.license);
        if scheme == Scheme::Http && login.is_some() {
            rules.warn("scheme HTTP sends user and password in clear.");
        }
        let check_mode = rules.check_mode(self.check_mode.as_deref());
        let ttl = rules.ttl(self.ttl.as_deref(), mode, defaults);
        if findings.problems.len() > before {
            return None;
        }
        let upstream = Upstream { images_repo: images_repo?, scheme, ca, login };
        let params = match mode {
            Target::Direct => Params::Direct(upstream),
            Target::Proxy => Params::Proxy { upstream, ttl },
            Target::Unmanaged => Params::Unmanaged(Some(upstream)),
            Target::Local => Params::Local,
        };
        Some(Settings { params, check_mode })
    }
}

/// `registry.direct`, as the documented messages begin.
pub(super) const fn prefix(mode: Target) -> &'static str {
    match mode {
        Target::Direct => "registry.direct",
        Target::Proxy => "registry.proxy",
        Target::Unmanaged => "registry.unmanaged",
        Target::Local => "registry",
    }
}

/// A word of the administrator's as it may be shown: no control characters, at most 40 letters.
pub(super) fn shown(word: &str) -> String {
    let short: String = word.chars().take(40).collect();
    let dots = if short.len() < word.len() { "…" } else { "" };
    format!("{}{dots}", short.escape_debug())
}

struct Rules<'a> {
    prefix: &'static str,
    findings: &'a mut Findings,
}

impl Rules<'_> {
    fn wrong(&mut self, message: impl AsRef<str>) {
        self.findings.problems.push(format!("{}: {}", self.prefix, message.as_ref()));
    }

    fn warn(&mut self, message: &str) {
        self.findings.warnings.push(format!("{}: {message}", self.prefix));
    }

    fn images_repo(&mut self, given: Option<&str>, mode: Target, defaults: Defaults) -> Option<String> {
        let Some(given) = given else {
            if defaults == Defaults::Ours {
                self.wrong("'imagesRepo' is required.");
                return None;
            }
            self.warn(&format!("'imagesRepo' is left out: {DEFAULT_IMAGES_REPO} counts, as in Deckhouse."));
            return Some(DEFAULT_IMAGES_REPO.to_owned());
        };
        let repo = given.trim().trim_end_matches('/');
        if repo.is_empty() {
            self.wrong("'imagesRepo' is required.");
            return None;
        }
        if !is_images_repo(repo) {
            let hint =
                if repo.contains("://") { " Write it without https://: 'scheme' says HTTP or HTTPS." } else { "" };
            let form = "is not of the form host[:port][/path], such as registry.example.com/deckhouse/ee";
            self.wrong(format!("'imagesRepo' {form}.{hint}"));
            return None;
        }
        let (host, path) = repo.split_once('/').unwrap_or((repo, ""));
        if is_own(host) {
            self.wrong("'imagesRepo' is the registry of this cluster itself; name the registry behind it.");
        }
        if path.is_empty() {
            if mode == Target::Unmanaged {
                self.wrong("'imagesRepo' needs a path behind the host: Deckhouse takes no registry without one.");
            } else {
                self.warn(
                    "'imagesRepo' has no path: a registry has no image at its root, and Deckhouse's own is there.",
                );
            }
        }
        Some(repo.to_owned())
    }

    fn scheme(&mut self, given: Option<&str>) -> Scheme {
        match given.unwrap_or("HTTPS") {
            "HTTPS" => Scheme::Https,
            "HTTP" => Scheme::Http,
            other => {
                self.wrong(format!("Invalid scheme '{}'; expected 'HTTP' or 'HTTPS'", shown(other)));
                Scheme::Https
            }
        }
    }

    fn ca(&mut self, given: Option<String>, scheme: Scheme) -> Option<String> {
        let ca = given.filter(|ca| !ca.trim().is_empty())?;
        if scheme == Scheme::Http {
            self.wrong("CA is not allowed when scheme is 'HTTP'");
        }
        if let Err(reason) = check_certificates(&ca) {
            self.wrong(format!("failed to decode CA certificate: {reason}"));
        }
        Some(ca)
    }

    fn login(&mut self, username: Option<String>, password: Option<Secret>, license: Option<Secret>) -> Option<Login> {
        let known = license.is_some();
        if known && (username.is_some() || password.is_some()) {
            self.wrong("'license' and 'username'/'password' are mutually exclusive.");
            return None;
        }
        let (username, password) = match (username, password, license) {
            (_, _, Some(license)) => (LICENSE_USER.to_owned(), Secret::new(license.expose().trim().to_owned())),
            (Some(username), Some(password), None) => (username, password),
            (None, None, None) => return None,
            (Some(_), None, None) => {
                self.wrong("'password' is required when 'username' is provided.");
                return None;
            }
            (None, Some(_), None) => {
                self.wrong("'username' is required when 'password' is provided.");
                return None;
            }
        };
        let no_word = |text: &str| text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control());
        if no_word(&username) || username.contains(':') {
            self.wrong("'username' is empty or contains a colon, spaces or line breaks.");
        }
        if no_word(password.expose()) {
            let field = if known { "license" } else { "password" };
            let why = "which Deckhouse takes in no deckhouse-registry";
            self.wrong(format!("'{field}' is empty or contains spaces or line breaks, {why}."));
        }
        Some(Login { username, password })
    }

    fn check_mode(&mut self, given: Option<&str>) -> CheckMode {
        let Some(given) = given else { return CheckMode::Default };
        CheckMode::ALL.into_iter().find(|mode| mode.as_str() == given).unwrap_or_else(|| {
            self.wrong(format!("unknown registry check mode: {}", shown(given)));
            CheckMode::Default
        })
    }

    /// Zero, which is never, can't be given in ModuleConfig.
    fn ttl(&mut self, given: Option<&str>, mode: Target, defaults: Defaults) -> Duration {
        let default = match defaults {
            Defaults::Deckhouse => DEFAULT_TTL,
            Defaults::Ours => Duration::ZERO,
        };
        let Some(given) = given else { return default };
        if mode != Target::Proxy {
            self.warn("'ttl' has a meaning in mode 'Proxy' alone and is passed over.");
            return default;
        }
        let Some(ttl) = duration(given) else {
            self.wrong("'ttl' is not of the form 168h, 90m or 168h10m5s.");
            return default;
        };
        let never = ttl.is_zero() && defaults == Defaults::Ours;
        if ttl < LEAST_TTL && !never {
            self.wrong("'ttl' should be at least 5 minutes.");
        }
        ttl
    }
}

/// By the schema's pattern `^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?$`.
fn duration(text: &str) -> Option<Duration> {
    let is_of_schema = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'h' | b'm' | b's'));
    if !is_of_schema || text.contains("ms") || !text.ends_with(['h', 'm', 's']) {
        return None;
    }
    text.parse::<ConfigDuration>().ok().map(|duration| duration.0)
}

/// The schema's pattern `^[0-9a-zA-Z\.\-]+(\:[0-9]{1,5})?(\/[0-9a-zA-Z\.\-\_]+)*$`, without ports that are none and without
/// the components `.` and `..`.
fn is_images_repo(text: &str) -> bool {
    let (host, path) = text.split_once('/').map_or((text, None), |(host, path)| (host, Some(path)));
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    let is_port = |port: &str| {
        (1..=5).contains(&port.len())
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    let is_component = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        !part.is_empty() && part != "." && part != ".." && part.bytes().all(plain)
    };
    is_name && port.is_none_or(is_port) && path.is_none_or(|path| path.split('/').all(is_component))
}

/// Whether `host[:port]` leads back to the registry inside of the cluster.
fn is_own(host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let (name, port) = host.split_once(':').map_or((host.as_str(), ""), |(name, port)| (name, port));
    let name = name.trim_end_matches('.');
    let is_service = name.strip_prefix(OWN_NAME).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    is_service || (matches!(name, "localhost" | "127.0.0.1") && port == "5001")
}

/// At least one certificate, each of them whole, and no key.
fn check_certificates(pem: &str) -> Result<(), &'static str> {
    if pem.contains("PRIVATE KEY-----") {
        return Err("there is a private key in it; only certificates belong here");
    }
    let mut certificates = 0;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| "it is not whole PEM")?;
        X509Certificate::from_der(&certificate).map_err(|_| "it holds something that is no certificate")?;
        certificates += 1;
    }
    if certificates == 0 { Err("there is no certificate in PEM in it") } else { Ok(()) }
}
