//! Statuses that are not their code's usual one, in one table: docs/reference/errors.md is written from it.

use crate::oci::ErrorCode;
use crate::telemetry::labels::is_told_apart;

macro_rules! exceptions {
    ($($(#[doc = $when:literal])+ $case:ident => $status:literal, $code:ident;)+) => {
        /// A case that calls for another status than [`ErrorCode::status`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Exception {
            $($(#[doc = $when])+ $case,)+
        }

        impl Exception {
            /// Every case, in the order of the statuses.
            pub const ALL: &'static [Self] = &[$(Self::$case),+];

            /// The status.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self {
                    $(Self::$case => $status,)+
                }
            }

            /// The code that goes with it.
            #[must_use]
            pub const fn code(self) -> ErrorCode {
                match self {
                    $(Self::$case => ErrorCode::$code,)+
                }
            }

            /// When that is, as `docs/reference/errors.md` has it; begins with a blank.
            #[must_use]
            pub const fn when(self) -> &'static str {
                match self {
                    $(Self::$case => concat!($($when),+),)+
                }
            }
        }
    };
}

exceptions! {
    /// The `Host` header is missing or no authority.
    NoHost => 400, Unsupported;
    /// `d8-hop` has another value than `1`, or a master's question lacks it.
    WrongHop => 400, Unsupported;
    /// The token service is sent a form that is none, or asks for another `grant_type` than `password`.
    TokenForm => 400, Unsupported;
    /// There is no such path.
    NoPath => 404, Unsupported;
    /// Direct, Proxy: the upstream's own 404 of something that is neither a blob, a manifest nor a repository.
    UpstreamNotFound => 404, Unavailable;
    /// The token service is sent a form that does not come within 10 s.
    TokenFormLate => 408, Unsupported;
    /// Another request is writing the upload.
    UploadBusy => 409, BlobUploadInvalid;
    /// The token service is sent a form of more than 8 KiB.
    TokenFormTooLong => 413, Unsupported;
    /// A manifest is larger than `manifests.maxBytes`.
    ManifestTooLarge => 413, SizeInvalid;
    /// A push by digest has more than 100 `tag`s.
    TooManyTags => 414, TagInvalid;
    /// A chunk does not begin at the upload's end; `Range` has the true one.
    ChunkOutOfPlace => 416, BlobUploadInvalid;
    /// Direct, Proxy: the upstream can't be reached, or its answer can't be used.
    UpstreamFailed => 502, Unavailable;
    /// Direct, Proxy: the upstream did not answer in time; the fetch goes on.
    UpstreamTimeout => 504, Unavailable;
}

/// The metrics tell the status of every refused request from the others of its class.
const _: () = {
    let (mut code, mut case) = (0, 0);
    while code < ErrorCode::ALL.len() {
        assert!(
            is_told_apart(ErrorCode::ALL[code].status()),
            "STATUSES of telemetry/labels.rs lack an error code's status"
        );
        code += 1;
    }
    while case < Exception::ALL.len() {
        assert!(
            is_told_apart(Exception::ALL[case].status()),
            "STATUSES of telemetry/labels.rs lack an exception's status"
        );
        case += 1;
    }
};
