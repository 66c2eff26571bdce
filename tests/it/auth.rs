//! Who may do what, by Basic and by Bearer.

use reqwest::Method;
use serde_json::Value;

use crate::support::{Client, HASH_OF_SECRET, Image, Registry, Setup, header};

async fn token(client: &Client, scopes: &str) -> String {
    let response = client.get(&format!("/auth/token?service=Deckhouse+registry{scopes}")).await;
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["expires_in"], 900);
    assert_eq!(body["token"], body["access_token"]);
    body["token"].as_str().unwrap().to_owned()
}

async fn with_token(client: &Client, method: Method, path: &str, token: &str) -> reqwest::Response {
    client.request(method, path).bearer_auth(token).send().await.unwrap()
}

#[tokio::test]
async fn a_client_learns_from_the_challenge_what_to_ask() {
    let registry = Registry::start(&Setup::with_users());
    let client = registry.client();
    let base = client.get("/v2/").await;
    assert_eq!(base.status(), 401);
    let realm = format!("Bearer realm=\"http://{}/auth/token\",service=\"Deckhouse registry\"", registry.address());
    assert_eq!(header(&base, "www-authenticate"), realm);
    assert_eq!(header(&base, "docker-distribution-api-version"), "registry/2.0");
    let pull = client.get("/v2/a/b/manifests/v1").await;
    assert_eq!(header(&pull, "www-authenticate"), format!("{realm},scope=\"repository:a/b:pull\""));
    let push = client.request(Method::POST, "/v2/a/b/blobs/uploads/").send().await.unwrap();
    assert_eq!(header(&push, "www-authenticate"), format!("{realm},scope=\"repository:a/b:pull,push\""));
    registry.stop();
}

#[tokio::test]
async fn roles_by_basic() {
    let registry = Registry::start(&Setup::with_users());
    let image = Image::of(1);
    registry.client_as("rw").push_image("a", "v1", &image).await;
    // Until it is there the catalog is 503.
    registry.until_metric("d8_registry_index_state{state=\"ready\"}", 1.0).await;
    for (user, pull, push, delete, catalog) in [
        ("ro", 200, 403, 403, 403),
        ("mirror-puller", 200, 403, 403, 200),
        ("mirror-pusher", 200, 202, 202, 200),
        ("rw", 200, 202, 202, 403),
    ] {
        let client = registry.client_as(user);
        let blob = registry.client_as("rw").push_blob("b", user.as_bytes()).await;
        assert_eq!(client.get("/v2/").await.status(), 200, "{user}");
        assert_eq!(client.get("/v2/a/manifests/v1").await.status(), pull, "{user}");
        let begin = client.request(Method::POST, "/v2/a/blobs/uploads/").send().await.unwrap();
        assert_eq!(begin.status(), push, "{user}");
        assert_eq!(client.delete(&format!("/v2/b/blobs/{blob}")).await.status(), delete, "{user}");
        assert_eq!(client.get("/v2/_catalog").await.status(), catalog, "{user}");
    }
    registry.stop();
}

#[tokio::test]
async fn a_token_holds_what_was_asked_for_and_the_user_may() {
    let registry = Registry::start(&Setup::with_users());
    let client = registry.client();
    registry.client_as("rw").push_image("a", "v1", &Image::of(1)).await;
    let reading = token(&registry.client_as("rw"), "&scope=repository:a:pull").await;
    assert_eq!(with_token(&client, Method::GET, "/v2/a/manifests/v1", &reading).await.status(), 200);
    let refused = with_token(&client, Method::POST, "/v2/a/blobs/uploads/", &reading).await;
    assert_eq!(refused.status(), 401);
    let challenge = header(&refused, "www-authenticate");
    assert!(
        challenge.contains("error=\"insufficient_scope\"") && challenge.contains("repository:a:pull,push"),
        "{challenge}"
    );
    assert_eq!(with_token(&client, Method::GET, "/v2/b/tags/list", &reading).await.status(), 401);
    let greedy =
        token(&registry.client_as("ro"), "&scope=repository:a:pull,push,delete&scope=registry:catalog:*").await;
    assert_eq!(with_token(&client, Method::GET, "/v2/a/manifests/v1", &greedy).await.status(), 200);
    assert!(
        [401, 403]
            .contains(&with_token(&client, Method::POST, "/v2/a/blobs/uploads/", &greedy).await.status().as_u16())
    );
    assert!([401, 403].contains(&with_token(&client, Method::GET, "/v2/_catalog", &greedy).await.status().as_u16()));
    registry.stop();
}

#[tokio::test]
async fn the_oauth2_form_is_read_too() {
    let registry = Registry::start(&Setup::with_users());
    let client = registry.client();
    let form = |password: &str| {
        client
            .request(Method::POST, "/auth/token")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("grant_type=password&username=rw&password={password}&service=x&scope=repository:a:pull,push"))
            .send()
    };
    let body: Value = form("secret").await.unwrap().json().await.unwrap();
    let begin = with_token(&client, Method::POST, "/v2/a/blobs/uploads/", body["access_token"].as_str().unwrap()).await;
    assert_eq!(begin.status(), 202);
    assert_eq!(form("wrong").await.unwrap().status(), 401);
    registry.stop();
}

#[tokio::test]
async fn wrong_credentials_are_401_everywhere() {
    let registry = Registry::start(&Setup::with_users());
    let client = registry.client();
    for authorization in [
        "Basic cm86VHIwdWI0ZG9y",
        "Basic bm9ib2R5OnNlY3JldA==",
        "Basic !!!",
        "Bearer x.y.z",
        "Bearer ",
        "Digest a=b",
        "x",
    ] {
        for path in ["/v2/", "/v2/a/manifests/v1", "/v2/A/manifests/v1"] {
            let response =
                client.request(Method::GET, path).header("authorization", authorization).send().await.unwrap();
            assert_eq!(response.status(), 401, "{authorization} {path}");
            assert!(response.headers().contains_key("www-authenticate"));
        }
    }
    let refused = client.get("/auth/token?scope=repository:a:pull").await;
    assert_eq!((refused.status().as_u16(), header(&refused, "www-authenticate").starts_with("Basic ")), (401, true));
    let metrics = registry.admin().get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("d8_registry_auth_failures_total"), "{metrics}");
    let log = registry.stop();
    for line in log {
        assert!(!line.to_string().contains("Tr0ub4dor"), "a password in the log: {line}");
    }
}

#[tokio::test]
async fn anonymous_may_pull_where_it_is_allowed() {
    let auth =
        format!("auth: {{ anonymous: pull, users: [{{ name: rw, role: rw, passwordHash: '{HASH_OF_SECRET}' }}] }}");
    let registry = Registry::start(&Setup::open().config(&auth));
    registry.client_as("rw").push_image("a", "v1", &Image::of(1)).await;
    let client = registry.client();
    assert_eq!(client.get("/v2/a/manifests/v1").await.status(), 200);
    assert_eq!(client.request(Method::POST, "/v2/a/blobs/uploads/").send().await.unwrap().status(), 401);
    let token = token(&client, "&scope=repository:a:pull,push").await;
    assert_eq!(with_token(&client, Method::GET, "/v2/a/manifests/v1", &token).await.status(), 200);
    assert_eq!(with_token(&client, Method::POST, "/v2/a/blobs/uploads/", &token).await.status(), 401);
    registry.stop();
}

#[tokio::test]
async fn the_challenge_of_a_mount_names_both_repositories() {
    let registry = Registry::start(&Setup::with_users());
    let path = format!("/v2/to/blobs/uploads/?mount={}&from=source/of", crate::support::digest(b"x"));
    let refused = registry.client().request(reqwest::Method::POST, &path).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    let challenge = header(&refused, "www-authenticate");
    assert!(challenge.contains("scope=\"repository:to:pull,push repository:source/of:pull\""), "{challenge}");
    registry.stop();
}
