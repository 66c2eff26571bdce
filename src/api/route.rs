//! Paths of the distribution API. Repository names contain slashes, so a path is read from its end.

use std::borrow::Cow;

use memchr::{memchr, memrchr};
use percent_encoding::percent_decode_str;

use super::error::ApiError;
use super::exception::Exception;
use super::upload_name::UploadName;
use crate::oci::{Digest, ErrorCode, InvalidReference, Reference, RepoName};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/`: ready or not.
    Root,
    /// `/v2/`.
    Base,
    /// `/auth/token`.
    Token,
    /// `/v2/_catalog`.
    Catalog,
    /// `/v2/<name>/blobs/<digest>`.
    Blob(RepoName, Digest),
    /// `/v2/<name>/blobs/uploads/`.
    Uploads(RepoName),
    /// `/v2/<name>/blobs/uploads/<id>`.
    Upload(RepoName, UploadName),
    /// `/v2/<name>/manifests/<reference>`.
    Manifest(RepoName, Reference),
    /// `/v2/<name>/tags/list`.
    Tags(RepoName),
    /// `/v2/<name>/referrers/<digest>`.
    Referrers(RepoName, Digest),
}

impl Route {
    /// Reads a request's path.
    ///
    /// # Errors
    /// The spec's code for the part that is malformed; 404 for a path that names nothing.
    pub(super) fn parse(path: &str) -> Result<Self, ApiError> {
        match path {
            "/" => return Ok(Self::Root),
            "/v2" | "/v2/" => return Ok(Self::Base),
            "/auth/token" => return Ok(Self::Token),
            "/v2/_catalog" => return Ok(Self::Catalog),
            _ => {}
        }
        let rest = decoded(path.strip_prefix("/v2/").ok_or_else(no_endpoint)?)?;
        let (front, last) = last_part(&rest).ok_or_else(no_endpoint)?;
        let (name, word) = last_part(front).ok_or_else(no_endpoint)?;
        let below_blobs = || last_part(name).filter(|(_, word)| *word == "blobs").map(|(name, _)| name);
        match (word, last) {
            ("tags", "list") => Ok(Self::Tags(repo(name)?)),
            ("blobs", "uploads") => Ok(Self::Uploads(repo(name)?)),
            ("blobs", digest) => Ok(Self::Blob(repo(name)?, parse_digest(digest)?)),
            ("manifests", text) => Ok(Self::Manifest(repo(name)?, parse_reference(text)?)),
            ("referrers", digest) => Ok(Self::Referrers(repo(name)?, parse_digest(digest)?)),
            ("uploads", id) => {
                let repo = repo(below_blobs().ok_or_else(no_endpoint)?)?;
                if id.is_empty() {
                    return Ok(Self::Uploads(repo));
                }
                let name = id.parse().map_err(|_| {
                    ApiError::new(ErrorCode::BlobUploadUnknown, "no such upload; begin one with a POST")
                })?;
                Ok(Self::Upload(repo, name))
            }
            _ => Err(no_endpoint()),
        }
    }

    /// The repository that the path names.
    pub(super) const fn repository(&self) -> Option<&RepoName> {
        match self {
            Self::Root | Self::Base | Self::Token | Self::Catalog => None,
            Self::Blob(repo, _)
            | Self::Uploads(repo)
            | Self::Upload(repo, _)
            | Self::Manifest(repo, _)
            | Self::Tags(repo)
            | Self::Referrers(repo, _) => Some(repo),
        }
    }

    /// What stands behind the repository, for the access log.
    pub(super) fn reference(&self) -> Option<String> {
        match self {
            Self::Root | Self::Base | Self::Token | Self::Catalog | Self::Uploads(_) | Self::Tags(_) => None,
            Self::Blob(_, digest) | Self::Referrers(_, digest) => Some(digest.to_string()),
            Self::Upload(_, name) => Some(name.to_string()),
            Self::Manifest(_, reference) => Some(reference.to_string()),
        }
    }
}

/// Whether a path names something of the API: the parsing that every request goes through, by itself.
#[cfg(feature = "bench")]
#[must_use]
pub fn is_route(path: &str) -> bool {
    Route::parse(path).is_ok()
}

/// What is before the last slash of a path, and what is behind it.
pub(super) fn last_part(path: &str) -> Option<(&str, &str)> {
    let at = memrchr(b'/', path.as_bytes())?;
    Some((&path[..at], &path[at + 1..]))
}

fn no_endpoint() -> ApiError {
    ApiError::exception(Exception::NoPath, "no such endpoint")
}

/// A path, percent-decoded. An encoded slash would move the borders of names and is refused.
fn decoded(path: &str) -> Result<Cow<'_, str>, ApiError> {
    if memchr(b'%', path.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(path));
    }
    let slashes = |text: &str| text.bytes().filter(|byte| *byte == b'/').count();
    match percent_decode_str(path).decode_utf8() {
        Ok(text) if slashes(&text) == slashes(path) => Ok(text),
        _ => Err(ApiError::new(ErrorCode::NameInvalid, "the path has an encoded slash or is not UTF-8")),
    }
}

pub(super) fn repo(name: &str) -> Result<RepoName, ApiError> {
    name.parse().map_err(|e: crate::oci::InvalidName| ApiError::new(ErrorCode::NameInvalid, e.to_string()))
}

pub(super) fn parse_digest(text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|e: crate::oci::InvalidDigest| ApiError::new(ErrorCode::DigestInvalid, e.to_string()))
}

fn parse_reference(text: &str) -> Result<Reference, ApiError> {
    text.parse().map_err(|e| match e {
        InvalidReference::Digest(e) => ApiError::new(ErrorCode::DigestInvalid, e.to_string()),
        InvalidReference::Tag(e) => ApiError::new(ErrorCode::TagInvalid, e.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn status(path: &str) -> u16 {
        Route::parse(path).map_or_else(|e| e.status().as_u16(), |_| 200)
    }

    #[test]
    fn names_may_contain_the_words_of_the_api() {
        let repo = |text: &str| text.parse::<RepoName>().unwrap();
        let tag = |text: &str| text.parse::<Reference>().unwrap();
        for (path, route) in [
            ("/v2/a/tags/list".to_owned(), Route::Tags(repo("a"))),
            ("/v2/a/blobs/uploads/tags/list".to_owned(), Route::Tags(repo("a/blobs/uploads"))),
            ("/v2/a/tags/manifests/list".to_owned(), Route::Manifest(repo("a/tags"), tag("list"))),
            ("/v2/manifests/manifests/manifests".to_owned(), Route::Manifest(repo("manifests"), tag("manifests"))),
            ("/v2/a/blobs/uploads".to_owned(), Route::Uploads(repo("a"))),
            ("/v2/a/blobs/uploads/".to_owned(), Route::Uploads(repo("a"))),
            (format!("/v2/a/blobs/blobs/{DIGEST}"), Route::Blob(repo("a/blobs"), DIGEST.parse().unwrap())),
            (format!("/v2/a/manifests/{}", DIGEST.replace(':', "%3A")), Route::Manifest(repo("a"), tag(DIGEST))),
        ] {
            assert_eq!(Route::parse(&path).ok(), Some(route), "{path}");
        }
    }

    #[test]
    fn odd_paths_get_a_clear_refusal() {
        for (path, expected) in [
            ("/v3/", 404),
            ("/v2/tags/list", 404),
            ("/v2//tags/list", 400),
            ("/v2/../tags/list", 400),
            ("/v2/%2e%2e/tags/list", 400),
            ("/v2/a%2fb/tags/list", 400),
            ("/v2/a%00/tags/list", 400),
            ("/v2/%ff/tags/list", 400),
            ("/v2/A/tags/list", 400),
            ("/v2/a/blobs/sha256:00", 400),
            ("/v2/a/blobs/latest", 400),
            ("/v2/a/manifests/.x", 400),
            ("/v2/a/manifests/", 400),
            ("/v2/a/blobs/uploads/x", 404),
            ("/v2/a/blobs/uploads/x/y", 404),
        ] {
            assert_eq!(status(path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics_and_no_name_escapes(path in "/v2/[a-z0-9%./_A-F:-]{0,60}") {
            if let Ok(route) = Route::parse(&path) && let Some(repo) = route.repository() {
                prop_assert!(repo.as_str().split('/').all(|part| !part.is_empty() && !part.starts_with('.')));
            }
        }
    }
}
