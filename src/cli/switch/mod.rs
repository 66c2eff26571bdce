//! `switch`: what an administrator asks of the controller, and how far it is. All of it goes over the API server.

mod mode;
mod settings;
mod shown;
mod status;
mod upstream;

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Subcommand;

use self::mode::ModeArguments;
use self::status::StatusArguments;
use self::upstream::UpstreamArguments;
use super::Failure;
use crate::cluster::{Access, Changes, Cluster, ClusterError, SecretChange, StoredSecret};
use crate::switch::outputs::{names, words};
use crate::switch::{InputSource, Word};
use crate::telemetry::with_causes;

/// Deckhouse's own module, which must not work beside this controller.
const DECKHOUSE_MODULE: &str = "registry";

/// What can be asked.
#[derive(Debug, Subcommand)]
pub enum SwitchCommand {
    /// Say which mode is wanted: checks the settings, shows what changes and writes Secret d8-registry-settings, which the
    /// controller follows.
    #[command(
        after_help = "--settings takes the manifest of ModuleConfig deckhouse, or its section spec.settings.registry alone.\n\n\
        Examples:\n  \
        d8-registry switch mode Direct --images-repo registry.example.com/deckhouse/ee --license-file license\n  \
        d8-registry switch mode Proxy --settings mc-deckhouse.yaml --dry-run\n  \
        d8-registry switch mode Local\n  \
        The registry that was there before:\n    d8-registry switch mode Unmanaged"
    )]
    Mode(Box<ModeArguments>),
    /// Give the mode in force another upstream, or other credentials, also while Deckhouse and the controller are down. Tries the
    /// upstream and looks for every image, then takes the controller's Lease: a controller that lives does the rest, else this
    /// command does. It ends when nodes, servers and Deckhouse's Secret have the upstream, and says what is left to do by hand.
    #[command(
        after_help = "It runs on a master, with a kubeconfig of an administrator; the upstream is asked from there, by HTTPS_PROXY where \
        that is set. What was there before is in Secret registry-previous for 7 days.\n\nExamples:\n  \
        The licence has expired:\n    d8-registry switch upstream --license-file license --dry-run\n    \
        d8-registry switch upstream --license-file license\n  \
        Another registry:\n    d8-registry switch upstream --images-repo registry.example.com/deckhouse/ee --username u --password-file p\n  \
        Back, or no way back any more:\n    d8-registry switch upstream --undo\n    d8-registry switch upstream --commit"
    )]
    Upstream(Box<UpstreamArguments>),
    /// Show the mode, the conditions and the nodes.
    #[command(
        after_help = "With --watch it ends once the wanted mode is reached.\n\nExamples:\n  d8-registry switch status\n  \
        d8-registry switch status --watch\n  d8-registry switch status --json"
    )]
    Status(StatusArguments),
    /// End a switch though something that only the mode before has may still be needed: what is missing then is missing.
    #[command(after_help = "Example:\n  d8-registry switch finish --accept-missing")]
    Finish(FinishArguments),
    /// Choose the input that counts.
    #[command(
        after_help = "manual: Secret d8-registry-settings, which `switch mode` writes. moduleconfig: spec.settings.registry of \
        ModuleConfig deckhouse.\n\nExample:\n  d8-registry switch source moduleconfig"
    )]
    Source(SourceArguments),
}

/// Which cluster is spoken of.
#[derive(Clone, Debug, clap::Args)]
pub struct ClusterArguments {
    /// A kubeconfig [default: KUBECONFIG, the pod's ServiceAccount, ~/.kube/config].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace of Deckhouse's objects.
    #[arg(long, value_name = "NAME", default_value = "d8-system")]
    pub namespace: String,
}

/// Flags of `switch finish`.
#[derive(Clone, Debug, clap::Args)]
pub struct FinishArguments {
    /// That what is missing afterwards is accepted; condition CleanupNodeServices or CleanupInClusterProxy lists it.
    #[arg(long, required = true)]
    pub accept_missing: bool,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

/// Flags of `switch source`.
#[derive(Clone, Debug, clap::Args)]
pub struct SourceArguments {
    /// manual or moduleconfig.
    #[arg(value_name = "SOURCE", value_parser = source())]
    pub source: InputSource,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

fn source() -> impl clap::builder::TypedValueParser<Value = InputSource> {
    use clap::builder::TypedValueParser as _;
    let words = [InputSource::Manual.as_str(), InputSource::ModuleConfig.as_str()];
    clap::builder::PossibleValuesParser::new(words)
        .map(|word| if word == InputSource::Manual.as_str() { InputSource::Manual } else { InputSource::ModuleConfig })
}

/// Does what is asked.
pub(super) fn run(command: SwitchCommand) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match command {
        SwitchCommand::Mode(arguments) => runtime.block_on(Box::pin(mode::run(*arguments))),
        SwitchCommand::Upstream(arguments) => runtime.block_on(Box::pin(upstream::run(*arguments))),
        SwitchCommand::Status(arguments) => runtime.block_on(Box::pin(status::run(&arguments))),
        SwitchCommand::Finish(arguments) => {
            runtime.block_on(Box::pin(say(&arguments.cluster, Word::FinishAcceptMissing)))
        }
        SwitchCommand::Source(arguments) => {
            runtime.block_on(Box::pin(say(&arguments.cluster, Word::Source(arguments.source))))
        }
    }
}

/// Leaves a word for the controller, which takes it away once it has heard it.
async fn say(arguments: &ClusterArguments, word: Word) -> Result<(), Failure> {
    let cluster = connect(arguments).await?;
    let record = record(&cluster).await?;
    leave_word(&cluster, &record, word).await?;
    writeln!(io::stdout(), "The controller is told. See: d8-registry switch status")?;
    Ok(())
}

/// The Secret with what the controller remembers.
async fn record(cluster: &Cluster) -> Result<StoredSecret, Failure> {
    read(cluster, names::RECORD).await?.ok_or_else(|| {
        failure(format!(
            "there is no Secret {} in {}: no controller has run there yet",
            names::RECORD,
            cluster.namespace()
        ))
    })
}

async fn leave_word(cluster: &Cluster, record: &StoredSecret, word: Word) -> Result<(), Failure> {
    let word = Some(word.as_str().to_owned());
    let annotations = Changes::from([(words::WORD_ANNOTATION.to_owned(), word)]);
    let change = SecretChange { annotations, ..SecretChange::default() };
    change_secret(cluster, record, change).await
}

async fn connect(arguments: &ClusterArguments) -> Result<Cluster, Failure> {
    connect_as(arguments, None).await
}

/// The same as another user.
async fn connect_as(arguments: &ClusterArguments, acting_as: Option<&str>) -> Result<Cluster, Failure> {
    let access = Access {
        kubeconfig: arguments.kubeconfig.clone(),
        context: arguments.context.clone(),
        acting_as: acting_as.map(str::to_owned),
    };
    Cluster::connect(&access, &arguments.namespace).await.map_err(|error| Failure::usage(with_causes(&error)))
}

async fn read(cluster: &Cluster, name: &str) -> Result<Option<StoredSecret>, Failure> {
    cluster.secret(name).await.map_err(|error| failed(name, &error))
}

async fn change_secret(cluster: &Cluster, secret: &StoredSecret, change: SecretChange) -> Result<(), Failure> {
    match cluster.change_secret(&secret.name, &secret.version, change).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_conflict() => Err(changed_meanwhile(&secret.name)),
        Err(error) => Err(failed(&secret.name, &error)),
    }
}

fn changed_meanwhile(name: &str) -> Failure {
    failure(format!("Secret {name} was changed by somebody else at the same time; try again"))
}

fn failed(name: &str, error: &ClusterError) -> Failure {
    failure(format!("Secret {name}: {}", with_causes(error)))
}

fn failure(message: String) -> Failure {
    Failure { exit: super::EXIT_FAILED, message }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Arguments;
    use crate::switch::Settings;
    use crate::switch::inputs;

    const DOCUMENT: &str = include_str!("../../../docs/SWITCHING.md");

    /// The blocks of a language, without their indentation.
    fn blocks(language: &str) -> Vec<String> {
        let mut blocks = Vec::new();
        let mut block: Option<(usize, String)> = None;
        for line in DOCUMENT.lines() {
            let text = line.trim_start();
            let indent = line.len() - text.len();
            match &mut block {
                None if text == format!("```{language}") => block = Some((indent, String::new())),
                None => {}
                Some(_) if text == "```" => blocks.extend(block.take().map(|(_, text)| text)),
                Some((indent, lines)) => {
                    lines.push_str(line.get(*indent..).unwrap_or_default());
                    lines.push('\n');
                }
            }
        }
        blocks
    }

    #[test]
    fn every_command_of_the_document_is_one() {
        let blocks = blocks("bash");
        let lines = blocks.iter().flat_map(|block| block.lines()).filter(|line| line.starts_with("d8-registry "));
        let mut count = 0;
        for line in lines {
            Arguments::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"));
            count += 1;
        }
        assert!(count > 12, "{count}");
    }

    #[test]
    fn every_manifest_of_the_document_is_valid() {
        // Those of other kinds are for Deckhouse.
        let mut manifests = blocks("yaml");
        manifests.retain(|text| text.contains("kind: ModuleConfig\n"));
        let read = |text: &String| {
            let manifest: serde_json::Value = serde_saphyr::from_str(text).unwrap();
            inputs::read_module_config(manifest.pointer("/spec/settings/registry")).settings.unwrap()
        };
        let read: Vec<Settings> = manifests.iter().map(read).collect();
        let modes: Vec<_> = read.iter().map(|settings| settings.params.target().as_str()).collect();
        assert_eq!(modes, ["Direct", "Proxy", "Local", "Unmanaged"]);
    }
}
