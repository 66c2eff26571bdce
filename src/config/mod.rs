//! Part of the skeleton.
