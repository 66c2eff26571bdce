//! GOST sums: the files `NAME.gostsum` beside the files of a bundle, with the Streebog of 256 bits (GOST R 34.11-2012, RFC 6986) in
//! the byte order of `gost12sum`, which is not the one in which the RFC prints numbers.

use std::fmt::Write as _;
use std::io;

use streebog::{Digest as _, Streebog256};

use crate::fs::Folder;

/// Behind a file's name: the name of its sum.
pub(super) const SUFFIX: &str = ".gostsum";
/// Hexadecimal digits of a sum.
const DIGITS: usize = 64;
/// Most bytes of the file of a sum: of the digits, and of the name that some programs write behind them.
const MOST_BYTES: u64 = 4096;

/// A sum that is being made. About 0.14 GB a second.
#[derive(Clone, Debug, Default)]
pub struct GostSum(Streebog256);

impl GostSum {
    /// Takes further bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The sum of all bytes: 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn finish(self) -> String {
        let mut digits = String::with_capacity(DIGITS);
        for byte in self.0.finalize() {
            // A text takes all that is written to it.
            let _ = write!(digits, "{byte:02x}");
        }
        digits
    }
}

/// The sum that lies beside a file. Blocking.
///
/// # Errors
/// Of the disk; `InvalidData`: what lies there is no sum.
pub(super) fn beside(folder: &Folder, name: &str) -> io::Result<String> {
    let text = folder.read(&format!("{name}{SUFFIX}"), MOST_BYTES)?.ok_or(io::ErrorKind::NotFound)?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("it is no sum of {DIGITS} digits")))
}

/// The digits in front; behind them nothing, or a space and anything.
fn parse(text: &[u8]) -> Option<String> {
    let (digits, behind) = text.split_at_checked(DIGITS)?;
    let is_sum = digits.iter().all(u8::is_ascii_hexdigit) && behind.first().is_none_or(u8::is_ascii_whitespace);
    is_sum.then(|| String::from_utf8_lossy(digits).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> String {
        let mut sum = GostSum::default();
        bytes.chunks(7).for_each(|piece| sum.update(piece));
        sum.finish()
    }

    /// The first example of GOST R 34.11-2012, as the real client's test has it.
    #[test]
    fn a_sum_is_that_of_the_standard_in_the_byte_order_of_the_real_client() {
        let message = "0123456789".repeat(7);
        assert_eq!(sum(&message.as_bytes()[..63]), "9d151eefd8590b89daa6ba6cb74af9275dd051026bb149a452fd84e5e57b5500");
        assert_eq!(sum(b""), "3f539a213e97c802cc229d474c6aa32a825a360b2a933a949fd925208d9ce1bb");
    }

    #[test]
    fn a_file_of_a_sum_has_its_digits_and_may_have_a_name_behind_them() {
        let digits = "0f".repeat(32);
        for text in [digits.clone(), format!("{digits}\n"), format!("{}  platform.tar\n", digits.to_uppercase())] {
            assert_eq!(parse(text.as_bytes()), Some(digits.clone()), "{text}");
        }
        for text in ["", "0f", &digits[1..], &format!("{digits}0"), &format!("g{}", &digits[1..])] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
