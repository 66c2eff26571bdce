//! What connections may take of memory, for who adds it up.

use super::admission::{COST, FREE_BYTES, GUEST_BYTES, READ_BYTES};
use super::connection::{H1_TLS_BUFFER, H2_SEND_BUFFER, H2_STREAM_WINDOW};
use super::http1_state::{AHEAD_BYTES, AHEAD_TLS_BYTES};
use super::receiving;
use super::tls::BUFFER_LIMIT;

/// A connection on which nothing goes on: its task, its buffers and those of TLS (30 KiB measured with a TLS 1.3 session),
/// a usual head and a form. A client that signed in and sends larger heads takes more, up to `limits.headerBytes` twice;
/// that is not counted.
pub const CONNECTION_BYTES: u64 = (32 << 10) + 2 * FREE_BYTES as u64;

/// An answer to a client that takes nothing: what hyper holds of it, and behind TLS what is encrypted and not sent.
pub const ANSWER_BYTES: u64 =
    larger(AHEAD_BYTES as u64, larger(AHEAD_TLS_BYTES as u64, H2_SEND_BUFFER as u64) + BUFFER_LIMIT as u64);

/// What guests hold together: their budget, and what may be read of each before those that have to go are gone.
#[must_use]
pub const fn guests(connections: u64) -> u64 {
    GUEST_BYTES as u64 + connections.saturating_mul((READ_BYTES * COST) as u64)
}

/// What bodies that come in hold together before they reach the store: on HTTP/2 a window each, on HTTP/1 behind TLS a
/// buffer, and what is read at once.
#[must_use]
pub const fn incoming(bodies: u64) -> u64 {
    let each = H2_STREAM_WINDOW as u64 + H1_TLS_BUFFER as u64;
    let read = larger(receiving::ALL_BYTES as u64, bodies.saturating_mul(receiving::LEAST_BYTES as u64));
    bodies.saturating_mul(each).saturating_add(read)
}

const fn larger(one: u64, other: u64) -> u64 {
    if one > other { one } else { other }
}
