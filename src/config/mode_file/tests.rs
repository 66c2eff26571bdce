use super::*;

const WHOLE: &str = "version: 1
generation: 12
inForce: {mode: Proxy, upstream: {imagesRepo: registry.example.com/deckhouse/ee, scheme: HTTPS, username: license-token, password: hunter2}, ttl: 168h}
coming: {mode: Local, phase: filling}
previous:
  - {mode: Direct, upstream: {imagesRepo: 'old.example.com:5000/a', scheme: HTTP}}
  - {mode: Local}
";

fn error(text: &str) -> KeyError {
    ModeFile::parse(text.as_bytes()).expect_err(text)
}

#[test]
fn a_whole_file_is_read() {
    let file = ModeFile::parse(WHOLE.as_bytes()).unwrap();
    assert_eq!(file.generation, 12);
    assert_eq!(file.hash.len(), 64);
    assert_eq!(file.hash, Sha256::digest(WHOLE).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let InForce::Mode { mode: ModeSpec::Proxy { upstream, ttl }, previous } = &file.in_force else {
        panic!("{file:?}")
    };
    assert_eq!(
        (upstream.endpoint.host.as_str(), upstream.endpoint.path.as_str()),
        ("registry.example.com", "deckhouse/ee")
    );
    assert_eq!(*ttl, Duration::from_secs(168 * 3600));
    assert_eq!(file.coming, Some(Coming { mode: ModeSpec::Local, phase: Phase::Filling }));
    assert_eq!(previous.iter().map(ModeSpec::as_str).collect::<Vec<_>>(), ["Direct", "Local"]);
    assert_eq!(file.logins().map(|(name, _)| name).collect::<Vec<_>>(), ["license-token"]);
    assert_eq!(file.bytes(), WHOLE.as_bytes());
    assert!(!format!("{file:?}").contains("hunter2"));
}

#[test]
fn the_least_files_are_read() {
    let unmanaged = ModeFile::parse(b"{version: 1, generation: 0, inForce: {mode: Unmanaged}}").unwrap();
    assert_eq!((unmanaged.in_force.as_str(), unmanaged.modes().count()), ("Unmanaged", 0));
    let filling = ModeFile::parse(
        b"{version: 1, generation: 1, inForce: {mode: Unmanaged}, coming: {mode: Local, phase: ready}}",
    );
    assert_eq!(filling.unwrap().coming.unwrap().phase, Phase::Ready);
    let proxy = ModeFile::parse(
        b"{version: 1, generation: 1, inForce: {mode: Proxy, upstream: {imagesRepo: registry.example.com}}}",
    );
    let InForce::Mode { mode: ModeSpec::Proxy { ttl, upstream }, .. } = proxy.unwrap().in_force else { panic!() };
    assert_eq!((ttl, upstream.endpoint.scheme), (Duration::ZERO, Scheme::Https));
}

#[test]
fn what_can_not_be_is_refused_with_its_key() {
    let upstream = "upstream: {imagesRepo: a.example/b}";
    for (text, key) in [
        ("", "version"),
        ("{generation: 1, inForce: {mode: Local}}", "version"),
        ("{version: 2, generation: 1, inForce: {mode: Local}}", "version"),
        ("{version: 1, inForce: {mode: Local}}", "generation"),
        ("{version: 1, generation: 1}", "inForce"),
        ("{version: 1, generation: -1, inForce: {mode: Local}}", "generation"),
        ("{version: 1, generation: 1, inForce: {}}", "inForce.mode"),
        ("{version: 1, generation: 1, inForce: {mode: Nothing}}", "inForce.mode"),
        ("{version: 1, generation: 1, inForce: {mode: Direct}}", "inForce.upstream"),
        ("{version: 1, generation: 1, inForce: {mode: Proxy, upstream: {}}}", "inForce.upstream.imagesRepo"),
        (&format!("{{version: 1, generation: 1, inForce: {{mode: Local, {upstream}}}}}"), "inForce.upstream"),
        (&format!("{{version: 1, generation: 1, inForce: {{mode: Unmanaged, {upstream}}}}}"), "inForce.upstream"),
        (&format!("{{version: 1, generation: 1, inForce: {{mode: Direct, ttl: 1h, {upstream}}}}}"), "inForce.ttl"),
        (&format!("{{version: 1, generation: 1, inForce: {{mode: Proxy, ttl: 1m, {upstream}}}}}"), "inForce.ttl"),
        ("{version: 1, generation: 1, inForce: {mode: Unmanaged}, previous: [{mode: Local}]}", "previous"),
        ("{version: 1, generation: 1, inForce: {mode: Local}, previous: [{mode: Unmanaged}]}", "previous[0].mode"),
        ("{version: 1, generation: 1, inForce: {mode: Local}, coming: {mode: Unmanaged, phase: ready}}", "coming.mode"),
        ("{version: 1, generation: 1, inForce: {mode: Local}, coming: {mode: Local}}", "coming.phase"),
        ("{version: 1, generation: 1, inForce: {mode: Local}, coming: {mode: Local, phase: gone}}", "coming.phase"),
        (
            &format!(
                "{{version: 1, generation: 1, inForce: {{mode: Local}}, previous: [{}]}}",
                ["{mode: Local}"; 9].join(",")
            ),
            "previous",
        ),
        (
            "{version: 1, generation: 1, inForce: {mode: Direct, upstream: {imagesRepo: a.example, username: x}}}",
            "inForce.upstream.username",
        ),
        (
            "{version: 1, generation: 1, inForce: {mode: Direct, upstream: {imagesRepo: a.example, password: x}}}",
            "inForce.upstream.password",
        ),
        (
            "{version: 1, generation: 1, inForce: {mode: Direct, upstream: {imagesRepo: a.example, ca: x}}}",
            "inForce.upstream.ca",
        ),
        (
            "{version: 1, generation: 1, inForce: {mode: Direct, upstream: {imagesRepo: a.example, scheme: HTTP, ca: x}}}",
            "inForce.upstream.ca",
        ),
    ] {
        let error = error(text);
        assert_eq!(error.key, key, "{text}: {error}");
    }
    assert!(ModeFile::parse(b"\xff").is_err());
    assert!(ModeFile::parse(&vec![b' '; 1 + usize::try_from(MAX_FILE_BYTES).unwrap()]).is_err());
}

#[test]
fn no_error_shows_a_secret() {
    for text in [
        WHOLE.replace("password: hunter2", "password: [hunter2]"),
        WHOLE.replace("password: hunter2", "password: \"hunter2\\n\""),
        WHOLE.replace("password: hunter2", "passwort: hunter2"),
        WHOLE.replace("generation: 12", "generation: hunter2"),
    ] {
        let error = error(&text);
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(error.position.is_some(), "{error}");
    }
}

#[test]
fn an_upstream_is_never_this_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mode.yaml");
    let listen = [Address::loopback(5001)];
    assert_eq!(ModeFile::find(&path, &listen, &UpstreamRoutes::default()), FoundModeFile::Absent);
    for (host, is_right) in [("127.0.0.1:5001", false), ("registry.d8-system.svc", false), ("127.0.0.1:5002", true)] {
        let text =
            format!("{{version: 1, generation: 1, inForce: {{mode: Direct, upstream: {{imagesRepo: '{host}/x'}}}}}}");
        std::fs::write(&path, text).unwrap();
        assert_eq!(
            matches!(ModeFile::find(&path, &listen, &UpstreamRoutes::default()), FoundModeFile::Read(_)),
            is_right,
            "{host}"
        );
    }
    std::fs::write(&path, "version: [").unwrap();
    let FoundModeFile::Wrong(why) = ModeFile::find(&path, &listen, &UpstreamRoutes::default()) else { panic!() };
    assert!(why.contains("mode.yaml"), "{why}");
}
