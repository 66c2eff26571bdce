//! What masters say to each other of their records, as text. Pure.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;

use crate::clock::Timestamp;
use crate::oci::RepoName;
use crate::store::{BUCKETS, Record, RepositorySum, Sum};

/// The sums of repositories: a line each with name, sum and number of records.
#[must_use]
pub fn repository_lines(sums: &[(RepoName, RepositorySum)]) -> String {
    let mut text = String::with_capacity(sums.len() * 128);
    for (repo, RepositorySum { sum, records }) in sums {
        // Writing into a string fails never.
        let _ = writeln!(text, "{repo} {sum} {records}");
    }
    text
}

/// Reads them; `None`: it is none of ours.
pub(super) fn repositories(text: &str) -> Option<BTreeMap<RepoName, RepositorySum>> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let repo = words.next()?.parse().ok()?;
        let sum = Sum::of_bytes(&bytes_of(words.next()?)?)?;
        let records = words.next()?.parse().ok()?;
        words.next().is_none().then_some((repo, RepositorySum { sum, records }))
    };
    text.lines().map(line).collect()
}

/// The lines of records.
#[must_use]
pub fn lines_of(records: &[Record]) -> String {
    let mut text = String::with_capacity(records.len() * 150);
    for record in records {
        let _ = writeln!(text, "{record}");
    }
    text
}

/// What would go: a line each with the repository and the record, and `done`; or `failed` and why nothing would.
#[must_use]
pub fn removable_lines(removable: &Result<Vec<(RepoName, Record)>, String>) -> String {
    match removable {
        Ok(all) => {
            let mut text = String::with_capacity(all.len() * 200);
            for (repo, record) in all {
                let _ = writeln!(text, "{repo} {record}");
            }
            text + "done\n"
        }
        Err(why) => format!("failed {}\n", why.replace('\n', " ")),
    }
}

/// Reads them. Empty lines before them say that the other master is at it.
///
/// # Errors
/// A sentence, to stand behind the name of the master.
pub(super) fn removable(text: &str) -> Result<HashSet<(RepoName, Record)>, String> {
    let text = text.trim_start_matches('\n');
    if let Some(why) = text.strip_prefix("failed ") {
        return Err(format!("says: {}", why.trim_end()));
    }
    let lines = text.strip_suffix("done\n").ok_or("ended without a word")?;
    let line = |line: &str| {
        let (repo, record) = line.split_once(' ')?;
        Some((repo.parse().ok()?, record.parse().ok()?))
    };
    lines.lines().map(line).collect::<Option<_>>().ok_or_else(|| "told something that is no record".to_owned())
}

/// Reads them; `None`: one is none.
pub(super) fn records(text: &str) -> Option<Vec<Record>> {
    text.lines().map(|line| line.parse().ok()).collect()
}

/// Buckets as a path has them: a hexadecimal digit pair for each.
pub(super) fn bucket_path(buckets: &[u8]) -> String {
    let mut text = String::with_capacity(buckets.len() * 2);
    for bucket in buckets {
        let _ = write!(text, "{bucket:02x}");
    }
    text
}

/// Reads them; `None`: they are none, or more than there are.
#[must_use]
pub fn buckets_of(text: &str) -> Option<Vec<u8>> {
    bytes_of(text).filter(|buckets| !buckets.is_empty() && buckets.len() <= BUCKETS)
}

/// Reads the sum and the moment of an order to drop deletions: `<sum>-<milliseconds since 1970>`; `None`: it is none.
#[must_use]
pub fn order_of(text: &str) -> Option<(Sum, Timestamp)> {
    let (sum, moment) = text.split_once('-')?;
    let moment = Some(moment).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()?;
    Some((Sum::of_bytes(&bytes_of(sum)?)?, Timestamp::from_millis(moment)))
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let is_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    if !text.len().is_multiple_of(2) || !text.as_bytes().iter().all(is_hex) {
        return None;
    }
    text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// The sums of buckets.
pub(super) fn bucket_sums(bytes: &[u8]) -> Option<Vec<Sum>> {
    (bytes.len() == BUCKETS * Sum::LENGTH).then(|| bytes.chunks(Sum::LENGTH).filter_map(Sum::of_bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_and_nothing_else() {
        let sum = Sum::of_bytes(&[7; 32]).unwrap();
        let sums = vec![("a/b".parse().unwrap(), RepositorySum { sum, records: 12 })];
        let text = repository_lines(&sums);
        assert_eq!(repositories(&text), Some(sums.into_iter().collect()));
        assert_eq!(repositories(""), Some(BTreeMap::new()));
        let sum = "07".repeat(32);
        for wrong in [
            String::from("a"),
            format!("a {sum}"),
            format!("A {sum} 1"),
            String::from("a 07 1"),
            format!("a {sum} 1 2"),
        ] {
            assert_eq!(repositories(&wrong), None, "{wrong}");
        }
        assert_eq!(buckets_of(&bucket_path(&[0, 17, 255])), Some(vec![0, 17, 255]));
        for wrong in ["", "0", "0g", "0G", "AA", &"00".repeat(257)] {
            assert_eq!(buckets_of(wrong), None, "{wrong}");
        }
        assert_eq!(
            order_of(&format!("{sum}-17")),
            Some((Sum::of_bytes(&[7; 32]).unwrap(), Timestamp::from_millis(17)))
        );
        for wrong in
            ["", "-", "17", &format!("{sum}-"), &format!("{sum}-+1"), &format!("{sum}-1-"), &format!("07{sum}-1")]
        {
            assert_eq!(order_of(wrong), None, "{wrong}");
        }
        let record = "0000000000000001 0000000000000001 v1 -";
        let check = crate::oci::Algorithm::Sha256.digest(record.as_bytes()).hex()[..8].to_owned();
        let all = vec![("a/b".parse().unwrap(), format!("{record} {check}").parse::<Record>().unwrap())];
        let lines = removable_lines(&Ok(all.clone()));
        assert_eq!(removable(&format!("\n\n{lines}")), Ok(all.into_iter().collect()));
        assert_eq!(removable(&removable_lines(&Ok(Vec::new()))), Ok(HashSet::new()));
        assert_eq!(removable(&removable_lines(&Err("it\nrests".to_owned()))), Err("says: it rests".to_owned()));
        // One that was cut says nothing.
        for wrong in ["", "\n", "done", &lines[..lines.len() - 1], &lines[1..], &lines.replace("a/b", "A")] {
            assert!(removable(wrong).is_err(), "{wrong}");
        }
        assert_eq!(bucket_sums(&[1; 31]), None);
        assert_eq!(bucket_sums(&[0; 256 * 32]).map(|sums| sums.len()), Some(256));
        assert_eq!(records("no record\n"), None);
        assert_eq!(records(""), Some(Vec::new()));
    }
}
