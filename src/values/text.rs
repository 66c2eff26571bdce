//! Text with a rule: paths, names of repositories, password hashes.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{InvalidValue, Text, read_as_text};
use crate::oci::{InvalidName, RepoName};

read_as_text!(FilePath, PasswordHash, Alias);

/// A path that is not empty. A relative one counts from the working directory, in the file as on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilePath(pub(crate) PathBuf);

impl FromStr for FilePath {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() || text.contains('\0') {
            return Err(InvalidValue("a path can't be empty".to_owned()));
        }
        Ok(Self(PathBuf::from(text)))
    }
}

impl Text for FilePath {
    const EXPECTED: &'static str = "a path";

    fn schema() -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

/// A repository name that stands for the upstream's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alias(pub(crate) RepoName);

impl FromStr for Alias {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse().map(Self)
    }
}

impl Text for Alias {
    const EXPECTED: &'static str = "the name of a repository, such as system/deckhouse";

    /// The grammar of names (distribution-spec, "Pulling manifests").
    fn schema() -> Json {
        let component = "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*";
        let pattern = format!("^{component}(?:/{component})*$");
        json!({ "type": "string", "pattern": pattern, "maxLength": RepoName::MAX_LEN })
    }
}

/// A bcrypt hash as `$2a$`, `$2b$` or `$2y$`. Its text is in no Debug and no error.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(Arc<str>);

impl PasswordHash {
    /// The hash as configured; for the password check alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl FromStr for PasswordHash {
    type Err = InvalidValue;

    /// Checks the form `$2y$NN$` and 53 characters of bcrypt's alphabet; the cost is 4 to 31.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let is_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
        let well_formed = ["$2a$", "$2b$", "$2y$"]
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
            .and_then(|rest| rest.split_once('$'))
            .is_some_and(|(cost, rest)| {
                cost.len() == 2
                    && cost.parse::<u8>().is_ok_and(|cost| (4..=31).contains(&cost))
                    && rest.len() == 53
                    && rest.bytes().all(is_alphabet)
            });
        if well_formed {
            Ok(Self(Arc::from(text)))
        } else {
            Err(InvalidValue("no bcrypt hash; make one with `d8-registry hash-password`".to_owned()))
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Text for PasswordHash {
    const EXPECTED: &'static str = "a bcrypt hash";

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^\\$2[aby]\\$[0-9]{2}\\$[A-Za-z0-9./]{53}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_checked_and_never_shown() {
        let tail = "abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234";
        assert_eq!(tail.len(), 53);
        for prefix in ["$2a$10$", "$2b$12$", "$2y$04$"] {
            let hash: PasswordHash = format!("{prefix}{tail}").parse().unwrap();
            assert_eq!(hash.expose(), format!("{prefix}{tail}"));
            assert_eq!(format!("{hash:?}"), "***");
        }
        for text in [
            "",
            "hunter2",
            &format!("$2x$10${tail}"),
            &format!("$2y$3${tail}"),
            &format!("$2y$32${tail}"),
            &format!("$2y$10${}", &tail[1..]),
            &format!("$2y$10${}!", &tail[1..]),
            &format!("$2y$10${}é", &tail[2..]),
        ] {
            let error = text.parse::<PasswordHash>().unwrap_err().to_string();
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
    }
}
