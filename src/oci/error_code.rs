//! The error codes of the specification, in one table.

/// A code of distribution-spec, "Error Codes", one that Docker's registry added and clients know, or one of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A blob is not known to the repository (code-1).
    BlobUnknown,
    /// An upload can't go on (code-2).
    BlobUploadInvalid,
    /// No such upload (code-3).
    BlobUploadUnknown,
    /// A digest is malformed or disagrees with the content (code-4).
    DigestInvalid,
    /// A manifest names content that its repository lacks (code-5).
    ManifestBlobUnknown,
    /// A manifest is malformed (code-6).
    ManifestInvalid,
    /// A manifest is not known to the repository (code-7).
    ManifestUnknown,
    /// A repository's name is malformed (code-8).
    NameInvalid,
    /// No such repository (code-9).
    NameUnknown,
    /// A length is missing, wrong or over a limit (code-10).
    SizeInvalid,
    /// No credentials, or wrong ones (code-11).
    Unauthorized,
    /// The user is known and may not do this (code-12).
    Denied,
    /// The operation is not served here (code-13).
    Unsupported,
    /// Too many requests (code-14).
    TooManyRequests,
    /// A tag is malformed (Docker registry API).
    TagInvalid,
    /// A page size is malformed (Docker registry API).
    PaginationNumberInvalid,
    /// A range can't be satisfied (Docker registry API).
    RangeInvalid,
    /// There is no room for what is pushed. A code of our own: of the known ones `DENIED` is taken for a sign-in that was
    /// refused, and `UNAVAILABLE` is repeated.
    InsufficientStorage,
    /// Not now; later.
    Unavailable,
    /// A fault of the server.
    Unknown,
}

impl ErrorCode {
    /// The code as it stands in the JSON body.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::TagInvalid => "TAG_INVALID",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::InsufficientStorage => "INSUFFICIENT_STORAGE",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The HTTP status that goes with the code unless the case calls for another one.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BlobUnknown
            | Self::BlobUploadUnknown
            | Self::ManifestBlobUnknown
            | Self::ManifestUnknown
            | Self::NameUnknown => 404,
            Self::BlobUploadInvalid
            | Self::DigestInvalid
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::SizeInvalid
            | Self::TagInvalid
            | Self::PaginationNumberInvalid => 400,
            Self::Unauthorized => 401,
            Self::Denied => 403,
            Self::Unsupported => 405,
            Self::RangeInvalid => 416,
            Self::TooManyRequests => 429,
            Self::Unavailable => 503,
            Self::InsufficientStorage => 507,
            Self::Unknown => 500,
        }
    }
}
