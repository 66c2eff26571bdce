//! The only `unsafe` code, behind functions that can't be used wrongly.
#![allow(unsafe_code, reason = "the one place; each block names what makes it sound")]

pub(crate) mod sendfile_token;
pub(crate) mod signals;
pub(crate) mod write_back;
