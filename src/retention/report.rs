//! What retention did or would do, and why: for the administrator.

use serde::Serialize;

use crate::store::Estimate;

/// Most tags that a report names of those that go, and of those that stay; all are counted.
const MOST_NAMED: usize = 10_000;

/// A run of retention, or a look at what one would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetentionReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Nothing goes now: the mode in force is not Local, or another one is coming or not over.
    pub held: bool,
    /// Why nothing goes: the pins can't be gone by, or there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pins_unusable: Option<String>,
    /// Tags that went, or would.
    pub going: u64,
    /// The first 10,000 of them.
    pub going_named: Vec<Going>,
    /// Of a look: about what would go with them, behind their grace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// Tags and release sets that a rule looked at and that stay.
    pub staying: u64,
    /// The first 10,000 of them.
    pub staying_named: Vec<Staying>,
    /// Roots and repositories of which nothing goes, and why.
    pub left_alone: Vec<LeftAlone>,
    /// Repositories that were written to the whole time; they have their verdict in the next run.
    pub busy: u64,
    /// Tags that are left to a later run: too many manifests would be given up at a time.
    pub waiting: u64,
    /// Why not all other masters could be asked, in a sentence: nothing goes then; `None`: they could, or nothing was to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masters_away: Option<String>,
    /// Tags that would have gone, and that another master needs.
    pub kept_by_masters: u64,
}

/// A tag that goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Going {
    /// The repository.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// Where it leads.
    pub digest: String,
    /// Why it goes.
    pub because: String,
}

/// A tag, or a release set by its release, that stays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Staying {
    /// The repository; of a release set its root.
    pub repository: String,
    /// The tag, or the release.
    pub tag: String,
    /// By which rule.
    pub because: String,
}

/// A repository of which nothing goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LeftAlone {
    /// The repository; of release sets their root.
    pub repository: String,
    /// Why.
    pub reason: String,
}

impl RetentionReport {
    pub(super) fn add_going(&mut self, going: Going) {
        self.going += 1;
        if self.going_named.len() < MOST_NAMED {
            self.going_named.push(going);
        }
    }

    pub(super) fn add_staying(&mut self, staying: Vec<Staying>) {
        self.staying += staying.len() as u64;
        let room = MOST_NAMED.saturating_sub(self.staying_named.len());
        self.staying_named.extend(staying.into_iter().take(room));
    }
}

/// What retention is about, for `/status` and the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionStatus {
    /// Release sets that stay for being the newest; `None`: all stay.
    pub keep_releases: Option<u32>,
    /// Rules.
    pub rules: usize,
    /// Roots and repositories of which nothing goes since the last run, and why.
    pub left_alone: Vec<LeftAlone>,
}
