//! Filling a store's directory without a server, so that a scenario starts from a large store in seconds.
//!
//! [`Filler`] writes the tree that pushes give (ARCHITECTURE.md), as `tests/it/seed.rs` proves. [`seed`] fills it with
//! images: the same arguments give the same content. Repositories are `load/r00000` onwards, their tags `v000000` onwards;
//! all tags are spread evenly, each names an image of its own, and the images of a repository share configuration and
//! layers.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use d8_registry::oci::{Algorithm, Digest};
use d8_registry::store::Store;
use serde_json::{Value, json};
use testkit::{descriptor_of, media_type};

/// Least bytes of a file on the disk.
const BLOCK: u64 = 4096;

/// Modes of what the server makes.
const DIRECTORY_MODE: u32 = 0o750;
const FILE_MODE: u32 = 0o640;

/// The annotation that makes images differ.
pub(crate) const NAME: &str = "org.opencontainers.image.ref.name";

/// Threads that remove a store; they mostly wait for the disk.
const REMOVERS: usize = 4;

/// How large a store to make.
#[derive(Args, Clone, Debug)]
pub(crate) struct SeedOptions {
    /// The store's directory; made if missing, must be empty else.
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
        // A tag is a file and a manifest; a repository has a configuration and some directories.
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
    testkit::noise(u64::from(repository) << 32 | u64::from(blob), size as usize)
}

/// Makes the store. Ends with an error soon after `stop` is set.
pub(crate) fn seed(options: &SeedOptions, stop: &AtomicBool) -> Result<()> {
    seed_with(options, 0, stop)
}

/// The same with `loose` blobs more in each repository, which no image names: that many more blobs cost no longer
/// manifests and no more directories.
pub(crate) fn seed_with(options: &SeedOptions, loose: u32, stop: &AtomicBool) -> Result<()> {
    prepare(options, loose)?;
    let mut filler = Filler::init(&options.dir)?;
    for number in 0..options.repositories {
        ensure!(!stop.load(Ordering::Relaxed), "interrupted");
        let repository = repository(number);
        seed_repository(options, &mut filler, number, &repository).with_context(|| repository.clone())?;
        for blob in options.blobs..options.blobs + loose {
            filler.blob(&repository, &content(number, blob, options.blob_size))?;
        }
    }
    filler.finish()
}

/// Writes contents into a store that no server has open. Before [`Filler::finish`] a crash may lose any of them. Clones may
/// write at the same time, each into repositories of its own.
#[derive(Clone, Debug)]
pub(crate) struct Filler {
    root: PathBuf,
    /// Directories that exist, so that they are asked for once.
    directories: HashSet<PathBuf>,
}

impl Filler {
    /// Lays out a store in `root`, which is empty or missing.
    pub(crate) fn init(root: &Path) -> Result<Self> {
        Store::init(root).with_context(|| format!("lay out {}", root.display()))?;
        // The sum of sizes, which will not be true.
        fs::remove_file(root.join("usage")).context("remove the store's sum of sizes")?;
        Ok(Self { root: root.to_owned(), directories: HashSet::new() })
    }

    /// Makes `content` a blob of `repository`.
    pub(crate) fn blob(&mut self, repository: &str, content: &[u8]) -> Result<Digest> {
        self.add(repository, "_blobs", content)
    }

    /// Makes `bytes` a manifest of `repository`, under `tag`. All that it names has to be there already.
    pub(crate) fn manifest(&mut self, repository: &str, bytes: &[u8], tag: &str) -> Result<Digest> {
        let digest = self.add(repository, "_manifests", bytes)?;
        let tags = self.directory(repository, "_tags")?;
        write(&tags.join(tag), format!("{digest}\n").as_bytes())?;
        Ok(digest)
    }

    /// Makes all of it durable.
    pub(crate) fn finish(self) -> Result<()> {
        rustix::fs::syncfs(File::open(&self.root)?).context("sync the file system")
    }

    /// File of a content.
    pub(crate) fn content(root: &Path, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        root.join("blobs/sha256").join(&hex[..2]).join(hex)
    }

    fn add(&mut self, repository: &str, kind: &str, content: &[u8]) -> Result<Digest> {
        let digest = Algorithm::Sha256.digest(content);
        let stored = Self::content(&self.root, &digest);
        let member = self.directory(repository, &format!("{kind}/sha256"))?.join(digest.hex());
        match write(&stored, content) {
            Err(error) if is_there(&error) => {}
            other => other?,
        }
        match fs::hard_link(&stored, &member) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("link {}", member.display()))
            }
            _ => Ok(digest),
        }
    }

    fn directory(&mut self, repository: &str, below: &str) -> Result<PathBuf> {
        let path = self.root.join("repositories").join(repository).join(below);
        if !self.directories.contains(&path) {
            let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(&path);
            made.with_context(|| format!("make {}", path.display()))?;
            self.directories.insert(path.clone());
        }
        Ok(path)
    }
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path);
    let mut file = opened.with_context(|| format!("create {}", path.display()))?;
    file.write_all(content).with_context(|| format!("write {}", path.display()))
}

fn is_there(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::AlreadyExists)
}

/// Removes a store, first the contents and then their names in repositories, one repository after the other: blocks that
/// were written side by side are freed side by side, which takes half of the time on a disk that is told of each.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    for part in ["blobs/sha256", "repositories/load"] {
        let mut directories = Vec::new();
        for entry in fs::read_dir(dir.join(part)).into_iter().flatten() {
            directories.push(entry?.path());
        }
        directories.sort();
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..REMOVERS {
                scope.spawn(|| {
                    while let Some(directory) = directories.get(next.fetch_add(1, Ordering::Relaxed)) {
                        // The rest is removed below, or named there.
                        let _ = fs::remove_dir_all(directory);
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

fn seed_repository(options: &SeedOptions, filler: &mut Filler, number: u32, repository: &str) -> Result<()> {
    let config = format!(r#"{{"architecture":"amd64","os":"linux","repository":"{repository}"}}"#).into_bytes();
    let config = descriptor_of(media_type::CONFIG, filler.blob(repository, &config)?, config.len());
    let mut layers = Vec::new();
    for layer in 0..options.blobs {
        let content = content(number, layer, options.blob_size);
        layers.push(descriptor_of(media_type::LAYER_GZIP, filler.blob(repository, &content)?, content.len()));
    }
    for number in 0..options.tags_of(number) {
        let tag = tag(number);
        let name = format!("{repository}:{tag}");
        filler.manifest(repository, image(&config, &layers, NAME, &name).as_bytes(), &tag)?;
    }
    Ok(())
}

/// An image's manifest with one annotation.
pub(crate) fn image(config: &Value, layers: &[Value], annotation: &str, value: &str) -> String {
    testkit::with(testkit::image(config, layers), &json!({"annotations": {annotation: value}})).to_string()
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
    fn what_was_seeded_is_removed_to_the_last_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let wanted = SeedOptions { dir: store.clone(), ..options(7, 20) };
        seed_with(&wanted, 3, &AtomicBool::new(false)).unwrap();
        assert!(store.join("repositories/load/r00006").exists());
        remove(&store).unwrap();
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
        // Blobs that no image names count too.
        options.blobs = 0;
        options.tags = 0;
        assert!(prepare(&options, 1000).unwrap_err().to_string().contains("half of what is free"));
    }
}
