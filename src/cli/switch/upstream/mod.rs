//! `switch upstream`: another upstream, or other credentials, for the mode in force; above all where the licence has expired and
//! neither Deckhouse nor the controller can start.
//!
//! # Decisions
//! - The steps are the controller's own: the same rounds under the same Lease (`controller::StandIn`), so a controller that returns
//!   wants the same, and a command that is killed leaves a switch that either of them goes on with.
//! - The input is written before all else; `deckhouse-registry` is last, when nodes and servers have the new upstream beside the old
//!   one. Servers have it before nodes do: nodes of Direct sign in with the upstream's own pair, which a server has to take by then.
//!   Deckhouse itself is not waited for: it is what is down.
//! - Bare Unmanaged has no upstream of ours. What Secret `deckhouse-registry` names is one, and the change makes it an Unmanaged with
//!   a registry: nodes have no other way to a new sign-in while Deckhouse is down.
//! - Nothing is written before the upstream was asked and has every image. A refused sign-in is not tried twice.

mod account;
mod kept;
mod leftovers;
mod progress;
mod wanted;

use std::io::{self, Write as _};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use self::account::Account;
use self::progress::Progress;
use self::wanted::UpstreamParameters;
use super::super::Failure;
use super::mode::{DataChanges, changes, ours, put, wanted as data_of};
use super::settings::Data;
use super::{ClusterArguments, connect, failure, leave_word, read, record};
use crate::clock;
use crate::cluster::{Cluster, ClusterError, StoredSecret};
use crate::controller::{Identity, StandIn, StandInOptions};
use crate::switch::outputs::{names, previous};
use crate::switch::{
    CheckMode, InputSource, Params, ProbeAnswer, Record, RegistryState, Settings, Target, Upstream, Word, inputs,
};
use crate::telemetry::with_causes;
use crate::values::{Scheme, Secret};

/// Flags of `switch upstream`.
#[derive(Clone, Debug, clap::Args)]
pub struct UpstreamArguments {
    /// Which upstream.
    #[command(flatten)]
    pub parameters: UpstreamParameters,
    /// What is done about nodes that are NotReady: wait or skip [default: as it is].
    #[arg(long, value_name = "WORD")]
    pub unready_nodes: Option<String>,
    /// Only ask the upstream, check and show; write nothing.
    #[arg(long, conflicts_with = "commit")]
    pub dry_run: bool,
    /// Go back to what was there before the last change.
    #[arg(long, conflicts_with_all = ["commit", "images_repo", "scheme", "ca_file", "license_file", "username", "password_file", "check_mode", "unready_nodes"])]
    pub undo: bool,
    /// Forget what was there before: there is no way back any more.
    #[arg(long, conflicts_with_all = ["images_repo", "scheme", "ca_file", "license_file", "username", "password_file", "check_mode", "unready_nodes"])]
    pub commit: bool,
    /// How long a controller that has the Lease may move nothing until it is taken over.
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = humantime::parse_duration)]
    pub patience: Duration,
    /// Port of the registry on the masters.
    #[arg(long, value_name = "PORT", default_value_t = 5001)]
    pub registry_port: u16,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
}

pub(super) async fn run(arguments: UpstreamArguments) -> Result<(), Failure> {
    if !arguments.undo && !arguments.commit && arguments.parameters.is_empty() {
        return Err(Failure::usage("say which upstream (--license-file, --images-repo, ...), or --undo or --commit"));
    }
    let own = connect(&arguments.cluster).await?;
    if let Err(error) = own.secret(names::RECORD).await
        && error.is_passing()
    {
        return Err(Box::pin(without_api_server(&arguments, &own, &error)).await);
    }
    if arguments.commit {
        let word = if kept::forget(&own).await? { "is removed: there is no way back any more" } else { "is not there" };
        writeln!(io::stdout(), "Secret {} {word}.", names::PREVIOUS)?;
        return Ok(());
    }
    let there = There::read(&own).await?;
    let change = Change::of(&arguments, &there, &own).await?;
    let account = account::who_writes(&arguments.cluster, &own).await?;
    say_account(&account)?;
    let mut stand_in = stand_in(&arguments, &own, &account, there.certificate.clone())?;
    // The mode has one: `in_force`, or the same mode again.
    if let Some(upstream) = change.settings.params.upstream() {
        try_upstream(&mut stand_in, upstream, change.settings.check_mode).await?;
    }
    if arguments.dry_run {
        let servers = if change.settings.params.target() == Target::Unmanaged {
            String::new()
        } else {
            format!("{}; when every master holds it, ", names::MODE_FILE)
        };
        writeln!(
            io::stdout(),
            "Nothing was written (--dry-run). The order is: {}, {}, {servers}{}; when every node has it, {}.",
            names::PREVIOUS,
            names::CONFIG,
            names::BASHIBLE_CONFIG,
            names::DECKHOUSE_REGISTRY
        )?;
        return Ok(());
    }
    Box::pin(carry_out(&arguments, &own, &there, change, stand_in)).await
}

/// What is in the cluster.
struct There {
    record_secret: StoredSecret,
    record: Record,
    /// Secret `d8-registry-settings`, if there is one; it is ours.
    config: Option<StoredSecret>,
    state: Option<RegistryState>,
    /// Secret `deckhouse-registry`.
    registry: Option<StoredSecret>,
    certificate: Identity,
}

impl There {
    async fn read(own: &Cluster) -> Result<Self, Failure> {
        let config = ours(own).await?;
        let record_secret = record(own).await?;
        if let Some(newer) = Record::newer(&record_secret.data) {
            return Err(failure(format!("Secret {}: {newer}", names::RECORD)));
        }
        let record = Record::read(&record_secret.data)
            .map_err(|why| failure(format!("Secret {} can't be read: {why}", names::RECORD)))?;
        let state = read(own, names::STATE).await?;
        let state = state.and_then(|state| RegistryState::read(&state.data).ok());
        let tls = read(own, names::CONTROLLER_TLS).await?;
        let text = |key: &str| Secret::new(tls.as_ref().and_then(|tls| tls.text(key)).unwrap_or_default().to_owned());
        let certificate = Identity::Texts { cert: text("tls.crt"), key: text("tls.key"), ca: text("ca.crt") };
        if tls.is_none() && record.target.is_managed() {
            return Err(failure(format!(
                "there is no Secret {} in {}, with which the servers are asked; d8-registry-node writes it on the masters",
                names::CONTROLLER_TLS,
                own.namespace()
            )));
        }
        let registry = read(own, names::DECKHOUSE_REGISTRY).await?;
        Ok(Self { record_secret, record, config, state, registry, certificate })
    }
}

/// What is to change.
struct Change {
    /// What is in force.
    before: Params,
    settings: Settings,
    /// Of Secret `d8-registry-settings`.
    new: Data,
    changes: DataChanges,
    /// What is kept, where that is what is wanted again.
    undone: Option<StoredSecret>,
}

impl Change {
    /// Finds it out and shows it.
    async fn of(arguments: &UpstreamArguments, there: &There, own: &Cluster) -> Result<Self, Failure> {
        let before = wanted::in_force(&there.record, there.registry.as_ref().map(|secret| &secret.data))
            .map_err(|why| failure(format!("nothing was changed: {why}")))?;
        let params = &before;
        let check_mode = there.record.settings.as_ref().map_or(CheckMode::Default, |settings| settings.check_mode);
        let nothing = Data::new();
        let old = there.config.as_ref().map_or(&nothing, |secret| &secret.data);
        let (settings, warnings, options, undone) = if arguments.undo {
            let (found, settings) = kept::kept(own).await?;
            (settings, Vec::new(), found.data.clone(), Some(found))
        } else {
            let (settings, warnings) = arguments.parameters.over(params, check_mode)?;
            (settings, warnings, old.clone(), None)
        };
        for warning in &warnings {
            writeln!(io::stderr(), "d8-registry: warning: {warning}")?;
        }
        if settings.params.target() != params.target() {
            return Err(failure(format!(
                "nothing was changed: the mode is {}, and what was kept is of mode {}; a mode is changed by `d8-registry switch mode`",
                params.target(),
                settings.params.target()
            )));
        }
        let new = data_of(&settings, &[("switch.unreadyNodes", &arguments.unready_nodes)], &options);
        // The options of before are read again with the rest: one that is wrong would make all of it invalid.
        inputs::read_secret(&new).0.settings.map_err(|problems| super::settings::wrong(&problems))?;
        let mut out = io::stdout();
        let changes = changes(old, &new);
        writeln!(out, "Mode {} stays. Secret {}:", params.target(), names::CONFIG)?;
        write!(out, "{changes}")?;
        if changes.is_empty() {
            writeln!(out, "  (nothing changes)")?;
        }
        Ok(Self { before, settings, new, changes, undone })
    }
}

fn say_account(account: &Account) -> Result<(), Failure> {
    if let Some(acting) = &account.acting_as {
        writeln!(
            io::stdout(),
            "Deckhouse's objects are written as {}, because otherwise: {}. No policy is changed.",
            acting.user,
            acting.because
        )?;
    }
    Ok(())
}

fn stand_in(
    arguments: &UpstreamArguments,
    own: &Cluster,
    account: &Account,
    certificate: Identity,
) -> Result<StandIn, Failure> {
    StandIn::new(StandInOptions {
        reader: own.clone(),
        writer: account.cluster.clone(),
        identity: format!("switch-upstream_{}_{}", std::process::id(), clock::now().as_millis()),
        registry_port: arguments.registry_port,
        certificate,
    })
    .map_err(|error| Failure::failed(&error))
}

/// Asks the upstream, then looks for the images.
async fn try_upstream(stand_in: &mut StandIn, upstream: &Upstream, check_mode: CheckMode) -> Result<(), Failure> {
    let mut out = io::stdout();
    let repo = &upstream.images_repo;
    let sentence = probed(repo, &stand_in.probe(upstream).await);
    writeln!(out, "{}", sentence.map_err(|why| failure(format!("nothing was changed: {why}")))?)?;
    writeln!(out, "Looking for the images of the release that runs; their list may have to be read first.")?;
    match stand_in.find_images(upstream, check_mode).await {
        Ok(message) => write!(out, "{message}")?,
        Err(message) => {
            return Err(failure(format!("nothing was changed: {repo} has not every image\n{}", message.trim_end())));
        }
    }
    Ok(())
}

/// The answer of an upstream in words; `Err`: it can't be used.
fn probed(repo: &str, answer: &ProbeAnswer) -> Result<String, String> {
    match answer {
        ProbeAnswer::Good => Ok(format!("{repo} answers and takes the credentials.")),
        ProbeAnswer::Refused(why) => Err(format!("{repo} refuses the credentials: {why}")),
        ProbeAnswer::ImagesNotThere(why) => Err(format!("{repo} has no images of Deckhouse: {why}")),
        ProbeAnswer::Unreachable(why) => Err(format!(
            "{repo} is unreachable: {why}. Where the way to it is a corporate proxy, set HTTPS_PROXY as the chart's httpProxy has it"
        )),
    }
}

/// Everything that can still be told where no API server answers.
async fn without_api_server(arguments: &UpstreamArguments, own: &Cluster, error: &ClusterError) -> Failure {
    let mut message = format!(
        "nothing was changed: {}. Nodes, servers and Deckhouse are told of an upstream by Secrets, so without an API server none \
         of them can be: start it first (its own images are on the masters). Pods that run go on, and what masters have stored \
         they serve",
        with_causes(error)
    );
    if let Some(repo) = &arguments.parameters.images_repo {
        let images_repo = repo.trim().trim_end_matches('/').to_owned();
        let params = Params::Direct(Upstream { images_repo, scheme: Scheme::Https, ca: None, login: None });
        let asked = async {
            let (settings, _) = arguments.parameters.over(&params, CheckMode::Default)?;
            let account = Account { cluster: own.clone(), acting_as: None };
            let nobody = Secret::new(String::new());
            let certificate = Identity::Texts { cert: nobody.clone(), key: nobody.clone(), ca: nobody };
            let mut stand_in = stand_in(arguments, own, &account, certificate)?;
            let upstream = settings.params.upstream().cloned();
            let upstream = upstream.ok_or_else(|| failure("there is no upstream".to_owned()))?;
            let sentence = probed(&upstream.images_repo, &stand_in.probe(&upstream).await);
            Ok::<_, Failure>(sentence.unwrap_or_else(|why| why))
        };
        match Box::pin(asked).await {
            Ok(sentence) => message.push_str(&format!("\n{sentence}")),
            Err(failure) => message.push_str(&format!("\n{}", failure.message)),
        }
    }
    failure(message)
}

/// Takes the Lease, writes the input, and does the controller's work or looks on.
async fn carry_out(
    arguments: &UpstreamArguments,
    own: &Cluster,
    there: &There,
    change: Change,
    mut stand_in: StandIn,
) -> Result<(), Failure> {
    let mut out = io::stdout();
    let wanted = change.settings.params.clone();
    writeln!(out, "Asking for the controller's Lease.")?;
    let other = stand_in
        .claim()
        .await
        .map_err(|error| failure(format!("nothing was changed: Lease {}: {}", names::LEASE, with_causes(&error))))?;
    match &other {
        Some(other) => writeln!(out, "{other} has the Lease and renews it: the controller does the work.")?,
        None => writeln!(out, "Nobody else has the Lease.")?,
    }
    let Change { before, undone, changes, new, .. } = change;
    if let Err(failure) = Box::pin(say_what_is_wanted(own, there, &before, undone.is_some(), changes, new)).await {
        // Whether it can be given back or ends by itself: what failed is said.
        let _ = stand_in.give_back().await;
        return Err(failure);
    }
    let conditions = there.state.as_ref().map_or(&[][..], |state| &state.conditions);
    let mut progress = Progress::new(own, other, arguments.patience, conditions);
    // Until here a signal ends the process: nothing has begun that another run, or a controller, does not go on with.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let work = stand_in.start();
    let is_written = tokio::select! {
        written = Box::pin(progress.until_written(&wanted, &work)) => Some(written),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    let has_led = work.leads();
    work.end().await;
    match is_written {
        None => Err(failure(
            "stopped before its end: the same command goes on where it was, and so does a controller that runs"
                .to_owned(),
        )),
        Some(Err(failure)) => Err(failure),
        Some(Ok(())) => Box::pin(finish(own, there, (&before, &wanted), undone.as_ref(), has_led)).await,
    }
}

/// What was there before is kept, then the settings are written, and that they count.
async fn say_what_is_wanted(
    own: &Cluster,
    there: &There,
    before: &Params,
    is_undo: bool,
    changes: DataChanges,
    new: Data,
) -> Result<(), Failure> {
    let wanted = inputs::read_secret(&new).0.settings.ok();
    let is_new = wanted.is_some_and(|wanted| wanted.params != there.record.target);
    if is_new && !is_undo {
        kept::keep(own, &Record { target: before.clone(), ..there.record.clone() }, there.config.as_ref()).await?;
    }
    put(own, there.config.as_ref(), changes, new).await?;
    if there.record.source == Some(InputSource::ModuleConfig) && there.record.source_chosen {
        leave_word(own, &there.record_secret, Word::Source(InputSource::Manual)).await?;
    }
    Ok(())
}

/// What is left to do.
async fn finish(
    own: &Cluster,
    there: &There,
    (before, wanted): (&Params, &Params),
    undone: Option<&StoredSecret>,
    has_led: bool,
) -> Result<(), Failure> {
    let mut out = io::stdout();
    let repo = wanted.upstream().map_or("", |upstream| upstream.images_repo.as_str());
    let servers = if wanted.target() == Target::Unmanaged { "" } else { ", the servers" };
    writeln!(out, "The nodes{servers} and Secret {} have {repo}.", names::DECKHOUSE_REGISTRY)?;
    match undone {
        None => {
            // Where nothing changed since a `--commit` nothing was kept. One that can't be read is no failure of what was done.
            if matches!(read(own, names::PREVIOUS).await, Ok(Some(_))) {
                writeln!(
                    out,
                    "Secret {} has what was there before: d8-registry switch upstream --undo goes back, --commit removes it; it goes \
                     by itself after 7 days.",
                    names::PREVIOUS
                )?;
            }
            if there.record.source == Some(InputSource::ModuleConfig) {
                writeln!(
                    out,
                    "Left to do: ModuleConfig deckhouse was the input and has the values of before; Secret {} is the input now. Give \
                     the ModuleConfig the new ones, then: d8-registry switch source moduleconfig",
                    names::CONFIG
                )?;
            }
        }
        Some(undone) => {
            kept::forget(own).await?;
            if previous::was_of_module_config(&undone.annotations) {
                writeln!(out, "ModuleConfig deckhouse was the input then: d8-registry switch source moduleconfig")?;
            }
        }
    }
    write!(out, "{}", leftovers::of(own, before, wanted, has_led).await)?;
    Ok(())
}
