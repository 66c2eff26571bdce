//! The HTTP client that measures: [`Wire`] is a connection, [`exchange`] speaks HTTP/1.1 on it, [`upload`] pushes, and
//! [`Driver`] keeps many connections busy from one thread.

pub(crate) mod driver;
pub(crate) mod exchange;
pub(crate) mod upload;
pub(crate) mod wire;

pub(crate) use driver::{Driver, Load, Tally, histogram, nanoseconds};
pub(crate) use exchange::{Answer, Request, ask, fetch, verify};
pub(crate) use upload::push;
pub(crate) use wire::{Place, Received, Wire, would_block};
