//! The key for tokens that the server makes for itself, where the configuration gives none.
//!
//! Nothing depends on it but tokens, which live for minutes: a file that can't be used is no reason not to start, it is
//! made anew. A key that the configuration gives is somebody else's and never touched here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::AuthError;
use super::tokens::SigningKey;

/// In the store's folder for keys.
const KEY_FILE: &str = "token.key";

/// Longest file that is read; the largest key takes a tenth of it.
const MOST_BYTES: u64 = 64 * 1024;

/// Reads the key kept in `dir`, or makes it; blocking. `before`: the key in force, which is written back where the file
/// is damaged, so that tokens go on. Where nothing can be written, or there is no folder, the key lasts as long as the
/// process.
///
/// # Errors
/// [`AuthError`] if no key can be made.
pub(super) fn load(dir: Option<&Path>, before: Option<Arc<SigningKey>>) -> Result<Arc<SigningKey>, AuthError> {
    let Some(dir) = dir else { return before.map_or_else(|| make().map(Arc::new), Ok) };
    let path = dir.join(KEY_FILE);
    let is_new = match read(&path) {
        Ok(Some(key)) => return Ok(Arc::new(key)),
        Ok(None) => true,
        Err(reason) => {
            let path = path.display();
            tracing::warn!(%path, %reason, "the server's own token key can't be used and is made anew");
            false
        }
    };
    let key = match before.filter(|_| !is_new) {
        Some(key) => key,
        None => Arc::new(make()?),
    };
    match write(&path, &key) {
        Ok(()) if is_new => tracing::info!(
            path = %path.display(),
            "no auth.token.signingKeyFile is given: tokens are signed with a key of this server's own, which other replicas won't accept"
        ),
        Ok(()) => {}
        Err(error) => tracing::warn!(
            path = %path.display(),
            %error,
            "the server's own token key can't be written: tokens given now end with this process"
        ),
    }
    Ok(key)
}

/// The key in the file; `None`: there is no file. The error says why what is there can't be used.
fn read(path: &Path) -> Result<Option<SigningKey>, String> {
    // Whatever lies there: a pipe that nobody writes to is not waited for.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let said = |error: io::Error| error.to_string();
    if !file.metadata().map_err(said)?.is_file() {
        return Err("is no file".to_owned());
    }
    let mut pem = Zeroizing::new(Vec::new());
    file.take(MOST_BYTES).read_to_end(&mut pem).map_err(said)?;
    if pem.is_empty() {
        return Err("is empty".to_owned());
    }
    SigningKey::from_pem(&pem).map(Some).map_err(ToOwned::to_owned)
}

fn make() -> Result<SigningKey, AuthError> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
        .map_err(|_| AuthError("a token key can't be made".to_owned()))?;
    SigningKey::ec(&pair).map_err(|reason| AuthError(format!("the token key {reason}")))
}

/// Puts the key where it is kept, in place of whatever is there. Neither synced nor moved into place: what a kill or the
/// loss of power leaves of it is made anew like any other damage.
fn write(path: &Path, key: &SigningKey) -> io::Result<()> {
    let mut pem = Zeroizing::new("-----BEGIN PRIVATE KEY-----\n".to_owned());
    let text = Zeroizing::new(STANDARD.encode(&*key.private));
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    remove(path)?;
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(pem.as_bytes())
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        // An empty one: what is in a folder was put there by somebody.
        Ok(found) if found.is_dir() => std::fs::remove_dir(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn key(dir: &Path) -> Vec<u8> {
        load(Some(dir), None).unwrap().public.clone()
    }

    #[test]
    fn a_made_key_is_kept_for_the_next_start_and_is_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let first = key(dir.path());
        assert_eq!(key(dir.path()), first);
        let mode = std::fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    /// Whatever is in its place, the server has a key, and the same one at its next start.
    #[test]
    fn a_key_that_cannot_be_used_is_made_anew_once() {
        let whole = tempfile::tempdir().unwrap();
        key(whole.path());
        let pem = std::fs::read(whole.path().join(KEY_FILE)).unwrap();
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
        let certificate = rcgen::generate_simple_self_signed(["r".to_owned()]).unwrap().cert.pem();
        let mut damages: Vec<Vec<u8>> = (0..pem.len()).step_by(7).map(|length| pem[..length].to_vec()).collect();
        damages.extend([
            b"damaged".to_vec(),
            vec![0; pem.len()],
            vec![0xff; 3_000_000],
            p384.into_bytes(),
            certificate.into_bytes(),
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_vec(),
        ]);
        for damage in damages {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(KEY_FILE), &damage).unwrap();
            let made = key(dir.path());
            assert_eq!(key(dir.path()), made, "{} bytes", damage.len());
        }
    }

    #[test]
    fn what_is_no_file_makes_room_and_is_not_waited_for() {
        let at = |dir: &Path| dir.join(KEY_FILE);
        let places: [fn(&Path); 4] = [
            |path| std::fs::create_dir(path).unwrap(),
            |path| std::os::unix::fs::symlink("nowhere", path).unwrap(),
            |path| std::os::unix::fs::symlink(path, path).unwrap(),
            |path| {
                rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
            },
        ];
        for place in places {
            let dir = tempfile::tempdir().unwrap();
            place(&at(dir.path()));
            let made = key(dir.path());
            assert_eq!(key(dir.path()), made);
        }
    }

    #[test]
    fn where_nothing_can_be_written_there_is_a_key_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join(KEY_FILE).join("kept")).unwrap();
        let first = load(Some(dir.path()), None).unwrap();
        assert!(dir.path().join(KEY_FILE).join("kept").is_dir(), "nobody's folder is removed");
        // A reload goes on with the key in force.
        assert_eq!(load(Some(dir.path()), Some(Arc::clone(&first))).unwrap().public, first.public);
        assert!(load(Some(&dir.path().join("gone")), None).is_ok());
        let nowhere = load(None, None).unwrap();
        assert_eq!(load(None, Some(Arc::clone(&nowhere))).unwrap().public, nowhere.public);
    }

    #[test]
    fn a_reload_writes_a_damaged_key_back() {
        let dir = tempfile::tempdir().unwrap();
        let first = load(Some(dir.path()), None).unwrap();
        std::fs::write(dir.path().join(KEY_FILE), "").unwrap();
        assert_eq!(load(Some(dir.path()), Some(Arc::clone(&first))).unwrap().public, first.public);
        assert_eq!(key(dir.path()), first.public);
        // Removed by hand is how another one is got.
        std::fs::remove_file(dir.path().join(KEY_FILE)).unwrap();
        assert_ne!(load(Some(dir.path()), Some(Arc::clone(&first))).unwrap().public, first.public);
    }
}
