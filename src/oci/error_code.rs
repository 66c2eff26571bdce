//! The error codes of the specification, in one table.

macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $code:ident => $text:literal, $status:literal $(, $detail:literal)?;)+) => {
        /// A code of distribution-spec, "Error Codes", one that Docker's registry added and clients know, or one of our
        /// own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[doc = $meaning])+ $code,)+
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$code),+];

            /// The code as it stands in the JSON body.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$code => $text,)+
                }
            }

            /// The HTTP status that goes with the code unless the case calls for another one.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self {
                    $(Self::$code => $status,)+
                }
            }

            /// The meaning of the code, as `docs/reference/errors.md` has it; begins with a blank.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$code => concat!($($meaning),+),)+
                }
            }

            /// What an error's `detail` holds (Markdown); empty: it has none.
            #[must_use]
            pub const fn detail(self) -> &'static str {
                match self {
                    $(Self::$code => concat!($($detail)?),)+
                }
            }
        }
    };
}

codes! {
    /// A blob is not known to the repository (code-1).
    BlobUnknown => "BLOB_UNKNOWN", 404;
    /// An upload can't go on (code-2).
    BlobUploadInvalid => "BLOB_UPLOAD_INVALID", 400;
    /// No such upload (code-3).
    BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN", 404;
    /// A digest is malformed or disagrees with the content (code-4).
    DigestInvalid => "DIGEST_INVALID", 400,
        "`expected` and `actual`, where content was compared";
    /// A manifest names content that its repository lacks (code-5).
    ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN", 404,
        "`missing`: digests of what the manifest references and the repository lacks, at most 100";
    /// A manifest is malformed (code-6).
    ManifestInvalid => "MANIFEST_INVALID", 400;
    /// A manifest is not known to the repository (code-7).
    ManifestUnknown => "MANIFEST_UNKNOWN", 404,
        "`missing`: digests of what the manifest references and the repository lacks, at most 100";
    /// A repository's name is malformed (code-8).
    NameInvalid => "NAME_INVALID", 400;
    /// No such repository (code-9).
    NameUnknown => "NAME_UNKNOWN", 404,
        "`prefix`: the name that clients have to use here (`repository`)";
    /// A length is missing, wrong or over a limit (code-10).
    SizeInvalid => "SIZE_INVALID", 400;
    /// No credentials, or wrong ones (code-11).
    Unauthorized => "UNAUTHORIZED", 401;
    /// The user is known and may not do this (code-12).
    Denied => "DENIED", 403,
        "Direct, Proxy: `cause`, `host`, `reason`, and where the upstream answered `status` and its own words \
        in `upstream`";
    /// The operation is not served here (code-13).
    Unsupported => "UNSUPPORTED", 405;
    /// Too many requests (code-14).
    TooManyRequests => "TOOMANYREQUESTS", 429;
    /// A tag is malformed (Docker registry API).
    TagInvalid => "TAG_INVALID", 400;
    /// A page size is malformed (Docker registry API).
    PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID", 400;
    /// A range can't be satisfied (Docker registry API).
    RangeInvalid => "RANGE_INVALID", 416;
    /// There is no room for the pushed content, or to write a deletion down. A code of our own: of the known ones `DENIED` is
    /// taken for a sign-in that was refused, and `UNAVAILABLE` is repeated.
    InsufficientStorage => "INSUFFICIENT_STORAGE", 507,
        "`reason`: `BudgetExhausted`, `ReserveExhausted`, `InodesExhausted`, `QuotaExhausted`, `FileTooLong` \
        or `ReadOnly`; where it is known `leftBytes`, `wantedBytes` and the limit. Numbers are texts";
    /// Not now; later.
    Unavailable => "UNAVAILABLE", 503,
        "Direct, Proxy: `cause`, `host`, `reason`, and where the upstream answered `status` and its own words \
        in `upstream`";
    /// A fault of the server.
    Unknown => "UNKNOWN", 500;
}
