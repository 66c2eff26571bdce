//! Tokens of others, and of us at another time.
