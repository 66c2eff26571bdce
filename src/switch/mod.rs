//! The switch of a cluster from one registry to another, as a pure function: one look at the world in, a decision out.
//!
//! Nothing here reads a clock, opens a socket or knows Kubernetes: `cluster` fills an [`Observed`] and carries out the
//! [`Write`]s of a [`Decision`], `controller` runs the loop around both and finds out what the [`Question`]s ask.
//!
//! In reading order: `settings` is what the administrator wants, `inputs` reads it; `documents` are the objects that are
//! read and written, `outputs` renders and reads them; `record` is what is remembered; `observed` is the look; `conditions`
//! and `write` are what comes out; `machine` decides.

mod conditions;
mod documents;
pub mod inputs;
mod machine;
mod observed;
pub mod outputs;
mod record;
mod settings;
mod write;

pub use conditions::{Condition, ConditionType};
pub use documents::{
    BashibleConfig, Coming, DeckhouseRegistry, FIXED_HOST, FIXED_PATH, FoundModeFile, Hosts, MastersMap, Mirror,
    ModeFile, NODE_HOST, Phase, Plane, RegistryState, Rewrite, ServerMode, User,
};
pub use machine::decide;
pub use observed::{
    Checked, DeckhousePod, ImagesAnswer, Input, Inputs, Node, Observed, Output, Outputs, ProbeAnswer, ReferencesAnswer,
    Seen, Server, ServerModeFile, ServerState, Word,
};
pub use record::{InputSource, NodePlan, Record, Settle};
pub use settings::{CheckMode, DEFAULT_TTL, Login, Params, Settings, SwitchOptions, Target, UnreadyNodes, Upstream};
pub use write::{Content, Decision, Figures, ImagesAt, Notice, Question, Write};
