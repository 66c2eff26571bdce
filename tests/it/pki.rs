//! `pki issue` before other programs: openssl, and clients of a server that shows the certificate.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use tempfile::TempDir;

use crate::support::{Image, Registry, Setup};

/// Runs openssl in a folder; what it printed.
fn openssl(folder: &Path, arguments: &str) -> String {
    let output = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// An authority of openssl's make: `NAME.crt`, `NAME.key`.
fn authority(folder: &Path, name: &str, kind: &str) {
    let key = kind.replace("NAME", name);
    openssl(folder, &key);
    openssl(
        folder,
        &format!(
            "req -x509 -new -key {name}.key -days 100 -subj /CN={name} -addext keyUsage=critical,keyCertSign -out {name}.crt"
        ),
    );
}

const P256: &str = "ecparam -name prime256v1 -genkey -out NAME.key";
const P384: &str = "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out NAME.key";
const RSA: &str = "genrsa -traditional -out NAME.key 2048";
const ED25519: &str = "genpkey -algorithm ed25519 -out NAME.key";

fn issue(folder: &Path, ca: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    command.current_dir(folder).args(["pki", "issue", "--out", "out"]);
    command.args(["--ca-cert", &format!("{ca}.crt"), "--ca-key", &format!("{ca}.key")]).args(more).output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn files(folder: &Path) -> [Vec<u8>; 2] {
    ["out/tls.crt", "out/tls.key"].map(|file| std::fs::read(folder.join(file)).unwrap())
}

#[test]
fn openssl_takes_a_certificate_of_every_kind_of_authority() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    for (name, kind, key) in [
        ("p256", P256, "prime256v1"),
        ("p384", P384, "secp384r1"),
        ("rsa", RSA, "rsaEncryption"),
        ("ed25519", ED25519, "prime256v1"),
    ] {
        authority(folder, name, kind);
        said(&issue(folder, name, &["--san", "10.0.0.1", "fd00::1", "--san", "Master-1.example"]));
        for name_of_it in [
            "ip 10.0.0.1",
            "ip fd00::1",
            "ip 127.0.0.1",
            "ip ::1",
            "hostname localhost",
            "hostname registry.d8-system.svc",
            "hostname master-1.example",
        ] {
            let verify =
                format!("verify -x509_strict -purpose sslserver -CAfile {name}.crt -verify_{name_of_it} out/tls.crt");
            assert_eq!(openssl(folder, &verify), "out/tls.crt: OK\n");
        }
        let text = openssl(folder, "x509 -in out/tls.crt -noout -text");
        assert!(text.contains(key) && text.contains("CA:FALSE"), "{text}");
        let mode = std::fs::metadata(folder.join("out/tls.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let names = std::fs::read_dir(folder.join("out")).unwrap().count();
        assert_eq!(names, 2, "a temporary file is left");
    }
}

#[test]
fn a_programs_certificate_has_its_uri_and_nothing_else_and_is_good_for_no_server() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    authority(folder, "ca", P256);
    let uri = ["--uri", "d8-registry:controller", "--days", "90"];
    assert!(said(&issue(folder, "ca", &uri)).ends_with(": there was none\n"));
    let names = openssl(folder, "x509 -in out/tls.crt -noout -ext subjectAltName,extendedKeyUsage");
    let lines: Vec<_> = names.lines().map(str::trim).collect();
    assert!(
        lines.contains(&"URI:d8-registry:controller") && lines.contains(&"TLS Web Client Authentication"),
        "{names}"
    );
    assert!(!names.contains("Server"), "{names}");
    let verify = |purpose: &str| {
        let arguments = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.crt", "out/tls.crt"];
        Command::new("openssl").current_dir(folder).args(arguments).output().unwrap().status.success()
    };
    assert!(verify("sslclient") && !verify("sslserver"));
    let before = files(folder);
    assert!(said(&issue(folder, "ca", &uri)).ends_with("; nothing changed\n") && files(folder) == before);
    let other = said(&issue(folder, "ca", &["--uri", "d8-registry:peer"]));
    assert!(other.contains("the names no longer fitted"), "{other}");
    let both = issue(folder, "ca", &["--uri", "d8-registry:peer", "--san", "10.0.0.1"]);
    assert_eq!(both.status.code(), Some(2), "names of both kinds");
}

/// The names in a certificate, as openssl prints them.
fn names(folder: &Path, file: &str) -> Vec<String> {
    let text = openssl(folder, &format!("x509 -in {file} -noout -ext subjectAltName"));
    let names = text.lines().last().unwrap_or_default().split(',');
    names.map(|name| name.trim().to_owned()).collect()
}

#[test]
fn a_masters_certificate_for_its_peers_lies_beside_its_own_and_is_renewed_with_it() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    authority(folder, "ca", P256);
    let order = ["--san", "10.0.0.1,fd00::1", "--peer"];
    let made = said(&issue(folder, "ca", &order));
    assert_eq!(made.matches(": there was none\n").count(), 2, "{made}");
    assert_eq!(
        names(folder, "out/peer.crt"),
        ["IP Address:10.0.0.1", "IP Address:FD00:0:0:0:0:0:0:1", "URI:d8-registry:peer"]
    );
    assert!(!names(folder, "out/tls.crt").contains(&"URI:d8-registry:peer".to_owned()));
    let verify = |purpose: &str, file: &str| {
        let arguments = ["verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.crt", file];
        Command::new("openssl").current_dir(folder).args(arguments).output().unwrap().status.success()
    };
    assert!(verify("sslclient", "out/peer.crt") && !verify("sslserver", "out/peer.crt"));
    assert!(verify("sslserver", "out/tls.crt") && !verify("sslclient", "out/tls.crt"));
    let key = std::fs::metadata(folder.join("out/peer.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let read = || ["out/tls.crt", "out/peer.crt", "out/peer.key"].map(|file| std::fs::read(folder.join(file)).unwrap());
    let before = read();
    let same = said(&issue(folder, "ca", &order));
    assert_eq!(same.matches("; nothing changed\n").count(), 2, "{same}");
    assert_eq!(read(), before);
    // Another address is another certificate for both.
    let moved = said(&issue(folder, "ca", &["--san", "10.0.0.2", "--peer"]));
    assert_eq!(moved.matches("the names no longer fitted").count(), 2, "{moved}");
    assert_eq!(names(folder, "out/peer.crt"), ["IP Address:10.0.0.2", "URI:d8-registry:peer"]);
    let other = read();
    assert!(before.iter().zip(&other).all(|(before, now)| before != now));
    let refused = issue(folder, "ca", &["--uri", "d8-registry:controller", "--peer"]);
    assert_eq!(refused.status.code(), Some(2), "a program has no peers");
}

/// Puts a certificate with the wanted names in place that was made long ago and ends with the authority.
fn age(folder: &Path, ca: &str) {
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
    let key = |file: &str| KeyPair::try_from(&PrivateKeyDer::from_pem_slice(read(file).as_bytes()).unwrap()).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read(&format!("{ca}.crt")), key(&format!("{ca}.key"))).unwrap();
    let names = ["10.0.0.1", "127.0.0.1", "::1", "localhost", "registry.d8-system.svc"];
    let mut params = CertificateParams::new(names.map(str::to_owned)).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    let end = d8_registry::clock::now().as_secs() + 50 * 24 * 3600;
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end);
    let made = params.signed_by(&key("out/tls.key"), &issuer).unwrap();
    std::fs::write(folder.join("out/tls.crt"), made.pem()).unwrap();
}

#[test]
fn what_fits_is_left_and_what_does_not_is_made_anew() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    authority(folder, "ca", P256);
    authority(folder, "other", P256);
    let names = ["--san", "10.0.0.1"];
    assert!(said(&issue(folder, "ca", &names)).ends_with(": there was none\n"));
    let before = files(folder);
    std::fs::set_permissions(folder.join("out/tls.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    // Names in another order, and some that it has anyway.
    let same = said(&issue(folder, "ca", &["--san", "localhost", "10.0.0.1"]));
    assert!(same.ends_with("; nothing changed\n") && files(folder) == before, "{same}");
    assert_eq!(std::fs::metadata(folder.join("out/tls.key")).unwrap().permissions().mode() & 0o777, 0o600);
    let mut last = before;
    let mut again = |ca: &str, more: &[&str], reason: &str| {
        let text = said(&issue(folder, ca, more));
        let made = files(folder);
        assert!(text.contains(reason) && made[0] != last[0] && made[1] != last[1], "{text}");
        last = made;
    };
    again("ca", &["--san", "10.0.0.1", "10.0.0.2"], "the names no longer fitted");
    again("ca", &names, "the names no longer fitted");
    again("other", &names, "the chain no longer fitted");
    // An authority made anew under its old name.
    std::fs::copy(folder.join("other.crt"), folder.join("old.crt")).unwrap();
    authority(folder, "other", P256);
    again("other", &names, "the chain no longer fitted");
    openssl(folder, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out out/tls.key");
    again("other", &names, "its key was another one's");
    std::fs::write(folder.join("out/tls.crt"), "torn").unwrap();
    again("other", &names, "it could not be read");
    age(folder, "other");
    again("other", &names, "less than a third of its life was left");
}

#[tokio::test]
async fn a_server_with_it_is_trusted_by_those_who_know_the_authority() {
    let folder = Arc::new(TempDir::new().unwrap());
    let path = folder.path();
    // An authority below a root: what stands between has to be shown.
    authority(path, "root", P256);
    openssl(
        path,
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -subj /CN=ca -out ca.csr",
    );
    std::fs::write(path.join("ext"), "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign").unwrap();
    openssl(path, "x509 -req -in ca.csr -CA root.crt -CAkey root.key -days 50 -extfile ext -out ca.crt");
    said(&issue(path, "ca", &["--san", "10.0.0.1"]));
    assert!(said(&issue(path, "ca", &["--san", "10.0.0.1"])).ends_with("; nothing changed\n"));
    let out = path.join("out");
    let setup = format!("tls: {{ certFile: {0}/tls.crt, keyFile: {0}/tls.key }}", out.display());
    let registry = Registry::start_in(Arc::clone(&folder), &Setup::open().config(&setup));
    let port = registry.address().rsplit_once(':').unwrap().1.to_owned();
    let client = crate::support::Client::new(&format!("https://127.0.0.1:{port}"), None);
    let image = Image::of(1);
    client.push_image("a", "v1", &image).await;
    std::fs::write(path.join("images"), image.digest()).unwrap();
    for (ca, code) in [("root.crt", 0), ("out/tls.crt", 0), ("/dev/null", 2)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"] {
            command.env_remove(name).env_remove(name.to_ascii_lowercase());
        }
        let url = format!("https://localhost:{port}/a");
        command.current_dir(path).args(["check", "--images", "images", "--ca-file", ca, "--registry", &url]);
        let checked = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert_eq!(checked.status.code(), Some(code), "{ca}: {}", String::from_utf8_lossy(&checked.stdout));
    }
    // The client has to hear that its connection ends.
    tokio::task::spawn_blocking(move || registry.stop()).await.unwrap();
}

#[test]
fn wrong_usage_is_2_and_says_why() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    authority(folder, "ca", P256);
    authority(folder, "other", P256);
    said(&issue(folder, "ca", &["--san", "10.0.0.1"]));
    std::fs::copy(folder.join("out/tls.crt"), folder.join("leaf.crt")).unwrap();
    std::fs::copy(folder.join("out/tls.key"), folder.join("leaf.key")).unwrap();
    std::fs::copy(folder.join("ca.crt"), folder.join("mixed.crt")).unwrap();
    std::fs::copy(folder.join("other.key"), folder.join("mixed.key")).unwrap();
    let before = files(folder);
    for (ca, more, why) in [
        ("ca", &[][..], "--san"),
        ("ca", &["--san", "10.0.0.256"], "neither an IP address nor a DNS name"),
        ("missing", &["--san", "a"], "missing.crt can't be read"),
        ("leaf", &["--san", "a"], "it is no authority's certificate"),
        ("mixed", &["--san", "a"], "the key is not that of the certificate"),
    ] {
        let output = issue(folder, ca, more);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && text.contains(why), "{ca}: {text}");
    }
    assert_eq!(files(folder), before);
}
