//! The pure parsers: no input makes one panic, and what one takes means the same when it is written and read again.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

use d8_registry::config::{Config, Machine, Overrides};
use d8_registry::oci::{Algorithm, Digest, Manifest, RangeSpec, Reference, RepoName, Tag, UploadId, UploadRange};

use super::Cases;
use super::mutate::{Random, mutate};

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A parser: what it takes rightly, and the law on what it makes of anything.
struct Target {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    law: fn(&[u8]),
}

fn texts(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// What was read is written as it was, and read again is the same.
fn stays<T: FromStr + Display + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(value) = text.parse::<T>() {
        let written = value.to_string();
        assert_eq!(written, text);
        assert!(written.parse::<T>().is_ok_and(|again| again == value));
    }
}

fn ranges(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some(range) = RangeSpec::parse(text) else { return };
    for size in [0, 1, 2, 1000, u64::MAX] {
        if let Ok(Some(found)) = range.resolve(size) {
            assert!(found.start() < found.end() && found.end() <= size, "{found:?} of {size}");
            assert!(found.content_range(size).starts_with("bytes "));
        }
    }
}

fn chunks(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(range) = text.parse::<UploadRange>() {
        assert!(range.len > 0 && range.first.checked_add(range.len - 1).is_some(), "{range:?}");
    }
}

fn manifests(bytes: &[u8]) {
    let types = [None, Some("application/vnd.oci.image.manifest.v1+json"), Some("application/json; charset=utf-8")];
    for media_type in types {
        let Ok(manifest) = Manifest::parse(media_type, bytes) else { continue };
        // What was taken is read from the disk by its bytes alone.
        let stored = Manifest::parse(None, bytes).expect("stored and never readable");
        assert_eq!(stored.kind, manifest.kind);
        assert_eq!(stored.required_blobs().count(), manifest.required_blobs().count());
    }
}

fn configurations(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let machine = Machine { cores: 2, terminal: false };
    if let Err(error) = Config::parse(text, None, &Overrides::default(), machine) {
        assert!(!error.to_string().is_empty());
    }
}

fn configuration_seeds() -> Vec<Vec<u8>> {
    let hash = crate::support::HASH_OF_SECRET;
    let users = format!(
        "listen: ['127.0.0.1:0', '[::1]:5001']\nauth:\n  anonymous: pull\n  users:\n  - {{name: a, role: rw, passwordHash: '{hash}'}}\n  token: {{enabled: true, ttl: 15m}}\n"
    );
    let rest = "mode: Local\nstore: {dir: /data, maxBytes: 10GiB, reserveBytes: 15%, mustExist: true}\nmanifests: {maxBytes: 4MiB, missingReferences: allow}\nlimits:\n  pulls: 512\n  queueWait: 20s\n  stallTimeout: 1h30m\nlog: {format: json, level: debug, access: errors}\n";
    let upstream = "mode: Proxy\nrepository: system/deckhouse\nupstream:\n  imagesRepo: registry.example.org/path\n  scheme: HTTPS\n  username: u\n  password: p\n  mirrors: [{imagesRepo: 'b:5000/x', scheme: HTTP}]\nproxy: {ttl: 5m, staleOn: [unreachable, 5xx]}\n";
    let anchors = "a: &a {x: 1}\nstore: *a\nlimits: {<<: *a}\n--- \ntls: {certFile: c, keyFile: k, clientCAFile: d, trustedProxyNames: [x]}\n";
    texts(&[&users, rest, upstream, anchors, "# nothing\n"])
}

fn manifest_seeds() -> Vec<Vec<u8>> {
    let descriptor = |media_type: &str| format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{HEX}","size":12}}"#);
    let config = descriptor("application/vnd.oci.image.config.v1+json");
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar+gzip");
    let child = descriptor("application/vnd.oci.image.manifest.v1+json");
    let docker = "application/vnd.docker.distribution.manifest";
    texts(&[
        &format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config},"layers":[{layer},{layer}],"subject":{child},"artifactType":"a/b","annotations":{{"k":"v"}}}}"#
        ),
        &format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{child}]}}"#
        ),
        &format!(
            r#"{{"schemaVersion":2,"mediaType":"{docker}.v2+json","config":{config},"layers":[{}]}}"#,
            descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
        ),
        &format!(r#"{{"schemaVersion":2,"mediaType":"{docker}.list.v2+json","manifests":[{child},{child}]}}"#),
        r#"{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[],"signatures":[]}"#,
        &"[".repeat(200),
    ])
}

fn targets() -> Vec<Target> {
    let target = |name, seeds: &[&str], law| Target { name, seeds: texts(seeds), law };
    let digest = format!("sha256:{HEX}");
    let wide = format!("sha512:{HEX}{HEX}");
    vec![
        target("digest", &[&digest, &wide], stays::<Digest>),
        target("algorithm", &["sha256", "sha512"], stays::<Algorithm>),
        target("name", &["a", "team/app", "a.b_c__d-e/f", &"a/".repeat(100), &"a".repeat(255)], stays::<RepoName>),
        target("tag", &["v1", "_x.y-z", &"t".repeat(128)], stays::<Tag>),
        target("reference", &["v1.0", &digest, &wide], stays::<Reference>),
        target("upload", &["9f86d081-0000-4000-8000-000000000000"], |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            if let Ok(id) = text.parse::<UploadId>() {
                assert_eq!(id.to_string().parse(), Ok(id));
            }
        }),
        target("range", &["bytes=0-9", "bytes=5-", "bytes=-5", "bytes=0-1, 3-4", "bytes = 1-2"], ranges),
        target(
            "chunk",
            &["0-9", "10-19", "bytes 0-9/100", "bytes=0-9", "18446744073709551614-18446744073709551615"],
            chunks,
        ),
        Target { name: "manifest", seeds: manifest_seeds(), law: manifests },
        Target { name: "configuration", seeds: configuration_seeds(), law: configurations },
    ]
}

fn case(random: &mut Random, target: &Target) -> Vec<u8> {
    let seeds: Vec<&[u8]> = target.seeds.iter().map(Vec::as_slice).collect();
    let seed = random.pick(&seeds);
    if random.one_in(50) { seed.to_vec() } else { mutate(random, seed, &seeds) }
}

#[test]
fn no_bytes_make_a_parser_panic() {
    let targets = targets();
    let cases = Cases::new("parsers", 50_000);
    while let Some((seed, mut random)) = cases.next() {
        let target = &targets[random.below(targets.len())];
        let input = case(&mut random, target);
        if catch_unwind(AssertUnwindSafe(|| (target.law)(&input))).is_err() {
            panic!("FUZZ_SEED={seed}: {} on {:?}", target.name, String::from_utf8_lossy(&input));
        }
    }
    cases.report("parsers");
}
