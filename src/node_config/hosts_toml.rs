//! Renders the wanted files: `hosts.toml` (containerd's docs/hosts.md) and CA files. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::settings::{ContainerdVersion, Mirror, NodeConfig};
use crate::config::Secret;

/// The file that containerd reads in a host's folder.
pub(super) const HOSTS_TOML: &str = "hosts.toml";
const OPEN_MODE: u32 = 0o644;
const SECRET_MODE: u32 = 0o600;

/// A file as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) content: Secret,
    pub(super) mode: u32,
}

/// All files, by their path below `registry.d`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rendering {
    pub(super) files: BTreeMap<String, Rendered>,
    /// SHA-256 over paths, permissions and contents.
    pub(super) version: String,
}

pub(super) fn render(wanted: &NodeConfig) -> Rendering {
    let mut files = BTreeMap::new();
    for (host, mirrors) in &wanted.hosts {
        let mut text = String::from(
            "# Written by d8-registry node-config from its configuration. A change made here is reported, not overwritten.\n",
        );
        // containerd 1 reads no table whose name holds a bracket, and then passes over the whole file; containerd 2 takes
        // the order of the mirrors from tables alone.
        let extensions = wanted.extensions == Some(true);
        let dotted = wanted.version == Some(ContainerdVersion::V1) && mirrors.iter().any(Mirror::is_ipv6);
        for mirror in mirrors {
            let written = if dotted { keys(mirror, extensions) } else { table(mirror, extensions) };
            text.push_str(&written);
            if let Some(ca) = &mirror.ca {
                let content = Secret::new(format!("{ca}\n"));
                files.insert(format!("{host}/{}", ca_file(mirror)), Rendered { content, mode: OPEN_MODE });
            }
        }
        let secret = mirrors.iter().any(|mirror| mirror.login.is_some());
        let mode = if secret { SECRET_MODE } else { OPEN_MODE };
        files.insert(format!("{host}/{HOSTS_TOML}"), Rendered { content: Secret::new(text), mode });
    }
    let version = version(&files);
    Rendering { files, version }
}

/// A mirror's table. containerd asks the mirrors in the order of their tables.
fn table(mirror: &Mirror, extensions: bool) -> String {
    let name = format!("host.{}", quoted(&format!("{}://{}", mirror.scheme, mirror.host)));
    let mut text = format!("\n[{name}]\n  capabilities = [\"pull\", \"resolve\"]\n");
    let mut line = |written: std::fmt::Arguments<'_>| {
        // Writing to a String does not fail.
        let _ = text.write_fmt(written);
    };
    if mirror.ca.is_some() {
        // containerd takes it from the folder of this file.
        line(format_args!("  ca = [{}]\n", quoted(&ca_file(mirror))));
    }
    if let Some(login) = &mirror.login {
        if extensions {
            line(format_args!("\n  [{name}.auth]\n    auth = {}\n", quoted(login.expose())));
        } else {
            let value = Secret::new(format!("Basic {}", login.expose()));
            line(format_args!("\n  [{name}.header]\n    Authorization = [{}]\n", quoted(value.expose())));
        }
    }
    for rewrite in &mirror.rewrites {
        let (from, to) = (quoted(&rewrite.from), quoted(&rewrite.to));
        line(format_args!("\n  [[{name}.rewrite]]\n    regex = {from}\n    replace = {to}\n"));
    }
    text
}

/// A mirror's settings as dotted keys, in the place of its table. containerd 1 asks the mirrors in the order of their first keys.
fn keys(mirror: &Mirror, extensions: bool) -> String {
    let name = format!("host.{}", quoted(&format!("{}://{}", mirror.scheme, mirror.host)));
    let mut text = format!("\n{name}.capabilities = [\"pull\", \"resolve\"]\n");
    let mut line = |written: std::fmt::Arguments<'_>| {
        // Writing to a String does not fail.
        let _ = text.write_fmt(written);
    };
    if mirror.ca.is_some() {
        line(format_args!("{name}.ca = [{}]\n", quoted(&ca_file(mirror))));
    }
    if let Some(login) = &mirror.login {
        if extensions {
            line(format_args!("{name}.auth.auth = {}\n", quoted(login.expose())));
        } else {
            let value = Secret::new(format!("Basic {}", login.expose()));
            line(format_args!("{name}.header.Authorization = [{}]\n", quoted(value.expose())));
        }
    }
    if !mirror.rewrites.is_empty() {
        let rewrites = mirror.rewrites.iter();
        let entries = rewrites
            .map(|rewrite| format!("{{regex = {}, replace = {}}}", quoted(&rewrite.from), quoted(&rewrite.to)))
            .collect::<Vec<_>>();
        line(format_args!("{name}.rewrite = [{}]\n", entries.join(", ")));
    }
    text
}

fn ca_file(mirror: &Mirror) -> String {
    format!("{}-{}-ca.crt", mirror.scheme, mirror.host)
}

/// A basic string of TOML 1.0.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

fn version(files: &BTreeMap<String, Rendered>) -> String {
    let mut hash = Sha256::new();
    for (path, file) in files {
        let content = file.content.expose();
        hash.update(format!("{path}\n{:o} {}\n", file.mode, content.len()));
        hash.update(content);
    }
    hexadecimal(&hash.finalize())
}

/// SHA-256 in hexadecimal.
pub(super) fn sha256(content: &[u8]) -> String {
    hexadecimal(&Sha256::digest(content))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
