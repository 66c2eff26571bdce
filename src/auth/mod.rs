//! The sign-in of a client and its rights. No HTTP server here: the edge hands in header values.
//!
//! `header` (what is shown) → `users` (who there is) → `passwords` (is it right? whose turn is it: `waiting`) → `tokens`
//! (signed, checked; `own_key`: the key where none is given) → `rights` (who may do what) → `challenge` (what a refused
//! client is told). `upstream_user` stands beside `users`: the upstream's own pair.

mod challenge;
mod failure;
mod header;
mod own_key;
mod passwords;
mod rights;
mod tokens;
mod upstream_user;
mod users;
mod waiting;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use futures_util::FutureExt as _;
use secrecy::{ExposeSecret as _, SecretString};

pub use challenge::{BASIC_CHALLENGE, SERVICE};
pub use failure::{AuthFailure, Forbidden};
pub use rights::{Action, Anonymous, Role, needed_scope};

use self::header::Shown;
use self::passwords::Passwords;
use self::rights::Scopes;
use self::tokens::{Subject, TokenService};
use self::upstream_user::{Pair, PairId, UpstreamUser};
use self::users::{User, Users};
use self::waiting::Net;
use crate::clock::{self, Timestamp};
use crate::oci::RepoName;

/// Most bytes remembered of sign-ins: two kinds of verdicts on passwords, 256 each, and tokens with their claims, 4 KiB each.
pub const REMEMBERED_BYTES: u64 = 2 * passwords::REMEMBERED as u64 * 256 + tokens::REMEMBERED as u64 * 4096;

/// A user from the configuration file.
#[derive(Clone, Debug)]
pub struct UserSpec {
    /// The name.
    pub name: String,
    /// A bcrypt hash.
    pub password_hash: SecretString,
    /// Its role.
    pub role: Role,
}

/// The token service's settings.
#[derive(Clone, Debug)]
pub struct TokenOptions {
    /// `None`: on as soon as there are users.
    pub enabled: Option<bool>,
    /// Life of a token.
    pub ttl: Duration,
    /// PEM of the signing key; `None`: one is made and kept in `key_dir`.
    pub signing_key_file: Option<PathBuf>,
    /// PEM of its certificate: only to prove that it belongs to the key.
    pub signing_cert_file: Option<PathBuf>,
    /// Directory in which a made key is kept; `None`: nowhere, it lasts as long as the process.
    pub key_dir: Option<PathBuf>,
}

/// Everything that decides who may do what.
#[derive(Clone, Debug)]
pub struct AuthOptions {
    /// Rights without credentials.
    pub anonymous: Anonymous,
    /// Users of the configuration file.
    pub users: Vec<UserSpec>,
    /// A folder of mounted Secrets, one folder a user.
    pub users_dir: Option<PathBuf>,
    /// The token service.
    pub token: TokenOptions,
}

/// A client whose credentials were proven.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The user's name; `None` for anonymous.
    pub user: Option<Arc<str>>,
    /// Rights of the token that was shown; `None`: no token, the role alone counts.
    scopes: Option<Arc<Scopes>>,
    /// The pair, if it is the upstream's.
    upstream: Option<PairId>,
    /// When the token that was shown holds no more, in seconds since 1970.
    expires: Option<u64>,
}

impl Identity {
    /// Nobody: a client that showed nothing, and needs no right of a user's.
    #[must_use]
    pub const fn anonymous() -> Self {
        Self { user: None, scopes: None, upstream: None, expires: None }
    }

    fn upstream(pair: Pair) -> Self {
        Self { user: Some(pair.name), scopes: None, upstream: Some(pair.id), expires: None }
    }

    /// Whether a token was shown: then only what is in its scopes may be looked at.
    #[must_use]
    pub const fn is_scoped(&self) -> bool {
        self.scopes.is_some()
    }

    /// The repositories that the token is good for pulling from, as many as its scopes; none without a token.
    pub fn readable(&self) -> impl Iterator<Item = RepoName> {
        self.scopes.iter().flat_map(|scopes| scopes.readable())
    }
}

/// A header and whom it was proven to come from; see [`Authenticator::sign_in`]. Wiped when dropped.
pub struct SignIn {
    header: Option<zeroize::Zeroizing<Vec<u8>>>,
    who: Identity,
    epoch: u64,
}

impl SignIn {
    /// The client.
    #[must_use]
    pub const fn who(&self) -> &Identity {
        &self.who
    }
}

impl std::fmt::Debug for SignIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignIn").field("user", &self.who.user).finish_non_exhaustive()
    }
}

/// An answer of the token service.
#[derive(Clone)]
pub struct IssuedToken {
    /// The JWT.
    pub token: String,
    /// Its life in seconds.
    pub expires_in: u64,
    /// When it was issued.
    pub issued_at: Timestamp,
}

impl std::fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedToken").field("expires_in", &self.expires_in).finish_non_exhaustive()
    }
}

/// Users or keys could not be loaded, or a token not signed; a sentence for the administrator, without secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuthError(pub String);

/// Checks credentials and rights; users and keys can be swapped while it works. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authenticator(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    policy: ArcSwap<Policy>,
    /// Outlives a reload: what it remembers is keyed by the stored hash too.
    passwords: Passwords,
    upstream: UpstreamUser,
    /// Moves on after every change of what counts: what was proven before it has to be proven again.
    epoch: AtomicU64,
}

/// All that a reload replaces at once.
#[derive(Debug)]
struct Policy {
    anonymous: Anonymous,
    users: Users,
    tokens: Option<TokenService>,
}

/// Users and keys that were loaded and are not in force yet.
#[derive(Debug)]
pub struct Prepared(Policy);

impl Policy {
    fn load(options: &AuthOptions, before: Option<&Self>, passwords: &Passwords) -> Result<Self, AuthError> {
        let held = before.map(|before| &before.users);
        let users = Users::load(&options.users, options.users_dir.as_deref(), held, passwords)?;
        let enabled = options.token.enabled.unwrap_or(!users.is_empty());
        let before = before.and_then(|before| before.tokens.as_ref());
        let tokens = enabled.then(|| TokenService::load(&options.token, before)).transpose()?;
        Ok(Self { anonymous: options.anonymous, users, tokens })
    }
}

impl Authenticator {
    /// Loads users and keys; blocking. At most `password_checks` bcrypt verifications run at once.
    ///
    /// # Errors
    /// [`AuthError`] names the file and what is wrong with it.
    pub fn load(options: &AuthOptions, password_checks: usize) -> Result<Self, AuthError> {
        let passwords = Passwords::new(password_checks.max(1));
        let policy = Policy::load(options, None, &passwords)?;
        Ok(Self(Arc::new(Inner {
            policy: ArcSwap::from_pointee(policy),
            passwords,
            upstream: UpstreamUser::default(),
            epoch: AtomicU64::new(0),
        })))
    }

    /// Loads again with `options`, without putting it into force: see [`Authenticator::commit`]. Blocking.
    /// A user whose Secret is half-written at this moment stays as it was.
    ///
    /// # Errors
    /// As [`Authenticator::load`].
    pub fn prepare(&self, options: &AuthOptions) -> Result<Prepared, AuthError> {
        let before = self.0.policy.load_full();
        Policy::load(options, Some(&before), &self.0.passwords).map(Prepared)
    }

    /// Puts what was prepared into force; requests that are being checked end by the rules they began with.
    pub fn commit(&self, prepared: Prepared) {
        self.0.policy.store(Arc::new(prepared.0));
        self.0.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Lets the users of upstreams sign in with role `ro`, before any user of such a name is looked for. A pair that is not
    /// among them any more is accepted for 15 minutes after the change; the same pairs again change nothing. None at all:
    /// neither they nor the pairs before are accepted, at once. Tokens end when the pair they were given for is not accepted
    /// any more.
    ///
    /// With [`TokenOptions::enabled`] left open the token service does not follow these users: say `Some(true)` there.
    pub fn set_upstream_users(&self, pairs: impl IntoIterator<Item = (String, SecretString)>) {
        let pairs: Vec<(String, SecretString)> = pairs.into_iter().collect();
        let pairs: Vec<_> = pairs.iter().map(|(name, password)| (name.as_str(), password.expose_secret())).collect();
        self.0.upstream.set(&pairs, Instant::now());
        self.0.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// How many users there are, those of upstreams included.
    #[must_use]
    pub fn user_count(&self) -> usize {
        self.0.policy.load().users.len() + self.0.upstream.count()
    }

    /// SHA-256 of the password hash of each user in force, in hexadecimal, by the user's name; those of upstreams are not among
    /// them.
    #[must_use]
    pub fn user_fingerprints(&self) -> BTreeMap<String, String> {
        self.0.policy.load().users.fingerprints()
    }

    /// Whether the token service is on.
    #[must_use]
    pub fn tokens_enabled(&self) -> bool {
        self.0.policy.load().tokens.is_some()
    }

    /// Warnings for the administrator about the users in force; sentences without secrets.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.0.policy.load().users.warnings().to_vec()
    }

    /// Proves who sends this `Authorization` header (its raw bytes; `None`: no header). `from`: the client's address, by
    /// which unknown passwords take turns.
    ///
    /// Waits for the check of an unknown password, 30 s at most. Safe to drop: the check keeps its place and its verdict
    /// is remembered.
    ///
    /// # Errors
    /// [`AuthFailure`].
    pub async fn authenticate(&self, authorization: Option<&[u8]>, from: IpAddr) -> Result<Identity, AuthFailure> {
        match authorization.map(Shown::read).transpose()? {
            None => self.authenticate_nobody(),
            Some(Shown::Bearer(token)) => self.authenticate_token(token),
            Some(Shown::Basic(pair)) => {
                let (user, password) = pair.parts();
                self.authenticate_password(user, password, from).await
            }
        }
    }

    /// As [`Authenticator::authenticate`], for who wants a token: a token is no proof there, it would buy one that is wider
    /// than itself or lives longer.
    ///
    /// # Errors
    /// [`AuthFailure`].
    pub async fn authenticate_for_token(
        &self,
        authorization: Option<&[u8]>,
        from: IpAddr,
    ) -> Result<Identity, AuthFailure> {
        match authorization.map(Shown::read).transpose()? {
            None => self.authenticate_nobody(),
            Some(Shown::Bearer(_)) => Err(AuthFailure::TokenShown),
            Some(Shown::Basic(pair)) => {
                let (user, password) = pair.parts();
                self.authenticate_password(user, password, from).await
            }
        }
    }

    fn authenticate_nobody(&self) -> Result<Identity, AuthFailure> {
        let anonymous = self.0.policy.load().anonymous;
        if anonymous == Anonymous::None { Err(AuthFailure::Missing) } else { Ok(Identity::anonymous()) }
    }

    /// Proves who sends this `Authorization` header, if that can be told at once: to be remembered for a connection.
    /// `None`: [`Authenticator::authenticate`] has to say it.
    #[must_use]
    pub fn sign_in(&self, authorization: Option<&[u8]>, from: IpAddr) -> Option<SignIn> {
        // Read first: what changes while it is proven makes it worth nothing.
        let epoch = self.0.epoch.load(Ordering::SeqCst);
        let who = self.authenticate(authorization, from).now_or_never()?.ok()?;
        Some(SignIn { header: authorization.map(|header| header.to_vec().into()), who, epoch })
    }

    /// The user of ours whom a refused header names; for the log alone, never for an answer. A name that is not ours is
    /// not told: it may be a password in the wrong place.
    #[must_use]
    pub fn named_in(&self, authorization: Option<&[u8]>) -> Option<Arc<str>> {
        match Shown::read(authorization?).ok()? {
            Shown::Basic(pair) => self.known(pair.parts().0),
            Shown::Bearer(token) => {
                let policy = self.0.policy.load();
                let user = policy.tokens.as_ref()?.signed_for(token)?;
                self.known(&user)
            }
        }
    }

    /// The name, if it is one of ours; for the log alone, never for an answer.
    #[must_use]
    pub fn known(&self, name: &str) -> Option<Arc<str>> {
        let policy = self.0.policy.load();
        policy
            .users
            .find(name)
            .map(|user| Arc::clone(&user.name))
            .or_else(|| self.0.upstream.named(name, Instant::now()))
    }

    /// Whether this header would be proven again as it was then.
    #[must_use]
    pub fn is_same(&self, sign_in: &SignIn, authorization: Option<&[u8]>, now: Timestamp) -> bool {
        // In constant time: on a proxy's connection the header before may be another client's.
        let same = match (&sign_in.header, authorization) {
            (Some(before), Some(header)) => verify_slices_are_equal(before, header).is_ok(),
            (None, None) => true,
            _ => false,
        };
        same && sign_in.epoch == self.0.epoch.load(Ordering::SeqCst)
            && sign_in.who.expires.is_none_or(|expires| now.as_secs() < expires)
    }

    /// Proves name and password. Safe to drop, as [`Authenticator::authenticate`].
    ///
    /// # Errors
    /// [`AuthFailure::WrongPassword`], [`AuthFailure::TooMany`].
    pub async fn authenticate_password(
        &self,
        user: &str,
        password: &str,
        from: IpAddr,
    ) -> Result<Identity, AuthFailure> {
        if let Some(pair) = self.0.upstream.find(user, password, Instant::now()) {
            return Ok(Identity::upstream(pair));
        }
        let policy = self.0.policy.load_full();
        let known = policy.users.find(user);
        let (secret, stand_in) = (known.map(|user| &user.secret), || policy.users.stand_in(user));
        match self.0.passwords.check(user, password, secret, stand_in, Net::of(from)).await {
            Ok(true) => Ok(Identity { user: known.map(|user| Arc::clone(&user.name)), ..Identity::anonymous() }),
            Ok(false) => Err(AuthFailure::WrongPassword),
            Err(passwords::TooMany) => Err(AuthFailure::TooMany),
        }
    }

    fn authenticate_token(&self, token: &str) -> Result<Identity, AuthFailure> {
        let policy = self.0.policy.load();
        let service = policy.tokens.as_ref().ok_or(AuthFailure::BadToken)?;
        let claims = service.verify(token, clock::now()).ok_or(AuthFailure::BadToken)?;
        let (scopes, expires) = (Some(Arc::clone(&claims.scopes)), Some(claims.holds_until()));
        let Some(name) = &claims.user else { return Ok(Identity { scopes, expires, ..Identity::anonymous() }) };
        // A token lives no longer than the password it was given for.
        let is_for = |secret: &[u8]| service.fingerprint(secret) == claims.password;
        if let Some(pair) = self.0.upstream.find_by(name, Instant::now(), |id| is_for(id.bytes())) {
            return Ok(Identity { scopes, expires, ..Identity::upstream(pair) });
        }
        let user = policy.users.find(name).filter(|user| is_for(user.secret.bytes())).ok_or(AuthFailure::BadToken)?;
        Ok(Identity { user: Some(Arc::clone(&user.name)), scopes, upstream: None, expires })
    }

    /// Whether the identity may do `action` (on `repo`; none for the catalog). The user's role is the present one, so a
    /// token loses what its user loses.
    ///
    /// # Errors
    /// [`Forbidden`].
    pub fn authorize(&self, who: &Identity, action: Action, repo: Option<&RepoName>) -> Result<(), Forbidden> {
        let policy = self.0.policy.load();
        if let Some(scopes) = &who.scopes
            && !scopes.hold(action, repo)
        {
            return Err(Forbidden::Scope(needed_scope(action, repo)));
        }
        if self.may(&policy, who, action) {
            Ok(())
        } else if who.user.is_none() {
            Err(Forbidden::NeedsCredentials(needed_scope(action, repo)))
        } else {
            Err(Forbidden::Right(self.limits(&policy, who)))
        }
    }

    /// The present role of a user; `None` for anonymous, and for the upstream's pair, which is no user of ours.
    #[must_use]
    pub fn role(&self, who: &Identity) -> Option<Role> {
        let name = who.user.as_deref().filter(|_| who.upstream.is_none())?;
        self.0.policy.load().users.find(name).map(|user| user.role)
    }

    /// The rights that a refused client does have, in words.
    fn limits(&self, policy: &Policy, who: &Identity) -> String {
        let name = who.user.as_deref().unwrap_or_default();
        let role = match who.upstream {
            Some(id) => self.0.upstream.accepts(id, Instant::now()).then_some(Role::Ro),
            None => policy.users.find(name).map(|user| user.role),
        };
        match role {
            Some(role) => format!("user {name} {}", role.limits()),
            None => format!("user {name} may not sign in here any more"),
        }
    }

    /// A token for the asked scopes (`repository:<name>:<actions>`, `registry:catalog:*`), cut to what the identity may.
    /// Scopes that can't be read are left out, and so is what `who`'s own token, if one was shown, does not hold.
    ///
    /// # Errors
    /// [`AuthError`] if tokens are off or this one can't be signed.
    pub fn issue_token(&self, who: &Identity, scopes: &[String], now: Timestamp) -> Result<IssuedToken, AuthError> {
        let policy = self.0.policy.load();
        let service = policy.tokens.as_ref().ok_or_else(|| AuthError("the token service is off".to_owned()))?;
        let mut granted = Scopes::parse(scopes).keep(|action| self.may(&policy, who, action));
        if let Some(own) = &who.scopes {
            granted = granted.within(own);
        }
        let subject = match (&who.user, &who.upstream) {
            (Some(name), Some(id)) => Some(Subject { name, secret: id.bytes() }),
            (Some(name), None) => policy.users.find(name).map(User::subject),
            (None, _) => None,
        };
        service.issue(subject, &granted, now)
    }

    /// A user that is gone may nothing.
    fn may(&self, policy: &Policy, who: &Identity, action: Action) -> bool {
        match (&who.user, who.upstream) {
            (_, Some(id)) => Role::Ro.may(action) && self.0.upstream.accepts(id, Instant::now()),
            (Some(name), None) => policy.users.find(name).is_some_and(|user| user.role.may(action)),
            (None, None) => policy.anonymous.may(action),
        }
    }
}

/// A bcrypt hash of a password, as `usersDir` and `auth.users` take it.
///
/// # Errors
/// [`AuthError`] for an empty password, one longer than the 72 bytes that bcrypt reads, or a cost outside 4 to 31.
pub fn hash_password(password: &str, cost: u32) -> Result<String, AuthError> {
    if password.is_empty() {
        return Err(AuthError("the password is empty".to_owned()));
    }
    if password.len() > passwords::BCRYPT_BYTES {
        return Err(AuthError("the password is longer than the 72 bytes that bcrypt reads".to_owned()));
    }
    bcrypt::hash(password, cost).map_err(|error| AuthError(format!("the password can't be hashed: {error}")))
}

#[cfg(test)]
mod tests;
