//! `bundle inspect`.

use std::io::{self, Write as _};

use super::{BundleArguments, Failure, failure, open, show, verdict};
use crate::bundle::{Channel, Component, Inspection};

pub(super) fn run(arguments: &BundleArguments) -> Result<(), Failure> {
    let said = open(&arguments.paths)?.inspect().map_err(|error| failure(&error))?;
    let mut out = io::stdout().lock();
    if arguments.json {
        let text = serde_json::to_string_pretty(&said).map_err(|error| Failure::failed(&error))?;
        writeln!(out, "{text}")?;
    } else {
        print(&said, &mut out)?;
    }
    out.flush()?;
    verdict(said.damage)
}

fn print(said: &Inspection, out: &mut impl io::Write) -> io::Result<()> {
    let platform = &said.platform;
    if !platform.versions.is_empty() || !platform.channels.is_empty() {
        writeln!(out, "platform: {}", words(platform))?;
    }
    for (what, list) in [("installer", &said.installer), ("security", &said.security)] {
        if !list.is_empty() {
            writeln!(out, "{what}: {}", list.join(" "))?;
        }
    }
    for (what, components) in [("module", &said.modules), ("package", &said.packages), ("plugin", &said.plugins)] {
        for component in components {
            writeln!(out, "{what} {}: {}", component.name, words(component))?;
        }
    }
    for (path, tags) in &said.others {
        writeln!(out, "{path}: {tags} tags")?;
    }
    for archive in &said.archives {
        let (files, bytes, contents) = (archive.files, archive.bytes, archive.contents);
        let is_whole = if archive.whole { "" } else { ", not whole" };
        write!(out, "{}: {bytes} bytes in {files} files, {contents} contents{is_whole}", archive.name)?;
        if archive.sums > 0 {
            write!(out, ", {} GOST sums to be compared by verify", archive.sums)?;
        }
        if archive.unreached > 0 {
            write!(out, ", of which no tag reaches {} ({} bytes)", archive.unreached, archive.unreached_bytes)?;
        }
        writeln!(out)?;
    }
    show(&said.findings, said.more_findings, out)?;
    writeln!(
        out,
        "{} tags, {} images, {} contents of {} bytes; {} bytes of {} were read",
        said.tags, said.images, said.contents, said.content_bytes, said.read_bytes, said.bytes
    )
}

fn words(component: &Component) -> String {
    let mut words = component.versions.join(" ");
    if !component.channels.is_empty() {
        let channel = |channel: &Channel| {
            let version = channel.version.as_deref().unwrap_or("a release that its image does not say");
            format!("{} {version}", channel.channel)
        };
        let channels: Vec<String> = component.channels.iter().map(channel).collect();
        words += &format!(" ({})", channels.join(", "));
    }
    if !component.extra.is_empty() {
        words += &format!(", with {}", component.extra.join(" "));
    }
    words
}
