//! The users: of the configuration file, and of a folder of mounted Secrets.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use secrecy::ExposeSecret as _;

use super::passwords::{NOBODY, Passwords, Secret};
use super::tokens::Subject;
use super::{AuthError, Role, UserSpec};
use crate::oci::Algorithm;

/// Longest file of a Secret that is read.
const FILE_BYTES: u64 = 64 * 1024;

/// From this cost on a check of a password takes more than a second of a core.
const DEAR_COST: u32 = 15;

#[derive(Debug)]
pub(super) struct User {
    pub(super) name: Arc<str>,
    pub(super) role: Role,
    pub(super) secret: Secret,
    /// The file or key that the user is from, for messages.
    origin: String,
}

impl User {
    /// Whom a token for this user is for.
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject { name: &self.name, secret: self.secret.bytes() }
    }
}

#[derive(Debug, Default)]
pub(super) struct Users {
    by_name: HashMap<Arc<str>, Arc<User>>,
    /// Every user's hash, sorted; see [`Users::stand_in`].
    hashes: Vec<Arc<str>>,
    /// A digest of them all.
    seed: [u8; 32],
    /// Sentences for the administrator: what was found that works, and probably not as it was meant.
    warnings: Vec<String>,
}

impl Users {
    /// Loads all of them; blocking.
    ///
    /// A Secret that is half-written (a file missing, a hash that can't be read) keeps the user that came from the same
    /// folder before; if there was none, it is left out with a warning: the mount may become whole in a moment, and the
    /// others must be able to sign in meanwhile.
    pub(super) fn load(
        specs: &[UserSpec],
        folder: Option<&Path>,
        before: Option<&Self>,
        passwords: &Passwords,
    ) -> Result<Self, AuthError> {
        let mut users = Self::default();
        for spec in specs {
            let secret = Secret::hashed(spec.password_hash.expose_secret())
                .map_err(|reason| AuthError(format!("auth.users: {}: passwordHash {reason}", spec.name)))?;
            check_name(&spec.name).map_err(|reason| AuthError(format!("auth.users: {reason}")))?;
            let origin = "auth.users".to_owned();
            users.add(User { name: Arc::from(spec.name.as_str()), role: spec.role, secret, origin }.into())?;
        }
        if let Some(folder) = folder {
            users.load_folder(folder, before, passwords)?;
        }
        let mut found: Vec<&Arc<User>> = users.by_name.values().collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        for user in &found {
            if let Some(cost) = user.secret.cost().filter(|cost| *cost >= DEAR_COST) {
                users.warnings.push(format!(
                    "{}: the hash of user {} has cost {cost}: each check of an unknown password takes seconds of a core; \
                     make one of cost 10 with `d8-registry hash-password`",
                    user.origin, user.name
                ));
            }
        }
        users.hashes = found.iter().filter_map(|user| user.secret.hash().cloned()).collect();
        users.hashes.sort();
        let mut context = Context::new(&SHA256);
        for hash in &users.hashes {
            context.update(hash.as_bytes());
        }
        users.seed.copy_from_slice(context.finish().as_ref());
        Ok(users)
    }

    fn load_folder(&mut self, folder: &Path, before: Option<&Self>, passwords: &Passwords) -> Result<(), AuthError> {
        let failed = |error: &std::io::Error| AuthError(format!("auth.usersDir {}: {error}", folder.display()));
        let entries = std::fs::read_dir(folder).map_err(|error| failed(&error))?;
        let mut names: Vec<_> = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<_, _>>()
            .map_err(|error| failed(&error))?;
        names.sort();
        // Kubernetes keeps the real files behind `..data` and its like.
        names.retain(|name| !name.as_encoded_bytes().starts_with(b"."));
        let is_flat = names.iter().any(|name| folder.join(name).is_file());
        if is_flat {
            self.warnings.push(format!(
                "auth.usersDir {}: there are files in it, which are passed over: it holds a folder for each user, so a user's \
                 Secret is mounted at {}",
                folder.display(),
                folder.join("NAME").display()
            ));
        }
        let mut folders = 0;
        for name in names {
            let path = folder.join(&name);
            match path.metadata() {
                Ok(found) if found.is_dir() => folders += 1,
                Ok(_) => continue,
                Err(error) => {
                    self.warnings.push(format!("auth.usersDir: {} can't be looked at: {error}", path.display()));
                    continue;
                }
            }
            let origin = path.display().to_string();
            match read_secret(&path, passwords, &mut self.warnings) {
                Ok(user) => self.add(Arc::new(user))?,
                Err(reason) => {
                    let kept = before.and_then(|users| users.by_name.values().find(|user| user.origin == origin));
                    let becomes = kept.map_or("nobody can sign in by it", |_| "the user that it held before stays");
                    self.warnings.push(format!("auth.usersDir: {origin} can't be used: {reason}; {becomes}"));
                    if let Some(user) = kept {
                        self.add(Arc::clone(user))?;
                    }
                }
            }
        }
        if folders == 0 && !is_flat {
            self.warnings.push(format!(
                "auth.usersDir {} is empty: nobody can sign in by it; it holds a folder for each user with the files name and \
                 passwordHash or password",
                folder.display()
            ));
        }
        Ok(())
    }

    /// The hash that passwords of a name are compared with that no user has: the hash of a user, always the same one for
    /// the same name, in every process. So the time of an answer tells nothing of a name, whatever the hashes cost.
    pub(super) fn stand_in(&self, name: &str) -> Arc<str> {
        let Some(last) = self.hashes.len().checked_sub(1) else { return Arc::from(NOBODY) };
        let mut context = Context::new(&SHA256);
        context.update(&self.seed);
        context.update(name.as_bytes());
        let mut number = [0; 8];
        number.copy_from_slice(&context.finish().as_ref()[..8]);
        let at = usize::try_from(u64::from_le_bytes(number) % (last as u64 + 1)).unwrap_or(last);
        Arc::clone(&self.hashes[at])
    }

    /// Warnings for the administrator; sentences without secrets.
    pub(super) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn add(&mut self, user: Arc<User>) -> Result<(), AuthError> {
        if let Some(other) = self.by_name.get(&user.name) {
            return Err(AuthError(format!(
                "user {} stands twice: in {} and in {}",
                user.name, other.origin, user.origin
            )));
        }
        self.by_name.insert(Arc::clone(&user.name), user);
        Ok(())
    }

    pub(super) fn find(&self, name: &str) -> Option<&User> {
        self.by_name.get(name).map(AsRef::as_ref)
    }

    /// SHA-256 of each user's stored hash, in hexadecimal, by name.
    pub(super) fn fingerprints(&self) -> BTreeMap<String, String> {
        let of = |user: &Arc<User>| (user.name.to_string(), Algorithm::Sha256.digest(user.secret.bytes()).hex());
        self.by_name.values().map(of).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }
}

/// A name that Basic can carry and a log line can show.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 255 || name.chars().any(|c| c == ':' || c.is_control()) {
        let shown = name.escape_debug();
        return Err(format!("user \"{shown}\": a name has 1 to 255 bytes, no colon and no control character"));
    }
    Ok(())
}

fn read_secret(folder: &Path, passwords: &Passwords, warnings: &mut Vec<String>) -> Result<User, String> {
    let name = read(folder, "name")?.ok_or("its file name is missing or empty")?;
    check_name(&name)?;
    let role = match read(folder, "role")? {
        Some(text) => Role::named(&text).map_err(|error| format!("file role: {error}"))?,
        None => Role::named(&name).unwrap_or(Role::Ro),
    };
    let (hash, password) = (read(folder, "passwordHash")?, read(folder, "password")?);
    let secret = match (hash, password) {
        (Some(hash), password) => {
            let secret = Secret::hashed(&hash).map_err(|reason| format!("file passwordHash {reason}"))?;
            // The plain password beside its hash tells the verdict before the first client asks. One that costs minutes
            // would keep the server from starting.
            let is_cheap = secret.cost().is_none_or(|cost| cost <= DEAR_COST);
            if let Some(password) = password.filter(|_| is_cheap)
                && !passwords.learn(&name, &password, &secret)
            {
                warnings.push(format!(
                    "auth.usersDir: {}: the password is not the one of the passwordHash beside it, which alone counts: who signs \
                     in with this password is refused",
                    folder.display()
                ));
            }
            secret
        }
        (None, Some(password)) => Secret::plain(&password),
        (None, None) => {
            return Err("it has neither a file passwordHash nor a file password, or they are empty".to_owned());
        }
    };
    Ok(User { name: Arc::from(name), role, secret, origin: folder.display().to_string() })
}

/// A file of a Secret without its final newline; `None` if it is missing or empty.
fn read(folder: &Path, file: &str) -> Result<Option<String>, String> {
    use std::io::Read as _;
    let path = folder.join(file);
    let opened = match std::fs::File::open(&path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("file {file}: {error}")),
    };
    let mut text = String::new();
    opened.take(FILE_BYTES).read_to_string(&mut text).map_err(|error| format!("file {file}: {error}"))?;
    let text = text.trim_end_matches(['\n', '\r']);
    Ok((!text.is_empty()).then(|| text.to_owned()))
}
