//! The content that hits are measured with: once in a store of ours and, as the same inodes, as files for nginx.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use d8_registry::oci::{Digest, RepoName};
use d8_registry::store::{BulkWriter, Store};

use crate::seed;

/// The repository with the content.
pub(crate) const REPOSITORY: &str = "load/hot";
/// The manifest's tag.
pub(crate) const TAG: &str = "v1.68.3";
/// What its manifest is.
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Layers of the image: its manifest has about 2 kB.
const LAYERS: u64 = 8;

/// Where it is, and what it is called.
#[derive(Debug)]
pub(crate) struct Stored {
    /// The store.
    pub(crate) dir: PathBuf,
    /// `blob`, `small` and `manifest`, for a file server.
    pub(crate) files: PathBuf,
    pub(crate) blob: Digest,
    pub(crate) small: Digest,
    pub(crate) manifest: Digest,
}

impl Stored {
    /// Makes it below `scratch`; the large blob has so many MiB.
    pub(crate) fn make(scratch: &Path, size: u32) -> Result<Self> {
        let (dir, files) = (scratch.join("store"), scratch.join("files"));
        fs::create_dir_all(&files).with_context(|| format!("create {}", files.display()))?;
        Store::init(&dir)?;
        let repository: RepoName = REPOSITORY.parse()?;
        let mut writer = BulkWriter::open(&dir)?;
        let blob = writer.blob(&repository, &seed::noise(1, size as usize * (1 << 20)))?;
        let small = writer.blob(&repository, &seed::noise(2, 4096))?;
        let config = br#"{"architecture":"amd64","os":"linux"}"#;
        let config_digest = writer.blob(&repository, config)?;
        let mut layers = Vec::new();
        for number in 0..LAYERS {
            let content = seed::noise(100 + number, 1000);
            let digest = writer.blob(&repository, &content)?;
            let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
            layers.push(seed::descriptor(media_type, digest, content.len()));
        }
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","config":{},"layers":[{}],"annotations":{{"org.opencontainers.image.title":"{:a<500}"}}}}"#,
            seed::descriptor("application/vnd.oci.image.config.v1+json", config_digest, config.len()),
            layers.join(","),
            "hot"
        );
        let manifest = writer.manifest(&repository, text.as_bytes(), &[TAG.parse()?])?;
        writer.finish()?;
        for (name, digest) in [("blob", blob), ("small", small), ("manifest", manifest)] {
            fs::hard_link(content(&dir, &digest), files.join(name)).context("link a content for nginx")?;
        }
        Ok(Self { dir, files, blob, small, manifest })
    }

    pub(crate) fn blob_path(&self) -> String {
        format!("/v2/{REPOSITORY}/blobs/{}", self.blob)
    }

    pub(crate) fn small_path(&self) -> String {
        format!("/v2/{REPOSITORY}/blobs/{}", self.small)
    }

    pub(crate) fn tag_path() -> String {
        format!("/v2/{REPOSITORY}/manifests/{TAG}")
    }

    pub(crate) fn manifest_path(&self) -> String {
        format!("/v2/{REPOSITORY}/manifests/{}", self.manifest)
    }
}

/// The file of a content (ARCHITECTURE.md: once under `blobs`).
pub(crate) fn content(dir: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    dir.join("blobs/sha256").join(&hex[..2]).join(hex)
}
