//! The key `upstreamRoutes`: how registries are reached, whichever of them is the upstream.
//!
//! The mode file says which registry is the upstream, and who we are to it. Which mirrors a site has, and whom it trusts to be
//! redirected to, does not change with the mode: it is said here, per registry, and added to an upstream where it is read.
//!
//! # Decisions
//!
//! - In the servers' configuration and not in the mode file: ModuleConfig has no field for a mirror, and a mirror that changes is
//!   no switch of the cluster. Nodes never ask a mirror, so the controller needs to know of none.
//! - By the repository's path too, and what is below it below the mirror's: another edition of the same registry has the same
//!   mirror, a repository that the mirror does not hold has none.

use super::definition::wrong;
use super::error::KeyError;
use super::images_repo::{ImagesRepo, is_own};
use super::keys::RawUpstreamRoute;
use super::upstream::{EndpointSettings, Notes, UpstreamSettings, read_mirrors, read_trusted_hosts};
use crate::values::host::canonical_host;
use crate::values::{Address, Scheme};

/// How registries are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamRoutes(Vec<UpstreamRoute>);

/// How one repository of a registry is reached, and all below it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UpstreamRoute {
    /// `host[:port]` as written.
    host: String,
    /// Without slashes at its ends; empty for the whole registry.
    path: String,
    /// Other addresses of the same content.
    mirrors: Vec<EndpointSettings>,
    /// Hosts that may be more internal than the registry.
    trusted_hosts: Vec<String>,
}

impl UpstreamRoutes {
    /// The key's name.
    pub(super) const KEY: &'static str = "upstreamRoutes";

    /// Reads the list with the files that it names; blocking.
    pub(super) fn read(raw: Vec<RawUpstreamRoute>, notes: &mut Notes) -> Result<Self, KeyError> {
        let mut routes: Vec<UpstreamRoute> = Vec::with_capacity(raw.len());
        for (index, raw) in raw.into_iter().enumerate() {
            let key = format!("{}[{index}]", Self::KEY);
            let ImagesRepo { host, path } = &raw.images_repo;
            let is_same = |other: &UpstreamRoute| other.path == *path && is_same_host(&other.host, host);
            if routes.iter().any(is_same) {
                return Err(wrong(&format!("{key}.imagesRepo"), format!("{} is there twice", raw.images_repo)));
            }
            notes.show_given(format!("{key}.imagesRepo"), raw.images_repo.to_string());
            let mirrors = read_mirrors(&key, raw.mirrors.unwrap_or_default(), notes)?;
            let trusted_hosts = read_trusted_hosts(&key, raw.trusted_hosts.unwrap_or_default(), notes);
            let ImagesRepo { host, path } = raw.images_repo;
            routes.push(UpstreamRoute { host, path, mirrors, trusted_hosts });
        }
        Ok(Self(routes))
    }

    /// The upstream with what is known of its registry behind its own mirrors and trusted hosts. Pure.
    #[must_use]
    pub fn of(&self, mut upstream: UpstreamSettings) -> UpstreamSettings {
        let fitting = self.0.iter().filter_map(|route| Some((route, route.below(&upstream.endpoint)?.to_owned())));
        let Some((route, below)) = fitting.max_by_key(|(route, _)| route.path.len()) else { return upstream };
        let mirrors = route
            .mirrors
            .iter()
            .cloned()
            .map(|mirror| EndpointSettings { path: joined(&mirror.path, &below), ..mirror });
        upstream.mirrors.extend(mirrors);
        upstream.trusted_hosts.extend(route.trusted_hosts.iter().cloned());
        upstream
    }

    /// All mirrors, each with its key.
    pub fn mirrors(&self) -> impl Iterator<Item = (String, &EndpointSettings)> {
        self.0.iter().enumerate().flat_map(|(index, route)| {
            let key = move |mirror: usize| format!("{}[{index}].mirrors[{mirror}]", Self::KEY);
            route.mirrors.iter().enumerate().map(move |(mirror, endpoint)| (key(mirror), endpoint))
        })
    }

    /// A mirror that is this server itself.
    pub(super) fn own_mirror(&self, listen: &[Address]) -> Option<String> {
        let own = |endpoint: &EndpointSettings| is_own(&endpoint.host, endpoint.scheme, listen);
        self.mirrors().find(|(_, endpoint)| own(endpoint)).map(|(key, _)| key)
    }
}

impl UpstreamRoute {
    /// The endpoint's path below the route's, `""` for the same; `None`: it is another registry, or another repository.
    fn below<'a>(&self, endpoint: &'a EndpointSettings) -> Option<&'a str> {
        if canonical_host(&self.host, endpoint.scheme) != canonical_host(&endpoint.host, endpoint.scheme) {
            return None;
        }
        if self.path.is_empty() {
            return Some(&endpoint.path);
        }
        let rest = endpoint.path.strip_prefix(&self.path)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
    }
}

/// Whether the texts are one host for one of the schemes.
fn is_same_host(one: &str, other: &str) -> bool {
    Scheme::ALL.into_iter().any(|scheme| canonical_host(one, scheme) == canonical_host(other, scheme))
}

fn joined(path: &str, below: &str) -> String {
    match (path, below) {
        ("", below) => below.to_owned(),
        (path, "") => path.to_owned(),
        (path, below) => format!("{path}/{below}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError, Machine, ModeFile, Overrides};
    use super::*;

    const MACHINE: Machine = Machine { cores: 1, terminal: false };

    const ROUTES: &str = "upstreamRoutes:
- imagesRepo: registry.example.com
  trustedHosts: [storage.example.com]
- imagesRepo: Registry.example.com:443/deckhouse
  mirrors: [{imagesRepo: 'mirror.example.com:5000/d8', scheme: HTTP, username: u, password: hunter2}, {imagesRepo: other.example.com}]
";

    fn config(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, None, &Overrides::default(), MACHINE)
    }

    /// Mirrors as `host/path`, and trusted hosts.
    fn reached(upstream: &UpstreamSettings) -> (Vec<String>, Vec<&str>) {
        let mirrors = upstream.mirrors.iter().map(|mirror| format!("{}/{}", mirror.host, mirror.path));
        (mirrors.collect(), upstream.trusted_hosts.iter().map(String::as_str).collect())
    }

    #[test]
    fn the_longest_that_fits_counts_and_what_is_below_it_is_below_the_mirror() {
        let routes = config(ROUTES).unwrap().upstream_routes;
        let none = (Vec::new(), Vec::new());
        let mirrored = |path: &str| {
            (
                vec![
                    format!("mirror.example.com:5000/d8{path}"),
                    format!("other.example.com/{}", path.trim_start_matches('/')),
                ],
                Vec::new(),
            )
        };
        for (repo, expected) in [
            ("registry.example.com/deckhouse", mirrored("")),
            ("registry.example.com/deckhouse/ee", mirrored("/ee")),
            ("REGISTRY.example.com./deckhouse/ee/x", mirrored("/ee/x")),
            ("registry.example.com/deckhouse2/ee", (Vec::new(), vec!["storage.example.com"])),
            ("registry.example.com", (Vec::new(), vec!["storage.example.com"])),
            ("registry.example.com:5000/deckhouse", none.clone()),
            ("other.example.com/deckhouse", none),
        ] {
            let text =
                format!("{{version: 1, generation: 1, inForce: {{mode: Direct, upstream: {{imagesRepo: '{repo}'}}}}}}");
            let file = ModeFile::parse(text.as_bytes()).unwrap().reached_by(&routes);
            let upstream = file.modes().next().unwrap().upstream().unwrap();
            assert_eq!(reached(upstream), expected, "{repo}");
        }
    }

    #[test]
    fn every_mode_of_a_file_and_the_upstream_of_the_keys_have_their_routes() {
        let upstream = "upstream: {imagesRepo: registry.example.com/deckhouse/fe}";
        let text = format!(
            "{{version: 1, generation: 1, inForce: {{mode: Local}}, coming: {{mode: Proxy, phase: ready, {upstream}}}, previous: [{{mode: Direct, {upstream}}}]}}"
        );
        let routes = config(ROUTES).unwrap().upstream_routes;
        let file = ModeFile::parse(text.as_bytes()).unwrap();
        let hash = file.hash.clone();
        let file = file.reached_by(&routes);
        let upstreams: Vec<_> = file.modes().filter_map(|mode| mode.upstream()).collect();
        assert_eq!((upstreams.len(), &file.hash), (2, &hash));
        let own =
            "upstream: {imagesRepo: registry.example.com/deckhouse/fe, mirrors: [{imagesRepo: first.example.com}]}";
        let by_keys = config(&format!("{ROUTES}mode: Proxy\n{own}\n")).unwrap().upstream.unwrap();
        for (upstream, first) in upstreams.into_iter().map(|upstream| (upstream, 0)).chain([(&by_keys, 1)]) {
            assert_eq!(upstream.mirrors[first].path, "d8/fe");
            assert!(upstream.mirrors[first].login().is_some());
        }
        assert_eq!(by_keys.mirrors[0].host, "first.example.com");
    }

    #[test]
    fn what_can_not_be_is_refused_with_its_key() {
        for (text, key) in [
            ("[{}]", "upstreamRoutes[0]"),
            ("[{imagesRepo: 'a b'}]", "upstreamRoutes[0].imagesRepo"),
            ("[{imagesRepo: a.example/x}, {imagesRepo: 'A.example:80/x'}]", "upstreamRoutes[1].imagesRepo"),
            ("[{imagesRepo: a.example, mirrors: [{}]}]", "upstreamRoutes[0].mirrors[0]"),
            (
                "[{imagesRepo: a.example, mirrors: [{imagesRepo: b, username: u}]}]",
                "upstreamRoutes[0].mirrors[0].username",
            ),
            (
                "[{imagesRepo: a.example, mirrors: [{imagesRepo: 'localhost:5001'}]}]",
                "upstreamRoutes[0].mirrors[0].imagesRepo",
            ),
            ("[{imagesRepo: a.example, trustedHosts: ['http://x']}]", "upstreamRoutes[0].trustedHosts[0]"),
        ] {
            let ConfigError::Key(error) = config(&format!("upstreamRoutes: {text}")).expect_err(text) else {
                panic!("{text}")
            };
            assert_eq!(error.key, key, "{error}");
        }
    }

    #[test]
    fn what_is_shown_has_no_secret() {
        let shown = config(ROUTES).unwrap().settings();
        let value = |key: &str| shown.iter().find(|setting| setting.key == key).map(|setting| setting.value.as_str());
        assert_eq!(value("upstreamRoutes[1].mirrors[0].password"), Some("***"));
        assert_eq!(value("upstreamRoutes[1].imagesRepo"), Some("Registry.example.com:443/deckhouse"));
        assert_eq!(value("upstreamRoutes[0].trustedHosts"), Some("storage.example.com"));
        assert!(shown.iter().all(|setting| !setting.value.contains("hunter2")));
    }

    #[test]
    fn what_a_mode_file_makes_void_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mode.yaml");
        let text = format!(
            "modeFile: {}\nupstream: {{imagesRepo: a.example, mirrors: [{{imagesRepo: b.example}}]}}\n",
            path.display()
        );
        assert_eq!(config(&text).unwrap().warnings().len(), 1, "Local by the keys");
        std::fs::write(&path, "{version: 1, generation: 1, inForce: {mode: Local}}").unwrap();
        let warnings = config(&text).unwrap().warnings();
        assert!(
            matches!(&warnings[..], [one] if one.starts_with("upstream.mirrors:") && one.contains("upstreamRoutes")),
            "{warnings:?}"
        );
    }
}
