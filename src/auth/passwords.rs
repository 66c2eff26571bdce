//! Whether a password is right, without paying bcrypt's price more than once for a pair.
//!
//! bcrypt costs tens of milliseconds of a core by design, and after a rotation a whole cluster sends the old password at
//! once. So: the verdict on a pair is remembered, right or wrong, under a keyed hash; the same pair is never checked
//! twice at once; checks run on blocking threads, a few at a time. What wrong passwords can do to right ones:
//! - a password that was right once (or stands in plain beside its hash) is answered from memory that wrong ones can't
//!   push out: it is a memory of its own;
//! - a right password that was never seen waits for at most [`PENDING_PER_USER`] checks of each user name before it, and
//!   is refused only if so many different passwords of the same user are waiting at that moment. Names that nobody has
//!   share one such queue.

use std::collections::HashMap;
use std::str::FromStr as _;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use quick_cache::sync::Cache;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

/// bcrypt reads so many bytes of a password and no more. A longer one is checked by its beginning, as by every other
/// program that reads such hashes.
pub(super) const BCRYPT_BYTES: usize = 72;

/// Verdicts remembered: 32 bytes and some each.
const REMEMBERED: usize = 4096;

/// Different unknown passwords of one user that wait at once.
const PENDING_PER_USER: usize = 16;

/// A check calls nothing deep.
const STACK_BYTES: usize = 256 * 1024;

/// The hash that an unknown user's password is held against, so that time does not tell who exists. Cost 10, as
/// Deckhouse makes them; of no known password.
const NOBODY: &str = "$2y$10$lSdExLUrU9br1yjOEt5pk.IpKA8KyBIr.OvmG2/tDmv8bhkZJyrY2";

/// A keyed hash of user, password and stored hash.
type Pair = [u8; 32];

/// What a password is held against.
pub(super) enum Secret {
    /// A bcrypt hash.
    Hashed(Arc<str>),
    /// The SHA-256 digest of a password that stands in plain in its file.
    Plain([u8; 32]),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Secret {
    /// A bcrypt hash of one of the forms `$2a$`, `$2b$`, `$2y$`, `$2x$`.
    pub(super) fn hashed(hash: &str) -> Result<Self, &'static str> {
        match bcrypt::HashParts::from_str(hash) {
            Ok(_) if hash.starts_with("$2") => Ok(Self::Hashed(Arc::from(hash))),
            _ => Err("is no bcrypt hash ($2a$, $2b$ or $2y$)"),
        }
    }

    /// A password that is known in plain.
    pub(super) fn plain(password: &str) -> Self {
        Self::Plain(sha256(password))
    }

    /// What changes when the password does, the same in every process.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Hashed(hash) => hash.as_bytes(),
            Self::Plain(digest) => digest,
        }
    }
}

/// Too many unknown passwords of this user are waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

pub(super) struct Passwords {
    key: hmac::Key,
    shared: Arc<Shared>,
    /// To the threads that check; they end when it is dropped.
    checks: Sender<Check>,
}

struct Shared {
    right: Cache<Pair, ()>,
    wrong: Cache<Pair, ()>,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    /// Who waits for the verdict on a pair.
    pairs: HashMap<Pair, Vec<oneshot::Sender<bool>>>,
    /// Pairs waiting, by user; `None`: names that nobody has.
    users: HashMap<Option<Arc<str>>, usize>,
}

/// A check to be made. Dropped, however it ends: who still waits is let go, and the place in the queue is free.
struct Check {
    pair: Pair,
    queue: Option<Arc<str>>,
    password: Zeroizing<String>,
    hash: Arc<str>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}

impl Passwords {
    /// Checks run on `parallel` threads of their own: they must not take those of the disk.
    pub(super) fn new(parallel: usize) -> Self {
        let mut key = [0; 32];
        // Without random bytes the key would be known, but it keys nothing outside this process's memory.
        let _ = aws_lc_rs::rand::fill(&mut key);
        let shared = Arc::new(Shared {
            right: Cache::new(REMEMBERED),
            wrong: Cache::new(REMEMBERED),
            pending: Mutex::default(),
        });
        let (checks, queue) = channel::<Check>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..parallel.max(1) {
            let queue = Arc::clone(&queue);
            let started = Builder::new().name("password".to_owned()).stack_size(STACK_BYTES).spawn(move || {
                while let Some(check) = next(&queue) {
                    check.run();
                }
            });
            if let Err(error) = started {
                tracing::error!(%error, "a thread for password checks can't be started");
            }
        }
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key), shared, checks }
    }

    /// Checks a password now and remembers the verdict; blocking.
    pub(super) fn learn(&self, user: &str, password: &str, secret: &Secret) {
        let pair = self.pair(user, password, secret.bytes());
        if let Secret::Hashed(hash) = secret
            && self.shared.right.get(&pair).is_none()
            && bcrypt::verify(password, hash).unwrap_or(false)
        {
            self.shared.right.insert(pair, ());
        }
    }

    /// Whether the password is the user's; `secret` is `None` for a name that nobody has.
    /// Safe to drop: a check that has begun ends and its verdict is remembered.
    pub(super) async fn check(&self, user: &str, password: &str, secret: Option<&Secret>) -> Result<bool, TooMany> {
        let hash = match secret {
            Some(Secret::Plain(expected)) => {
                return Ok(verify_slices_are_equal(&sha256(password), expected).is_ok());
            }
            Some(Secret::Hashed(hash)) => Arc::clone(hash),
            None => Arc::from(NOBODY),
        };
        let pair = self.pair(user, password, hash.as_bytes());
        if secret.is_some() && self.shared.right.get(&pair).is_some() {
            return Ok(true);
        }
        if self.shared.wrong.get(&pair).is_some() {
            return Ok(false);
        }
        let verdict = self.join(user, password, pair, hash, secret.is_some())?;
        // The sender is only dropped when the check panicked: then nobody was proven.
        Ok(verdict.await.unwrap_or(false))
    }

    /// Waits with those who wait for the same pair, or begins its check.
    fn join(
        &self,
        user: &str,
        password: &str,
        pair: Pair,
        hash: Arc<str>,
        known: bool,
    ) -> Result<oneshot::Receiver<bool>, TooMany> {
        let (sender, receiver) = oneshot::channel();
        let queue = known.then(|| Arc::<str>::from(user));
        {
            let mut pending = lock(&self.shared.pending);
            if let Some(waiting) = pending.pairs.get_mut(&pair) {
                waiting.push(sender);
                return Ok(receiver);
            }
            let count = pending.users.entry(queue.clone()).or_default();
            if *count >= PENDING_PER_USER {
                return Err(TooMany);
            }
            *count += 1;
            pending.pairs.insert(pair, vec![sender]);
        }
        let shared = Arc::clone(&self.shared);
        let check = Check { pair, queue, password: Zeroizing::new(password.to_owned()), hash, shared };
        // Nobody takes it when no thread could be started: it is dropped and the verdict is no.
        let _ = self.checks.send(check);
        Ok(receiver)
    }

    fn pair(&self, user: &str, password: &str, hash: &[u8]) -> Pair {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [user.as_bytes(), password.as_bytes(), hash] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut pair = [0; 32];
        pair.copy_from_slice(context.sign().as_ref());
        pair
    }
}

impl Check {
    fn run(self) {
        let right = bcrypt::verify(self.password.as_bytes(), &self.hash).unwrap_or(false) && self.queue.is_some();
        // Remembered before those who wait are told: who asks after that finds it.
        let memory = if right { &self.shared.right } else { &self.shared.wrong };
        memory.insert(self.pair, ());
        let waiting = lock(&self.shared.pending).pairs.remove(&self.pair).unwrap_or_default();
        for sender in waiting {
            // Whoever left does not want to know.
            let _ = sender.send(right);
        }
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        let mut pending = lock(&self.shared.pending);
        pending.pairs.remove(&self.pair);
        if let Some(count) = pending.users.get_mut(&self.queue) {
            *count -= 1;
            if *count == 0 {
                pending.users.remove(&self.queue);
            }
        }
    }
}

fn sha256(password: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, password.as_bytes()).as_ref());
    bytes
}

fn next(queue: &Mutex<Receiver<Check>>) -> Option<Check> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(password: &str) -> Secret {
        Secret::hashed(&bcrypt::hash(password, 4).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn right_is_right_and_wrong_is_wrong_however_often() {
        let (passwords, secret) = (Passwords::new(2), secret("s3cret"));
        for _ in 0..3 {
            assert_eq!(passwords.check("u", "s3cret", Some(&secret)).await, Ok(true));
            assert_eq!(passwords.check("u", "other", Some(&secret)).await, Ok(false));
            assert_eq!(passwords.check("nobody", "s3cret", None).await, Ok(false));
        }
    }

    #[tokio::test]
    async fn a_changed_hash_makes_the_old_verdicts_worthless() {
        let passwords = Passwords::new(1);
        let (old, new) = (secret("old"), secret("new"));
        assert_eq!(passwords.check("u", "old", Some(&old)).await, Ok(true));
        assert_eq!(passwords.check("u", "old", Some(&new)).await, Ok(false));
        assert_eq!(passwords.check("u", "new", Some(&new)).await, Ok(true));
    }

    #[tokio::test]
    async fn the_same_pair_waits_in_one_queue_and_different_ones_are_bounded() {
        // No thread takes the checks: everything waits.
        let mut passwords = Passwords::new(1);
        let (checks, queue) = channel();
        passwords.checks = checks;
        let hash: Arc<str> = Arc::from(NOBODY);
        let join = |password: &str| {
            let pair = passwords.pair("u", password, hash.as_bytes());
            passwords.join("u", password, pair, Arc::clone(&hash), true)
        };
        let same: Vec<_> = (0..100).map(|_| join("same").unwrap()).collect();
        assert_eq!(queue.try_iter().count(), 1);
        drop(same);
        // The one check was taken and dropped: the queue is empty again.
        for n in 0..PENDING_PER_USER {
            assert!(join(&format!("p{n}")).is_ok());
        }
        assert!(join("one more").is_err());
        let others = passwords.join("v", "p", passwords.pair("v", "p", b""), Arc::clone(&hash), true);
        assert!(others.is_ok());
    }

    #[tokio::test]
    async fn a_known_right_password_needs_no_check() {
        let (passwords, secret) = (Passwords::new(1), secret("s3cret"));
        passwords.learn("u", "s3cret", &secret);
        let (checks, _nobody_takes) = channel();
        let passwords = Passwords { checks, ..passwords };
        for n in 0..PENDING_PER_USER + 5 {
            let pair = passwords.pair("u", &n.to_string(), secret.bytes());
            let _ = passwords.join("u", &n.to_string(), pair, Arc::from(NOBODY), true);
        }
        assert_eq!(passwords.check("u", "s3cret", Some(&secret)).await, Ok(true));
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
        assert!(!format!("{:?}", Secret::hashed(&hash).unwrap()).contains("$2"));
    }
}
