//! A small mutator: what one seed gives is the same on every machine.

/// Pseudo-random numbers (splitmix64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Self(seed);
        // Neighbouring seeds differ in few bits.
        random.number();
        random
    }

    pub(super) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number() % u64::try_from(bound).unwrap()).unwrap()
    }

    pub(super) fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    pub(super) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// Words that parsers stumble over.
const WORDS: &[&str] = &[
    "0",
    "1",
    "-1",
    "00",
    "255",
    "256",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999",
    "1e999",
    "0x10",
    "NaN",
    "",
    " ",
    "\t",
    "\r\n",
    "\r\n\r\n",
    "\n",
    "\0",
    "\u{7f}",
    "\u{feff}",
    "é",
    "日本",
    "%",
    "%00",
    "%2f",
    "%2e%2e",
    "%zz",
    "+",
    "..",
    "../",
    "//",
    "/",
    "\\",
    "?",
    "&",
    "=",
    ":",
    ";",
    ",",
    "\"",
    "'",
    "{",
    "}",
    "[",
    "]",
    "{}",
    "[]",
    "null",
    "true",
    "*",
    "&a",
    "*a",
    "<<",
    "- ",
    "|",
    ">",
    "sha256:",
    "sha512:",
    "md5:",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "bytes=",
    "bytes=-",
    "bytes=0-0,5-",
    "-0",
    "0-",
    "repository:a:pull",
    "registry:catalog:*",
    "Bearer ",
    "Basic ",
    "Basic Og==",
    "eyJhbGciOiJub25lIn0.e30.",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v1+json",
    "schemaVersion",
    "layers",
    "manifests",
    "subject",
    "_blobs",
    "_manifests",
    "_tags",
    "latest",
    "chunked",
    "identity",
    "close",
    "100-continue",
    "HTTP/2.0",
];

/// Most bytes that mutations let an input grow to, from where it began.
const GROWTH: usize = 1 << 16;

/// Changes `input` at one to five places; `others` are inputs to take pieces from.
pub(super) fn mutate(random: &mut Random, input: &[u8], others: &[&[u8]]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(5) {
        let at = random.below(bytes.len() + 1);
        let end = at + random.below((bytes.len() - at).min(40) + 1);
        match random.below(10) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            2 => drop(bytes.drain(at..end)),
            3 => insert(&mut bytes, at, &vec![u8::try_from(random.below(256)).unwrap(); 1 << random.below(12)]),
            4 => {
                let piece = bytes[at..end].repeat(1 + random.below(50));
                insert(&mut bytes, at, &piece);
            }
            5 => {
                let other = random.pick(others);
                let from = random.below(other.len() + 1);
                let to = from + random.below(other.len() - from + 1);
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
            6 => bytes.truncate(at),
            7 => number(random, &mut bytes),
            _ => {
                let (from, to) = field(&bytes, at);
                let word = random.pick(WORDS);
                let from = if random.one_in(2) { to } else { from };
                drop(bytes.splice(from..to, word.bytes()));
            }
        }
        bytes.truncate(input.len() + GROWTH);
    }
    bytes
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    drop(bytes.splice(at..at, piece.iter().copied()));
}

/// The word around `at`.
fn field(bytes: &[u8], at: usize) -> (usize, usize) {
    let is_border = |byte: &u8| !byte.is_ascii_alphanumeric() && !b"_.-%".contains(byte);
    let from = bytes[..at].iter().rposition(is_border).map_or(0, |border| border + 1);
    let to = bytes[at..].iter().position(is_border).map_or(bytes.len(), |border| at + border);
    (from, to)
}

/// Puts another number in the place of one.
fn number(random: &mut Random, bytes: &mut Vec<u8>) {
    let starts: Vec<usize> = (0..bytes.len())
        .filter(|&at| bytes[at].is_ascii_digit() && (at == 0 || !bytes[at - 1].is_ascii_digit()))
        .collect();
    if starts.is_empty() {
        return;
    }
    let from = starts[random.below(starts.len())];
    let to = bytes[from..].iter().position(|byte| !byte.is_ascii_digit()).map_or(bytes.len(), |length| from + length);
    let value = match random.below(3) {
        0 => random.number().to_string(),
        1 => random.below(2000).to_string(),
        _ => random.pick(&WORDS[..14]).to_owned(),
    };
    drop(bytes.splice(from..to, value.bytes()));
}
