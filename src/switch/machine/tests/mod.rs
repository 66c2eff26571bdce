//! The state machine in a world of its own: nodes, servers, Deckhouse and registries are played, everything else is real.

mod ends;
mod gates;
mod held;
mod look;
mod nodes;
mod order;
mod pulls;
mod random;
mod undo;
mod walks;
mod world;
