//! Secret `d8-registry-switch`: what the controller remembers. It holds passwords.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::bashible::{RawHosts, hosts_as_yaml};
use super::manifest::{SecretManifest, text_of};
use super::mode_file::{RawPlane, plane_as_yaml};
use super::params::{RawParams, RawUpstream, params_as_yaml, upstream_as_yaml};
use super::{names, reading};
use crate::clock::Timestamp;
use crate::switch::record::{InputSource, NodePlan, Record, Settle};
use crate::switch::settings::{CheckMode, Settings};
use crate::values::{ConfigDuration, Secret};
use crate::yaml::Yaml;

const KEY: &str = "record";
/// The form of the record. A program that does not know it changes nothing.
const FORMAT: u64 = 1;

impl Record {
    /// The Secret.
    #[must_use]
    pub fn to_secret(&self) -> SecretManifest {
        SecretManifest::ours(names::RECORD, "Opaque").label("app", "d8-registry").data(KEY, self.as_yaml().render())
    }

    fn as_yaml(&self) -> Yaml {
        let mut lines = vec![
            ("format", Yaml::Number(FORMAT)),
            ("attempt", Yaml::Number(self.attempt)),
            ("generation", Yaml::Number(self.generation)),
        ];
        if let Some(source) = self.source {
            lines.push(("source", Yaml::text(source.as_str())));
        }
        lines.push(("sourceChosen", Yaml::Bool(self.source_chosen)));
        for (key, settings) in [("settings", &self.settings), ("passedOver", &self.passed_over)] {
            if let Some(settings) = settings {
                lines.push((key, settings_as_yaml(settings)));
            }
        }
        if self.unset_seen {
            // A program that does not know the key puts such a record together again, from what the cluster has.
            lines.push(("unsetSeen", Yaml::Bool(true)));
        }
        lines.push(("completed", Yaml::map(params_as_yaml(&self.completed))));
        lines.push(("target", Yaml::map(params_as_yaml(&self.target))));
        lines.push(("underWay", Yaml::Bool(self.under_way)));
        lines.push(("adopted", Yaml::Bool(self.adopted)));
        lines.push(("plane", Yaml::map(plane_as_yaml(&self.plane))));
        let mut nodes = vec![("kept", hosts_as_yaml(&self.nodes.kept))];
        if let Some(with) = &self.nodes.with {
            nodes.push(("with", Yaml::map(params_as_yaml(with))));
        }
        lines.push(("nodes", Yaml::map(nodes)));
        if let Some(given) = self.given {
            lines.push(("given", Yaml::Number(given.as_millis())));
        }
        if let Some(params) = &self.deckhouse_registry {
            lines.push(("deckhouseRegistry", Yaml::map(params_as_yaml(params))));
        }
        if let Some(fallback) = &self.fallback {
            lines.push(("fallback", upstream_as_yaml(fallback)));
        }
        lines.push(("named", Yaml::List(self.named.iter().map(Yaml::text).collect())));
        if let Some(ca) = &self.ca {
            lines.push(("ca", Yaml::text(ca)));
        }
        if let Some(ro) = &self.ro {
            lines.push(("ro", Yaml::text(ro.expose())));
        }
        lines.push(("skipped", Yaml::List(self.skipped.iter().map(Yaml::text).collect())));
        if let Some(Settle { counts, since }) = &self.settle {
            let counts = counts.iter().map(|(server, (started, answers))| {
                let count = [("started", Yaml::Number(*started)), ("answers", Yaml::Number(*answers))];
                (server.as_str(), Yaml::map(count))
            });
            let settle = [("since", Yaml::Number(since.as_millis())), ("counts", Yaml::map(counts))];
            lines.push(("settle", Yaml::map(settle)));
        }
        lines.push(("acceptMissing", Yaml::Bool(self.accept_missing)));
        Yaml::map(lines)
    }

    /// Why the data of the Secret are not this program's to replace: a newer one wrote them. They are not garbled.
    #[must_use]
    pub fn newer(data: &BTreeMap<String, Vec<u8>>) -> Option<String> {
        let Form { format } = reading::yaml(text_of(data, KEY).ok()?).ok()?;
        (format > FORMAT).then(|| format!("it has format {format}, of a newer program; this one knows {FORMAT}"))
    }

    /// Reads the data of the Secret.
    ///
    /// # Errors
    /// A sentence without secrets; also for another form than this program's.
    pub fn read(data: &BTreeMap<String, Vec<u8>>) -> Result<Self, String> {
        let text = text_of(data, KEY)?;
        let Form { format } = reading::yaml(text)?;
        if format != FORMAT {
            return Err(format!("it has format {format}; this program knows {FORMAT}"));
        }
        let raw: Raw = reading::yaml(text)?;
        Ok(Self {
            attempt: raw.attempt,
            generation: raw.generation,
            source: raw.source.as_deref().map(source).transpose()?,
            source_chosen: raw.source_chosen,
            settings: raw.settings.map(RawSettings::read).transpose()?,
            passed_over: raw.passed_over.map(RawSettings::read).transpose()?,
            unset_seen: raw.unset_seen,
            completed: raw.completed.read()?,
            target: raw.target.read()?,
            under_way: raw.under_way,
            adopted: raw.adopted,
            plane: raw.plane.read()?,
            nodes: NodePlan { kept: raw.nodes.kept.read()?, with: raw.nodes.with.map(RawParams::read).transpose()? },
            given: raw.given.map(Timestamp::from_millis),
            deckhouse_registry: raw.deckhouse_registry.map(RawParams::read).transpose()?,
            fallback: raw.fallback.map(RawUpstream::read).transpose()?,
            named: raw.named,
            ca: raw.ca,
            ro: raw.ro,
            skipped: raw.skipped,
            settle: raw.settle.map(|RawSettle { since, counts }| Settle {
                since: Timestamp::from_millis(since),
                counts: counts.into_iter().map(|(server, count)| (server, (count.started, count.answers))).collect(),
            }),
            accept_missing: raw.accept_missing,
        })
    }
}

fn settings_as_yaml(settings: &Settings) -> Yaml {
    let mut lines = params_as_yaml(&settings.params);
    lines.push(("checkMode", Yaml::text(settings.check_mode.as_str())));
    Yaml::map(lines)
}

fn source(word: &str) -> Result<InputSource, String> {
    let known = [InputSource::Manual, InputSource::ModuleConfig].into_iter().find(|source| source.as_str() == word);
    known.ok_or_else(|| "the source of the input is not known".to_owned())
}

#[derive(Deserialize)]
struct Form {
    format: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Raw {
    #[serde(rename = "format")]
    _format: u64,
    attempt: u64,
    generation: u64,
    #[serde(default)]
    source: Option<String>,
    source_chosen: bool,
    #[serde(default)]
    settings: Option<RawSettings>,
    #[serde(default)]
    passed_over: Option<RawSettings>,
    #[serde(default)]
    unset_seen: bool,
    completed: RawParams,
    target: RawParams,
    under_way: bool,
    adopted: bool,
    plane: RawPlane,
    nodes: RawNodes,
    #[serde(default)]
    given: Option<u64>,
    #[serde(default)]
    deckhouse_registry: Option<RawParams>,
    #[serde(default)]
    fallback: Option<RawUpstream>,
    named: BTreeSet<String>,
    #[serde(default)]
    ca: Option<String>,
    #[serde(default)]
    ro: Option<Secret>,
    skipped: BTreeSet<String>,
    #[serde(default)]
    settle: Option<RawSettle>,
    accept_missing: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawSettings {
    mode: String,
    #[serde(default)]
    upstream: Option<RawUpstream>,
    #[serde(default)]
    ttl: Option<ConfigDuration>,
    check_mode: String,
}

impl RawSettings {
    fn read(self) -> Result<Settings, String> {
        let Self { mode, upstream, ttl, check_mode } = self;
        let known = CheckMode::ALL.into_iter().find(|mode| mode.as_str() == check_mode);
        let check_mode = known.ok_or("checkMode is not known")?;
        Ok(Settings { params: RawParams { mode, upstream, ttl }.read()?, check_mode })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNodes {
    kept: RawHosts,
    #[serde(default)]
    with: Option<RawParams>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSettle {
    since: u64,
    counts: BTreeMap<String, RawCount>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCount {
    started: u64,
    answers: u64,
}
