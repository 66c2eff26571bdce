//! Collection: what no root of a repository reaches goes, while the server runs (docs/decisions, "Suspects, not sweeps").
//!
//! In reading order: `mark` (what the roots reach; pure), `marking` (a repository read for it), `suspects`, `dirty` and
//! `running_time` (what is on the disk), `settings` (what others set), `ledger` (what is known while the store is open, and what every change and every
//! answer asks of it), `saving` (what is asked for stays with all below it), `collector` (a run), `job`, `why` (a content
//! stays), `report` (for the administrator).

pub(in crate::store) mod collector;
mod dirty;
pub(in crate::store) mod job;
pub(in crate::store) mod ledger;
mod mark;
mod marking;
#[cfg(test)]
mod model;
pub(in crate::store) mod report;
mod running_time;
mod saving;
mod settings;
mod suspects;
mod unreadable;
mod why;
