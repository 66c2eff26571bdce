//! The upstream client as seen from outside: whom it trusts with what, what it puts up with, and what it tells.

use serde_json::Value;

use crate::support::{
    ALIAS, Gate, Image, REPO, Registry, Setup, Upstream, blob, cache, digest, header, refusal, within,
};

fn path(rest: &str) -> String {
    format!("/v2/{ALIAS}/{rest}")
}

fn there(rest: &str) -> String {
    format!("/v2/{REPO}/{rest}")
}

const LOGIN: &str = "scheme: HTTP, username: puller, password: sesame";

/// An image of the upstream's, under tag `v1`.
fn with_image() -> (Upstream, Image) {
    let (upstream, image) = (Upstream::start(), Image::of(1));
    upstream.put_image(REPO, "v1", &image);
    (upstream, image)
}

/// Pulls an image with all its blobs.
async fn pull(registry: &Registry, image: &Image) {
    let client = registry.client();
    assert_eq!(client.get(&path("manifests/v1")).await.bytes().await.unwrap(), image.manifest());
    for content in image.blobs() {
        let blob = client.get(&path(&format!("blobs/{}", digest(content)))).await;
        assert_eq!(blob.status(), 200);
        assert_eq!(blob.bytes().await.unwrap(), content);
    }
}

fn proxy(upstream: &Upstream, keys: &str) -> Setup {
    Setup::in_front_of("Proxy", &upstream.address(), keys).config("proxy: { tagTtl: 0s, negativeTtl: 0s }")
}

#[tokio::test]
async fn it_signs_in_by_basic() {
    let (upstream, image) = with_image();
    upstream.demand_basic("puller", "sesame");
    let registry = Registry::start(&proxy(&upstream, LOGIN));
    pull(&registry, &image).await;
    registry.stop();
}

#[tokio::test]
async fn an_upstream_may_have_an_address_of_ipv6() {
    for mode in ["Proxy", "Direct"] {
        let (upstream, image) = (Upstream::start_at(std::net::Ipv6Addr::LOCALHOST), Image::of(1));
        upstream.put_image(REPO, "v1", &image);
        upstream.demand_bearer("puller", "sesame");
        assert!(upstream.address().starts_with("[::1]:"));
        let setup = Setup::in_front_of(mode, &upstream.address(), LOGIN).config("auth: { upstreamUser: false }");
        let registry = Registry::start(&setup);
        pull(&registry, &image).await;
        registry.stop();
    }
}

#[tokio::test]
async fn a_challenge_that_comes_at_the_base_alone_is_found() {
    for mode in ["Proxy", "Direct"] {
        let (upstream, image) = with_image();
        upstream.hide_behind("puller", "sesame");
        let setup = Setup::in_front_of(mode, &upstream.address(), LOGIN);
        let registry = Registry::start(&setup.config("auth: { upstreamUser: false }\nproxy: { negativeTtl: 0s }"));
        pull(&registry, &image).await;
        let client = registry.client();
        for rest in [format!("blobs/{}", digest(b"none")), "manifests/none".to_owned()] {
            assert_eq!(client.get(&path(&rest)).await.status(), 404, "{rest}");
        }
        registry.stop();
    }
}

#[tokio::test]
async fn a_404_without_credentials_is_believed_and_the_base_asked_once() {
    let (upstream, _) = with_image();
    let registry = Registry::start(&proxy(&upstream, LOGIN));
    for tag in ["none", "neither", "nor"] {
        assert_eq!(registry.client().get(&path(&format!("manifests/{tag}"))).await.status(), 404);
    }
    // One for the challenge; the probe asks for a list.
    assert_eq!(upstream.count("GET", "/v2/"), 1);
    registry.stop();
}

#[tokio::test]
async fn a_token_is_fetched_once_for_all_who_need_it_and_used_until_it_ends() {
    let (upstream, image) = with_image();
    upstream.demand_bearer("puller", "sesame");
    upstream.token_life(Some(3600));
    let registry = Registry::start(&proxy(&upstream, LOGIN));
    let pulls = (0..20).map(|_| pull(&registry, &image));
    futures_util::future::join_all(pulls).await;
    for _ in 0..5 {
        pull(&registry, &image).await;
    }
    // One for the probe of the credentials, which may run beside the first pull, under the same scope.
    let tokens = upstream.count("GET", "/token");
    assert!((1..=2).contains(&tokens), "{tokens} tokens");
    let bases = upstream.count("*", "/v2/");
    assert!(bases <= 1, "{bases} pings");
    let seen = upstream.asked("GET", "/token");
    assert!(seen[0].query.contains(&REPO.replace('/', "%2F")) || seen[0].query.contains(REPO), "{seen:?}");
    registry.stop();
}

#[tokio::test]
async fn a_token_refused_in_mid_life_is_replaced_once() {
    let (upstream, image) = with_image();
    upstream.demand_bearer("puller", "sesame");
    upstream.token_life(Some(3600));
    let registry = Registry::start(&proxy(&upstream, LOGIN));
    pull(&registry, &image).await;
    upstream.revoke_tokens();
    upstream.forget_seen();
    let revalidated = registry.client().get(&path("manifests/v1")).await;
    assert_eq!((revalidated.status().as_u16(), &*cache(&revalidated)), (200, "revalidated"));
    assert_eq!(upstream.count("GET", "/token"), 1);
    registry.stop();
}

#[tokio::test]
async fn a_token_without_a_life_is_used_more_than_once() {
    let (upstream, image) = with_image();
    upstream.demand_bearer("puller", "sesame");
    let registry = Registry::start(&proxy(&upstream, LOGIN));
    for _ in 0..5 {
        pull(&registry, &image).await;
    }
    assert!(upstream.count("GET", "/token") <= 2, "{}", upstream.count("GET", "/token"));
    registry.stop();
}

#[tokio::test]
async fn a_token_service_on_another_port_of_the_host_gets_the_password_another_host_does_not() {
    for (tokens, trusted) in
        [(Upstream::start(), true), (Upstream::start_at(std::net::Ipv4Addr::new(127, 0, 0, 2)), false)]
    {
        let (upstream, image) = with_image();
        upstream.demand_bearer_of(&tokens, "puller", "sesame");
        let registry = Registry::start(&proxy(&upstream, LOGIN));
        if trusted {
            pull(&registry, &image).await;
        } else {
            let refusal = refusal(registry.client().get(&path("manifests/v1")).await).await;
            assert!([403, 502].contains(&refusal.status), "{refusal:?}");
            assert!(tokens.seen().iter().all(|seen| seen.header("authorization").is_none()), "the password was sent");
        }
        registry.stop();
    }
}

#[tokio::test]
async fn a_new_password_in_the_file_takes_effect_and_hits_never_stop() {
    let (upstream, image) = with_image();
    upstream.put_image(REPO, "v2", &Image::of(2));
    upstream.demand_bearer("puller", "sesame");
    upstream.token_life(Some(3600));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "sesame").unwrap();
    let keys = format!("scheme: HTTP, username: puller, passwordFile: {}", file.display());
    let registry =
        Registry::start(&Setup::in_front_of("Proxy", &upstream.address(), &keys).config("proxy: { tagTtl: 1h }"));
    pull(&registry, &image).await;
    upstream.demand_bearer("puller", "open");
    upstream.revoke_tokens();
    let missing = refusal(registry.client().get(&path("manifests/v2")).await).await;
    assert_eq!((missing.status, &*missing.code), (403, "DENIED"), "{missing:?}");
    assert!(missing.detail.to_string().contains("incorrect username or password"), "{missing:?}");
    pull(&registry, &image).await;
    std::fs::write(&file, "open").unwrap();
    within(async {
        while registry.client().get(&path("manifests/v2")).await.status() != 200 {
            pull(&registry, &image).await;
        }
    })
    .await;
    registry.until_metric("d8_registry_upstream_probes_total{outcome=\"ok\"}", 2.0).await;
    registry.stop();
}

#[tokio::test]
async fn a_password_that_the_upstream_refuses_does_not_take_the_place_of_one_that_works() {
    let (upstream, image) = with_image();
    upstream.put_image(REPO, "v2", &Image::of(2));
    upstream.demand_basic("puller", "sesame");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "sesame").unwrap();
    let keys = format!("scheme: HTTP, username: puller, passwordFile: {}", file.display());
    let registry = Registry::start(&Setup::in_front_of("Proxy", &upstream.address(), &keys));
    pull(&registry, &image).await;
    registry.until_metric("d8_registry_upstream_probes_total{outcome=\"ok\"}", 1.0).await;
    std::fs::write(&file, "mistyped").unwrap();
    registry.until_metric("d8_registry_upstream_probes_total{outcome=\"auth\"}", 1.0).await;
    assert_eq!(registry.client().get(&path("manifests/v2")).await.status(), 200);
    let status: Value = registry.admin().get("/status").await.json().await.unwrap();
    assert!(status["upstream"]["refused"].as_str().unwrap().contains("credentials"), "{status}");
    registry.stop();
}

#[tokio::test]
async fn two_sources_of_credentials_are_an_error_and_so_is_none_that_fits() {
    let folder = tempfile::tempdir().unwrap();
    let docker = folder.path().join("config.json");
    std::fs::write(&docker, r#"{"auths":{"registry.example.com":{"auth":"YTpi"}}}"#).unwrap();
    let docker = format!("dockerConfigFile: {}", docker.display());
    for (keys, word) in [
        ("license: x, username: a, password: b".to_owned(), "license"),
        (format!("license: x, {docker}"), "dockerConfigFile"),
        (docker, "registry.example.com"),
        ("username: a".to_owned(), "password"),
        ("ca: x".to_owned(), "ca"),
    ] {
        let yaml = format!(
            "listen: 127.0.0.1:0\nadminListen: 127.0.0.1:0\nstore: {{ dir: {} }}\nmode: Proxy\n\
             upstream: {{ imagesRepo: 'localhost:1/a', scheme: HTTP, {keys} }}\n",
            folder.path().join("data").display()
        );
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, yaml).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_d8-registry"))
            .args(["serve", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{keys}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(word), "{keys}: {text}");
    }
}

#[tokio::test]
async fn credentials_come_from_a_docker_configuration_or_the_mounted_secret() {
    let (upstream, image) = with_image();
    upstream.demand_basic("puller", "sesame");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    // puller:sesame, and an entry for somebody else.
    let auths = format!(
        r#"{{"auths":{{"{}":{{"auth":"cHVsbGVyOnNlc2FtZQ=="}},"registry.d8-system.svc:5001":{{"auth":"YTpi"}}}}}}"#,
        upstream.address()
    );
    std::fs::write(&file, auths).unwrap();
    let keys = format!("scheme: HTTP, dockerConfigFile: {}", file.display());
    let registry = Registry::start(&proxy(&upstream, &keys));
    pull(&registry, &image).await;
    registry.stop();
    let secret = folder.path().join("secret");
    std::fs::create_dir(&secret).unwrap();
    let repo = format!("{}/{REPO}", upstream.address());
    for (name, value) in [
        ("mode", "Proxy"),
        ("imagesRepo", &*repo),
        ("username", "puller"),
        ("password", "sesame"),
        ("scheme", "HTTP"),
        ("ttl", ""),
        ("checkMode", "Default"),
    ] {
        std::fs::write(secret.join(name), value).unwrap();
    }
    let setup = Setup::open().config(&format!("mode: Proxy\nupstream: {{ secretDir: {} }}", secret.display()));
    let registry = Registry::start(&setup);
    pull(&registry, &image).await;
    registry.stop();
}

/// A certificate and key for 127.0.0.1, and the certificate as PEM.
fn self_signed(authority: bool) -> (rustls::ServerConfig, String) {
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca =
        if authority { rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained) } else { rcgen::IsCa::ExplicitNoCa };
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    (config, certificate.pem())
}

#[tokio::test]
async fn a_certificate_that_signed_itself_is_trusted_only_where_it_is_configured() {
    for authority in [true, false] {
        let (upstream, image) = with_image();
        let (config, pem) = self_signed(authority);
        upstream.use_tls(config);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        std::fs::write(&file, &pem).unwrap();
        let keys = format!("scheme: HTTPS, caFile: {}", file.display());
        let registry = Registry::start(&proxy(&upstream, &keys));
        pull(&registry, &image).await;
        registry.stop();
        std::fs::write(&file, self_signed(authority).1).unwrap();
        for keys in ["scheme: HTTPS", &*keys] {
            let registry = Registry::start(&proxy(&upstream, keys));
            let refusal = refusal(registry.client().get(&path("manifests/v1")).await).await;
            assert!([502, 504].contains(&refusal.status), "{refusal:?}");
            registry.stop();
        }
    }
}

#[tokio::test]
async fn an_http_proxy_of_the_environment_is_used_and_told_its_password() {
    let (gateway, image) = with_image();
    // The scripted upstream plays the proxy: it takes whole URLs too.
    let address = format!("http://corp:pass@{}", gateway.address());
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("http-proxy");
    std::fs::write(&file, format!("{address}\n")).unwrap();
    let file = file.display().to_string();
    // As it is in a pod's specification, or in a mounted Secret.
    for (variable, value) in [("HTTP_PROXY", &address), ("HTTP_PROXY_FILE", &file)] {
        let setup = Setup::in_front_of("Proxy", "registry.test:5000", "scheme: HTTP");
        let registry = Registry::start(&setup.env(variable, value).env("NO_PROXY", "other.test"));
        let before = gateway.asked("*", &there("*")).len();
        pull(&registry, &image).await;
        let seen = gateway.asked("*", &there("*"));
        assert!(seen.len() > before, "{variable}");
        for seen in seen {
            assert_eq!(seen.header("host"), Some("registry.test:5000"));
            assert_eq!(seen.header("proxy-authorization"), Some("Basic Y29ycDpwYXNz"));
        }
        registry.stop();
    }
}

#[test]
fn a_proxy_s_file_that_can_t_be_read_is_wrong_configuration() {
    let folder = tempfile::TempDir::new().unwrap();
    let missing = folder.path().join("missing").display().to_string();
    let directory = folder.path().display().to_string();
    for (variable, path) in [("HTTPS_PROXY_FILE", &missing), ("HTTP_PROXY_FILE", &directory)] {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_d8-registry"))
            .env(variable, path)
            .args(["serve", "--check-config", "--mode", "Proxy", "--upstream", "http://registry.test:5000/a"])
            .output()
            .unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{said}");
        assert!(said.contains(variable) && said.contains(path.as_str()), "{said}");
    }
}

#[tokio::test]
async fn tags_learnt_from_one_upstream_are_not_served_for_another() {
    let (first, image) = with_image();
    let other = Upstream::start();
    other.put_image(REPO, "v1", &Image::of(2));
    let setup = |upstream: &Upstream| Setup::proxy(upstream).config("proxy: { tagTtl: 1h }");
    let registry = Registry::start(&setup(&first));
    pull(&registry, &image).await;
    registry.reconfigure(&setup(&other));
    let client = registry.client();
    within(async {
        while header(&client.get(&path("manifests/v1")).await, "docker-content-digest") != Image::of(2).digest() {}
    })
    .await;
    // Nor is what is stored of the first: the other one does not have it.
    assert_eq!(client.get(&path(&format!("manifests/{}", image.digest()))).await.status(), 404);
    assert_eq!(client.get(&path(&format!("blobs/{}", digest(&image.blobs()[1])))).await.status(), 404);
    // Back again: nothing was wiped, so the first need not be asked for what it gave.
    first.forget_seen();
    registry.reconfigure(&setup(&first));
    within(async { while client.get(&path(&format!("manifests/{}", image.digest()))).await.status() != 200 {} }).await;
    pull(&registry, &image).await;
    assert_eq!(first.count("GET", &there("blobs/*")), 0);
    registry.stop();
}

#[tokio::test]
async fn a_request_in_flight_ends_on_the_upstream_it_began_with() {
    let (first, other) = (Upstream::start(), Upstream::start());
    let content = blob(1, 300_000);
    let digest = first.put_blob(REPO, &content);
    let gate = Gate::new();
    first.rule("GET", &there("blobs/*"), {
        let gate = gate.clone();
        move |answer| {
            answer.hold(1000, &gate);
        }
    });
    other.put_image(REPO, "v1", &Image::of(2));
    let registry = Registry::start(&Setup::direct(&first));
    let response = registry.client().get(&path(&format!("blobs/{digest}"))).await;
    assert_eq!(response.status(), 200);
    registry.reconfigure(&Setup::direct(&other));
    within(async { while registry.client().get(&path("manifests/v1")).await.status() != 200 {} }).await;
    gate.open();
    assert_eq!(response.bytes().await.unwrap(), content);
    registry.stop();
}
