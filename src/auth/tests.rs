//! Users in folders, reloads, and identities over time.

use std::path::Path;

use tempfile::TempDir;

use super::*;

const HASH: &str = "$2y$04$6LkUk9iQoONEdXK3HZE.SeQ2EpsbuPuk2oSSfsIHz4kN4cXieH.BG";

fn secret(dir: &Path, folder: &str, files: &[(&str, &str)]) {
    let path = dir.join(folder);
    // As Kubernetes mounts it: the files are links into a folder that is swapped as a whole.
    let data = path.join("..2026");
    std::fs::create_dir_all(&data).unwrap();
    for (name, content) in files {
        std::fs::write(data.join(name), format!("{content}\n")).unwrap();
        let link = path.join(name);
        if link.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(Path::new("..2026").join(name), link).unwrap();
        }
    }
}

fn options(dir: &TempDir) -> AuthOptions {
    let users = dir.path().join("users");
    std::fs::create_dir_all(&users).unwrap();
    AuthOptions {
        anonymous: Anonymous::None,
        users: Vec::new(),
        users_dir: Some(users),
        token: TokenOptions {
            enabled: None,
            ttl: Duration::from_secs(900),
            signing_key_file: None,
            signing_cert_file: None,
            key_dir: dir.path().to_path_buf(),
        },
    }
}

async fn signs_in(auth: &Authenticator, user: &str, password: &str) -> bool {
    auth.authenticate_password(user, password).await.is_ok()
}

#[tokio::test]
async fn users_come_as_kubernetes_mounts_them() {
    let dir = TempDir::new().unwrap();
    let options = options(&dir);
    let users = options.users_dir.clone().unwrap();
    secret(&users, "registry-user-ro", &[("name", "ro"), ("password", "secret"), ("passwordHash", HASH)]);
    secret(&users, "registry-user-rw", &[("name", "rw"), ("password", "plain")]);
    secret(&users, "named", &[("name", "robot"), ("passwordHash", HASH), ("role", "mirror-puller")]);
    secret(&users, "nameless-role", &[("name", "guest"), ("passwordHash", HASH)]);
    // The hash wins over the password beside it.
    secret(&users, "both", &[("name", "mirror-pusher"), ("password", "other"), ("passwordHash", HASH)]);
    secret(&users, "broken", &[("name", "broken"), ("passwordHash", "nonsense")]);
    std::fs::create_dir(users.join("..data")).unwrap();
    std::fs::write(users.join("a-file"), "x").unwrap();
    let auth = Authenticator::load(&options, 2).unwrap();
    assert_eq!(auth.user_count(), 5);
    for (user, password, right) in [
        ("ro", "secret", true),
        ("ro", "plain", false),
        ("rw", "plain", true),
        ("rw", "secret", false),
        ("robot", "secret", true),
        ("mirror-pusher", "secret", true),
        ("mirror-pusher", "other", false),
        ("broken", "nonsense", false),
        ("nobody", "secret", false),
    ] {
        assert_eq!(signs_in(&auth, user, password).await, right, "{user}:{password}");
    }
    let repo: RepoName = "a".parse().unwrap();
    let may = async |user: &str, password: &str, action| {
        let who = auth.authenticate_password(user, password).await.unwrap();
        auth.authorize(&who, action, Some(&repo)).is_ok()
    };
    assert!(may("rw", "plain", Action::Push).await);
    assert!(!may("ro", "secret", Action::Push).await);
    assert!(may("robot", "secret", Action::Catalog).await);
    assert!(!may("guest", "secret", Action::Push).await);
    assert!(may("mirror-pusher", "secret", Action::Delete).await);
}

#[tokio::test]
async fn a_name_twice_is_an_error_that_names_both_places() {
    let dir = TempDir::new().unwrap();
    let options = options(&dir);
    let users = options.users_dir.clone().unwrap();
    secret(&users, "one", &[("name", "ro"), ("passwordHash", HASH)]);
    secret(&users, "two", &[("name", "ro"), ("passwordHash", HASH)]);
    let said = Authenticator::load(&options, 1).unwrap_err().to_string();
    assert!(said.contains("one") && said.contains("two") && !said.contains("$2y$"), "{said}");
}

#[tokio::test]
async fn a_half_written_secret_keeps_the_old_user() {
    let dir = TempDir::new().unwrap();
    let options = options(&dir);
    let users = options.users_dir.clone().unwrap();
    secret(&users, "one", &[("name", "ro"), ("passwordHash", HASH)]);
    let auth = Authenticator::load(&options, 1).unwrap();
    std::fs::remove_file(users.join("one/passwordHash")).unwrap();
    auth.commit(auth.prepare(&options).unwrap());
    assert!(signs_in(&auth, "ro", "secret").await);
    std::fs::remove_dir_all(users.join("one")).unwrap();
    auth.commit(auth.prepare(&options).unwrap());
    assert!(!signs_in(&auth, "ro", "secret").await);
}

#[tokio::test]
async fn a_token_ends_with_its_user_and_with_its_password() {
    let dir = TempDir::new().unwrap();
    let options = options(&dir);
    let users = options.users_dir.clone().unwrap();
    secret(&users, "one", &[("name", "ro"), ("password", "old")]);
    let auth = Authenticator::load(&options, 1).unwrap();
    let who = auth.authenticate_password("ro", "old").await.unwrap();
    let token = auth.issue_token(&who, &["repository:a:pull".to_owned()], clock::now()).unwrap().token;
    let bearer = format!("Bearer {token}");
    let holds = async || auth.authenticate(Some(bearer.as_bytes())).await.is_ok();
    assert!(holds().await);
    secret(&users, "one", &[("name", "ro"), ("password", "new")]);
    auth.commit(auth.prepare(&options).unwrap());
    assert!(!holds().await);
    secret(&users, "one", &[("name", "ro"), ("password", "old")]);
    auth.commit(auth.prepare(&options).unwrap());
    assert!(holds().await);
    std::fs::remove_dir_all(users.join("one")).unwrap();
    auth.commit(auth.prepare(&options).unwrap());
    assert!(!holds().await);
}

#[test]
fn passwords_are_hashed_as_bcrypt_can_check_them() {
    let hash = hash_password("secret", 4).unwrap();
    assert!(bcrypt::verify("secret", &hash).unwrap());
    assert!(hash_password("", 4).is_err());
    assert!(hash_password(&"x".repeat(73), 4).is_err());
}
