//! Most memory that connections take, for the sum that the server logs at its start.

use super::admission::{COST, FREE_BYTES, GUEST_BYTES, READ_BYTES};
use super::connection::{H1_TLS_BUFFER, H2_SEND_BUFFER, H2_STREAM_WINDOW};
use super::http1_state::{AHEAD_BYTES, AHEAD_TLS_BYTES};
use super::receiving;
use super::tls::BUFFER_LIMIT;

/// A connection on which nothing goes on: its task, its buffers and those of TLS (30 KiB measured with a TLS 1.3 session),
/// a usual head and a form. A client that signed in and sends larger heads takes more, up to `limits.headerBytes` twice;
/// that is not counted.
pub const CONNECTION_BYTES: u64 = (32 << 10) + 2 * FREE_BYTES as u64;

/// Most bytes of a response to a client that takes nothing: hyper's, and behind TLS those encrypted and not sent.
pub const ANSWER_BYTES: u64 =
    larger(AHEAD_BYTES as u64, larger(AHEAD_TLS_BYTES as u64, H2_SEND_BUFFER as u64) + BUFFER_LIMIT as u64);

/// Most bytes of all guests together: their budget, and one read of each before the ones that have to go are gone.
#[must_use]
pub const fn guests(connections: u64) -> u64 {
    GUEST_BYTES as u64 + connections.saturating_mul((READ_BYTES * COST) as u64)
}

/// Most bytes of incoming bodies together before they reach the store: a window each on HTTP/2, a buffer each on HTTP/1
/// behind TLS, and one read each.
#[must_use]
pub const fn incoming(bodies: u64) -> u64 {
    let each = H2_STREAM_WINDOW as u64 + H1_TLS_BUFFER as u64;
    let read = larger(receiving::ALL_BYTES as u64, bodies.saturating_mul(receiving::LEAST_BYTES as u64));
    bodies.saturating_mul(each).saturating_add(read)
}

const fn larger(one: u64, other: u64) -> u64 {
    if one > other { one } else { other }
}
