//! Certificates, their swap, client certificates, resumption.

use rustls::HandshakeKind;

use super::*;

/// The certificate a new connection is shown, after a request on it.
async fn shown(running: &Running, client: &Arc<ClientConfig>) -> (CertificateDer<'static>, HandshakeKind) {
    let mut stream = connect_tls(running, client).await;
    // A ticket comes with the first bytes after the handshake.
    assert_eq!(get(&mut stream, "/x").await, "/x");
    let (_, connection) = stream.get_ref();
    (connection.peer_certificates().unwrap()[0].clone().into_owned(), connection.handshake_kind().unwrap())
}

#[tokio::test]
async fn http2_or_http1_as_the_client_can() {
    let files = TlsFiles::new();
    let running = Running::start(LIMITS, Some(files.load()));
    let builder = || reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy();
    for (client, version) in [
        (builder().build().unwrap(), http::Version::HTTP_2),
        (builder().http1_only().build().unwrap(), http::Version::HTTP_11),
    ] {
        let answer = client.get(format!("https://{}/peer", running.address)).send().await.unwrap();
        assert_eq!(answer.version(), version);
        assert_eq!(answer.text().await.unwrap(), "127.0.0.1 true false");
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_open_ones_go_on() {
    let files = TlsFiles::new();
    let tls = files.load();
    let running = Running::start(LIMITS, Some(Arc::clone(&tls)));
    let mut open = connect_tls(&running, &files.client(None)).await;
    assert_eq!(get(&mut open, "/before").await, "/before");

    let second = files.authority.issue("registry", &["localhost"]);
    files.write(&second);
    let nothing = TlsChange { certificate: false, client_authorities: false, proxy_names: false };
    assert_eq!(tls.reload(&files.options).unwrap(), TlsChange { certificate: true, ..nothing });
    assert_eq!(tls.reload(&files.options).unwrap(), nothing);
    assert_eq!(get(&mut open, "/after").await, "/after");
    assert_eq!(shown(&running, &files.client(None)).await.0, *second.certificate.der());
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_the_old_one_stays() {
    let files = TlsFiles::new();
    let tls = files.load();
    let running = Running::start(LIMITS, Some(Arc::clone(&tls)));
    let before = shown(&running, &files.client(None)).await.0;
    let expiry = tls.expiry();

    let second = files.authority.issue("registry", &["localhost"]);
    std::fs::write(&files.options.cert_file, second.certificate.pem()).unwrap();
    let error = tls.reload(&files.options).unwrap_err();
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    assert!(error.may_be_swap_in_progress());
    for (file, text) in
        [(&files.options.cert_file, ""), (&files.options.cert_file, "no pem"), (&files.options.key_file, "")]
    {
        let good = std::fs::read(file).unwrap();
        std::fs::write(file, text).unwrap();
        assert!(matches!(tls.reload(&files.options).unwrap_err(), TlsError::Empty { .. }));
        std::fs::write(file, good).unwrap();
    }
    std::fs::remove_file(&files.options.key_file).unwrap();
    assert!(matches!(tls.reload(&files.options).unwrap_err(), TlsError::Read { .. }));
    assert_eq!(shown(&running, &files.client(None)).await.0, before);
    assert_eq!(tls.expiry(), expiry);
}

#[test]
fn expiry_is_the_leafs() {
    let files = TlsFiles::new();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2031, 2, 3);
    let certificate = params.signed_by(&key, &files.authority.0).unwrap();
    files.write(&Identity { certificate, key });
    assert_eq!(files.load().expiry().as_secs(), 1_927_843_200);
}

#[tokio::test]
async fn sessions_are_resumed_also_after_a_new_certificate() {
    let files = TlsFiles::new();
    let tls = files.load();
    let running = Running::start(LIMITS, Some(Arc::clone(&tls)));
    let client = files.client(None);
    assert_eq!(shown(&running, &client).await.1, HandshakeKind::Full);
    assert_eq!(shown(&running, &client).await.1, HandshakeKind::Resumed);
    files.write(&files.authority.issue("registry", &["localhost"]));
    assert!(tls.reload(&files.options).unwrap().certificate);
    assert_eq!(shown(&running, &client).await.1, HandshakeKind::Resumed);
}

#[tokio::test]
async fn tls_1_2_is_spoken_and_resumed() {
    let files = TlsFiles::new();
    let running = Running::start(LIMITS, Some(files.load()));
    let client = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(files.authority.roots())
        .with_no_client_auth();
    let client = Arc::new(client);
    assert_eq!(shown(&running, &client).await.1, HandshakeKind::Full);
    assert_eq!(shown(&running, &client).await.1, HandshakeKind::Resumed);
}

#[tokio::test]
async fn only_a_certificate_of_the_authority_with_a_trusted_name_makes_a_trusted_proxy() {
    let (authority, stranger) = (Authority::new("clients"), Authority::new("strangers"));
    let mut files = TlsFiles::new();
    files.ask_for_clients_of(&authority);
    let running = Running::start(LIMITS, Some(files.load()));
    let cases = [
        (Some(authority.issue("proxy", &[])), true),
        (Some(authority.issue("someone", &["other", "PROXY"])), true),
        (Some(authority.issue("someone", &["other"])), false),
        (Some(stranger.issue("proxy", &["proxy"])), false),
        (None, false),
    ];
    for (identity, trusted) in &cases {
        let mut stream = connect_tls(&running, &files.client(identity.as_ref())).await;
        assert_eq!(get(&mut stream, "/peer").await, format!("127.0.0.1 true {trusted}"));
    }
}

#[tokio::test]
async fn who_shows_no_certificate_resumes_and_who_shows_one_never_does() {
    let (proxies, registry, stranger) =
        (Authority::new("clients"), Authority::new("registry"), Authority::new("strangers"));
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names = vec![SanType::URI("d8-registry:controller".try_into().unwrap())];
    let controller = Identity { certificate: params.signed_by(&key, &registry.0).unwrap(), key };
    let identities = [
        (None, "false false", true),
        (Some(controller), "true false", false),
        (Some(proxies.issue("proxy", &[])), "false true", false),
        (Some(stranger.issue("proxy", &[])), "false false", false),
    ];
    for (asks_proxies, asks_controller) in [(true, false), (false, true), (true, true)] {
        let mut files = TlsFiles::new();
        if asks_proxies {
            files.ask_for_clients_of(&proxies);
        }
        if asks_controller {
            files.trust_controllers_of(&registry);
        }
        let tls = files.load();
        let running = Running::start(LIMITS, Some(Arc::clone(&tls)));
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            for (identity, seen, resumes) in &identities {
                let client = files.client_of(version, identity.as_ref());
                let mut kinds = Vec::new();
                for _ in 0..3 {
                    let mut stream = connect_tls(&running, &client).await;
                    if asks_proxies && asks_controller {
                        assert_eq!(get(&mut stream, "/controller").await, *seen);
                    } else {
                        get(&mut stream, "/controller").await;
                    }
                    kinds.extend(stream.get_ref().1.handshake_kind());
                }
                let then = if *resumes { HandshakeKind::Resumed } else { HandshakeKind::Full };
                assert_eq!(kinds, [HandshakeKind::Full, then, then], "{version:?} {seen}");
            }
        }
        // Whom nobody asked for a certificate before has to be asked now.
        let client = files.client(None);
        assert_eq!(shown(&running, &client).await.1, HandshakeKind::Full);
        files.trust_controllers_of(&stranger);
        assert!(tls.reload(&files.options).unwrap().client_authorities);
        assert_eq!(shown(&running, &client).await.1, HandshakeKind::Full);
        assert_eq!(shown(&running, &client).await.1, HandshakeKind::Resumed);
    }
}

#[tokio::test]
async fn an_expired_client_certificate_is_not_trusted() {
    let authority = Authority::new("clients");
    let mut files = TlsFiles::new();
    files.ask_for_clients_of(&authority);
    let running = Running::start(LIMITS, Some(files.load()));
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["proxy".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let identity = Identity { certificate: params.signed_by(&key, &authority.0).unwrap(), key };
    let mut stream = connect_tls(&running, &files.client(Some(&identity))).await;
    assert_eq!(get(&mut stream, "/peer").await, "127.0.0.1 true false");
}

#[tokio::test]
async fn authorities_and_names_can_be_changed_and_open_connections_go_on() {
    let authority = Authority::new("clients");
    let proxy = authority.issue("proxy", &[]);
    let mut files = TlsFiles::new();
    let tls = files.load();
    let running = Running::start(LIMITS, Some(Arc::clone(&tls)));
    let client = files.client(Some(&proxy));
    let mut open = connect_tls(&running, &client).await;
    assert_eq!(get(&mut open, "/peer").await, "127.0.0.1 true false");

    files.ask_for_clients_of(&authority);
    let change = tls.reload(&files.options).unwrap();
    assert!(change.client_authorities && !change.certificate);
    assert_eq!(get(&mut connect_tls(&running, &client).await, "/peer").await, "127.0.0.1 true true");

    files.options.trusted_proxy_names = vec!["another".to_owned()];
    let change = tls.reload(&files.options).unwrap();
    assert!(change.proxy_names && !change.client_authorities);
    assert_eq!(get(&mut connect_tls(&running, &client).await, "/peer").await, "127.0.0.1 true false");
    assert_eq!(get(&mut open, "/peer").await, "127.0.0.1 true false");
}

#[tokio::test]
async fn only_a_certificate_of_its_authority_with_its_uri_makes_the_controller() {
    let (authority, proxies) = (Authority::new("registry"), Authority::new("clients"));
    let named = |authority: &Authority, names: Vec<SanType>, common: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        params.subject_alt_names = names;
        Identity { certificate: params.signed_by(&key, &authority.0).unwrap(), key }
    };
    let uri = |name: &str| SanType::URI(name.try_into().unwrap());
    let controller = "d8-registry:controller";
    let mut files = TlsFiles::new();
    files.ask_for_clients_of(&proxies);
    files.trust_controllers_of(&authority);
    let running = Running::start(LIMITS, Some(files.load()));
    for (identity, is_controller) in [
        (named(&authority, vec![uri(controller)], "x"), true),
        (named(&authority, vec![uri("d8-registry:peer"), uri(controller)], "x"), true),
        (named(&authority, vec![uri("D8-registry:controller")], "x"), false),
        (named(&authority, vec![uri("d8-registry:controller2")], "x"), false),
        (named(&authority, vec![uri("d8-registry:peer")], "x"), false),
        (named(&authority, Vec::new(), controller), false),
        (named(&authority, vec![SanType::DnsName(controller.replace(':', ".").try_into().unwrap())], "x"), false),
        (named(&proxies, vec![uri(controller)], "x"), false),
    ] {
        let mut stream = connect_tls(&running, &files.client(Some(&identity))).await;
        assert_eq!(get(&mut stream, "/controller").await, format!("{is_controller} false"));
    }
    // Neither makes the other.
    let proxy = proxies.issue("proxy", &[]);
    let mut stream = connect_tls(&running, &files.client(Some(&proxy))).await;
    assert_eq!(get(&mut stream, "/controller").await, "false true");
}
