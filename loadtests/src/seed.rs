//! Filling a store's folder with images, without a server, so that a scenario starts from a large store in seconds.
//!
//! The same arguments give the same content. Repositories are `load/r00000` onwards, their tags `v000000` onwards; all
//! tags are spread evenly, each names an image of its own, and the images of a repository share configuration and layers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use d8_registry::oci::{Digest, RepoName};
use d8_registry::store::{BulkWriter, Store};
use indicatif::{ProgressBar, ProgressStyle};

/// Marks a folder as ours to remove.
const MARKER: &str = ".loadtests-seed";

/// What a file takes on the disk at least.
const BLOCK: u64 = 4096;

/// How large a store to make.
#[derive(Args, Clone, Debug)]
pub(crate) struct SeedOptions {
    /// The store's folder; made if missing, must be empty else.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Repositories.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) repositories: u32,
    /// Tags, over all repositories.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub(crate) tags: u32,
    /// Layers of the images of a repository.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) blobs: u32,
    /// Bytes of a layer.
    #[arg(long, default_value_t = 1024)]
    pub(crate) blob_size: u32,
}

impl SeedOptions {
    /// Room that the store will take, roughly.
    fn room(&self) -> u64 {
        let (repositories, tags) = (u64::from(self.repositories), u64::from(self.tags));
        let layer = u64::from(self.blob_size).next_multiple_of(BLOCK);
        // A tag is a file and a manifest; a repository has a configuration and some folders.
        tags * 2 * BLOCK + repositories * (10 * BLOCK + u64::from(self.blobs) * layer)
    }

    /// Tags and manifests: what a rebuild of the index counts.
    pub(crate) fn objects(&self) -> u64 {
        u64::from(self.tags) * 2
    }

    /// Tags of repository `repository`: spread evenly, the first have one more.
    fn tags_of(&self, repository: u32) -> u32 {
        self.tags / self.repositories + u32::from(repository < self.tags % self.repositories)
    }
}

/// The name of a repository.
pub(crate) fn repository(number: u32) -> String {
    format!("load/r{number:05}")
}

/// A tag of a repository.
pub(crate) fn tag(number: u32) -> String {
    format!("v{number:06}")
}

/// Makes the store. Ends with an error soon after `stop` is set.
pub(crate) fn seed(options: &SeedOptions, stop: &AtomicBool) -> Result<()> {
    prepare(options)?;
    Store::init(&options.dir).with_context(|| format!("lay out {}", options.dir.display()))?;
    let mut writer = BulkWriter::open(&options.dir)?;
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}")?;
    let bar = ProgressBar::new(u64::from(options.tags)).with_style(style).with_message("seeding");
    for number in 0..options.repositories {
        ensure!(!stop.load(Ordering::Relaxed), "interrupted");
        seed_repository(options, &mut writer, number, &bar).with_context(|| repository(number))?;
    }
    bar.set_message("syncing");
    writer.finish()?;
    bar.finish_and_clear();
    Ok(())
}

/// Removes a folder that [`seed`] made.
pub(crate) fn unseed(dir: &Path) -> Result<()> {
    ensure!(dir.join(MARKER).exists(), "{} was not made by seed: it has no {MARKER}", dir.display());
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}

fn prepare(options: &SeedOptions) -> Result<()> {
    let dir = &options.dir;
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    if fs::read_dir(dir)?.next().is_some() {
        bail!("{} is not empty", dir.display());
    }
    let disk = rustix::fs::statvfs(dir).with_context(|| format!("ask for the room in {}", dir.display()))?;
    let free = disk.f_bavail * disk.f_frsize;
    ensure!(
        free / 2 >= options.room(),
        "the store will take about {} MiB and may take half of what is free, which is {} MiB",
        options.room() >> 20,
        free >> 20
    );
    Ok(())
}

fn seed_repository(options: &SeedOptions, writer: &mut BulkWriter, number: u32, bar: &ProgressBar) -> Result<()> {
    let repo: RepoName = repository(number).parse()?;
    let config = format!(r#"{{"architecture":"amd64","os":"linux","repository":"{repo}"}}"#).into_bytes();
    let config_digest = writer.blob(&repo, &config)?;
    let mut layers = Vec::new();
    for layer in 0..options.blobs {
        let seed = u64::from(number) << 32 | u64::from(layer);
        let content = noise(seed, options.blob_size as usize);
        layers.push(descriptor(
            "application/vnd.oci.image.layer.v1.tar+gzip",
            writer.blob(&repo, &content)?,
            content.len(),
        ));
    }
    let config = descriptor("application/vnd.oci.image.config.v1+json", config_digest, config.len());
    for number in 0..options.tags_of(number) {
        let tag = tag(number);
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config},"layers":[{}],"annotations":{{"org.opencontainers.image.ref.name":"{repo}:{tag}"}}}}"#,
            layers.join(",")
        );
        writer.manifest(&repo, manifest.as_bytes(), &[tag.parse()?])?;
        bar.inc(1);
    }
    // After the layout, which wants an empty folder.
    if number == 0 {
        fs::write(options.dir.join(MARKER), "")?;
    }
    Ok(())
}

pub(crate) fn descriptor(media_type: &str, digest: Digest, size: usize) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

/// Bytes that don't compress and are the same for the same seed (xorshift64*).
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(repositories: u32, tags: u32) -> SeedOptions {
        SeedOptions { dir: PathBuf::new(), repositories, tags, blobs: 2, blob_size: 5000 }
    }

    #[test]
    fn tags_are_spread_evenly_and_none_is_lost() {
        for (repositories, tags) in [(1, 0), (3, 10), (7, 7), (10, 3)] {
            let options = options(repositories, tags);
            let spread: Vec<u32> = (0..repositories).map(|number| options.tags_of(number)).collect();
            assert_eq!(spread.iter().sum::<u32>(), tags);
            assert!(spread.iter().max().unwrap() - spread.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn noise_is_the_same_for_the_same_seed_only() {
        assert_eq!(noise(7, 1000), noise(7, 1000));
        assert_ne!(noise(7, 1000), noise(9, 1000));
        assert_eq!(noise(1, 3).len(), 3);
    }

    #[test]
    fn only_what_was_seeded_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(unseed(dir.path()).is_err());
        assert!(dir.path().exists());
    }

    #[test]
    fn a_store_larger_than_half_of_the_disk_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(100_000, 10_000_000);
        options.dir = dir.path().join("store");
        options.blobs = 1000;
        options.blob_size = u32::MAX;
        assert!(prepare(&options).unwrap_err().to_string().contains("half of what is free"));
    }
}
