//! Values of the configuration that are one of a few words.

use std::fmt;
use std::str::FromStr;

use super::{InvalidValue, Text, read_as_text};

/// An enum with one word per variant: `FromStr`, `Display`, the list of words, and reading from YAML.
macro_rules! choices {
    ($(#[$doc:meta])* $name:ident, $what:literal, $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every one, in the order of their declaration.
            pub const ALL: [Self; [$($word),+].len()] = [$(Self::$variant),+];

            /// The word as configured and as used in logs and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                // Words differ by more than case, so reading them in any case loses nothing.
                $(if text.eq_ignore_ascii_case($word) {
                    return Ok(Self::$variant);
                })+
                Err(InvalidValue(concat!("not ", $what).to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Text for $name {
            const WHAT: &'static str = $what;
        }

        read_as_text!($name);
    };
}

choices! {
    /// How files reach a plain connection.
    Acceleration, "sendfile or off",
    /// The kernel moves them.
    Sendfile = "sendfile",
    /// They are read and written.
    Off = "off",
}

choices! {
    /// What a registry operation means.
    Mode, "one of the modes Direct, Proxy, Local",
    /// Requests go to the upstream.
    Direct = "Direct",
    /// A cache before the upstream.
    Proxy = "Proxy",
    /// The registry stores what is pushed.
    Local = "Local",
}

choices! {
    /// How an upstream is spoken to.
    UpstreamScheme, "one of HTTPS, HTTP",
    /// Under TLS.
    Https = "HTTPS",
    /// In clear.
    Http = "HTTP",
}

choices! {
    /// What of an upstream lets stored content be served in its place.
    StaleCause, "one of unreachable, timeout, 5xx, 429, 401, 403, invalid (a registry's 404 is an answer and never among them)",
    /// No connection, or one that broke.
    Unreachable = "unreachable",
    /// No answer in time.
    Timeout = "timeout",
    /// Status 500 and above.
    ServerError = "5xx",
    /// Too many requests.
    RateLimited = "429",
    /// Our credentials are not accepted.
    Unauthorized = "401",
    /// Our credentials don't suffice.
    Forbidden = "403",
    /// An answer that is no registry's: a page of a portal or a filter, an odd status, a 404 without a registry's error,
    /// a redirect that is not followed.
    Invalid = "invalid",
}

choices! {
    /// What someone without credentials may do.
    Anonymous, "one of none, pull, push",
    /// Nothing.
    None = "none",
    /// Pull.
    Pull = "pull",
    /// Everything.
    Push = "push",
}

choices! {
    /// What a user may do.
    Role, "one of the roles ro, rw, mirror-puller, mirror-pusher",
    /// Pull.
    Ro = "ro",
    /// Pull, push, delete.
    Rw = "rw",
    /// Pull, list repositories.
    MirrorPuller = "mirror-puller",
    /// Everything.
    MirrorPusher = "mirror-pusher",
}

choices! {
    /// What becomes of a manifest whose references are not in its repository.
    MissingReferences, "one of refuse, allow",
    /// It can't be pushed, and doesn't answer until they are there.
    Refuse = "refuse",
    /// It can be pushed and answers.
    Allow = "allow",
}

choices! {
    /// Form of a log line.
    LogFormat, "one of text, json",
    /// For people.
    Text = "text",
    /// One JSON object a line.
    Json = "json",
}

choices! {
    /// The least severe messages that are logged.
    LogLevel, "one of error, warn, info, debug",
    /// Only what failed.
    Error = "error",
    /// And what is wrong but not yet failing.
    Warn = "warn",
    /// And what an administrator wants to see of normal work.
    Info = "info",
    /// And what helps to look into a fault.
    Debug = "debug",
}

choices! {
    /// Which requests get a line in the log. Pushes, deletes and refused sign-ins always do.
    AccessLog, "one of all, errors, off",
    /// Every request.
    All = "all",
    /// Requests answered with 400 or more.
    Errors = "errors",
    /// None.
    Off = "off",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_in_any_case_and_printed_as_written() {
        for (text, mode) in
            [("local", Mode::Local), ("LOCAL", Mode::Local), ("Direct", Mode::Direct), ("pRoxy", Mode::Proxy)]
        {
            assert_eq!(text.parse(), Ok(mode));
        }
        assert_eq!(Mode::Local.to_string(), "Local");
        assert_eq!("mirror-puller".parse(), Ok(Role::MirrorPuller));
        assert!("".parse::<Mode>().is_err());
        assert!("Unmanaged".parse::<Mode>().unwrap_err().to_string().contains("Direct, Proxy, Local"));
    }
}
