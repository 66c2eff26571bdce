//! A synthetic edition of Deckhouse and its bundles, as `d8 mirror pull` writes them, with the rubbish that real ones hold.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::layer::{Tar, gzip};
use crate::media_type::{CONFIG, IMAGE, INDEX, LAYER_GZIP};
use crate::{descriptor, descriptor_of, digest, noise};

/// Envelopes of attestations.
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
const DATABASE: &str = "application/vnd.aquasec.trivy.db.layer.v1.tar+gzip";
const DATABASE_CONFIG: &str = "application/vnd.aquasec.trivy.config.v1+json";
/// What an archive's index calls itself, wrongly.
const LAYOUT: &str = "application/vnd.oci.image.layout.v1+json";
/// The contract of the plugin, which is for module console from 1.0 on.
const CONTRACT: &str = concat!(
    "eyJuYW1lIjogInN0cm9uZ2hvbGQiLCAicmVxdWlyZW1lbnRzIjogeyJtb2R1bGVzIjogeyJtYW5kYXRvcnkiOiBbeyJuYW1lIjogImNvbnNvbGUi",
    "LCAiY29uc3RyYWludCI6ICI+PTEuMCJ9XX19fQ=="
);
const BLOCK: usize = 512;

/// The two releases of the edition.
pub const RELEASES: [&str; 2] = ["v1.70.1", "v1.71.0"];

/// An edition: layouts by their paths, which are repositories below Deckhouse's.
#[derive(Clone, Debug, Default)]
pub struct Edition {
    /// The layouts.
    pub layouts: BTreeMap<String, Layout>,
}

/// A layout: contents and tags.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// By their hex digits.
    pub contents: BTreeMap<String, Vec<u8>>,
    /// Tag, manifest's digest and its media type, in the order of `index.json`.
    pub tags: Vec<(String, String, String)>,
}

impl Layout {
    /// Keeps a content; its digest.
    pub fn content(&mut self, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.contents.insert(hex(&digest).to_owned(), bytes.to_vec());
        digest
    }

    /// Keeps an image of these layers, under a tag if there is one; the manifest's digest.
    pub fn image(&mut self, tag: Option<&str>, config: (&str, &[u8]), layers: &[(&str, Vec<u8>)]) -> String {
        self.content(config.1);
        let mut descriptors = Vec::new();
        for (media_type, layer) in layers {
            self.content(layer);
            descriptors.push(descriptor(media_type, layer));
        }
        let manifest = crate::image(&descriptor(config.0, config.1), &descriptors).to_string();
        let digest = self.content(manifest.as_bytes());
        if let Some(tag) = tag {
            self.tags.push((tag.to_owned(), digest.clone(), IMAGE.to_owned()));
        }
        digest
    }

    /// Gives a manifest that is there a further tag.
    pub fn tag(&mut self, tag: &str, digest: &str) {
        self.tags.push((tag.to_owned(), digest.to_owned(), IMAGE.to_owned()));
    }

    /// What a tag leads to.
    #[must_use]
    pub fn tagged(&self, tag: &str) -> Option<&str> {
        // The last one counts.
        self.tags.iter().rev().find(|(found, ..)| found == tag).map(|(_, digest, _)| digest.as_str())
    }

    /// The bytes of `index.json`.
    #[must_use]
    pub fn index(&self) -> Vec<u8> {
        let entries: Vec<Value> =
            self.tags.iter().map(|(tag, digest, media_type)| self.entry(tag, digest, media_type)).collect();
        // An empty layout has `null`.
        let entries = if entries.is_empty() { Value::Null } else { Value::Array(entries) };
        let index = json!({ "schemaVersion": 2, "mediaType": LAYOUT, "manifests": entries });
        format!("{index:#}").into_bytes()
    }

    fn entry(&self, tag: &str, digest: &str, media_type: &str) -> Value {
        let size = self.contents.get(hex(digest)).map_or(0, Vec::len);
        let mut entry = descriptor_of(media_type, digest, size);
        if media_type == IMAGE {
            entry["platform"] = json!({ "architecture": "", "os": "" });
        }
        // Of an alias, the name of a source with a port is cut at the first colon.
        entry["annotations"] = json!({
            "io.deckhouse.image.short_tag": tag,
            "org.opencontainers.image.ref.name": "127.0.0.1:stable",
        });
        entry
    }
}

/// An image whose layer has a `version.json`, as those of channels.
fn of_version(layout: &mut Layout, tag: &str, version: &str, canary: u64) -> String {
    let json = json!({ "version": version, "canary": canary }).to_string();
    let layer = Tar::new().file("version.json", json).file("changelog.yaml", "features: []\n").finish();
    let config = json!({ "architecture": "amd64", "os": "linux", "of": version, "canary": canary }).to_string();
    layout.image(Some(tag), (CONFIG, config.as_bytes()), &[(LAYER_GZIP, gzip(&layer).unwrap_or_default())])
}

fn plain(layout: &mut Layout, tag: Option<&str>, seed: u64, shared: &[u8]) -> String {
    of_files(layout, tag, seed, shared, None)
}

/// An image whose topmost layer has files.
fn of_files(layout: &mut Layout, tag: Option<&str>, seed: u64, shared: &[u8], files: Option<Tar>) -> String {
    let config = json!({ "architecture": "amd64", "os": "linux", "seed": seed }).to_string();
    let mut layers = vec![(LAYER_GZIP, shared.to_vec()), (LAYER_GZIP, noise(seed, 3000))];
    layers.extend(files.map(|files| (LAYER_GZIP, gzip(&files.finish()).unwrap_or_default())));
    layout.image(tag, (CONFIG, config.as_bytes()), &layers)
}

impl Edition {
    /// The edition with `releases`, of which the last is that of the bold channels and the first that of the others.
    #[must_use]
    pub fn of(releases: &[&str]) -> Self {
        let mut edition = Self::default();
        let base = noise(1, 20_000);
        for (seed, release) in (10_u64..).step_by(10).zip(releases) {
            edition.platform(release, seed, &base);
        }
        edition.channels("release-channel", releases);
        plain(edition.layout("installer"), Some("latest"), 5, &base);
        for (name, tag) in [("trivy-db", "2"), ("trivy-bdu", "1"), ("trivy-java-db", "1"), ("trivy-checks", "0")] {
            let layers = [(DATABASE, noise(name.len() as u64 + 500, 5000))];
            edition.layout(&format!("security/{name}")).image(Some(tag), (DATABASE_CONFIG, b"{}"), &layers);
        }
        for (seed, name) in [(600, "console"), (700, "prompp-with-a-name-that-is-long")] {
            let version = if seed == 600 { "v1.2.3" } else { "v0.4.0" };
            let layout = edition.layout(&format!("modules/{name}"));
            let inner = plain(layout, None, seed + 1, &base);
            let lists = Tar::new()
                .file("images_digests.json", json!({ "controller": inner }).to_string())
                .file("extra_images.json", json!({ "scanner": 7 }).to_string());
            of_files(layout, Some(version), seed, &base, Some(lists));
            layout.tag(hex(&inner), &inner);
            attest(layout, &inner, seed);
            edition.channels(&format!("modules/{name}/release"), &[version]);
            plain(edition.layout(&format!("modules/{name}/extra/scanner")), Some("7"), seed + 2, &base);
        }
        let lists = Tar::new().file("images_digests.json", "{}").file("extra_images.json", "{}");
        of_files(edition.layout("packages/shop"), Some("v2.0.0"), 800, &base, Some(lists));
        edition.channels("packages/shop/version", &["v2.0.0"]);
        edition.plugin("stronghold", &base);
        edition
    }

    fn layout(&mut self, path: &str) -> &mut Layout {
        self.layouts.entry(path.to_owned()).or_default()
    }

    fn platform(&mut self, release: &str, seed: u64, base: &[u8]) {
        let root = self.layout("");
        plain(root, Some(release), seed, base);
        let mut list = BTreeMap::new();
        for inner in 1..3 {
            let digest = plain(root, None, seed + inner, base);
            root.tag(hex(&digest), &digest);
            attest(root, &digest, seed + inner);
            list.insert(format!("image{inner}"), digest);
        }
        let list = Tar::new().file("deckhouse/candi/images_digests.json", json!({ "common": list }).to_string());
        of_files(self.layout("install"), Some(release), seed + 5, base, Some(list));
        plain(self.layout("install-standalone"), Some(release), seed + 6, base);
    }

    fn channels(&mut self, path: &str, releases: &[&str]) {
        let layout = self.layout(path);
        let mut digests: Vec<String> = Vec::new();
        for release in releases {
            digests.push(of_version(layout, release, release, 0));
        }
        let (Some(first), Some(last)) = (digests.first(), releases.last()) else { return };
        for channel in ["early-access", "stable", "rock-solid"] {
            layout.tag(channel, &first.clone());
        }
        // An image of its own, that only its layer says the version of.
        let bold = of_version(layout, "alpha", last, 1);
        layout.tag("beta", &bold);
    }

    fn plugin(&mut self, name: &str, base: &[u8]) {
        let layout = self.layout(&format!("deckhouse-cli/plugins/{name}"));
        let children: Vec<Value> = [900, 901]
            .map(|seed| {
                let child = plain(layout, None, seed, base);
                let size = layout.contents.get(hex(&child)).map_or(0, Vec::len);
                let mut entry = descriptor_of(IMAGE, child, size);
                entry["platform"] =
                    json!({ "architecture": if seed == 900 { "amd64" } else { "arm64" }, "os": "linux" });
                entry
            })
            .to_vec();
        let index =
            crate::with(crate::index(&children), &json!({ "annotations": { "contract": CONTRACT } })).to_string();
        let digest = layout.content(index.as_bytes());
        layout.tags.push(("v0.3.1".to_owned(), digest, INDEX.to_owned()));
    }

    /// Every tag as `path:tag`, with the digest that a push leaves under it.
    #[must_use]
    pub fn tags(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for (path, layout) in &self.layouts {
            for (tag, digest, _) in &layout.tags {
                found.insert(format!("{path}:{tag}"), digest.clone());
            }
        }
        found
    }

    /// The archives by name, with the rubbish of real ones.
    #[must_use]
    pub fn archives(&self) -> BTreeMap<String, Archive> {
        let mut archives: BTreeMap<String, Archive> = BTreeMap::new();
        for (path, layout) in &self.layouts {
            for name in archive_names(path) {
                archives.entry(name).or_default().layout(path, layout);
            }
        }
        if let Some(platform) = archives.get_mut("platform.tar") {
            let left = format!("blobs/sha256/{}1234567890", "ab".repeat(32));
            platform.files.insert(left, noise(3, 700));
            // Whole, and of a version that was left out.
            let unreached = noise(4, 900);
            platform.files.insert(format!("blobs/sha256/{}", hex(&digest(&unreached))), unreached);
        }
        if let Some(security) = archives.get_mut("security.tar") {
            let mut of_platform = Layout::default();
            of_platform.content(&noise(1, 20_000));
            // The whole working directory is packed, with what other phases left in it.
            security.layout("installer/installer", &Layout::default());
            security.layout("platform", &of_platform);
        }
        archives
    }

    /// Writes the archives whole, with what lies beside them.
    ///
    /// # Errors
    /// Of the disk.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        for (name, archive) in self.archives() {
            std::fs::write(dir.join(name), archive.tar())?;
        }
        beside(dir)
    }

    /// Writes the archives in chunks of about `size` bytes, each a little larger than that, as `d8` does.
    ///
    /// # Errors
    /// Of the disk.
    pub fn write_chunks(&self, dir: &Path, size: usize) -> io::Result<()> {
        for (name, archive) in self.archives() {
            write_chunks(dir, &name, &archive.tar(), size)?;
        }
        beside(dir)
    }
}

/// Writes a tar in chunks of about `size` bytes.
///
/// # Errors
/// Of the disk.
pub fn write_chunks(dir: &Path, name: &str, tar: &[u8], size: usize) -> io::Result<()> {
    let (mut rest, mut number) = (tar, 0_usize);
    loop {
        let most = (size + 7 * (number % 3)).min(rest.len());
        std::fs::write(dir.join(format!("{name}.{number:04}.chunk")), &rest[..most])?;
        let was_full = most >= size;
        rest = &rest[most..];
        number += 1;
        // The next one is begun when one is full, also where nothing follows.
        if rest.is_empty() && !was_full {
            return Ok(());
        }
    }
}

fn beside(dir: &Path) -> io::Result<()> {
    std::fs::write(dir.join("deckhousereleases.yaml"), "---\nkind: DeckhouseRelease\n")?;
    std::fs::create_dir_all(dir.join(".tmp/platform"))
}

/// The archives that a layout is in.
fn archive_names(path: &str) -> Vec<String> {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["security", ..] => vec!["security.tar".to_owned()],
        ["installer"] => vec!["installer.tar".to_owned()],
        ["modules", name, ..] => vec![format!("module-{name}.tar")],
        ["packages", name, "version"] => vec![format!("package-{name}.tar"), "package-versions.tar".to_owned()],
        ["packages", name, ..] => vec![format!("package-{name}.tar")],
        ["deckhouse-cli", "plugins", name] => vec![format!("plugin-{name}.tar")],
        _ => vec!["platform.tar".to_owned()],
    }
}

fn attest(layout: &mut Layout, subject: &str, seed: u64) {
    let envelope = json!({ "payloadType": "application/vnd.in-toto+json", "seed": seed }).to_string();
    let tag = format!("sha256-{}.att", hex(subject));
    layout.image(Some(&tag), (CONFIG, b"{}"), &[(ENVELOPE, envelope.into_bytes())]);
}

/// The hex digits of a digest.
#[must_use]
pub fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

/// An archive that is being made.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    /// Contents by the names of their entries.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    /// Adds the files of a layout.
    pub fn layout(&mut self, path: &str, layout: &Layout) {
        let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        for (hex, bytes) in &layout.contents {
            self.files.insert(below(&format!("blobs/sha256/{hex}")), bytes.clone());
        }
        self.files.insert(below("index.json"), layout.index());
        self.files.insert(below("oci-layout"), br#"{"imageLayoutVersion": "1.0.0"}"#.to_vec());
    }

    /// The names of its entries in the order in which a directory is walked.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.files.keys().map(String::as_str).collect();
        names.sort_by_key(|name| name.split('/').collect::<Vec<_>>());
        names
    }

    /// Writes its files into a directory, as they are.
    ///
    /// # Errors
    /// Of the disk.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        for (name, bytes) in &self.files {
            let target = dir.join(name);
            std::fs::create_dir_all(target.parent().unwrap_or(dir))?;
            std::fs::write(target, bytes)?;
        }
        Ok(())
    }

    /// Its bytes, as Go writes them with `Format: GNU`.
    #[must_use]
    pub fn tar(&self) -> Vec<u8> {
        let mut tar = Vec::new();
        for name in self.names() {
            append(&mut tar, name, &self.files[name]);
        }
        end(&mut tar);
        tar
    }
}

/// Appends an entry to a tar.
pub fn append(tar: &mut Vec<u8>, name: &str, content: &[u8]) {
    tar.extend_from_slice(&header(name, content.len() as u64));
    tar.extend_from_slice(content);
    pad(tar);
}

/// Appends the two blocks that end a tar.
pub fn end(tar: &mut Vec<u8>) {
    tar.resize(tar.len() + 2 * BLOCK, 0);
}

fn pad(tar: &mut Vec<u8>) {
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
}

/// The blocks in front of the bytes of an entry: with a `LongLink` where the name has more than 100 bytes.
#[must_use]
pub fn header(name: &str, size: u64) -> Vec<u8> {
    let mut blocks = Vec::new();
    if name.len() > 100 {
        blocks.extend_from_slice(&block("././@LongLink", b'L', name.len() as u64 + 1));
        blocks.extend_from_slice(name.as_bytes());
        blocks.push(0);
        pad(&mut blocks);
    }
    blocks.extend_from_slice(&block(name.get(..100).unwrap_or(name), b'0', size));
    blocks
}

fn block(name: &str, kind: u8, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000777\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size < 1 << 33 {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        // GNU: the number itself, with the first bit set.
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(257, b"ustar  \0");
    block[156] = kind;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
