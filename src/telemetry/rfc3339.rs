//! A moment as text, without a library: the access log writes one per line.

use crate::clock::Timestamp;

/// Appends `2026-11-21T01:38:31.123Z`.
pub(super) fn push(out: &mut Vec<u8>, moment: Timestamp) {
    let days = moment.as_secs() / 86_400;
    let second = moment.as_secs() % 86_400;
    let (year, month, day) = date(days);
    digits(out, year, 4);
    out.push(b'-');
    digits(out, month, 2);
    out.push(b'-');
    digits(out, day, 2);
    out.push(b'T');
    digits(out, second / 3600, 2);
    out.push(b':');
    digits(out, second / 60 % 60, 2);
    out.push(b':');
    digits(out, second % 60, 2);
    out.push(b'.');
    digits(out, moment.as_millis() % 1000, 3);
    out.push(b'Z');
}

/// The last `width` decimal digits of `value`.
fn digits(out: &mut Vec<u8>, value: u64, width: u32) {
    for place in (0..width).rev() {
        let digit = value / 10_u64.pow(place) % 10;
        out.push(b'0' + u8::try_from(digit).unwrap_or(0));
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
        for millis in (0..4_102_444_800_000_u64).step_by(86_399_777).chain([951_782_400_000, 951_868_799_999]) {
            let moment = std::time::UNIX_EPOCH + std::time::Duration::from_millis(millis);
            let expected = humantime::format_rfc3339_millis(moment).to_string();
            let mut out = Vec::new();
            push(&mut out, Timestamp::from_millis(millis));
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
