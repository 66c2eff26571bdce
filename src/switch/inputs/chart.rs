//! Secret `d8-registry-values`: what the chart was last given for the mode. No input, but what an input may contradict.

use std::collections::BTreeMap;

use super::read_secret;
use crate::switch::settings::{Target, Upstream};

/// Values of the chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChartValues {
    /// `mode`.
    pub mode: Target,
    /// `upstream.*`; `None` where the chart names a Secret in place of them, and in modes without one.
    pub upstream: Option<Upstream>,
}

impl ChartValues {
    /// Reads the data of the Secret: keys as those of `registry-config`.
    ///
    /// # Errors
    /// A sentence without secrets.
    pub fn read(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, String> {
        let word = data.get("mode").and_then(|word| std::str::from_utf8(word).ok()).unwrap_or_default();
        let mode = Target::ALL.into_iter().find(|mode| mode.as_str() == word).ok_or("mode is not known")?;
        if !data.contains_key("imagesRepo") {
            return Ok(Self { mode, upstream: None });
        }
        let settings = read_secret(data).0.settings.map_err(|problems| problems.join(" "))?;
        Ok(Self { mode, upstream: settings.params.upstream().cloned() })
    }
}
