//! Patterns of names and tags.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{InvalidValue, Text, read_as_text};

read_as_text!(Pattern);

/// A pattern that a whole name or tag has to fit: `*` stands for any characters but `/`, `**` for any, `?` for one but `/`; all
/// else for itself. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Arc<str>);

/// Longest pattern; a repository's name has 255 characters at most.
const MAX_LEN: usize = 255;

impl Pattern {
    /// Whether the whole text fits. Takes time by the product of both lengths at most.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        let text = text.as_bytes();
        // `here[at]`: what was read of the pattern so far fits the first `at` bytes.
        let mut here = vec![false; text.len() + 1];
        here[0] = true;
        let mut left = self.0.as_bytes();
        while let Some((&first, rest)) = left.split_first() {
            let across = first == b'*' && rest.first() == Some(&b'*');
            left = if across { &rest[1..] } else { rest };
            if first == b'*' {
                for at in 1..here.len() {
                    here[at] |= here[at - 1] && (across || text[at - 1] != b'/');
                }
            } else {
                for at in (1..here.len()).rev() {
                    let is_same = if first == b'?' { text[at - 1] != b'/' } else { text[at - 1] == first };
                    here[at] = here[at - 1] && is_same;
                }
                here[0] = false;
            }
        }
        here[text.len()]
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pattern {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/*?".contains(&byte);
        if text.is_empty() || text.len() > MAX_LEN || !text.bytes().all(plain) {
            return Err(InvalidValue(format!(
                "{text:?} is no pattern; write names with *, ** or ?, such as team/** or v1.*"
            )));
        }
        Ok(Self(Arc::from(text)))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Text for Pattern {
    const EXPECTED: &'static str = "a pattern such as team/**";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_whole_texts() {
        for (pattern, text, fits) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("**", "a/b", true),
            ("team/*", "team/a", true),
            ("team/*", "team/a/b", false),
            ("team/*", "team", false),
            ("team/**", "team/a/b", true),
            ("team/**", "steam/a", false),
            ("**/ci-*", "a/b/ci-1", true),
            ("**/ci-*", "a/b/ci-1/x", false),
            ("v1.*", "v1.70", true),
            ("v1.*", "v1x70", false),
            ("v?.1", "v2.1", true),
            ("v?", "v", false),
            ("a?b", "a/b", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
        ] {
            assert_eq!(pattern.parse::<Pattern>().unwrap().fits(text), fits, "{pattern} {text}");
        }
        for text in ["", "a b", "[a]", "a:b", "ä", &"a".repeat(256)] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn many_stars_take_no_time_that_grows_with_their_number() {
        let pattern: Pattern = "*a".repeat(100).parse().unwrap();
        assert!(!pattern.fits(&"a".repeat(99)));
        assert!(pattern.fits(&"a".repeat(255)));
    }
}
