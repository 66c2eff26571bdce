//! Repository names.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A repository name by the grammar of distribution-spec, "Pulling manifests":
/// components of `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` joined by `/`, at most 255 bytes in all.
///
/// Its components can't be empty, `.` or `..` and can't begin with `_`, so a name is safe as a
/// relative path, and the tree's own folders (`_blobs`, `_tags`, …) can't collide with one.
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoName(Arc<str>);

/// Why a text is not a repository name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Longer than [`RepoName::MAX_LEN`].
    #[error("the repository name is longer than 255 characters")]
    TooLong,
    /// Outside the grammar.
    #[error(
        "the repository name has an empty component or a character outside a-z, 0-9 and single separators . _ __ -"
    )]
    Grammar,
}

impl RepoName {
    /// Longest accepted name in bytes, after distribution-spec's note on client limits.
    pub const MAX_LEN: usize = 255;

    /// The name as written in paths.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name under which the store keeps what was learnt of a repository of an upstream. No client can name it: a
    /// name that parses never has a `~`. `child`: the repository below the upstream's own one, `""` for itself; by the
    /// grammar of names.
    ///
    /// # Errors
    /// [`InvalidName`] for a child outside the grammar.
    pub fn cached(upstream: UpstreamId, child: &str) -> Result<Self, InvalidName> {
        let name = if child.is_empty() { upstream.to_string() } else { format!("{upstream}/{child}") };
        Self::parse_stored(&name)
    }

    /// Reads a name as the store writes it: one by the grammar, or one of [`RepoName::cached`].
    ///
    /// # Errors
    /// [`InvalidName`].
    pub(crate) fn parse_stored(text: &str) -> Result<Self, InvalidName> {
        let Some(rest) = text.strip_prefix(UpstreamId::SIGN) else { return text.parse() };
        let (id, child) = rest.split_once('/').map_or((rest, None), |(id, child)| (id, Some(child)));
        let is_id = id.len() == 16 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_id || child.is_some_and(|child| !has_components_only(child)) {
            return Err(InvalidName::Grammar);
        }
        Ok(Self(Arc::from(text)))
    }

    /// Whether the name is one of [`RepoName::cached`].
    #[must_use]
    pub fn is_cached(&self) -> bool {
        self.0.starts_with(UpstreamId::SIGN)
    }

    /// The upstream of a name of [`RepoName::cached`].
    #[must_use]
    pub fn upstream(&self) -> Option<UpstreamId> {
        let id = self.0.strip_prefix(UpstreamId::SIGN)?;
        u64::from_str_radix(id.get(..16)?, 16).ok().map(UpstreamId)
    }
}

/// Which upstream something was learnt from: a short hash of its address, `~` and 16 digits when written. Mirrors,
/// scheme and credentials don't count: they lead to the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamId(u64);

impl UpstreamId {
    /// First character of the written form; sorts behind every letter of a name.
    pub(crate) const SIGN: char = '~';

    /// The identity of `host[:port]` and the path of its repository (`imagesRepo`).
    #[must_use]
    pub fn of(host: &str, path: &str) -> Self {
        let address = format!("{}/{}", host.to_ascii_lowercase(), path.trim_matches('/'));
        let digest = super::Algorithm::Sha256.digest(address.as_bytes());
        Self(digest.as_bytes().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte)))
    }
}

impl fmt::Display for UpstreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:016x}", Self::SIGN, self.0)
    }
}

/// Whether `text` is components with slashes between them.
fn has_components_only(text: &str) -> bool {
    text.as_bytes().split(|byte| *byte == b'/').all(is_component)
}

/// Whether `component` is `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(component: &[u8]) -> bool {
    let mut rest = component;
    loop {
        let word = rest.iter().take_while(|b| b.is_ascii_lowercase() || b.is_ascii_digit()).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        let length = rest.iter().take_while(|b| matches!(b, b'.' | b'_' | b'-')).count();
        let separator = &rest[..length];
        rest = &rest[length..];
        let allowed =
            matches!(separator, b"." | b"_" | b"__") || (!separator.is_empty() && separator.iter().all(|b| *b == b'-'));
        if !allowed {
            return false;
        }
    }
}

impl FromStr for RepoName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.len() > Self::MAX_LEN {
            return Err(InvalidName::TooLong);
        }
        if has_components_only(text) { Ok(Self(Arc::from(text))) } else { Err(InvalidName::Grammar) }
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accepts_what_the_grammar_accepts() {
        for name in ["a", "system/deckhouse", "a.b/c_d/e__f/g---h", "0/1/2/3/4/5/6/7/8/9/10"] {
            assert!(name.parse::<RepoName>().is_ok(), "{name}");
        }
        assert!("a".repeat(255).parse::<RepoName>().is_ok());
    }

    #[test]
    fn refuses_what_the_grammar_refuses() {
        for name in [
            "", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "A", "a..b", "a___b", "a._b", "-a", "a-", "_a", "a_",
            "a b", "a\u{e9}", "a%2fb", "a\0",
        ] {
            assert_eq!(name.parse::<RepoName>(), Err(InvalidName::Grammar), "{name}");
        }
        assert_eq!("a".repeat(256).parse::<RepoName>(), Err(InvalidName::TooLong));
    }

    #[test]
    fn a_cached_name_is_read_back_and_is_nobodys_to_ask_for() {
        let upstream = UpstreamId::of("Registry.example.com:5000", "/deckhouse/ee/");
        assert_eq!(upstream, UpstreamId::of("registry.example.com:5000", "deckhouse/ee"));
        assert_ne!(upstream, UpstreamId::of("registry.example.com:5000", "deckhouse/fe"));
        for child in ["", "modules", "modules/console"] {
            let name = RepoName::cached(upstream, child).unwrap();
            assert!(name.is_cached() && name.as_str().parse::<RepoName>().is_err());
            assert_eq!(name.upstream(), Some(upstream));
            assert_eq!(RepoName::parse_stored(name.as_str()), Ok(name));
        }
        for stored in ["~", "~12", "~0123456789abcdeF", "~0123456789abcdef/", "~0123456789abcdef/_lists", "a/~b"] {
            assert!(RepoName::parse_stored(stored).is_err(), "{stored}");
        }
        let own: RepoName = "system".parse().unwrap();
        assert!(!own.is_cached() && own.upstream().is_none());
    }

    proptest! {
        #[test]
        fn a_name_never_leaves_its_folder(text in "[a-z0-9._/-]{0,40}") {
            if let Ok(name) = text.parse::<RepoName>() {
                prop_assert_eq!(name.as_str(), text.as_str());
                for component in name.as_str().split('/') {
                    prop_assert!(!component.is_empty() && !component.starts_with(['.', '_']));
                }
            }
        }
    }
}
