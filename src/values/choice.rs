//! Values of the configuration that are one of a few words.

use std::fmt;
use std::str::FromStr;

use serde_json::{Value as Json, json};

use super::{InvalidValue, Text, read_as_text};

/// An enum with one word per variant: `FromStr`, `Display`, the list of words, and reading from YAML.
macro_rules! choices {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
                Err(InvalidValue(concat!("not ", $expected).to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Text for $name {
            const EXPECTED: &'static str = $expected;

            /// The words as written here, though [`FromStr`] takes them in any case; `429` is a number too in YAML.
            fn schema() -> Json {
                let number = |word: &&str| word.parse::<u32>().ok().map(Json::from);
                let words = [$($word),+];
                let numbers = words.iter().filter_map(number);
                json!({ "enum": words.iter().map(|word| json!(word)).chain(numbers).collect::<Vec<_>>() })
            }
        }

        read_as_text!($name);
    };
}

choices! {
    /// Whether the kernel sends files over plain connections, and whether memory is answered from ahead of the general way.
    Acceleration, "sendfile or off",
    /// Both.
    Sendfile = "sendfile",
    /// Neither: files are read and written.
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

/// What more than one place asks of a mode: a new mode has its answers here.
impl Mode {
    /// Whether there is an upstream that requests may go to.
    #[must_use]
    pub const fn has_upstream(self) -> bool {
        match self {
            Self::Direct | Self::Proxy => true,
            Self::Local => false,
        }
    }

    /// Whether clients may push.
    #[must_use]
    pub const fn takes_pushes(self) -> bool {
        match self {
            Self::Direct | Self::Proxy => false,
            Self::Local => true,
        }
    }
}

choices! {
    /// What a registry operation means, or that there is none: the words of a mode file and of `settings.registry.mode`.
    AnyMode, "one of the modes Direct, Proxy, Local, Unmanaged",
    /// Requests go to the upstream.
    Direct = "Direct",
    /// A cache before the upstream.
    Proxy = "Proxy",
    /// The registry stores what is pushed.
    Local = "Local",
    /// No request of a registry is served.
    Unmanaged = "Unmanaged",
}

choices! {
    /// A mode that keeps data of its own.
    StoringMode, "one of Local, Proxy",
    /// What clients pushed.
    Local = "Local",
    /// What upstreams taught.
    Proxy = "Proxy",
}

choices! {
    /// How much of a release a registry has to hold.
    CheckMode, "one of Default, Relax",
    /// Every image of the critical modules and of Deckhouse itself.
    Default = "Default",
    /// The image of Deckhouse alone, by a tag: enough to switch the edition.
    Relax = "Relax",
}

choices! {
    /// How far a coming mode is.
    Phase, "one of filling, ready",
    /// Users who push and check see it.
    Filling = "filling",
    /// What the mode in force has not is answered from it.
    Ready = "ready",
}

choices! {
    /// The protocol that an upstream speaks.
    Scheme, "one of HTTPS, HTTP",
    /// Under TLS.
    Https = "HTTPS",
    /// In clear.
    Http = "HTTP",
}

choices! {
    /// A state of the upstream that lets stored content be served in its place.
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
    /// The rights of someone without credentials.
    Anonymous, "one of none, pull, push",
    /// None.
    None = "none",
    /// Pull.
    Pull = "pull",
    /// Everything: the open server.
    Push = "push",
}

choices! {
    /// The rights of a user.
    Role, "one of the roles ro, rw, mirror-puller, mirror-pusher",
    /// Pull.
    Ro = "ro",
    /// Pull, push, delete.
    Rw = "rw",
    /// Pull, list the repositories.
    MirrorPuller = "mirror-puller",
    /// Everything.
    MirrorPusher = "mirror-pusher",
}

choices! {
    /// The treatment of a manifest that references content which its repository lacks (`manifests.missingReferences`).
    MissingReferences, "one of refuse, allow",
    /// Neither taken nor answered: clients that ask nothing but HEAD would take half an image for a whole one.
    Refuse = "refuse",
    /// Taken and answered as it is.
    Allow = "allow",
}

choices! {
    /// What is made of a push that fewer masters have than have to (`replicas.whenShort`).
    WhenShort, "one of accept, refuse",
    /// It is taken, with a warning.
    Accept = "accept",
    /// It is not taken.
    Refuse = "refuse",
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
    Level, "one of error, warn, info, debug",
    /// Something failed.
    Error = "error",
    /// Something is not as it should be.
    Warn = "warn",
    /// Normal work that an administrator wants to see.
    Info = "info",
    /// Details that help to look into a fault.
    Debug = "debug",
}

choices! {
    /// The requests that get a line in the log. Pushes, deletes and refused sign-ins always do.
    AccessMode, "one of all, errors, off",
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
