//! `GET /-/state`: exactly what the controller is promised, and nothing at all to anybody else.

use std::path::Path;
use std::sync::Arc;

use rcgen::SanType;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Authority, HASH_OF_SECRET, REPO, Switched, Upstream, coming, digest, mode, mode_file, path, seen, uri,
};

const STATE: &str = "/-/state";

/// A server over TLS that knows controllers of `authority`, and the base of its addresses.
fn start(folder: &Arc<TempDir>, authority: &Authority, file: &str) -> (Switched, String) {
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let (certificate, key) = authority.issue(vec![SanType::IpAddress([127, 0, 0, 1].into())]);
    write("own.crt", &certificate);
    write("own.key", &key);
    write("ca.crt", &authority.pem);
    let at = folder.path().display();
    let files = format!("certFile: {at}/own.crt, keyFile: {at}/own.key, controllerCAFile: {at}/ca.crt");
    let server = Switched::start_in(Arc::clone(folder), Some(file), &format!("tls: {{ {files} }}"));
    let base = format!("https://{}", server.registry.address());
    (server, base)
}

#[tokio::test]
async fn the_controller_is_told_what_is_in_force_and_what_it_does() {
    let (folder, authority, upstream) = (Arc::new(TempDir::new().unwrap()), Authority::new(), Upstream::start());
    let content = upstream.put_blob(REPO, b"content");
    let (local, direct) = (mode("Local", None), mode("Direct", Some(&upstream)));
    let file = mode_file(12, &local, Some(&coming(&direct, "filling")), &[&direct]);
    let (server, base) = start(&folder, &authority, &file);
    let controller = authority.client(Some(&authority.issue(vec![uri("d8-registry:controller")])));
    let ask = async || -> Value {
        let answer = controller.get(format!("{base}{STATE}")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    };
    let mut state = ask().await;
    let hash = server.status().await["modeFile"]["hash"].clone();
    assert!(state["started"].take().as_u64().unwrap() > 1_700_000_000);
    assert!(!state["node"].take().as_str().unwrap().is_empty());
    assert!(!state["version"].take().as_str().unwrap().is_empty());
    // What the controller compares with the Secrets.
    let hash_of_secret = digest(HASH_OF_SECRET.as_bytes()).strip_prefix("sha256:").unwrap().to_owned();
    let users: serde_json::Map<String, Value> = ["ro", "rw", "mirror-puller", "mirror-pusher"]
        .map(|user| (user.to_owned(), hash_of_secret.as_str().into()))
        .into_iter()
        .collect();
    let expected = json!({
        "version": null, "started": null, "node": null, "ready": true, "notReady": [],
        "users": users,
        "modeFile": { "hash": hash, "generation": 12, "error": null },
        "inForce": "Local", "coming": { "mode": "Direct", "phase": "filling" }, "previous": ["Direct"],
        "previousAnswers": 0, "upstream": null,
    });
    assert_eq!(state, expected);
    let blob = format!("{base}{}", path(&format!("blobs/{content}")));
    let ro = authority.client(None);
    assert_eq!(ro.get(&blob).basic_auth("ro", Some("secret")).send().await.unwrap().text().await.unwrap(), "content");
    assert_eq!(ask().await["previousAnswers"], 1);

    server.switch(&mode_file(13, &direct, None, &[])).await;
    server.until_probed().await;
    let state = ask().await;
    assert_eq!(state["upstream"]["host"], upstream.address());
    assert_eq!(state["upstream"]["outcome"], "ok");
    assert_eq!((&state["coming"], &state["previous"]), (&Value::Null, &json!([])));
    server.write("version: 2");
    server.until(|status| status["modeFile"]["error"].is_string()).await;
    let state = ask().await;
    assert_eq!(state["modeFile"]["generation"], 13);
    assert!(state["modeFile"]["error"].as_str().unwrap().contains("version"), "{state}");
    server.switch(&mode_file(14, &mode("Unmanaged", None), None, &[])).await;
    let state = ask().await;
    assert_eq!((&state["inForce"], &state["ready"]), (&json!("Unmanaged"), &json!(false)));
    assert!(state["notReady"][0].as_str().unwrap().contains("Unmanaged"));
    // Orders are none of it.
    let refused = controller.post(format!("{base}{STATE}")).send().await.unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD"));
    server.registry.stop();
}

#[tokio::test]
async fn without_a_mode_file_the_keys_are_told() {
    let (folder, authority) = (Arc::new(TempDir::new().unwrap()), Authority::new());
    let (server, base) = start(&folder, &authority, "version: 9");
    server.remove();
    let controller = authority.client(Some(&authority.issue(vec![uri("d8-registry:controller")])));
    server.until(|status| status["modeFile"].is_null()).await;
    let state: Value = controller.get(format!("{base}{STATE}")).send().await.unwrap().json().await.unwrap();
    assert_eq!((&state["modeFile"], &state["inForce"]), (&Value::Null, &json!("Local")));
    server.registry.stop();
}

#[tokio::test]
async fn to_everybody_else_there_is_no_such_path() {
    let (folder, authority, stranger) = (Arc::new(TempDir::new().unwrap()), Authority::new(), Authority::new());
    let (server, base) = start(&folder, &authority, &mode_file(1, &mode("Local", None), None, &[]));
    let right = || uri("d8-registry:controller");
    let identities = [
        None,
        Some(authority.issue(vec![uri("d8-registry:controller2")])),
        Some(authority.issue(vec![uri("D8-registry:controller")])),
        Some(authority.issue(vec![uri("d8-registry:peer")])),
        Some(authority.issue(vec![SanType::DnsName("d8-registry.controller".try_into().unwrap())])),
        Some(stranger.issue(vec![right()])),
    ];
    for (number, identity) in identities.iter().enumerate() {
        let client = authority.client(identity.as_ref());
        for user in [None, Some("ro"), Some("mirror-pusher")] {
            for method in [Method::GET, Method::HEAD, Method::POST, Method::DELETE] {
                let ask = |path: &str| {
                    let request = client.request(method.clone(), format!("{base}{path}"));
                    match user {
                        Some(user) => request.basic_auth(user, Some("secret")),
                        None => request,
                    }
                };
                let state = seen(ask(STATE).send().await.unwrap()).await;
                let unknown = seen(ask("/-/nothing").send().await.unwrap()).await;
                assert_eq!(state, unknown, "{number} {user:?} {method}");
                assert_eq!(state.0, 404);
            }
        }
    }
    // Over plain HTTP nobody can prove anything.
    let plain = Switched::start(&mode_file(1, &mode("Local", None), None, &[]));
    assert_eq!(plain.client("mirror-pusher").get(STATE).await.status(), 404);
    assert!(Path::new(&folder.path().join("ca.crt")).exists());
    plain.registry.stop();
    server.registry.stop();
}
