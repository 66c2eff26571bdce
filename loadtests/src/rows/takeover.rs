//! Take-over with `--move` of a tree of distribution: 100,000 tags, each an image of its own, and some large blobs. Beside it the
//! SHA-256 of the same files by the server's own library, in the same order of reading: what a take-over can't do without.
//! All cores; the files are in memory, as the tree was just written.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use d8_registry::oci::{Algorithm, Hasher};
use serde_json::{Value, json};
use testkit::distribution::Tree;
use testkit::media_type::{CONFIG, LAYER};

use super::{Bench, Row};
use crate::cpu;
use crate::interrupt;
use crate::report::{Report, Target};

const TAGS: u32 = 100_000;
const REPOSITORIES: u32 = 100;
/// Layers that images share, of 1 MiB each.
const SHARED: u32 = 1000;
/// Large blobs, of [`LARGE_BYTES`] each.
const LARGE: u32 = 16;
const LARGE_BYTES: usize = 128 << 20;
/// Limit in seconds: minutes.
const SECONDS: f64 = 300.0;
/// Bytes read at once.
const PIECE: usize = 1 << 20;

/// Runs it with all cores.
pub(crate) fn run(bench: &Bench<'_>, report: &mut Report, row: Row) -> Result<()> {
    let dir = bench.dir(&row.name())?;
    cpu::on(None, || measured(bench, report, &dir))
}

fn measured(bench: &Bench<'_>, report: &mut Report, dir: &Path) -> Result<()> {
    let tags = (f64::from(TAGS) * bench.options.times.min(1.0)).ceil() as u32;
    let (source, store) = (dir.join("source"), dir.join("store"));
    write(&source, tags)?;
    rustix::fs::sync();
    let begun = Instant::now();
    let (bytes, files) = hash(&source.join("docker/registry/v2/blobs"))?;
    let alone = begun.elapsed().as_secs_f64();
    let program = &bench.options.server;
    let run = |words: &[&str]| -> Result<Vec<u8>> {
        let output = Command::new(program).args(words).arg("--data-dir").arg(&store).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("run {}", program.display()))?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    };
    run(&["init"])?;
    let config = dir.join("import.yaml");
    fs::write(&config, "store: { reserveBytes: 0 }\n")?;
    let config = config.to_str().context("a path that is no text")?;
    let path = source.to_str().context("a path that is no text")?;
    let begun = Instant::now();
    let said = run(&["import", "--json", "--config", config, "--move", "--from-distribution", path])?;
    let took = begun.elapsed().as_secs_f64();
    let said: Value = serde_json::from_slice(&said).context("the report")?;
    ensure!(said["tags"]["taken"] == tags && said["bytes"] == said["movedBytes"], "not all of it came: {said}");
    let when = format!(", {tags} tags, {files} files, {} MiB", bytes >> 20);
    report.judge(format!("take-over with --move{when}"), took, "s", Target::Below(SECONDS));
    report.fact(format!("SHA-256 of the same files{when}"), alone, "s");
    report.fact(format!("take-over{when}"), bytes as f64 / took / 1e6, "MB/s");
    report.fact(format!("take-over{when}, tags"), f64::from(tags) / took, "/s");
    let begun = Instant::now();
    run(&["import", "--json", "--config", config, "--move", "--from-distribution", path])?;
    report.fact(format!("take-over again, nothing to do{when}"), begun.elapsed().as_secs_f64(), "s");
    Ok(())
}

/// Each image has a configuration of its own, a shared layer of 1 MiB and, some, a large one.
fn write(root: &Path, tags: u32) -> Result<()> {
    let tree = Tree::new(root)?;
    let put = |bytes: &[u8]| -> Result<usize> {
        tree.content(bytes)?;
        Ok(bytes.len())
    };
    let layers = |count: u32, length: usize, seed: u64| -> Result<Vec<Value>> {
        let layer = |number: u32| {
            interrupt::check()?;
            let bytes = testkit::noise(seed + u64::from(number), length);
            put(&bytes)?;
            Ok(testkit::descriptor(LAYER, &bytes))
        };
        (0..count).map(layer).collect()
    };
    let (shared, large) = (layers(SHARED, 1 << 20, 1 << 32)?, layers(LARGE, LARGE_BYTES, 1 << 40)?);
    for number in 0..tags {
        interrupt::check()?;
        let repository = format!("load/repository-{:03}", number % REPOSITORIES);
        let config = json!({ "architecture": "amd64", "os": "linux", "number": number }).to_string();
        let mut named = vec![shared[(number % SHARED) as usize].clone()];
        if number % 97 == 0 {
            named.push(large[(number / 97 % LARGE) as usize].clone());
        }
        put(config.as_bytes())?;
        let manifest = testkit::image(&testkit::descriptor(CONFIG, config.as_bytes()), &named).to_string();
        let digest = tree.content(manifest.as_bytes())?;
        tree.revision(&repository, &digest)?;
        tree.tag(&repository, &format!("v{number}"), &digest)?;
    }
    Ok(())
}

/// Hashes every file below a directory; bytes and number of files.
fn hash(root: &Path) -> Result<(u64, u64)> {
    let (mut bytes, mut files, mut piece) = (0, 0, vec![0; PIECE]);
    let mut waiting: Vec<PathBuf> = vec![root.to_path_buf()];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                waiting.push(entry?.path());
            }
            continue;
        }
        let (mut file, mut hasher) = (File::open(&path)?, Hasher::new(Algorithm::Sha256));
        loop {
            let read = file.read(&mut piece)?;
            if read == 0 {
                break;
            }
            hasher.update(&piece[..read]);
            bytes += read as u64;
        }
        std::hint::black_box(hasher.finish());
        files += 1;
        interrupt::check()?;
    }
    Ok((bytes, files))
}
