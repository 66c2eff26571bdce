//! The command line: a contract, others script against it.
//!
//! Exit codes: 0 done, 1 failed while running or found something wrong, 2 wrong usage or configuration.
//!
//! Each subcommand is a file of its name: its flags, and `run`. A new one is that file, and here its variant of [`Command`]
//! with the help, and its line in `execute`.

mod admin;
mod bundle;
mod check;
mod completions;
mod controller;
#[cfg(test)]
mod documents;
mod export;
mod gc;
mod hash_password;
mod import;
mod index;
mod init;
mod node_agent;
mod node_config;
mod node_proxy;
mod own_folder;
mod pki;
mod prefetch;
mod retention;
mod schema;
mod scrub;
mod serve;
mod snapshot;
mod static_pod;
mod store;
mod switch;
mod verify;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

pub use self::admin::AdminCommand;
pub use self::bundle::{BundleArguments, BundleCommand, BundleImportArguments, BundlePullArguments};
pub use self::check::CheckArguments;
pub use self::completions::CompletionsArguments;
pub use self::controller::ControllerArguments;
pub use self::export::ExportArguments;
pub use self::gc::GcArguments;
pub use self::hash_password::HashPasswordArguments;
pub use self::import::ImportArguments;
pub use self::index::IndexCommand;
pub use self::init::StoreArguments;
pub use self::node_agent::NodeAgentArguments;
pub use self::node_config::NodeConfigArguments;
pub use self::node_proxy::NodeProxyArguments;
pub use self::own_folder::OwnFolderArguments;
pub use self::pki::{IssueArguments, PkiCommand};
pub use self::prefetch::PrefetchArguments;
pub use self::retention::{PreviewArguments, RetentionCommand};
pub use self::scrub::ScrubArguments;
pub use self::serve::ServeArguments;
pub use self::snapshot::SnapshotCommand;
pub use self::static_pod::StaticPodArguments;
pub use self::store::{DropArguments, StoreCommand};
pub use self::switch::SwitchCommand;
pub use self::verify::VerifyArguments;
use crate::config::ConfigError;
use crate::node_files::NodeFilesError;
use crate::server::ServerError;
use crate::store::StoreError;
use crate::telemetry::with_causes;

/// Done.
pub const EXIT_DONE: u8 = 0;
/// Failed while running, or found something wrong.
pub const EXIT_FAILED: u8 = 1;
/// Wrong usage or configuration.
pub const EXIT_USAGE: u8 = 2;
/// Every code the program ends with.
pub const EXIT_CODES: [u8; 3] = [EXIT_DONE, EXIT_FAILED, EXIT_USAGE];

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "d8-registry", version, about = "In-cluster OCI container registry", max_term_width = 100)]
#[command(after_help = "Examples:\n  d8-registry serve\n  d8-registry serve --config /etc/d8-registry/config.yaml\n  \
    printf %s \"$PASSWORD\" | d8-registry hash-password\n\nExit codes: 0 done, 1 failed while running, 2 wrong usage or configuration.")]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the registry.
    #[command(
        after_help = "Examples:\n  An open registry for this machine alone, data in ./data:\n    d8-registry serve\n  \
        A cache before another registry, at system/deckhouse:\n    \
        d8-registry serve --mode proxy --upstream https://registry.example.com/deckhouse/ee\n  \
        Another port and folder:\n    d8-registry serve --listen 127.0.0.1:5000 --data-dir /var/lib/d8-registry\n  \
        Is this configuration right?\n    d8-registry serve --check-config --config config.yaml"
    )]
    Serve(ServeArguments),
    /// Lay out an empty data folder, for a server with store.mustExist.
    #[command(after_help = "Example:\n  d8-registry init --data-dir /var/lib/d8-registry")]
    Init(StoreArguments),
    /// Look after the index of a store that no server uses.
    #[command(after_help = "Example:\n  d8-registry index rebuild --data-dir /var/lib/d8-registry")]
    Index {
        /// What to do with it.
        #[command(subcommand)]
        command: IndexCommand,
    },
    /// Remove what no tag and no manifest reaches from a store of mode Local, or say what would go and why something stays. A
    /// running server is asked over the socket in its data directory, as root or as its user.
    #[command(
        after_help = "What is found the first time waits for gc.grace (24 h in which the server runs) and goes in a later run.\n\n\
        Examples:\n  d8-registry gc --data-dir /var/lib/d8-registry\n  \
        What would go now?\n    d8-registry gc --dry-run --data-dir /var/lib/d8-registry\n  \
        Why is this blob still there?\n    d8-registry gc --why sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )]
    Gc(GcArguments),
    /// Look after what a store holds for modes that are not in force.
    #[command(after_help = "Example:\n  d8-registry store drop Proxy --dry-run --data-dir /data")]
    Store {
        /// What is to be done.
        #[command(subcommand)]
        command: StoreCommand,
    },
    /// Keep what the repositories of mode Local hold now, for a backup or for a way back, and restore it. A running server is asked
    /// over the socket in its data directory, as root or as its user.
    #[command(
        after_help = "A snapshot lies in the data directory and costs no second copy: it keeps the bytes of what is deleted later,\n\
        until it is removed.\n\nExamples:\n  d8-registry snapshot create before-v1.71 --data-dir /var/lib/d8-registry\n  \
        d8-registry snapshot list --data-dir /var/lib/d8-registry\n  \
        What would come back?\n    d8-registry snapshot restore before-v1.71 --dry-run --data-dir /var/lib/d8-registry\n  \
        d8-registry snapshot rm before-v1.71 --data-dir /var/lib/d8-registry"
    )]
    Snapshot {
        /// What is done.
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Look through a store and say what is wrong, what it breaks and what mends it; ends with 0 if nothing is, with 1 if something
    /// is. Changes nothing. A running server is asked over the socket in its data directory, as root or as its user.
    #[command(
        after_help = "Every content is read from the disk and compared with its digest, beside a running server at 64 MiB a second\n\
        at most; with --quick only manifests are.\n\nExamples:\n  d8-registry verify --data-dir /var/lib/d8-registry\n  \
        One repository, without its blobs' bytes:\n    d8-registry verify --quick --repository system/deckhouse\n  \
        For a program:\n    d8-registry verify --json --data-dir /var/lib/d8-registry"
    )]
    Verify(VerifyArguments),
    /// Have a running server read every content from the disk now and compare it with its digest, as scrub.interval does with
    /// time. What is damaged counts as absent; ends with 1 if something was found.
    #[command(after_help = "Example:\n  d8-registry scrub --data-dir /var/lib/d8-registry")]
    Scrub(ScrubArguments),
    /// Take images into a store of mode Local: from the data of another registry (CNCF distribution, Deckhouse's module), from
    /// OCI layouts or from a registry. A running server is asked to do it over the socket in its data directory, as root or as
    /// its user; else the store is taken by this process.
    #[command(
        after_help = "Run again after it was killed, it goes on. What is not whole in the source is named and left out; ends with 1 if\n\
        that is an image with a tag.\n\nExamples:\n  \
        What would come of Deckhouse's module?\n    \
        d8-registry import --from-distribution /opt/deckhouse/registry/local_data --dry-run --data-dir /var/lib/d8-registry\n  \
        Take its files, without a second copy:\n    \
        d8-registry import --from-distribution /opt/deckhouse/registry/local_data --move --data-dir /var/lib/d8-registry\n  \
        A layout, as a repository:\n    d8-registry import --from-oci ./layout --repository system/deckhouse\n  \
        From another registry:\n    \
        d8-registry import --from-registry https://registry.example.com/deckhouse/ee --repository deckhouse/ee=system/deckhouse"
    )]
    Import(ImportArguments),
    /// Copy images out of a store into an OCI layout. The store is only read, beside a running server or without one.
    #[command(after_help = "Examples:\n  d8-registry export --to-oci ./layout --data-dir /var/lib/d8-registry\n  \
        One image, with its signatures:\n    d8-registry export --to-oci ./layout system/deckhouse:v1.70.1\n  \
        Then:\n    skopeo copy oci:layout:system/deckhouse:v1.70.1 docker://registry.example.org/deckhouse:v1.70.1")]
    Export(ExportArguments),
    /// Make the files in which images are carried into a closed network, as `d8 mirror pull` writes them, look at them, take them
    /// into a store: nothing is unpacked.
    #[command(
        after_help = "Examples:\n  What is in it, and is it all there?\n    d8-registry bundle inspect /mnt/usb/bundle\n  \
        Are its bytes whole?\n    d8-registry bundle verify /mnt/usb/bundle\n  \
        Take it into a store:\n    d8-registry bundle import /mnt/usb/bundle --data-dir /var/lib/d8-registry"
    )]
    Bundle {
        /// What is done.
        #[command(subcommand)]
        command: BundleCommand,
    },
    /// Ask which tags the rules of retention remove. A running server is asked over the socket in its data directory, as root or
    /// as its user.
    #[command(after_help = "Example:\n  d8-registry retention preview --data-dir /var/lib/d8-registry")]
    Retention {
        /// What is asked.
        #[command(subcommand)]
        command: RetentionCommand,
    },
    /// Ask a running server, and give it orders, over the socket in its data directory: as root or as its user.
    #[command(after_help = "Example:\n  d8-registry admin jobs --data-dir /var/lib/d8-registry")]
    Admin {
        /// What is asked or ordered.
        #[command(subcommand)]
        command: AdminCommand,
    },
    /// Say whether registries hold what a cluster needs; ends with 0 if they do, with 1 if not.
    #[command(
        after_help = "Examples:\n  d8-registry check --images images_digests.json --ca-file ca.crt --docker-config config.json \\\n    \
        --registry master-1=https://10.0.0.1:5001/system/deckhouse master-2=https://10.0.0.2:5001/system/deckhouse\n  \
        Does a mirror have all that a release needs?\n    \
        d8-registry check --release v1.70.1 --registry https://registry.example.org/deckhouse/ee\n  \
        Does it have what this cluster needs?\n    \
        d8-registry check --from-cluster --registry https://registry.example.org/deckhouse/ee\n  \
        What of a bundle is missing there, and which file has it?\n    \
        d8-registry check --bundle /mnt/usb/bundle --registry https://registry.example.org/system/deckhouse\n  \
        Does the copy have what the original has, with every layer? With --content: are their bytes whole?\n    \
        d8-registry check --from-registry https://registry.example.com/deckhouse/ee \\\n      \
        --registry https://registry.example.org/deckhouse --deep"
    )]
    Check(CheckArguments),
    /// Have a Proxy fetch images into its cache ahead of who will pull them: before an upgrade, or before the upstream is cut off.
    /// Ends with 0 if all of them are there.
    #[command(
        after_help = "What is cached already is not fetched again, so a run that broke off goes on.\n\nExamples:\n  \
        d8-registry prefetch --release v1.71.0 --registry https://10.0.0.1:5001/system/deckhouse \\\n      \
        --username ro --password-file password --ca-file ca.crt --rate 20MB\n  \
        d8-registry prefetch --images images.txt --registry https://10.0.0.1:5001/system/deckhouse --ca-file ca.crt"
    )]
    Prefetch(PrefetchArguments),
    /// Make the certificates that the cluster's authority signs.
    #[command(
        after_help = "Example:\n  d8-registry pki issue --ca-cert ca.crt --ca-key ca.key --san 10.0.0.1 --out /etc/d8-registry/pki"
    )]
    Pki {
        /// What to make.
        #[command(subcommand)]
        command: PkiCommand,
    },
    /// Read a password and print its bcrypt hash, for auth.users and usersDir.
    #[command(
        after_help = "The password is asked for on a terminal, unseen; else it is the first line of standard input.\n\n\
        Examples:\n  d8-registry hash-password\n  printf %s \"$PASSWORD\" | d8-registry hash-password --cost 12"
    )]
    HashPassword(HashPasswordArguments),
    /// Render what this node's containerd needs to pull from the registry: hosts.toml and CA files. Prints the version hash.
    #[command(
        after_help = "The file has the form of Deckhouse's Secret registry-bashible-config, key config, and may say what\n\
        containerd there is: `containerd: {version: v1|v2, extensions: true|false}`; else its configuration and its program
        are looked at. Nothing is written while a file is in\n\
        the way that this command did not write or that was changed since.\n\nExamples:\n  \
        Is anything in the way on this node?\n    d8-registry node-config --config node.yaml --check\n  \
        What would change?\n    d8-registry node-config --config node.yaml --dry-run\n  \
        From a pod that has the node's files at /host:\n    d8-registry node-config --root /host --config node.yaml"
    )]
    NodeConfig(NodeConfigArguments),
    /// Keep containerd's files as a mounted registry-bashible-config says, and tell the Node so, where no bashible does.
    #[command(
        after_help = "A node whose Secret is gone removes the files that it has written if the last Secret was that of a settled\n\
        bare Unmanaged, and puts nothing back; else it goes on by its copy. With the API server away it goes on. containerd's own files are only read.\n\n\
        Example:\n  d8-registry node-agent --root /host --image @sha256:4f1c...0a"
    )]
    NodeAgent(NodeAgentArguments),
    /// Balance the connections of this node over the masters' registries.
    #[command(
        after_help = "TLS is passed through. A backend's scheme, or --backend-tls, says how its health is asked for\n\
        (GET /); the certificate is not verified for that.\n\nExamples:\n  \
        d8-registry node-proxy --listen 127.0.0.1:5001 --backend-tls --backend 10.0.0.1:5001 --backend 10.0.0.2:5001\n  \
        d8-registry node-proxy --listen 127.0.0.1:5001 --listen '[::1]:5001' --backends-file /etc/d8/backends"
    )]
    NodeProxy(NodeProxyArguments),
    /// Switch a cluster's mode: look at the cluster, decide, write, again and again until SIGTERM.
    #[command(after_help = "Several may run: a Lease says which one writes.\n\nExample:\n  \
        d8-registry controller --cert tls.crt --key tls.key --ca ca.crt --metrics-listen 127.0.0.1:5003")]
    Controller(ControllerArguments),
    /// Keep a static pod's manifest on this node, and copies of mounted folders that it needs, until SIGTERM.
    #[command(
        after_help = "A static pod can read no Secrets. What is in the copies and not in their sources is removed.\n\nExample:\n  \
        d8-registry static-pod --owner 64535:64535 --copy /config=/host/etc/kubernetes/d8-registry/config \\\n    \
        --manifest /manifest/pod.yaml=/host/etc/kubernetes/manifests/d8-registry.yaml"
    )]
    StaticPod(StaticPodArguments),
    /// Make a folder if it is missing, and give it and all in it to a user.
    #[command(after_help = "Example:\n  d8-registry own-folder --owner 64535:64535 /data")]
    OwnFolder(OwnFolderArguments),
    /// Switch the mode of a cluster that has the controller, and see how far the switch is.
    #[command(after_help = "Examples:\n  d8-registry switch status\n  d8-registry switch mode Local --dry-run")]
    Switch {
        /// What is asked.
        #[command(subcommand)]
        command: SwitchCommand,
    },
    /// Print the JSON Schema (2020-12) of the configuration file, for editors and checks before a rollout.
    #[command(after_help = "Example:\n  d8-registry schema > d8-registry.schema.json")]
    Schema,
    /// Print completions for a shell.
    #[command(after_help = "Example:\n  d8-registry completions bash > /etc/bash_completion.d/d8-registry")]
    Completions(CompletionsArguments),
}

/// Why a command ended without having done its work.
#[derive(Debug)]
struct Failure {
    exit: u8,
    message: String,
}

impl Failure {
    fn usage(message: impl Into<String>) -> Self {
        Self { exit: EXIT_USAGE, message: message.into() }
    }

    fn failed(error: &dyn std::error::Error) -> Self {
        Self { exit: EXIT_FAILED, message: with_causes(error) }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(with_causes(&error))
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        let exit = if error.is_configuration() { EXIT_USAGE } else { EXIT_FAILED };
        Self { exit, message: with_causes(&error) }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::failed(&error)
    }
}

impl From<NodeFilesError> for Failure {
    fn from(error: NodeFilesError) -> Self {
        Self::failed(&error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::failed(&error)
    }
}

/// Runs what the process's arguments say.
#[must_use]
pub fn run() -> ExitCode {
    crate::sys::signals::let_long_writes_fail();
    // clap prints its own errors and help, and ends with 2 for wrong usage.
    let arguments = Arguments::parse();
    match execute(arguments.command) {
        Ok(()) => ExitCode::from(EXIT_DONE),
        Err(failure) => {
            // Nothing can be done about a closed stderr.
            let _ = writeln!(io::stderr(), "d8-registry: {}", failure.message);
            ExitCode::from(failure.exit)
        }
    }
}

fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Index { command } => index::run(&command),
        Command::Admin { command } => admin::run(&command),
        Command::Gc(arguments) => gc::run(&arguments),
        Command::Store { command } => store::run(&command),
        Command::Snapshot { command } => snapshot::run(&command),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Scrub(arguments) => scrub::run(&arguments),
        Command::Import(arguments) => import::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Bundle { command } => bundle::run(&command),
        Command::Retention { command } => retention::run(&command),
        Command::Check(arguments) => check::run(&arguments),
        Command::Prefetch(arguments) => prefetch::run(&arguments),
        Command::Controller(arguments) => controller::run(arguments),
        Command::Pki { command } => pki::run(command),
        Command::HashPassword(arguments) => hash_password::run(&arguments),
        Command::NodeConfig(arguments) => node_config::run(&arguments),
        Command::NodeAgent(arguments) => node_agent::run(arguments),
        Command::NodeProxy(arguments) => node_proxy::run(arguments),
        Command::StaticPod(arguments) => static_pod::run(arguments),
        Command::OwnFolder(arguments) => own_folder::run(&arguments),
        Command::Switch { command } => switch::run(command),
        Command::Schema => schema::run(),
        Command::Completions(arguments) => {
            completions::run(&arguments);
            Ok(())
        }
    }
}

/// The command line's description, for the test that writes the reference from it.
#[must_use]
pub fn description() -> clap::Command {
    Arguments::command()
}
