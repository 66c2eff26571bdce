//! Snapshots: what the pushed repositories held at a moment, kept until somebody lets it go.
//!
//! A snapshot is a directory of `snapshots/`: a hard link for each content, once, whoever has it, and a list of which repository
//! had it as what, with the tags. In reading order: `report` (what is answered, and what went wrong), `catalog` (the files `list`
//! and `snapshot.json`), `keeper` (begun, listed, removed), `taking` (a repository is taken), `restoring` with `giving_back`. The links, and what
//! they mean for room and for the link count, are of the floor below.

pub(in crate::store) mod catalog;
mod giving_back;
pub(in crate::store) mod keeper;
pub(in crate::store) mod report;
mod restoring;
mod taking;
