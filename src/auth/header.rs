//! Reads an `Authorization` header (RFC 9110, 11.6.2; RFC 7617; RFC 6750). Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::AuthFailure;

/// The credentials that a client shows.
pub(super) enum Shown<'a> {
    /// User and password.
    Basic(Pair),
    /// A token.
    Bearer(&'a str),
}

/// `user:password`, wiped when dropped.
pub(super) struct Pair(Zeroizing<String>);

impl Pair {
    /// User and password; a user's name has no colon (RFC 7617, 2).
    pub(super) fn parts(&self) -> (&str, &str) {
        self.0.split_once(':').unwrap_or((&self.0, ""))
    }
}

impl<'a> Shown<'a> {
    /// Reads the header's value.
    ///
    /// # Errors
    /// [`AuthFailure::Malformed`].
    pub(super) fn read(value: &'a [u8]) -> Result<Self, AuthFailure> {
        let text = std::str::from_utf8(value).map_err(|_| AuthFailure::Malformed)?;
        let (scheme, rest) = text.trim().split_once(' ').ok_or(AuthFailure::Malformed)?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Ok(Self::Bearer(rest));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(AuthFailure::Malformed);
        }
        let pair = Zeroizing::new(STANDARD.decode(rest).map_err(|_| AuthFailure::Malformed)?);
        let pair = std::str::from_utf8(&pair).map_err(|_| AuthFailure::Malformed)?;
        if !pair.contains(':') {
            return Err(AuthFailure::Malformed);
        }
        Ok(Self::Basic(Pair(Zeroizing::new(pair.to_owned()))))
    }
}
