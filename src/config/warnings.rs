//! What of a configuration is right by every rule and probably not meant so. Pure: what lies in the files that it names is
//! looked at by who reads them.

use super::origin::Origin;
use super::{Config, FoundModeFile, Reserve, Scheme, TokenSwitch};

/// A reserve below this is a number of percent whose sign was left out.
const LEAST_RESERVE: u64 = 1 << 20;

impl Config {
    /// Sentences for the administrator, each with the key that it is about; without secrets.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        [
            self.of_mode_file(),
            self.of_passed_over(),
            self.of_upstream(),
            self.of_mode(),
            self.of_tokens(),
            self.of_upstream_user(),
            self.of_reserve(),
        ]
        .concat()
    }

    /// A mode file that can't be used.
    fn of_mode_file(&self) -> Vec<String> {
        match self.mode_file.as_ref().map(|key| &key.found) {
            Some(FoundModeFile::Wrong(why)) => vec![format!("modeFile: not taken: {why}")],
            Some(FoundModeFile::Absent | FoundModeFile::Read(_)) | None => Vec::new(),
        }
    }

    /// How an upstream is reached, where nobody looks while the mode file is there.
    fn of_passed_over(&self) -> Vec<String> {
        let void = self.upstream_notes.passed_over.iter();
        void.map(|name| format!("upstream.{name}: not looked at while the mode file is there; write it in upstreamRoutes, which counts for the registry that the file names")).collect()
    }

    /// `imagesRepo` without its host: the first part of the path is then asked as one. And a port of the other scheme.
    fn of_upstream(&self) -> Vec<String> {
        let Some(upstream) = self.upstream.as_ref().filter(|_| self.mode.has_upstream()) else { return Vec::new() };
        let endpoints = std::iter::once(("upstream.imagesRepo".to_owned(), &upstream.endpoint)).chain(
            upstream
                .mirrors
                .iter()
                .enumerate()
                .map(|(index, at)| (format!("upstream.mirrors[{index}].imagesRepo"), at)),
        );
        let endpoints: Vec<_> = endpoints.collect();
        let nameless = endpoints.iter().filter(|(_, endpoint)| {
            let host = &endpoint.host;
            !host.contains(['.', ':']) && !host.eq_ignore_ascii_case("localhost") && !endpoint.path.is_empty()
        });
        let mut found: Vec<String> = nameless
            .map(|(key, endpoint)| {
                let (host, path) = (&endpoint.host, &endpoint.path);
                format!(
                    "{key}: {host}/{path} is asked at the host {host}, which has neither a dot nor a port; if that is no host, write \
                     one before it, such as registry.example.com/{host}/{path}"
                )
            })
            .collect();
        found.extend(endpoints.iter().filter_map(|(key, endpoint)| {
            let other = match endpoint.scheme {
                Scheme::Https if endpoint.host.ends_with(":80") => "HTTP",
                Scheme::Http if endpoint.host.ends_with(":443") => "HTTPS",
                Scheme::Https | Scheme::Http => return None,
            };
            let (host, scheme) = (&endpoint.host, endpoint.scheme);
            Some(format!(
                "{key}: {host} is asked by {scheme}, and the port is that of {other}; is the scheme beside it right?"
            ))
        }));
        found
    }

    /// An upstream that nobody asks, because the mode was left out.
    fn of_mode(&self) -> Vec<String> {
        let forgotten =
            !self.mode.has_upstream() && self.upstream.is_some() && self.origins.of("mode") == Origin::Default;
        let message = "mode: not given, so this is Local, and the configured upstream is never asked; write mode: Proxy or mode: Direct, \
                       or mode: Local if that is meant";
        forgotten.then(|| message.to_owned()).into_iter().collect()
    }

    /// A key for tokens that are not issued.
    fn of_tokens(&self) -> Vec<String> {
        let token = &self.auth.token;
        let why = match token.enabled {
            TokenSwitch::Off => "auth.token.enabled is false",
            TokenSwitch::WithUsers if !self.has_users() => "there are no users",
            TokenSwitch::WithUsers | TokenSwitch::On => return Vec::new(),
        };
        let unread = token.signing_key_file.is_some();
        unread
            .then(|| format!("auth.token.signingKeyFile: not read: {why}, so no tokens are issued"))
            .into_iter()
            .collect()
    }

    /// A user that was asked for and is not there.
    fn of_upstream_user(&self) -> Vec<String> {
        let asked = self.auth.upstream_user && self.origins.of("auth.upstreamUser") != Origin::Default;
        let why = match (&self.upstream, self.has_upstream_login()) {
            (_, true) => return Vec::new(),
            (None, false) => "there is no upstream with a login",
            (Some(_), false) => "the upstream is asked without credentials",
        };
        asked.then(|| format!("auth.upstreamUser: {why}, so nobody can sign in by them")).into_iter().collect()
    }

    /// `reserveBytes: 15`: 15 bytes, and 15 percent were meant.
    fn of_reserve(&self) -> Vec<String> {
        match self.store.reserve {
            Reserve::Bytes(bytes @ 1..LEAST_RESERVE) => {
                vec![format!("store.reserveBytes: {bytes} are bytes; for percent of the file system write {bytes}%")]
            }
            Reserve::Bytes(_) | Reserve::Percent(_) => Vec::new(),
        }
    }
}
