//! The corporate proxy of the environment: which requests go through it.
//!
//! The HTTP client could read the environment itself, but then nobody would know which way a request goes (and an
//! address that a proxy looks up can't be checked here), `*.corp` and `host:port` in `NO_PROXY` would match nothing,
//! an empty upper-case variable would hide the lower-case one, and a bad value would be ignored without a word.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use hyper_util::client::proxy::matcher::Matcher;
use percent_encoding::percent_decode_str;
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};

use super::error::UpstreamSetupError;

/// `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` as they stand in the environment, the first two also in the files that
/// `HTTP_PROXY_FILE` and `HTTPS_PROXY_FILE` name: an environment can be read by more people than a file. `Debug` shows no
/// password.
#[derive(Clone, Default)]
pub struct ProxyVariables {
    /// For `http://` addresses.
    pub http: Option<SecretString>,
    /// For `https://` addresses.
    pub https: Option<SecretString>,
    /// Names (with all below them), addresses and networks that are gone to directly, separated by commas.
    pub bypass: String,
    /// A variable whose file can't be read, and why.
    pub unreadable: Option<(&'static str, String)>,
}

/// A proxy's address is no longer than this; a file that is was not meant.
const MAX_FILE_BYTES: usize = 4096;

impl ProxyVariables {
    /// Reads the environment: the upper-case name first, then the file; an empty value counts as none. Blocking.
    #[must_use]
    pub fn from_environment() -> Self {
        let mut variables = Self::from_variables();
        let read = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        for (variable, place) in [("HTTP_PROXY_FILE", &mut variables.http), ("HTTPS_PROXY_FILE", &mut variables.https)]
        {
            let Some(path) = read(variable).filter(|_| place.is_none()) else { continue };
            match read_address(&path) {
                Ok(address) => *place = address,
                Err(why) => variables.unreadable = Some((variable, why)),
            }
        }
        variables
    }

    fn from_variables() -> Self {
        let read = |names: [&str; 2]| {
            names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()))
        };
        Self {
            http: read(["HTTP_PROXY", "http_proxy"]).map(SecretString::from),
            https: read(["HTTPS_PROXY", "https_proxy"]).map(SecretString::from),
            bypass: read(["NO_PROXY", "no_proxy"]).unwrap_or_default(),
            unreadable: None,
        }
    }
}

/// The address in a file, without the line's end; `None` if it is empty.
fn read_address(path: &str) -> Result<Option<SecretString>, String> {
    let text = std::fs::read(path).map_err(|error| format!("can't read {path}: {error}"))?;
    let text = String::from_utf8(text).ok().filter(|text| text.len() <= MAX_FILE_BYTES);
    let text = text.ok_or_else(|| format!("{path} holds no address of a proxy"))?;
    Ok(Some(text.trim()).filter(|text| !text.is_empty()).map(SecretString::from))
}

impl fmt::Debug for ProxyVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyVariables")
            .field("http", &self.http.is_some())
            .field("https", &self.https.is_some())
            .field("bypass", &self.bypass)
            .finish()
    }
}

/// One proxy, taken apart.
#[derive(Clone, Debug)]
struct Proxy {
    /// Without user and password.
    address: Url,
    login: Option<(String, SecretString)>,
}

/// The proxies and what goes past them.
pub(super) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    bypass: Matcher,
    /// Entries of `NO_PROXY` that count for one port only.
    bypass_ports: Vec<(u16, Matcher)>,
    /// `*`: nothing goes through a proxy, addresses neither.
    bypass_all: bool,
}

impl Proxies {
    pub(super) fn new(variables: &ProxyVariables) -> Result<Self, UpstreamSetupError> {
        if let Some((variable, reason)) = &variables.unreadable {
            return Err(UpstreamSetupError::Proxy { variable, reason: reason.clone() });
        }
        let parse = |variable, value: &Option<SecretString>| {
            let Some(value) = value else { return Ok(None) };
            let parsed = parse(value.expose_secret());
            parsed.map(Some).map_err(|reason| UpstreamSetupError::Proxy { variable, reason: reason.to_owned() })
        };
        let (mut plain, mut ports, mut everything) = (Vec::new(), Vec::new(), false);
        for entry in variables.bypass.split([',', ' ', ';']).map(str::trim).filter(|entry| !entry.is_empty()) {
            if entry == "*" {
                everything = true;
            }
            let entry = entry.trim_start_matches('*').to_ascii_lowercase();
            match port_of(&entry) {
                Some((host, port)) => ports.push((port, matcher(whole_name(host)))),
                None => plain.push(whole_name(&entry).to_owned()),
            }
        }
        Ok(Self {
            http: parse("HTTP_PROXY", &variables.http)?,
            https: parse("HTTPS_PROXY", &variables.https)?,
            bypass: matcher(&plain.join(",")),
            bypass_ports: ports,
            bypass_all: everything,
        })
    }

    fn proxy(&self, url: &Url) -> Option<&Proxy> {
        if url.scheme() == "https" { self.https.as_ref() } else { self.http.as_ref() }
    }

    /// `host:port` of the proxy that a request for `url` goes through.
    pub(super) fn way(&self, url: &Url) -> Option<String> {
        let proxy = self.proxy(url).filter(|_| !self.bypass_all)?;
        let host = url.host_str().unwrap_or_default();
        let host = host.strip_suffix('.').unwrap_or(host);
        let uri: http::Uri = format!("{}://{host}/", url.scheme()).parse().ok()?;
        // A matcher gives the proxy unless the entries match.
        let past = |matcher: &Matcher| matcher.intercept(&uri).is_none();
        let port = url.port_or_known_default();
        if past(&self.bypass) || self.bypass_ports.iter().any(|(of, matcher)| Some(*of) == port && past(matcher)) {
            return None;
        }
        let host = proxy.address.host_str().unwrap_or_default();
        Some(format!("{host}:{}", proxy.address.port_or_known_default().unwrap_or_default()))
    }

    /// Users and passwords of all of them.
    pub(super) fn logins(&self) -> impl Iterator<Item = (&str, &SecretString)> {
        let all = [&self.http, &self.https].into_iter().flatten();
        all.filter_map(|proxy| proxy.login.as_ref()).map(|(user, password)| (user.as_str(), password))
    }

    /// Whether there is any.
    pub(super) fn is_empty(&self) -> bool {
        self.http.is_none() && self.https.is_none()
    }

    /// For a client that goes through them always.
    pub(super) fn for_client(&self) -> reqwest::Result<Vec<reqwest::Proxy>> {
        let mut all = Vec::new();
        if let Some(proxy) = &self.http {
            all.push(proxy.with_login(reqwest::Proxy::http(proxy.address.clone())?));
        }
        if let Some(proxy) = &self.https {
            all.push(proxy.with_login(reqwest::Proxy::https(proxy.address.clone())?));
        }
        Ok(all)
    }
}

impl Proxy {
    fn with_login(&self, proxy: reqwest::Proxy) -> reqwest::Proxy {
        match &self.login {
            Some((user, password)) => proxy.basic_auth(user, password.expose_secret()),
            None => proxy,
        }
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &self.http.as_ref().map(|proxy| proxy.address.as_str()))
            .field("https", &self.https.as_ref().map(|proxy| proxy.address.as_str()))
            .finish_non_exhaustive()
    }
}

fn matcher(bypass: &str) -> Matcher {
    Matcher::builder().http("http://proxy.invalid").https("http://proxy.invalid").no(bypass).build()
}

/// A name without the dot that ends a whole name (RFC 1034, 3.1), an IPv6 address without its brackets if it has no port.
fn whole_name(name: &str) -> &str {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .filter(|rest| rest.parse::<Ipv6Addr>().is_ok())
        .unwrap_or(name)
}

/// `host:port`, but not a bare IPv6 address.
fn port_of(entry: &str) -> Option<(&str, u16)> {
    if entry.parse::<IpAddr>().is_ok() || entry.contains('/') {
        return None;
    }
    let (host, port) = entry.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']), port.parse().ok()?))
}

fn parse(value: &str) -> Result<Proxy, &'static str> {
    const FORM: &str =
        "it is not of the form http://user:password@host:port; write special characters of the password as %XX";
    let value = value.trim();
    let value = if value.contains("://") { value.to_owned() } else { format!("http://{value}") };
    let mut address = Url::parse(&value).map_err(|_| FORM)?;
    if !matches!(address.scheme(), "http" | "https") {
        return Err("only http:// and https:// proxies are supported");
    }
    if address.host_str().is_none_or(str::is_empty)
        || !matches!(address.path(), "" | "/")
        || address.query().is_some()
        || address.fragment().is_some()
    {
        return Err(FORM);
    }
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned()).map_err(|_| FORM);
    let login = match (address.username(), address.password()) {
        ("", None) => None,
        (user, password) => Some((decoded(user)?, SecretString::from(decoded(password.unwrap_or_default())?))),
    };
    if address.set_username("").is_err() || address.set_password(None).is_err() {
        return Err(FORM);
    }
    Ok(Proxy { address, login })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(bypass: &str) -> Proxies {
        let both = SecretString::from("http://me:p%40ss@proxy.corp:3128");
        Proxies::new(&ProxyVariables {
            http: Some(both.clone()),
            https: Some(both),
            bypass: bypass.to_owned(),
            ..Default::default()
        })
        .unwrap()
    }

    #[test]
    fn what_no_proxy_names_goes_directly() {
        let proxies = proxies("localhost,.svc, cluster.local,*.corp,10.0.0.0/8,192.168.1.7,::1,one.example:5000");
        for direct in [
            "http://localhost/",
            "https://registry.d8-system.svc:5001/v2/",
            "https://a.cluster.local/",
            "https://cluster.local/",
            "https://x.corp/",
            "http://10.200.1.1:5000/",
            "http://192.168.1.7/",
            "http://[::1]:80/",
            "https://one.example:5000/",
        ] {
            assert_eq!(proxies.way(&direct.parse().unwrap()), None, "{direct}");
        }
        for through in ["https://registry.deckhouse.io/", "http://11.0.0.1/", "https://one.example/", "https://acorp/"]
        {
            assert_eq!(proxies.way(&through.parse().unwrap()).as_deref(), Some("proxy.corp:3128"), "{through}");
        }
        assert!(super::super::tests::no_proxies().way(&"http://a/".parse().unwrap()).is_none());
    }

    #[test]
    fn a_star_names_everything() {
        for bypass in ["*", "a, *", "* ,b"] {
            let proxies = proxies(bypass);
            for url in ["http://a/", "https://a.b:5000/", "http://10.0.0.1/", "https://[fd00::1]:5000/"] {
                assert_eq!(proxies.way(&url.parse().unwrap()), None, "{bypass} {url}");
            }
        }
    }

    #[test]
    fn names_are_whole_with_and_without_their_dot_and_addresses_with_and_without_brackets() {
        let proxies = proxies("one.example.,.Corp,[fd00::1],[fd00::2]:5000,fd01::/16");
        for direct in [
            "http://one.example/",
            "http://one.example./",
            "https://x.corp./",
            "https://X.CORP/",
            "https://[fd00::1]:5000/",
            "https://[fd00::2]:5000/",
            "https://[fd01::7]/",
        ] {
            assert_eq!(proxies.way(&direct.parse().unwrap()), None, "{direct}");
        }
        for through in ["https://[fd00::2]/", "https://[fd02::1]/", "https://one.example.org./"] {
            assert!(proxies.way(&through.parse().unwrap()).is_some(), "{through}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_and_not_shown() {
        let login = parse("http://me:p%40ss@proxy:3128").unwrap().login.unwrap();
        assert_eq!((login.0.as_str(), login.1.expose_secret()), ("me", "p@ss"));
        assert_eq!(parse("proxy:3128").unwrap().address.as_str(), "http://proxy:3128/");
        for bad in
            ["http://me:ge#heim@proxy", "http://me:ge/heim@proxy", "socks5://geheim@proxy", "http://", "ht tp://x"]
        {
            let reason = parse(bad).unwrap_err();
            assert!(!reason.contains("heim"), "{reason}");
        }
        assert!(!format!("{:?}", proxies("")).contains("ss"), "{:?}", proxies(""));
    }
}
