//! Names: what clients call a repository, and what the upstream calls it.

use super::ModeError;
use crate::oci::{RepoName, UpstreamId};

/// Maps the alias and everything below it to the upstream's repository and everything below that.
#[derive(Clone, Debug)]
pub struct Mapping {
    alias: RepoName,
    upstream: UpstreamId,
    /// Whether the upstream's repository has a path; without one the alias itself leads nowhere.
    has_root: bool,
}

/// A repository, as the upstream and as the store know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Home<'a> {
    /// Below the upstream's own repository, `""` for itself.
    pub(super) child: &'a str,
    /// In the store.
    pub(super) cached: RepoName,
}

impl Mapping {
    /// From `alias` to the repository `path` of `host`.
    #[must_use]
    pub fn new(alias: RepoName, host: &str, path: &str) -> Self {
        let path = path.trim_matches('/');
        Self { alias, upstream: UpstreamId::of(host, path), has_root: !path.is_empty() }
    }

    /// Which upstream it leads to.
    pub(super) const fn upstream(&self) -> UpstreamId {
        self.upstream
    }

    /// Where a client's name leads.
    ///
    /// # Errors
    /// [`ModeError::NotServed`] for a name outside the alias.
    pub(super) fn home<'a>(&self, repo: &'a RepoName) -> Result<Home<'a>, ModeError> {
        let not_served = || ModeError::NotServed { alias: self.alias.clone(), has_root: self.has_root };
        let rest = repo.as_str().strip_prefix(self.alias.as_str()).ok_or_else(not_served)?;
        let child = match rest.strip_prefix('/') {
            Some(child) => child,
            None if rest.is_empty() && self.has_root => "",
            None => return Err(not_served()),
        };
        let cached = RepoName::cached(self.upstream, child).map_err(|_| not_served())?;
        Ok(Home { child, cached })
    }

    /// The client's name of a child.
    pub(super) fn name(&self, child: &str) -> String {
        if child.is_empty() { self.alias.to_string() } else { format!("{}/{child}", self.alias) }
    }

    /// The place in a sorted list of children that a client's `last` stands for: `Some(None)` before all of them,
    /// `None` behind all.
    pub(super) fn place<'a>(&self, last: Option<&'a str>) -> Option<Option<&'a str>> {
        let Some(last) = last else { return Some(None) };
        let alias = self.alias.as_str();
        match last.strip_prefix(alias) {
            _ if last < alias => Some(None),
            Some("") => Some(Some("")),
            Some(rest) if rest < "/" => Some(Some("")),
            Some(rest) => rest.strip_prefix('/').map(Some),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(path: &str) -> Mapping {
        Mapping::new("system/deckhouse".parse().unwrap(), "registry.example.com", path)
    }

    fn child<'a>(mapping: &Mapping, name: &'a RepoName) -> Option<&'a str> {
        mapping.home(name).ok().map(|home| home.child)
    }

    #[test]
    fn only_the_alias_and_what_is_below_it_lead_anywhere() {
        let name = |text: &str| text.parse::<RepoName>().unwrap();
        let mapping = mapping("/deckhouse/ee/");
        assert_eq!(child(&mapping, &name("system/deckhouse")), Some(""));
        assert_eq!(child(&mapping, &name("system/deckhouse/modules/console")), Some("modules/console"));
        for other in ["system/deckhouse-x", "system/deckhouse2", "system", "deckhouse/ee", "x/system/deckhouse"] {
            assert!(matches!(mapping.home(&name(other)), Err(ModeError::NotServed { .. })), "{other}");
        }
        let rootless = self::mapping("");
        assert_eq!(child(&rootless, &name("system/deckhouse")), None);
        assert_eq!(child(&rootless, &name("system/deckhouse/a")), Some("a"));
    }

    #[test]
    fn a_page_goes_on_behind_the_clients_last_name() {
        let mapping = mapping("deckhouse");
        assert_eq!(mapping.name(""), "system/deckhouse");
        assert_eq!(mapping.name("a/b"), "system/deckhouse/a/b");
        for (last, place) in [
            (None, Some(None)),
            (Some("a"), Some(None)),
            (Some("system/deckhouse"), Some(Some(""))),
            (Some("system/deckhouse-x"), Some(Some(""))),
            (Some("system/deckhouse/a"), Some(Some("a"))),
            (Some("system/deckhouse0"), None),
            (Some("t"), None),
        ] {
            assert_eq!(mapping.place(last), place, "{last:?}");
        }
    }
}
