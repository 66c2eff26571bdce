//! Names of repositories: the clients', the upstream's and the store's.

use std::borrow::Cow;
use std::str::FromStr as _;

use super::ModeError;
use crate::oci::{RepoName, UpstreamId};
use crate::upstream::WHOLE;

/// Maps aliases and everything below them to repositories of the upstream and everything below those. Of several aliases that
/// fit a name the longest counts.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The first is the one that refusals name.
    entries: Vec<Entry>,
    host: String,
    /// Of the upstream's own repository.
    path: String,
}

/// One alias.
#[derive(Clone, Debug)]
struct Entry {
    alias: RepoName,
    upstream: UpstreamId,
    /// The upstream's repository; empty: the alias itself leads nowhere.
    path: String,
    /// Whether it is the upstream's own one, so that mirrors have it too.
    is_own: bool,
}

/// A repository, as the upstream and as the store know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Home<'a> {
    /// Below the upstream's own repository, `""` for itself; with [`WHOLE`] before it: at the upstream itself.
    pub(super) child: Cow<'a, str>,
    /// In the store.
    pub(super) cached: RepoName,
}

impl Mapping {
    /// From `alias` to the upstream's own repository, `path` of `host`.
    #[must_use]
    pub fn new(alias: RepoName, host: &str, path: &str) -> Self {
        Self::empty(host, path).and(alias, path)
    }

    /// From nowhere, for an upstream whose own repository is `path` of `host`. Serves nothing until [`Mapping::and`].
    #[must_use]
    pub fn empty(host: &str, path: &str) -> Self {
        Self { entries: Vec::new(), host: host.to_owned(), path: path.trim_matches('/').to_owned() }
    }

    /// Also from `alias` to the repository `path` of the same host.
    #[must_use]
    pub fn and(mut self, alias: RepoName, path: &str) -> Self {
        let path = path.trim_matches('/').to_owned();
        let (upstream, is_own) = (UpstreamId::of(&self.host, &path), path == self.path);
        self.entries.push(Entry { alias, upstream, path, is_own });
        self
    }

    /// The upstreams, as the store names what is learnt of their repositories.
    pub fn upstreams(&self) -> impl Iterator<Item = UpstreamId> {
        self.entries.iter().map(|entry| entry.upstream)
    }

    /// The clients' names that lead to a repository, each with that repository in the store.
    pub fn roots(&self) -> impl Iterator<Item = (RepoName, RepoName)> {
        self.entries.iter().filter_map(|entry| Some((entry.alias.clone(), RepoName::cached(entry.upstream, "").ok()?)))
    }

    /// The repository that a client's name leads to.
    ///
    /// # Errors
    /// [`ModeError::NotServed`] for a name outside all aliases.
    pub(super) fn home<'a>(&self, repo: &'a RepoName) -> Result<Home<'a>, ModeError> {
        let (entry, rest) = self.entry(repo.as_str()).ok_or_else(|| self.not_served())?;
        let cached = RepoName::cached(entry.upstream, rest).map_err(|_| self.not_served())?;
        let child = match (entry.is_own, entry.path.as_str(), rest) {
            (true, _, rest) => Cow::Borrowed(rest),
            (false, path, "") => Cow::Owned(format!("{WHOLE}{path}")),
            (false, "", rest) => Cow::Owned(format!("{WHOLE}{rest}")),
            (false, path, rest) => Cow::Owned(format!("{WHOLE}{path}/{rest}")),
        };
        Ok(Home { child, cached })
    }

    /// The entry of a name and what follows the alias, without a slash.
    fn entry<'a>(&self, name: &'a str) -> Option<(&Entry, &'a str)> {
        let fitting = self.entries.iter().filter_map(|entry| {
            let rest = name.strip_prefix(entry.alias.as_str())?;
            match rest.strip_prefix('/') {
                Some(child) => Some((entry, child)),
                None if rest.is_empty() && !entry.path.is_empty() => Some((entry, "")),
                None => None,
            }
        });
        fitting.max_by_key(|(entry, _)| entry.alias.as_str().len())
    }

    /// A client's name that leads to a cached repository; `None`: none does.
    pub(super) fn name_of(&self, cached: &RepoName) -> Option<RepoName> {
        self.entries.iter().find_map(|entry| {
            let child = cached.as_str().strip_prefix(&entry.upstream.to_string())?;
            let name = RepoName::from_str(&format!("{}{child}", entry.alias)).ok()?;
            let leads = self.home(&name).is_ok_and(|home| home.cached == *cached);
            leads.then_some(name)
        })
    }

    fn not_served(&self) -> ModeError {
        let first = self.entries.first();
        let has_root = first.is_some_and(|entry| !entry.path.is_empty());
        match first {
            Some(entry) => ModeError::NotServed { alias: entry.alias.clone(), has_root },
            None => ModeError::RepositoryUnknown,
        }
    }

    /// The cached repositories of all aliases, behind a client's `last`.
    pub(super) fn shelves(&self, last: Option<&str>) -> Vec<Shelf<'_>> {
        let shelf = |entry| {
            let last = place(entry, last)?.map(str::to_owned);
            Some(Shelf { mapping: self, entry, last })
        };
        self.entries.iter().filter_map(shelf).collect()
    }
}

/// The cached repositories of one alias.
#[derive(Debug)]
pub(super) struct Shelf<'a> {
    mapping: &'a Mapping,
    entry: &'a Entry,
    last: Option<String>,
}

impl Shelf<'_> {
    /// Which upstream they are of.
    pub(super) const fn upstream(&self) -> UpstreamId {
        self.entry.upstream
    }

    /// The child behind which they go on.
    pub(super) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// The client's name of a child.
    pub(super) fn name(&self, child: &str) -> String {
        let alias = &self.entry.alias;
        if child.is_empty() { alias.to_string() } else { format!("{alias}/{child}") }
    }

    /// Whether a client that says `name` is led here, and not by a longer alias elsewhere.
    pub(super) fn has(&self, name: &str) -> bool {
        self.mapping.entry(name).is_some_and(|(entry, _)| entry.alias == self.entry.alias)
    }
}

/// The place in a sorted list of children that a client's `last` stands for: `Some(None)` before all of them, `None` behind
/// all.
fn place<'a>(entry: &Entry, last: Option<&'a str>) -> Option<Option<&'a str>> {
    let Some(last) = last else { return Some(None) };
    let alias = entry.alias.as_str();
    match last.strip_prefix(alias) {
        _ if last < alias => Some(None),
        Some("") => Some(Some("")),
        Some(rest) if rest < "/" => Some(Some("")),
        Some(rest) => rest.strip_prefix('/').map(Some),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(path: &str) -> Mapping {
        Mapping::new("system/deckhouse".parse().unwrap(), "registry.example.com", path)
    }

    fn child(mapping: &Mapping, name: &RepoName) -> Option<String> {
        mapping.home(name).ok().map(|home| home.child.into_owned())
    }

    #[test]
    fn the_longest_alias_leads() {
        let name = |text: &str| text.parse::<RepoName>().unwrap();
        let mapping = mapping("deckhouse/ee")
            .and(name("system/deckhouse/installer"), "deckhouse/installer")
            .and(name("plugins"), "")
            .and(name("again"), "/deckhouse/ee/");
        for (asked, leads) in [
            ("system/deckhouse", Some("")),
            ("system/deckhouse/modules", Some("modules")),
            ("system/deckhouse/installer", Some("/deckhouse/installer")),
            ("system/deckhouse/installer/x", Some("/deckhouse/installer/x")),
            ("system/deckhouse/installers", Some("installers")),
            ("plugins", None),
            ("plugins/a/b", Some("/a/b")),
            ("again/modules", Some("modules")),
            ("other", None),
        ] {
            assert_eq!(child(&mapping, &name(asked)).as_deref(), leads, "{asked}");
        }
        // Of what is cached a name is known that leads there.
        for leads in ["system/deckhouse", "system/deckhouse/installer/x", "plugins/a/b", "again/modules"] {
            let cached = mapping.home(&name(leads)).unwrap().cached;
            let known = mapping.name_of(&cached).unwrap();
            assert_eq!(mapping.home(&known).unwrap().cached, cached, "{leads}");
        }
        let elsewhere = RepoName::cached(UpstreamId::of("other.example", "x"), "a").unwrap();
        assert_eq!(mapping.name_of(&elsewhere), None);
        assert_eq!(mapping.name_of(&name("a")), None);
        // Two names of one repository share what is cached; two repositories never do.
        let cached = |text: &str| mapping.home(&name(text)).unwrap().cached;
        assert_eq!(cached("again/modules"), cached("system/deckhouse/modules"));
        assert_ne!(cached("system/deckhouse/installer"), cached("again/installer"));
    }

    #[test]
    fn only_the_alias_and_what_is_below_it_lead_anywhere() {
        let name = |text: &str| text.parse::<RepoName>().unwrap();
        let mapping = mapping("/deckhouse/ee/");
        assert_eq!(child(&mapping, &name("system/deckhouse")).as_deref(), Some(""));
        assert_eq!(child(&mapping, &name("system/deckhouse/modules/console")).as_deref(), Some("modules/console"));
        for other in ["system/deckhouse-x", "system/deckhouse2", "system", "deckhouse/ee", "x/system/deckhouse"] {
            assert!(matches!(mapping.home(&name(other)), Err(ModeError::NotServed { .. })), "{other}");
        }
        let rootless = self::mapping("");
        assert_eq!(child(&rootless, &name("system/deckhouse")), None);
        assert_eq!(child(&rootless, &name("system/deckhouse/a")).as_deref(), Some("a"));
    }

    #[test]
    fn a_page_goes_on_behind_the_clients_last_name() {
        let mapping = mapping("deckhouse");
        let shelves = mapping.shelves(None);
        let [shelf] = &shelves[..] else { panic!("{shelves:?}") };
        assert_eq!(shelf.name(""), "system/deckhouse");
        assert_eq!(shelf.name("a/b"), "system/deckhouse/a/b");
        for (last, place) in [
            (None, Some(None)),
            (Some("a"), Some(None)),
            (Some("system/deckhouse"), Some(Some(""))),
            (Some("system/deckhouse-x"), Some(Some(""))),
            (Some("system/deckhouse/a"), Some(Some("a"))),
            (Some("system/deckhouse0"), None),
            (Some("t"), None),
        ] {
            assert_eq!(super::place(&mapping.entries[0], last), place, "{last:?}");
        }
    }
}
