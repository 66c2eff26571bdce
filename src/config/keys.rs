//! Every key of the file, each defined once: name, default, bounds, whether a running server takes a new value, and its
//! documentation, which is the reference's text and the schema's description.
//!
//! `section!` defines keys that are read alike, `shape!` those that are read by hand (`parse`, `upstream`).

use std::path::PathBuf;
use std::time::Duration;

use super::definition::Change::{Live, Restart};
use super::definition::{Below, Context, Key, KeyInfo, Reader, Value, Written, join, line, section, shape};
use super::error::KeyError;
use super::images_repo::{ImagesRepo, TrustedHost};
use super::one_or_many::OneOrMany;
use super::origin::List;
use super::schema::SectionSchema;
use super::stale_on::StaleOn;
use super::{RetentionRule, TokenSwitch, User};
use crate::clock::CLIENT_PATIENCE;
use crate::values::{
    Acceleration, AccessMode, Address, Alias, Anonymous, Calendar, ConfigDuration, Count, FilePath, Interval, Level,
    LogFormat, MinCopies, MissingReferences, Mode, PasswordHash, Pattern, Reserve, Role, Scheme, Secret, WhenShort,
};

const DAY: Duration = seconds(86_400);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The data directory where none is named.
pub(super) const DEFAULT_DIR: &str = "./data";

/// The name that the cluster's clients pull from.
pub(super) const DEFAULT_REPOSITORY: &str = "system/deckhouse";

pub(super) const MODE: Key<Mode> = Live.is(Mode::Local);

/// Loopback, so that nothing is open by accident.
pub(super) fn listen() -> Key<Vec<Address>> {
    Restart.is(vec![Address::loopback(5001)])
}

pub(super) fn admin_listen() -> Key<Vec<Address>> {
    Restart.is(vec![Address::loopback(5002)])
}

pub(super) fn probe_listen() -> Key<Vec<Address>> {
    Restart.is(Vec::new())
}

fn workers(context: &Context) -> u32 {
    context.machine.cores.clamp(1, 4)
}

fn password_checks(context: &Context) -> u32 {
    (context.machine.cores / 2).clamp(1, 4)
}

fn log_format(context: &Context) -> LogFormat {
    if context.machine.terminal { LogFormat::Text } else { LogFormat::Json }
}

shape! {
    #[derive(Default)]
    File {
        /// `Direct` passes reads through, `Proxy` keeps what it fetched, `Local` stores what is pushed; the word in any
        /// case.
        "mode" mode: Option<Mode> = MODE.info(),
        /// A file with the modes of a switch, which the controller of a cluster writes. While it is there, `mode`, `upstream`
        /// and `proxy.ttl` come from it and the keys of those names are not looked at.
        "modeFile" mode_file: Option<FilePath> = Live.words("none"),
        /// The name under which Direct and Proxy show the upstream. The name and everything below it are mapped, nothing
        /// else.
        "repository" repository: Option<Alias> = Live.value(DEFAULT_REPOSITORY),
        /// In the place of `repository`: several names of the upstream's registry.
        "repositories" repositories: Option<Vec<RawRepository>> = Below::info(),
        /// Address or list of addresses of the registry; loopback, so that nothing is open by accident.
        "listen" listen: Option<OneOrMany<Address>> = listen().info(),
        /// Address or list of addresses of health, status and metrics; plain HTTP without sign-in.
        "adminListen" admin_listen: Option<OneOrMany<Address>> = admin_listen().info(),
        /// Address or list of addresses of `/healthz` and `/readyz` alone, plain HTTP, with 16 connections of its own: a
        /// probe is answered however many connections the other addresses have. The chart's probes ask here.
        "probeListen" probe_listen: Option<OneOrMany<Address>> = probe_listen().info(),
        /// TLS of the registry's addresses. The admin and probe addresses always speak plain HTTP.
        "tls" tls: Option<RawTls> = Below::info(),
        /// The data directory.
        "store" store: Option<RawStore> = Below::info(),
        /// The registry behind this one.
        "upstream" upstream: Option<RawUpstream> = Below::info(),
        /// Mirrors and trusted hosts of registries, whichever of them is the upstream; the mode file knows none.
        "upstreamRoutes" upstream_routes: Option<Vec<RawUpstreamRoute>> = Below::info(),
        /// The cache of mode Proxy.
        "proxy" proxy: Option<RawProxy> = Below::info(),
        /// Users and their rights.
        "auth" auth: Option<RawAuth> = Below::info(),
        /// Manifests.
        "manifests" manifests: Option<RawManifests> = Below::info(),
        /// Collection of what nothing reaches.
        "gc" gc: Option<RawGc> = Below::info(),
        /// The regular look at all that is stored.
        "scrub" scrub: Option<RawScrub> = Below::info(),
        /// Retention: which tags go by rules. It is carried out by each run of the collection (`gc.schedule`), before that.
        "retention" retention: Option<RawRetention> = Below::info(),
        /// Other masters with a Local of their own: what one lacks it fetches from one that has it.
        "replicas" replicas: Option<RawReplicas> = Below::info(),
        /// Bounds of the work.
        "limits" limits: Option<RawLimits> = Below::info(),
        /// The log.
        "log" log: Option<RawLog> = Below::info(),
    }
}

shape! {
    RawRepository {
        /// A clients' name, with everything below it; of the names that fit the longest counts.
        "name" name: Alias = Live.words("none"),
        /// The repository that the name leads to, on the upstream's own host; `upstream.imagesRepo` where absent. Mirrors
        /// are asked for the latter alone.
        "imagesRepo" images_repo: Option<ImagesRepo> = Live.words("none"),
    }
}

section! {
    /// The section `tls` as the file has it.
    pub(super) TlsKeys, RawTls {
        /// PEM of certificate and chain.
        "certFile" cert_file: Option<PathBuf> = Live.is(None),
        /// PEM of its key. A key that does not fit is tried again for 10 s, a swap may be under way.
        "keyFile" key_file: Option<PathBuf> = Live.is(None),
        /// PEM of the authorities of client certificates, which are asked for and never required.
        "clientCAFile" client_ca_file: Option<PathBuf> = Live.is(None),
        /// Common or alternative names of the clients whose `X-Forwarded-*` and `X-Request-Id` count.
        "trustedProxyNames" trusted_proxy_names: Vec<String> = Live.is(Vec::new()),
        /// PEM of the authorities under which the controller's certificate is known by its URI `d8-registry:controller`; it
        /// alone is answered at `/-/state`.
        "controllerCAFile" controller_ca_file: Option<PathBuf> = Live.is(None),
        /// `true` allows users without TLS on other addresses than loopback.
        "disabled" disabled: bool = Restart.is(false),
    }
}

section! {
    /// The data directory.
    pub StoreSettings, RawStore {
        /// The data directory.
        "dir" dir: PathBuf = Restart.is(PathBuf::from(DEFAULT_DIR)),
        /// Budget of blobs, uploads and index together; `0` is none, else at least `1MiB`.
        "maxBytes" max_bytes: Option<u64> = Live.is(None),
        /// Space of the file system that every write leaves free, in bytes or percent; the kubelet begins to evict below
        /// 15%.
        "reserveBytes" reserve: Reserve = Live.is(Reserve::Percent(15)),
        /// `true` refuses a directory that is no store: the disk may not be mounted.
        "mustExist" must_exist: bool = Restart.is(false),
        /// A file that names the releases and images that a cluster runs, and when it was written. What it names stays,
        /// whatever a rule says. While it is missing, empty, unreadable or older than 24 h nothing is collected and no rule of
        /// retention removes anything. The controller writes it.
        "pins" pins: Option<PathBuf> = Live.is(None),
        /// A file of the same form that names what this store has to hold whole. Status and metrics say whether it does, and what
        /// is missing. How old the file is does not count.
        "expected" expected: Option<PathBuf> = Live.is(None),
    }
}

section! {
    /// Other masters with a Local of their own. All four files or none.
    pub ReplicasSettings, RawReplicas {
        /// The file that lists the masters' servers, this one too: the one that node-proxy reads. A list that can't be used
        /// leaves the one before in force.
        "peers" peers: Option<PathBuf> = Live.is(None),
        /// PEM of the certificate by which the others know this master: its addresses, one of them as the list has it, and
        /// the URI `d8-registry:peer`.
        "certificate" certificate: Option<PathBuf> = Live.is(None),
        /// PEM of its key.
        "key" key: Option<PathBuf> = Live.is(None),
        /// PEM of the authority of all masters' certificates, those of their servers too; no other counts between them.
        "ca" ca: Option<PathBuf> = Live.is(None),
        /// On how many masters an image is, with all that it names, before its push is answered: 1 to 8, never more than are
        /// listed, or `all`. 1 is this one alone. The wait lasts while bytes move, and ends after 20 s without.
        "minCopies" min_copies: MinCopies = Live.is(MinCopies::Count(2)),
        /// Where fewer masters take it: `accept` answers 201 with a `Warning`, `refuse` 503.
        "whenShort" when_short: WhenShort = Live.is(WhenShort::Accept),
    }
}

/// The keys of an endpoint, which the upstream and each mirror have. Twice, as serde's `flatten` and `deny_unknown_fields`
/// don't go together.
macro_rules! endpoint {
    ($(#[$attribute:meta])* $name:ident { $($more:tt)* }) => {
        shape! {
            $(#[$attribute])*
            $name {
                /// `host[:port][/path]`, an address of IPv6 in brackets; required in Direct and Proxy. Never this server's
                /// own address.
                "imagesRepo" images_repo: Option<ImagesRepo> = Live.words("none"),
                /// `HTTPS` or `HTTP`.
                "scheme" scheme: Option<Scheme> = Live.is(Scheme::Https).info(),
                /// PEM that is trusted beside the system's roots; not with `HTTP`.
                "ca" ca: Option<String> = Live.words("none"),
                /// The same in a file.
                "caFile" ca_file: Option<FilePath> = Live.words("none"),
                /// Password of the user `license-token`. Of licence, username, `dockerConfigFile` and `secretDir` one can
                /// be given.
                "license" license: Option<Secret> = Live.words("none"),
                /// The same in a file; a new licence in it takes effect within seconds.
                "licenseFile" license_file: Option<FilePath> = Live.words("none"),
                /// User; needs a password.
                "username" username: Option<String> = Live.words("none"),
                /// Password; needs `username`. Never shown.
                "password" password: Option<Secret> = Live.words("none"),
                /// The same in a file; the line end behind it doesn't count.
                "passwordFile" password_file: Option<FilePath> = Live.words("none"),
                /// A `.dockerconfigjson`; the entry of the host of `imagesRepo` counts, none is an error.
                "dockerConfigFile" docker_config_file: Option<FilePath> = Live.words("none"),
                /// Directory of the mounted Secret `registry-config`: `mode`, `imagesRepo`, `username`, `password`, `ttl`,
                /// `scheme`, `ca`. A value that the file has too must be the same, except `mode`, where the file wins.
                "secretDir" secret_dir: Option<FilePath> = Live.words("none"),
                $($more)*
            }
        }
    };
}

endpoint! {
    #[derive(Default)]
    RawUpstream {
        /// Other addresses of the same content, asked in this order; keys as those of the upstream.
        "mirrors" mirrors: Option<Vec<RawEndpoint>> = Below::info(),
        /// `host[:port]` that redirects and token services may lead to, though more internal than the upstream.
        "trustedHosts" trusted_hosts: Option<Vec<TrustedHost>> = Live.words("none"),
    }
}

endpoint! {
    #[derive(Default, PartialEq)]
    RawEndpoint {}
}

shape! {
    RawUpstreamRoute {
        /// `host[:port][/path]` of an upstream. The entry is about this repository and all below it; of those that fit the longest
        /// counts.
        "imagesRepo" images_repo: ImagesRepo = Live.words("none"),
        /// Other addresses of the same content, asked in this order behind `upstream.mirrors`. What is below `imagesRepo` is
        /// asked for below theirs.
        "mirrors" mirrors: Option<Vec<RawEndpoint>> = Below::info(),
        /// As `upstream.trustedHosts`.
        "trustedHosts" trusted_hosts: Option<Vec<TrustedHost>> = Live.words("none"),
    }
}

impl RawUpstream {
    /// Which keys say how the registry is reached, of those that are given.
    pub(super) fn routes_given(&self) -> Vec<&'static str> {
        let given = [("mirrors", self.mirrors.is_some()), ("trustedHosts", self.trusted_hosts.is_some())];
        given.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name).collect()
    }

    /// The endpoint, the mirrors, and the hosts that are trusted.
    pub(super) fn split(self) -> (RawEndpoint, Vec<RawEndpoint>, Vec<TrustedHost>) {
        let endpoint = RawEndpoint {
            images_repo: self.images_repo,
            scheme: self.scheme,
            ca: self.ca,
            ca_file: self.ca_file,
            license: self.license,
            license_file: self.license_file,
            username: self.username,
            password: self.password,
            password_file: self.password_file,
            docker_config_file: self.docker_config_file,
            secret_dir: self.secret_dir,
        };
        (endpoint, self.mirrors.unwrap_or_default(), self.trusted_hosts.unwrap_or_default())
    }
}

section! {
    /// The cache of mode Proxy.
    pub ProxySettings, RawProxy {
        /// Content that was not used for this time is removed; `0` never, else at least `5m`.
        "ttl" ttl: Duration = Live.is(Duration::ZERO),
        /// A tag is answered without asking the upstream for this time.
        "tagTtl" tag_ttl: Duration = Live.is(seconds(30)).within(Duration::ZERO..=DAY),
        /// A 404 of the upstream is remembered for this time.
        "negativeTtl" negative_ttl: Duration = Live.is(seconds(10)).within(Duration::ZERO..=seconds(3600)),
        /// A 404 that the registry itself gave is repeated for this time, with `Age`, while the upstream can't be asked; at
        /// most 10,000, in memory.
        "staleNegative" stale_negative: Duration = Live.is(seconds(3600)).within(Duration::ZERO..=DAY),
        /// Greatest age of an answer that is given in place of the upstream's; none, so that an outage stops nothing.
        "maxStale" max_stale: Option<Duration> = Live.is(None),
        /// States of the upstream in which such answers are given. `invalid`: the answer is no registry's (a login page, a
        /// filter, an odd status). A registry's 404 is an answer and never among them.
        "staleOn" stale_on: StaleOn = Live.is(StaleOn::ALL),
    }
}

section! {
    /// Users and their rights.
    pub AuthSettings, RawAuth {
        /// Rights without a sign-in: `none`, `pull` or `push`. `push` where there are no users and all addresses are
        /// loopback.
        "anonymous" anonymous: Anonymous = Live.is(Anonymous::None),
        /// Users of the file; no name twice.
        "users" users: Vec<User> = Below,
        /// Directory of mounted Secrets, one directory a user with files `name`, `password`, `passwordHash`, `role`.
        "usersDir" users_dir: Option<PathBuf> = Live.is(None),
        /// `true`: user and password of the upstream sign in here with role `ro`; the pair before for 15 more minutes. With a
        /// mode file those of each upstream in it.
        "upstreamUser" upstream_user: bool =
            Live.follows(
                |context| context.mode == Mode::Direct || context.has_mode_file,
                "`false`, `true` in Direct and with `modeFile`",
            ),
        /// The token service.
        "token" token: TokenSettings = Below,
    }
}

shape! {
    RawUser {
        /// 1 to 255 characters, no colon.
        "name" name: String = Live.words("none"),
        /// bcrypt: `$2a$`, `$2b$` or `$2y$`.
        "passwordHash" password_hash: PasswordHash = Live.words("none"),
        /// `ro`: pull. `rw`: pull, push, delete. `mirror-puller`: pull, catalog. `mirror-pusher`: all.
        "role" role: Option<Role> = Live.words("the name if it is a role, else `ro`"),
    }
}

section! {
    /// The token service.
    pub TokenSettings, RawToken {
        /// Whether there is a token service (the Bearer flow); without it the challenge is Basic.
        "enabled" enabled: TokenSwitch = Live.follows(|_| TokenSwitch::WithUsers, "with users"),
        /// Life of a token. Clients take less than a minute for a minute (Docker's token protocol).
        "ttl" ttl: Duration = Live.is(seconds(900)).within(seconds(60)..=DAY),
        /// PEM of the signing key, RSA (RS256) or P-256 (ES256); replicas need the same one.
        "signingKeyFile" signing_key_file: Option<PathBuf> = Live.follows(|_| None, "made and kept in the store"),
        /// PEM of its certificate, only to notice a mixed-up pair.
        "signingCertFile" signing_cert_file: Option<PathBuf> = Live.is(None),
    }
}

section! {
    /// Manifests.
    pub ManifestSettings, RawManifests {
        /// `refuse`: a manifest is neither taken nor answered while content that it references is missing. `allow` does
        /// both.
        "missingReferences" missing_references: MissingReferences = Live.is(MissingReferences::Refuse),
        /// Largest manifest. The default is what the specification asks for at least; a manifest is held in memory whole.
        "maxBytes" max_bytes: u64 = Live.is(4 << 20).within(1024..=64 << 20),
    }
}

section! {
    /// Collection of what nothing reaches.
    pub GcSettings, RawGc {
        /// When contents of mode Local are collected that no tag and no manifest reaches: `off`, or minute, hour, day, month
        /// and weekday as cron has them, in UTC; `"0 3 * * *"` is each day at 3:00. `d8-registry gc` does it at any time.
        "schedule" schedule: Calendar = Live.is(Calendar::Off),
        /// Time for which the server has to run between the finding that nothing reaches a content and its removal. Whoever
        /// asks for the content meanwhile, or names it, begins it anew.
        "grace" grace: Duration = Live.is(DAY).within(seconds(3600)..=365 * DAY),
        /// A manifest that no tag leads to and that nobody asked for is removed after this time, `gc.grace` at least. Without
        /// it such manifests stay: nodes pull by digest.
        "untaggedAfter" untagged_after: Option<Duration> = Live.is(None),
    }
}

section! {
    /// The regular look at all that is stored.
    pub ScrubSettings, RawScrub {
        /// Time within which every stored content is read from the disk once and compared with its digest, at 16 MiB a second
        /// at most and one content at a time; `off`, or `1h` to `365d`. What is damaged counts as absent from then on: Proxy
        /// fetches it again, and of Local `/status` at the socket names the images that need it. `d8-registry scrub` does it at
        /// any time.
        "interval" interval: Interval = Live.is(Interval::Every(seconds(7 * 86_400))),
    }
}

section! {
    /// Retention: which tags go by rules. Needs `store.pins`.
    pub RetentionSettings, RawRetention {
        /// Release sets of Deckhouse, as `d8 mirror push` makes them.
        "releases" releases: ReleaseSettings = Below,
        /// Rules for other repositories. In those that no rule fits everything stays.
        "rules" rules: Vec<RetentionRule> = Below,
    }
}

section! {
    /// Release sets of Deckhouse.
    pub ReleaseSettings, RawReleases {
        /// The number of release sets that stay in each root for being the newest, with the releases that the pins name and
        /// those that channels lead to. All others go: their tags at once, their bytes behind `gc.grace`. Without it all stay.
        "keep" keep: Option<u32> = Live.is(None).within(Some(1)..=Some(1000)),
    }
}

shape! {
    RawRetentionRule {
        /// Names of repositories: `*` stands for any characters but `/`, `**` for any. `team/**`.
        "repositories" repositories: Pattern = Live.words("none"),
        /// What stays in them. A tag that any rule keeps stays.
        "keep" keep: RawKeep = Below::info(),
    }
}

shape! {
    RawKeep {
        /// The number of tags that were pushed last.
        "newest" newest: Option<Count> = Live.words("none"),
        /// Tags that were pushed within this time.
        "pushedWithin" pushed_within: Option<ConfigDuration> = Live.words("none"),
        /// Tags whose manifest somebody has got within this time, under the tag or by its digest, or which came within it. All
        /// repositories and tags share the last use of a content.
        "pulledWithin" pulled_within: Option<ConfigDuration> = Live.words("none"),
        /// Tags that fit one of these patterns: `v1.*`.
        "matching" matching: Option<OneOrMany<Pattern>> = Live.words("none"),
    }
}

section! {
    /// Bounds of the work.
    pub Limits, RawLimits {
        /// Threads that serve requests.
        "workerThreads" worker_threads: u32 =
            Restart.follows(workers, "least of 4, cores and cgroup quota").within(1..=256),
        /// Connections open at once, over all addresses. For one more a connection goes on which nobody signed in, the
        /// longest idle of the address (IPv6: /64) that has most of them; where there is none it waits in the kernel's
        /// queue.
        "connections" connections: u32 = Live.is(4096).within(1..=1_000_000),
        /// Downloads of large blobs at once, and as many other reads of manifests and blobs, HEAD too; more wait for
        /// `limits.queueWait`, then 503. What memory answers on the spot is not counted. One user at one address (IPv6: one
        /// /64) may hold all of them while nobody else wants one. A quarter more of each of these three limits, at least
        /// 8, is kept for those who hold few; a place that becomes free goes to the one who holds fewest, and what stands
        /// still for 60 s because of its client is cut when somebody else wants its place.
        "pulls" pulls: u32 = Live.is(512).within(1..=1_000_000),
        /// Pushes at once, shared as pulls are; more get 429.
        "uploads" uploads: u32 = Live.is(128).within(1..=100_000),
        /// Lists at once, shared as pulls are; more get 429.
        "listings" listings: u32 = Live.is(16).within(1..=100_000),
        /// bcrypt threads; one check takes tens of milliseconds of a core.
        "passwordChecks" password_checks: u32 =
            Restart.follows(password_checks, "half the cores, 1 to 4").within(1..=64),
        /// Longest wait of a pull for its place, then 503; containerd gives up after 30 s.
        "queueWait" queue_wait: Duration = Live.is(CLIENT_PATIENCE).within(Duration::ZERO..=CLIENT_PATIENCE),
        /// An upload that got no byte for this time is removed. At most 4,096 are open at once, of one user at one address
        /// 2,048; one more gets 429.
        "uploadIdle" upload_idle: Duration = Live.is(seconds(3600)).within(seconds(60)..=30 * DAY),
        /// Bytes of blobs a second that are sent to the disk, and with that the speed of pushes and first pulls. Blobs reach
        /// the disk in pieces of 1 MiB, on a slow disk 512 KiB, one at a time, so that etcd on the same disk does not wait
        /// behind them, with or without this limit. `0` is none, else at least `1MiB`.
        "writeBytesPerSecond" write_rate: Option<u64> = Live.is(None),
        /// A body that moves no byte for this time is cut.
        "stallTimeout" stall_timeout: Duration = Live.is(seconds(120)).within(seconds(1)..=DAY),
        /// Longest wait for a request's head, which is also the longest idle time of a connection; Go's clients keep theirs
        /// for 90 s. A connection's first head, and any head that has begun where nobody signed in, has 10 s.
        "requestHeaderTimeout" request_header_timeout: Duration = Live.is(seconds(120)).within(seconds(100)..=DAY),
        /// Longest TLS handshake.
        "tlsHandshakeTimeout" tls_handshake_timeout: Duration =
            Live.is(seconds(10)).within(seconds(1)..=seconds(300)),
        /// Time that requests which run at SIGTERM may still take; Kubernetes kills after 30 s.
        "drainDeadline" drain_deadline: Duration = Live.is(seconds(25)).within(Duration::ZERO..=DAY),
        /// Largest head of a request.
        "headerBytes" header_bytes: u64 = Live.is(64 << 10).within(8 << 10..=1 << 20),
        /// `sendfile`: the kernel sends files where the connection is plain, and manifests and small blobs in memory are
        /// answered ahead of the general way. `off`: files are read into buffers, for a kernel or file system with a fault,
        /// and everything goes the general way. Over TLS files are read into buffers with either.
        "acceleration" acceleration: Acceleration = Live.is(Acceleration::Sendfile),
    }
}

section! {
    /// The log.
    pub LogSettings, RawLog {
        /// Form of a line.
        "format" format: LogFormat = Restart.follows(log_format, "`json`, `text` on a terminal"),
        /// Least severe messages shown: `error`, `warn`, `info`, `debug`.
        "level" level: Level = Live.is(Level::Info),
        /// Requests that get a line: `all`, `errors`, `off`; pushes, deletes and refused sign-ins always do, a `GET /` of a balancer that
        /// is answered well never.
        "access" access: AccessMode = Live.is(AccessMode::All),
    }
}
