//! Why somebody is not let in, or may not do something.

/// Credentials were missing or wrong: status 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthFailure {
    /// No credentials, and anonymous may not.
    Missing,
    /// A header that can't be read.
    Malformed,
    /// Unknown user or wrong password.
    WrongPassword,
    /// A token that is not ours, expired, or of a user that is gone or has another password.
    BadToken,
    /// A token where user and password are needed: it buys no other token.
    TokenShown,
    /// Unknown passwords came in faster than they can be checked: status 429.
    TooMany,
}

impl AuthFailure {
    /// Every failure, for metrics.
    pub const ALL: [Self; 6] =
        [Self::Missing, Self::Malformed, Self::WrongPassword, Self::BadToken, Self::TokenShown, Self::TooMany];

    /// The metric's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::WrongPassword => "wrong_password",
            Self::BadToken | Self::TokenShown => "bad_token",
            Self::TooMany => "too_many",
        }
    }
}

/// The identity is proven and may not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forbidden {
    /// A token without the action: 401 `insufficient_scope` with the scope needed.
    Scope(String),
    /// A user without the right: 403, with a sentence that says what the user may.
    Right(String),
    /// Anonymous without the right: 401 with the challenge for the scope.
    NeedsCredentials(String),
}
