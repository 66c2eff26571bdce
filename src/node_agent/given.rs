//! A configuration of the node as it is mounted and kept: Secret `registry-bashible-config`, and beside it the word of ConfigMap
//! `d8-registry-masters` that bare Unmanaged is settled.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use crate::fs::{self, FsError};
use crate::node_config::NodeConfig;
use crate::values::Secret;

/// The Secret's key with the configuration.
const CONFIG: &str = "config";
/// The ConfigMap's key with the version that is settled in a bare Unmanaged: with the Secret gone, a node whose last configuration had
/// it goes back to what it had before. The controller writes it.
const SETTLED: &str = "settled";
/// The kubelet swaps this link when one of both changes, so what is read behind it is of one moment.
const DATA: &str = "..data";
/// A Secret holds 1 MiB.
const MAX_BYTES: u64 = 1 << 20;
/// The copy, in its folder. Passwords are in it.
const COPY: &str = "copy.json";
const COPY_MODE: u32 = 0o600;
/// Its form.
const FORM: u32 = 1;
/// The longest version: others have 64 characters.
const MAX_VERSION: usize = 128;

/// A configuration that can be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    /// As it was written.
    text: Secret,
    /// What it says.
    pub(super) config: NodeConfig,
    /// What the node answers once it has applied it.
    pub(super) version: String,
    /// Whether it is that of a settled bare Unmanaged, and the end of its Secret the way back.
    pub(super) ends_with_its_secret: bool,
}

/// What the mounted Secret holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mounted {
    /// There is no Secret, or it is empty. `settled`: the version of the word beside it.
    Absent { settled: Option<String> },
    /// It can't be read or used, and why.
    Wrong(String),
    /// A configuration.
    Given(Given),
}

/// The copy on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// There is none.
    Absent,
    /// It can't be read or used, and why.
    Wrong(String),
    /// The configuration that was mounted last.
    Given(Given),
}

impl Given {
    /// Error: a sentence's rest, without secrets.
    fn read(text: String, settled: Option<&str>) -> Result<Self, String> {
        let config = NodeConfig::read(&text).map_err(|error| format!("is wrong: {error}"))?;
        let version = config.answer().unwrap_or_default().to_owned();
        if version.is_empty() || version.len() > MAX_VERSION || !version.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has no version that a node could answer with".to_owned());
        }
        let mut given = Self { text: Secret::new(text), config, version, ends_with_its_secret: false };
        given.ends_with_its_secret = given.is_settled_by(settled);
        Ok(given)
    }

    /// Whether the word of the ConfigMap is of it.
    pub(super) fn is_settled_by(&self, word: Option<&str>) -> bool {
        self.config.is_unmanaged() && word.map(str::trim) == Some(self.version.as_str())
    }

    #[cfg(test)]
    pub(super) fn of_test(version: &str, settled: bool) -> Self {
        let text = format!("{{mode: Unmanaged, version: '{version}', hosts: {{}}}}");
        Self::read(text, settled.then_some(version)).unwrap()
    }
}

/// What is mounted at `folder`. Blocking.
pub(super) fn mounted(folder: &Path) -> Mounted {
    let read = || -> io::Result<(Option<String>, Option<String>)> {
        let data = folder.join(DATA);
        let folder = if data.exists() { data.canonicalize()? } else { folder.to_owned() };
        Ok((read_file(&folder.join(CONFIG))?, read_file(&folder.join(SETTLED))?))
    };
    match read() {
        Ok((config, settled)) => match config.filter(|config| !config.trim().is_empty()) {
            None => Mounted::Absent { settled },
            Some(config) => Given::read(config, settled.as_deref()).map_or_else(Mounted::Wrong, Mounted::Given),
        },
        // The parser's words, and the system's, name no content.
        Err(error) => Mounted::Wrong(format!("can't be read: {error}")),
    }
}

/// `None`: it is not there.
fn read_file(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(Some(text))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Copy {
    form: u32,
    settled: bool,
    config: String,
}

/// The copy in `folder`. Blocking.
pub(super) fn kept(folder: &Path) -> Kept {
    match read_file(&folder.join(COPY)) {
        Ok(None) => Kept::Absent,
        Ok(Some(text)) => parsed(&text).map_or_else(Kept::Wrong, Kept::Given),
        Err(error) => Kept::Wrong(format!("can't be read: {error}")),
    }
}

fn parsed(text: &str) -> Result<Given, String> {
    // The parser's words could hold pieces of the file.
    let copy: Copy = serde_json::from_str(text)
        .map_err(|error| format!("is damaged in line {}, column {}", error.line(), error.column()))?;
    if copy.form != FORM {
        return Err("was written by another version of this program".to_owned());
    }
    let mut given = Given::read(copy.config, None)?;
    given.ends_with_its_secret = copy.settled && given.config.is_unmanaged();
    Ok(given)
}

/// Makes `given` the copy in `folder`, whole or not at all. Blocking.
pub(super) fn keep(folder: &Path, given: &Given) -> Result<(), FsError> {
    let copy = json!({"form": FORM, "settled": given.ends_with_its_secret, "config": given.text.expose()});
    fs::make_directory(folder)?;
    fs::replace_file(&folder.join(COPY), format!("{copy}\n").as_bytes(), COPY_MODE)
}

/// Removes the copy in `folder`. Blocking.
pub(super) fn forget(folder: &Path) -> Result<(), FsError> {
    fs::remove_file(&folder.join(COPY)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(folder: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }

    const BARE: &str = "mode: Unmanaged\nversion: abc\nimagesBase: r.example/ee\nhosts: {r.example: {mirrors: [{host: r.example, scheme: https, auth: {username: u, password: hush-hush}}]}}\n";

    #[test]
    fn a_missing_or_empty_mount_is_absent_and_a_wrong_one_is_not() {
        let folder = tempfile::TempDir::new().unwrap();
        let absent = Mounted::Absent { settled: None };
        assert_eq!(mounted(&folder.path().join("none")), absent);
        assert_eq!(mounted(folder.path()), absent);
        for (text, empty) in [("", true), (" \n", true), ("{", false), ("hosts: {}", false), ("version: x", false)] {
            secret(folder.path(), &[(CONFIG, text)]);
            let found = mounted(folder.path());
            assert_eq!(found == absent, empty, "{text:?}: {found:?}");
            assert!(empty || matches!(found, Mounted::Wrong(_)), "{text:?}: {found:?}");
        }
        std::fs::remove_file(folder.path().join(CONFIG)).unwrap();
        secret(folder.path(), &[(SETTLED, "abc")]);
        assert_eq!(mounted(folder.path()), Mounted::Absent { settled: Some("abc".to_owned()) });
        std::fs::create_dir(folder.path().join(CONFIG)).unwrap();
        assert!(matches!(mounted(folder.path()), Mounted::Wrong(_)));
    }

    #[test]
    fn a_configuration_ends_with_its_secret_only_if_this_very_version_of_it_is_settled() {
        let folder = tempfile::TempDir::new().unwrap();
        for (config, settled, ends) in [
            (BARE, Some("abc"), true),
            (BARE, Some("abc\n"), true),
            (BARE, Some("abd"), false),
            (BARE, Some(""), false),
            (BARE, None, false),
            ("{mode: Direct, version: abc, hosts: {}}", Some("abc"), false),
            ("{version: abc, hosts: {}}", Some("abc"), false),
        ] {
            secret(folder.path(), &[(CONFIG, config), (SETTLED, settled.unwrap_or_default())]);
            if settled.is_none() {
                std::fs::remove_file(folder.path().join(SETTLED)).unwrap();
            }
            let Mounted::Given(given) = mounted(folder.path()) else { panic!("{config}") };
            assert_eq!(given.ends_with_its_secret, ends, "{config} {settled:?}");
            assert_eq!(given.is_settled_by(settled), ends, "{config} {settled:?}");
        }
    }

    #[test]
    fn a_copy_is_what_was_kept_and_nothing_shows_its_passwords() {
        let (mount, files) = (tempfile::TempDir::new().unwrap(), tempfile::TempDir::new().unwrap());
        let folder = files.path().join("below");
        assert_eq!(kept(&folder), Kept::Absent);
        for settled in ["abc", ""] {
            secret(mount.path(), &[(CONFIG, BARE), (SETTLED, settled)]);
            let Mounted::Given(given) = mounted(mount.path()) else { panic!() };
            keep(&folder, &given).unwrap();
            assert_eq!(kept(&folder), Kept::Given(given.clone()));
            assert!(!format!("{given:?}").contains("hush-hush"));
        }
        let path = folder.join(COPY);
        let text = std::fs::read_to_string(&path).unwrap();
        for wrong in
            [&text[..text.len() - 4], "", "{}", &text.replace("\"form\":1", "\"form\":2"), &text.replace("abc", "")]
        {
            std::fs::write(&path, wrong).unwrap();
            let Kept::Wrong(why) = kept(&folder) else { panic!("{wrong}") };
            assert!(!why.contains("hush"), "{why}");
        }
        forget(&folder).unwrap();
        forget(&folder).unwrap();
        assert_eq!(kept(&folder), Kept::Absent);
    }
}
