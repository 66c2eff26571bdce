//! Whether a password is right, without paying bcrypt's price more than once for a pair.
//!
//! bcrypt costs tens of milliseconds of a core by design, and after a rotation a whole cluster sends the old password at
//! once. So: the verdict on a pair is remembered, right or wrong, under a keyed hash; the same pair is never checked
//! twice at once; checks run on threads of their own, a few at a time. What wrong passwords can do to right ones:
//! - a password that was right once (or stands in plain beside its hash) is answered from memory that wrong ones can't
//!   push out: it is a memory of its own;
//! - a right password that was never seen waits for its turn (`waiting`): wrong ones from elsewhere, and those of other
//!   names, delay it by a check each, however many there are; those of its own name and address come before it. After
//!   [`PATIENCE`] it is told to come again, and keeps its place meanwhile.
//!
//! Names that nobody has are treated like all others, in time too: a stand-in is checked, as dear as a user's own hash.

use std::collections::HashMap;
use std::str::FromStr as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use quick_cache::sync::Cache;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::waiting::{Crowded, MOST, Name, Net, Waiting};

/// bcrypt reads 72 bytes of a password and no more. A longer one is checked by its beginning, as by every other program
/// that reads such hashes.
pub(super) const BCRYPT_BYTES: usize = 72;

/// Highest cost that is taken: a check takes some ten seconds of a core.
const MOST_COST: u32 = 17;

/// Verdicts remembered: 32 bytes and some each.
pub(super) const REMEMBERED: usize = 4096;

/// Longest wait of a request for a verdict. Its place is kept, so who asks again goes on waiting where he was.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks for places whose clients have left, while there are no others.
const SWEEP: Duration = Duration::from_millis(100);

/// A check calls nothing deep.
const STACK_BYTES: usize = 256 * 1024;

/// The hash that a wrong password is held against where no user has one. Cost 10, as Deckhouse makes them; of no known
/// password.
pub(super) const NOBODY: &str = "$2y$10$lSdExLUrU9br1yjOEt5pk.IpKA8KyBIr.OvmG2/tDmv8bhkZJyrY2";

/// A keyed hash of user, password and stored hash.
type Pair = [u8; 32];

/// The secret of a user that a password is compared with.
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
    /// A bcrypt hash of one of the forms `$2a$`, `$2b$`, `$2y$`, `$2x$`, that can be checked: one of a cost above
    /// [`MOST_COST`] would hold a thread for minutes to days, for whoever sends a wrong password.
    pub(super) fn hashed(hash: &str) -> Result<Self, String> {
        match bcrypt::HashParts::from_str(hash) {
            Ok(parts) if hash.starts_with("$2") && parts.get_cost() <= MOST_COST => Ok(Self::Hashed(Arc::from(hash))),
            Ok(parts) if hash.starts_with("$2") => Err(format!(
                "has cost {}, a check would take minutes to days; make one of cost 10 with `d8-registry hash-password`",
                parts.get_cost()
            )),
            _ => Err("is no bcrypt hash ($2a$, $2b$ or $2y$); make one with `d8-registry hash-password`".to_owned()),
        }
    }

    /// A password that is known in plain.
    pub(super) fn plain(password: &str) -> Self {
        Self::Plain(sha256(password))
    }

    /// The hash, if that is what is known.
    pub(super) const fn hash(&self) -> Option<&Arc<str>> {
        match self {
            Self::Hashed(hash) => Some(hash),
            Self::Plain(_) => None,
        }
    }

    /// The cost of a check of the hash: it takes two to the power of this many rounds.
    pub(super) fn cost(&self) -> Option<u32> {
        bcrypt::HashParts::from_str(self.hash()?).ok().map(|parts| parts.get_cost())
    }

    /// Whether it is known in plain, and this.
    fn is_plainly(&self, password: &str) -> bool {
        matches!(self, Self::Plain(expected) if verify_slices_are_equal(&sha256(password), expected).is_ok())
    }

    /// Bytes that change when the password does, the same in every process.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Hashed(hash) => hash.as_bytes(),
            Self::Plain(digest) => digest,
        }
    }
}

/// The verdict was not there in time, or there was no place left to wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

pub(super) struct Passwords {
    key: hmac::Key,
    shared: Arc<Shared>,
    patience: Duration,
}

struct Shared {
    right: Cache<Pair, ()>,
    wrong: Cache<Pair, ()>,
    pending: Mutex<Pending>,
    /// Told when there is something to check, or nothing any more for ever.
    work: Condvar,
}

struct Pending {
    pairs: HashMap<Pair, Wanted>,
    /// Places of pairs whose check has begun stay until their turn and are passed over then.
    places: Waiting<(Net, Pair)>,
    swept: Option<Instant>,
    closed: bool,
}

/// A pair whose verdict is waited for.
struct Wanted {
    waiting: Vec<oneshot::Sender<Result<bool, TooMany>>>,
    /// Addresses at which it has a place: all that it was sent from, so that none waits behind another's crowd.
    nets: Vec<Net>,
    /// Taken when the check begins.
    check: Option<Check>,
}

/// A check to be made.
struct Check {
    /// As much of the password as bcrypt reads.
    password: Zeroizing<Vec<u8>>,
    hash: Arc<str>,
    known: bool,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}

impl Passwords {
    /// Checks run on `parallel` threads of their own: they must not take those of the disk.
    pub(super) fn new(parallel: usize) -> Self {
        Self::with_places(parallel, MOST)
    }

    fn with_places(parallel: usize, most: usize) -> Self {
        let mut key = [0; 32];
        // Without random bytes the key would be known, but it keys nothing outside this process's memory.
        let _ = aws_lc_rs::rand::fill(&mut key);
        let shared = Arc::new(Shared {
            right: Cache::new(REMEMBERED),
            wrong: Cache::new(REMEMBERED),
            pending: Mutex::new(Pending {
                pairs: HashMap::new(),
                places: Waiting::new(most),
                swept: None,
                closed: false,
            }),
            work: Condvar::new(),
        });
        for _ in 0..parallel {
            let shared = Arc::clone(&shared);
            let started = Builder::new().name("password".to_owned()).stack_size(STACK_BYTES).spawn(move || {
                while let Some((pair, check)) = shared.next() {
                    check.run(&shared, pair);
                }
            });
            if let Err(error) = started {
                tracing::error!(%error, "a thread for password checks can't be started");
            }
        }
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key), shared, patience: PATIENCE }
    }

    /// Checks a password now and remembers the verdict; blocking. `false`: it is not that of the hash.
    pub(super) fn learn(&self, user: &str, password: &str, secret: &Secret) -> bool {
        let Secret::Hashed(hash) = secret else { return secret.is_plainly(password) };
        let pair = self.pair(user, password, hash, true);
        let is_right =
            self.shared.right.get(&pair).is_some() || bcrypt::verify(read_of(password), hash).unwrap_or(false);
        if is_right {
            self.shared.right.insert(pair, ());
        }
        is_right
    }

    /// Whether the password is the user's; `secret` is `None` for a name that nobody has. `stand_in`: what wrong passwords
    /// are held against where there is no hash of the user's own, so that the answer takes as long.
    ///
    /// Safe to drop: the check keeps its place, and its verdict is remembered.
    ///
    /// # Errors
    /// [`TooMany`] after [`PATIENCE`], or at once where `from` and the name hold more places than anybody else.
    pub(super) async fn check(
        &self,
        user: &str,
        password: &str,
        secret: Option<&Secret>,
        stand_in: impl FnOnce() -> Arc<str>,
        from: Net,
    ) -> Result<bool, TooMany> {
        let hash = match secret {
            Some(secret) if secret.is_plainly(password) => return Ok(true),
            Some(Secret::Hashed(hash)) => Some(hash),
            Some(Secret::Plain(_)) | None => None,
        };
        let known = hash.is_some();
        let hash = hash.map_or_else(stand_in, Arc::clone);
        let pair = self.pair(user, password, &hash, known);
        if known && self.shared.right.get(&pair).is_some() {
            return Ok(true);
        }
        if self.shared.wrong.get(&pair).is_some() {
            return Ok(false);
        }
        let check = Check { password: Zeroizing::new(read_of(password).to_vec()), hash, known };
        let verdict = self.join(self.name(user), pair, check, from)?;
        match tokio::time::timeout(self.patience, verdict).await {
            // The sender is only dropped when the check panicked: then nobody was proven.
            Ok(verdict) => verdict.unwrap_or(Ok(false)),
            Err(_) => Err(TooMany),
        }
    }

    /// Waits with those who wait for the same pair, or begins its wait.
    fn join(
        &self,
        name: Name,
        pair: Pair,
        check: Check,
        from: Net,
    ) -> Result<oneshot::Receiver<Result<bool, TooMany>>, TooMany> {
        let (sender, receiver) = oneshot::channel();
        let mut pending = lock(&self.shared.pending);
        pending.sweep();
        let Pending { pairs, places, .. } = &mut *pending;
        if let Some(wanted) = pairs.get_mut(&pair) {
            if wanted.waiting.len().is_power_of_two() {
                // Whoever left need not be told.
                wanted.waiting.retain(|sender| !sender.is_closed());
            }
            wanted.waiting.push(sender);
            if wanted.check.is_none() || !places.is_roomy() || wanted.nets.contains(&from) {
                return Ok(receiver);
            }
            // Another place of its own; it has its first one in any case.
            if let Ok(gone) = places.push(from, name, (from, pair)) {
                wanted.nets.push(from);
                pending.displaced(gone);
            }
        } else {
            let gone = places.push(from, name, (from, pair)).map_err(|Crowded| TooMany)?;
            pairs.insert(pair, Wanted { waiting: vec![sender], nets: vec![from], check: Some(check) });
            pending.displaced(gone);
        }
        self.shared.work.notify_one();
        Ok(receiver)
    }

    /// `known`: whether the hash is the user's own. A verdict on a stand-in must not count when a user of that name comes.
    fn pair(&self, user: &str, password: &str, hash: &str, known: bool) -> Pair {
        self.keyed(&[user.as_bytes(), password.as_bytes(), hash.as_bytes(), &[u8::from(known)]])
    }

    fn name(&self, user: &str) -> Name {
        self.keyed(&[user.as_bytes()])
    }

    fn keyed(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut keyed = [0; 32];
        keyed.copy_from_slice(context.sign().as_ref());
        keyed
    }
}

impl Drop for Passwords {
    fn drop(&mut self) {
        lock(&self.shared.pending).closed = true;
        self.shared.work.notify_all();
    }
}

impl Pending {
    /// Gives up places that nobody waits at, when all are taken.
    fn sweep(&mut self) {
        if !self.places.is_full() || self.swept.is_some_and(|swept| swept.elapsed() < SWEEP) {
            return;
        }
        self.swept = Some(Instant::now());
        self.pairs
            .retain(|_, wanted| wanted.check.is_none() || wanted.waiting.iter().any(|sender| !sender.is_closed()));
        let pairs = &self.pairs;
        self.places.retain(|(_, pair)| pairs.get(pair).is_some_and(|wanted| wanted.check.is_some()));
    }

    /// A place was taken away: whoever has no other is told.
    fn displaced(&mut self, gone: Option<(Net, Pair)>) {
        let Some((net, pair)) = gone else { return };
        let Some(wanted) = self.pairs.get_mut(&pair).filter(|wanted| wanted.check.is_some()) else { return };
        wanted.nets.retain(|held| *held != net);
        if wanted.nets.is_empty()
            && let Some(wanted) = self.pairs.remove(&pair)
        {
            for sender in wanted.waiting {
                // Whoever left does not want to know.
                let _ = sender.send(Err(TooMany));
            }
        }
    }
}

impl Shared {
    /// The next check, when there is one; `None`: there will be no more.
    fn next(&self) -> Option<(Pair, Check)> {
        let mut pending = lock(&self.pending);
        loop {
            if pending.closed {
                return None;
            }
            let Pending { pairs, places, .. } = &mut *pending;
            while let Some((_, pair)) = places.pop() {
                if let Some(check) = pairs.get_mut(&pair).and_then(|wanted| wanted.check.take()) {
                    return Some((pair, check));
                }
            }
            pending = self.work.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Lets those who wait go if the check ends without a verdict. With one they are told, and whoever waits for the same pair from then
/// on waits for another check.
struct Begun<'a> {
    shared: &'a Shared,
    pair: Pair,
    has_verdict: bool,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if !self.has_verdict {
            lock(&self.shared.pending).pairs.remove(&self.pair);
        }
    }
}

impl Check {
    fn run(self, shared: &Shared, pair: Pair) {
        let mut begun = Begun { shared, pair, has_verdict: false };
        let right = bcrypt::verify(&*self.password, &self.hash).unwrap_or(false) && self.known;
        // Remembered before those who wait are told: who asks after that finds it.
        let memory = if right { &shared.right } else { &shared.wrong };
        memory.insert(pair, ());
        begun.has_verdict = true;
        let wanted = lock(&shared.pending).pairs.remove(&pair);
        for sender in wanted.into_iter().flat_map(|wanted| wanted.waiting) {
            // Whoever left does not want to know.
            let _ = sender.send(Ok(right));
        }
    }
}

/// The part of a password that bcrypt reads.
fn read_of(password: &str) -> &[u8] {
    let bytes = password.as_bytes();
    &bytes[..bytes.len().min(BCRYPT_BYTES)]
}

fn sha256(password: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, password.as_bytes()).as_ref());
    bytes
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
