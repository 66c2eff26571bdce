//! An upload as clients name it: its id in the store, and the master where it lies.

use std::fmt;
use std::str::FromStr;

use crate::oci::{InvalidUploadId, UploadId};
use crate::replicas::MasterId;

/// Names one upload among all masters: `<id>`, or `<id>-<master>` where there are several. The id alone is random, and nobody is
/// asked for one who is not in the list of masters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UploadName {
    pub(super) id: UploadId,
    /// The master where it began; `None`: this one, or one of a version before.
    pub(super) master: Option<MasterId>,
}

/// Characters of an id alone.
const ID_LENGTH: usize = 36;

impl FromStr for UploadName {
    type Err = InvalidUploadId;

    fn from_str(text: &str) -> Result<Self, InvalidUploadId> {
        let Some((id, rest)) = text.split_at_checked(ID_LENGTH).filter(|(_, rest)| !rest.is_empty()) else {
            return Ok(Self { id: text.parse()?, master: None });
        };
        let master = rest.strip_prefix('-').and_then(|master| master.parse().ok()).ok_or(InvalidUploadId)?;
        Ok(Self { id: id.parse()?, master: Some(master) })
    }
}

impl fmt::Display for UploadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)?;
        match self.master {
            Some(master) => write!(f, "-{master}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_written_so_is_one() {
        let id = UploadId::random();
        let master = "0123abcd".parse().ok();
        for (text, name) in
            [(id.to_string(), UploadName { id, master: None }), (format!("{id}-0123abcd"), UploadName { id, master })]
        {
            assert_eq!(text.parse(), Ok(name));
            assert_eq!(name.to_string(), text);
        }
        for tail in [
            "-",
            "-0123ABCD",
            "-0123abc",
            "-0123abcde",
            "0123abcd",
            "_0123abcd",
            "-10.0.0.1",
            "-é123abc",
            "-0123abcd-0123abcd",
        ] {
            assert_eq!(format!("{id}{tail}").parse::<UploadName>(), Err(InvalidUploadId), "{tail}");
        }
        let upper = format!("{}-0123abcd", id.to_string().to_uppercase());
        for text in ["", "-0123abcd", upper.as_str(), "éééééééééééééééééé-0123abcd"] {
            assert_eq!(text.parse::<UploadName>(), Err(InvalidUploadId), "{text}");
        }
    }
}
