//! `store`: what a store holds for modes that are not in force.

use std::io::{self, Write as _};
use std::path::Path;

use clap::Subcommand;
use clap::builder::TypedValueParser as _;
use serde_json::Value;

use super::admin::ask_if_there;
use super::{Failure, StoreArguments};
use crate::config::{Config, FoundModeFile, ModeFile, ModeSpec, Overrides};
use crate::store;
use crate::values::{Mode, StoringMode};

/// What can be done with a store's data.
#[derive(Clone, Debug, Subcommand)]
pub enum StoreCommand {
    /// Remove all that a mode stored which is not in force. Refused while a switch is not over. The running server does it, or
    /// this process where none runs. Killed in between, it is ordered again.
    #[command(
        after_help = "/status says under `unused` how much it frees. On a stopped store --config is needed: its mode, or the mode file\n\
        that it names and the one that was in force.\n\nExamples:\n  \
        d8-registry store drop Proxy --dry-run --data-dir /data\n  d8-registry store drop Local --data-dir /data"
    )]
    Drop(DropArguments),
}

/// Flags of `store drop`.
#[derive(Clone, Debug, clap::Args)]
pub struct DropArguments {
    /// Whose data: what clients pushed (Local), or what upstreams taught (Proxy).
    #[arg(value_name = "MODE", ignore_case = true, value_parser = mode())]
    pub mode: StoringMode,
    /// Say what would go now, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Where the store is.
    #[command(flatten)]
    pub store: StoreArguments,
}

fn mode() -> impl clap::builder::TypedValueParser<Value = StoringMode> {
    clap::builder::PossibleValuesParser::new(StoringMode::ALL.map(StoringMode::as_str)).try_map(|name| name.parse())
}

pub(super) fn run(command: &StoreCommand) -> Result<(), Failure> {
    let StoreCommand::Drop(arguments) = command;
    let folder = arguments.store.dir()?;
    let method = if arguments.dry_run { "GET" } else { "POST" };
    let answer = match ask_if_there(&folder, method, &format!("/store/drop/{}", arguments.mode))? {
        Some(text) => serde_json::from_str(&text).map_err(|error| Failure::failed(&error))?,
        None => by_hand(&folder, arguments)?,
    };
    let mut out = io::stdout().lock();
    if arguments.json {
        writeln!(out, "{answer:#}")?;
    } else {
        report(&answer, &mut out)?;
    }
    out.flush()?;
    match answer["left"].as_str() {
        None => Ok(()),
        Some("used") => Err(failed(format!("mode {} is used again: the rest of its data stays", arguments.mode))),
        Some(_) => Err(failed("the server ended before all was dropped: order it again".to_owned())),
    }
}

/// In a store that no server has.
fn by_hand(folder: &Path, arguments: &DropArguments) -> Result<Value, Failure> {
    let mode = arguments.mode;
    let configured = Configured::read(&arguments.store)?;
    let mut why = None;
    let dropped = store::drop_stopped(folder, mode, arguments.dry_run, |kept| {
        why = configured.refusal(kept, mode);
        why.is_some()
    })?;
    match (dropped, why) {
        (Some(dropped), _) => Ok(dropped.to_json(mode, arguments.dry_run)),
        (None, why) => Err(failed(why.unwrap_or_default())),
    }
}

/// What the configuration says of modes.
pub(super) enum Configured {
    /// There is no configuration.
    Nothing,
    /// By its keys, and no mode file counts whatever was kept of one.
    Keys(Mode),
    /// By a mode file that is not there: by the one that was kept, and without one by this key.
    NoFile(Mode),
    /// By the mode file that it names.
    File(std::sync::Arc<ModeFile>),
    /// Of a mode file that can't be read.
    Wrong(String),
}

impl Configured {
    /// As the configuration of a stopped store has it. Blocking.
    pub(super) fn read(arguments: &StoreArguments) -> Result<Self, Failure> {
        let config = arguments.config.as_deref().map(|file| {
            let overrides = Overrides { data_dir: arguments.data_dir.clone(), ..Overrides::default() };
            Config::load(Some(file), &overrides)
        });
        Ok(Self::of(config.transpose()?.as_ref()))
    }

    /// Whether nothing of Local is collected in a store whose server kept this mode file: another mode than Local is in force,
    /// is coming or not over, or may be.
    pub(super) fn holds_collection(&self, kept: Option<&[u8]>) -> bool {
        // One that can't be read says that a switch may be under way.
        let kept = kept.map(|bytes| ModeFile::parse(bytes).is_ok_and(|file| file.is_local_alone()));
        let is_local = match self {
            Self::Nothing => kept.unwrap_or(true),
            Self::Keys(mode) => *mode == Mode::Local && kept.unwrap_or(true),
            Self::NoFile(mode) => kept.unwrap_or(*mode == Mode::Local),
            Self::File(file) => file.is_local_alone() && kept.unwrap_or(true),
            Self::Wrong(_) => kept.unwrap_or(false),
        };
        !is_local
    }

    fn of(config: Option<&Config>) -> Self {
        match config.map(|config| (config.mode, config.mode_file.as_ref().map(|key| &key.found))) {
            None => Self::Nothing,
            Some((_, Some(FoundModeFile::Read(file)))) => Self::File(file.clone()),
            Some((_, Some(FoundModeFile::Wrong(why)))) => Self::Wrong(why.clone()),
            Some((mode, Some(FoundModeFile::Absent))) => Self::NoFile(mode),
            Some((mode, None)) => Self::Keys(mode),
        }
    }

    /// Why the data of `mode` stays in a store whose server kept this mode file; `None`: it may go.
    fn refusal(&self, kept: Option<&[u8]>, mode: StoringMode) -> Option<String> {
        let used = || Some(crate::admin::DropError::Used(mode).to_string());
        let names = |file: &ModeFile| {
            let is_settled = file.coming.is_none() && file.previous().is_empty();
            !is_settled || file.modes().filter_map(ModeSpec::storing).any(|storing| storing == mode)
        };
        let unreadable = |why: &str| Some(format!("which modes there are is not known: {why}"));
        let kept = match kept.map(ModeFile::parse) {
            Some(Err(error)) => return unreadable(&format!("the mode file that was in force can't be read: {error}")),
            Some(Ok(file)) => Some(file),
            None => None,
        };
        if kept.as_ref().is_some_and(names) {
            return used();
        }
        match (self, kept) {
            (Self::File(file), _) if names(file) => used(),
            (Self::Wrong(why), None) => unreadable(why),
            (Self::Keys(keys), _) | (Self::NoFile(keys), None) if keys.as_str() == mode.as_str() => used(),
            // A mode file may have been kept from times when one counted.
            (Self::Nothing, _) => unreadable("name the configuration with --config"),
            (Self::Keys(_) | Self::NoFile(_) | Self::File(_) | Self::Wrong(_), _) => None,
        }
    }
}

fn failed(message: String) -> Failure {
    Failure { exit: super::EXIT_FAILED, message }
}

fn report(answer: &Value, out: &mut impl io::Write) -> io::Result<()> {
    let verb = if answer["dryRun"] == true { "would go" } else { "gone" };
    let at_least = if answer["atLeast"] == true { "at least " } else { "" };
    writeln!(
        out,
        "{verb}: {at_least}{} repositories, {} contents that nothing else has, {} bytes",
        answer["repositories"], answer["contents"], answer["bytes"]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPSTREAM: &str = "upstream: {imagesRepo: a.example}";

    fn file(text: &str) -> Vec<u8> {
        format!("{{version: 1, generation: 1, {text}}}").into_bytes()
    }

    #[test]
    fn on_a_stopped_store_nothing_is_collected_where_another_mode_than_local_may_be_in_force() {
        let local = file("inForce: {mode: Local}");
        let proxy = file(&format!("inForce: {{mode: Proxy, {UPSTREAM}}}"));
        let local_comes =
            file(&format!("inForce: {{mode: Proxy, {UPSTREAM}}}, coming: {{mode: Local, phase: filling}}"));
        let on_disk = |bytes: &[u8]| Configured::File(std::sync::Arc::new(ModeFile::parse(bytes).unwrap()));
        for (place, (configured, kept, holds)) in [
            (Configured::Nothing, None, false),
            (Configured::Nothing, Some(&local), false),
            (Configured::Nothing, Some(&proxy), true),
            (Configured::Nothing, Some(&b"version: ".to_vec()), true),
            (Configured::Keys(Mode::Local), None, false),
            (Configured::Keys(Mode::Local), Some(&proxy), true),
            (Configured::Keys(Mode::Proxy), None, true),
            (Configured::Keys(Mode::Direct), Some(&local), true),
            (Configured::NoFile(Mode::Local), None, false),
            (Configured::NoFile(Mode::Proxy), None, true),
            (Configured::NoFile(Mode::Proxy), Some(&local), false),
            (Configured::NoFile(Mode::Local), Some(&local_comes), true),
            (on_disk(&local), None, false),
            (on_disk(&local_comes), Some(&local), true),
            (on_disk(&local), Some(&local_comes), true),
            (Configured::Wrong("x".to_owned()), None, true),
            (Configured::Wrong("x".to_owned()), Some(&local), false),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(configured.holds_collection(kept.map(Vec::as_slice)), holds, "{place}");
        }
    }

    #[test]
    fn on_a_stopped_store_data_goes_only_where_it_is_known_that_no_mode_uses_it() {
        let (local, proxy) = (StoringMode::Local, StoringMode::Proxy);
        let proxy_alone = file(&format!("inForce: {{mode: Proxy, {UPSTREAM}}}"));
        let local_comes =
            file(&format!("inForce: {{mode: Proxy, {UPSTREAM}}}, coming: {{mode: Local, phase: filling}}"));
        let local_was = file(&format!("inForce: {{mode: Direct, {UPSTREAM}}}, previous: [{{mode: Local}}]"));
        let unmanaged = file("inForce: {mode: Unmanaged}");
        let on_disk = |bytes: &[u8]| Configured::File(std::sync::Arc::new(ModeFile::parse(bytes).unwrap()));
        for (configured, kept, dropped, may) in [
            (Configured::Nothing, None, local, false),
            (Configured::Nothing, Some(&proxy_alone), local, false),
            (Configured::NoFile(Mode::Local), Some(&proxy_alone), local, true),
            (Configured::Nothing, Some(&proxy_alone), proxy, false),
            (Configured::Nothing, Some(&local_comes), local, false),
            (Configured::Nothing, Some(&local_was), local, false),
            (Configured::Nothing, Some(&local_was), proxy, false),
            (Configured::Nothing, Some(&unmanaged), local, false),
            (Configured::NoFile(Mode::Direct), Some(&unmanaged), local, true),
            (Configured::NoFile(Mode::Local), None, local, false),
            (Configured::NoFile(Mode::Local), None, proxy, true),
            (Configured::Nothing, Some(&b"version: ".to_vec()), local, false),
            (Configured::Keys(Mode::Local), None, local, false),
            (Configured::Keys(Mode::Local), None, proxy, true),
            (Configured::Keys(Mode::Direct), None, local, true),
            // A server whose configuration names no mode file goes by its keys; what was kept is of another time.
            (Configured::Keys(Mode::Local), Some(&proxy_alone), local, false),
            (Configured::Keys(Mode::Local), Some(&proxy_alone), proxy, false),
            (Configured::Keys(Mode::Direct), Some(&proxy_alone), local, true),
            // The one on disk comes into force at the next start.
            (on_disk(&local_comes), Some(&proxy_alone), local, false),
            (on_disk(&proxy_alone), None, local, true),
            (Configured::Wrong("x".to_owned()), None, local, false),
            (Configured::Wrong("x".to_owned()), Some(&proxy_alone), local, true),
        ] {
            let refusal = configured.refusal(kept.map(Vec::as_slice), dropped);
            assert_eq!(
                refusal.is_none(),
                may,
                "{dropped} {:?}: {refusal:?}",
                kept.map(|kept| String::from_utf8_lossy(kept))
            );
        }
    }
}
