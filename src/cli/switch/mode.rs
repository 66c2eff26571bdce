//! `switch mode`: settings into Secret `d8-registry-settings`.

use std::io::{self, Write as _};

use super::super::Failure;
use super::settings::{Data, ParameterArguments, wrong};
use super::{ClusterArguments, DECKHOUSE_MODULE, change_secret, changed_meanwhile, connect, failed, failure};
use crate::cluster::{Changes, Cluster, NewSecret, SecretChange, StoredSecret};
use crate::controller::settings_secret;
use crate::switch::inputs::{self, SETTINGS_KEYS};
use crate::switch::outputs::names;
use crate::switch::{InputSource, Params, Record, RegistryState, Settings, Target};
use crate::telemetry::with_causes;

/// Keys whose values nobody sees.
const SECRETS: [&str; 2] = ["password", "license"];
/// Deckhouse's copy of the settings; in a Secret of ours it would say something else than the keys.
const RAW_CONFIG: &str = "raw_config";

/// Flags of `switch mode`.
#[derive(Clone, Debug, clap::Args)]
pub struct ModeArguments {
    /// Direct, Proxy, Local or Unmanaged. Unmanaged without a registry goes back to the one that was there before.
    #[arg(value_name = "MODE", ignore_case = true, value_parser = target())]
    pub mode: Target,
    /// The parameters.
    #[command(flatten)]
    pub parameters: ParameterArguments,
    /// How long no answer may come from a mode of before until a switch ends [default: the controller's, 10m].
    #[arg(long, value_name = "SPAN")]
    pub settle: Option<String>,
    /// Least time between the two scans for references that end a switch [default: the controller's, 30s].
    #[arg(long, value_name = "SPAN")]
    pub scan_interval: Option<String>,
    /// What is done about nodes that are NotReady: wait or skip [default: the controller's, wait].
    #[arg(long, value_name = "WORD")]
    pub unready_nodes: Option<String>,
    /// Only check and show; write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

fn target() -> impl clap::builder::TypedValueParser<Value = Target> {
    use clap::builder::TypedValueParser as _;
    clap::builder::PossibleValuesParser::new(Target::ALL.map(Target::as_str)).map(|word| {
        // One of them it is.
        let found = Target::ALL.into_iter().find(|target| target.as_str().eq_ignore_ascii_case(&word));
        found.unwrap_or(Target::Unmanaged)
    })
}

pub(super) async fn run(arguments: ModeArguments) -> Result<(), Failure> {
    let (settings, warnings) = arguments.parameters.read(arguments.mode)?;
    for warning in &warnings {
        writeln!(io::stderr(), "d8-registry: warning: {warning}")?;
    }
    let cluster = connect(&arguments.cluster).await?;
    let before = ours(&cluster).await?;
    let nothing = Data::new();
    let old = before.as_ref().map_or(&nothing, |secret| &secret.data);
    let options = [
        ("switch.settle", &arguments.settle),
        ("switch.scanInterval", &arguments.scan_interval),
        ("switch.unreadyNodes", &arguments.unready_nodes),
    ];
    let new = wanted(&settings, &options, old);
    // The options of before are read again with the rest: one that is wrong would make all of it invalid.
    inputs::read_secret(&new).0.settings.map_err(|problems| wrong(&problems))?;
    let changes = changes(old, &new);
    let mut out = io::stdout();
    write!(out, "{changes}")?;
    if changes.is_empty() {
        writeln!(out, "Nothing changes.")?;
    }
    for remark in remarks(&cluster, &settings).await {
        writeln!(out, "{remark}")?;
    }
    if arguments.dry_run {
        writeln!(out, "Nothing was written (--dry-run).")?;
        return Ok(());
    }
    match before {
        Some(_) if changes.is_empty() => return Ok(()),
        before => put(&cluster, before.as_ref(), changes, new).await?,
    }
    writeln!(out, "Secret {} is written. See how far it is: d8-registry switch status --watch", names::CONFIG)?;
    Ok(())
}

/// The Secret of before. While Deckhouse's own module is on, or where the Secret is not ours, nothing is written.
pub(super) async fn ours(cluster: &Cluster) -> Result<Option<StoredSecret>, Failure> {
    let enabled = match cluster.is_module_enabled(DECKHOUSE_MODULE).await {
        Ok(enabled) => enabled,
        // There are no Modules in a cluster without Deckhouse.
        Err(error) if error.is_absent() => false,
        Err(error) => return Err(failure(format!("Module {DECKHOUSE_MODULE}: {}", with_causes(&error)))),
    };
    if enabled {
        return Err(failure(format!(
            "Deckhouse's own module {DECKHOUSE_MODULE} is enabled, and two controllers for one set of Secrets are worse than \
             none: change spec.settings.registry of ModuleConfig deckhouse, or disable the module first"
        )));
    }
    let found = settings_secret(cluster).await.map_err(|error| failed(names::CONFIG, &error))?;
    if found.as_ref().is_some_and(|secret| !inputs::is_ours(&secret.annotations)) {
        return Err(failure(format!(
            "Secret {} is there without the annotation {}: {}, so it is not ours and not changed",
            names::CONFIG,
            names::SOURCE_ANNOTATION,
            names::SOURCE_MANUAL
        )));
    }
    Ok(found)
}

/// Writes the settings; `changes` are from what was found to `new`. A `registry-config` that counted counts no more then: it would
/// again, were the other one deleted.
pub(super) async fn put(
    cluster: &Cluster,
    found: Option<&StoredSecret>,
    changes: DataChanges,
    new: Data,
) -> Result<(), Failure> {
    match found {
        Some(_) if changes.is_empty() => Ok(()),
        Some(secret) if secret.name == names::CONFIG => change_secret(cluster, secret, changes.into_change()).await,
        Some(shared) => {
            create(cluster, new).await?;
            let annotations = Changes::from([(names::SOURCE_ANNOTATION.to_owned(), None)]);
            change_secret(cluster, shared, SecretChange { annotations, ..SecretChange::default() }).await
        }
        None => create(cluster, new).await,
    }
}

async fn create(cluster: &Cluster, data: Data) -> Result<(), Failure> {
    let pair = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let secret = NewSecret {
        name: names::CONFIG.to_owned(),
        kind: "registry/config".to_owned(),
        labels: pair("app", "d8-registry"),
        annotations: pair(names::SOURCE_ANNOTATION, names::SOURCE_MANUAL),
        data,
    };
    match cluster.create_secret(secret).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_conflict() => Err(changed_meanwhile(names::CONFIG)),
        Err(error) => Err(failed(names::CONFIG, &error)),
    }
}

/// The data as it is to be: the settings, and options that stay unless they are given. Keys that nobody knows stay too.
pub(super) fn wanted(settings: &Settings, options: &[(&str, &Option<String>)], old: &Data) -> Data {
    let is_setting = |key: &str| SETTINGS_KEYS.contains(&key) || key == RAW_CONFIG;
    let mut new: Data = old.iter().filter(|(key, _)| !is_setting(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    let settings = inputs::to_secret(settings);
    new.extend(settings.into_iter().map(|(key, value)| (key.to_owned(), value.expose().into())));
    for (key, given) in options {
        if let Some(given) = given {
            new.insert((*key).to_owned(), given.clone().into_bytes());
        }
    }
    new
}

/// What changes, in the order in which it is shown.
pub(super) struct DataChanges(Vec<KeyChange>);

struct KeyChange {
    key: String,
    old: Option<Vec<u8>>,
    new: Option<Vec<u8>>,
}

pub(super) fn changes(old: &Data, new: &Data) -> DataChanges {
    let place = |key: &String| SETTINGS_KEYS.iter().position(|known| known == key).unwrap_or(SETTINGS_KEYS.len());
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort_by(|a, b| (place(a), a).cmp(&(place(b), b)));
    keys.dedup();
    let changed = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
    let change = |key: &String| KeyChange { key: key.clone(), old: old.get(key).cloned(), new: new.get(key).cloned() };
    DataChanges(changed.map(change).collect())
}

impl DataChanges {
    /// Whether nothing changes.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn into_change(self) -> SecretChange {
        let data: Changes<Vec<u8>> = self.0.into_iter().map(|change| (change.key, change.new)).collect();
        SecretChange { data, ..SecretChange::default() }
    }
}

impl std::fmt::Display for DataChanges {
    /// A line a key, without secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for KeyChange { key, old, new } in &self.0 {
            match (old, new) {
                (Some(old), Some(new)) => writeln!(f, "  {key}: {} -> {}", shown(key, old), shown(key, new))?,
                (None, Some(new)) => writeln!(f, "  {key}: {}", shown(key, new))?,
                (Some(old), None) => writeln!(f, "  {key}: {} -> (left out)", shown(key, old))?,
                (None, None) => {}
            }
        }
        Ok(())
    }
}

/// A value as it may be seen.
fn shown(key: &str, value: &[u8]) -> String {
    match (key, std::str::from_utf8(value)) {
        (key, _) if SECRETS.contains(&key) => "***".to_owned(),
        ("ca", _) => format!("PEM, {} bytes", value.len()),
        (key, Ok(text)) if SETTINGS_KEYS.contains(&key) || key.starts_with("switch.") => {
            text.trim().escape_debug().to_string()
        }
        // What is in a key of others may be a secret: `raw_config` has passwords.
        _ => "***".to_owned(),
    }
}

/// What an administrator should know before it begins. What can't be read is not said.
async fn remarks(cluster: &Cluster, settings: &Settings) -> Vec<String> {
    let state = cluster.secret(names::STATE).await.ok().flatten();
    let state = state.and_then(|secret| RegistryState::read(&secret.data).ok());
    let record = cluster.secret(names::RECORD).await.ok().flatten();
    let record = record.and_then(|secret| Record::read(&secret.data).ok());
    let (now, chosen) = (state.map(|state| state.mode), record.map(|record| (record.source, record.source_chosen)));
    remarks_on(&settings.params, now, chosen)
}

fn remarks_on(wanted: &Params, now: Option<Target>, chosen: Option<(Option<InputSource>, bool)>) -> Vec<String> {
    let mut remarks = Vec::new();
    let away = wanted.is_managed() && now == Some(Target::Unmanaged);
    let back = !wanted.is_managed() && now.is_some_and(|now| now != Target::Unmanaged);
    if away || back {
        remarks.push("This switch changes the address of every image: all components of Deckhouse restart.".to_owned());
    }
    if away {
        remarks.push("containerd 1 restarts once on each node where Deckhouse configured it.".to_owned());
    }
    if *wanted == Params::Local {
        remarks.push("The switch waits until `d8 mirror push` has brought every image.".to_owned());
    }
    if *wanted == Params::BARE && now == Some(Target::Local) {
        remarks.push(format!("mode transition from {} to {} not supported", Target::Local, Target::Unmanaged));
    }
    if chosen == Some((Some(InputSource::ModuleConfig), true)) {
        let word = "d8-registry switch source manual";
        remarks.push(format!("ModuleConfig deckhouse was chosen as the input: this counts after `{word}`."));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(pairs: &[(&str, &str)]) -> Data {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_diff_is_shown_in_the_order_of_the_settings_and_without_secrets() {
        let old = data(&[
            ("mode", "Direct"),
            ("imagesRepo", "a/b"),
            ("password", "hunter2"),
            ("raw_config", "hunter2"),
            ("zz", "hunter2"),
        ]);
        let new = data(&[
            ("mode", "Proxy"),
            ("imagesRepo", "a/b"),
            ("password", "hunter3"),
            ("ca", "hunter"),
            ("ttl", "1h"),
            ("switch.settle", "1m"),
        ]);
        let shown = changes(&old, &new).to_string();
        let expected = "  mode: Direct -> Proxy\n  ca: PEM, 6 bytes\n  password: *** -> ***\n  ttl: 1h\n  raw_config: *** -> (left out)\n  \
                        switch.settle: 1m\n  zz: *** -> (left out)\n";
        assert_eq!(shown, expected);
        assert_eq!(changes(&old, &old).to_string(), "");
        let change = changes(&old, &new).into_change();
        assert_eq!(change.data["raw_config"], None);
        assert_eq!(change.data["mode"], Some(b"Proxy".to_vec()));
        assert!(!change.data.contains_key("imagesRepo"));
    }

    #[test]
    fn what_is_to_be_known_is_said_before() {
        let managed = Params::Local;
        let said = |wanted: &Params, now, chosen| remarks_on(wanted, now, chosen).join("\n");
        assert!(said(&managed, Some(Target::Unmanaged), None).contains("all components of Deckhouse restart"));
        assert!(!said(&managed, Some(Target::Direct), None).contains("restart"));
        assert!(said(&Params::BARE, Some(Target::Local), None).ends_with("from Local to Unmanaged not supported"));
        assert_eq!(said(&Params::BARE, Some(Target::Unmanaged), Some((Some(InputSource::ModuleConfig), false))), "");
        assert!(
            said(&Params::BARE, None, Some((Some(InputSource::ModuleConfig), true))).contains("switch source manual")
        );
    }
}
