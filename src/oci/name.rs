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
}

/// Whether `component` is `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(component: &str) -> bool {
    let mut rest = component;
    loop {
        let word = rest.bytes().take_while(|b| b.is_ascii_lowercase() || b.is_ascii_digit()).count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        if rest.is_empty() {
            return true;
        }
        let length = rest.bytes().take_while(|b| matches!(b, b'.' | b'_' | b'-')).count();
        let separator = &rest[..length];
        rest = &rest[length..];
        let allowed =
            matches!(separator, "." | "_" | "__") || (!separator.is_empty() && separator.bytes().all(|b| b == b'-'));
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
        if text.split('/').all(is_component) { Ok(Self(Arc::from(text))) } else { Err(InvalidName::Grammar) }
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
