//! The vocabulary of the OCI distribution specification, parsed once.
//!
//! Pure: no I/O, no async, no HTTP library, nothing of ours imported. A value of one of these
//! types has passed its grammar, so it is safe in a path, a header or a log line.

mod digest;
mod error_code;
pub mod lenient;
mod manifest;
mod media_type;
mod name;
mod range;
mod range_set;
mod reference;
mod tag;
mod upload_id;

pub use digest::{Algorithm, Digest, EntityTag, Hasher, HasherState, InvalidDigest};
pub use error_code::ErrorCode;
pub use manifest::{Descriptor, InvalidManifest, Manifest};
pub use media_type::{ManifestKind, is_foreign_layer};
pub use name::{InvalidName, RepoName, UpstreamId};
pub use range::{ByteRange, InvalidContentRange, RangeSpec, UnsatisfiableRange, UploadRange};
pub use range_set::{MOST_RANGES, RangeSet};
pub use reference::{InvalidReference, Reference};
pub use tag::{InvalidTag, Tag};
pub use upload_id::{InvalidUploadId, UploadId};
