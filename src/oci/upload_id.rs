//! The name of an upload in progress.

use std::fmt;
use std::str::FromStr;

/// Names one upload; a random UUID in its canonical lower-case form, safe as a folder name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(uuid::Uuid);

/// The text is not the canonical form of an upload's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an upload's id")]
pub struct InvalidUploadId;

impl UploadId {
    /// A new id, from the system's random source.
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }
}

impl FromStr for UploadId {
    type Err = InvalidUploadId;

    fn from_str(text: &str) -> Result<Self, InvalidUploadId> {
        let id = uuid::Uuid::try_parse(text).map_err(|_| InvalidUploadId)?;
        // Other spellings of the same UUID would name the same folder by another path.
        if id.to_string() == text { Ok(Self(id)) } else { Err(InvalidUploadId) }
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_parses() {
        let id = UploadId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [id.to_string().to_uppercase(), format!("{{{id}}}"), id.to_string().replace('-', ""), "..".into()] {
            assert_eq!(text.parse::<UploadId>(), Err(InvalidUploadId), "{text}");
        }
    }
}
