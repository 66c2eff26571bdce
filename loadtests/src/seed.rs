//! Filling a store's folder with images, without a server, so that a scenario starts from a large store in seconds.
//!
//! The same arguments give the same content. Repositories are `load/r00000` onwards, their tags `v000000` onwards; all
//! tags are spread evenly, each names an image of its own, and the images of a repository share configuration and layers.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use d8_registry::oci::{Digest, RepoName};
use d8_registry::store::{BulkWriter, Store};
use indicatif::{ProgressBar, ProgressStyle};

/// Marks a folder as ours to remove.
const MARKER: &str = ".loadtests-seed";

/// What a file takes on the disk at least.
const BLOCK: u64 = 4096;

/// Threads that remove a store; they mostly wait for the disk.
const REMOVERS: usize = 4;

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
    /// Room that the store will take, roughly, with `loose` blobs more in each repository.
    fn room(&self, loose: u32) -> u64 {
        let (repositories, tags) = (u64::from(self.repositories), u64::from(self.tags));
        let layer = u64::from(self.blob_size).next_multiple_of(BLOCK);
        // A tag is a file and a manifest; a repository has a configuration and some folders.
        tags * 2 * BLOCK + repositories * (10 * BLOCK + (u64::from(self.blobs) + u64::from(loose)) * layer)
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

/// Blob `blob` of a repository: first the layers of its images, then what none of them names.
pub(crate) fn content(repository: u32, blob: u32, size: u32) -> Vec<u8> {
    noise(u64::from(repository) << 32 | u64::from(blob), size as usize)
}

/// Makes the store. Ends with an error soon after `stop` is set.
pub(crate) fn seed(options: &SeedOptions, stop: &AtomicBool) -> Result<()> {
    seed_with(options, 0, stop)
}

/// The same with `loose` blobs more in each repository, which no image names: that many more blobs cost no longer
/// manifests and no more folders.
pub(crate) fn seed_with(options: &SeedOptions, loose: u32, stop: &AtomicBool) -> Result<()> {
    prepare(options, loose)?;
    Store::init(&options.dir).with_context(|| format!("lay out {}", options.dir.display()))?;
    let mut writer = BulkWriter::open(&options.dir)?;
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}")?;
    let loose_all = u64::from(loose) * u64::from(options.repositories);
    let bar = ProgressBar::new(u64::from(options.tags) + loose_all).with_style(style).with_message("seeding");
    for number in 0..options.repositories {
        ensure!(!stop.load(Ordering::Relaxed), "interrupted");
        seed_repository(options, &mut writer, number, &bar).with_context(|| repository(number))?;
        let repo: RepoName = repository(number).parse()?;
        for blob in options.blobs..options.blobs + loose {
            writer.blob(&repo, &content(number, blob, options.blob_size))?;
        }
        bar.inc(u64::from(loose));
    }
    bar.set_message("syncing");
    writer.finish()?;
    bar.finish_and_clear();
    Ok(())
}

/// Removes a folder that [`seed`] made.
pub(crate) fn unseed(dir: &Path) -> Result<()> {
    ensure!(dir.join(MARKER).exists(), "{} was not made by seed: it has no {MARKER}", dir.display());
    remove(dir)
}

/// Removes a store, first the contents and then their names in repositories, one repository after the other: blocks that
/// were written side by side are freed side by side, which takes half of the time on a disk that is told of each.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    for part in ["blobs/sha256", "repositories/load"] {
        let mut folders = Vec::new();
        for entry in fs::read_dir(dir.join(part)).into_iter().flatten() {
            folders.push(entry?.path());
        }
        folders.sort();
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..REMOVERS {
                scope.spawn(|| {
                    while let Some(folder) = folders.get(next.fetch_add(1, Ordering::Relaxed)) {
                        // What is left is removed below, or named there.
                        let _ = fs::remove_dir_all(folder);
                    }
                });
            }
        });
    }
    fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}

fn prepare(options: &SeedOptions, loose: u32) -> Result<()> {
    let dir = &options.dir;
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    if fs::read_dir(dir)?.next().is_some() {
        bail!("{} is not empty", dir.display());
    }
    let disk = rustix::fs::statvfs(dir).with_context(|| format!("ask for the room in {}", dir.display()))?;
    let free = disk.f_bavail * disk.f_frsize;
    ensure!(
        free / 2 >= options.room(loose),
        "the store will take about {} MiB and may take half of what is free, which is {} MiB",
        options.room(loose) >> 20,
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
        let content = content(number, layer, options.blob_size);
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

/// Bytes that don't compress and are the same for the same seed (xorshift64*), and others for any other.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    // One to one, and far apart for neighbours; nought would stay nought.
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9).max(1);
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
        let many: std::collections::HashSet<Vec<u8>> = (0..10_000).map(|seed| noise(seed, 16)).collect();
        assert_eq!(many.len(), 10_000, "neighbours have contents of their own");
        assert_eq!(noise(1, 3).len(), 3);
    }

    #[test]
    fn only_what_was_seeded_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(unseed(dir.path()).is_err());
        assert!(dir.path().exists());
    }

    #[test]
    fn what_was_seeded_is_removed_to_the_last_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let wanted = SeedOptions { dir: store.clone(), ..options(7, 20) };
        seed_with(&wanted, 3, &AtomicBool::new(false)).unwrap();
        assert!(store.join("repositories/load/r00006").exists());
        unseed(&store).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_store_larger_than_half_of_the_disk_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(100_000, 10_000_000);
        options.dir = dir.path().join("store");
        options.blobs = 1000;
        options.blob_size = u32::MAX;
        assert!(prepare(&options, 0).unwrap_err().to_string().contains("half of what is free"));
        // What no image names counts too.
        options.blobs = 0;
        options.tags = 0;
        assert!(prepare(&options, 1000).unwrap_err().to_string().contains("half of what is free"));
    }
}
