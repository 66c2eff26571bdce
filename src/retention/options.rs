//! What stays, as the configuration says it.

use std::time::Duration;

use crate::values::Pattern;

/// The rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionOptions {
    /// The number of release sets that stay for being the newest; `None`: all stay.
    pub keep_releases: Option<u32>,
    /// Rules for other repositories; where none fits, everything stays.
    pub rules: Vec<Rule>,
}

/// A rule for the repositories whose names fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The names.
    pub repositories: Pattern,
    /// What stays in them.
    pub keep: Keep,
}

/// What stays: a tag that fits any of these, of any rule, stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// The number of tags that were pushed last.
    pub newest: Option<u32>,
    /// Tags that were pushed within this time.
    pub pushed_within: Option<Duration>,
    /// Tags whose image was pulled within this time, or came.
    pub pulled_within: Option<Duration>,
    /// Tags that fit one of these.
    pub matching: Vec<Pattern>,
}

impl RetentionOptions {
    /// Whether nothing ever goes by them.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        self.keep_releases.is_none() && self.rules.is_empty()
    }
}
