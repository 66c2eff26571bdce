//! `pki issue`: says what was made, or that nothing had to be.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use clap::Subcommand;

use super::Failure;
use crate::clock;
use crate::cluster::Access;
use crate::issuer::{self, IssuerError, Kept};
use crate::pki::{self, ClientUri, Order, PkiError, San, Subject};
use crate::telemetry::with_causes;

/// What can be made.
#[derive(Clone, Debug, Subcommand)]
pub enum PkiCommand {
    /// A certificate for a master, or with --uri for a program that proves by it who it is, signed by the cluster's
    /// authority. One that fits is left as it is: it is made anew only when names or chain no longer fit or less than a third
    /// of its life is left, so run this at every start.
    #[command(
        after_help = "Examples:\n  d8-registry pki issue --ca-cert ca.crt --ca-key ca.key --san 10.0.0.1 --out /etc/d8-registry/pki\n  \
        The same, and beside it the one for other masters:\n    d8-registry pki issue --ca-cert ca.crt --ca-key ca.key --san 10.0.0.1 \\\n      \
        --peer --out /etc/d8-registry/pki\n  \
        The controller's, kept in a Secret for as long as this runs:\n    d8-registry pki issue --ca-cert ca.crt \\\n      \
        --ca-key ca.key --uri d8-registry:controller --days 90 --secret d8-registry-controller-tls"
    )]
    Issue(IssueArguments),
}

/// Flags of `pki issue`.
#[derive(Clone, Debug, clap::Args)]
pub struct IssueArguments {
    /// PEM of the authority's certificate, and of those above it if it is no root.
    #[arg(long, value_name = "FILE")]
    pub ca_cert: PathBuf,
    /// PEM of the authority's key.
    #[arg(long, value_name = "FILE")]
    pub ca_key: PathBuf,
    /// Addresses and names of the master, also separated by commas, beside 127.0.0.1, ::1, localhost and registry.d8-system.svc.
    #[arg(long, value_name = "NAME", required_unless_present = "uri", num_args = 1.., value_delimiter = ',')]
    pub san: Vec<San>,
    /// Beside it, in the same folder, peer.crt and peer.key: the certificate that the master shows to other masters, whose names
    /// are those of --san and the URI d8-registry:peer.
    #[arg(long, conflicts_with_all = ["uri", "secret"])]
    pub peer: bool,
    /// In place of names of a master: a client's certificate, whose only name is this URI, such as d8-registry:controller.
    #[arg(long, value_name = "URI", conflicts_with = "san")]
    pub uri: Option<ClientUri>,
    /// The folder of tls.crt and tls.key.
    #[arg(long, value_name = "DIR", required_unless_present = "secret", conflicts_with = "secret")]
    pub out: Option<PathBuf>,
    /// In place of a folder: an existing Secret, in which tls.crt, tls.key and ca.crt are kept until SIGTERM. The API server
    /// is that of KUBECONFIG, in a pod that of its ServiceAccount.
    #[arg(long, value_name = "NAME")]
    pub secret: Option<String>,
    /// The Secret's namespace.
    #[arg(long, value_name = "NAME", default_value = "d8-system", requires = "secret")]
    pub namespace: String,
    /// With --secret: the ConfigMap that has to have the authority's certificate under ca.crt. One that has been missing for
    /// --publish-after is made, with --once at once; one that is there is never changed.
    #[arg(long, value_name = "NAME", requires = "secret")]
    pub publish_ca: Option<String>,
    /// How long the ConfigMap has to be missing: longer than kubelets need to mount a Secret that was replaced.
    #[arg(long, value_name = "SPAN", default_value = "3m", value_parser = humantime::parse_duration, requires = "publish_ca")]
    pub publish_after: Duration,
    /// With --secret: end when it is done once.
    #[arg(long, requires = "secret")]
    pub once: bool,
    /// The longest life in days [default: until an hour before the authority's end].
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    pub days: Option<u32>,
}

pub(super) fn run(command: PkiCommand) -> Result<(), Failure> {
    let PkiCommand::Issue(arguments) = command;
    issue(arguments)
}

/// Makes a certificate where one is needed.
fn issue(arguments: IssueArguments) -> Result<(), Failure> {
    let IssueArguments {
        ca_cert,
        ca_key,
        san,
        peer,
        uri,
        out,
        secret,
        namespace,
        publish_ca,
        publish_after,
        once,
        days,
    } = arguments;
    let peer = peer.then(|| Subject::Peer(san.clone()));
    let subject = uri.map_or(Subject::Server(san), Subject::Client);
    let life = days.map(|days| Duration::from_secs(u64::from(days) * 24 * 3600));
    if let Some(secret) = secret {
        let order = issuer::Order { ca_cert, ca_key, subject, life, secret, publish: publish_ca, publish_after };
        let access = Access::default();
        if !once {
            return Ok(issuer::keep(&access, &namespace, &order)?);
        }
        let name = format!("Secret {}", order.secret);
        return match issuer::issue(&access, &namespace, &order)? {
            Kept::Issued { reason, not_after } => say(&name, not_after, Some(&reason)),
            Kept::Fits { not_after } => say(&name, not_after, None),
        };
    }
    // clap has seen to it that there is one of the two.
    let out = out.unwrap_or_default();
    for subject in std::iter::once(subject).chain(peer) {
        let (ca_cert, ca_key, out) = (ca_cert.clone(), ca_key.clone(), out.clone());
        let issued = pki::issue(&Order { ca_cert, ca_key, subject, out, life }, clock::now())?;
        say(&issued.certificate.display().to_string(), issued.not_after, issued.reason.as_deref())?;
    }
    Ok(())
}

fn say(place: &str, not_after: u64, reason: Option<&str>) -> Result<(), Failure> {
    let end = UNIX_EPOCH.checked_add(Duration::from_secs(not_after));
    let end = end.map(|end| humantime::format_rfc3339_seconds(end).to_string()).unwrap_or_default();
    let mut out = io::stdout();
    match reason {
        Some(reason) => writeln!(out, "{place} is issued until {end}: {reason}")?,
        None => writeln!(out, "{place} still fits, until {end}; nothing changed")?,
    }
    Ok(())
}

impl From<IssuerError> for Failure {
    fn from(error: IssuerError) -> Self {
        match error {
            IssuerError::Pki(error) => error.into(),
            error => Self::failed(&error),
        }
    }
}

impl From<PkiError> for Failure {
    fn from(error: PkiError) -> Self {
        if error.is_usage() { Self::usage(with_causes(&error)) } else { Self::failed(&error) }
    }
}
