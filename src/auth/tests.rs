//! Users in folders, reloads, and identities over time.
