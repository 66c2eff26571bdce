//! What a repository of the source is called in the store: as there, below a prefix, or with another beginning. Pure.

use std::fmt;
use std::str::FromStr;

use crate::oci::{InvalidName, RepoName};

/// `[FROM=]TO`: repositories that are FROM or below it come to TO and below; the others stay behind. Without FROM all come
/// below TO. The default leaves names as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositoryMap {
    from: Option<RepoName>,
    to: Option<RepoName>,
}

/// The text is not `[FROM=]TO` of two repository names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of the form [FROM=]TO: {0}")]
pub struct InvalidMap(#[from] InvalidName);

impl FromStr for RepositoryMap {
    type Err = InvalidMap;

    fn from_str(text: &str) -> Result<Self, InvalidMap> {
        let (from, to) = match text.split_once('=') {
            Some((from, to)) => (Some(from.parse()?), to),
            None => (None, text),
        };
        Ok(Self { from, to: Some(to.parse()?) })
    }
}

impl fmt::Display for RepositoryMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "{from}={to}"),
            (None, Some(to)) => write!(f, "{to}"),
            (_, None) => Ok(()),
        }
    }
}

impl RepositoryMap {
    /// The name in the store of the source's `name`, which may be empty: a layout has none. `None`: it stays behind.
    ///
    /// # Errors
    /// [`InvalidName`]: no repository can be called so.
    pub fn name(&self, name: &str) -> Result<Option<RepoName>, InvalidName> {
        let below = match &self.from {
            None => name,
            Some(from) => match name.strip_prefix(from.as_str()) {
                Some("") => "",
                Some(rest) if rest.starts_with('/') => &rest[1..],
                _ => return Ok(None),
            },
        };
        match &self.to {
            None => below.parse().map(Some),
            Some(to) if below.is_empty() => Ok(Some(to.clone())),
            Some(to) => format!("{to}/{below}").parse().map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_go_below_a_prefix_or_change_their_beginning() {
        let named = |map: &str, name: &str| {
            let map: RepositoryMap = if map.is_empty() { RepositoryMap::default() } else { map.parse().unwrap() };
            map.name(name).map(|name| name.map(|name| name.to_string()))
        };
        assert_eq!(named("", "a/b"), Ok(Some("a/b".into())));
        assert_eq!(named("", ""), Err(InvalidName::Grammar));
        assert_eq!(named("system/deckhouse", ""), Ok(Some("system/deckhouse".into())));
        assert_eq!(named("x", "a/b"), Ok(Some("x/a/b".into())));
        assert_eq!(named("deckhouse/ee=system/deckhouse", "deckhouse/ee"), Ok(Some("system/deckhouse".into())));
        assert_eq!(named("deckhouse/ee=system/deckhouse", "deckhouse/ee/a"), Ok(Some("system/deckhouse/a".into())));
        assert_eq!(named("deckhouse/ee=system/deckhouse", "deckhouse/eea"), Ok(None));
        assert_eq!(named("", "A"), Err(InvalidName::Grammar));
        assert_eq!(named("", &"a".repeat(256)), Err(InvalidName::TooLong));
        for wrong in ["", "=", "a=", "=a", "A=b", "a=b=c", "a/"] {
            assert!(wrong.parse::<RepositoryMap>().is_err(), "{wrong}");
        }
        assert_eq!("a/b=c".parse::<RepositoryMap>().unwrap().to_string(), "a/b=c");
    }
}
