//! Whether the files of what collection knows can be read: for verification. Blocking.

use std::path::PathBuf;
use std::str::FromStr as _;

use super::ledger::Ledger;
use super::suspects::List;
use crate::oci::RepoName;
use crate::store::layout::Layout;

impl Ledger {
    /// The files of which something can't be understood, looked at while nothing writes them.
    pub(in crate::store) fn unreadable(&self) -> Vec<PathBuf> {
        self.while_nothing_is_written(|layout: &Layout| {
            let lines = |path: &PathBuf| std::fs::read(path).unwrap_or_default();
            let is_whole = |text: &[u8]| text.is_empty() || text.ends_with(b"\n");
            let is_list = |path: PathBuf| {
                let text = lines(&path);
                let mut each = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                let can_be_read = is_whole(&text) && each.all(List::is_line);
                (path, can_be_read)
            };
            let (suspects, given_up) = (is_list(layout.suspects()), is_list(layout.given_up()));
            let dirty = lines(&layout.dirty());
            let names = std::str::from_utf8(&dirty);
            let dirty = names.is_ok_and(|names| {
                is_whole(names.as_bytes()) && names.lines().all(|name| RepoName::from_str(name).is_ok())
            });
            let time = std::fs::read_to_string(layout.running_time());
            let time = time.map_or_else(
                |error| error.kind() == std::io::ErrorKind::NotFound,
                |text| text.trim().parse::<u64>().is_ok(),
            );
            let files = [suspects, given_up, (layout.dirty(), dirty), (layout.running_time(), time)];
            files.into_iter().filter(|(_, can_be_read)| !can_be_read).map(|(path, _)| path).collect()
        })
    }
}
