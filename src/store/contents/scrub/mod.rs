//! Scrub: every content is read from the disk and hashed once in an interval, so that rot is found before somebody needs the
//! content.
//!
//! A pass goes through the contents in the order of their digests. Digests are spread evenly, so the digest is the clock: a
//! content is due when the part of the interval has passed that its digest is of all digests. Nothing has to be counted first,
//! and a store that grows while a pass goes on is read at a rate that grows with it. A server that was stopped catches up, and
//! a clock that is set back makes the pass longer, no more.
//!
//! What snapshots alone keep has its turn with the contents of its digest: nobody else reads it, and a restore needs it.
//!
//! One content is read at a time, a piece of 1 MiB in turn with what is sent to the disk (`pace`), at no more than
//! [`scrubber::RATE`], and the disk gets at least as much time for others as a piece took. What is not the digest's is
//! examined as if a reader had found it (`damage`), so that one judgement holds; what can't be read becomes a suspect there.
//! Scrub puts no more on the list than leaves half of the finds that are a fault of the disk to readers.
//!
//! In reading order: `pass` (where it is, durably), `names` (which content is next), `scrubber` (reads and judges), `job`.

pub(in crate::store) mod job;
mod names;
pub(in crate::store) mod pass;
pub(in crate::store) mod scrubber;
#[cfg(test)]
mod tests;
