//! Collection: what no root of a repository reaches goes, while the server runs (docs/decisions, "Suspects, not sweeps").
//!
//! In reading order: `mark` (what the roots reach; pure), `marking` (a repository read for it), `random_image` (what `d8 mirror
//! push` leaves), `suspects`, `given_up`, `dirty` and `running_time` (what is on the disk), `settings` (what others set), `ledger`
//! (what is known while the store is open, and what every change and every answer asks of it), `saving` (what is asked for
//! stays with all below it), `collector` (a run), `agreement` with `asking` (other masters are asked first), `removal` (of one content), `looking` and `retiring` (tags go by a rule of retention), `estimate`, `why`
//! (a content stays), `report` (for the administrator).

pub(in crate::store) mod agreement;
mod asking;
pub(in crate::store) mod collector;
mod dirty;
pub(in crate::store) mod estimate;
pub(in crate::store) mod given_up;
pub(in crate::store) mod ledger;
pub(in crate::store) mod looking;
mod mark;
mod marking;
#[cfg(test)]
mod model;
mod random_image;
mod removal;
pub(in crate::store) mod report;
pub(in crate::store) mod retiring;
mod running_time;
mod saving;
pub(in crate::store) mod settings;
pub(in crate::store) mod suspects;
mod unreadable;
mod why;
