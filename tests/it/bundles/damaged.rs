//! Ten kinds of damage, and every command that reads a bundle: what is not there is never told as there.

use testkit::bundle::{append, end};

use super::*;

/// Damage.
struct Kind {
    name: &'static str,
    /// Bytes of a chunk of the bundle before; `None`: it is whole.
    chunks: Option<usize>,
    harm: fn(&Path, &Edition),
    /// The beginning of the name of the file that the verification names.
    place: &'static str,
    /// Whether headers and indexes are enough to see it.
    is_in_headers: bool,
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// A layer that one module alone has.
fn layer() -> Vec<u8> {
    testkit::noise(602, 3000)
}

fn chunk_missing(dir: &Path, _: &Edition) {
    std::fs::remove_file(dir.join("platform.tar.0003.chunk")).unwrap();
}

/// Two chunks of one length that lie in one content: all headers are right.
fn chunks_swapped(dir: &Path, _: &Edition) {
    let base = testkit::noise(1, 20_000);
    let inside = |bytes: &[u8]| bytes.len() > 64 && base.windows(bytes.len()).any(|window| window == bytes);
    let chunks: Vec<_> = (0..)
        .map(|number| dir.join(format!("platform.tar.{number:04}.chunk")))
        .take_while(|path| path.exists())
        .collect();
    let bytes: Vec<_> = chunks.iter().map(|path| std::fs::read(path).unwrap()).collect();
    // Lengths come back each third time.
    let at = (3..bytes.len())
        .find(|at| bytes[at - 3].len() == bytes[*at].len() && inside(&bytes[at - 3]) && inside(&bytes[*at]))
        .expect("two chunks in one content");
    std::fs::write(&chunks[at], &bytes[at - 3]).unwrap();
    std::fs::write(&chunks[at - 3], &bytes[at]).unwrap();
}

fn chunk_cut(dir: &Path, _: &Edition) {
    change(&dir.join("platform.tar.0003.chunk"), |bytes| bytes.truncate(bytes.len() / 2));
}

fn bit_flipped(dir: &Path, _: &Edition) {
    change(&dir.join("module-console.tar"), |bytes| {
        let at = bytes.windows(64).position(|window| window == &layer()[1000..1064]).unwrap();
        bytes[at] ^= 4;
    });
}

fn sum_wrong(dir: &Path, _: &Edition) {
    std::fs::write(dir.join("platform.tar.gostsum"), "0".repeat(64)).unwrap();
}

fn manifest_missing(dir: &Path, edition: &Edition) {
    let mut archive = edition.archives().remove("module-console.tar").unwrap();
    let manifest = edition.layouts["modules/console"].tagged("v1.2.3").unwrap();
    archive.files.remove(&format!("modules/console/blobs/sha256/{}", hex(manifest))).unwrap();
    std::fs::write(dir.join("module-console.tar"), archive.tar()).unwrap();
}

fn header_cut(dir: &Path, _: &Edition) {
    change(&dir.join("module-console.tar"), |bytes| bytes.truncate(512 * 7 + 100));
}

fn no_tar(dir: &Path, _: &Edition) {
    std::fs::write(dir.join("module-noise.tar"), testkit::noise(1, 5000)).unwrap();
}

fn entry_twice(dir: &Path, _: &Edition) {
    let mut tar = Vec::new();
    for _ in 0..2 {
        append(&mut tar, &format!("blobs/sha256/{}", hex(&testkit::digest(b"twice"))), b"twice");
    }
    append(&mut tar, "index.json", br#"{"manifests": []}"#);
    end(&mut tar);
    std::fs::write(dir.join("module-twice.tar"), tar).unwrap();
}

fn hostile_names(dir: &Path, _: &Edition) {
    let mut tar = Vec::new();
    for name in ["../outside", "/outside", "a/../../outside", "x\nsays: fine"] {
        append(&mut tar, name, b"hostile");
    }
    let tags = r#"{"manifests": [{"digest": "DIGEST", "annotations": {"io.deckhouse.image.short_tag": "../../a"}}]}"#;
    append(&mut tar, "index.json", tags.replace("DIGEST", &testkit::digest(b"")).as_bytes());
    end(&mut tar);
    std::fs::write(dir.join("module-hostile.tar"), tar).unwrap();
}

const KINDS: [Kind; 10] = [
    Kind {
        name: "chunk missing",
        chunks: Some(10_001),
        harm: chunk_missing,
        place: "platform.tar",
        is_in_headers: true,
    },
    Kind { name: "chunks swapped", chunks: Some(2000), harm: chunks_swapped, place: "", is_in_headers: false },
    Kind { name: "chunk cut", chunks: Some(10_001), harm: chunk_cut, place: "platform.tar", is_in_headers: true },
    Kind { name: "bit flipped", chunks: None, harm: bit_flipped, place: "modules/console", is_in_headers: false },
    Kind { name: "sum wrong", chunks: None, harm: sum_wrong, place: "platform.tar", is_in_headers: false },
    Kind {
        name: "manifest missing",
        chunks: None,
        harm: manifest_missing,
        place: "modules/console",
        is_in_headers: true,
    },
    Kind { name: "header cut", chunks: None, harm: header_cut, place: "module-console.tar", is_in_headers: true },
    Kind { name: "no tar", chunks: None, harm: no_tar, place: "module-noise.tar", is_in_headers: true },
    Kind { name: "entry twice", chunks: None, harm: entry_twice, place: "module-twice.tar", is_in_headers: true },
    Kind { name: "hostile names", chunks: None, harm: hostile_names, place: "module-hostile.tar", is_in_headers: true },
];

/// What a command says, and with what it ends. It may be asked of a server that this runtime watches.
async fn ended(words: &[&str]) -> (i32, String) {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let run = move || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_d8-registry"));
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"] {
            command.env_remove(name).env_remove(name.to_ascii_lowercase());
        }
        command.args(words).output().unwrap()
    };
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().expect("it was killed"), said.into_owned())
}

/// All that is there is as it was in the sound bundle. Says whether all of it is there.
#[track_caller]
fn is_all(there: &BTreeMap<String, (String, Vec<u8>)>, sound: &BTreeMap<String, (String, Vec<u8>)>, of: &str) -> bool {
    for (name, held) in there {
        assert!(sound.get(name) == Some(held), "{of}: {name} is not what was carried");
    }
    there.len() == sound.len()
}

/// Law: whatever the damage, `verify` names it, no command ends with 0 unless it did all of it, and what comes out, imported, pushed or served,
/// is what was carried or nothing.
#[tokio::test]
async fn no_kind_of_damage_is_told_as_whole_by_any_command_and_nothing_wrong_comes_out() {
    let edition = Edition::of(&RELEASES);
    let whole = Registry::start(&Setup::open());
    import(0, &[text(written(&edition, None).path())], &whole.data());
    let sound = held(&whole.client()).await;
    let whole_url = format!("http://{}/{ROOT}", whole.address());
    for Kind { name, chunks, harm, place, is_in_headers } in KINDS {
        let folder = TempDir::new().unwrap();
        let bundle = folder.path().join("bundle");
        std::fs::create_dir(&bundle).unwrap();
        match chunks {
            Some(size) => edition.write_chunks(&bundle, size).unwrap(),
            None => edition.write(&bundle).unwrap(),
        }
        harm(&bundle, &edition);
        let bundle = text(&bundle);

        let (code, said) = ended(&["bundle", "inspect", bundle]).await;
        assert_eq!(code, i32::from(is_in_headers), "{name}: inspect: {said}");
        let (code, said) = ended(&["bundle", "verify", bundle]).await;
        assert!(code == 1 && said.contains(place), "{name}: verify: {code} {said}");
        assert!(!said.lines().any(|line| line.starts_with("says: fine")), "{name}: {said}");

        for to in [false, true] {
            let target = Registry::start(&Setup::open());
            let (url, data) = (format!("http://{}/{ROOT}", target.address()), target.data());
            let into = if to { ["--to", &url] } else { ["--data-dir", text(&data)] };
            let (code, said) = ended(&[&["bundle", "import", bundle], &into[..]].concat()).await;
            let all = is_all(&held(&target.client()).await, &sound, name);
            assert!(code == 1 || (code == 0 && all), "{name}: import {into:?}: {code}, all of it: {all}: {said}");
            assert!(
                !all || code == 0 || is_in_headers,
                "{name}: all of it came and {into:?} ended with {code}: {said}"
            );
            let _folder = target.folder();
            target.stop();
            assert_store_is_tidy(&data);
        }

        let (code, said) = ended(&["check", "--json", "--bundle", bundle, "--registry", &whole_url]).await;
        let report: Value = serde_json::from_str(said.lines().find(|line| line.starts_with('{')).unwrap()).unwrap();
        let items = usize::try_from(report["registries"][0]["items"].as_u64().unwrap()).unwrap();
        assert!(items <= edition.tags().len(), "{name}: {said}");
        let knows_all = items == edition.tags().len();
        assert!(code == 1 || (code == 0 && knows_all), "{name}: check: {code}, {items} items: {said}");

        let server = Registry::start(&Setup::open().argument("--bundle").argument(bundle));
        assert_nothing_wrong_is_served(&server.client(), &sound, name).await;
        server.stop();
        assert!(!folder.path().join("outside").exists(), "{name}");
    }
}

/// Every tag leads to what was carried under it; what a content has is its digest's, or it is not there.
async fn assert_nothing_wrong_is_served(client: &Client, sound: &BTreeMap<String, (String, Vec<u8>)>, of: &str) {
    let catalog: Value = client.get("/v2/_catalog?n=1000").await.json().await.unwrap();
    for repo in catalog["repositories"].as_array().unwrap().iter().map(|repo| repo.as_str().unwrap()) {
        let listed: Value = client.get(&format!("/v2/{repo}/tags/list?n=1000")).await.json().await.unwrap();
        for tag in listed["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap()) {
            let (kind, carried) = sound.get(&format!("{repo}:{tag}")).unwrap_or_else(|| panic!("{of}: {repo}:{tag}"));
            let response = client.get(&format!("/v2/{repo}/manifests/{tag}")).await;
            assert_eq!(
                (response.status().as_u16(), &header(&response, "content-type")),
                (200, kind),
                "{of}: {repo}:{tag}"
            );
            let bytes = response.bytes().await.unwrap();
            // Of discovery tags the images are random.
            assert!(carried.is_empty() || bytes == *carried, "{of}: {repo}:{tag}");
            let manifest: Value = serde_json::from_slice(&bytes).unwrap();
            for blob in manifest["layers"].as_array().into_iter().flatten().chain(manifest.get("config")) {
                let digest = blob["digest"].as_str().unwrap();
                let response = client.get(&format!("/v2/{repo}/blobs/{digest}")).await;
                match response.status().as_u16() {
                    200 => assert_eq!(testkit::digest(&response.bytes().await.unwrap()), digest, "{of}"),
                    status => assert_eq!(status, 404, "{of}: {repo}@{digest}"),
                }
            }
        }
    }
}
