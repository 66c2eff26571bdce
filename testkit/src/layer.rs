//! Layers: tar archives, compressed or not, right or wrong on purpose. Written by hand, so that they don't have the faults of a
//! reader under test.

use std::io::{self, Write as _};

/// A tar that is being written: POSIX headers, 512-byte blocks. Names have at most 100 bytes.
#[derive(Clone, Debug, Default)]
pub struct Tar(Vec<u8>);

const BLOCK: usize = 512;

impl Tar {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a file.
    #[must_use]
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(b'0', name, content)
    }

    /// With a directory.
    #[must_use]
    pub fn directory(self, name: &str) -> Self {
        self.entry(b'5', name, "")
    }

    /// With a symbolic link to somewhere.
    #[must_use]
    pub fn link(self, name: &str) -> Self {
        self.entry(b'2', name, "")
    }

    /// With an entry of any type.
    #[must_use]
    pub fn entry(self, kind: u8, name: &str, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref();
        self.entry_of(kind, name, content.len() as u64, content)
    }

    /// With an entry whose header says another size than its content has.
    #[must_use]
    pub fn entry_of(mut self, kind: u8, name: &str, size: u64, content: &[u8]) -> Self {
        let mut header = [0; BLOCK];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, "0000644\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{size:011o}\0"));
        put(136, "00000000000\0");
        put(148, "        ");
        put(257, "ustar\x0000");
        header[156] = kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// The entries written so far, without an end.
    #[must_use]
    pub fn cut(self) -> Vec<u8> {
        self.0
    }

    /// The archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

/// Content compressed with gzip.
///
/// # Errors
/// Of the compressor.
pub fn gzip(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content)?;
    encoder.finish()
}

/// Content compressed with zstd.
///
/// # Errors
/// Of the compressor.
pub fn zstd(content: &[u8]) -> io::Result<Vec<u8>> {
    zstd::encode_all(content, 1)
}
