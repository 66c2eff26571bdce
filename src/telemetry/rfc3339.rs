//! A moment as text, without a library: the access log writes one per line.

use std::cell::Cell;

use crate::clock::Timestamp;

/// Room for `2026-11-21T01:38:31`.
type Second = [u8; 19];

thread_local! {
    /// The second that was written last, and its text.
    static LAST: Cell<(u64, Second)> = const { Cell::new((u64::MAX, [0; 19])) };
}

/// Appends `2026-11-21T01:38:31.123Z`.
pub(super) fn push(out: &mut Vec<u8>, moment: Timestamp) {
    let (second, mut text) = LAST.get();
    if second != moment.as_secs() {
        text = second_text(moment.as_secs());
        LAST.set((moment.as_secs(), text));
    }
    out.extend_from_slice(&text);
    let mut rest = *b".000Z";
    digits(&mut rest[1..4], moment.as_millis() % 1000);
    out.extend_from_slice(&rest);
}

fn second_text(seconds: u64) -> Second {
    let (year, month, day) = date(seconds / 86_400);
    let second = seconds % 86_400;
    let mut text = *b"0000-00-00T00:00:00";
    digits(&mut text[..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], second / 3600);
    digits(&mut text[14..16], second / 60 % 60);
    digits(&mut text[17..], second % 60);
    text
}

/// Fills `out` with the last decimal digits of `value`.
fn digits(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

/// Year, month and day of a day since 1970-01-01 in the Gregorian calendar. Counted in years that begin in March, so
/// that the leap day is the last of its year; 146,097 days are 400 years.
const fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_another_implementation() {
        let leap_days = [951_782_400_000, 951_782_400_001, 951_782_400_999, 951_868_799_999];
        for millis in (0..4_102_444_800_000_u64).step_by(86_399_777).chain(leap_days) {
            let moment = std::time::UNIX_EPOCH + std::time::Duration::from_millis(millis);
            let expected = humantime::format_rfc3339_millis(moment).to_string();
            let mut out = Vec::new();
            push(&mut out, Timestamp::from_millis(millis));
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
