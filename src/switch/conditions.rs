//! Conditions of `registry-state`: types, reasons and the rule of their times. `dhctl`, upgrade gates and people read them.

use std::fmt;

use crate::clock::Timestamp;

macro_rules! condition_types {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// What a condition is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ConditionType {
            $($(#[$doc])* $name,)+
        }

        impl ConditionType {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The word in `registry-state`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// The type of a word; `None` for words of others.
            #[must_use]
            pub fn of(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == word)
            }
        }
    };
}

condition_types! {
    // Deckhouse's, as documented.
    /// Every required image was found.
    RegistryContainsRequiredImages,
    /// No node has its own registry configuration of the old form.
    ContainerdConfigPreflightReady,
    /// Every node has the old and the new source.
    TransitionContainerdConfigReady,
    /// Servers have Direct in force.
    InClusterProxyReady,
    /// Servers hold the coming mode.
    NodeServicesReady,
    /// Deckhouse runs with the new registry.
    DeckhouseRegistrySwitchReady,
    /// Nodes have the new source alone.
    FinalContainerdConfigReady,
    /// What servers held of Proxy and Local has ended.
    CleanupNodeServices,
    /// What servers held of Direct has ended.
    CleanupInClusterProxy,
    /// The target is reached.
    Ready,
    /// True: there is no way from the last completed mode to the wanted one.
    ErrTransitionNotSupported,
    // Ours.
    /// Which input is in force (reason) and what is said of it.
    InputSource,
    /// True: the input in force has vanished or can't be read.
    InputLost,
    /// The settings of the input in force are valid.
    SettingsValid,
    /// Masters, runtimes, upstream and Deckhouse's queue allow a switch.
    PreconditionsReady,
    /// True: parameters are frozen until the cluster is bootstrapped.
    ParametersFrozen,
    /// True: nothing is changed until a person acts; the message is the reason.
    Held,
    /// True: nodes that the switch went on without.
    NodesSkipped,
    /// True: values of the chart that say something else than what the controller goes by; they are not followed.
    ChartValuesDiffer,
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What it is about.
    pub kind: ConditionType,
    /// True or False.
    pub status: bool,
    /// `Ready`, `Processing`, `Error`, a word of ours, or `""` where the condition is satisfied.
    pub reason: String,
    /// For people; `""` where the condition is satisfied. Lines end with `\n`.
    pub message: String,
    /// When the status last changed.
    pub last_transition: Timestamp,
    /// The generation of the input that it was evaluated for, 0 where that is not known (then it is not written).
    pub observed_generation: i64,
}
