//! What each mode has stored, apart from the others: what clients pushed (Local), what upstreams taught (Proxy). It stays when
//! another mode comes into force; here it is counted, and dropped by an administrator's order.
//!
//! In reading order: `gate` (which data a mode uses), `count` (bytes of what none uses), `dropper` (removes all of it),
//! `job` (both, beside requests).
//!
//! # Decisions
//!
//! - A drop removes name by name, tags first, and not by moving directories away: the index, memory and used bytes follow by the
//!   ways of a delete, and what another repository has stays by its link. Killed at any step it is ordered again.
//! - A drop asks for no pins: what it removes is served by nobody.
//! - Bytes are those that a drop would free. What two modes have is of neither's figure: it is free when both are gone.

pub(in crate::store) mod count;
pub(in crate::store) mod dropper;
pub(in crate::store) mod gate;
pub(in crate::store) mod job;
