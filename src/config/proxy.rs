//! What the cache keeps, and for how long.

use std::fmt;
use std::time::Duration;

use super::error::KeyError;
use super::keys::RawProxy;
use super::parse::{DAY, Parser, seconds, wrong};
use super::settings::Origin;
use crate::values::ConfigDuration;
use crate::values::StaleCause;

/// Shortest life of cached content that can be asked for, as in Deckhouse's ModuleConfig.
const LEAST_TTL: Duration = seconds(300);

/// The cache of mode Proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxySettings {
    /// What was not used for so long is removed; zero: never. Else at least five minutes.
    pub ttl: Duration,
    /// For so long a tag is answered without asking the upstream.
    pub tag_ttl: Duration,
    /// For so long a 404 of the upstream is remembered.
    pub negative_ttl: Duration,
    /// For so long a 404 of the upstream is repeated while the upstream can't be asked.
    pub stale_negative: Duration,
    /// Content older than this is not served in place of the upstream's; `None`: without end.
    pub max_stale: Option<Duration>,
    /// What of the upstream lets stored content be served in its place.
    pub stale_on: StaleOn,
}

/// A set of [`StaleCause`]s.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StaleOn(u8);

impl StaleOn {
    /// Every cause.
    pub const ALL: Self = Self((1 << StaleCause::ALL.len()) - 1);

    /// Whether `cause` is among them.
    #[must_use]
    pub const fn contains(self, cause: StaleCause) -> bool {
        self.0 & (1 << cause as u8) != 0
    }

    /// The causes, in the order in which they are declared.
    pub fn iter(self) -> impl Iterator<Item = StaleCause> {
        StaleCause::ALL.into_iter().filter(move |cause| self.contains(*cause))
    }
}

impl FromIterator<StaleCause> for StaleOn {
    fn from_iter<I: IntoIterator<Item = StaleCause>>(causes: I) -> Self {
        Self(causes.into_iter().fold(0, |set, cause| set | 1 << cause as u8))
    }
}

impl fmt::Debug for StaleOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Parser {
    /// `from_secret`: the `ttl` of the mounted Secret.
    pub(super) fn proxy(
        &mut self,
        raw: RawProxy,
        from_secret: Option<ConfigDuration>,
    ) -> Result<ProxySettings, KeyError> {
        let ttl = match (self.optional("proxy.ttl", raw.ttl), from_secret) {
            (Some(ttl), Some(other)) if ttl != other => {
                let message = format!("{ttl} here, but {other} in upstream.secretDir; leave one of the two out");
                return Err(wrong("proxy.ttl", message));
            }
            (None, Some(ttl)) => {
                self.origins.set("proxy.ttl", Origin::SecretDir);
                ttl
            }
            (ttl, _) => ttl.unwrap_or(ConfigDuration(Duration::ZERO)),
        };
        if !ttl.0.is_zero() && ttl.0 < LEAST_TTL {
            let message = format!("{ttl} is less than {}; 0s means never", ConfigDuration(LEAST_TTL));
            return Err(match self.origins.of("proxy.ttl") {
                Origin::SecretDir => wrong("upstream.secretDir", format!("file ttl: {message}")),
                _ => wrong("proxy.ttl", message),
            });
        }
        let stale_on = self.optional("proxy.staleOn", raw.stale_on);
        Ok(ProxySettings {
            ttl: ttl.0,
            tag_ttl: self.span("proxy.tagTtl", raw.tag_ttl, seconds(30), Duration::ZERO..=DAY)?,
            negative_ttl: self.span(
                "proxy.negativeTtl",
                raw.negative_ttl,
                seconds(10),
                Duration::ZERO..=seconds(3600),
            )?,
            stale_negative: self.span(
                "proxy.staleNegative",
                raw.stale_negative,
                seconds(3600),
                Duration::ZERO..=DAY,
            )?,
            max_stale: self.optional("proxy.maxStale", raw.max_stale).map(|span| span.0),
            stale_on: stale_on.map_or(StaleOn::ALL, |causes| causes.into_iter().collect()),
        })
    }
}
