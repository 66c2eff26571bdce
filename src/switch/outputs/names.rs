//! Names of what a switch reads and writes in namespace `d8-system`, and the annotations of ours.

/// Secret with the administrator's settings, ours with [`SOURCE_ANNOTATION`]. Not `registry-config`: Deckhouse writes that one in
/// every cluster, with its module `registry` off too.
pub const CONFIG: &str = "d8-registry-settings";
/// Secret that counts in the place of [`CONFIG`] where that is not there and an administrator made it ours by
/// [`SOURCE_ANNOTATION`]. Deckhouse's own is none: [`crate::switch::inputs::counts`].
pub const SHARED_CONFIG: &str = "registry-config";
/// Secret with what [`CONFIG`] said before the upstream was changed.
pub const PREVIOUS: &str = "registry-previous";
/// The fact of [`STATE`] with the resource version of [`CONFIG`] that the controller has looked at; [`NO_CONFIG`] for none.
pub const CONFIG_FACT: &str = "settingsSeen";
/// No resource version.
pub const NO_CONFIG: &str = "none";
/// Secret with the state for people and programs.
pub const STATE: &str = "registry-state";
/// Secret with what nodes get.
pub const BASHIBLE_CONFIG: &str = "registry-bashible-config";
/// Secret that every component of Deckhouse reads.
pub const DECKHOUSE_REGISTRY: &str = "deckhouse-registry";
/// Secret with what servers hold.
pub const MODE_FILE: &str = "d8-registry-mode";
/// Its key, and the name of the file on the masters.
pub const MODE_FILE_KEY: &str = "mode.yaml";
/// Secret with what the controller remembers; an administrator's word is an annotation on it.
pub const RECORD: &str = "d8-registry-switch";
/// ConfigMap with `node-proxy`'s list of masters, and what node-agent is told beside the Secret.
pub const MASTERS: &str = "d8-registry-masters";
/// Its key, and the name of the file on the nodes.
pub const MASTERS_KEY: &str = "backends";
/// Its other key: the version with which bare Unmanaged is settled.
pub const SETTLED_KEY: &str = "settled";
/// ConfigMap with the authority's certificate, key `ca.crt`.
pub const CA: &str = "registry-ca";
/// Secret with the authority and its key.
pub const PKI: &str = "registry-pki";
/// Secret with the chart's values `mode` and `upstream.*`.
pub const VALUES: &str = "d8-registry-values";
/// Secret with the digests and releases that the cluster runs.
pub const PINS: &str = "registry-pins";
/// Its key, and the name of the file on the masters.
pub const PINS_KEY: &str = "pins.yaml";
/// Secret with the controller's certificate and key, and the authority of the servers.
pub const CONTROLLER_TLS: &str = "d8-registry-controller-tls";
/// The Lease of the controller that writes.
pub const LEASE: &str = "d8-registry-controller";
/// The controller's ServiceAccount.
pub const CONTROLLER: &str = "d8-registry-controller";
/// Service by which pods reach the registry.
pub const SERVICE: &str = "registry";

/// On [`CONFIG`]: the Secret is ours.
pub const SOURCE_ANNOTATION: &str = "d8-registry/source";
/// Its value.
pub const SOURCE_MANUAL: &str = "manual";

/// Service behind the Ingress for pushes.
pub const PUSH_SERVICE: &str = "registry-push";
