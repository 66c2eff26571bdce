//! Which versions of a module are wanted, in the words of `d8 mirror pull`: `NAME[@CONSTRAINT]`. Pure.
//!
//! The operators are those of Masterminds/semver, which `d8` uses: `=`, `!=`, `>`, `<`, `>=`, `<=`, `~`, `^`, versions without minor
//! or patch, `x` for any number, a space or a comma for "and", `||` for "or". A bare version is from there to the end of its major
//! line, also of 0.x. `=TAG[+CHANNEL]` is one tag, whatever it is called.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use crate::bundle::is_channel;
use crate::oci::Tag;
use crate::values::Release;

/// Most characters of a constraint.
const MOST_CHARACTERS: usize = 1000;

/// A component, and which of its versions are wanted beside those of its channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// `None`: those that channels lead to.
    pub constraint: Option<Constraint>,
}

/// Versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// One tag; the channel that is to lead to it, absent: all of them.
    Exact(Tag, Option<String>),
    /// Versions within bounds.
    Range(Range),
}

/// Versions within bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// All bounds of one of these hold.
    any: Vec<Vec<Bound>>,
    /// Versions that were named with `>=` or `<=`: they stay although a newer patch of theirs is there.
    named: Vec<Release>,
}

/// A constraint that can't be read; a sentence without its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no constraint: {why}")]
pub struct InvalidConstraint {
    text: String,
    why: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Greater,
    Less,
    AtLeast,
    AtMost,
    Tilde,
    Caret,
}

/// Longer ones first: one begins with another.
const OPERATORS: [(&str, Operator); 12] = [
    (">=", Operator::AtLeast),
    ("=>", Operator::AtLeast),
    ("<=", Operator::AtMost),
    ("=<", Operator::AtMost),
    ("!=", Operator::Unequal),
    ("~>", Operator::Tilde),
    ("==", Operator::Equal),
    (">", Operator::Greater),
    ("<", Operator::Less),
    ("~", Operator::Tilde),
    ("^", Operator::Caret),
    ("=", Operator::Equal),
];

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound {
    operator: Operator,
    /// What is not written is 0.
    version: Release,
    /// How many of its numbers are written, 0 to 3.
    written: usize,
}

impl FromStr for Wanted {
    type Err = InvalidConstraint;

    fn from_str(text: &str) -> Result<Self, InvalidConstraint> {
        let (name, constraint) = match text.split_once('@') {
            Some((name, constraint)) => (name, Some(constraint.parse()?)),
            None => (text, None),
        };
        let name = name.trim();
        // It becomes a part of a repository's name, and of a file's.
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_plain) || name.starts_with(['.', '_', '-']) {
            return Err(InvalidConstraint { text: text.to_owned(), why: "in front of @ there has to be a name" });
        }
        Ok(Self { name: name.to_owned(), constraint })
    }
}

impl FromStr for Constraint {
    type Err = InvalidConstraint;

    fn from_str(text: &str) -> Result<Self, InvalidConstraint> {
        let refused = |why| InvalidConstraint { text: text.chars().take(100).collect(), why };
        let trimmed = text.trim();
        if trimmed.len() > MOST_CHARACTERS {
            return Err(refused("it is too long"));
        }
        match trimmed.bytes().next() {
            None => Err(refused("it is empty")),
            Some(b'=') if !trimmed.starts_with("=>") && !trimmed.starts_with("=<") => {
                let (tag, channel) = trimmed[1..].split_once('+').map_or((&trimmed[1..], None), |(t, c)| (t, Some(c)));
                if channel.is_some_and(|channel| !is_channel(channel)) {
                    return Err(refused("behind + there has to be a channel"));
                }
                let tag = tag.parse().map_err(|_| refused("behind = there has to be a tag"))?;
                Ok(Self::Exact(tag, channel.map(str::to_owned)))
            }
            Some(b'>' | b'<' | b'~' | b'^' | b'=') => {
                let any = trimmed.split("||").map(bounds).collect::<Result<Vec<_>, _>>().map_err(refused)?;
                let of_ends = |bound: &&Bound| matches!(bound.operator, Operator::AtLeast | Operator::AtMost);
                let named = any.iter().flatten().filter(of_ends).map(|bound| bound.version.clone()).collect();
                Ok(Self::Range(Range { any, named }))
            }
            Some(_) => {
                let (version, written) = version(trimmed).map_err(refused)?;
                if written == 0 {
                    return Err(refused("a version begins with a number"));
                }
                let end = version.numbers()[0].saturating_add(1);
                let end = release([end, 0, 0], None).ok_or_else(|| refused("its number is too large"))?;
                let bound = |operator, version| Bound { operator, version, written: 3 };
                let any = vec![vec![bound(Operator::AtLeast, version), bound(Operator::Less, end)]];
                Ok(Self::Range(Range { any, named: Vec::new() }))
            }
        }
    }
}

/// The bounds of a part without `||`.
fn bounds(text: &str) -> Result<Vec<Bound>, &'static str> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let operator = OPERATORS.iter().find(|(word, _)| rest.starts_with(word));
        let (operator, behind) = match operator {
            Some((word, operator)) => (*operator, rest[word.len()..].trim_start()),
            None => (Operator::Equal, rest),
        };
        let end = behind.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(behind.len());
        let (version, written) = version(&behind[..end])?;
        found.push(Bound { operator, version, written });
        rest = behind[end..].trim_start_matches(|c: char| c.is_whitespace() || c == ',');
    }
    if found.is_empty() { Err("a part of it is empty") } else { Ok(found) }
}

/// A version of which minor and patch may be missing, or be `x`; how many of its numbers are written.
fn version(text: &str) -> Result<(Release, usize), &'static str> {
    const NONE: &str = "a version is X, X.Y or X.Y.Z, with -CANDIDATE behind it";
    let text = text.strip_prefix('v').unwrap_or(text);
    let text = text.split_once('+').map_or(text, |(version, _)| version);
    let (plain, candidate) = text.split_once('-').map_or((text, None), |(plain, candidate)| (plain, Some(candidate)));
    let (mut numbers, mut written, mut parts) = ([0; 3], 0, 0);
    for part in plain.split('.') {
        let place = numbers.get_mut(parts).ok_or(NONE)?;
        parts += 1;
        if !matches!(part, "x" | "X" | "*") {
            *place = part.parse().ok().filter(|_| part.bytes().all(|byte| byte.is_ascii_digit())).ok_or(NONE)?;
            // 1.x.2 is 1.x
            written += usize::from(written + 1 == parts);
        }
    }
    numbers[written..].fill(0);
    let candidate = candidate.filter(|_| written == 3);
    Ok((release(numbers, candidate).ok_or(NONE)?, written))
}

fn release([major, minor, patch]: [u64; 3], candidate: Option<&str>) -> Option<Release> {
    let behind = candidate.map(|candidate| format!("-{candidate}")).unwrap_or_default();
    format!("v{major}.{minor}.{patch}{behind}").parse().ok()
}

impl Bound {
    fn holds(&self, found: &Release) -> bool {
        let (own, other) = (self.version.numbers(), found.numbers());
        // A candidate is only meant where one is named.
        if found.candidate().is_some() && self.version.candidate().is_none() {
            return self.operator == Operator::Unequal;
        }
        let same = |count: usize| own[..count] == other[..count];
        match self.operator {
            Operator::Equal if self.written == 3 => found == &self.version,
            Operator::Equal => same(self.written),
            Operator::Unequal if self.written == 3 => found != &self.version,
            Operator::Unequal => !same(self.written),
            Operator::Greater if self.written == 3 => found > &self.version,
            // Of 1.2 all patches are meant.
            Operator::Greater => other[..self.written] > own[..self.written],
            Operator::Less => found < &self.version,
            Operator::AtLeast => found >= &self.version,
            Operator::AtMost if self.written == 3 => found <= &self.version,
            Operator::AtMost => other[..self.written] <= own[..self.written],
            Operator::Tilde => found >= &self.version && same(self.written.min(2)),
            Operator::Caret => {
                // What is in front of the first number that is not 0, and that one.
                let first = own.iter().position(|number| *number != 0).map_or(3, |place| place + 1);
                found >= &self.version && same(first.min(self.written))
            }
        }
    }
}

impl Range {
    /// As it stands in a contract: a version without an operator is that one.
    ///
    /// # Errors
    /// A sentence without its end.
    pub(super) fn plain(text: &str) -> Result<Self, &'static str> {
        if text.len() > MOST_CHARACTERS {
            return Err("it is too long");
        }
        let any = text.split("||").map(bounds).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { any, named: Vec::new() })
    }

    /// Those between two releases, both of them among them.
    #[must_use]
    pub fn between(from: &Release, to: &Release) -> Self {
        let bound = |operator, version: &Release| Bound { operator, version: version.clone(), written: 3 };
        Self {
            any: vec![vec![bound(Operator::AtLeast, from), bound(Operator::AtMost, to)]],
            named: vec![from.clone(), to.clone()],
        }
    }

    /// Whether a version is within it.
    #[must_use]
    pub fn has(&self, version: &Release) -> bool {
        self.any.iter().any(|all| all.iter().all(|bound| bound.holds(version)))
    }

    /// Of the versions that are there: the last patch of each minor that is within it, and those that it names.
    #[must_use]
    pub fn choose(&self, there: &[Release]) -> BTreeSet<Release> {
        let within: Vec<&Release> = there.iter().filter(|version| self.has(version)).collect();
        let mut chosen = last_patches(within.iter().copied());
        chosen.extend(within.into_iter().filter(|version| self.named.contains(version)).cloned());
        chosen
    }
}

/// The last patch of each minor.
pub(super) fn last_patches<'a>(versions: impl Iterator<Item = &'a Release>) -> BTreeSet<Release> {
    let mut last: BTreeMap<[u64; 2], &Release> = BTreeMap::new();
    for version in versions {
        let [major, minor, _] = version.numbers();
        let place = last.entry([major, minor]).or_insert(version);
        if version > *place {
            *place = version;
        }
    }
    last.into_values().cloned().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chosen(constraint: &str, there: &[&str]) -> Vec<String> {
        let there: Vec<Release> = there.iter().map(|text| text.parse().unwrap()).collect();
        let Constraint::Range(range) = constraint.parse().unwrap() else { panic!("{constraint}") };
        range.choose(&there).iter().map(ToString::to_string).collect()
    }

    /// The table in the help of `d8 mirror pull --include-module`.
    #[test]
    fn the_examples_of_the_real_client_choose_what_it_says() {
        let there = ["v1.0.0", "v1.1.0", "v1.2.0", "v1.3.0", "v1.3.3", "v1.4.0", "v1.4.1"];
        for (constraint, expected) in [
            ("1.3.0", vec!["v1.3.3", "v1.4.1"]),
            ("~1.3.0", vec!["v1.3.3"]),
            ("^1.3.0", vec!["v1.3.3", "v1.4.1"]),
            (">=1.3.0", vec!["v1.3.0", "v1.3.3", "v1.4.1"]),
            (">=1.3.0 <=1.4.0", vec!["v1.3.0", "v1.3.3", "v1.4.0"]),
            (">=1.3.0, <=1.4.0", vec!["v1.3.0", "v1.3.3", "v1.4.0"]),
            ("<1.1.0 || >= v1.4.1", vec!["v1.0.0", "v1.4.1"]),
            (">1.3", vec!["v1.4.1"]),
            ("<=1.1", vec!["v1.0.0", "v1.1.0"]),
            ("~1", vec!["v1.0.0", "v1.1.0", "v1.2.0", "v1.3.3", "v1.4.1"]),
            (">=1.2 !=1.4.1", vec!["v1.2.0", "v1.3.3", "v1.4.0"]),
            ("^1.x", vec!["v1.0.0", "v1.1.0", "v1.2.0", "v1.3.3", "v1.4.1"]),
        ] {
            assert_eq!(chosen(constraint, &there), expected, "{constraint}");
        }
        let exact = |text: &str| match text.parse::<Constraint>().unwrap() {
            Constraint::Exact(tag, channel) => (tag.to_string(), channel),
            Constraint::Range(_) => panic!("{text}"),
        };
        assert_eq!(exact("=v1.3.0"), ("v1.3.0".to_owned(), None));
        assert_eq!(exact("=v1.3.0+stable"), ("v1.3.0".to_owned(), Some("stable".to_owned())));
        assert_eq!(exact("=bobV1"), ("bobV1".to_owned(), None));
    }

    #[test]
    fn of_0_a_bare_version_is_the_whole_line_and_a_caret_one_minor() {
        let there = ["v0.0.3", "v0.0.4", "v0.4.0", "v0.4.2", "v0.5.1", "v1.0.0"];
        assert_eq!(chosen("0.4.0", &there), ["v0.4.2", "v0.5.1"]);
        assert_eq!(chosen("^0.4.0", &there), ["v0.4.2"]);
        assert_eq!(chosen("^0.0.3", &there), ["v0.0.3"]);
        assert_eq!(chosen("^0.0", &there), ["v0.0.4"]);
    }

    #[test]
    fn a_candidate_is_chosen_only_where_one_is_named() {
        let there = ["v1.2.0", "v1.3.0-rc.1", "v1.3.0-rc.2"];
        assert_eq!(chosen(">=1.2.0", &there), ["v1.2.0"]);
        assert_eq!(chosen(">=1.3.0-rc.1", &there), ["v1.3.0-rc.1", "v1.3.0-rc.2"]);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for text in [
            "a@",
            "@1.0.0",
            "a@>=",
            "a@x",
            "a@1.2.3.4",
            "a@>=1.0.0 ||",
            "a@=",
            "a@=v1+nightly",
            "A@1.0.0",
            "../a",
            "a@~b",
        ] {
            assert!(text.parse::<Wanted>().is_err(), "{text}");
        }
        assert!(format!("a@>={}", "1".repeat(2000)).parse::<Wanted>().is_err());
        let wanted: Wanted = "console@~1.38.1".parse().unwrap();
        assert_eq!((wanted.name.as_str(), wanted.constraint.is_some()), ("console", true));
        assert_eq!("console".parse::<Wanted>().unwrap().constraint, None);
    }

    proptest! {
        #[test]
        fn what_is_chosen_was_there_and_is_within(
            there in proptest::collection::vec("v[0-2]\\.[0-3]\\.[0-3]", 0..20),
            constraint in "(>=|<=|>|<|~|\\^)[0-2](\\.[0-3](\\.[0-3])?)?( (>=|<=|<)[0-2]\\.[0-3]\\.[0-3])?",
        ) {
            let there: Vec<Release> = there.iter().map(|text| text.parse().unwrap()).collect();
            let Constraint::Range(range) = constraint.parse().unwrap() else { panic!() };
            let chosen = range.choose(&there);
            prop_assert!(chosen.iter().all(|version| range.has(version) && there.contains(version)));
            // Of each minor that is within it there is one.
            for version in there.iter().filter(|version| range.has(version)) {
                prop_assert!(chosen.iter().any(|other| other.numbers()[..2] == version.numbers()[..2] && other >= version));
            }
        }

        #[test]
        fn no_text_stops_the_reader(text in ".{0,40}") {
            let _ = text.parse::<Wanted>();
        }
    }
}
