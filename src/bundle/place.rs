//! What the name of an entry says: which content of which layout it is. Pure. A name is looked at and never used as a path.

use super::archive::Name;
use super::finding::shown;

/// Longest path of a layout that is looked at, before it gets the name of a repository.
const MOST_PATH: usize = 512;
/// Hex digits of SHA-256, the only digests that bundles have.
const HEX: usize = 64;

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A content of a layout, `""` for the root.
    Blob(String, [u8; 32]),
    /// `index.json` of a layout.
    Index(String),
    /// `oci-layout` of a layout.
    Marker(String),
    /// Of no use, and there in bundles that are sound: a sentence without its end.
    Ignored(String),
    /// A name that can't be meant well: a sentence without its end.
    Hostile(String),
}

/// What the name of a file is.
pub(super) fn of_file(name: &Name) -> Place {
    let bytes = match name {
        Name::TooLong(bytes) => return Place::Hostile(format!("the name of an entry has {bytes} bytes")),
        Name::Bytes(bytes) => bytes,
    };
    let hostile = |why: &str| Place::Hostile(format!("the entry {} {why}", shown(bytes)));
    let Ok(text) = std::str::from_utf8(bytes) else { return hostile("has a name that is no text") };
    let text = text.strip_prefix("./").unwrap_or(text);
    if text.starts_with('/') {
        return hostile("has a name that begins at the root of a disk");
    }
    if text.chars().any(char::is_control) {
        return hostile("has a control character in its name");
    }
    let parts: Vec<&str> = text.split('/').collect();
    if parts.contains(&"..") {
        return hostile("has a name that leads upwards");
    }
    if parts.iter().any(|part| part.is_empty() || *part == ".") {
        return hostile("has a name that readers understand differently");
    }
    let (directory, last) = parts.split_at(parts.len() - 1);
    let (path, last) = (directory.join("/"), last[0]);
    if path.len() > MOST_PATH {
        return hostile("has a name that is too long");
    }
    let useless = |why: &str| Place::Ignored(format!("{} {why}", shown(bytes)));
    match last {
        "index.json" => Place::Index(path),
        "oci-layout" => Place::Marker(path),
        _ => match directory {
            [layout @ .., "blobs", "sha256"] => match sha256(last) {
                Some(digest) => Place::Blob(layout.join("/"), digest),
                None if is_left_over(last) => useless("is what a pull that was killed left behind"),
                None => useless("is no content of a layout"),
            },
            _ => useless("is nothing of a layout"),
        },
    }
}

/// The digest whose lower-case hex digits `text` is.
pub(super) fn sha256(text: &str) -> Option<[u8; 32]> {
    let digest = crate::oci::Digest::from_hex(crate::oci::Algorithm::Sha256, text).ok()?;
    digest.as_bytes().try_into().ok()
}

/// The temporary file of a content: its digest and a number.
fn is_left_over(name: &str) -> bool {
    name.split_at_checked(HEX).is_some_and(|(hex, rest)| {
        sha256(hex).is_some() && !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// How the paths of an archive become names of repositories: archives of old had less in their paths.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Legacy {
    /// As they are.
    None,
    /// Below that: what an archive of a module, or of security, has at its root.
    Below(String),
    /// Without that: the address of the source in front.
    Without(String),
}

impl Legacy {
    /// For an archive of this name with layouts at these paths.
    pub(super) fn of(archive: &str, paths: &[&str]) -> Self {
        let name = archive.strip_suffix(".tar").unwrap_or(archive);
        let prefix = match name.strip_prefix("module-") {
            Some(module) => Some(format!("modules/{module}")),
            None => name.starts_with("security").then(|| "security".to_owned()),
        };
        if let Some(prefix) = prefix {
            let is_below = |path: &str| {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| matches!(rest.bytes().next(), None | Some(b'/')))
            };
            return if paths.iter().any(|path| is_below(path)) { Self::None } else { Self::Below(prefix) };
        }
        // A host has a dot, which no path of a bundle has at its beginning.
        let of_source = paths.iter().find_map(|path| {
            let root = path.strip_suffix("/install")?;
            root.split('/').next().filter(|host| host.contains('.')).map(|_| root.to_owned())
        });
        match of_source {
            Some(root) if paths.iter().all(|path| path.starts_with(root.as_str())) => Self::Without(root),
            Some(_) | None => Self::None,
        }
    }

    /// The name of a repository.
    pub(super) fn path(&self, path: &str) -> String {
        match self {
            Self::None => path.to_owned(),
            Self::Below(prefix) if path.is_empty() => prefix.clone(),
            Self::Below(prefix) => format!("{prefix}/{path}"),
            Self::Without(root) => path.strip_prefix(root.as_str()).unwrap_or(path).trim_start_matches('/').to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_content_an_index_of_no_use_or_hostile() {
        let hex = "ab".repeat(32);
        let place = |name: &str| of_file(&Name::Bytes(name.as_bytes().to_vec()));
        assert_eq!(place(&format!("blobs/sha256/{hex}")), Place::Blob(String::new(), [0xab; 32]));
        assert_eq!(place(&format!("./modules/a/blobs/sha256/{hex}")), Place::Blob("modules/a".into(), [0xab; 32]));
        assert_eq!(place("install/index.json"), Place::Index("install".into()));
        assert_eq!(place("oci-layout"), Place::Marker(String::new()));
        for name in ["README", "blobs/sha256/ab", "blobs/sha512/ab", &format!("blobs/sha256/{hex}1234567890")] {
            assert!(matches!(place(name), Place::Ignored(_)), "{name}");
        }
        for name in ["../x", "a/../../index.json", "/etc/passwd", "a//index.json", "a/./index.json", "a\0b", "a\nb", ""]
        {
            assert!(matches!(place(name), Place::Hostile(_)), "{name:?}");
        }
        assert!(matches!(of_file(&Name::TooLong(1 << 40)), Place::Hostile(_)));
        assert!(matches!(of_file(&Name::Bytes(vec![0xff])), Place::Hostile(_)));
        let long = format!("{}/index.json", "a/".repeat(300).trim_end_matches('/'));
        assert!(matches!(place(&long), Place::Hostile(_)));
    }

    #[test]
    fn archives_of_old_go_where_they_belong() {
        let path = |archive: &str, paths: &[&str], path: &str| Legacy::of(archive, paths).path(path);
        assert_eq!(path("platform.tar", &["", "install"], "install"), "install");
        assert_eq!(path("module-a.tar", &["", "release"], "release"), "modules/a/release");
        assert_eq!(path("module-a.tar", &["", "release"], ""), "modules/a");
        assert_eq!(path("module-a.tar", &["modules/a", "modules/a/release"], "modules/a"), "modules/a");
        assert_eq!(path("module-a.tar", &["modules/ab"], "modules/ab"), "modules/a/modules/ab");
        assert_eq!(path("security.tar", &["trivy-db"], "trivy-db"), "security/trivy-db");
        assert_eq!(path("security.tar", &["security/trivy-db", "platform"], "platform"), "platform");
        let old = ["registry.deckhouse.io/deckhouse/ee", "registry.deckhouse.io/deckhouse/ee/install"];
        assert_eq!(path("d8.tar", &old, old[0]), "");
        assert_eq!(path("d8.tar", &old, old[1]), "install");
        assert_eq!(path("d8.tar", &["a/install"], "a/install"), "a/install");
    }
}
