//! The corporate proxy.

use super::*;

const LOGIN: &str = "Basic YWdlbnQ6cEBzcw==";

/// A proxy that demands a user and leads everything to `target`.
async fn proxy(target: &Server) -> Server {
    let address = target.address;
    Server::start(move |request| match (request.header("proxy-authorization"), request.method.as_str()) {
        (LOGIN, "CONNECT") => Reply::Tunnel(address),
        (LOGIN, _) => Reply::ok(MANIFEST),
        _ => Reply::with(407, "proxy-authenticate", r#"Basic realm="proxy""#),
    })
    .await
}

fn through(proxy: &Server, login: &str) -> ProxyVariables {
    let value = SecretString::from(format!("http://{login}{}", proxy.address));
    ProxyVariables { http: Some(value.clone()), https: Some(value), bypass: "direct.test".to_owned(), unreadable: None }
}

fn named(server: &Server, host: &str, ca: Option<String>) -> EndpointOptions {
    EndpointOptions { host: host.to_owned(), ca, ..anonymous(server) }
}

#[tokio::test]
async fn a_proxy_is_signed_in_to_and_looks_the_name_up() {
    let (acceptor, ca) = tls::self_signed(&["registry.test"]);
    let registry = Server::start_tls(acceptor, |_| Reply::ok(MANIFEST)).await;
    let proxy = proxy(&registry).await;
    for (scheme, expected) in
        [(Scheme::Https, "registry.test:443"), (Scheme::Http, "http://registry.test/v2/base/app/manifests/a")]
    {
        let endpoint = EndpointOptions { scheme, ..named(&registry, "registry.test", Some(ca.clone())) };
        let mut options = options(vec![endpoint]);
        options.proxy = through(&proxy, "agent:p%40ss@");
        build(&options).manifest("app", &tag("a"), soon()).await.unwrap();
        let asked = proxy.seen();
        assert_eq!(asked.last().unwrap().target, expected);
    }
    assert_eq!(registry.seen()[0].header("proxy-authorization"), "", "the proxy's secret stays with the proxy");
}

#[tokio::test]
async fn a_proxy_that_refuses_us_is_told() {
    let registry = Server::start(|_| Reply::ok(MANIFEST)).await;
    let proxy = proxy(&registry).await;
    for scheme in [Scheme::Http, Scheme::Https] {
        let mut options =
            options(vec![EndpointOptions { scheme, ..named(&registry, "registry.test", Some(tls::any_ca())) }]);
        options.proxy = through(&proxy, "agent:falsch@");
        let error = build(&options).manifest("app", &tag("a"), soon()).await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::Unreachable, "{error}");
        let said = error.to_string();
        assert!(said.contains("another user name or password") && !said.contains("falsch"), "{said}");
        assert_eq!(proxy.seen().len(), if scheme == Scheme::Http { 1 } else { 2 }, "a password is not tried again");
    }
}

#[tokio::test]
async fn what_goes_through_a_proxy_may_not_lead_inside() {
    for location in ["http://127.0.0.1/x", "http://10.0.0.1/x", "http://localhost/x", "http://169.254.169.254/"] {
        let proxy = Server::start(move |_| Reply::with(307, "location", location)).await;
        let mut options = options(vec![named(&proxy, "registry.test", None)]);
        options.proxy = through(&proxy, "");
        let error = read_blob(&build(&options), None).await.unwrap_err();
        assert_eq!(error.cause(), UpstreamCause::Refused, "{location}: {error}");
        assert_eq!(proxy.seen().len(), 1);
    }
}

#[tokio::test]
async fn what_no_proxy_names_is_gone_to_directly() {
    let registry = Server::start(|_| Reply::ok(MANIFEST)).await;
    let proxy = proxy(&registry).await;
    let mut options = options(vec![named(&registry, &format!("direct.test:{}", registry.address.port()), None)]);
    options.proxy = through(&proxy, "");
    let lookup: dns::Lookup = Arc::new(|_: &str| Ok(vec!["127.0.0.1".parse().unwrap()]));
    let upstream = Upstream::with_lookup(&options, Metrics::new().unwrap(), TaskTracker::new(), lookup).unwrap();
    upstream.manifest("app", &tag("a"), soon()).await.unwrap();
    assert_eq!((registry.seen().len(), proxy.seen().len()), (1, 0));
    options.proxy.https = Some(SecretString::from("socks5://x"));
    let error = Upstream::new(&options, Metrics::new().unwrap(), TaskTracker::new()).unwrap_err();
    assert!(error.to_string().contains("HTTPS_PROXY"), "{error}");
}

#[tokio::test]
async fn a_proxy_that_refuses_us_is_not_asked_on_and_on() {
    let registry = Server::start(|_| Reply::ok(MANIFEST)).await;
    for scheme in [Scheme::Http, Scheme::Https] {
        let proxy = proxy(&registry).await;
        let mut options =
            options(vec![EndpointOptions { scheme, ..named(&registry, "registry.test", Some(tls::any_ca())) }]);
        options.proxy = through(&proxy, "agent:falsch@");
        let upstream = build(&options);
        for child in ["a", "a", "b"] {
            let error = upstream.manifest(child, &tag("a"), soon()).await.unwrap_err();
            assert!(error.to_string().contains("another user name or password"), "{error}");
        }
        assert_eq!(proxy.seen().len(), 1, "the account would be locked");
        upstream.probe(None, soon()).await;
        assert_eq!(proxy.seen().len(), 2, "the probe asks");
    }
}

#[tokio::test]
async fn a_proxy_that_shows_its_password_does_not_make_us_show_it() {
    let proxy = Server::start(|request| {
        let said = format!("bad header {}, p%40ss, agent:p@ss", request.header("proxy-authorization"));
        Reply::Answer(400, vec![("content-type", "text/plain".to_owned())], said.into_bytes())
    })
    .await;
    let mut options = options(vec![named(&proxy, "registry.test", None)]);
    options.proxy = through(&proxy, "agent:p%40ss@");
    let error = build(&options).manifest("app", &tag("a"), soon()).await.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("bad header"), "{shown}");
    for secret in ["YWdlbnQ6cEBzcw", "p%40ss", "p@ss"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
