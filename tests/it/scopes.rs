//! What a token buys: never more than its scopes, whatever it is shown to.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::{Client, Image, Registry, Setup, digest, header, refusal};

/// A token of user `rw` for these scopes.
async fn token(registry: &Registry, scopes: &[&str]) -> String {
    let query: String = scopes.iter().map(|scope| format!("&scope={scope}")).collect();
    let response = registry.client_as("rw").get(&format!("/auth/token?service=x{query}")).await;
    let body: Value = response.json().await.unwrap();
    body["token"].as_str().unwrap().to_owned()
}

async fn send(client: &Client, method: &Method, path: &str, token: &str) -> Response {
    client.request(method.clone(), path).bearer_auth(token).send().await.unwrap()
}

/// Where a blob can be had from by a POST of an upload, and what the answer is.
async fn mount(registry: &Registry, query: &str, token: &str) -> u16 {
    send(&registry.client(), &Method::POST, &format!("/v2/mine/blobs/uploads/?{query}"), token).await.status().as_u16()
}

#[tokio::test]
async fn a_token_is_no_proof_at_the_token_service() {
    let registry = Registry::start(&Setup::with_users());
    let client = registry.client();
    let narrow = token(&registry, &["repository:mine:pull"]).await;
    let forms = [
        "service=x&scope=repository:other:pull",
        "grant_type=password&scope=repository:mine:pull",
        "grant_type=password&username=rw&scope=repository:mine:pull",
    ];
    for scheme in ["Bearer", "bearer", "BEARER  "] {
        let shown = format!("{scheme} {narrow}");
        for scope in ["repository:other:pull,push,delete", "repository:mine:pull", ""] {
            let asked = client.request(Method::GET, &format!("/auth/token?service=x&scope={scope}"));
            let refused = asked.header("authorization", &shown).send().await.unwrap();
            assert_eq!(refused.status(), 401, "{scheme} {scope}");
            assert!(header(&refused, "www-authenticate").starts_with("Basic "));
            assert_eq!(refusal(refused).await.code, "UNAUTHORIZED");
        }
        for form in forms {
            let asked = client.request(Method::POST, "/auth/token").header("authorization", &shown);
            let asked = asked.header("content-type", "application/x-www-form-urlencoded").body(form);
            assert_eq!(asked.send().await.unwrap().status(), 401, "{form}");
        }
        // Nor is it a password.
        for user in ["rw", "<token>", "oauth2accesstoken"] {
            let asked = client.request(Method::GET, "/auth/token?service=x").basic_auth(user, Some(&narrow));
            assert_eq!(asked.send().await.unwrap().status(), 401, "{user}");
        }
    }
    assert_eq!(
        send(&client, &Method::GET, "/v2/mine/manifests/v1", &narrow).await.status(),
        404,
        "it holds where it is good"
    );
    registry.stop();
}

/// The law: by a token for `mine` nothing can be told of `other`. Each operation is tried on something that is there and
/// on something that is not, and the answers are the same.
#[tokio::test]
async fn a_token_tells_nothing_of_what_is_beyond_its_scopes() {
    let registry = Registry::start(&Setup::with_users());
    let (client, rw) = (registry.client(), registry.client_as("rw"));
    let image = Image::of(1);
    rw.push_image("other", "v1", &image).await;
    let (there, absent) = (digest(&image.blobs()[0]), digest(b"nobody has this"));
    let (manifest, no_manifest) = (image.digest(), digest(b"no manifest"));
    let upload = rw.begin("other").await;
    let upload = upload.rsplit('/').next().unwrap().to_owned();
    let no_upload = "00000000-0000-4000-8000-000000000000".to_owned();
    let narrow = token(&registry, &["repository:mine:pull,push,delete"]).await;
    let pairs = [
        ("GET HEAD DELETE", "/v2/other/blobs/{}", &there, &absent),
        ("GET HEAD DELETE PUT", "/v2/other/manifests/{}", &manifest, &no_manifest),
        ("GET HEAD DELETE PUT", "/v2/other/manifests/{}", &"v1".to_owned(), &"v2".to_owned()),
        ("GET HEAD", "/v2/other/referrers/{}", &manifest, &no_manifest),
        ("GET HEAD", "/v2/{}/tags/list", &"other".to_owned(), &"nobodys".to_owned()),
        ("POST", "/v2/{}/blobs/uploads/", &"other".to_owned(), &"nobodys".to_owned()),
        ("GET PATCH PUT DELETE", "/v2/other/blobs/uploads/{}", &upload, &no_upload),
        ("GET PATCH PUT DELETE", "/v2/mine/blobs/uploads/{}", &upload, &no_upload),
        ("PUT", "/v2/mine/blobs/uploads/{}?digest=sha256:{digest}", &upload, &no_upload),
        ("GET HEAD", "/v2/mine/blobs/{}", &there, &absent),
        ("GET HEAD", "/v2/mine/manifests/{}", &manifest, &no_manifest),
        ("GET HEAD DELETE", "/v2/mine/manifests/{}", &"v1".to_owned(), &"v2".to_owned()),
        ("POST", "/v2/mine/blobs/uploads/?mount={}&from=other", &there, &absent),
        ("POST", "/v2/mine/blobs/uploads/?from=other&mount={}", &there, &absent),
        ("POST", "/v2/mine/blobs/uploads/?mount={}", &there, &absent),
        ("POST", "/v2/mine/blobs/uploads/?mount={}&from=", &there, &absent),
        ("POST", "/v2/mine/blobs/uploads/?mount={}&from=mine&from=other", &there, &absent),
        ("GET HEAD", "/v2/{}_catalog", &String::new(), &String::new()),
    ];
    for (methods, path, one, other) in pairs {
        for method in methods.split(' ') {
            let method: Method = method.parse().unwrap();
            let mut said = Vec::new();
            for value in [one, other] {
                let path = path.replace("{}", value).replace("{digest}", &absent[7..]);
                let answer = send(&client, &method, &path, &narrow).await;
                assert_ne!(answer.status(), 200, "{method} {path}");
                assert_ne!(answer.status(), 201, "{method} {path}");
                let status = answer.status();
                // What was asked for is said back; it is no answer.
                let body = answer.text().await.unwrap().replace(value, "{}");
                said.push((status, body));
            }
            assert_eq!(said[0], said[1], "{method} {path}");
        }
    }
    // A push of a manifest that names what another repository has.
    let refused = client.request(Method::PUT, "/v2/mine/manifests/v1").bearer_auth(&narrow);
    let refused =
        refused.header("content-type", image.media_type()).body(image.manifest().to_vec()).send().await.unwrap();
    assert_eq!(refusal(refused).await.code, "MANIFEST_BLOB_UNKNOWN");
    assert_eq!(rw.get("/v2/other/manifests/v1").await.status(), 200, "nothing of it changed");
    registry.stop();
}

/// Whatever a mount names, a push goes on: it is mounted where the token allows that, and uploaded where not.
#[tokio::test]
async fn a_mount_never_fails_a_push() {
    let registry = Registry::start(&Setup::with_users());
    let rw = registry.client_as("rw");
    let blob = rw.push_blob("source", b"a layer").await;
    let narrow = token(&registry, &["repository:mine:pull,push"]).await;
    let only_push = token(&registry, &["repository:mine:push"]).await;
    let wide = token(&registry, &["repository:mine:pull,push", "repository:source:pull"]).await;
    let absent = digest(b"nobody has this");
    for (query, narrowly, widely) in [
        (format!("mount={blob}&from=source"), 202, 201),
        (format!("mount={blob}"), 202, 201),
        (format!("mount={absent}&from=source"), 202, 202),
        (format!("mount={blob}&from=nobodys"), 202, 202),
        (format!("mount={blob}&from=UPPER"), 202, 202),
        (format!("mount={blob}&from="), 202, 202),
        (format!("mount={blob}&from=mine"), 202, 202),
        ("mount=&from=source".to_owned(), 202, 202),
        ("mount=sha256:1&from=source".to_owned(), 202, 202),
        ("mount=md5:d41d8cd98f00b204e9800998ecf8427e&from=source".to_owned(), 202, 202),
        ("from=source".to_owned(), 202, 202),
    ] {
        assert_eq!(mount(&registry, &query, &narrow).await, narrowly, "{query}");
        assert_eq!(mount(&registry, &query, &only_push).await, 202, "{query}");
        assert_eq!(mount(&registry, &query, &wide).await, widely, "{query}");
        if widely == 201 {
            // What is in the repository itself needs no other one, and can be told by who may pull from it.
            assert_eq!(mount(&registry, &format!("mount={blob}"), &narrow).await, 201, "{query}");
            assert_eq!(mount(&registry, &format!("mount={blob}"), &only_push).await, 202, "{query}");
            assert_eq!(rw.delete(&format!("/v2/mine/blobs/{blob}")).await.status(), 202);
        }
    }
    // The upload that takes its place goes through.
    let (client, path) = (registry.client(), format!("/v2/mine/blobs/uploads/?mount={blob}&from=source"));
    let location = header(&send(&client, &Method::POST, &path, &narrow).await, "location");
    let put = registry.client().request(Method::PUT, &format!("{location}?digest={blob}")).bearer_auth(&narrow);
    assert_eq!(put.body("a layer").send().await.unwrap().status(), 201);
    // By user and password the role alone counts.
    let by_password = rw.request(Method::POST, &format!("/v2/third/blobs/uploads/?mount={blob}")).send().await.unwrap();
    assert_eq!(by_password.status(), 201);
    registry.stop();
}

#[tokio::test]
async fn a_refusal_says_what_the_user_may() {
    let registry = Registry::start(&Setup::with_users());
    for (user, path, method, said) in [
        ("ro", "/v2/a/blobs/uploads/", Method::POST, "user ro may only pull"),
        ("ro", "/v2/a/manifests/v1", Method::DELETE, "user ro may only pull"),
        (
            "mirror-puller",
            "/v2/a/manifests/v1",
            Method::PUT,
            "user mirror-puller may only pull and list the repositories",
        ),
        ("rw", "/v2/_catalog", Method::GET, "user rw may pull, push and delete, but not list the repositories"),
    ] {
        let refused = refusal(registry.client_as(user).request(method, path).send().await.unwrap()).await;
        assert_eq!((refused.status, refused.code.as_str(), refused.message.as_str()), (403, "DENIED", said));
    }
    registry.stop();
}

/// The log says which user of ours could not sign in; the answer says the same to everybody.
#[tokio::test]
async fn the_log_of_a_refused_sign_in_names_our_users_and_nobody_else() {
    let registry = Registry::start(&Setup::with_users());
    let good = token(&registry, &["repository:a:pull"]).await;
    let mut answers = Vec::new();
    for (user, password) in [("ro", "wr0ng"), ("nobody", "wr0ng"), ("hunter2", "ro")] {
        let client = registry.client_with(user, password);
        answers.push(refusal(client.get("/v2/").await).await.message);
        answers.push(refusal(client.get("/auth/token?service=x").await).await.message);
        let form = format!("grant_type=password&username={user}&password={password}&service=x");
        let asked = registry.client().request(Method::POST, "/auth/token").body(form);
        let asked = asked.header("content-type", "application/x-www-form-urlencoded");
        answers.push(refusal(asked.send().await.unwrap()).await.message);
    }
    assert!(answers.iter().all(|said| *said == answers[0] && !said.contains("ro ")), "{answers:?}");
    send(&registry.client(), &Method::GET, "/auth/token", &good).await;
    let log = registry.stop();
    let refused: Vec<&Value> = log.iter().filter(|line| line["status"] == 401).collect();
    let named: Vec<&str> =
        refused.iter().filter(|line| line["user"] == "ro").map(|line| line["error"].as_str().unwrap()).collect();
    assert!(!named.is_empty() && named.iter().all(|said| *said == "wrong password of user ro"), "{named:?}");
    assert!(refused.iter().any(|line| line["user"] == "rw"), "{refused:#?}");
    assert!(refused.iter().any(|line| line.get("user").is_none_or(Value::is_null)), "{refused:#?}");
    let text = json!(log).to_string();
    assert!(!text.contains("nobody") && !text.contains("hunter2") && !text.contains("wr0ng"), "{text}");
}

/// Wrong passwords come from many clients at once, more than are checked; the right one was never seen before.
#[tokio::test]
async fn right_passwords_get_in_while_wrong_ones_come() {
    let registry = Registry::start(&Setup::with_users().config("limits: { passwordChecks: 1 }"));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flood: Vec<_> = (0..100)
        .map(|n| {
            let (registry, stop) = (registry.address().to_owned(), std::sync::Arc::clone(&stop));
            tokio::spawn(async move {
                let mut said = std::collections::BTreeSet::new();
                for turn in 0.. {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    let user = if n % 2 == 0 { "ro".to_owned() } else { format!("nobody{n}-{turn}") };
                    let client = Client::new(&format!("http://{registry}"), Some((user, format!("wrong{n}-{turn}"))));
                    said.insert(client.get("/v2/").await.status().as_u16());
                }
                said
            })
        })
        .collect();
    for user in ["ro", "rw", "mirror-puller"] {
        assert_eq!(registry.client_as(user).get("/v2/").await.status(), 200, "{user}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for said in flood {
        assert!(said.await.unwrap().into_iter().all(|status| status == 401), "the same for names that are and are not");
    }
    registry.stop();
}

/// A key of the server's own that a power cut or a bad disk left behind damaged is made anew; a given one never is.
#[tokio::test]
async fn a_damaged_key_of_its_own_stops_no_start() {
    let registry = Registry::start(&Setup::with_users());
    let key = registry.data().join("keys/token.key");
    let folder = registry.folder();
    registry.stop();
    for damage in ["", "damaged", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        std::fs::write(&key, damage).unwrap();
        let registry = Registry::start_in(std::sync::Arc::clone(&folder), &Setup::with_users());
        let narrow = token(&registry, &["repository:a:pull"]).await;
        assert_eq!(send(&registry.client(), &Method::GET, "/v2/", &narrow).await.status(), 200);
        let log = registry.stop();
        let warned = log.iter().any(|line| line["level"] == "WARN" && line.to_string().contains("token.key"));
        assert!(warned, "{damage:?}: {log:#?}");
    }
    // The folder for it too.
    std::fs::remove_dir_all(key.parent().unwrap()).unwrap();
    std::fs::write(key.parent().unwrap(), "no folder").unwrap();
    let registry = Registry::start_in(std::sync::Arc::clone(&folder), &Setup::with_users());
    let narrow = token(&registry, &["repository:a:pull"]).await;
    assert_eq!(send(&registry.client(), &Method::GET, "/v2/", &narrow).await.status(), 200);
    assert!(registry.stop().iter().any(|line| line["level"] == "WARN" && line.to_string().contains("own keys")));
    let given = folder.path().join("given.key");
    std::fs::write(&given, "damaged").unwrap();
    let config = folder.path().join("given.yaml");
    let text = format!(
        "listen: 127.0.0.1:0\nadminListen: 127.0.0.1:0\nstore: {{ dir: {} }}\nauth: {{ token: {{ enabled: true, signingKeyFile: {} }} }}\n",
        folder.path().join("data").display(),
        given.display()
    );
    std::fs::write(&config, text).unwrap();
    let refused = std::process::Command::new(env!("CARGO_BIN_EXE_d8-registry"))
        .args(["serve", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("signingKeyFile"));
    assert_eq!(std::fs::read_to_string(&given).unwrap(), "damaged");
}
