//! The state machine in a world of its own: nodes, servers, Deckhouse and registries are played, everything else is real.

mod look;
mod order;
mod pulls;
mod random;
mod walks;
mod world;
