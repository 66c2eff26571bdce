//! Versions of Deckhouse, as tags name them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use super::{InvalidValue, Text, read_as_text};
use crate::oci::Tag;

read_as_text!(Release);

/// A release: `v1.70.1`, or `v1.70.1-rc.2`. Ordered as Semantic Versioning orders them (2.0.0, clause 11), so that a release
/// is newer than its candidates. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Release {
    numbers: [u64; 3],
    tag: Tag,
}

impl Release {
    /// The tag that has the release's name.
    #[must_use]
    pub const fn tag(&self) -> &Tag {
        &self.tag
    }

    /// The release that a tag names; `None`: it names something else.
    #[must_use]
    pub fn of_tag(tag: &Tag) -> Option<Self> {
        let (numbers, candidate) = split(tag.as_str());
        let mut parts = numbers.strip_prefix('v')?.split('.');
        let mut numbers = [0; 3];
        for number in &mut numbers {
            *number = plain_number(parts.next()?)?;
        }
        let is_whole = parts.next().is_none() && candidate.is_none_or(is_candidate);
        is_whole.then(|| Self { numbers, tag: tag.clone() })
    }

    /// Major, minor and patch.
    #[must_use]
    pub const fn numbers(&self) -> [u64; 3] {
        self.numbers
    }

    /// What stands behind its numbers, without the hyphen; `None`: it is no candidate.
    #[must_use]
    pub fn candidate(&self) -> Option<&str> {
        split(self.tag.as_str()).1
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once('-').map_or((text, None), |(numbers, candidate)| (numbers, Some(candidate)))
}

/// A number as Semantic Versioning has it: without zeros in front.
fn plain_number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain)
}

/// Clause 9: words of letters, digits and hyphens, of which those of digits alone have no zeros in front.
fn is_candidate(text: &str) -> bool {
    text.split('.').all(|word| {
        let in_digits = word.bytes().all(|byte| byte.is_ascii_digit());
        !word.is_empty()
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && (!in_digits || word == "0" || !word.starts_with('0'))
    })
}

/// Words of two candidates: numbers by their value, and below all others, which stand by their bytes.
fn compare_words(one: &str, other: &str) -> Ordering {
    let in_digits = |word: &str| word.bytes().all(|byte| byte.is_ascii_digit());
    match (in_digits(one), in_digits(other)) {
        // Without zeros in front the longer one is the greater one, however many digits they have.
        (true, true) => one.len().cmp(&other.len()).then_with(|| one.cmp(other)),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => one.cmp(other),
    }
}

impl Ord for Release {
    fn cmp(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.candidate(), other.candidate()) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(one), Some(other)) => {
                let mut others = other.split('.');
                let words =
                    one.split('.').map(|word| others.next().map_or(Ordering::Greater, |o| compare_words(word, o)));
                let first = words.into_iter().find(|order| order.is_ne());
                first.unwrap_or_else(|| if others.next().is_some() { Ordering::Less } else { Ordering::Equal })
            }
        })
    }
}

impl PartialOrd for Release {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for Release {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let tag: Option<Tag> = text.parse().ok();
        tag.and_then(|tag| Self::of_tag(&tag))
            .ok_or_else(|| InvalidValue(format!("{text:?} is no release; write v1.70.1 or v1.70.1-rc.1")))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tag.fmt(f)
    }
}

impl fmt::Debug for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tag.fmt(f)
    }
}

impl Text for Release {
    const EXPECTED: &'static str = "a release such as v1.70.1";
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn release(text: &str) -> Release {
        text.parse().unwrap()
    }

    #[test]
    fn releases_are_ordered_as_versions_are() {
        // The last seven: Semantic Versioning 2.0.0, clause 11.
        let in_order = [
            "v0.0.1",
            "v1.9.9",
            "v1.10.0",
            "v1.68.9",
            "v1.70.1-alpha",
            "v1.70.1-alpha.1",
            "v1.70.1-alpha.beta",
            "v1.70.1-beta",
            "v1.70.1-beta.2",
            "v1.70.1-beta.11",
            "v1.70.1-rc.1",
            "v1.70.1",
            "v1.70.10",
            "v2.0.0",
        ];
        for (place, one) in in_order.iter().enumerate() {
            for (other_place, other) in in_order.iter().enumerate() {
                assert_eq!(release(one).cmp(&release(other)), place.cmp(&other_place), "{one} and {other}");
            }
        }
    }

    #[test]
    fn what_is_no_version_is_no_release() {
        for text in [
            "",
            "v",
            "1.70.1",
            "v1.70",
            "v1.70.1.2",
            "v01.70.1",
            "v1.70.1-",
            "v1.70.1-a..b",
            "v1.70.1-01",
            "v1.70.1+x",
            "v1.70.x",
            "stable",
            "V1.70.1",
            "v-1.0.0",
            "v1.70.99999999999999999999",
            "v1.70.1-a_b",
        ] {
            assert!(text.parse::<Release>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn equal_in_order_is_the_same_release(one in "v[0-2]\\.[0-2]\\.[0-2](-[a0-2-]{1,2}(\\.[a0-2]{1,2})?)?", other in "v[0-2]\\.[0-2]\\.[0-2](-[a0-2-]{1,2})?") {
            if let (Ok(one), Ok(other)) = (one.parse::<Release>(), other.parse::<Release>()) {
                prop_assert_eq!(one.cmp(&other) == Ordering::Equal, one == other);
                prop_assert_eq!(one.cmp(&other), other.cmp(&one).reverse());
            }
        }
    }
}
