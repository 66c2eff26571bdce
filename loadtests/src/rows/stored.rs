//! The content that hits are measured with: once in a store of ours and, as the same inodes, as files for nginx.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use d8_registry::oci::Digest;
use testkit::media_type;

use crate::seed::{self, Filler};

/// The repository with the content.
pub(crate) const REPOSITORY: &str = "load/hot";
/// The manifest's tag.
pub(crate) const TAG: &str = "v1.68.3";
/// Layers of the image: its manifest has about 2 kB.
const LAYERS: u64 = 8;

/// The content with its names.
#[derive(Debug)]
pub(crate) struct Stored {
    /// The store.
    pub(crate) dir: PathBuf,
    /// Directory with `blob`, `small` and `manifest`, for a file server.
    pub(crate) files: PathBuf,
    pub(crate) blob: Digest,
    pub(crate) small: Digest,
    pub(crate) manifest: Digest,
}

impl Stored {
    /// Makes it below `scratch`; the large blob has `size` MiB.
    pub(crate) fn make(scratch: &Path, size: u32) -> Result<Self> {
        let (dir, files) = (scratch.join("store"), scratch.join("files"));
        fs::create_dir_all(&files).with_context(|| format!("create {}", files.display()))?;
        let mut filler = Filler::init(&dir)?;
        let blob = filler.blob(REPOSITORY, &testkit::noise(1, size as usize * (1 << 20)))?;
        let small = filler.blob(REPOSITORY, &testkit::noise(2, 4096))?;
        let config = br#"{"architecture":"amd64","os":"linux"}"#;
        let config = testkit::descriptor_of(media_type::CONFIG, filler.blob(REPOSITORY, config)?, config.len());
        let mut layers = Vec::new();
        for number in 0..LAYERS {
            let content = testkit::noise(100 + number, 1000);
            layers.push(testkit::descriptor_of(
                media_type::LAYER_GZIP,
                filler.blob(REPOSITORY, &content)?,
                content.len(),
            ));
        }
        let text = seed::image(&config, &layers, "org.opencontainers.image.title", &format!("{:a<500}", "hot"));
        let manifest = filler.manifest(REPOSITORY, text.as_bytes(), TAG)?;
        filler.finish()?;
        for (name, digest) in [("blob", blob), ("small", small), ("manifest", manifest)] {
            fs::hard_link(Filler::content(&dir, &digest), files.join(name)).context("link a content for nginx")?;
        }
        Ok(Self { dir, files, blob, small, manifest })
    }

    /// Bytes of a content.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = Filler::content(&self.dir, digest);
        fs::read(&path).with_context(|| format!("read {}", path.display()))
    }

    pub(crate) fn blob_path(digest: &Digest) -> String {
        format!("/v2/{REPOSITORY}/blobs/{digest}")
    }

    pub(crate) fn tag_path() -> String {
        format!("/v2/{REPOSITORY}/manifests/{TAG}")
    }

    pub(crate) fn manifest_path(&self) -> String {
        format!("/v2/{REPOSITORY}/manifests/{}", self.manifest)
    }
}
