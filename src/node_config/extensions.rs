//! Whether the node's containerd has Deckhouse's extensions of `hosts.toml`, `auth` and `rewrite`, and what is wanted of it then.
//!
//! Plain containerd passes over both without a word. A mirror that rewrites names would be asked for names that it has not,
//! so it is left out where they are not rewritten; in Direct the registry's own address stands behind it.
//!
//! containerd says nothing about its patches. But a Go program carries the tags by which it reads files: Deckhouse's
//! (`002-hosts-rewrite.patch`) has three that no other containerd has. k3s' has a `rewrite` too, of another form.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use memchr::memmem::Finder;

use super::preflight::link_below;
use super::settings::{Mirror, NodeConfig};
use super::{Finding, NodeConfigError, REGISTRY_D};

/// The tags of the structure that a rewrite is read into.
const TAGS: [&[u8]; 3] = [b"toml:\"rewrite\"", b"toml:\"regex\"", b"toml:\"replace\""];
/// The program that Deckhouse installs, below the root. Where it is, no other containerd runs.
const DECKHOUSES: &str = "opt/deckhouse/bin/containerd";
/// The programs of others.
const OTHERS: [&str; 2] = ["usr/local/bin/containerd", "usr/bin/containerd"];
/// Bytes that are looked through at once.
const WINDOW: usize = 1 << 20;

/// What a node's containerd can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Containerd {
    /// There is one, at this path below the root.
    Found { program: &'static str, extensions: bool },
    /// There is none where one is expected, or behind a symbolic link that is not followed.
    Unknown,
}

/// The wanted settings as this node's containerd can follow them.
#[derive(Debug)]
pub(super) struct Fitted {
    /// Without the mirrors that are left out; `extensions` is known.
    pub(super) wanted: NodeConfig,
    /// What was left out, a line each.
    pub(super) notes: Vec<String>,
    /// Hosts that no mirror is left of.
    pub(super) obstacles: Vec<Finding>,
}

impl Containerd {
    /// Looks at the node's. Reads the whole program, some 50 MB. Blocking.
    pub(super) fn look(root: &Path) -> Result<Self, NodeConfigError> {
        if let Some(extensions) = extensions_of(root, DECKHOUSES)? {
            return Ok(Self::Found { program: DECKHOUSES, extensions });
        }
        // Which of several runs is not known: what all can, the one that runs can.
        let mut found = Self::Unknown;
        for program in OTHERS {
            match extensions_of(root, program)? {
                Some(false) => return Ok(Self::Found { program, extensions: false }),
                Some(true) => found = Self::Found { program, extensions: true },
                None => {}
            }
        }
        Ok(found)
    }

    /// In a sentence: why it counts as plain.
    fn lack(&self) -> String {
        match self {
            Self::Found { program, .. } => format!("{program} has none of Deckhouse's extensions"),
            Self::Unknown => {
                format!("there is no containerd at {DECKHOUSES}, {} that would show whether it has", OTHERS.join(", "))
            }
        }
    }
}

/// `None` if there is no such program.
fn extensions_of(root: &Path, program: &str) -> Result<Option<bool>, NodeConfigError> {
    if link_below(root, Path::new(program)).is_some() {
        return Ok(None);
    }
    let path = root.join(program);
    let read = File::open(&path).and_then(has_tags);
    match read {
        Ok(has) => Ok(Some(has)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(source) => Err(NodeConfigError::Read { path, source }),
    }
}

/// Whether all tags stand in the file.
fn has_tags(mut file: impl io::Read) -> io::Result<bool> {
    let overlap = TAGS.iter().map(|tag| tag.len()).max().unwrap_or_default();
    let mut missing: Vec<Finder<'_>> = TAGS.iter().map(Finder::new).collect();
    let mut window = Vec::with_capacity(WINDOW + overlap);
    loop {
        let read = file.by_ref().take(WINDOW as u64).read_to_end(&mut window)?;
        missing.retain(|tag| tag.find(&window).is_none());
        if missing.is_empty() {
            return Ok(true);
        }
        if read == 0 {
            return Ok(false);
        }
        // A tag may lie across two windows.
        window.drain(..window.len().saturating_sub(overlap));
    }
}

/// What of `wanted` can be had on the node at `root`. Where the settings don't say whether containerd has the extensions, it is
/// looked at. Blocking.
pub(super) fn fit(root: &Path, wanted: &NodeConfig) -> Result<Fitted, NodeConfigError> {
    let (extensions, why) = match wanted.extensions {
        Some(extensions) => (extensions, "containerd.extensions is false".to_owned()),
        None => {
            let containerd = Containerd::look(root)?;
            (matches!(containerd, Containerd::Found { extensions: true, .. }), containerd.lack())
        }
    };
    let mut fitted = NodeConfig { extensions: Some(extensions), ..wanted.clone() };
    let (mut notes, mut obstacles) = (Vec::new(), Vec::new());
    if !extensions {
        for (host, mirrors) in &mut fitted.hosts {
            let is_left_out = |mirror: &Mirror| !mirror.rewrites.is_empty();
            for Mirror { scheme, host: name, .. } in mirrors.iter().filter(|mirror| is_left_out(mirror)) {
                notes.push(format!(
                    "{REGISTRY_D}/{host}: the mirror {scheme}://{name} rewrites names and is left out: {why}"
                ));
            }
            mirrors.retain(|mirror| !is_left_out(mirror));
            if mirrors.is_empty() {
                obstacles.push(Finding {
                    file: format!("{REGISTRY_D}/{host}/hosts.toml"),
                    line: None,
                    text: format!(
                        "no mirror is left, as all rewrite names ({why}): either containerd is Deckhouse's (containerd: \
                         {{extensions: true}}), or one has to be d8-registry, which maps the path"
                    ),
                });
            }
        }
    }
    Ok(Fitted { wanted: fitted, notes, obstacles })
}

/// Settings that count on extensions which the node's containerd has not. Blocking.
pub(super) fn contradiction(root: &Path, wanted: &NodeConfig) -> Result<Option<Finding>, NodeConfigError> {
    if wanted.extensions != Some(true) {
        return Ok(None);
    }
    Ok(match Containerd::look(root)? {
        Containerd::Found { program, extensions: false } => Some(Finding {
            file: program.to_owned(),
            line: None,
            text: "has none of Deckhouse's extensions and would pass over logins and rewrites without a word, but \
                   containerd.extensions is true"
                .to_owned(),
        }),
        Containerd::Found { extensions: true, .. } | Containerd::Unknown => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of `before` bytes and then the tags.
    fn program(before: usize, tags: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![b't'; before];
        for tag in tags {
            bytes.extend_from_slice(tag);
            bytes.push(0);
        }
        bytes
    }

    #[test]
    fn tags_are_found_wherever_they_lie_and_all_of_them_are_needed() {
        for before in [0, 1, WINDOW - 20, WINDOW - 7, WINDOW - 1, WINDOW, 3 * WINDOW - 5] {
            assert!(has_tags(&program(before, &TAGS)[..]).unwrap(), "{before}");
        }
        for missing in 0..TAGS.len() {
            let tags: Vec<&[u8]> =
                TAGS.into_iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, tag)| tag).collect();
            assert!(!has_tags(&program(100, &tags)[..]).unwrap());
        }
        assert!(!has_tags(&b""[..]).unwrap());
    }

    #[test]
    fn deckhouses_program_decides_and_of_others_all_have_to_have_it() {
        let root = tempfile::TempDir::new().unwrap();
        let put = |path: &str, tags: &[&[u8]]| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, program(10, tags)).unwrap();
        };
        let look = || Containerd::look(root.path()).unwrap();
        assert_eq!(look(), Containerd::Unknown);
        put(OTHERS[1], &TAGS);
        assert_eq!(look(), Containerd::Found { program: OTHERS[1], extensions: true });
        put(OTHERS[0], &[]);
        assert_eq!(look(), Containerd::Found { program: OTHERS[0], extensions: false });
        put(DECKHOUSES, &TAGS);
        assert_eq!(look(), Containerd::Found { program: DECKHOUSES, extensions: true });
        // A link leads to a file of whoever calls, not of the node.
        std::fs::remove_file(root.path().join(DECKHOUSES)).unwrap();
        std::os::unix::fs::symlink(root.path().join(OTHERS[1]), root.path().join(DECKHOUSES)).unwrap();
        assert_eq!(look(), Containerd::Found { program: OTHERS[0], extensions: false });
    }
}
