//! The state machine in a world of its own: nodes, servers, Deckhouse and registries are played, everything else is real.

mod deckhouse;
mod ends;
mod first;
mod gates;
mod held;
mod kills;
mod laws;
mod look;
mod lost;
mod nodes;
mod order;
mod pulls;
mod random;
mod undo;
mod walks;
mod world;
