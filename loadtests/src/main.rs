//! Load scenarios for d8-registry.

fn main() {}
