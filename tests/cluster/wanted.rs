//! What an administrator asks for, and how long that takes to end.

use d8_registry::switch::Target;

/// What an administrator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Direct(usize),
    Proxy(usize),
    Local,
    /// With the registry outside of that number.
    Configured(usize),
    Bare,
}

impl Wanted {
    pub(crate) const fn target(self) -> Target {
        match self {
            Self::Direct(_) => Target::Direct,
            Self::Proxy(_) => Target::Proxy,
            Self::Local => Target::Local,
            Self::Configured(_) | Self::Bare => Target::Unmanaged,
        }
    }
}

/// How long a switch takes to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// A second for each time, by flags of the controller: for `make test`.
    Quick,
    /// `switch.settle` 20 s and scans 5 s apart, by keys of the administrator's Secret.
    Keys,
    /// Nothing is said: 10 minutes, and 30 s.
    Defaults,
}

impl Pace {
    pub(crate) const fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Quick => &["--settle", "1s", "--scan-interval", "1s"],
            Self::Keys | Self::Defaults => &[],
        }
    }

    pub(crate) const fn keys(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Keys => &[("switch.settle", "20s"), ("switch.scanInterval", "5s")],
            Self::Quick | Self::Defaults => &[],
        }
    }
}
