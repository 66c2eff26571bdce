//! Reads settings: ModuleConfig `deckhouse` (`spec.settings.registry`), a file of the same form, and Secret `d8-registry-settings`
//! where it is ours.
//!
//! # Decisions
//! - All that is wrong is said at once. A field that is not known is a warning: Deckhouse's schema grows, and a cluster must
//!   not lose its settings by an upgrade.
//! - Where ModuleConfig leaves out `imagesRepo`, Deckhouse's default counts, as its schema has it, with a warning. An empty one
//!   is required, and so is any in a file of ours.
//! - The section of another mode is an error in ModuleConfig, as documented. The Secret has no sections: what a mode does not
//!   use is passed over there with a warning, so that `mode` alone can be changed and changed back.

mod chart;
mod fields;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

pub use self::chart::ChartValues;
use self::fields::{Defaults, Fields, Findings, prefix, shown};
use super::observed::Input;
use super::outputs::names;
use super::settings::{CheckMode, Params, Settings, SwitchOptions, Target, UnreadyNodes};
use crate::values::{ConfigDuration, Secret};

/// Longest wait for the last answers of a previous mode.
const MOST_SETTLE: Duration = Duration::from_secs(24 * 3600);
/// Bounds of the time between two scans.
const SCAN_INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The settings, or every rule that they break.
    pub settings: Result<Settings, Vec<String>>,
    /// What works and is probably not meant.
    pub warnings: Vec<String>,
}

impl Reading {
    fn into_input(self, generation: i64) -> Input {
        match self.settings {
            Ok(settings) => Input::Valid { settings, generation },
            Err(problems) => Input::Invalid { problems, generation },
        }
    }
}

/// What Secret `d8-registry-settings` says beside the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptionChanges {
    /// `switch.settle`.
    pub settle: Option<Duration>,
    /// `switch.scanInterval`.
    pub scan_interval: Option<Duration>,
    /// `switch.unreadyNodes`.
    pub unready_nodes: Option<UnreadyNodes>,
}

impl OptionChanges {
    /// The options with these in their place.
    #[must_use]
    pub fn over(self, options: SwitchOptions) -> SwitchOptions {
        SwitchOptions {
            settle: self.settle.unwrap_or(options.settle),
            scan_interval: self.scan_interval.unwrap_or(options.scan_interval),
            unready_nodes: self.unready_nodes.unwrap_or(options.unready_nodes),
        }
    }
}

/// ModuleConfig `deckhouse` as an input: its `spec.settings`, of which the field `registry` counts.
#[must_use]
pub fn from_module_config(settings: &Value, generation: i64) -> Input {
    match settings.get("registry") {
        None | Some(Value::Null) => Input::Unset,
        registry => read_module_config(registry).into_input(generation),
    }
}

/// Secret `d8-registry-settings` as an input; one without our annotation is none.
#[must_use]
pub fn from_secret(annotations: &BTreeMap<String, String>, data: &BTreeMap<String, Vec<u8>>) -> Input {
    if is_ours(annotations) { read_secret(data).0.into_input(0) } else { Input::Absent }
}

/// Whether a Secret `d8-registry-settings` is ours.
#[must_use]
pub fn is_ours(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(names::SOURCE_ANNOTATION).is_some_and(|source| source == names::SOURCE_MANUAL)
}

/// Reads `spec.settings.registry` of ModuleConfig `deckhouse`; where it is absent, bare Unmanaged is wanted, as in Deckhouse.
#[must_use]
pub fn read_module_config(registry: Option<&Value>) -> Reading {
    from_json(registry.unwrap_or(&Value::Null), Defaults::Deckhouse)
}

/// Reads a file of ours that has the form of `spec.settings.registry`.
#[must_use]
pub fn read_file(registry: &Value) -> Reading {
    from_json(registry, Defaults::Ours)
}

fn from_json(registry: &Value, defaults: Defaults) -> Reading {
    let mut findings = Findings::default();
    let settings = match registry {
        Value::Null => Some(Settings { params: Params::BARE, check_mode: CheckMode::Default }),
        Value::Object(fields) => section_of_mode(fields, defaults, &mut findings),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            findings.problems.push("registry: it must be an object.".to_owned());
            None
        }
    };
    finished(settings, findings)
}

fn finished(settings: Option<Settings>, findings: Findings) -> Reading {
    let Findings { problems, warnings } = findings;
    let settings = match settings {
        Some(settings) if problems.is_empty() => Ok(settings),
        Some(_) | None => Err(problems),
    };
    Reading { settings, warnings }
}

fn section_of_mode(fields: &Map<String, Value>, defaults: Defaults, findings: &mut Findings) -> Option<Settings> {
    const SECTIONS: [(Target, &str); 3] =
        [(Target::Direct, "direct"), (Target::Proxy, "proxy"), (Target::Unmanaged, "unmanaged")];
    for key in fields.keys() {
        if key != "mode" && !SECTIONS.iter().any(|(_, name)| name == key) {
            findings.unknown("registry", key);
        }
    }
    let word = match fields.get("mode") {
        None | Some(Value::Null) => "Unmanaged",
        Some(Value::String(word)) => word,
        Some(_) => {
            findings.problems.push("registry: 'mode' must be a string.".to_owned());
            return None;
        }
    };
    let Some(mode) = Target::ALL.into_iter().find(|mode| mode.as_str() == word) else {
        findings.problems.push(format!("Unknown registry mode: {}", shown(word)));
        return None;
    };
    let mut settings = match mode {
        Target::Local => Some(Settings { params: Params::Local, check_mode: CheckMode::Default }),
        Target::Unmanaged => Some(Settings { params: Params::BARE, check_mode: CheckMode::Default }),
        Target::Direct | Target::Proxy => None,
    };
    for (of, name) in SECTIONS {
        let section = fields.get(name).filter(|section| !section.is_null());
        match (section, of == mode) {
            (Some(section), true) => settings = read_section(section, mode, defaults, findings),
            (Some(_), false) => {
                let message = format!("registry: when mode is not '{of}', '{name}' section must be omitted.");
                findings.problems.push(message);
            }
            // Unmanaged's section is optional: without it the mode is bare.
            (None, true) if mode != Target::Unmanaged => {
                findings.problems.push(format!("registry: when mode is '{of}', '{name}' section must be specified."));
            }
            (None, true | false) => {}
        }
    }
    settings
}

fn read_section(section: &Value, mode: Target, defaults: Defaults, findings: &mut Findings) -> Option<Settings> {
    let prefix = prefix(mode);
    let Value::Object(section) = section else {
        findings.problems.push(format!("{prefix}: it must be an object."));
        return None;
    };
    let mut fields = Fields::default();
    let before = findings.problems.len();
    for (key, value) in section {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                if is_field(key) {
                    findings.problems.push(format!("{prefix}: '{key}' must be a string."));
                } else {
                    findings.unknown(prefix, key);
                }
                continue;
            }
        };
        if !fields.set(key, text) {
            findings.unknown(prefix, key);
        }
    }
    let settings = fields.check(mode, defaults, findings);
    settings.filter(|_| findings.problems.len() == before)
}

/// What a release of helm puts on its objects. Deckhouse renders `registry-config` by one, and writes it again at any time.
const RELEASE_ANNOTATION: &str = "meta.helm.sh/release-name";

/// Whether a Secret `registry-config` counts where there is no `d8-registry-settings`: it is ours, and no release of helm has it.
#[must_use]
pub fn counts(annotations: &BTreeMap<String, String>) -> bool {
    is_ours(annotations) && !annotations.contains_key(RELEASE_ANNOTATION)
}

/// Reads the data of Secret `d8-registry-settings`. It has Deckhouse's keys, `license`, and the options of a switch.
#[must_use]
pub fn read_secret(data: &BTreeMap<String, Vec<u8>>) -> (Reading, OptionChanges) {
    let mut findings = Findings::default();
    let mut fields = Fields::default();
    let mut options = OptionChanges::default();
    let mut word = None;
    for (key, value) in data {
        let Ok(text) = std::str::from_utf8(value) else {
            findings.problems.push(format!("d8-registry-settings: '{}' is not UTF-8.", shown(key)));
            continue;
        };
        // Files end with a line end; only a certificate keeps it.
        let text = if key == "ca" { text } else { text.trim_end_matches(['\r', '\n']) };
        match key.as_str() {
            "mode" => word = Some(text.to_owned()),
            // Deckhouse's copy of the whole section.
            "raw_config" => {}
            key if key.starts_with("switch.") => options.set(key, text, &mut findings),
            key => {
                if !fields.set(key, text.to_owned()) {
                    findings.unknown("d8-registry-settings", key);
                }
            }
        }
    }
    let settings = of_secret(word.as_deref(), fields, &mut findings);
    (finished(settings, findings), options)
}

fn of_secret(word: Option<&str>, fields: Fields, findings: &mut Findings) -> Option<Settings> {
    let word = word.filter(|word| !word.is_empty());
    let Some(word) = word else {
        findings.problems.push("d8-registry-settings: 'mode' is required.".to_owned());
        return None;
    };
    let Some(mode) = Target::ALL.into_iter().find(|mode| mode.as_str() == word) else {
        findings.problems.push(format!("Unknown registry mode: \"{}\"", shown(word)));
        return None;
    };
    match mode {
        Target::Local => {
            if fields.any() {
                findings
                    .warnings
                    .push("registry: mode 'Local' has no parameters; those given are passed over.".to_owned());
            }
            Some(Settings { params: Params::Local, check_mode: CheckMode::Default })
        }
        Target::Unmanaged if !fields.any() => Some(Settings { params: Params::BARE, check_mode: CheckMode::Default }),
        Target::Direct | Target::Proxy | Target::Unmanaged => fields.check(mode, Defaults::Ours, findings),
    }
}

/// The data of Secret `d8-registry-settings` for settings. What the mode does not use is not in it.
#[must_use]
pub fn to_secret(settings: &Settings) -> BTreeMap<&'static str, Secret> {
    let mut data = BTreeMap::new();
    let mut set = |key, value: &str| data.insert(key, Secret::new(value.to_owned()));
    set("mode", settings.params.target().as_str());
    if let Some(upstream) = settings.params.upstream() {
        set("imagesRepo", &upstream.images_repo);
        set("scheme", upstream.scheme.as_str());
        set("checkMode", settings.check_mode.as_str());
        if let Some(ca) = &upstream.ca {
            set("ca", ca);
        }
        if let Some(login) = &upstream.login {
            set("username", &login.username);
            set("password", login.password.expose());
        }
    }
    if let Params::Proxy { ttl, .. } = &settings.params {
        set("ttl", &schema_duration(*ttl));
    }
    data
}

/// As the schema's pattern has it: hours, minutes, seconds.
fn schema_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [(seconds / 3600, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let text: String =
        parts.iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// The keys that [`to_secret`] may write, in the order in which they are shown.
pub const SETTINGS_KEYS: [&str; 9] =
    ["mode", "imagesRepo", "scheme", "ca", "username", "password", "license", "checkMode", "ttl"];

fn is_field(key: &str) -> bool {
    key != "mode" && SETTINGS_KEYS.contains(&key)
}

impl Fields {
    /// Sets a field by its name; `false` where there is none of this name.
    fn set(&mut self, key: &str, value: String) -> bool {
        let given = |value: String| Some(value).filter(|value| !value.is_empty());
        match key {
            "imagesRepo" => self.images_repo = Some(value),
            "scheme" => self.scheme = given(value),
            "ca" => self.ca = given(value),
            "username" => self.username = given(value),
            "password" => self.password = given(value).map(Secret::new),
            "license" => self.license = given(value).map(Secret::new),
            "checkMode" => self.check_mode = given(value),
            "ttl" => self.ttl = given(value),
            _ => return false,
        }
        true
    }
}

impl OptionChanges {
    fn set(&mut self, key: &str, value: &str, findings: &mut Findings) {
        let span = || value.parse::<ConfigDuration>().ok().map(|span| span.0);
        let wrong = match key {
            "switch.settle" => {
                self.settle = span().filter(|settle| *settle <= MOST_SETTLE);
                self.settle.is_none().then_some("is a time from 0s to 24h, such as 10m")
            }
            "switch.scanInterval" => {
                self.scan_interval = span().filter(|scan| (SCAN_INTERVAL.0..=SCAN_INTERVAL.1).contains(scan));
                self.scan_interval.is_none().then_some("is a time from 1s to 1h, such as 30s")
            }
            "switch.unreadyNodes" => {
                self.unready_nodes = match value {
                    "wait" => Some(UnreadyNodes::Wait),
                    "skip" => Some(UnreadyNodes::Skip),
                    _ => None,
                };
                self.unready_nodes.is_none().then_some("is wait or skip")
            }
            _ => {
                findings.unknown("d8-registry-settings", key);
                None
            }
        };
        if let Some(form) = wrong {
            findings.problems.push(format!("d8-registry-settings: '{key}' {form}."));
        }
    }
}

impl Findings {
    fn unknown(&mut self, prefix: &str, key: &str) {
        self.warnings.push(format!("{prefix}: the field '{}' is not known here and is passed over.", shown(key)));
    }
}
