//! What `/status` says when a setting of an upstream is missing, held against docs/UPSTREAMS.md.

use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::Value;

use crate::support::{Image, Registry, Setup, Upstream, within};

const DOCUMENT: &str = include_str!("../../docs/UPSTREAMS.md");

const LOGIN: &str = "scheme: HTTP, username: d8, password: sesame";

/// An upstream with an image in `repo`.
fn with_image(repo: &str) -> Upstream {
    let upstream = Upstream::start();
    upstream.put_image(repo, "v1", &Image::of(1));
    upstream
}

/// What `/status` of a Proxy with this setup says of its upstream once that was probed.
async fn said(setup: &Setup) -> String {
    let registry = Registry::start(setup);
    let message = within(async {
        loop {
            let status: Value = registry.admin().get("/status").await.json().await.unwrap();
            if let Some(message) = status["upstream"]["message"].as_str() {
                return message.to_owned();
            }
        }
    })
    .await;
    registry.stop();
    message
}

/// The message has to begin with a sentence of the document, `HOST` and `PROXY` in their places.
fn documented(message: &str, sentence: &str, host: &str, proxy: &str) {
    assert!(DOCUMENT.contains(&format!("`{sentence}`")), "the document lacks: {sentence}");
    let expected = sentence.replace("HOST", host).replace("PROXY", proxy);
    assert!(message.starts_with(&expected), "{message:?} does not begin with {expected:?}");
}

async fn holds(upstream: &Upstream, repo: &str, keys: &str, sentence: &str) {
    let setup = Setup::in_front_of_repo("Proxy", &format!("{}/{repo}", upstream.address()), keys);
    documented(&said(&setup).await, sentence, &upstream.address(), "");
}

#[tokio::test]
async fn any_registry() {
    let upstream = with_image("a/b");
    holds(&upstream, "a/b", "scheme: HTTP", "HOST answers and takes the credentials").await;
    holds(&upstream, "no/such/repo", "scheme: HTTP", "HOST answers, but has no repository \"no/such/repo\"").await;
    // A registry of ours answers TLS's first bytes in plain HTTP, as others do.
    let plain = Registry::start(&Setup::open());
    let host = plain.address();
    let setup = Setup::in_front_of_repo("Proxy", &format!("{host}/a/b"), "scheme: HTTPS");
    documented(&said(&setup).await, "HOST can't be trusted: it does not speak TLS; is its scheme HTTP?", host, "");
    plain.stop();
    upstream.demand_basic("d8", "another");
    holds(&upstream, "a/b", LOGIN, "HOST refuses our credentials (401 Unauthorized)").await;

    let busy = with_image("a/b");
    busy.rule("*", "*", |answer| {
        answer.fail(429, "slow down");
    });
    holds(&busy, "a/b", "scheme: HTTP", "HOST says that it is asked too often (429 Too Many Requests)").await;

    let page = with_image("a/b");
    page.rule("*", "*", |answer| {
        answer.page(200);
    });
    let sentence = "HOST sent something of type \"text/html; charset=utf-8\" that is no registry's answer";
    holds(&page, "a/b", "scheme: HTTP", sentence).await;

    let mut gone = with_image("a/b");
    gone.down();
    holds(&gone, "a/b", "scheme: HTTP", "HOST can't be reached: the connection was refused").await;

    let unknown = with_image("a/b");
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    unknown.use_tls(config.with_no_client_auth().with_single_cert(vec![made.cert.into()], key.into()).unwrap());
    let sentence = "HOST can't be trusted: its certificate is from an authority that is not known here";
    holds(&unknown, "a/b", "scheme: HTTPS", sentence).await;
}

#[tokio::test]
async fn nexus() {
    let repo = "deckhouse/ee";
    let wrong_user = with_image(repo);
    wrong_user.demand_bearer("d8", "another");
    let sentence = "HOST refuses the user \"d8\" with the password or licence that is configured (401 Unauthorized)";
    holds(&wrong_user, repo, LOGIN, sentence).await;

    // Without the realm tokens are given, and nothing takes them.
    let no_realm = with_image(repo);
    no_realm.demand_bearer("d8", "sesame");
    no_realm.take_no_token();
    holds(&no_realm, repo, LOGIN, "HOST refuses our credentials (401 Unauthorized)").await;

    let no_role = with_image(repo);
    no_role.demand_bearer("d8", "sesame");
    no_role.rule("*", "/v2/*", |answer| {
        answer.fail(403, "you may not read this");
    });
    holds(&no_role, repo, LOGIN, "HOST refuses our credentials (403 Forbidden)").await;

    let basic = with_image(repo);
    basic.demand_basic("d8", "sesame");
    holds(&basic, repo, LOGIN, "HOST answers and takes the credentials").await;

    let no_licence = Upstream::start();
    no_licence.demand_bearer("d8", "sesame");
    holds(&no_licence, repo, LOGIN, "HOST answers, but has no repository \"deckhouse/ee\"").await;
}

#[tokio::test]
async fn harbor() {
    let no_project = with_image("d8s/deckhouse/ee");
    no_project.demand_bearer("d8", "sesame");
    no_project.rule("*", "/v2/deckhouse/*", |answer| {
        answer.fail(401, "unauthorized to access repository: deckhouse/ee");
    });
    holds(&no_project, "deckhouse/ee", LOGIN, "HOST refuses our credentials (401 Unauthorized)").await;

    let no_right = with_image("d8s/deckhouse/ee");
    no_right.demand_bearer("d8", "sesame");
    no_right.rule("*", "/v2/*", |answer| {
        answer.fail(403, "forbidden");
    });
    holds(&no_right, "d8s/deckhouse/ee", LOGIN, "HOST refuses our credentials (403 Forbidden)").await;

    let no_cache = Upstream::start();
    no_cache.demand_bearer("d8", "sesame");
    let sentence = "HOST answers, but has no repository \"d8s/deckhouse/ee\"";
    holds(&no_cache, "d8s/deckhouse/ee", LOGIN, sentence).await;
}

#[tokio::test]
async fn a_corporate_proxy() {
    let squid = Upstream::start_at(Ipv4Addr::new(127, 0, 0, 2));
    let host = "registry.example.com";
    let through = |proxy: &Upstream| {
        Setup::in_front_of_repo("Proxy", &format!("{host}/a/b"), "scheme: HTTPS")
            .env("HTTPS_PROXY", &format!("http://me:wrong@{}", proxy.address()))
    };
    squid.rule("CONNECT", "*", |answer| {
        answer.fail(407, "proxy authentication required").header("proxy-authenticate", "Basic realm=\"proxy\"");
    });
    let sentence = "HOST can't be reached through the proxy PROXY: the proxy wants another user name or password";
    documented(&said(&through(&squid)).await, sentence, host, &squid.address());
    squid.heal();
    squid.rule("CONNECT", "*", |answer| {
        answer.page(403);
    });
    let sentence = "HOST can't be reached through the proxy PROXY: the proxy refuses to connect to it";
    documented(&said(&through(&squid)).await, sentence, host, &squid.address());

    let mut gone = Upstream::start();
    gone.down();
    let sentence = "HOST can't be reached through the proxy PROXY: the connection was refused";
    documented(&said(&through(&gone)).await, sentence, host, &gone.address());
}
