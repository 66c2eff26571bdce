//! A bundle is made of what a registry has: the same images under the same tags, whatever the registry does meanwhile.

mod components;

use std::collections::BTreeMap;

use d8_registry::bundle;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use testkit::layer::{Tar, gzip};

use super::*;
use crate::support::{Answer, Authority, Cut, REPO, Upstream, Valve, digest};

/// Where the installer and plugins are, beside the edition.
const BESIDE: &str = "deckhouse";

/// Has a scripted registry hold an edition as the vendor's does: what is known by its digest has no tag.
fn hold(upstream: &Upstream, edition: &Edition) {
    for (path, layout) in &edition.layouts {
        let is_beside = path == "installer" || path.starts_with("deckhouse-cli/");
        let root = if is_beside { BESIDE } else { REPO };
        let repo = if path.is_empty() { root.to_owned() } else { format!("{root}/{path}") };
        for bytes in layout.contents.values() {
            upstream.put_blob(&repo, bytes);
            let manifest: Option<Value> = serde_json::from_slice(bytes).ok();
            if let Some(kind) = manifest.as_ref().and_then(|manifest| manifest["mediaType"].as_str()) {
                upstream.put_manifest(&repo, kind, bytes);
            }
        }
        for (tag, digest, _) in layout.tags.iter().filter(|(tag, ..)| tag.len() != 64) {
            upstream.tag(&repo, tag, digest);
        }
    }
    for (parent, names) in discovered(edition) {
        let root = if parent.starts_with("deckhouse-cli") { BESIDE } else { REPO };
        for (seed, name) in (40..).zip(names) {
            upstream.put_image(&format!("{root}/{parent}"), &name, &Image::of(seed));
        }
    }
}

fn holding(edition: &Edition) -> Upstream {
    let upstream = Upstream::start();
    hold(&upstream, edition);
    upstream
}

fn url(address: &str) -> String {
    format!("http://{address}/{REPO}")
}

fn command(source: &str, out: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    command.args(["bundle", "pull", "--json", "--source", source, "--out", text(out)]).args(words);
    command
}

/// What a pull says that ends with `code`: its report, or its error.
async fn pull(code: i32, source: &str, out: &Path, words: &[&str]) -> Value {
    let mut command = command(source, out, words);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{error} {}", String::from_utf8_lossy(&output.stdout));
    if code == 0 { serde_json::from_slice(&output.stdout).unwrap() } else { Value::String(error) }
}

/// The files with final names.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap());
    let names = entries.filter(|entry| entry.path().is_file()).map(|entry| entry.file_name().into_string().unwrap());
    let finished = names.filter(|name| !name.ends_with(".tmp"));
    finished.map(|name| (name.clone(), std::fs::read(dir.join(name)).unwrap())).collect()
}

/// Every tag with its digest, of a bundle that is sound.
fn tags(dir: &Path) -> BTreeMap<String, String> {
    let bundle = bundle::open(&[dir.to_path_buf()], bundle::MOST_BYTES, &|| false).unwrap();
    let said = bundle::verify(&bundle, &|_| {}).unwrap();
    assert!(said.whole, "{:#?}", said.findings);
    let paths: Vec<&str> = bundle.repositories().collect();
    let all =
        paths.iter().flat_map(|path| bundle.tags(path).map(move |(tag, to)| (format!("{path}:{tag}"), to.to_string())));
    all.collect()
}

/// Law: what comes of a pull and an import is what the source has, image by image and tag by tag; in chunks the same bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_and_an_import_leave_what_the_source_has() {
    let edition = Edition::of(&RELEASES);
    let source = Registry::start(&Setup::open());
    push(&source.client(), &edition).await;
    let (whole, chunks) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let url = format!("http://{}/{ROOT}", source.address());
    let look = pull(0, &url, &whole.path().join("new"), &["--dry-run"]).await;
    assert!(!whole.path().join("new").exists(), "a look writes nothing");
    let said = pull(0, &url, whole.path(), &[]).await;
    assert_eq!(said["releases"], json!(RELEASES));
    assert_eq!((&look["bytes"], &look["fetchedBytes"]), (&said["bytes"], &said["fetchedBytes"]));
    assert_eq!(tags(whole.path()), edition.tags());
    let store = Registry::start(&Setup::open());
    import(0, &[text(whole.path())], &store.data());
    assert_same(&held(&store.client()).await, &held(&source.client()).await);

    pull(0, &url, chunks.path(), &["--chunk-size", "10001", "--gost"]).await;
    assert_eq!(tags(chunks.path()), edition.tags());
    let (whole, chunks) = (files(whole.path()), files(chunks.path()));
    for (name, bytes) in whole.iter().filter(|(name, _)| name.ends_with(".tar")) {
        let of_this =
            chunks.iter().filter(|(chunk, _)| chunk.starts_with(&format!("{name}.")) && chunk.ends_with(".chunk"));
        assert_eq!(&of_this.map(|(_, bytes)| bytes.as_slice()).collect::<Vec<_>>().concat(), bytes, "{name}");
        assert!(whole["SHA256SUMS"].windows(64).any(|sum| sum == hex(&digest(bytes)).as_bytes()), "{name}");
    }
    assert!(chunks.iter().all(|(name, bytes)| !name.ends_with(".chunk") || bytes.len() <= 10_001));
    assert_eq!(whole["deckhousereleases.yaml"], chunks["deckhousereleases.yaml"]);
    // A sum for each file, which `bundle verify` compares.
    for name in chunks.keys().filter(|name| name.ends_with(".chunk")) {
        let sum = String::from_utf8(chunks[&format!("{name}.gostsum")].clone()).unwrap();
        assert!(sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name} {sum}");
    }
    assert!(whole.keys().all(|name| !name.ends_with(".gostsum")));
    let told = String::from_utf8(whole["deckhousereleases.yaml"].clone()).unwrap();
    assert_eq!(told.matches("kind: DeckhouseRelease").count(), 2, "{told}");
}

#[tokio::test]
async fn releases_are_chosen_one_by_one_by_a_range_and_by_channels() {
    let releases = ["v1.69.3", "v1.70.0", "v1.70.1", "v1.71.0", "v1.72.0"];
    let edition = Edition::of(&releases);
    let upstream = holding(&edition);
    let at_channels = format!("{REPO}/release-channel");
    let version = |release: &str| edition.layouts["release-channel"].tagged(release).unwrap().to_owned();
    upstream.tag(&at_channels, "rock-solid", &version("v1.70.0"));
    upstream.tag(&at_channels, "stable", &version("v1.70.1"));
    upstream.tag(&at_channels, "early-access", &version("v1.71.0"));
    let others = ["--no-installer", "--no-security", "--no-modules", "--no-packages"];
    for (words, expected, channels) in [
        // The patch that rock-solid leads to, and the last one of each minor.
        (&[][..], &["v1.70.0", "v1.70.1", "v1.71.0", "v1.72.0"][..], 5),
        (&["--min-version", "1.69"], &["v1.69.3", "v1.70.0", "v1.70.1", "v1.71.0", "v1.72.0"], 5),
        (&["--min-version", "1.71"], &["v1.71.0", "v1.72.0"], 3),
        (&["--releases", "v1.69.3..v1.70.0"], &["v1.69.3", "v1.70.0"], 1),
        (&["--include-platform", "~1.70.0"], &["v1.70.0", "v1.70.1"], 2),
        (&["--release", "v1.69.3"], &["v1.69.3"], 5),
        (&["--channel", "stable", "--channel", "rock-solid"], &["v1.70.0", "v1.70.1"], 2),
    ] {
        let dir = TempDir::new().unwrap();
        let words = [words, &others[..]].concat();
        let said = pull(0, &url(&upstream.address()), dir.path(), &words).await;
        assert_eq!(said["releases"], json!(expected), "{words:?}");
        assert_eq!(said["channels"].as_object().unwrap().len(), channels, "{words:?} {said}");
        let tags = tags(dir.path());
        for release in releases {
            for path in ["", "install", "install-standalone", "release-channel"] {
                let name = format!("{path}:{release}");
                assert_eq!(tags.contains_key(&name), expected.contains(&release), "{words:?} {name}");
            }
        }
        let told = String::from_utf8(files(dir.path())["deckhousereleases.yaml"].clone()).unwrap();
        assert_eq!(told.matches("kind: DeckhouseRelease").count(), expected.len(), "{told}");
    }
    let dir = TempDir::new().unwrap();
    for words in [["--releases", "v1.0.0..v1.1.0"], ["--releases", "v1.2.0..v1.1.0"], ["--release", "stable"]] {
        pull(2, &url(&upstream.address()), dir.path(), &words).await;
    }
    pull(1, &url(&upstream.address()), dir.path(), &["--release", "v9.9.9"]).await;
    assert!(files(dir.path()).is_empty());
}

/// Law: whatever fails, whenever, a bundle is whole or it is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_failure_of_the_source_leaves_a_hole() {
    let edition = Edition::of(&RELEASES[..1]);
    let upstream = holding(&edition);
    let (url, clean) = (url(&upstream.address()), TempDir::new().unwrap());
    pull(0, &url, clean.path(), &[]).await;
    let clean = files(clean.path());
    let mut asked: Vec<String> = upstream.seen().into_iter().map(|seen| seen.path).collect();
    asked.sort();
    asked.dedup();
    asked.retain(|path| path != "/v2/");
    let failures: [fn(&mut Answer); 4] = [
        |answer| {
            answer.fail(503, "later");
        },
        |answer| {
            answer.fail(429, "slower").header("retry-after", "1");
        },
        |answer| {
            answer.cut(0, Cut::Rst);
        },
        // A portal's.
        |answer| {
            answer.page(404);
        },
    ];
    for (index, path) in asked.iter().enumerate().step_by(5) {
        let (dir, fail) = (TempDir::new().unwrap(), failures[index % failures.len()]);
        // For good: an error, and what is there is whole.
        upstream.rule("*", path, fail);
        pull(1, &url, dir.path(), &["--patience", "0s"]).await;
        for (name, bytes) in files(dir.path()) {
            assert_eq!(Some(&bytes), clean.get(&name), "{path}: {name}");
        }
        upstream.heal();
        // For a moment: another run has it, with what the first one left.
        pull(0, &url, dir.path(), &[]).await;
        assert!(files(dir.path()) == clean, "{path}");
    }
    // With patience one run is enough.
    for path in asked.iter().step_by(17) {
        let dir = TempDir::new().unwrap();
        for _ in 0..4 {
            upstream.once("*", path, |answer| {
                answer.fail(503, "later");
            });
        }
        pull(0, &url, dir.path(), &["--patience", "60s"]).await;
        assert!(files(dir.path()) == clean, "{path}");
        upstream.heal();
    }
}

#[tokio::test]
async fn what_may_be_absent_is_left_out_and_what_may_not_is_an_error() {
    let mut edition = Edition::of(&RELEASES[..1]);
    edition
        .layouts
        .retain(|path, _| path != "install-standalone" && path != "security/trivy-bdu" && path != "installer");
    let (upstream, dir) = (holding(&edition), TempDir::new().unwrap());
    pull(0, &url(&upstream.address()), dir.path(), &["--no-attestations"]).await;
    let mut expected = edition.tags();
    expected.retain(|name, _| !name.ends_with(".att"));
    let tags = tags(dir.path());
    assert!(tags.iter().all(|(name, digest)| expected.get(name) == Some(digest)), "{tags:?}");
    assert!(tags.contains_key(":v1.70.1") && tags.contains_key("security/trivy-db:2"));
    let error = pull(1, &url(&upstream.address()), dir.path(), &["--installer-tag", "v1", "--force"]).await;
    assert!(error.as_str().unwrap().contains("deckhouse/installer:v1"), "{error}");
    upstream.untag(&format!("{REPO}/install"), "v1.70.1");
    let dir = TempDir::new().unwrap();
    let error = pull(1, &url(&upstream.address()), dir.path(), &[]).await;
    assert!(
        error.as_str().unwrap().contains(&format!("does not have {}/{REPO}/install:v1.70.1", upstream.address())),
        "{error}"
    );
    assert!(files(dir.path()).is_empty());
}

/// Law: ended at any moment and run again, the same files; and what was whole is not asked for again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_and_run_again_it_makes_the_same_files() {
    let edition = Edition::of(&RELEASES);
    let upstream = holding(&edition);
    let valve = Valve::before(upstream.address()).await;
    let (url, clean) = (url(valve.address()), TempDir::new().unwrap());
    pull(0, &url, clean.path(), &["--chunk-size", "30001"]).await;
    let clean = files(clean.path());
    let words = ["--chunk-size", "30001"];
    for step in [9_000, 40_000, 90_000, 150_000] {
        let dir = TempDir::new().unwrap();
        let mut was_killed = true;
        while was_killed {
            valve.let_through(step);
            let mut child = command(&url, dir.path(), &words).stdout(std::process::Stdio::null()).spawn().unwrap();
            was_killed = loop {
                if valve.is_shut() {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    break true;
                }
                match child.try_wait().unwrap() {
                    Some(status) => {
                        assert!(status.success());
                        break false;
                    }
                    None => tokio::task::yield_now().await,
                }
            };
            for (name, bytes) in files(dir.path()) {
                assert_eq!(Some(&bytes), clean.get(&name), "{step}: {name}");
            }
            // Of small steps only the first ones: planning alone is more than they let through.
            if was_killed && step < 100_000 {
                break;
            }
        }
        // What is left of the last step is nobody's any more.
        valve.open();
        let staged = dir.path().join(".tmp/pull/contents");
        let there = std::fs::read_dir(&staged).into_iter().flatten().map(|entry| entry.unwrap().file_name());
        let there: Vec<String> =
            there.filter_map(|name| name.into_string().ok()).filter(|name| name.len() == 64).collect();
        upstream.forget_seen();
        pull(0, &url, dir.path(), &words).await;
        assert!(files(dir.path()) == clean, "{step}");
        for hex in there {
            let again = upstream.seen().into_iter().filter(|seen| seen.path.ends_with(&format!("/blobs/sha256:{hex}")));
            assert_eq!(again.count(), 0, "{step}: {hex}");
        }
        // What is whole is neither asked for nor written again.
        let before = std::fs::metadata(dir.path().join("platform.tar.0000.chunk")).unwrap().modified().unwrap();
        upstream.forget_seen();
        let said = pull(0, &url, dir.path(), &words).await;
        assert_eq!((&said["fetchedBytes"], &said["archives"][0]["present"]), (&0.into(), &true.into()));
        assert!(upstream.seen().iter().all(|seen| !seen.path.contains("/blobs/")));
        assert!(files(dir.path()) == clean);
        let after = std::fs::metadata(dir.path().join("platform.tar.0000.chunk")).unwrap().modified().unwrap();
        assert_eq!(before, after);
        valve.open();
    }
}

#[tokio::test]
async fn a_directory_with_another_bundle_is_left_alone_unless_it_is_to_be_replaced() {
    let edition = Edition::of(&RELEASES);
    let (upstream, dir) = (holding(&edition), TempDir::new().unwrap());
    let url = url(&upstream.address());
    pull(0, &url, dir.path(), &["--release", "v1.70.1", "--chunk-size", "9000"]).await;
    let before = files(dir.path());
    let error = pull(2, &url, dir.path(), &[]).await;
    assert!(error.as_str().unwrap().contains("platform.tar"), "{error}");
    assert!(files(dir.path()) == before);
    upstream.forget_seen();
    pull(0, &url, dir.path(), &["--force"]).await;
    let expected = TempDir::new().unwrap();
    // What the other bundle had was not fetched again.
    let base = digest(&testkit::noise(1, 20_000));
    assert!(upstream.seen().iter().all(|seen| !seen.path.ends_with(&base)));
    pull(0, &url, expected.path(), &[]).await;
    assert!(files(dir.path()) == files(expected.path()));
}

/// What makes an upstream one that can't be believed.
type Spoil<'a> = &'a dyn Fn(&Upstream);

#[tokio::test]
async fn a_hostile_source_is_refused_and_fills_no_disk() {
    let edition = Edition::of(&RELEASES[..1]);
    let install = format!("{REPO}/install");
    let listing = |list: Value| {
        let layer = Tar::new().file("deckhouse/candi/images_digests.json", list.to_string());
        Image::of_layers(b"{}".to_vec(), vec![gzip(&layer.finish()).unwrap()], &json!({}))
    };
    let spoilt: [(&str, &str, Spoil<'_>); 7] = [
        ("a layer that no disk has, in an image that is read", "free", &|upstream| {
            let at = format!("{REPO}/release-channel");
            let blob = upstream.put_blob(&at, b"x");
            let layer = testkit::descriptor_of("application/vnd.oci.image.layer.v1.tar", blob, 1 << 60);
            let config = testkit::descriptor("application/vnd.oci.image.config.v1+json", b"{}");
            let manifest = testkit::image(&config, &[layer]).to_string();
            let digest = upstream.put_manifest(&at, testkit::media_type::IMAGE, manifest.as_bytes());
            upstream.tag(&at, "stable", &digest);
        }),
        ("a size that no disk has", "free", &|upstream| {
            let blob = upstream.put_blob(REPO, b"x");
            let layer = testkit::descriptor_of("application/vnd.oci.image.layer.v1.tar", blob, 1 << 60);
            let config = testkit::descriptor("application/vnd.oci.image.config.v1+json", b"{}");
            upstream.put_blob(REPO, b"{}");
            let manifest = testkit::image(&config, &[layer]).to_string();
            let digest = upstream.put_manifest(REPO, testkit::media_type::IMAGE, manifest.as_bytes());
            upstream.tag(REPO, "v1.70.1", &digest);
        }),
        ("an image that is not there", "does not have", &|upstream| {
            upstream.put_image(&install, "v1.70.1", &listing(json!({ "a": { "b": digest(b"nothing") } })));
        }),
        ("a list with a path for a digest", "which is no digest", &|upstream| {
            upstream.put_image(&install, "v1.70.1", &listing(json!({ "a": { "b": "../../etc/passwd" } })));
        }),
        ("other bytes", "damaged", &|upstream| {
            upstream.rule("GET", &format!("/v2/{REPO}/blobs/*"), |answer| {
                answer.corrupt(0);
            });
        }),
        ("more bytes than announced", "more", &|upstream| {
            upstream.rule("GET", &format!("/v2/{REPO}/blobs/*"), |answer| {
                answer.body(vec![7; 100_000]).until_close();
            });
        }),
        ("a version that is a path", "names no release", &|upstream| {
            let layer = Tar::new().file("version.json", r#"{"version":"../../v1.70.1"}"#);
            let image = Image::of_layers(b"{}".to_vec(), vec![gzip(&layer.finish()).unwrap()], &json!({}));
            upstream.put_image(&format!("{REPO}/release-channel"), "stable", &image);
        }),
    ];
    for (what, says, spoil) in spoilt {
        let (upstream, dir) = (holding(&edition), TempDir::new().unwrap());
        spoil(&upstream);
        let words = ["--patience", "0s", "--no-security", "--no-installer", "--no-modules", "--no-packages"];
        let error = pull(1, &url(&upstream.address()), dir.path(), &words).await;
        assert!(error.as_str().unwrap().contains(says), "{what}: {error}");
        assert!(files(dir.path()).is_empty(), "{what}");
        let staged: u64 = sizes(&dir.path().join(".tmp/pull/contents")).iter().sum();
        assert!(staged < 1 << 20, "{what}: {staged}");
    }
}

fn sizes(dir: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).collect()
}

#[tokio::test]
async fn a_licence_is_the_password_of_its_user_and_is_shown_nowhere() {
    let edition = Edition::of(&RELEASES[..1]);
    let (upstream, dir) = (holding(&edition), TempDir::new().unwrap());
    upstream.demand_bearer("license-token", "the-licence");
    let key = dir.path().join("key");
    std::fs::write(&key, "the-licence\n").unwrap();
    let (url, out) = (url(&upstream.address()), dir.path().join("out"));
    let said = pull(0, &url, &out, &["--license-file", text(&key)]).await;
    assert!(!said.to_string().contains("the-licence"));
    std::fs::write(&key, "another\n").unwrap();
    let error = pull(1, &url, &dir.path().join("other"), &["--license-file", text(&key), "--patience", "0s"]).await;
    assert!(!error.as_str().unwrap().contains("another"), "{error}");
    pull(1, &url, &dir.path().join("other"), &["--patience", "0s"]).await;
}

#[tokio::test]
async fn an_authority_is_trusted_that_a_flag_or_the_environment_names() {
    let edition = Edition::of(&RELEASES[..1]);
    let (upstream, dir, authority) = (holding(&edition), TempDir::new().unwrap(), Authority::new());
    let (certificate, key) = authority.issue(vec![rcgen::SanType::IpAddress([127, 0, 0, 1].into())]);
    let certificate = rustls::pki_types::CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into());
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    upstream.use_tls(config.with_single_cert(vec![certificate], key).unwrap());
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, &authority.pem).unwrap();
    // Without a scheme it is asked over TLS, as the real client does.
    let source = format!("{}/{REPO}", upstream.address());
    let words = ["--no-modules", "--no-packages", "--patience", "0s"];
    let refused = pull(1, &source, &dir.path().join("refused"), &words).await;
    assert!(refused.as_str().unwrap().contains("can't be trusted"), "{refused}");
    pull(0, &source, &dir.path().join("flag"), &[&words[..], &["--ca-file", text(&file)]].concat()).await;
    let mut by_environment = command(&source, &dir.path().join("environment"), &words);
    by_environment.env("SSL_CERT_FILE", &file);
    let output = tokio::task::spawn_blocking(move || by_environment.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(files(&dir.path().join("flag")) == files(&dir.path().join("environment")));
}
