//! What a refused or doubtful configuration says.

use super::*;

/// What is refused says what to write, in the words of the file: no type of the program, none of its parser.
#[test]
fn what_is_refused_says_what_to_write() {
    for (text, words) in [
        ("limits: {pull: 5}", &["did you mean pulls?"][..]),
        ("lisen: 127.0.0.1:1", &["did you mean listen?"]),
        ("admin_listen: 127.0.0.1:1", &["did you mean adminListen?"]),
        ("Listen: 127.0.0.1:1", &["did you mean listen?"]),
        ("tls: {cert_file: c}", &["did you mean certFile?"]),
        ("tls: {cert: c}", &["did you mean certFile?"]),
        ("auth: {users: [{name: a, password: x}]}", &["did you mean passwordHash?"]),
        ("mode: Proxy\nupstream: {imagesRepo: 'https://r.example.com/a'}", &["without https://", "upstream.scheme"]),
        ("usersDir: /u", &["there is auth.usersDir"]),
        ("store: {passwordHash: x}", &["there is auth.users[].passwordHash"]),
        ("auth: {maxbytes: 1}", &["there is store.maxBytes"]),
        ("tls: yes", &["certFile", "keyFile", "disabled"]),
        ("auth: {users: [ro]}", &["name, passwordHash, role"]),
        ("- mode", &["mode, modeFile, repository, repositories, listen"]),
        ("limits: {pulls: -1}", &["whole number", "512"]),
        ("limits: {pulls: 0}", &["0 is less than 1"]),
        ("listen: 5001", &["127.0.0.1:5001", "0.0.0.0:5001"]),
        ("listen: {a: b}", &["127.0.0.1:5001", "found keys"]),
        ("listen: true", &["127.0.0.1:5001"]),
        ("mode: Local\n---\nmode: Local", &["more than one YAML document"]),
        ("listen: [127.0.0.1:5001, 0.0.0.0:5001]\nauth: {anonymous: pull}", &["127.0.0.1:5001 too", "leave one"]),
        ("listen: 0.0.0.0:5002\nauth: {anonymous: pull}", &["127.0.0.1:5002 too"]),
    ] {
        let said = parse(text).expect_err(text).to_string();
        for word in words {
            assert!(said.contains(word), "{text}: {said}");
        }
        for word in ["u32", "u64", "bool", "struct", "scalar", "mapping", "sequence", "Raw", "Option", "a integer"] {
            assert!(!said.contains(word), "{text}: {said}");
        }
    }
    accepted("listen: ['0.0.0.0:5001', '[::]:5001']\nauth: {anonymous: pull}\n");
    assert!(!refused("Listen: 127.0.0.1:1").to_string().contains("there is"));
    // Far from any key nothing is guessed.
    assert!(!refused("limits: {colour: 5}").to_string().contains("did you mean"));
}

#[test]
fn what_is_probably_not_meant_is_said() {
    let proxy = |rest: &str| format!("mode: Proxy\nupstream: {{{rest}}}\n");
    for (text, word) in [
        (proxy("imagesRepo: deckhouse/ee"), "registry.example.com/deckhouse/ee"),
        (proxy("imagesRepo: r.example.com, mirrors: [{imagesRepo: deckhouse/ee}]"), "upstream.mirrors[0].imagesRepo"),
        (proxy("imagesRepo: 'r.example.com:80/a'"), "the port is that of HTTP;"),
        (proxy("imagesRepo: 'r.example.com:443/a', scheme: HTTP"), "the port is that of HTTPS;"),
        ("upstream: {imagesRepo: registry.example.com/a}".to_owned(), "mode: Proxy"),
        ("auth: {token: {signingKeyFile: /k}}".to_owned(), "no users"),
        (users(&user("a")) + "  token: {enabled: false, signingKeyFile: /k}", "enabled is false"),
        ("auth: {upstreamUser: true, anonymous: pull}".to_owned(), "no upstream"),
        (proxy("imagesRepo: r.example.com/a") + "auth: {upstreamUser: true, anonymous: pull}", "without credentials"),
        ("store: {reserveBytes: 15}".to_owned(), "15%"),
    ] {
        let warnings = accepted(&text).warnings();
        assert!(warnings.len() == 1 && warnings[0].contains(word), "{text}: {warnings:?}");
    }
    for text in [
        String::new(),
        users(&user("a")),
        users(&user("a")) + "  token: {signingKeyFile: /k}",
        proxy("imagesRepo: registry.example.com/deckhouse/ee"),
        proxy("imagesRepo: 'registry:5000/deckhouse/ee'"),
        proxy("imagesRepo: localhost/deckhouse/ee"),
        proxy("imagesRepo: registry"),
        "mode: Local\nupstream: {imagesRepo: registry.example.com/a}".to_owned(),
        "store: {reserveBytes: 0}".to_owned(),
        "store: {reserveBytes: 10GiB}".to_owned(),
        "mode: Direct\nupstream: {imagesRepo: r.example.com/a}".to_owned(),
    ] {
        assert_eq!(accepted(&text).warnings(), Vec::<String>::new(), "{text}");
    }
}
