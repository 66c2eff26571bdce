//! The HTTP edge: requests parsed into our types, answers rendered; the only part that speaks axum.

pub mod admin;
pub mod peer;
