//! Users in folders, reloads, and identities over time.

use std::path::Path;

use tempfile::TempDir;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// Where all of them come from.
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

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
            key_dir: Some(dir.path().to_path_buf()),
        },
    }
}

async fn signs_in(auth: &Authenticator, user: &str, password: &str) -> bool {
    auth.authenticate_password(user, password, HERE).await.is_ok()
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
        let who = auth.authenticate_password(user, password, HERE).await.unwrap();
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
    let who = auth.authenticate_password("ro", "old", HERE).await.unwrap();
    let token = auth.issue_token(&who, &["repository:a:pull".to_owned()], clock::now()).unwrap().token;
    let bearer = format!("Bearer {token}");
    let holds = async || auth.authenticate(Some(bearer.as_bytes()), HERE).await.is_ok();
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

fn pair(user: &str, password: &str) -> Option<(String, SecretString)> {
    Some((user.to_owned(), SecretString::from(password)))
}

#[tokio::test]
async fn the_upstreams_user_pulls_and_no_more() {
    let dir = TempDir::new().unwrap();
    let mut options = options(&dir);
    options.token.enabled = Some(true);
    let auth = Authenticator::load(&options, 1).unwrap();
    let repo: RepoName = "system/deckhouse".parse().unwrap();
    // Two licences that differ only behind what bcrypt reads.
    let licence = format!("{}-1", "x".repeat(100));
    let other = format!("{}-2", "x".repeat(100));
    assert!(!signs_in(&auth, "license-token", &licence).await);
    auth.set_upstream_users(pair("license-token", &licence));
    assert_eq!(auth.user_count(), 1);
    assert!(auth.challenge("https://r", None, None).starts_with("Bearer "));
    assert!(!signs_in(&auth, "license-token", &other).await);
    assert!(!signs_in(&auth, "other", &licence).await);
    let basic = format!("Basic {}", STANDARD.encode(format!("license-token:{licence}")));
    let who = auth.authenticate(Some(basic.as_bytes()), HERE).await.unwrap();
    let token = auth.issue_token(&who, &["repository:system/deckhouse:pull,push,delete".to_owned()], clock::now());
    let bearer = format!("Bearer {}", token.unwrap().token);
    let by_token = auth.authenticate(Some(bearer.as_bytes()), HERE).await.unwrap();
    for who in [who, by_token] {
        assert_eq!(who.user.as_deref(), Some("license-token"));
        assert_eq!(auth.authorize(&who, Action::Pull, Some(&repo)), Ok(()));
        for action in [Action::Push, Action::Delete, Action::Catalog] {
            let target = (action != Action::Catalog).then_some(&repo);
            assert!(auth.authorize(&who, action, target).is_err(), "{action:?}");
        }
        assert!(!format!("{who:?}").contains("xxx"));
    }
    // A reload of the users leaves it alone.
    auth.commit(auth.prepare(&options).unwrap());
    assert!(signs_in(&auth, "license-token", &licence).await);
}

#[tokio::test]
async fn tokens_of_the_upstreams_user_end_with_the_pair() {
    let dir = TempDir::new().unwrap();
    let mut options = options(&dir);
    options.token.enabled = Some(true);
    let auth = Authenticator::load(&options, 1).unwrap();
    let repo: RepoName = "a".parse().unwrap();
    let bearer = async |password: &str| {
        let who = auth.authenticate_password("license-token", password, HERE).await.unwrap();
        let token = auth.issue_token(&who, &["repository:a:pull".to_owned()], clock::now()).unwrap().token;
        (who, format!("Bearer {token}"))
    };
    auth.set_upstream_users(pair("license-token", "old"));
    let (old, by_old) = bearer("old").await;
    auth.set_upstream_users(pair("license-token", "new"));
    let (_, by_new) = bearer("new").await;
    // The pair before still counts, so what was given for it does.
    for token in [&by_old, &by_new] {
        assert!(auth.authenticate(Some(token.as_bytes()), HERE).await.is_ok());
    }
    assert!(signs_in(&auth, "license-token", "old").await);
    auth.set_upstream_users(None);
    for token in [&by_old, &by_new] {
        assert_eq!(auth.authenticate(Some(token.as_bytes()), HERE).await.unwrap_err(), AuthFailure::BadToken);
    }
    assert!(!signs_in(&auth, "license-token", "new").await);
    assert_eq!(
        auth.authorize(&old, Action::Pull, Some(&repo)),
        Err(Forbidden::Right("user license-token may not sign in here any more".to_owned())),
        "who was proven before"
    );
    assert_eq!(auth.user_count(), 0);
}

#[tokio::test]
async fn a_user_of_the_same_name_keeps_password_and_role() {
    let dir = TempDir::new().unwrap();
    let mut options = options(&dir);
    options.token.enabled = Some(true);
    let users = options.users_dir.clone().unwrap();
    secret(&users, "one", &[("name", "rw"), ("password", "own")]);
    secret(&users, "two", &[("name", "mirror-pusher"), ("password", "same")]);
    let auth = Authenticator::load(&options, 1).unwrap();
    let repo: RepoName = "a".parse().unwrap();
    let pushes = async |user: &str, password: &str| {
        let who = auth.authenticate_password(user, password, HERE).await.unwrap();
        auth.authorize(&who, Action::Push, Some(&repo)).is_ok()
    };
    auth.set_upstream_users(pair("rw", "upstream"));
    assert!(pushes("rw", "own").await);
    assert!(!pushes("rw", "upstream").await);
    // Where the pairs are the same, a token given to the upstream's user never becomes one of the other.
    auth.set_upstream_users(pair("mirror-pusher", "same"));
    let who = auth.authenticate_password("mirror-pusher", "same", HERE).await.unwrap();
    let token = auth.issue_token(&who, &["repository:a:pull,push".to_owned()], clock::now()).unwrap().token;
    let bearer = format!("Bearer {token}");
    assert!(auth.authenticate(Some(bearer.as_bytes()), HERE).await.is_ok());
    auth.set_upstream_users(None);
    assert_eq!(auth.authenticate(Some(bearer.as_bytes()), HERE).await.unwrap_err(), AuthFailure::BadToken);
    assert!(pushes("mirror-pusher", "same").await);
}

#[test]
fn passwords_are_hashed_as_bcrypt_can_check_them() {
    let hash = hash_password("secret", 4).unwrap();
    assert!(bcrypt::verify("secret", &hash).unwrap());
    assert!(hash_password("", 4).is_err());
    assert!(hash_password(&"x".repeat(73), 4).is_err());
}

#[tokio::test]
async fn a_remembered_sign_in_ends_with_what_it_was_proven_by() {
    let dir = TempDir::new().unwrap();
    let mut options = options(&dir);
    options.users = vec![UserSpec { name: "ro".into(), password_hash: HASH.to_owned().into(), role: Role::Ro }];
    let auth = Authenticator::load(&options, 1).unwrap();
    let basic = format!("Basic {}", STANDARD.encode("ro:secret"));
    let (header, now) = (Some(basic.as_bytes()), clock::now());
    assert!(auth.sign_in(None, HERE).is_none(), "anonymous may not");
    assert!(auth.sign_in(Some(b"Basic ?"), HERE).is_none());
    auth.authenticate(header, HERE).await.unwrap();
    let by_password = auth.sign_in(header, HERE).unwrap();
    assert_eq!(by_password.who().user.as_deref(), Some("ro"));
    assert!(auth.is_same(&by_password, header, now));
    for other in [None, Some(&b"Basic x"[..]), Some(&basic.as_bytes()[..basic.len() - 1])] {
        assert!(!auth.is_same(&by_password, other, now));
    }

    let issued = auth.issue_token(by_password.who(), &["repository:a:pull".to_owned()], now).unwrap();
    let bearer = format!("Bearer {}", issued.token);
    let token = Some(bearer.as_bytes());
    let by_token = auth.sign_in(token, HERE).unwrap();
    let after = |seconds: u64| Timestamp::from_millis(now.as_millis() + 1000 * seconds);
    assert!(auth.is_same(&by_token, token, after(issued.expires_in)), "clocks differ");
    assert!(!auth.is_same(&by_token, token, after(issued.expires_in + 61)));
    assert!(auth.is_same(&by_password, header, after(1_000_000)));

    auth.commit(auth.prepare(&options).unwrap());
    assert!(!auth.is_same(&by_password, header, now) && !auth.is_same(&by_token, token, now));
    let again = auth.sign_in(header, HERE).unwrap();
    auth.set_upstream_users(Some(("up".to_owned(), "x".to_owned().into())));
    assert!(!auth.is_same(&again, header, now));
}
