//! The Secret `registry-config` of Deckhouse as it is mounted: one file a key. Also the reading of single small files.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::str::FromStr;

use super::MAX_FILE_BYTES;
use super::images_repo::ImagesRepo;
use crate::values::{ConfigDuration, Scheme, Secret};

/// What the folder holds. An empty file counts as none, `checkMode` concerns others.
#[derive(Clone, Debug, Default)]
pub(super) struct SecretDir {
    /// As written: it counts only if neither file nor flag says another.
    pub(super) mode: Option<String>,
    pub(super) images_repo: Option<ImagesRepo>,
    pub(super) scheme: Option<Scheme>,
    pub(super) ca: Option<String>,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) ttl: Option<ConfigDuration>,
}

impl SecretDir {
    /// Reads the folder; blocking. The error is a sentence that names the file and shows nothing of it.
    pub(super) fn read(dir: &Path) -> Result<Self, String> {
        let metadata = std::fs::metadata(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        if !metadata.is_dir() {
            return Err(format!("{} is no folder", dir.display()));
        }
        Ok(Self {
            mode: text(dir, "mode")?.map(|text| text.trim().to_owned()),
            images_repo: value(dir, "imagesRepo")?,
            scheme: value(dir, "scheme")?,
            ca: text(dir, "ca")?,
            username: text(dir, "username")?,
            password: text(dir, "password")?.map(Secret::new),
            ttl: value(dir, "ttl")?,
        })
    }
}

fn value<T: FromStr<Err = super::InvalidValue>>(dir: &Path, file: &str) -> Result<Option<T>, String> {
    let Some(text) = text(dir, file)? else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|error: T::Err| format!("file {file} in {}: {error}", dir.display()))
}

fn text(dir: &Path, file: &str) -> Result<Option<String>, String> {
    let path = dir.join(file);
    match open(&path) {
        Ok(text) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
        Err((ErrorKind::NotFound, _)) => Ok(None),
        Err((_, sentence)) => Err(sentence),
    }
}

/// The text of a file without the line end behind it; blocking. Empty is an error.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let text = open(path).map_err(|(_, sentence)| sentence)?;
    if text.trim().is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(text) }
}

fn open(path: &Path) -> Result<String, (ErrorKind, String)> {
    let failed = |error: std::io::Error| (error.kind(), format!("{}: {error}", path.display()));
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        let sentence = format!("{} is larger than {MAX_FILE_BYTES} bytes", path.display());
        return Err((ErrorKind::FileTooLarge, sentence));
    }
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}
