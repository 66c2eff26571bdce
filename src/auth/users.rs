//! The users: of the configuration file, and of a folder of mounted Secrets.

use std::collections::HashMap;
use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;

use secrecy::ExposeSecret as _;

use super::passwords::{Passwords, Secret};
use super::tokens::Subject;
use super::{AuthError, Role, UserSpec};

/// Longest file of a Secret that is read.
const FILE_BYTES: u64 = 64 * 1024;

#[derive(Debug)]
pub(super) struct User {
    pub(super) name: Arc<str>,
    pub(super) role: Role,
    pub(super) secret: Secret,
    /// Where it stands, for messages.
    origin: String,
}

impl User {
    /// Whom a token for this user is for.
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject { name: &self.name, secret: self.secret.bytes() }
    }
}

#[derive(Debug, Default)]
pub(super) struct Users(HashMap<Arc<str>, Arc<User>>);

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
        for name in names {
            let path = folder.join(&name);
            // Kubernetes keeps the real files behind `..data` and its like.
            if name.as_encoded_bytes().starts_with(b".") || !path.is_dir() {
                continue;
            }
            let origin = path.display().to_string();
            match read_secret(&path, passwords) {
                Ok(user) => self.add(Arc::new(user))?,
                Err(reason) => {
                    let kept = before.and_then(|users| users.0.values().find(|user| user.origin == origin));
                    tracing::warn!(folder = %origin, %reason, kept = kept.is_some(), "a user's Secret can't be used");
                    if let Some(user) = kept {
                        self.add(Arc::clone(user))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, user: Arc<User>) -> Result<(), AuthError> {
        if let Some(other) = self.0.get(&user.name) {
            return Err(AuthError(format!(
                "user {} stands twice: in {} and in {}",
                user.name, other.origin, user.origin
            )));
        }
        self.0.insert(Arc::clone(&user.name), user);
        Ok(())
    }

    pub(super) fn find(&self, name: &str) -> Option<&User> {
        self.0.get(name).map(AsRef::as_ref)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A name that Basic can carry and a log line can show.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 255 || name.chars().any(|c| c == ':' || c.is_control()) {
        return Err(format!("user {name:?}: a name is 1 to 255 characters, no colon, no control characters"));
    }
    Ok(())
}

fn read_secret(folder: &Path, passwords: &Passwords) -> Result<User, String> {
    let name = read(folder, "name")?.ok_or("it has no file name")?;
    check_name(&name)?;
    let role = match read(folder, "role")? {
        Some(text) => Role::from_str(&text).map_err(|error| format!("file role: {error}"))?,
        None => Role::from_str(&name).unwrap_or(Role::Ro),
    };
    let (hash, password) = (read(folder, "passwordHash")?, read(folder, "password")?);
    let secret = match (hash, password) {
        (Some(hash), password) => {
            let secret = Secret::hashed(&hash).map_err(|reason| format!("file passwordHash {reason}"))?;
            if let Some(password) = password {
                // The plain password beside its hash tells the verdict before the first client asks.
                passwords.learn(&name, &password, &secret);
            }
            secret
        }
        (None, Some(password)) => Secret::plain(&password),
        (None, None) => return Err("it has neither passwordHash nor password".to_owned()),
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
