//! Verdicts, and who gets one.

use std::net::IpAddr;

use super::*;

fn secret(password: &str) -> Secret {
    Secret::hashed(&bcrypt::hash(password, 4).unwrap()).unwrap()
}

fn net(last: u8) -> Net {
    Net::of(IpAddr::from([10, 0, 0, last]))
}

async fn check(passwords: &Passwords, user: &str, password: &str, secret: Option<&Secret>) -> Result<bool, TooMany> {
    passwords.check(user, password, secret, stand_in, net(1)).await
}

/// A cheap one: what it costs is not what is tested here.
fn stand_in() -> Arc<str> {
    Arc::from(NOBODY.replacen("$10$", "$04$", 1))
}

/// Begins to wait, without a thread that checks.
fn join(passwords: &Passwords, from: u8, user: &str, password: &str) -> Result<Waiter, TooMany> {
    let hash = stand_in();
    let check = Check { password: Zeroizing::new(password.into()), hash: Arc::clone(&hash), known: true };
    passwords.join(passwords.name(user), passwords.pair(user, password, &hash, true), check, net(from))
}

type Waiter = oneshot::Receiver<Result<bool, TooMany>>;

/// Passwords in the order in which they would be checked.
fn order(passwords: &Passwords, count: usize) -> Vec<String> {
    (0..count)
        .map(|_| {
            let (pair, check) = passwords.shared.next().unwrap();
            lock(&passwords.shared.pending).pairs.remove(&pair);
            String::from_utf8(check.password.to_vec()).unwrap()
        })
        .collect()
}

#[tokio::test]
async fn right_is_right_and_wrong_is_wrong_however_often() {
    let passwords = Passwords::new(2);
    for secret in [secret("s3cret"), Secret::plain("s3cret")] {
        for _ in 0..3 {
            assert_eq!(check(&passwords, "u", "s3cret", Some(&secret)).await, Ok(true));
            assert_eq!(check(&passwords, "u", "other", Some(&secret)).await, Ok(false));
            assert_eq!(check(&passwords, "nobody", "s3cret", None).await, Ok(false));
        }
    }
}

/// Law: a right password is never called wrong, also of those who ask at the moment at which another one's verdict comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_asks_while_a_verdict_comes_gets_the_same() {
    let secret = Arc::new(secret("s3cret"));
    for _ in 0..300 {
        let passwords = Arc::new(Passwords::new(2));
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (passwords, secret) = (Arc::clone(&passwords), Arc::clone(&secret));
            asking.spawn(async move {
                // The first ones make the check; the others come while it ends.
                let mut verdicts = Vec::new();
                for _ in 0..4 {
                    verdicts.push(check(&passwords, "u", "s3cret", Some(&secret)).await);
                    tokio::task::yield_now().await;
                }
                verdicts
            });
        }
        for verdicts in asking.join_all().await {
            assert_eq!(verdicts, [Ok(true); 4]);
        }
    }
}

#[tokio::test]
async fn a_changed_hash_makes_the_old_verdicts_worthless() {
    let passwords = Passwords::new(1);
    let (old, new) = (secret("old"), secret("new"));
    assert_eq!(check(&passwords, "u", "old", Some(&old)).await, Ok(true));
    assert_eq!(check(&passwords, "u", "old", Some(&new)).await, Ok(false));
    assert_eq!(check(&passwords, "u", "new", Some(&new)).await, Ok(true));
}

#[tokio::test]
async fn a_name_that_comes_to_be_is_not_judged_by_what_stood_in_for_it() {
    let passwords = Passwords::new(1);
    let hash: Arc<str> = Arc::from(bcrypt::hash("s3cret", 4).unwrap());
    let before = passwords.check("u", "s3cret", None, || Arc::clone(&hash), net(1)).await;
    assert_eq!(before, Ok(false), "the right password of whoever's hash stands in");
    let now = Secret::Hashed(Arc::clone(&hash));
    assert_eq!(passwords.check("u", "s3cret", Some(&now), || Arc::clone(&hash), net(1)).await, Ok(true));
}

/// A wrong password of a user whose password is known in plain is as dear as any other: time tells no names.
#[tokio::test]
async fn every_wrong_password_costs_a_check() {
    let passwords = Passwords::with_places(0, 8);
    let plain = Secret::plain("s3cret");
    let hashed = secret("s3cret");
    assert_eq!(check(&passwords, "plain", "s3cret", Some(&plain)).await, Ok(true));
    for (user, held) in [("plain", Some(&plain)), ("hashed", Some(&hashed)), ("nobody", None)] {
        let wrong = passwords.check(user, "wrong", held, stand_in, net(1));
        assert!(futures_util::FutureExt::now_or_never(wrong).is_none(), "{user}");
        let (_, check) = passwords.shared.next().unwrap();
        assert_eq!(bcrypt::HashParts::from_str(&check.hash).unwrap().get_cost(), 4, "{user}");
    }
}

#[test]
fn the_same_pair_is_checked_once_whoever_sends_it() {
    let passwords = Passwords::with_places(0, 200);
    for n in 0..50 {
        join(&passwords, 1, "u", &format!("wrong{n}")).unwrap();
    }
    let waiting: Vec<_> = (0..40).map(|n| join(&passwords, 1 + n % 4, "u", "same").unwrap()).collect();
    // Not behind the crowd of the first address: the second one's place comes first.
    assert_eq!(order(&passwords, 2), ["wrong0", "same"]);
    drop(waiting);
    assert_eq!(order(&passwords, 49), (1..50).map(|n| format!("wrong{n}")).collect::<Vec<_>>());
    assert!(lock(&passwords.shared.pending).pairs.is_empty());
}

/// After a rotation a whole cluster sends one wrong password: that leaves places for others.
#[test]
fn one_pair_from_everywhere_does_not_take_every_place() {
    let passwords = Passwords::with_places(0, 16);
    let _nodes: Vec<_> = (0..200).map(|node| join(&passwords, node, "u", "old").unwrap()).collect();
    for n in 0..8 {
        assert!(join(&passwords, 201 + n, "u", &format!("p{n}")).is_ok());
    }
}

#[test]
fn who_is_pushed_out_is_told_and_who_left_makes_room() {
    let passwords = Passwords::with_places(0, 4);
    let mut crowd: Vec<_> = (0..4).map(|n| join(&passwords, 1, "u", &format!("wrong{n}")).unwrap()).collect();
    assert!(join(&passwords, 1, "u", "one more").is_err());
    let mut right = join(&passwords, 2, "u", "right").unwrap();
    assert_eq!(crowd[3].try_recv(), Ok(Err(TooMany)), "the newest of who holds most");
    assert!(crowd[2].try_recv().is_err() && right.try_recv().is_err(), "the others wait on");
    crowd.truncate(1);
    lock(&passwords.shared.pending).swept = None;
    let _again = join(&passwords, 1, "u", "one more").unwrap();
    assert_eq!(order(&passwords, 3), ["wrong0", "right", "one more"]);
}

#[tokio::test]
async fn a_verdict_that_is_late_is_asked_for_again() {
    let mut passwords = Passwords::with_places(0, 4);
    passwords.patience = Duration::ZERO;
    let secret = secret("s3cret");
    assert_eq!(check(&passwords, "u", "s3cret", Some(&secret)).await, Err(TooMany));
    let (pair, late) = passwords.shared.next().expect("its place is kept");
    late.run(&passwords.shared, pair);
    assert_eq!(check(&passwords, "u", "s3cret", Some(&secret)).await, Ok(true));
}

#[tokio::test]
async fn a_known_right_password_needs_no_check() {
    let passwords = Passwords::with_places(0, 4);
    let secret = secret("s3cret");
    assert!(passwords.learn("u", "s3cret", &secret) && !passwords.learn("u", "other", &secret));
    let _crowd: Vec<_> = (0..4).map(|n| join(&passwords, 1, "u", &n.to_string()).unwrap()).collect();
    assert_eq!(check(&passwords, "u", "s3cret", Some(&secret)).await, Ok(true));
}

#[tokio::test]
async fn a_long_password_costs_no_more_memory_than_bcrypt_reads() {
    let passwords = Passwords::with_places(0, 4);
    let long = "x".repeat(100_000);
    let secret = secret("s3cret");
    let waits = passwords.check("u", &long, Some(&secret), stand_in, net(1));
    assert!(futures_util::FutureExt::now_or_never(waits).is_none());
    assert_eq!(passwords.shared.next().unwrap().1.password.len(), BCRYPT_BYTES);
}

#[test]
fn only_bcrypt_hashes_are_taken() {
    for hash in ["", "secret", "$1$abc", "$2b$04$short", "{SHA}x"] {
        assert!(Secret::hashed(hash).is_err(), "{hash}");
    }
    let hash = bcrypt::hash("x", 4).unwrap();
    for version in ["$2a$", "$2b$", "$2y$"] {
        assert!(Secret::hashed(&hash.replacen("$2b$", version, 1)).is_ok());
    }
    assert!(Secret::hashed(&hash.replacen("$04$", "$17$", 1)).is_ok());
    for dear in ["$18$", "$31$"] {
        assert!(Secret::hashed(&hash.replacen("$04$", dear, 1)).unwrap_err().contains("cost"), "{dear}");
    }
    assert!(!format!("{:?}", Secret::hashed(&hash).unwrap()).contains("$2"));
}
