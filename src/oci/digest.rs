//! Content digests: `sha256:<64 hex>` and `sha512:<128 hex>`.
//!
//! Source: OCI image-spec, descriptor.md, "Digests".

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;
use sha2::digest::common::hazmat::{DeserializeStateError, SerializableState};

/// A digest algorithm that this registry stores content under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, which every client understands.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Every algorithm, in the order in which the store's tree lists them.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// The name before the colon.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the raw digest in bytes.
    #[must_use]
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// The digest of `content`.
    #[must_use]
    pub fn digest(self, content: &[u8]) -> Digest {
        let mut hasher = Hasher::new(self);
        hasher.update(content);
        hasher.finish()
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(InvalidDigest::Algorithm),
        }
    }
}

/// A digest of known algorithm and right length, kept as bytes.
///
/// Made only by [`FromStr`], [`Digest::from_bytes`] and [`Hasher::finish`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// The first `algorithm.digest_len()` bytes count, the rest is zero.
    bytes: [u8; 64],
}

/// Why a text is not a digest this registry accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// No `algorithm:` in front.
    #[error("a digest is written algorithm:hex")]
    Form,
    /// An algorithm that is not supported.
    #[error("the digest's algorithm is not supported, use sha256 or sha512")]
    Algorithm,
    /// Wrong number of digits, or a digit that is not lower-case hex.
    #[error("the digest's hex part has the wrong length or a character outside 0-9a-f")]
    Hex,
}

impl Digest {
    /// The digest whose raw bytes these are; `None` if their number does not fit `algorithm`.
    #[must_use]
    pub fn from_bytes(algorithm: Algorithm, raw: &[u8]) -> Option<Self> {
        if raw.len() != algorithm.digest_len() {
            return None;
        }
        let mut bytes = [0; 64];
        bytes[..raw.len()].copy_from_slice(raw);
        Some(Self { algorithm, bytes })
    }

    /// The digest named by a file of the tree: the hex part alone.
    ///
    /// # Errors
    /// [`InvalidDigest::Hex`] if `hex` is not the right number of lower-case hex digits.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Result<Self, InvalidDigest> {
        if hex.len() != algorithm.digest_len() * 2 {
            return Err(InvalidDigest::Hex);
        }
        let (mut bytes, mut seen) = ([0; 64], 0);
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let [high, low] = [pair[0], pair[1]].map(|digit| VALUES[usize::from(digit)]);
            *byte = high << 4 | low;
            seen |= high | low;
        }
        // Looked at once: a digit more than 15 is none.
        if seen < 16 { Ok(Self { algorithm, bytes }) } else { Err(InvalidDigest::Hex) }
    }

    /// The algorithm before the colon.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw bytes, 32 or 64 of them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.digest_len()]
    }

    /// The hex part, as used for file names.
    #[must_use]
    pub fn hex(&self) -> String {
        let mut text = [0; TEXT_LEN];
        text_of(self.write_hex(&mut text)).to_owned()
    }

    /// Writes the hex part to the front of `out`. Every answer names a digest several times, so this is not left to
    /// the formatting machinery.
    fn write_hex<'a>(&self, out: &'a mut [u8]) -> &'a [u8] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let out = &mut out[..self.algorithm.digest_len() * 2];
        for (pair, byte) in out.chunks_exact_mut(2).zip(self.as_bytes()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        out
    }

    /// Writes the digest's text to the front of `out`.
    fn write_text<'a>(&self, out: &'a mut [u8]) -> &'a [u8] {
        let name = self.algorithm.as_str();
        let (front, hex) = out.split_at_mut(name.len() + 1);
        front[..name.len()].copy_from_slice(name.as_bytes());
        front[name.len()] = b':';
        let length = front.len() + self.write_hex(hex).len();
        &out[..length]
    }

    /// The entity tag of the content.
    #[must_use]
    pub fn entity_tag(&self) -> EntityTag {
        let mut text = [b'"'; TEXT_LEN + 2];
        let length = self.write_text(&mut text[1..]).len() + 2;
        EntityTag { text, length }
    }
}

/// A digest's text in quotes: the entity tag of its content (RFC 9110, 8.8.3). Allocates nothing.
#[derive(Clone, Debug)]
pub struct EntityTag {
    text: [u8; TEXT_LEN + 2],
    length: usize,
}

impl EntityTag {
    /// The tag with its quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        text_of(self.as_bytes())
    }

    /// The tag with its quotes, as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }

    /// The digest's text: the tag without its quotes.
    #[must_use]
    pub fn digest(&self) -> &[u8] {
        &self.text[1..self.length - 1]
    }
}

/// Digits and names, which are all a digest's text has.
fn text_of(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Room for the longest digest's text.
const TEXT_LEN: usize = "sha512:".len() + 128;

/// The value of every byte as a lower-case hex digit; 255: it is none.
const VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut value = 0;
    while value < 16 {
        values[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    values
};

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let colon = text.bytes().position(|byte| byte == b':').ok_or(InvalidDigest::Form)?;
        Self::from_hex(text[..colon].parse()?, &text[colon + 1..])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(text_of(self.write_text(&mut [0; TEXT_LEN])))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A running digest over content that arrives in pieces.
#[derive(Clone)]
pub struct Hasher(Running);

#[derive(Clone)]
enum Running {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

/// The serialised inner state of a [`Hasher`]: 104 bytes for SHA-256, 208 for SHA-512.
///
/// Lets an upload go on after a restart without reading again what was already hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HasherState {
    /// The algorithm that the state belongs to.
    pub algorithm: Algorithm,
    /// The state's bytes, opaque.
    pub bytes: Vec<u8>,
}

impl Hasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => Running::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Running::Sha512(sha2::Sha512::new()),
        })
    }

    /// A hasher that goes on from a stored state; `None` if the bytes are not such a state.
    #[must_use]
    pub fn resume(state: &HasherState) -> Option<Self> {
        fn load<H: SerializableState>(bytes: &[u8]) -> Option<H> {
            let array = bytes.try_into().ok()?;
            let restored: Result<H, DeserializeStateError> = H::deserialize(array);
            restored.ok()
        }
        Some(Self(match state.algorithm {
            Algorithm::Sha256 => Running::Sha256(load(&state.bytes)?),
            Algorithm::Sha512 => Running::Sha512(load(&state.bytes)?),
        }))
    }

    /// The algorithm that this hasher computes.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        match self.0 {
            Running::Sha256(_) => Algorithm::Sha256,
            Running::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes in the next piece of content.
    pub fn update(&mut self, content: &[u8]) {
        match &mut self.0 {
            Running::Sha256(hasher) => hasher.update(content),
            Running::Sha512(hasher) => hasher.update(content),
        }
    }

    /// The state to store, from which [`Hasher::resume`] goes on.
    #[must_use]
    pub fn state(&self) -> HasherState {
        let bytes = match &self.0 {
            Running::Sha256(hasher) => hasher.serialize().to_vec(),
            Running::Sha512(hasher) => hasher.serialize().to_vec(),
        };
        HasherState { algorithm: self.algorithm(), bytes }
    }

    /// The digest of everything seen.
    #[must_use]
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 64];
        let algorithm = self.algorithm();
        match self.0 {
            Running::Sha256(hasher) => bytes[..32].copy_from_slice(&hasher.finalize()),
            Running::Sha512(hasher) => bytes.copy_from_slice(&hasher.finalize()),
        }
        Digest { algorithm, bytes }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hasher").field(&self.algorithm()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_and_back(raw in proptest::collection::vec(any::<u8>(), 64), short: bool) {
            let algorithm = if short { Algorithm::Sha256 } else { Algorithm::Sha512 };
            let digest = Digest::from_bytes(algorithm, &raw[..algorithm.digest_len()]).unwrap();
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
            let (tag, text) = (digest.entity_tag(), digest.to_string());
            prop_assert_eq!(tag.as_str(), format!("\"{text}\""));
            prop_assert_eq!(tag.digest(), text.as_bytes());
        }

        #[test]
        fn only_canonical_text_parses(text in "(sha256|sha512|SHA256|md5)?:?[0-9a-fA-F/.]{0,130}") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }

        #[test]
        fn a_resumed_hash_equals_an_uninterrupted_one(
            head in proptest::collection::vec(any::<u8>(), 0..300),
            tail in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            for algorithm in Algorithm::ALL {
                let mut first = Hasher::new(algorithm);
                first.update(&head);
                let mut second = Hasher::resume(&first.state()).unwrap();
                second.update(&tail);
                let whole = [head.as_slice(), tail.as_slice()].concat();
                prop_assert_eq!(second.finish(), algorithm.digest(&whole));
            }
        }
    }

    #[test]
    fn the_empty_content_has_the_published_digest() {
        assert_eq!(
            Algorithm::Sha256.digest(b"").to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn a_state_of_the_wrong_length_is_refused() {
        let state = HasherState { algorithm: Algorithm::Sha256, bytes: vec![0; 103] };
        assert!(Hasher::resume(&state).is_none());
    }
}
