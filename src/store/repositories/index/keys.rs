//! The index's keys: bytes whose order is the order of the lists.
//!
//! | key | value | answers |
//! |---|---|---|
//! | `t` repository `0x00` tag | empty | tag pages |
//! | `r` repository | empty | the catalog |
//! | `s` repository `0x00` subject referrer | descriptor, or empty | referrers |
//! | `m` | format, number of keys, stamp | whether the rest can be believed |
//!
//! A repository name can't hold a zero byte, so no key of one repository is a prefix of another's. A digest is
//! one byte for the algorithm and the raw digest, so two digests of different length can't be mixed up, and
//! their order is that of [`Digest`]. Pure.

use crate::oci::{Algorithm, Digest, RepoName};

/// The key of the index's own facts.
pub(super) const META: &[u8] = b"m";

const TAG: u8 = b't';
const REPOSITORY: u8 = b'r';
const REFERRER: u8 = b's';

/// What every tag key of `repo` begins with; its length is where the tag begins.
pub(super) fn tags_of(repo: &RepoName) -> Vec<u8> {
    of_repository(TAG, repo)
}

/// What every repository key begins with.
pub(super) fn repositories() -> Vec<u8> {
    vec![REPOSITORY]
}

/// The key that says that `repo` holds a manifest.
pub(super) fn repository(repo: &RepoName) -> Vec<u8> {
    joined(&[REPOSITORY], repo.as_str().as_bytes())
}

/// What every referrer key of `repo` begins with.
pub(super) fn referrers_in(repo: &RepoName) -> Vec<u8> {
    of_repository(REFERRER, repo)
}

/// What every key of a referrer of `subject` begins with.
pub(super) fn referrers_of(repo: &RepoName, subject: Digest) -> Vec<u8> {
    let mut key = referrers_in(repo);
    push_digest(&mut key, subject);
    key
}

/// The key of one referrer.
pub(super) fn referrer(repo: &RepoName, subject: Digest, referrer: Digest) -> Vec<u8> {
    let mut key = referrers_of(repo, subject);
    push_digest(&mut key, referrer);
    key
}

/// `prefix` followed by `rest`.
pub(super) fn joined(prefix: &[u8], rest: &[u8]) -> Vec<u8> {
    [prefix, rest].concat()
}

/// The first key after all that begin with `prefix`. No prefix of ours ends in `0xff`: the last byte is a letter,
/// a zero or a digest's, and for a digest's the carry is taken.
pub(super) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    end
}

/// Appends a digest in the form described in the head of this file.
pub(super) fn push_digest(key: &mut Vec<u8>, digest: Digest) {
    key.push(match digest.algorithm() {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
    });
    key.extend_from_slice(digest.as_bytes());
}

/// Takes a digest off the front; `None` if there is none.
pub(super) fn split_digest(bytes: &[u8]) -> Option<(Digest, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let algorithm = match first {
        1 => Algorithm::Sha256,
        2 => Algorithm::Sha512,
        _ => return None,
    };
    let (raw, rest) = rest.split_at_checked(algorithm.digest_len())?;
    Some((Digest::from_bytes(algorithm, raw)?, rest))
}

fn of_repository(kind: u8, repo: &RepoName) -> Vec<u8> {
    let name = repo.as_str().as_bytes();
    let mut key = Vec::with_capacity(name.len() + 2 + 130);
    key.push(kind);
    key.extend_from_slice(name);
    key.push(0);
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digests() -> impl Strategy<Value = Digest> {
        (any::<bool>(), proptest::collection::vec(any::<u8>(), 64)).prop_map(|(long, raw)| {
            let algorithm = if long { Algorithm::Sha512 } else { Algorithm::Sha256 };
            Digest::from_bytes(algorithm, &raw[..algorithm.digest_len()]).unwrap()
        })
    }

    proptest! {
        #[test]
        fn a_digest_comes_back_and_keeps_its_order(left in digests(), right in digests(), tail in any::<[u8; 3]>()) {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            push_digest(&mut a, left);
            push_digest(&mut b, right);
            prop_assert_eq!(a.cmp(&b), left.cmp(&right));
            a.extend_from_slice(&tail);
            prop_assert_eq!(split_digest(&a), Some((left, tail.as_slice())));
        }

        #[test]
        fn a_prefix_ends_after_its_last_key(prefix in "[a-z]{1,3}", carry in 0_usize..3, tail in any::<Vec<u8>>()) {
            let mut prefix = prefix.into_bytes();
            prefix.extend(std::iter::repeat_n(0xff, carry));
            let end = end_of(&prefix);
            prop_assert!(joined(&prefix, &tail) < end);
            prop_assert!(prefix < end && !end.starts_with(&prefix));
        }
    }

    #[test]
    fn no_repository_shares_keys_with_another() {
        let digest = Algorithm::Sha256.digest(b"");
        let names: Vec<RepoName> = ["a", "a/b", "a-b", "ab", "a.b"].map(|name| name.parse().unwrap()).into();
        for left in &names {
            for right in names.iter().filter(|right| *right != left) {
                assert!(!joined(&tags_of(left), b"x").starts_with(&tags_of(right)));
                assert!(!referrers_of(left, digest).starts_with(&referrers_in(right)));
            }
        }
    }
}
