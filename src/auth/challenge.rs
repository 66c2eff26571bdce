//! The challenge of a refused client (RFC 9110, 11.6.1; Docker's token specification).

use std::fmt::Write as _;

use super::Authenticator;

/// The service's name in challenges and the audience of tokens, as Deckhouse's registry has it.
pub const SERVICE: &str = "Deckhouse registry";

/// The challenge where tokens are off, and at the token service itself.
pub const BASIC_CHALLENGE: &str = "Basic realm=\"Deckhouse registry\"";

impl Authenticator {
    /// The value of `WWW-Authenticate`. `base`: scheme and authority as the client wrote them, checked by the caller.
    #[must_use]
    pub fn challenge(&self, base: &str, scope: Option<&str>, error: Option<&str>) -> String {
        if !self.tokens_enabled() {
            return BASIC_CHALLENGE.to_owned();
        }
        let mut value = format!("Bearer realm=\"{base}/auth/token\",service=\"{SERVICE}\"");
        for (name, text) in [("scope", scope), ("error", error)] {
            if let Some(text) = text {
                // Writing to a string can't fail.
                let _ = write!(value, ",{name}=\"{text}\"");
            }
        }
        value
    }
}
