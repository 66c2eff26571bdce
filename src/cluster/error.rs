//! What can go wrong with a call of the API server, so that a caller can tell "not now" from "not so".

use std::time::Duration;

/// A call failed. Shows what the API server said, never what was sent.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no usable description of an API server and of who we are.
    #[error("the API server is not configured: {0}")]
    Access(String),
    /// No answer: refused, broken, or the certificate is not trusted.
    #[error("the API server can't be reached")]
    Away(#[source] kube::Error),
    /// No answer in time. A write may have been carried out.
    #[error("the API server did not answer {call} within {} s", within.as_secs())]
    Late {
        /// What was asked for.
        call: &'static str,
        /// The deadline of a call.
        within: Duration,
    },
    /// The API server, or an admission policy or webhook, said no.
    #[error("{message} ({code} {reason})")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// The reason's word, as `Conflict`, `NotFound`, `Invalid`.
        reason: String,
        /// The sentence.
        message: String,
    },
    /// An answer of another shape than the API's.
    #[error("an answer of the API server can't be read")]
    Unreadable(#[source] kube::Error),
}

impl ClusterError {
    /// Whether the object was changed, or made, by somebody else since it was read: read again.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { code: 409, .. })
    }

    /// Whether the object, its kind or its namespace does not exist.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// Whether who asks may not do it: by his rights, or by an admission policy.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { code: 403 | 422, .. })
    }

    /// Whether the API server is away or overloaded: the same call may succeed later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Away(_) | Self::Late { .. } => true,
            Self::Refused { code, .. } => matches!(code, 429 | 500..),
            Self::Access(_) | Self::Unreadable(_) => false,
        }
    }
}

impl From<kube::Error> for ClusterError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                let status = *status;
                Self::Refused { code: status.code, reason: status.reason, message: status.message }
            }
            error @ (kube::Error::SerdeError(_) | kube::Error::FromUtf8(_)) => Self::Unreadable(error),
            error => Self::Away(error),
        }
    }
}
