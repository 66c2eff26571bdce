//! Why a configuration is refused.

use std::fmt;
use std::path::PathBuf;

/// Where in a file; both count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

/// A configuration that is not put into force. No text of it names the value of a secret key or a neighbouring line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("the configuration {path} can't be read", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than [`super::MAX_FILE_BYTES`].
    #[error("the configuration {path} is larger than {limit} bytes", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// A key, a value, or the YAML itself is wrong, or keys contradict each other.
    #[error("{0}")]
    Key(KeyError),
}

/// What is wrong with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError {
    /// The file; `None` if the key was not read from one.
    pub file: Option<PathBuf>,
    /// Where in the file, if it is there.
    pub position: Option<Position>,
    /// The key's path, `limits.queueWait`; empty for the whole file.
    pub key: String,
    /// What is wrong, a sentence.
    pub message: String,
}

impl fmt::Display for KeyError {
    /// `config.yaml:7:3: limits.queueWait: …`, as compilers write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(Position { line, column }) = self.position {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for KeyError {}
