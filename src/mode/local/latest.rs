//! Which of the things that other masters say of a tag or a manifest counts. Pure.

use crate::clock::Timestamp;
use crate::oci::Reference;
use crate::store::Record;

/// The latest record about `of` among the lines that others told, at `wall` by the clock here. A line that is none, that is about
/// something else, or whose clock is more than 24 h ahead is as good as not told.
pub(super) fn latest_of<'a>(
    lines: impl IntoIterator<Item = &'a str>,
    of: &Reference,
    wall: Timestamp,
) -> Option<Record> {
    let records = lines.into_iter().filter_map(|line| line.parse::<Record>().ok());
    let believed = records.filter(|record| record.of() == of && !record.is_too_far_ahead(wall));
    believed.reduce(|one, other| if other.is_later(&one) { other } else { one })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Digest};

    const HOUR: u64 = 3_600_000;
    const NOW: u64 = 1_800_000_000_000;

    /// The line of a record, at a wall's clock and by a writer.
    fn line(of: &str, at: u64, writer: u64, to: Option<Digest>) -> String {
        let to = to.map_or_else(|| "-".to_owned(), |to| to.to_string());
        let text = format!("{:016x} {writer:016x} {of} {to}", at << 16);
        let check = Algorithm::Sha256.digest(text.as_bytes()).hex()[..8].to_owned();
        format!("{text} {check}")
    }

    #[test]
    fn the_latest_counts_in_whatever_order_and_none_that_is_too_far_ahead_or_about_something_else() {
        let (one, two) = (Algorithm::Sha256.digest(b"1"), Algorithm::Sha256.digest(b"2"));
        let early = line("v1", NOW - HOUR, 9, Some(one));
        let late = line("v1", NOW + 23 * HOUR, 1, Some(two));
        let deleted = line("v1", NOW, 1, None);
        let ahead = line("v1", NOW + 25 * HOUR, 1, Some(one));
        let other = line("v2", NOW + HOUR, 1, Some(one));
        let wrong = late.replace("v1", "v3");
        let of: Reference = "v1".parse().unwrap();
        let latest = |lines: &[&String]| {
            let there = latest_of(lines.iter().map(|line| line.as_str()), &of, Timestamp::from_millis(NOW));
            let mut back: Vec<_> = lines.iter().map(|line| line.as_str()).collect();
            back.reverse();
            assert_eq!(latest_of(back, &of, Timestamp::from_millis(NOW)), there);
            there.map(|record| record.target())
        };
        assert_eq!(latest(&[]), None);
        assert_eq!(latest(&[&early, &late, &deleted]), Some(Some(two)));
        assert_eq!(latest(&[&early, &deleted]), Some(None));
        assert_eq!(latest(&[&early, &ahead, &other, &wrong]), Some(Some(one)));
        assert_eq!(latest(&[&ahead, &other, &wrong]), None);
        // Of the same moment that of the larger writer.
        let same = line("v1", NOW, 2, Some(one));
        assert_eq!(latest(&[&same, &deleted]), Some(Some(one)));
    }
}
