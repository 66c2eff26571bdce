//! Tags.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Algorithm, Digest};

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` (distribution-spec, "Pulling manifests").
///
/// Never begins with a dot and has no slash, so it is safe as a file name. Cheap to clone. Its order
/// is that of its bytes, which is the order of tag lists.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

/// The text is not a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a tag is 1 to 128 characters of a-z, A-Z, 0-9, _ . - and begins with a letter, a digit or _")]
pub struct InvalidTag;

impl Tag {
    /// Longest tag in bytes.
    pub const MAX_LEN: usize = 128;

    /// The tag as written in paths.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The manifest that a tag `sha256-<hex>`, with whatever follows, says something about (cosign's signatures; distribution-spec,
    /// "Referrers Tag Schema"); `None`: it is another tag.
    #[must_use]
    pub fn subject(&self) -> Option<Digest> {
        Algorithm::ALL.into_iter().find_map(|algorithm| {
            let rest = self.0.strip_prefix(algorithm.as_str())?.strip_prefix('-')?;
            let (hex, behind) = rest.split_at_checked(algorithm.digest_len() * 2)?;
            let ends = behind.is_empty() || behind.starts_with(['.', '-']);
            Digest::from_hex(algorithm, hex).ok().filter(|_| ends)
        })
    }
}

impl FromStr for Tag {
    type Err = InvalidTag;

    fn from_str(text: &str) -> Result<Self, InvalidTag> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let bytes = text.as_bytes();
        let valid = bytes.len() <= Self::MAX_LEN
            && bytes.first().copied().is_some_and(word)
            && bytes.iter().all(|&b| word(b) || matches!(b, b'.' | b'-'));
        if valid { Ok(Self(Arc::from(text))) } else { Err(InvalidTag) }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_of_the_referrers_schema_has_a_subject() {
        let hex = Algorithm::Sha256.digest(b"1").hex();
        for (tag, is) in [
            ("v1".to_owned(), false),
            (hex.clone(), false),
            (format!("sha256-{hex}"), true),
            (format!("sha256-{hex}.att"), true),
            (format!("sha256-{hex}-x"), true),
            (format!("sha256-{hex}a"), false),
            (format!("sha256-{}", &hex[1..]), false),
        ] {
            let subject = tag.parse::<Tag>().unwrap().subject();
            assert_eq!(subject, is.then(|| Algorithm::Sha256.digest(b"1")), "{tag}");
        }
    }

    #[test]
    fn the_grammar_holds() {
        for tag in ["latest", "v1.2.3-rc.1", "_x", "A", &"a".repeat(128)] {
            assert!(tag.parse::<Tag>().is_ok(), "{tag}");
        }
        for tag in ["", ".a", "-a", "a/b", "a:b", "a b", "\u{e9}", &"a".repeat(129), ".."] {
            assert!(tag.parse::<Tag>().is_err(), "{tag}");
        }
    }
}
